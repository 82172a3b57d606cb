"""`megaxlm pretrain` under real launchers, with a rank that is stopped in each phase of a run.

This file is also the program that the launchers start: it stops rank 1 when it comes to a phase,
for real, and is otherwise the command itself.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from megaxlm.testing.datasets import write_dataset
from megaxlm.testing.launchers import launch_command, running, write_small_config

pytestmark = pytest.mark.distributed

HEARTBEAT = 6.0
# Of a stopped rank, in seconds; with the default heartbeat of 60 s they are 120 and 180. The margin
# is for processes of a busy machine that come to their turn late.
NAMED_WITHIN, ENDED_WITHIN, MARGIN = 2 * HEARTBEAT, 3 * HEARTBEAT, 25.0
SETTINGS = [
    f"faults.heartbeat_seconds={HEARTBEAT}",
    "checkpoint.asynchronous=false",  # else saving goes on beside the next steps
]


def stop_in(phase: str) -> None:
    """Makes this process stop itself in a phase."""
    from megaxlm.checkpoint import writer
    from megaxlm.checkpoint.reader import CheckpointReader
    from megaxlm.evaluation import perplexity
    from megaxlm.train.engine import TrainingEngine

    calls = 0

    def stopping(original: Callable[..., Any], at_call: int) -> Callable[..., Any]:
        def stop(*arguments: Any, **named: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == at_call:
                time.sleep(1.5)  # for a beat to tell of the phase
                os.kill(os.getpid(), signal.SIGSTOP)
            return original(*arguments, **named)

        return stop

    owner, name, at_call = {
        "training": (TrainingEngine, "train_step", 2),
        "evaluation": (perplexity, "_loss_sum", 1),
        "saving": (writer, "write_safetensors", 1),
        "loading": (CheckpointReader, "read", 1),
    }[phase]
    setattr(owner, name, stopping(getattr(owner, name), at_call))


def command(launcher: str, phase: str, config: Path) -> list[str]:
    arguments = [phase, "pretrain", str(config), "--set", *SETTINGS]
    return launch_command(launcher, *arguments, program=__file__)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stops")
    random = np.random.default_rng(0)
    documents = [list(map(int, random.integers(4, 40, 30))) for _ in range(200)]
    data = folder / "data"
    write_dataset(data, {"en": documents}, vocab_size=48, validation={"en": documents[:8]})
    write_small_config(folder / "run.yaml", data, steps=10_000, every_steps=3)
    return folder / "run.yaml"


@pytest.mark.parametrize(
    ("launcher", "phase", "last"),  # of the same run: each goes on where the one before was ended
    [
        ("mpiexec", "evaluation", "evaluation at step 0"),
        ("torchrun", "saving", "saving step 3"),
        ("deepspeed", "training", "step 2"),  # what was being saved is not there
        ("torchrun", None, ""),  # killed after a checkpoint
        ("mpiexec", "loading", "loading step-"),
    ],
)
def test_a_stopped_rank_is_named_and_nothing_is_left(
    config: Path, launcher: str, phase: str | None, last: str
) -> None:
    run_dir = config.with_suffix("")
    run_dir.with_suffix(".out").unlink(missing_ok=True)
    with running(command(launcher, phase or "none", config), run_dir) as run:
        if phase is None:
            run.wait_for(lambda: run.step() >= 5)
            run.ranks()[1].kill()
        else:
            run.wait_for(run.has_stopped_rank)
            stopped = time.monotonic()
            run.wait_for_line("megaxlm: error: rank 1 (", NAMED_WITHIN + MARGIN)
        assert run.wait() != 0
        run.wait_for_none_left(35)
        assert phase is None or time.monotonic() - stopped < ENDED_WITHIN + MARGIN
    said = [line for line in run.said().splitlines() if "megaxlm: error: rank 1 (" in line]
    assert len(said) == 1, run.said()
    if phase is None:
        # The phase is that of the last beat, which may be seconds old: a step, or what came before.
        assert re.search(r"died, last in [a-z].*: killed", said[0]), said
        return
    assert "has not answered for" in said[0] and f"last in {last}" in said[0]
    assert "the process is stopped" in said[0]
    stacks = (run_dir / "stacks" / "rank-00000.txt").read_text()
    assert "trainer.py" in stacks and said[0].removeprefix("megaxlm: error: ") in stacks
    assert not (run_dir / "stacks" / "rank-00001.txt").exists()


if __name__ == "__main__":
    rank = next(os.environ[name] for name in ("RANK", "PMI_RANK") if name in os.environ)
    chosen = sys.argv.pop(sys.argv.index("pretrain") - 1)
    if chosen != "none" and rank == "1":
        stop_in(chosen)
    from megaxlm.cli import run as megaxlm

    megaxlm()
