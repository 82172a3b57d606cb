"""The watch over real processes: killed, stopped, hung, stalled, suspended together, and well."""

from __future__ import annotations

import itertools
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from megaxlm.testing import distributed

pytestmark = pytest.mark.distributed

HEARTBEAT, STALL, GRACE = 3.0, 4.0, 4.0
PATIENCE = 90.0  # for things that take seconds on a quiet machine


def rank_main(scenario: str, run_dir: Path) -> None:
    """What each process does: steps with a collective, then what the scenario says."""
    import torch
    import torch.distributed as dist

    from megaxlm.config.pretrain import FaultsConfig
    from megaxlm.distributed import environment
    from megaxlm.train import watchdog_sides
    from megaxlm.train.watchdog import Watchdog

    watchdog_sides.GRACE_SECONDS = GRACE
    place = environment.discover()
    if place.world_size > 1:
        dist.init_process_group("gloo")
    stall = STALL if scenario.startswith("stall") else 1000.0
    faults = FaultsConfig(heartbeat_seconds=HEARTBEAT, stall_seconds=stall)
    with Watchdog.start(place, run_dir, faults) as watchdog:
        for step in itertools.count(1):
            watchdog.progress(f"step {step}")
            if place.world_size > 1:
                dist.all_reduce(torch.ones(1))
            (run_dir / f"rank-{place.rank}").write_text(str(step))
            time.sleep(0.01)
            if step < 20 or scenario == "steps":
                continue
            if scenario == "end":
                watchdog.progress("the end")
                time.sleep(0.3 + 4 * place.rank)
                break
            time.sleep(1.0)  # for a beat to tell of the step
            if scenario == "fail" and place.rank == 1:
                raise ValueError("of its own")
            if scenario == "hang" and place.rank == 1:
                re.match(r"(a+)+$", 64 * "a" + "b")  # for ever, with the interpreter's lock
            while scenario != "end":  # as in a collective of NCCL, which sees no peer's death
                time.sleep(0.1)


