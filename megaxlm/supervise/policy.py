"""What is done when a launch command has ended: nothing, or start it again, and when."""

from __future__ import annotations

import signal
from collections import deque
from dataclasses import dataclass

from megaxlm.errors import EXIT_BAD_USAGE, EXIT_DONE, EXIT_FOUND_WRONG, EXIT_RESUMABLE

CYCLES_WITHOUT_PROGRESS = 3
GAVE_UP = EXIT_FOUND_WRONG
_REQUESTS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP)
# How a launch command ends that was itself asked to stop and does not handle that; through a
# shell, 128 and the signal's number.
_ENDED_ON_REQUEST = frozenset({-number for number in _REQUESTS} | {128 + n for n in _REQUESTS})


@dataclass(frozen=True)
class Limits:
    """How often and how fast a command is started again; seconds where it is a time."""

    max_restarts: int = 10  # within the window
    window: float = 3600.0
    backoff: float = 5.0  # before a restart; doubled with each cycle without progress
    grace: float = 600.0  # for ranks that were asked to stop: longer than a checkpoint takes
    stall: float | None = None  # without a change in the run folder; None: not looked at


@dataclass(frozen=True)
class Outcome:
    """How one start of the command has ended."""

    code: int  # exit code, or minus the signal
    completed: bool = False  # the run wrote its completion marker
    stopped: bool = False  # the ranks agreed to stop on a signal, and have saved
    saved: bool = True  # the ranks have saved before they ended, or had nothing to lose
    asked: bool = False  # the supervisor was asked to stop
    stalled: bool = False  # ended by the supervisor because nothing moved
    cleared: bool = True  # no process of the launch is left


def exit_code(outcome: Outcome) -> int | None:
    """Returns the code to end with; None if the command crashed and is to be started again.

    The run's own markers count more than the launcher's code: DeepSpeed's launcher ends with 0
    when a part of it is killed, torchrun with 1 for whatever a rank returns. A stop that the ranks
    agreed on is final, whoever asked for it. But ranks that save because their launcher has crashed
    were asked by nobody; their marker says so, and they are not `stopped`. 75 promises that no step
    is lost.
    """
    if outcome.completed:
        return EXIT_DONE
    if not outcome.cleared:  # what is left may hold the run's lock, its devices and its ports
        return GAVE_UP
    if outcome.code == EXIT_BAD_USAGE:  # it would say the same again
        return EXIT_BAD_USAGE
    if _is_stop(outcome):
        return EXIT_RESUMABLE if outcome.saved else EXIT_FOUND_WRONG
    return None


def is_unsaved_stop(outcome: Outcome) -> bool:
    """Returns whether the run was stopped on request and has lost its last steps."""
    return _is_stop(outcome) and not outcome.saved and not outcome.completed


def _is_stop(outcome: Outcome) -> bool:
    if outcome.asked:
        return True
    if outcome.stalled:  # so its signals came from the supervisor
        return False
    on_request = outcome.code == EXIT_RESUMABLE or outcome.code in _ENDED_ON_REQUEST
    return on_request or outcome.stopped


class RestartPolicy:
    """Counts crashes; says when to start again and when to give up.

    Two counts limit it: cycles in a row that bring no new checkpoint, and restarts within a
    sliding window. A run that gets on may crash for weeks, one that crashes every few minutes ends.
    """

    def __init__(self, limits: Limits, checkpoint_step: int) -> None:
        """Touches nothing.

        Args:
            limits: How often and how fast.
            checkpoint_step: Step of the newest complete checkpoint, 0 if there is none.
        """
        self._limits = limits
        self._highest = checkpoint_step
        self._idle = 0  # cycles since the last progress
        self._restarts: deque[float] = deque()

    def after_crash(self, checkpoint_step: int, now: float) -> tuple[float, str | None]:
        """Notes a crash.

        Args:
            checkpoint_step: Step of the newest complete checkpoint now. Only one beyond all that
                there ever was is progress: after a fall back, an older one may be the newest.
            now: Seconds on a clock that only goes forward.

        Returns:
            Seconds to wait before the next start, and why there must be none, or None.
        """
        self._idle = 0 if checkpoint_step > self._highest else self._idle + 1
        self._highest = max(self._highest, checkpoint_step)
        while self._restarts and now - self._restarts[0] >= self._limits.window:
            self._restarts.popleft()
        delay = self._limits.backoff * 2**self._idle
        if self._idle >= CYCLES_WITHOUT_PROGRESS:
            return delay, f"{self._idle} starts in a row brought no new checkpoint"
        if len(self._restarts) >= self._limits.max_restarts:
            return delay, (
                f"{len(self._restarts)} restarts in {self._limits.window:g} s are as many as "
                "--max-restarts allows"
            )
        self._restarts.append(now)
        return delay, None
