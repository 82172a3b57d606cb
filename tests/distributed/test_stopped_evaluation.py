"""A stop that is asked for before or in an evaluation does not wait for it, and loses none of it.

This file is also the program that the launcher starts: it signals rank 1 in an evaluation, for
real, and is otherwise the command itself.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from megaxlm.testing.datasets import write_dataset
from megaxlm.testing.launchers import BIN, running, write_small_config

pytestmark = pytest.mark.distributed

STEPS = 4
LANGUAGES = ("de", "en", "fr")


def signal_in_evaluation(step: int) -> None:
    """Makes this process ask for a stop in the first language of the evaluation of a step."""
    from megaxlm.evaluation import perplexity
    from megaxlm.train.trainer import Trainer

    loss_sum, take_step = perplexity._loss_sum, Trainer._take_step
    at = 0

    def counted(trainer: Trainer) -> None:
        nonlocal at
        at = trainer.step + 1
        take_step(trainer)

    def signalled(*arguments: Any) -> Any:
        nonlocal step
        if at == step:
            step = -1
            os.kill(os.getpid(), signal.SIGTERM)
        print(f"measured at {at}", flush=True)
        return loss_sum(*arguments)

    Trainer._take_step = counted  # type: ignore[method-assign]
    perplexity._loss_sum = signalled


def test_the_resumed_run_does_what_a_stop_has_cut_off(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    documents = [list(map(int, random.integers(4, 40, 30))) for _ in range(60)]
    text = dict.fromkeys(LANGUAGES, documents)
    write_dataset(tmp_path / "data", text, vocab_size=48, validation=text)
    panels = {}
    for name in ("unbroken", "stopped"):
        config = tmp_path / f"{name}.yaml"
        run_dir = write_small_config(config, tmp_path / "data", STEPS, every_steps=100)
        more = ["pretrain", str(config), "--set", "evaluation.every_steps=2"]
        launch = [str(BIN / "mpiexec"), "-n", "2", sys.executable, __file__]
        if name == "stopped":
            with running([*launch, "2", *more], run_dir) as run:
                assert run.wait() == 75, run.said()
                assert "stopped on request at step 2" in run.said()
                # 4 rows of a language are 2 micro-batches for each rank; the others were left out.
                assert run.said().count("measured at 2") == 2 * 2, run.said()
            assert not (run_dir / "checkpoints" / "step-00000003").exists()
        with running([*launch, "-1", *more], run_dir) as run:
            assert run.wait() == 0, run.said()
        panels[name] = json.loads((run_dir / "evaluation.json").read_text())
        for entry in panels[name]:
            entry.pop("model")  # the folder's name
    assert [entry["step"] for entry in panels["stopped"]] == [0, 2, STEPS]
    assert panels["stopped"] == panels["unbroken"]


if __name__ == "__main__":
    rank = next(os.environ[name] for name in ("RANK", "PMI_RANK") if name in os.environ)
    chosen = int(sys.argv.pop(1))
    signal_in_evaluation(chosen if rank == "1" else -1)
    from megaxlm.cli import run as megaxlm

    megaxlm()
