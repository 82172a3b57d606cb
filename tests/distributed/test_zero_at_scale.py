"""ZeRO with partitioned construction, offload, overlap and hpZ: the presets as they are shipped."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from megaxlm.checkpoint.reader import CheckpointReader
from megaxlm.checkpoint.writer import CheckpointWriter
from megaxlm.config.deepspeed import resolve_deepspeed_config
from megaxlm.config.pretrain import PretrainConfig
from megaxlm.distributed import environment, reduce
from megaxlm.testing.distributed import run_distributed
from megaxlm.testing.models import random_micro_batch, tiny_model_config
from megaxlm.train.initial_weights import InitialWeights

pytestmark = pytest.mark.distributed

PRESETS = Path(__file__).parents[2] / "configs" / "deepspeed"
RANKS = 4
STEPS = 3
# Sizes of a tiny model: without them nothing would be partitioned, bucketed or prefetched.
SMALL = {
    "reduce_bucket_size": 3000,
    "stage3_param_persistence_threshold": 100,
    "stage3_prefetch_bucket_size": 2000,
    "sub_group_size": 4000,
}
JOBS = [
    ("zero1", "fp32"),
    ("zero2-offload", "fp32"),
    ("zero2-overlap", "fp32"),
    ("zero3", "fp32"),
    ("zero3-offload", "fp32"),
    ("zero3-overlap", "fp32"),
    ("zero3-hpz", "fp32"),
    ("zero1", "bf16"),
    ("zero2-offload", "bf16"),
    ("zero3-offload", "bf16"),
    ("zero3-hpz", "bf16"),
]


def config_of(precision: str) -> PretrainConfig:
    return PretrainConfig.model_validate(
        {
            "run_dir": "unused",
            "seed": 7,
            "data": {"path": "unused", "seq_len": 16},
            "model": tiny_model_config(dropout=0.1).model_dump(),
            "optimizer": {"lr": 3e-3, "weight_decay": 0.1},
            "training": {
                "max_steps": STEPS,
                "global_batch_size": 4 * RANKS,
                "micro_batch_size": 2,
                "precision": precision,
            },
        }
    )


def deepspeed_config(preset: str, config: PretrainConfig, ranks: int) -> dict[str, Any]:
    raw = json.loads((PRESETS / f"{preset}.json").read_text())
    zero = raw["zero_optimization"]
    if (preset, config.training.precision) != ("zero1", "bf16"):  # which has buckets of its own
        zero.update({key: value for key, value in SMALL.items() if key in zero})
    if "zero_hpz_partition_size" in zero:
        zero["zero_hpz_partition_size"] = 2  # two nodes of two
    return resolve_deepspeed_config(raw, config, ranks)


def build(preset: str, precision: str) -> Any:
    from megaxlm.train.engine import TrainingEngine

    config = config_of(precision)
    place = environment.discover()
    return TrainingEngine(
        config,
        3,
        deepspeed_config(preset, config, place.world_size),
        place,
        torch.device("cpu"),
        InitialWeights(config.model, config.seed),
    )


def train(folder: Path) -> dict[str, list[tuple[float, float]]]:
    """Returns (loss, gradient norm) of every step by job, and of a resume from each fp32 job."""
    from megaxlm.train.backend import connect

    place = environment.discover()
    connect(place, torch.device("cpu"))

    def step(engine: Any, number: int) -> tuple[float, float]:
        first = (number * 2) * RANKS + place.rank
        batches = [random_micro_batch(first), random_micro_batch(first + RANKS)]
        result = engine.train_step(batches, 1e-3)
        return result.loss, result.grad_norm

    results = {}
    for preset, precision in JOBS:
        name = f"{preset}-{precision}"
        engine = build(preset, precision)
        engine.load_initial()
        results[name] = [step(engine, number) for number in range(STEPS)]
        writer = CheckpointWriter(
            folder / name, place.rank, place.world_size, reduce.barrier, reduce.all_ok
        )
        shared = {"optimizer_step": engine.optimizer_step}
        path = writer.save(STEPS, engine.fragments(), {}, shared)
        results[f"{name} next"] = [step(engine, STEPS)]
        engine.close(disconnect_ranks=False)
        resumed = build("zero3-hpz" if preset == "zero3-offload" else "zero3-offload", precision)
        resumed.load(CheckpointReader(path), STEPS)
        results[f"{name} resumed"] = [step(resumed, STEPS)]
        resumed.close(disconnect_ranks=False)
    return results


def build_in_parts() -> dict[str, Any]:
    """Builds a ZeRO-3 engine and watches how much of the model is ever on this rank."""
    from megaxlm.model.layer import EncoderLayer
    from megaxlm.train.backend import connect

    place = environment.discover()
    connect(place, torch.device("cpu"))
    whole_before: list[int] = []
    made: list[EncoderLayer] = []
    original = EncoderLayer.__init__

    def watched(self: EncoderLayer, *arguments: Any) -> None:
        whole_before.append(
            sum(p.numel() for layer in made for p in layer.parameters() if p.device.type != "meta")
        )
        original(self, *arguments)
        made.append(self)

    EncoderLayer.__init__ = watched  # type: ignore[method-assign]
    engine = build("zero3", "bf16")
    EncoderLayer.__init__ = original  # type: ignore[method-assign]
    read: list[int] = []
    source = engine._initial
    ranges = source.read
    source.read = lambda name, start, numel: (read.append(numel), ranges(name, start, numel))[1]
    engine.load_initial()
    parameters = list(engine.model.parameters())
    return {
        "whole_before": whole_before,
        "read": sum(read),
        "held": sum(p.ds_tensor.ds_numel for p in parameters if not p.ds_persist),
        "whole": sum(p.numel() for p in parameters if not p.ds_persist),
        "total": sum(p.ds_numel for p in parameters),
    }


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[tuple[float, float]]]:
    ranks = run_distributed(train, RANKS, tmp_path_factory.mktemp("runs"), timeout_seconds=480)
    assert all(rank == ranks[0] for rank in ranks)
    return ranks[0]


@pytest.mark.parametrize(("preset", "precision"), JOBS)
def test_presets_train_the_same_run(results: Any, preset: str, precision: str) -> None:
    tolerance = 1e-5 if precision == "fp32" else 1e-2
    for found, expected in zip(
        results[f"{preset}-{precision}"], results[f"zero1-{precision}"], strict=True
    ):
        assert found == pytest.approx(expected, rel=tolerance)


@pytest.mark.parametrize(("preset", "precision"), JOBS)
def test_any_preset_resumes_from_any_other(results: Any, preset: str, precision: str) -> None:
    (found,), (unbroken,) = (
        results[f"{preset}-{precision} {kind}"] for kind in ("resumed", "next")
    )
    assert found[0] == pytest.approx(unbroken[0], rel=1e-6 if precision == "fp32" else 1e-3)


def test_no_rank_ever_holds_the_whole_model() -> None:
    ranks = run_distributed(build_in_parts, 2)
    for rank in ranks:
        assert set(rank["whole_before"]) == {0}  # each layer was cut up before the next was made
        assert rank["whole"] == 0
        assert rank["held"] <= rank["total"] / 2 * 1.05  # partitions are rounded up
    assert sum(rank["read"] for rank in ranks) == rank["total"]
    assert max(rank["read"] for rank in ranks) < 0.55 * rank["total"]