class Ranks(distributed.Ranks):
    """The processes of one scenario."""

    def __init__(self, scenario: str, run_dir: Path, world_size: int) -> None:
        run_dir.mkdir(exist_ok=True)
        self.run_dir = run_dir
        super().__init__(rank_main, world_size, scenario, run_dir)

    def step(self, rank: int = 0) -> int:
        path = self.run_dir / f"rank-{rank}"
        text = path.read_text() if path.exists() else ""
        return int(text or 0)

    def wait_for(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline, self.all_said()
            time.sleep(0.01)

    def wait_for_step(self, step: int) -> None:
        def reached() -> bool:
            assert set(self.codes()) == {None}, self.all_said()
            return all(self.step(rank) >= step for rank in range(len(self.pids)))

        self.wait_for(reached)
        time.sleep(1.5)  # for a beat to tell of it

    def signal(self, number: int, *ranks: int) -> None:
        for rank in ranks or range(len(self.pids)):
            self.send_signal(rank, number)

    def wait(self) -> tuple[list[int], float]:
        """Returns exit codes and the seconds until all processes were gone."""
        begin = time.monotonic()
        codes, _ = self.finish(PATIENCE)
        return codes, time.monotonic() - begin

    def all_said(self) -> str:
        return "".join(self.said(rank) for rank in range(len(self.pids)))

    def line(self) -> str:
        """Returns the only line about the end of the run."""
        lines = [line for line in self.all_said().splitlines() if "megaxlm: error:" in line]
        assert len(lines) == 1, self.all_said()
        return lines[0]

    def stacks(self, rank: int) -> str:
        path = self.run_dir / "stacks" / f"rank-{rank:05d}.txt"
        return path.read_text() if path.exists() else ""


@pytest.mark.parametrize(("scenario", "victim"), [("steps", 0), ("wait", 1)])
def test_a_killed_rank_is_named_and_all_end(tmp_path: Path, scenario: str, victim: int) -> None:
    with Ranks(scenario, tmp_path / "run", 2) as ranks:
        ranks.wait_for_step(20)
        ranks.signal(signal.SIGKILL, victim)
        codes, seconds = ranks.wait()
        other = 1 - victim
        assert codes[victim] == -signal.SIGKILL and codes[other] == 1
        assert f"rank {victim} (" in ranks.line() and "died, last in step" in ranks.line()
        assert f"pid {ranks.pids[victim]})" in ranks.line()
        assert seconds < 35
        if scenario == "wait":  # nothing else would have ended the other
            assert "rank_main" in ranks.stacks(other)


def test_a_stopped_rank_0_is_named_and_all_end(tmp_path: Path) -> None:
    victim = 0  # the others have to find out for themselves
    with Ranks("steps", tmp_path / "run", 3) as ranks:
        ranks.wait_for_step(20)
        ranks.signal(signal.SIGSTOP, victim)
        codes, _ = ranks.wait()
        others = [rank for rank in range(3) if rank != victim]
        assert codes[victim] == -signal.SIGKILL  # it could not end itself
        assert [codes[rank] for rank in others] == [1, 1]
        line = ranks.line()
        assert f"rank {victim} (" in line and f"pid {ranks.pids[victim]})" in line
        assert "has not answered for" in line and "last in step" in line and "stopped" in line
        assert str(tmp_path / "run" / "stacks") in line
        for rank in others:
            assert "all_reduce" in ranks.stacks(rank), ranks.stacks(rank)
            assert f"pid {ranks.pids[rank]}" in ranks.stacks(rank)
        assert not ranks.stacks(victim)
        (kept,) = (tmp_path / "run" / "stacks").glob("end-*.txt")
        assert kept.read_text().strip() == line.removeprefix("megaxlm: error: ")


def test_a_rank_that_keeps_the_interpreter_lock_is_named_with_its_own_stacks(
    tmp_path: Path,
) -> None:
    with Ranks("hang", tmp_path / "run", 2) as ranks:
        codes, _ = ranks.wait()
        assert codes == [1, -signal.SIGKILL], ranks.all_said()
        assert "rank 1 (" in ranks.line() and "last in step 20" in ranks.line()
        assert "in match" in ranks.stacks(1) and "rank_main" in ranks.stacks(1)
        assert "rank_main" in ranks.stacks(0)


def test_a_run_that_stalls_is_ended(tmp_path: Path) -> None:
    world_size = 2
    with Ranks("stall", tmp_path / "run", world_size) as ranks:
        codes, _ = ranks.wait()
        assert codes == [1] * world_size
        assert "nothing has moved for" in ranks.line() and "step 20" in ranks.line()
        for rank in range(world_size):
            assert "rank_main" in ranks.stacks(rank)


def test_a_rank_that_fails_takes_those_with_it_that_wait(tmp_path: Path) -> None:
    with Ranks("fail", tmp_path / "run", 2) as ranks:
        codes, seconds = ranks.wait()
        assert codes == [1, 1] and seconds < PATIENCE
        assert "rank 1 (" in ranks.line() and "failed, last in step 20" in ranks.line()
        assert "ValueError: of its own" in ranks.all_said()


def test_a_short_stop_and_a_suspended_job_are_no_fault_and_the_end_is_quiet(
    tmp_path: Path,
) -> None:
    with Ranks("steps", tmp_path / "run", 2) as ranks:
        ranks.wait_for_step(20)
        ranks.signal(signal.SIGSTOP, 1)
        time.sleep(HEARTBEAT / 3)
        ranks.signal(signal.SIGCONT, 1)
        ranks.signal(signal.SIGSTOP)
        time.sleep(2.5 * HEARTBEAT)
        ranks.signal(signal.SIGCONT)
        ranks.wait_for_step(ranks.step() + 200)  # longer than a verdict would have taken
        assert "megaxlm" not in ranks.all_said()
    with Ranks("end", tmp_path / "end", 2) as ranks:
        codes, _ = ranks.wait()
        assert codes == [0, 0] and not ranks.all_said()
        assert not (tmp_path / "end" / "stacks").exists()


def test_a_rank_stopped_when_the_others_have_ended_is_still_named(tmp_path: Path) -> None:
    with Ranks("end", tmp_path / "run", 2) as ranks:
        ranks.wait_for_step(20)
        ranks.signal(signal.SIGSTOP, 1)
        codes, _ = ranks.wait()
        assert codes == [1, -signal.SIGKILL]
        assert "rank 1 (" in ranks.line() and "has not answered" in ranks.line()
