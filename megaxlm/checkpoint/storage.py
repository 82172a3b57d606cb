"""What a file system can do to a run: which failures pass by themselves, and waiting for them.

A lost connection, a stale handle or a server that restarts gives errors for a while and then
works again; a full disk or missing rights do not mend themselves. The first kind is tried again,
the second is said at once.
"""

from __future__ import annotations

import errno
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from megaxlm.errors import EXIT_FOUND_WRONG, CorruptDataError, UserError

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

# NFS, Lustre, GPFS and FUSE mounts give these while their server or network is away. ENOTEMPTY
# and EBUSY are what removing a folder gives on NFS while another node still holds a file of it.
TRANSIENT_ERRNOS = frozenset(
    {
        errno.EIO,
        errno.ESTALE,
        errno.ENOTCONN,
        errno.ETIMEDOUT,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.ENETDOWN,
        errno.ENETUNREACH,
        errno.ENETRESET,
        errno.ECONNRESET,
        errno.ECONNABORTED,
        errno.ECONNREFUSED,
        errno.ESHUTDOWN,
        errno.ENODEV,
        errno.ENXIO,
        errno.EREMOTEIO,
        errno.ENOLINK,
        errno.ECOMM,
        errno.EPROTO,
        errno.EAGAIN,
        errno.EINTR,
        errno.EBUSY,
        errno.ENOTEMPTY,
    }
)
# A folder that was there and is not: its file system is not mounted now, or somebody removed it.
VANISHED_ERRNOS = frozenset({errno.ENOENT, errno.ENOTDIR})
RETRY_SECONDS = 120.0  # as checkpoint.retry_seconds of the config
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.5, 10.0


class StorageError(UserError):
    """The file system did not do what it was asked; nothing is wrong with the data or the code.

    Args:
        message: One line: what, where and what to do.
        transient: Whether it may pass by itself.
        said_here: Whether this is the rank to say it, of those that raise it together.
    """

    def __init__(self, message: str, transient: bool = False, said_here: bool = True) -> None:
        super().__init__(message, exit_code=EXIT_FOUND_WRONG)
        self.transient = transient
        self.said_here = said_here


def is_transient(error: BaseException, vanished: bool = False) -> bool:
    """Returns whether an error may pass by itself.

    Args:
        error: What was raised.
        vanished: Whether a missing file or folder counts, because it was there before.
    """
    if isinstance(error, StorageError):
        return error.transient
    if not isinstance(error, OSError):
        return False
    return error.errno in TRANSIENT_ERRNOS or (vanished and error.errno in VANISHED_ERRNOS)


def unreadable(path: Path, error: OSError) -> UserError:
    """Returns what to raise for a file of a checkpoint that cannot be read: lost, or damaged.

    A file that is missing from a folder that is there is damage; a folder that was there and is
    gone is a file system that is away.
    """
    reason = error.strerror or str(error)
    gone = error.errno in VANISHED_ERRNOS and not _is_there(path.parent)
    if gone or is_transient(error):
        return StorageError(f"{path}: cannot be read: {reason}; mend its file system", True)
    if error.errno == errno.ENOENT:
        reason = "missing"
    return CorruptDataError(f"{path}: {reason}; use another checkpoint")


def _is_there(folder: Path) -> bool:
    try:
        os.stat(folder)
    except OSError:
        return False
    return True


def pauses(wait: Callable[[float], object] | None = None) -> Callable[[float], None]:
    """Returns a function that sleeps longer each time, but never past the seconds it is given.

    Args:
        wait: Sleeps for so many seconds, or until it is woken; None: always so many.
    """
    pause = FIRST_PAUSE_SECONDS

    def sleep(at_most: float) -> None:
        nonlocal pause
        (wait or time.sleep)(max(0.0, min(pause, at_most)))
        pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    return sleep


class Patience:
    """Calls again what fails in a way that may pass, for so many seconds over all calls.

    Args:
        seconds: From the first failure on; 0: nothing is tried again.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._deadline: float | None = None

    @property
    def left(self) -> float:
        """Seconds that waiting may still take."""
        if self._deadline is None:
            return self.seconds
        return max(0.0, self._deadline - time.monotonic())

    def __call__(self, action: Callable[[], Result]) -> Result:
        """Returns what `action` returns in the end; it may be called many times.

        Raises:
            OSError: That of the last call; `StorageError` likewise, and any other at once.
        """
        sleep = pauses()
        while True:
            try:
                return action()
            except (OSError, StorageError) as error:
                if not is_transient(error) or self.left <= 0:
                    raise
                if self._deadline is None:
                    self._deadline = time.monotonic() + self.seconds
                    logger.warning("%s; trying again for %g s", error, self.seconds)
                sleep(self.left)
