"""What is left of a run that the watchdog ends: one line, the stacks of all ranks, no process.

Every function here may be called while the main thread hangs: none takes a lock that it may hold.
"""

from __future__ import annotations

import contextlib
import faulthandler
import functools
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

STACKS_DIR = "stacks"
MAX_NAMED = 8  # ranks in one line
STATES = {
    "T": "the process is stopped (SIGSTOP)",
    "t": "the process is stopped by a debugger",
    "D": "the process waits in the kernel for a disk or a device",
    "Z": "the process is dead",
}


@dataclass(frozen=True)
class Member:
    """A rank's process, as it tells the others of itself."""

    rank: int
    host: str
    machine: str  # equal only where process ids mean the same
    pid: int
    started: int  # clock ticks since boot: a process that came later under this id has another
    hang_file: int  # descriptor in that process of what `faulthandler` writes when it hangs

    @classmethod
    def here(cls, rank: int, hang_file: int) -> Member:
        """Returns this process."""
        return cls.of(rank, os.getpid(), hang_file)

    @classmethod
    def of(cls, rank: int, pid: int, hang_file: int = -1) -> Member:
        """Returns a process of this machine."""
        started = (_stat(pid) or ("", 0))[1]
        return cls(rank, socket.gethostname(), _machine(), pid, started, hang_file)

    def __str__(self) -> str:
        return f"rank {self.rank} ({self.host}, pid {self.pid})"

    @property
    def is_local(self) -> bool:
        """Whether it runs on this machine and its process id means the same here."""
        return bool(self.machine) and self.machine == _machine()

    def state(self) -> str | None:
        """Returns the kernel's letter for its state, for a local process that lives."""
        found = _stat(self.pid) if self.is_local else None
        return found[0] if found is not None and found[1] == self.started else None

    def kill(self) -> None:
        """Kills it, if it is local and still the process that it was."""
        if not self.is_local:
            return
        with contextlib.suppress(OSError):
            handle = os.pidfd_open(self.pid)
            try:
                # The handle was taken before the look: no other process can slip in between.
                if self.state() is not None:
                    signal.pidfd_send_signal(handle, signal.SIGKILL)
            finally:
                os.close(handle)


@dataclass(frozen=True)
class Verdict:
    """Why the run ends, and whose processes may need help with that."""

    line: str
    silent: tuple[Member, ...] = ()  # they cannot end themselves
    run_id: str = ""  # names the file that tells of it
    spoken: bool = field(default=False, compare=False)  # another rank prints the line

    def to_json(self) -> str:
        """Returns the text of an END frame; what does not fit any more is left out."""
        silent = [asdict(member) for member in self.silent[: 4 * MAX_NAMED]]
        return json.dumps({"line": self.line, "silent": silent, "run_id": self.run_id})

    @classmethod
    def from_json(cls, text: str) -> Verdict:
        """Returns what rank 0 has sent, which it has spoken of itself."""
        content = json.loads(text)
        silent = tuple(Member(**member) for member in content["silent"])
        return cls(content["line"], silent, content["run_id"], spoken=True)


def named(members: Sequence[Member]) -> str:
    """Returns the first few with host and pid, and how many more there are."""
    said = ", ".join(str(member) for member in members[:MAX_NAMED])
    more = len(members) - MAX_NAMED
    return said if more <= 0 else f"{said} and {more} more"


def silent_line(
    members: Sequence[Member], seconds: float, phases: Mapping[int, str], stacks: Path
) -> str:
    """Returns the line on ranks that have stopped answering."""
    phase = _phases({member.rank: phases.get(member.rank, "") for member in members})
    have = "has" if len(members) == 1 else "have"
    return (
        f"{named(members)} {have} not answered for {seconds:.0f} s, last in {phase}"
        f"{state_of(members)}; the stacks of the other ranks are in {stacks}; the same command "
        "resumes"
    )


def state_of(members: Sequence[Member]) -> str:
    """Returns, in brackets, what the kernel says of them if that explains a silence."""
    states = {STATES.get(member.state() or "") for member in members[:MAX_NAMED]} - {None}
    return f" ({states.pop()})" if len(states) == 1 else ""


