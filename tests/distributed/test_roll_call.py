"""A rank that is stopped before the watchdog has it is named, and the job ends, soon.

This file is also the program that the launchers start: it stops one rank for real, and is otherwise
the command itself.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from megaxlm.testing.launchers import (
    launch_command,
    running,
    write_small_config,
    write_small_dataset,
)

pytestmark = pytest.mark.distributed

# Seconds that a rank may be silent. One may be done with its imports half of that before another,
# on a busy machine, before it is missed.
LIMIT = 45.0
SLACK = 90.0


def stop(*arguments: Any, **named: Any) -> None:
    time.sleep(3.0)  # for a sign of life, where it has come so far
    os.kill(os.getpid(), signal.SIGSTOP)
    raise SystemExit("went on")


def stop_before(point: str) -> None:
    """Makes this process stop itself before a point of its start."""
    if point == "import":
        stop()
    from megaxlm.train import pretrain

    if point == "connect":
        vars(pretrain)["connect"] = stop
    else:
        pretrain.Watchdog.start = stop  # type: ignore[method-assign]


def command(launcher: str, rank: int, point: str, config: Path) -> list[str]:
    settings = ["--set", f"faults.start_seconds={LIMIT}"]
    arguments = [f"{rank}:{point}", "pretrain", str(config), *settings]
    return launch_command(launcher, *arguments, program=__file__)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("roll-call") / "data"
    write_small_dataset(path)
    return path


@pytest.mark.parametrize(
    ("launcher", "rank", "point"),
    [
        ("torchrun", 1, "import"),
        ("torchrun", 0, "import"),  # the store is the launcher's
        ("deepspeed", 0, "connect"),  # and here nobody's: the other finds out alone
        ("deepspeed", 1, "watchdog"),  # it had come
        ("mpiexec", 1, "import"),  # MPI asks all ranks who they are
        ("mpiexec", 0, "watchdog"),  # the store is stopped with it
    ],
)
def test_a_rank_stopped_at_the_start_is_named_and_nothing_is_left(
    data: Path, tmp_path: Path, launcher: str, rank: int, point: str
) -> None:
    run_dir = write_small_config(tmp_path / "run.yaml", data, steps=10, every_steps=10)
    with running(command(launcher, rank, point, tmp_path / "run.yaml"), run_dir) as run:
        run.wait_for(run.has_stopped_rank)
        began = time.monotonic()
        named_after = run.wait_for_line("megaxlm: error:", LIMIT + SLACK)
        assert run.wait(SLACK) != 0
        run.wait_for_none_left(SLACK)
        ended_after = time.monotonic() - began
    print(f"named after {named_after:.1f} s, ended after {ended_after:.1f} s")
    lines = [line for line in run.said().splitlines() if "megaxlm: error:" in line]
    assert len(lines) == 1, run.said()
    assert f"error: rank {rank} (" in lines[0] and "the process is stopped" in lines[0]
    came = "answered for" if point == "watchdog" else "come to the start of the run for"
    assert f"has not {came}" in lines[0] and "faults.start_seconds" in lines[0]
    # torchrun tells of its own end by a traceback, when any rank has failed.
    assert "Traceback" not in run.said().split("torch/distributed/elastic")[0].split("torchrun")[0]
    assert (run_dir / "stacks" / f"rank-{1 - rank:05d}.txt").is_file()


def test_the_start_is_quiet_where_all_ranks_come(data: Path, tmp_path: Path) -> None:
    """With a limit far shorter than the run, of which the first half is not even used up."""
    run_dir = write_small_config(tmp_path / "run.yaml", data, steps=10, every_steps=10)
    with running(command("torchrun", 7, "nowhere", tmp_path / "run.yaml"), run_dir) as run:
        assert run.wait() == 0, run.said()
    assert "start_seconds" not in run.said() and run.step() == 10


if __name__ == "__main__":
    # DeepSpeed's launcher puts an argument of its own first.
    victim, _, where = sys.argv.pop(sys.argv.index("pretrain") - 1).partition(":")
    if victim == next(os.environ[name] for name in ("RANK", "PMI_RANK") if name in os.environ):
        stop_before(where)
    from megaxlm.cli import run as megaxlm

    megaxlm()
