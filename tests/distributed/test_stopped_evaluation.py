"""A stop asked for before or in an evaluation does not wait for it, and loses none of it."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from megaxlm.testing.datasets import write_dataset
from megaxlm.testing.distributed import Ranks
from megaxlm.testing.launchers import (
    START_SECONDS,
    run_megaxlm,
    start_forked,
    write_small_config,
)

pytestmark = pytest.mark.distributed

STEPS = 4
LANGUAGES = ("de", "en", "fr")


def signal_in_evaluation(step: int, *command: str) -> None:
    """Is the command; rank 1 gets SIGTERM in the first language of the evaluation of a step."""
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
        if at == step and os.environ["RANK"] == "1":
            step = -1
            os.kill(os.getpid(), signal.SIGTERM)
        print(f"measured at {at}", flush=True)
        return loss_sum(*arguments)

    Trainer._take_step = counted  # type: ignore[method-assign]
    perplexity._loss_sum = signalled
    run_megaxlm(*command)


def test_the_resumed_run_does_what_a_stop_has_cut_off(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    documents = [list(map(int, random.integers(4, 40, 30))) for _ in range(60)]
    text = dict.fromkeys(LANGUAGES, documents)
    write_dataset(tmp_path / "data", text, vocab_size=48, validation=text)
    panels = {}
    for name in ("unbroken", "stopped"):
        config = tmp_path / f"{name}.yaml"
        run_dir = write_small_config(config, tmp_path / "data", STEPS, every_steps=100)
        command = ("pretrain", str(config), "--set", "evaluation.every_steps=2")
        if name == "stopped":
            with Ranks(signal_in_evaluation, 2, 2, *command) as ranks:
                codes, said = ranks.finish(START_SECONDS)
                assert codes == [75, 75] and "stopped on request at step 2" in said, said
                # 4 rows of a language are 2 micro-batches for each rank; the others were left out.
                assert said.count("measured at 2") == 2 * 2, said
            assert not (run_dir / "checkpoints" / "step-00000003").exists()
        with start_forked(2, *command) as ranks:
            codes, said = ranks.finish(START_SECONDS)
            assert codes == [0, 0], said
        panels[name] = json.loads((run_dir / "evaluation.json").read_text())
        for entry in panels[name]:
            entry.pop("model")  # the folder's name
    assert [entry["step"] for entry in panels["stopped"]] == [0, 2, STEPS]
    assert panels["stopped"] == panels["unbroken"]
