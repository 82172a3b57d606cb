"""Runs that train by kernels take the steps of runs that train by torch, under every layout.

Without a GPU the library's CPU implementations stand in for the kernels.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from megaxlm.config.deepspeed import builtin_deepspeed_config, resolve_deepspeed_config
from megaxlm.config.pretrain import PretrainConfig
from megaxlm.distributed import environment
from megaxlm.testing.distributed import run_distributed
from megaxlm.testing.models import random_micro_batch, tiny_model_config
from megaxlm.train.initial_weights import InitialWeights

pytestmark = pytest.mark.distributed

STEPS, WORLD_SIZE, MICRO_BATCHES = 3, 2, 4
PARTITION_ALL = {"stage3_param_persistence_threshold": 100, "sub_group_size": 4000}
BUILDS = Path(__file__).resolve().parents[2] / "build" / "kernels"


@dataclass(frozen=True)
class Layout:
    stage: int
    precision: str = "fp32"
    stages: int = 1
    pre_norm: bool = False


LAYOUTS = [
    Layout(1),
    Layout(3),
    Layout(3, pre_norm=True),
    Layout(2, "bf16"),
    Layout(1, stages=2),
]


def config_of(layout: Layout, kernels: str) -> PretrainConfig:
    model = tiny_model_config(num_hidden_layers=2, pre_norm=layout.pre_norm)
    return PretrainConfig.model_validate(
        {
            "run_dir": "unused",
            "data": {"path": "unused", "seq_len": 16},
            "model": {**model.model_dump(), "intermediate_size": 48, "activation_checkpointing": 1},
            "optimizer": {"lr": 3e-3},
            "training": {
                "max_steps": STEPS,
                "global_batch_size": 2 * MICRO_BATCHES,
                "micro_batch_size": 2,
                "precision": layout.precision,
                "zero_stage": layout.stage,
                "pipeline_stages": layout.stages,
                "kernels": kernels,
            },
        }
    )


def run_layouts(layouts: list[Layout]) -> dict[tuple[Layout, str], list[tuple[float, float]]]:
    """Returns (loss, gradient norm) of each step."""
    from megaxlm.train.backend import connect
    from megaxlm.train.engine import TrainingEngine
    from megaxlm.train.pipeline_engine import PipelineTrainingEngine

    os.environ["MEGAXLM_KERNELS_DIR"] = str(BUILDS)
    place, cpu = environment.discover(), torch.device("cpu")
    connect(place, cpu)
    records: dict[Any, list[tuple[float, float]]] = {}
    for layout in layouts:
        for kernels in ("torch", "cuda"):
            config = config_of(layout, kernels)
            raw = builtin_deepspeed_config(layout.stage)
            if layout.stage == 3:
                raw["zero_optimization"].update(PARTITION_ALL)
            resolved = resolve_deepspeed_config(raw, config, place.world_size)
            kind = PipelineTrainingEngine if layout.stages > 1 else TrainingEngine
            initial = InitialWeights(config.model, config.seed)
            engine = kind(config, 3, resolved, place, cpu, initial)
            engine.load_initial()
            replicas = place.world_size // layout.stages
            records[layout, kernels] = []
            for step in range(STEPS):
                batches = [
                    random_micro_batch(step * MICRO_BATCHES + number)
                    for number in range(engine.grid.data_rank, MICRO_BATCHES, replicas)
                ]
                result = engine.train_step(batches, 3e-3)
                records[layout, kernels].append((result.loss, result.grad_norm))
            engine.close(disconnect_ranks=False)
    return records


@pytest.fixture(scope="module")
def records() -> dict[tuple[Layout, str], list[tuple[float, float]]]:
    return run_distributed(run_layouts, WORLD_SIZE, LAYOUTS, timeout_seconds=400)[0]


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_kernels_train_as_torch_does(records: Any, layout: Layout) -> None:
    tolerance = 1e-5 if layout.precision == "fp32" else 1e-2
    found, expected = records[layout, "cuda"], records[layout, "torch"]
    assert len({loss for loss, _ in expected}) == STEPS
    for (loss, norm), (expected_loss, expected_norm) in zip(found, expected, strict=True):
        assert loss == pytest.approx(expected_loss, rel=tolerance)
        assert norm == pytest.approx(expected_norm, rel=10 * tolerance)