def ended_line(member: Member, phase: str, failed: bool, stacks: Path) -> str:
    """Returns the line on a process that is gone."""
    if failed:
        return f"{member} failed, last in {phase or 'start-up'}; its own message says why"
    return (
        f"{member} died, last in {phase or 'start-up'}: killed, or crashed in native code; stacks "
        f"of ranks that wait for it are in {stacks}; the same command resumes"
    )


def stalled_line(phases: Mapping[int, str], seconds: float, stacks: Path) -> str:
    """Returns the line on a run in which every rank answers and none gets on."""
    return (
        f"nothing has moved for {seconds:.0f} s: {_phases(phases)}; all stacks are in {stacks}; "
        "the same command resumes, and faults.stall_seconds says how long to wait"
    )


def say(line: str) -> None:
    """Prints an error line, past Python's buffers, whose locks a hanging thread may hold."""
    # A progress bar leaves its line open.
    with contextlib.suppress(OSError):
        os.write(2, f"\nmegaxlm: error: {line}\n".encode())


def claim(stacks: Path, verdict: Verdict) -> bool:
    """Writes the file that tells of this end; the one rank that makes it is to speak.

    A file system that refuses leaves every rank to speak for itself.
    """
    path = stacks / f"end-{verdict.run_id}.txt"
    try:
        stacks.mkdir(parents=True, exist_ok=True)
        with open(path, "x", encoding="utf-8") as file:
            file.write(f"{verdict.line}\n")
    except OSError:
        return not path.is_file()
    return True


def write_stacks(stacks: Path, rank: int, phase: str, line: str) -> None:
    """Writes the stacks of all threads to `stacks`, or to stderr where no file can be written."""
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    head = f"{now} rank {rank} on {socket.gethostname()}, pid {os.getpid()}, in {phase}\n{line}\n"
    try:
        stacks.mkdir(parents=True, exist_ok=True)
        with open(stacks_path(stacks, rank), "wb", buffering=0) as file:
            file.write(head.encode())
            faulthandler.dump_traceback(file.fileno(), all_threads=True)
    except OSError:
        with contextlib.suppress(OSError, ValueError):
            os.write(2, head.encode())
            faulthandler.dump_traceback(2, all_threads=True)


def stacks_path(stacks: Path, rank: int) -> Path:
    """Returns the file of one rank."""
    return stacks / f"rank-{rank:05d}.txt"


def save_hang_file(stacks: Path, member: Member) -> None:
    """Keeps what a local process that hangs, and is not stopped, has told of its own stacks."""
    if not member.is_local:
        return
    with contextlib.suppress(OSError):
        content = Path(f"/proc/{member.pid}/fd/{member.hang_file}").read_bytes()
        if content:
            stacks_path(stacks, member.rank).write_bytes(content)


def _phases(phases: Mapping[int, str]) -> str:
    """Returns `step 12`, or which ranks are where; those with the fewest companions come first."""
    by_phase: dict[str, list[int]] = {}
    for rank in sorted(phases):
        by_phase.setdefault(phases[rank] or "start-up", []).append(rank)
    if len(by_phase) == 1:
        return next(iter(by_phase))
    ordered = sorted(by_phase.items(), key=lambda item: len(item[1]))
    said = [f"{ranks(of)} in {phase}" for phase, of in ordered[:MAX_NAMED]]
    return ", ".join(said) + (" and others" if len(ordered) > MAX_NAMED else "")


def ranks(numbers: Sequence[int]) -> str:
    """Returns `rank 3` or `ranks 0-2, 7`."""
    runs: list[list[int]] = []
    for rank in numbers:
        if runs and rank == runs[-1][1] + 1:
            runs[-1][1] = rank
        else:
            runs.append([rank, rank])
    spans = [str(low) if low == high else f"{low}-{high}" for low, high in runs]
    said = ", ".join(spans[:MAX_NAMED]) + (" and more" if len(spans) > MAX_NAMED else "")
    return f"rank{'s' if len(numbers) > 1 else ''} {said}"


def _stat(pid: int) -> tuple[str, int] | None:
    """Returns (state, start time in clock ticks) of a process, None where there is none."""
    try:
        content = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = content.rpartition(")")[2].split()  # the name before may hold anything
    return fields[0], int(fields[19])


@functools.cache
def _machine() -> str:
    """Returns what tells this boot of this machine and its process ids apart; empty off Linux."""
    if sys.platform != "linux":
        return ""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""
