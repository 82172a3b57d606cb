"""Ranks as forked processes: real processes for the price of a few milliseconds each.

`megaxlm.testing.distributed` starts fresh interpreters with gloo, which takes seconds. Where a
test needs processes that can be killed but no torch.distributed, hundreds of times, these do:
they share a barrier and an agreement through memory that is set up before the fork.
"""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import pickle
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

_TIMEOUT_SECONDS = 120.0
_POLL_SECONDS = 0.002


@dataclass(frozen=True)
class ForkedRank:
    """What a rank's work is given."""

    rank: int
    world_size: int
    barrier: Callable[[], None]
    all_ok: Callable[[bool], bool]


class ForkedRanks:
    """Runs `work(ForkedRank)` in a process of its own for every rank.

    Args:
        work: Its result must be picklable.
        world_size: Number of processes.
    """

    def __init__(self, work: Callable[[ForkedRank], Any], world_size: int) -> None:
        context = multiprocessing.get_context("fork")
        barrier = context.Barrier(world_size, timeout=_TIMEOUT_SECONDS)
        votes = context.RawArray("b", world_size)
        self.pids: list[int] = []
        self._results: list[int] = []  # a pipe's end for each rank
        for rank in range(world_size):
            reading, writing = os.pipe()
            sys.stdout.flush()
            sys.stderr.flush()
            pid = os.fork()
            if pid == 0:
                os.close(reading)
                _run(work, _rank_of(rank, world_size, barrier, votes), writing)
            os.close(writing)
            self.pids.append(pid)
            self._results.append(reading)

    def kill(self, rank: int) -> None:
        """Sends SIGKILL to one rank."""
        os.kill(self.pids[rank], signal.SIGKILL)

    def ended(self) -> bool:
        """Whether all ranks have ended by themselves; they are still to be collected."""
        flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return all(os.waitid(os.P_PID, pid, flags) is not None for pid in self.pids)

    def end(self) -> None:
        """Kills and collects every rank."""
        for rank in range(len(self.pids)):
            self.kill(rank)
        for pid in self.pids:
            os.waitpid(pid, 0)
        for descriptor in self._results:
            os.close(descriptor)

    def results(self, timeout_seconds: float = _TIMEOUT_SECONDS) -> list[Any]:
        """Waits for all ranks; what a rank raised is its result.

        Raises:
            TimeoutError: They take longer than that.
            RuntimeError: A rank was killed.
        """
        contents = [b""] * len(self.pids)
        deadline = time.monotonic() + timeout_seconds
        running = set(range(len(self.pids)))
        for descriptor in self._results:
            os.set_blocking(descriptor, False)
        while running:
            if time.monotonic() > deadline:
                self.end()
                raise TimeoutError(f"ranks {sorted(running)} not done after {timeout_seconds} s")
            for rank in sorted(running):
                try:
                    part = os.read(self._results[rank], 1 << 16)
                except BlockingIOError:
                    continue
                contents[rank] += part
                if not part:
                    running.discard(rank)
            time.sleep(_POLL_SECONDS)
        self.end()
        if missing := [rank for rank, content in enumerate(contents) if not content]:
            raise RuntimeError(f"ranks {missing} ended without a result")
        return [pickle.loads(content) for content in contents]


def run_forked(
    work: Callable[[ForkedRank], Any], world_size: int, timeout_seconds: float = _TIMEOUT_SECONDS
) -> list[Any]:
    """Returns what `work` returns, or raises, on every rank."""
    return ForkedRanks(work, world_size).results(timeout_seconds)


def _rank_of(rank: int, world_size: int, barrier: Any, votes: Any) -> ForkedRank:
    def all_ok(ok: bool) -> bool:
        votes[rank] = ok
        barrier.wait()
        verdict = all(votes)
        barrier.wait()
        return verdict

    return ForkedRank(rank, world_size, lambda: barrier.wait() and None, all_ok)


def _run(work: Callable[[ForkedRank], Any], place: ForkedRank, writing: int) -> None:
    """Never returns: the test must not go on in the child."""
    code = 1
    faulthandler.dump_traceback_later(_TIMEOUT_SECONDS - 10)  # a hang says where
    if "torch" in sys.modules:  # OpenMP's threads do not survive a fork, a child waits for them
        sys.modules["torch"].set_num_threads(1)
    try:
        try:
            content = pickle.dumps(work(place))
        except Exception as error:
            try:
                content = pickle.dumps(error)
                pickle.loads(content)
            except Exception:  # an exception whose arguments are not its message
                content = pickle.dumps(RuntimeError(traceback.format_exc()))
        with os.fdopen(writing, "wb") as pipe:
            pipe.write(content)
        code = 0
    finally:
        os._exit(code)
