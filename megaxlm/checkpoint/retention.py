"""Which checkpoint a run goes on from, and which ones stay.

Resume takes the newest checkpoint that is whole and never restarts in silence; retention keeps
the newest ones and the milestones.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from megaxlm.checkpoint.catalog import (
    CheckpointFolder,
    delete_checkpoint,
    list_checkpoints,
    recorded_step,
)
from megaxlm.checkpoint.manifest import CHECKPOINTS_DIR
from megaxlm.checkpoint.reader import CheckpointReader
from megaxlm.checkpoint.storage import RETRY_SECONDS, Patience, StorageError
from megaxlm.errors import CorruptDataError, UserError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Resume:
    """The checkpoint to go on from."""

    path: Path
    notice: str | None  # one line on newer checkpoints that were passed over


def select_resume(
    run_dir: Path,
    rank: int = 0,
    world_size: int = 1,
    all_ok: Callable[[bool], bool] = lambda ok: ok,
    retry_seconds: float = RETRY_SECONDS,
) -> Resume | None:
    """Returns the newest checkpoint whose every file verifies; None for a run not begun.

    The ranks share the hashing and agree on each verdict, so they all return the same.

    Args:
        run_dir: The run folder, on a file system that all ranks share.
        rank: This rank.
        world_size: Ranks that call this together.
        all_ok: Returns on every rank whether every rank passed True.
        retry_seconds: How long, in all, each rank waits for a file system that is away. A
            checkpoint that stays unreadable after that is passed over like a damaged one.

    Raises:
        CorruptDataError: There are checkpoints and none of them is whole, or there were some.
        UserError: Only some ranks see the checkpoints, or some rank cannot read the folder.
    """
    patience = Patience(retry_seconds)
    failure: OSError | UserError | None = None
    folders: list[CheckpointFolder] = []
    saved: int | None = None
    try:
        folders = patience(lambda: list_checkpoints(run_dir))
        saved = patience(lambda: recorded_step(run_dir))
    except (OSError, UserError) as error:  # agreed on: the other ranks are to compare notes
        failure = error
    if not all_ok(failure is None):
        if isinstance(failure, UserError):
            raise failure
        reason = (failure.strerror or str(failure)) if failure else "another rank cannot read it"
        raise StorageError(
            f"{run_dir / CHECKPOINTS_DIR}: cannot be read: {reason}; mend its file system",
            said_here=failure is not None,
        ) from failure
    found_everywhere, found_nowhere = all_ok(bool(folders)), all_ok(not folders)
    if found_nowhere:
        if not all_ok(saved is None):
            raise CorruptDataError(
                f"{run_dir / CHECKPOINTS_DIR}: the checkpoint of step {saved} was finished here "
                "and is gone; restore it from a copy, or give another run_dir to start afresh"
            )
        return None
    if not found_everywhere:
        raise UserError(
            f"{run_dir / CHECKPOINTS_DIR}: only some ranks see checkpoints here; "
            "run_dir must lie on a file system that all nodes share"
        )
    problems: list[str] = []
    if saved is not None and folders[-1].step < saved:
        problems.append(f"the checkpoint of step {saved} was finished and is gone")
    for folder in reversed(folders):
        problem: str | None = None
        try:
            reader = CheckpointReader(folder.path, verify=False, retry_seconds=patience.left)
            reader.verify_files(rank, world_size)
        except UserError as error:
            problem = str(error)
        if all_ok(problem is None):
            return Resume(folder.path, _notice(folder.path, problems))
        problems.append(problem or f"{folder.path}: damaged, as another rank found")
    raise CorruptDataError(
        f"{run_dir / CHECKPOINTS_DIR}: none of {len(folders)} checkpoints is whole "
        f"({problems[0]}); restore one from a copy, or give another run_dir to start afresh"
    )


def _notice(path: Path, problems: list[str]) -> str | None:
    if not problems:
        return None
    return f"{path} is the newest whole checkpoint; passed over: " + " | ".join(problems)


def apply_retention(
    run_dir: Path,
    keep_last: int,
    keep_every_steps: int | None = None,
    saved_step: int | None = None,
) -> list[Path]:
    """Removes old checkpoints after one was saved; one rank calls it.

    Later steps than the saved one stem from before a fallback to an older checkpoint: they were
    refused once, so they neither count among the newest nor are touched. Incomplete folders are
    left for a person to look at.

    Args:
        run_dir: The run folder.
        keep_last: How many of the newest stay, the saved one among them.
        keep_every_steps: Checkpoints at multiples of this stay for ever.
        saved_step: The step just saved; None: the newest complete one.

    Returns:
        What was removed. A folder that cannot be removed is logged and stays.

    Raises:
        ValueError: `keep_last` is below 1.
    """
    if keep_last < 1:
        raise ValueError(f"keep_last is {keep_last}: at least one checkpoint must stay")
    complete = [folder for folder in list_checkpoints(run_dir) if folder.complete]
    if saved_step is not None:
        complete = [folder for folder in complete if folder.step <= saved_step]
        if not complete or complete[-1].step != saved_step:
            return []  # what the others would make room for is not there
    removed = []
    for folder in complete[:-keep_last]:
        milestone = keep_every_steps is not None and folder.step % keep_every_steps == 0
        if milestone or folder.path.is_symlink():
            continue
        try:
            delete_checkpoint(folder.path)
        except OSError as error:
            logger.warning("%s: old checkpoint could not be removed: %s", folder.path, error)
            continue
        removed.append(folder.path)
    return removed
