"""Ends a run whose ranks do not all come to its start, and says which ones are missing.

Until the watchdog has every rank, a rank that is stopped, hung or never started would be waited for
until the timeout of the process groups, half an hour, without a word. So each rank says through
the store of the rendezvous (the launcher's, or rank 0's) that it has come and, again and again,
that it is still there. Rank 0 names those that are silent for `faults.start_seconds`; the others
judge rank 0 alone, a little later each, as the first that ends makes the launcher end the rest.

Time counts from the start of the process: imports are part of it. A process that needed most of
the time for them still waits half of it for the others.

    roll_call = RollCall(config.run_dir, config.faults.start_seconds)
    with roll_call:
        roll_call.meet(environment.discover())
        ...  # process groups, the watchdog
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from types import TracebackType

import psutil
import torch.distributed as dist

from megaxlm.distributed.environment import Environment
from megaxlm.distributed.parent import RANK_VARIABLES
from megaxlm.errors import EXIT_FOUND_WRONG
from megaxlm.train import watchdog_report as report
from megaxlm.train.watchdog_report import Member, Verdict

TICK = 0.25  # seconds between two looks at the time
REPORT_SECONDS = 5.0  # for the line and the stacks, if the terminal or the file system hangs
STAGGER_SECONDS = 1.0  # between the ranks that find rank 0 silent
MAX_STAGGERED = 5
VERDICT = "verdict"


@dataclass(frozen=True)
class Heard:
    """What another rank has said last, and when, on this rank's clock."""

    member: Member
    count: int
    over: bool  # its start is behind it: the watchdog has it
    at: float


