"""What asks a process to stop: a signal that somebody sent, or the end of its launcher.

Both are noted from the first moment on, before slow imports, and heeded where all ranks stand at
the same point. A rank that died of a signal by default while it loads would be taken for a crash.

Why it is asked matters to `megaxlm supervise`: a run that somebody stopped stays stopped, one whose
launcher was killed (out of memory, for one) is started again.
"""

from __future__ import annotations

import signal
from types import FrameType
from typing import Literal

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)

StopCause = Literal["signal", "launcher"]


class StopRequest:
    """The first request that this process has heard; it cannot be taken back."""

    def __init__(self) -> None:
        self.cause: StopCause | None = None
        self._interrupted = False

    @classmethod
    def listen(cls) -> StopRequest:
        """Notes signals from now on; a second Ctrl-C ends the process at once."""
        request = cls()

        def note(number: int, frame: FrameType | None) -> None:
            if number == signal.SIGINT:
                if request._interrupted:
                    raise KeyboardInterrupt
                request._interrupted = True
            # The first cause counts: the SIGTERM of `follow_launcher`, and that of a supervisor
            # which clears what a dead launcher has left, ask for nothing new.
            request.cause = request.cause or "signal"

        for number in STOP_SIGNALS:
            signal.signal(number, note)
        return request

    def launcher_gone(self) -> None:
        """Notes that the job which this process belongs to has ended."""
        self.cause = self.cause or "launcher"

    def flags(self) -> list[float]:
        """Returns what is summed over ranks for `agreed`."""
        return [float(self.cause == "signal"), float(self.cause == "launcher")]


def agreed(by_signal: float, by_launcher: float) -> StopCause | None:
    """Returns why all ranks stop, from the sums of their flags; None if they do not.

    One rank that got a signal is enough: somebody wants the run to stop.
    """
    if by_signal > 0:
        return "signal"
    return "launcher" if by_launcher > 0 else None
