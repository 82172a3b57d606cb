"""A gradient that is not finite on one rank: every rank skips the step, and gives up together."""

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import nn

from megaxlm.config.deepspeed import builtin_deepspeed_config, resolve_deepspeed_config
from megaxlm.config.pretrain import PretrainConfig
from megaxlm.distributed import environment
from megaxlm.testing.distributed import run_distributed
from megaxlm.testing.models import nan_weights, random_micro_batch, tiny_model_config
from megaxlm.train.initial_weights import InitialWeights

pytestmark = pytest.mark.distributed

Run = tuple[int, str, int]  # ZeRO stage, precision, pipeline stages
RUNS: list[Run] = [(stage, precision, 1) for precision in ("fp32", "bf16") for stage in range(4)]
RUNS += [(1, "fp32", 2), (1, "bf16", 2)]


def steps_with_nan(runs: list[Run]) -> list[dict[str, Any]]:
    with nan_weights():
        return _steps_with_nan(runs)


def _steps_with_nan(runs: list[Run]) -> list[dict[str, Any]]:
    from megaxlm.train.backend import connect
    from megaxlm.train.engine import TrainingEngine
    from megaxlm.train.pipeline_engine import PipelineTrainingEngine

    place = environment.discover()
    connect(place, torch.device("cpu"))
    results = []
    for stage, precision, pipeline_stages in runs:
        config = PretrainConfig.model_validate(
            {
                "run_dir": "unused",
                "data": {"path": "unused", "seq_len": 16},
                "model": tiny_model_config().model_dump(),
                "training": {
                    "max_steps": 10,
                    "global_batch_size": 8,
                    "micro_batch_size": 2,
                    "precision": precision,
                    "zero_stage": stage,
                    "pipeline_stages": pipeline_stages,
                },
            }
        )
        resolved = resolve_deepspeed_config(builtin_deepspeed_config(stage), config, 2)
        initial = InitialWeights(config.model, config.seed)
        kind = PipelineTrainingEngine if pipeline_stages > 1 else TrainingEngine
        engine = kind(config, 3, resolved, place, torch.device("cpu"), initial)
        engine.load_initial()

        module = engine._pipeline.stage if pipeline_stages > 1 else engine._engine.module
        decoder = getattr(module.head, "decoder", nn.Identity())  # the first stage has no head
        decode = decoder.forward

        def decode_without_loss(*arguments: Any, decode: Any = decode) -> Any:
            loss, target_losses = decode(*arguments)
            return loss + math.nan, target_losses  # whose gradient is as it was

        def step(seed: int, broken: bool, loss: bool = False, engine: Any = engine) -> Any:
            first = 4 * seed + 2 * engine.grid.data_rank
            batches = [random_micro_batch(first + n) for n in range(engine.grad_accum_steps)]
            if broken and place.rank == 1:
                nan = torch.full_like(batches[0].target_weight, math.nan)
                batches[0] = dataclasses.replace(batches[0], target_weight=nan)
            if loss and place.rank == 1:
                decoder.forward = decode_without_loss  # noqa: B023
            result = engine.train_step(batches, 1e-3)
            decoder.forward = decode  # noqa: B023
            return result

        def values(engine: Any = engine) -> list[torch.Tensor]:
            return [fragment.tensor.clone() for fragment in engine.fragments()]

        before = step(0, broken=False)
        kept = values()
        skipped = [step(1, broken=True), step(1, broken=False, loss=True), step(1, broken=True)]
        unchanged = all(torch.equal(a, b) for a, b in zip(kept, values(), strict=True))
        again = [step(1, broken=False), step(2, broken=False)]
        changed = not all(torch.equal(a, b) for a, b in zip(kept, values(), strict=True))
        optimizer_step = engine.optimizer_step
        engine.load_initial()
        unbroken = [step(number, broken=False) for number in range(3)]
        results.append(
            {
                "skips": [before.skipped, *(each.skipped for each in skipped + again)],
                "skipped_norms": [each.grad_norm for each in skipped],
                "steps": [(each.loss, each.grad_norm) for each in [before, *again]],
                "unbroken": [(each.loss, each.grad_norm) for each in unbroken],
                "unchanged": unchanged,
                "changed": changed,
                "optimizer_step": optimizer_step,
            }
        )
        engine.close(disconnect_ranks=False)
    return results


@pytest.fixture(scope="module")
def results() -> dict[Run, list[dict[str, Any]]]:
    by_rank = run_distributed(steps_with_nan, 2, RUNS, timeout_seconds=240)
    return {run: [rank[number] for rank in by_rank] for number, run in enumerate(RUNS)}


@pytest.mark.parametrize("run", RUNS, ids=str)
def test_every_rank_skips_and_leaves_everything_as_it_was(results: Any, run: Run) -> None:
    for rank in results[run]:
        assert rank["skips"] == [False, True, True, True, False, False]
        assert not any(math.isfinite(norm) for norm in rank["skipped_norms"])
        assert all(math.isfinite(norm) and norm > 0 for _, norm in rank["steps"])
        assert rank["unchanged"] and rank["changed"]
        assert rank["optimizer_step"] == 3


@pytest.mark.parametrize("run", RUNS, ids=str)
def test_a_repeated_step_leaves_no_trace_of_the_skipped_one(results: Any, run: Run) -> None:
    for rank in results[run]:
        assert rank["steps"] == rank["unbroken"]
