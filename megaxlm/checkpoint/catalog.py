"""Which checkpoints a run folder holds, told from their markers; reading changes nothing."""

from __future__ import annotations

import json
import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from megaxlm.checkpoint.manifest import (
    CHECKPOINTS_DIR,
    DELETING,
    RECORD_NAME,
    REPLACED,
    STAGING,
    STEP_FOLDER,
    check_complete,
    step_name,
)
from megaxlm.data.shards import write_atomically
from megaxlm.errors import UserError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CheckpointFolder:
    """One step folder and whether its marker says that it was finished."""

    path: Path
    step: int
    problem: str | None  # one line; None: complete

    @property
    def complete(self) -> bool:
        """Whether the folder counts as a checkpoint (its files are not hashed for this)."""
        return self.problem is None


def list_checkpoints(run_dir: Path) -> list[CheckpointFolder]:
    """Returns the step folders of a run in order of their steps, incomplete ones too.

    Folders in the making or on their way out are left out. A replaced one counts while its
    successor does not have its name: a kill came between two renames.

    Raises:
        UserError: The checkpoints folder cannot be listed.
    """
    parent = run_dir / CHECKPOINTS_DIR
    found: dict[int, Path] = {}
    for path, step, suffix in _step_folders(parent):
        if suffix == "" or (suffix == REPLACED and not (parent / step_name(step)).exists()):
            found[step] = path
    return [CheckpointFolder(path, step, _problem(path)) for step, path in sorted(found.items())]


def find_latest(run_dir: Path) -> Path | None:
    """Returns the newest complete checkpoint, or None; newer incomplete ones are logged."""
    for folder in reversed(list_checkpoints(run_dir)):
        if folder.complete:
            return folder.path
        logger.warning("ignored an incomplete checkpoint: %s", folder.problem)
    return None


def record_saved(parent: Path, step: int) -> None:
    """Notes beside the checkpoints that one of `step` was finished.

    A disk that is full now does not make the finished checkpoint worse, so that is only logged.
    """
    try:
        write_atomically(parent / RECORD_NAME, json.dumps({"step": step}).encode() + b"\n")
    except OSError as error:
        logger.warning("%s: could not be written: %s", parent / RECORD_NAME, error)


def recorded_step(run_dir: Path) -> int | None:
    """Returns the step of the checkpoint finished last, or None if there never was one."""
    try:
        step = json.loads((run_dir / CHECKPOINTS_DIR / RECORD_NAME).read_bytes())["step"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return step if isinstance(step, int) else None


def remove_leftovers(parent: Path) -> None:
    """Clears what a kill left in the checkpoints folder; only the writing rank may call it.

    Raises:
        OSError: A folder cannot be removed.
    """
    for temporary in parent.glob(f".{RECORD_NAME}.*.tmp"):
        temporary.unlink()
    for path, step, suffix in _step_folders(parent):
        if suffix in (STAGING, DELETING):
            shutil.rmtree(path)
        elif suffix == REPLACED and (parent / step_name(step)).exists():
            shutil.rmtree(path)
        elif suffix == REPLACED:
            os.rename(path, parent / step_name(step))


def delete_checkpoint(path: Path) -> None:
    """Deletes a checkpoint; renamed first, so a kill never leaves half of one under its name.

    Raises:
        OSError: The folder cannot be renamed or removed.
    """
    doomed = path.with_name(path.name + DELETING)
    if doomed.exists():
        shutil.rmtree(doomed)
    os.rename(path, doomed)
    shutil.rmtree(doomed)


def _step_folders(parent: Path) -> list[tuple[Path, int, str]]:
    if not parent.is_dir():
        return []
    folders = []
    try:
        entries = sorted(parent.iterdir())
    except OSError as error:
        raise UserError(f"{parent}: cannot be listed: {error.strerror}; mend its rights") from None
    for path in entries:
        match = STEP_FOLDER.fullmatch(path.name)
        if match and path.is_dir():
            folders.append((path, int(match[1]), match[2] or ""))
    return folders


def _problem(path: Path) -> str | None:
    try:
        check_complete(path)
    except UserError as error:
        return str(error)
    return None
