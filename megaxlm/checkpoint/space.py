"""How much room a checkpoint needs, and whether it is there."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from megaxlm.checkpoint.fragments import Fragment
from megaxlm.checkpoint.storage import StorageError

FREE_SPACE_FACTOR = 1.2  # of the estimated bytes: room for manifest, metrics and block rounding
_SIDE_STATE_BYTES = 64 << 10  # estimate of one rank's JSON state and its lines in the manifest


def required_bytes(
    fragment_bytes: int, world_size: int = 1, factor: float = FREE_SPACE_FACTOR
) -> int:
    """Returns the free bytes that one checkpoint asks for.

    Args:
        fragment_bytes: Of the fragments of all ranks.
        world_size: Ranks that save.
        factor: Times the estimate.
    """
    return int((fragment_bytes + world_size * _SIDE_STATE_BYTES) * factor)


def require_free_space(folder: Path, needed: int) -> None:
    """Checks that a file system has `needed` bytes for this user; quotas are not seen.

    Args:
        folder: On that file system; if it is not there yet, the nearest folder above it counts.
        needed: Bytes.

    Raises:
        StorageError: It has not, or keeps no data at all.
    """
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    usage = shutil.disk_usage(folder)
    free = usage.free
    if not free and not usage.total:
        raise StorageError(
            f"{folder}: no file system that keeps data (0 bytes in all, as in /proc and /sys), so "
            "no checkpoint can be kept there; choose another run_dir"
        )
    if free < needed:
        raise StorageError(
            f"{folder}: a checkpoint needs {needed / 2**20:,.1f} MiB, only "
            f"{free / 2**20:,.1f} MiB are free; make room or lower checkpoint.keep_last"
        )


def check_space_before_training(
    run_dir: Path,
    fragments: Iterable[Fragment],
    world_size: int = 1,
    total: Callable[[int], int] = lambda own: own,
    factor: float = FREE_SPACE_FACTOR,
) -> None:
    """Checks that the file system of the run has room for a checkpoint; every rank calls it.

    Call it before the first step of a start or a resume: a run that finds out at its first
    checkpoint has lost the hours before it.

    Args:
        run_dir: The run folder; it need not exist yet.
        fragments: What this rank would save.
        world_size: Ranks that save together.
        total: Sums a number over the ranks.
        factor: Times the bytes of a checkpoint.

    Raises:
        StorageError: There is too little room. As ranks may see the file system differently,
            call it inside `reduce.together()`.
    """
    size = total(sum(fragment.num_bytes for fragment in fragments))
    require_free_space(run_dir.absolute(), required_bytes(size, world_size, factor))