class RollCall:
    """The watch over the start of a run, on one rank; used as a context around it.

    Args:
        run_dir: The run's folder, which need not exist; stacks go to `stacks` in it.
        seconds: How long a rank may be silent.
    """

    def __init__(self, run_dir: Path, seconds: float) -> None:
        self._stacks, self._seconds = run_dir / report.STACKS_DIR, seconds
        self._interval = min(max(seconds / 60, 0.25), 2.0)  # between two signs of life
        self._place: Environment | None = None
        self._over = threading.Event()
        self._heard: dict[int, Heard] = {}
        self._verdict: Verdict | None = None  # rank 0's, for the others or from it
        self._published = threading.Event()
        # This rank's clock, in seconds of the process; those in which it was stopped do not count.
        self._now = min(time.time() - psutil.Process().create_time(), seconds / 2)
        self._reached: float | None = None  # when the store first answered
        self._judge_thread = threading.Thread(target=self._watch, name="roll-call", daemon=True)

    def __enter__(self) -> RollCall:
        self._judge_thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._over.set()
        self._judge_thread.join()

    def meet(self, place: Environment) -> None:
        """Says from now on that this rank is there, and listens to the others."""
        self._place = place
        if place.world_size == 1:
            self._over.set()
            return
        threading.Thread(target=self._talk, args=(place,), name="roll-call-2", daemon=True).start()

    def _watch(self) -> None:
        """Keeps the time; in a thread of its own, as the store may hang with its process."""
        before = time.monotonic()
        while not self._over.wait(TICK):
            after = time.monotonic()
            self._now += min(after - before, 4 * TICK)
            before = after
            given = self._verdict
            if given is not None:
                self._end(given)
            verdict = self._judge()
            if verdict is not None and not self._over.is_set():
                self._end(verdict)

    def _judge(self) -> Verdict | None:
        place, limit = self._place, self._seconds
        if place is None:  # MPI alone asks all ranks who they are
            if self._now < limit + STAGGER_SECONDS * min(_rank_of(os.environ), MAX_STAGGERED):
                return None
            stopped = [one for one in _siblings().values() if one.state() in ("T", "t")]
            return Verdict(self._line({one.rank: one for one in stopped}, self._now), (*stopped,))
        if place.rank > 0:
            limit += self._interval + STAGGER_SECONDS * min(place.rank, MAX_STAGGERED)
        elif self._reached is None or self._now - self._reached < 4 * self._interval:
            return None  # no other can have come before
        others = range(1, place.world_size) if place.rank == 0 else (0,)
        heard = dict(self._heard)
        silent = {
            rank: heard.get(rank)
            for rank in others
            if self._now - (heard[rank].at if rank in heard else 0.0) > limit
            and not (rank in heard and heard[rank].over)
        }
        if not silent:
            return None
        near = _siblings()
        known = {rank: one.member if one else near.get(rank) for rank, one in silent.items()}
        since = min(one.at if one else 0.0 for one in silent.values())
        members = tuple(member for member in known.values() if member is not None)
        came = any(one is not None for one in silent.values())
        return Verdict(self._line(known, self._now - since, came), members)

    def _line(self, silent: Mapping[int, Member | None], seconds: float, came: bool = False) -> str:
        members = [member for member in silent.values() if member is not None]
        unknown = [rank for rank, member in silent.items() if member is None]
        names = ([report.named(members)] if members else []) + (
            [report.ranks(unknown)] if unknown else []
        )
        who = " and ".join(names) or "another rank"
        place = self._place
        where = f" at {place.master_addr}:{place.master_port}" if place and unknown else ""
        return (
            f"{who} {'has' if len(silent) < 2 else 'have'} not "
            f"{'answered for' if came else 'come to the start of the run for'} {seconds:.0f} s"
            f"{where}{report.state_of(members)}; the stacks of those that have are in "
            f"{self._stacks}; the same command resumes, and faults.start_seconds says how long to "
            "wait"
        )

    def _end(self, verdict: Verdict) -> None:
        reporter = threading.Thread(target=self._report, args=(verdict,), daemon=True)
        reporter.start()
        reporter.join(REPORT_SECONDS)
        place = self._place
        if place is not None and place.rank == 0:
            self._verdict = verdict
            # The others end before the store does, which they would take for another fault.
            if self._published.wait(2 * self._interval):
                time.sleep(2 * self._interval)
        for member in verdict.silent:
            member.kill()
        os._exit(EXIT_FOUND_WRONG)

    def _report(self, verdict: Verdict) -> None:
        if not verdict.spoken:
            report.say(verdict.line)
        rank = self._place.rank if self._place is not None else _rank_of(os.environ)
        report.write_stacks(self._stacks, rank, "start-up", verdict.line)

    def _talk(self, place: Environment) -> None:
        store: dist.Store | None = None
        member, count, over = Member.here(place.rank, -1), 0, False
        while not over:
            over = self._over.wait(self._interval if count else 0)
            count += 1
            try:
                store = store or _open_store(place, self._seconds)
                mine = {"member": asdict(member), "count": count, "over": over}
                store.set(str(place.rank), json.dumps(mine))
                self._reached = self._now if self._reached is None else self._reached
                self._exchange(store, place)
            except (OSError, RuntimeError):  # torch's errors too: it is not there yet, or gone
                store = None

    def _exchange(self, store: dist.Store, place: Environment) -> None:
        if place.rank > 0:
            if store.check([VERDICT]):
                self._verdict = Verdict.from_json(store.get(VERDICT).decode())
        elif self._verdict is not None:
            store.set(VERDICT, self._verdict.to_json())
            self._published.set()
        for rank in range(1, place.world_size) if place.rank == 0 else (0,):
            known = self._heard.get(rank)
            if known is None and not store.check([str(rank)]):
                continue
            content = json.loads(store.get(str(rank)))
            if known is None or content["count"] != known.count:
                member = Member(**content["member"])
                self._heard[rank] = Heard(member, content["count"], content["over"], self._now)


def _open_store(place: Environment, seconds: float) -> dist.Store:
    """Connects to the store of the rendezvous; OSError where nobody listens yet."""
    # A look before: torch's own attempts would print warnings until somebody does.
    socket.create_connection((place.master_addr, place.master_port), 2.0).close()
    store = dist.TCPStore(
        place.master_addr,
        place.master_port,
        is_master=False,
        wait_for_workers=False,
        timeout=timedelta(seconds=seconds),
    )
    # torchrun's outlives its restarts.
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return dist.PrefixStore(f"megaxlm/roll-call/{attempt}", store)


def _siblings() -> dict[int, Member]:
    """Returns the other ranks that this rank's launcher has started on this machine."""
    found: dict[int, Member] = {}
    with contextlib.suppress(psutil.Error, OSError):
        parent = psutil.Process().parent()
        for process in parent.children(recursive=True) if parent is not None else []:
            with contextlib.suppress(psutil.Error, OSError):
                rank = _rank_of(process.environ())
                if rank >= 0 and process.pid != os.getpid():
                    found[rank] = Member.of(rank, process.pid)
    found.pop(_rank_of(os.environ), None)  # a shell around this rank, or what it has started
    return found


def _rank_of(env: Mapping[str, str]) -> int:
    said = next((env[name] for name in RANK_VARIABLES if name in env), "")
    return int(said) if said.isdigit() else -1
