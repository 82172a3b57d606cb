"""Which checkpoints a run folder holds, told from their markers; reading changes nothing."""

from __future__ import annotations

import json
import logging
import os
import shutil
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

from megaxlm.checkpoint.manifest import (
    CHECKPOINTS_DIR,
    DELETING,
    MARKER_NAME,
    RECORD_NAME,
    REPLACED,
    STAGING,
    STEP_FOLDER,
    check_complete,
    step_name,
)
from megaxlm.checkpoint.storage import RETRY_SECONDS, Patience, StorageError, is_transient
from megaxlm.data.shards import write_atomically
from megaxlm.errors import UserError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CheckpointFolder:
    """One step folder and whether its marker says that it was finished.

    That is looked up when it is asked for: a run may hold hundreds of milestones, and a thousand
    ranks that look for the newest checkpoint must not read them all.
    """

    path: Path
    step: int

    @cached_property
    def problem(self) -> str | None:
        """Why it does not count, in one line; None: it is complete.

        Raises:
            StorageError: The file system is away; asked again, it looks again.
        """
        try:
            check_complete(self.path)
        except StorageError:
            raise
        except UserError as error:
            return str(error)
        return None

    @property
    def complete(self) -> bool:
        """Whether the folder counts as a checkpoint (its files are not hashed for this)."""
        return self.problem is None


def list_checkpoints(run_dir: Path) -> list[CheckpointFolder]:
    """Returns the step folders of a run in order of their steps, incomplete ones too.

    Folders in the making or on their way out are left out. A replaced one counts while its
    successor does not have its name: a kill came between two renames.

    Raises:
        StorageError: The checkpoints folder cannot be listed.
    """
    parent = run_dir / CHECKPOINTS_DIR
    found: dict[int, Path] = {}
    for path, step, suffix in _step_folders(parent):
        if suffix == "" or (suffix == REPLACED and not (parent / step_name(step)).exists()):
            found[step] = path
    return [CheckpointFolder(path, step) for step, path in sorted(found.items())]


def find_latest(run_dir: Path) -> Path | None:
    """Returns the newest complete checkpoint, or None; newer incomplete ones are logged.

    Raises:
        StorageError: The folder cannot be read, or its file system was away for two minutes.
    """
    patience = Patience(RETRY_SECONDS)
    for folder in reversed(patience(lambda: list_checkpoints(run_dir))):
        if patience(partial(getattr, folder, "complete")):
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
    """Returns the step of the checkpoint finished last, or None if there never was one.

    Raises:
        OSError: The file is there and cannot be read.
    """
    try:
        step = json.loads((run_dir / CHECKPOINTS_DIR / RECORD_NAME).read_bytes())["step"]
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, KeyError, TypeError, RecursionError):  # altered by hand: no record
        return None
    return step if type(step) is int else None


def remove_leftovers(parent: Path) -> None:
    """Clears what a kill left in the checkpoints folder; only the writing rank may call it.

    Raises:
        OSError: A folder cannot be removed.
    """
    for temporary in parent.glob(f".{RECORD_NAME}.*.tmp"):
        temporary.unlink()
    for path, step, suffix in _step_folders(parent):
        if suffix in (STAGING, DELETING):
            remove_folder(path)
        elif suffix == REPLACED and (parent / step_name(step)).exists():
            remove_folder(path)
        elif suffix == REPLACED:
            os.rename(path, parent / step_name(step))


def delete_checkpoint(path: Path) -> None:
    """Deletes a checkpoint; renamed first, so a kill never leaves half of one under its name.

    Raises:
        OSError: The folder cannot be renamed or removed.
    """
    doomed = path.with_name(path.name + DELETING)
    if doomed.exists():
        remove_folder(doomed)
    os.rename(path, doomed)
    remove_folder(doomed)


def remove_folder(path: Path) -> None:
    """Removes a step folder, its marker first: a kill leaves no marker beside half of the files.

    Raises:
        OSError: It cannot be removed.
    """
    if path.is_symlink():
        path.unlink()  # the link, never what it leads to
        return
    (path / MARKER_NAME).unlink(missing_ok=True)
    shutil.rmtree(path)


def _step_folders(parent: Path) -> list[tuple[Path, int, str]]:
    """Returns folder, step and suffix of all folders whose names are exactly ours."""
    try:
        entries = sorted(parent.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        reason = error.strerror or str(error)
        raise StorageError(
            f"{parent}: cannot be listed: {reason}; mend its rights or its file system",
            is_transient(error),
        ) from error
    folders = []
    for path in entries:
        match = STEP_FOLDER.fullmatch(path.name)
        if match and path.is_dir():
            step, suffix = int(match[1]), match[2] or ""
            if path.name == step_name(step) + suffix:  # no two names for one step
                folders.append((path, step, suffix))
    return folders
