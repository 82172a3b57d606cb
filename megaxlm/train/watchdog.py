"""Ends a distributed run that cannot go on, and says which rank it was.

DeepSpeed and torch wait in a collective for a rank that is dead, stopped or hung until a timeout of
half an hour, and then every rank says something else. Here a thread on every rank holds one TCP
connection to rank 0, whatever the launcher, and

- a process that dies is named after a second, and those that wait for it end 10 s later;
- a process that does not answer for `faults.heartbeat_seconds` is named, with what it did last, the
  stacks of all other ranks are written to RUN_DIR/stacks, every rank exits with code 1, and the
  silent process is killed by the ranks of its host;
- if every rank answers but none gets on for `faults.stall_seconds`, the same happens with the
  stacks of all.

A rank's thread needs Python's interpreter lock now and then; so a main thread that holds it for
ever counts as silent, one that waits in a collective, a kernel or a file does not. A checkpoint
that is being written is simply cut off: it has no marker yet.

Usage, between bringing up and taking down the process groups:

    with Watchdog.start(place, config.run_dir, config.faults) as watchdog:
        ...
        watchdog.progress(f"step {step}")  # cheap: at each step, evaluation, file, ...
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import sys
import threading
import time
from pathlib import Path
from types import TracebackType

from megaxlm.config.pretrain import FaultsConfig
from megaxlm.distributed import reduce
from megaxlm.distributed.environment import Environment
from megaxlm.errors import EXIT_FOUND_WRONG
from megaxlm.train import watchdog_report as report
from megaxlm.train.watchdog_report import Member, Verdict
from megaxlm.train.watchdog_server import Server, new_run_id
from megaxlm.train.watchdog_sides import Client, Limits, OwnTime, Progress, Side, Solo

REPORT_SECONDS = 8.0  # for the line and the stacks, if the terminal or the file system hangs
PART_SECONDS = 6.0  # for the others to have written theirs
HANG_SHARE = 0.8  # of the silence that is allowed, after which a rank notes its own stacks


class Watchdog:
    """The watch over one rank, and by it over the run; made by `start`."""

    def __init__(self, side: Side, member: Member, limits: Limits, stacks: Path) -> None:
        self._side, self._member, self._limits, self._stacks = side, member, limits, stacks
        self._progress = Progress()
        self._stopping = threading.Event()
        self._failed = False
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()

    @classmethod
    def start(cls, place: Environment, run_dir: Path, faults: FaultsConfig) -> Watchdog:
        """Starts the watch; all ranks call it together, with the process group up.

        Args:
            place: This rank.
            run_dir: The run's folder, which need not exist; stacks go to `stacks` in it.
            faults: The limits.

        Raises:
            UserError: Some rank cannot reach rank 0; the same error on every rank.
        """
        limits = Limits.of(faults)
        stacks = run_dir / report.STACKS_DIR
        member = Member.here(place.rank, _hang_file())
        if place.world_size == 1:
            return cls(Solo(limits, new_run_id(), stacks), member, limits, stacks)
        server: Server | None = None
        with reduce.together():
            if place.rank == 0:
                server = Server(
                    place.master_addr, member, place.world_size, limits, new_run_id(), stacks
                )
        offer = reduce.broadcast(server.offer if server is not None else None)
        watchdog = cls(server, member, limits, stacks) if server is not None else None
        try:
            with reduce.together():
                if watchdog is None:
                    client = Client.connect(offer, member, limits, stacks)
        except BaseException:
            if watchdog is not None:
                watchdog.stop(failed=True)
            raise
        return watchdog or cls(client, member, limits, stacks)

    def progress(self, phase: str) -> None:
        """Says what the main thread does from now on, such as `step 12`; costs a microsecond."""
        self._progress = Progress(self._progress.count + 1, phase)

    def stop(self, failed: bool = False) -> None:
        """Ends the watch of this rank; rank 0 returns when all others have ended theirs.

        Args:
            failed: This rank ends by an error: ranks that wait for it are to end as well.
        """
        self._failed = self._failed or failed
        self._stopping.set()
        self._thread.join()
        self._side.close()
        if self._member.hang_file >= 0:
            os.close(self._member.hang_file)

    def __enter__(self) -> Watchdog:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop(failed=kind is not None)

    def _watch(self) -> None:
        side, limits = self._side, self._limits
        own_time = OwnTime(limits)
        while True:
            if self._stopping.is_set():
                time.sleep(0.02)
            else:
                self._stopping.wait(limits.tick)
            self._note_hang()
            verdict = side.tick(own_time(), self._progress)
            if verdict is not None:
                self._end(verdict)
                break
            if self._stopping.is_set() and side.leave(self._failed):
                break
        with contextlib.suppress(RuntimeError):
            faulthandler.cancel_dump_traceback_later()

    def _note_hang(self) -> None:
        """Has the stacks noted from outside Python if this thread does not come round again.

        That is so where some native code keeps the interpreter's lock. Whoever kills this process
        then saves them.
        """
        if self._member.hang_file >= 0:
            seconds = self._limits.silence * HANG_SHARE
            faulthandler.dump_traceback_later(seconds, file=self._member.hang_file)

    def _end(self, verdict: Verdict) -> None:
        """Reports and ends this process; returns where the main thread ends it by an error."""
        # In a thread of its own: the terminal or the file system may be what hangs.
        reporter = threading.Thread(target=self._report, args=(verdict,), daemon=True)
        reporter.start()
        reporter.join(REPORT_SECONDS)
        self._side.part(PART_SECONDS)
        for member in verdict.silent:
            if member != self._member:  # else it goes on after all, and learns that it is too late
                member.kill()
        if not self._failed:
            os._exit(EXIT_FOUND_WRONG)

    def _report(self, verdict: Verdict) -> None:
        if not verdict.spoken:
            self._side.speak(verdict)
        rank, phase = self._member.rank, self._progress.phase
        report.write_stacks(self._stacks, rank, phase or "start-up", verdict.line)
        for member in verdict.silent:
            if member != self._member:
                report.save_hang_file(self._stacks, member)


def _hang_file() -> int:
    """Returns a descriptor of a file in memory, -1 where there is none."""
    return os.memfd_create("megaxlm-stacks") if sys.platform == "linux" else -1
