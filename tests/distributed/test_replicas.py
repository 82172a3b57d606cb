"""One flipped bit in the weights of one of two ranks stops both; without it they go on."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from megaxlm.config.deepspeed import builtin_deepspeed_config, resolve_deepspeed_config
from megaxlm.config.pretrain import PretrainConfig
from megaxlm.distributed import environment
from megaxlm.errors import EXIT_FOUND_WRONG, UserError
from megaxlm.testing.distributed import run_distributed
from megaxlm.testing.faults import run_program
from megaxlm.testing.launchers import (
    launch_command,
    running,
    write_small_config,
    write_small_dataset,
)
from megaxlm.testing.models import random_micro_batch, tiny_model_config
from megaxlm.train.initial_weights import InitialWeights

pytestmark = pytest.mark.distributed

FLIPPED = "layers.1.attention_norm.weight"  # at stage 3 every rank keeps it whole
LAYOUTS = [(stage, precision) for stage in range(4) for precision in ("fp32", "bf16")]


def config_of(
    stage: int, precision: str, pipeline_stages: int = 1, tied: bool = True
) -> PretrainConfig:
    model = tiny_model_config(dropout=0.1).model_dump()
    return PretrainConfig.model_validate(
        {
            "run_dir": "unused",
            "data": {"path": "unused", "seq_len": 16},
            "model": model | {"tie_word_embeddings": tied},
            "training": {
                "max_steps": 4,
                "global_batch_size": 4,
                "micro_batch_size": 2,
                "precision": precision,
                "zero_stage": stage,
                "pipeline_stages": pipeline_stages,
            },
        }
    )


def said(engine: Any, step: int) -> tuple[str, int]:
    """What a check that is due raises; nothing if all is well."""
    from megaxlm.train.callbacks.replicas import Replicas

    trainer = cast(Any, SimpleNamespace(engine=engine, max_steps=100))
    record = cast(Any, SimpleNamespace(step=step))
    check = Replicas(every_steps=2, checkpoint_steps=5)
    try:
        check.on_step_end(trainer, record)
    except UserError as error:
        return str(error), error.exit_code
    return "", 0


def flip(tensor: torch.Tensor) -> None:
    bits = tensor.detach().view(-1).view({2: torch.int16, 4: torch.int32}[tensor.element_size()])
    bits[3] ^= 1  # the last of the mantissa


def train_and_flip() -> dict[tuple[int, str], list[tuple[str, int]]]:
    """Trains in every layout and returns what checks say: well, not due, flipped on rank 1."""
    from megaxlm.train.backend import connect
    from megaxlm.train.engine import TrainingEngine
    from megaxlm.train.replicas import replicated_tensors

    place = environment.discover()
    connect(place, torch.device("cpu"))
    found: dict[tuple[int, str], list[tuple[str, int]]] = {}
    for stage, precision in LAYOUTS:
        config = config_of(stage, precision)
        raw = builtin_deepspeed_config(stage)
        if stage == 3:
            raw["zero_optimization"]["stage3_param_persistence_threshold"] = 100
        resolved = resolve_deepspeed_config(raw, config, place.world_size)
        initial = InitialWeights(config.model, config.seed)
        engine = TrainingEngine(config, 3, resolved, place, torch.device("cpu"), initial)
        engine.load_initial()
        for step in range(2):
            engine.train_step([random_micro_batch(2 * step + place.rank)], 1e-3)
        well = said(engine, 2)
        tensors = dict(replicated_tensors(engine))
        if place.rank == 1:
            flip(tensors[FLIPPED])
        found[stage, precision] = [well, said(engine, 3), said(engine, 4), said(engine, 5)]
        masters = [name for name in tensors if name.startswith("fp32 master of ")]
        assert bool(masters) == ((stage, precision) == (0, "bf16"))
        assert ("embeddings.word.weight" in tensors) == (stage < 3)
        engine.close(disconnect_ranks=False)
    return found


def train_pipeline_and_flip(tied: bool) -> list[tuple[str, int]]:
    """The same in a pipeline of two stages, which share the tied embedding alone, or nothing."""
    from megaxlm.train.backend import connect
    from megaxlm.train.pipeline_engine import PipelineTrainingEngine
    from megaxlm.train.replicas import replicated_tensors

    place = environment.discover()
    connect(place, torch.device("cpu"))
    config = config_of(1, "fp32", pipeline_stages=2, tied=tied)
    resolved = resolve_deepspeed_config(builtin_deepspeed_config(1), config, place.world_size)
    initial = InitialWeights(config.model, config.seed)
    engine = PipelineTrainingEngine(config, 3, resolved, place, torch.device("cpu"), initial)
    engine.load_initial()
    for step in range(2):
        batches = [random_micro_batch(2 * step + number) for number in range(2)]
        engine.train_step(batches, 1e-3)
    well = said(engine, 2)
    if place.rank == 1 and tied:
        flip(dict(replicated_tensors(engine))["embeddings.word.weight"])
    return [well, said(engine, 4)]


@pytest.fixture(scope="module")
def found() -> list[dict[tuple[int, str], list[tuple[str, int]]]]:
    return run_distributed(train_and_flip, 2, timeout_seconds=400)


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: f"stage {layout[0]} {layout[1]}")
def test_a_flipped_bit_stops_both_ranks(found: Any, layout: tuple[int, str]) -> None:
    for rank in found:
        well, not_due, flipped, before_a_checkpoint = rank[layout]
        assert well == ("", 0) and not_due == ("", 0)
        message, code = flipped
        assert code == EXIT_FOUND_WRONG and "\n" not in message
        assert "at step 4" in message and f"first in {FLIPPED}: ranks 0 and 1" in message
        assert before_a_checkpoint[1] == EXIT_FOUND_WRONG
    assert found[0][layout] == found[1][layout]


def test_tied_embeddings_of_a_pipeline_are_compared() -> None:
    for well, flipped in run_distributed(train_pipeline_and_flip, 2, True, timeout_seconds=200):
        assert well == ("", 0)
        assert flipped[1] == EXIT_FOUND_WRONG
        assert "embeddings.word.weight: ranks 0 and 1 do not agree" in flipped[0]


def test_stages_that_share_nothing_are_not_compared() -> None:
    for well, later in run_distributed(train_pipeline_and_flip, 2, False, timeout_seconds=200):
        assert well == ("", 0) and later == ("", 0)


def test_a_run_whose_replicas_drift_apart_ends_before_it_saves_them(tmp_path: Path) -> None:
    """The command itself: checked every two steps, one weight of rank 1 is another after step 4."""
    write_small_dataset(tmp_path / "data")
    config = tmp_path / "run.yaml"
    run_dir = write_small_config(config, tmp_path / "data", 200, every_steps=3)
    plan = json.dumps({"drift_at": 4, "rank": 1})
    # At stage 0: with partitions, the next update overwrites one rank's odd weight.
    settings = ["--set", "faults.replica_check_steps=2", "training.zero_stage=0"]
    command = launch_command("torchrun", plan, "pretrain", str(config), *settings, program=__file__)
    with running(command, run_dir) as run:
        assert run.wait() == EXIT_FOUND_WRONG, run.said()
        run.wait_for_none_left(30)
    errors = [line for line in run.said().splitlines() if line.startswith("megaxlm: error:")]
    assert len(errors) == 1, run.said()
    assert "must be equal differ at step 6" in errors[0] and "ranks 0 and 1" in errors[0]
    assert "embeddings.word.weight" in errors[0]
    saved = [path.name for path in (run_dir / "checkpoints").glob("step-*")]
    assert saved == ["step-00000003"]
    assert not (run_dir / "COMPLETED").exists() and not (run_dir / "STOPPED").exists()


if __name__ == "__main__":
    run_program()
