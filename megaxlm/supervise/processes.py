"""The processes of a launch command: started together, signalled by their part, left none behind.

The supervisor is their subreaper (`PR_SET_CHILD_SUBREAPER`, prctl(2)): whatever the command starts
stays its descendant, also when the processes in between have ended. And the command gets SIGTERM
when the supervisor itself is killed (`PR_SET_PDEATHSIG`); its ranks follow it
(`megaxlm.distributed.parent`).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence

import psutil

from megaxlm.errors import UserError

POLL_SECONDS = 0.1
SCAN_SECONDS = 0.5  # between two looks at all processes of the machine
TERM_SECONDS = 5.0  # between SIGTERM and SIGKILL for what is left over
KILL_SECONDS = 120.0  # for a process that hangs in a driver or a file system to go
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
# The word in a command line by which a rank is told from a helper process.
RANK_WORD = "pretrain"


class Launch:
    """One start of a launch command, in a session of its own."""

    def __init__(self, command: Sequence[str]) -> None:
        """Starts it; only the main thread of a process without other children may.

        Raises:
            UserError: It cannot be started.
        """
        self.code: int | None = None  # of the command itself, once it has ended
        self._asked: set[psutil.Process] = set()
        self._launchers: set[psutil.Process] = set()  # also when their ranks have ended
        prctl = _prctl()
        prctl(_PR_SET_CHILD_SUBREAPER, 1)
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                preexec_fn=lambda: prctl(_PR_SET_PDEATHSIG, signal.SIGTERM),
            )
        except OSError as error:
            reason = error.strerror or str(error)
            raise UserError(
                f"{command[0]}: cannot be started: {reason}; check the command"
            ) from None

    @property
    def pid(self) -> int:
        """Of the command itself."""
        return self._process.pid

    def reap(self) -> None:
        """Takes note of processes that have ended; orphans that came to the supervisor as well."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self._process.pid:
                self.code = self._process.returncode = os.waitstatus_to_exitcode(status)

    def members(self) -> list[psutil.Process]:
        """Returns every process of the launch that has not ended."""
        self.reap()
        found = psutil.Process().children(recursive=True)
        return [process for process in found if _status(process) not in ("", psutil.STATUS_ZOMBIE)]

    def ask_to_stop(self) -> None:
        """Sends SIGTERM to each rank, once; to every process if there are no ranks.

        Not to the launcher: it would end before its ranks have saved, or kill them.
        """
        members = self.members()
        ranks = self._ranks(members)
        for process in ranks if ranks or self._asked else members:
            if process not in self._asked:
                self._asked.add(process)
                _send([process], signal.SIGTERM)

    def clear(self, grace: float, hurry: Callable[[], bool]) -> list[psutil.Process]:
        """Returns when no process of the launch is left; ranks may save first.

        Args:
            grace: Seconds for ranks that still run to save and end by themselves.
            hurry: Asked again and again whether to cut that short.

        Returns:
            Processes that even SIGKILL did not end, which is the kernel's doing.
        """
        deadline = time.monotonic() + grace
        while time.monotonic() < deadline and not hurry():
            ranks = self._ranks(self.members())
            # A stopped process does nothing about its signals, so nothing would come of waiting.
            if all(_status(rank) in ("", psutil.STATUS_STOPPED) for rank in ranks):
                break
            self.ask_to_stop()
            time.sleep(SCAN_SECONDS)
        _send(self.members(), signal.SIGTERM)
        _send(self.members(), signal.SIGCONT)
        self._wait(TERM_SECONDS)
        deadline = time.monotonic() + KILL_SECONDS
        while (left := self.members()) and time.monotonic() < deadline:
            _send(left, signal.SIGKILL)
            self._wait(1.0)
        return left

    def _ranks(self, members: Iterable[psutil.Process]) -> list[psutil.Process]:
        """Returns the processes that train: they run `pretrain` and are no launcher of another.

        The command lines of shells and launchers hold the word as well. A process that has just
        been forked has its parent's command line for a moment, which does not make that a launcher.
        """
        lines: dict[int, list[str]] = {}
        parents: dict[int, int] = {}
        processes = {process.pid: process for process in members}
        for pid, process in processes.items():
            with contextlib.suppress(psutil.Error):
                line, parents[pid] = process.cmdline(), process.ppid()
                if RANK_WORD in line:
                    lines[pid] = line
        for pid, line in lines.items():
            above = parents.get(pid)
            while above is not None:
                if lines.get(above, line) != line:
                    self._launchers.add(processes[above])
                above = parents.get(above)
        return [processes[pid] for pid in lines if processes[pid] not in self._launchers]

    def _wait(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while self.members() and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)


def _status(process: psutil.Process) -> str:
    """Returns psutil's word for the state of a process, an empty one if it is gone."""
    try:
        return str(process.status())
    except psutil.Error:
        return ""


def _send(processes: Iterable[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        with contextlib.suppress(psutil.Error):  # ended meanwhile, or not ours to signal
            process.send_signal(number)


def _prctl() -> Callable[[int, int], int]:
    if sys.platform != "linux":
        raise UserError("megaxlm supervise needs Linux; start the launch command without it")
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def call(option: int, value: int) -> int:
        return int(prctl(option, value, 0, 0, 0))

    return call
