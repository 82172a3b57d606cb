"""Every ZeRO stage against a plain torch run of the same model and batches in one process."""

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import nn

from megaxlm.config.deepspeed import builtin_deepspeed_config, resolve_deepspeed_config
from megaxlm.config.pretrain import PretrainConfig
from megaxlm.distributed import environment, reduce
from megaxlm.model.encoder import MaskedLanguageModel
from megaxlm.model.initialization import initialize
from megaxlm.optim.schedules import learning_rate
from megaxlm.testing.distributed import run_distributed
from megaxlm.testing.models import random_micro_batch, tiny_model_config
from megaxlm.train.initial_weights import InitialWeights

pytestmark = pytest.mark.distributed

WORLD_SIZE = 2
ACCUMULATION = (2, 2, 1, 3, 2)  # micro-batches of each step: the global batch may change
STEPS = len(ACCUMULATION)
LANGUAGES = 3
CLIPPING = 1.35
# Smaller than a layer and than the embedding, so that buckets, oversized parameters and partitioned
# ones all take part.
SMALL_BUCKETS = {
    1: {"reduce_bucket_size": 3000},
    2: {"reduce_bucket_size": 3000},
    3: {
        "reduce_bucket_size": 3000,
        "stage3_param_persistence_threshold": 100,
        "sub_group_size": 4000,
    },
}


@dataclass(frozen=True)
class Run:
    name: str
    stage: int
    precision: str
    zero: dict[str, Any] = field(default_factory=dict)  # on top of SMALL_BUCKETS
    model: dict[str, Any] = field(default_factory=dict)
    pre_norm: bool = False


RUNS = [
    Run(f"stage-{stage}-{precision}", stage, precision)
    for precision in ("fp32", "bf16")
    for stage in range(4)
]
RUNS += [
    Run("round-robin", 2, "fp32", {"round_robin_gradients": True, "parameter_alignment": True}),
    Run("overlapped", 2, "fp32", {"overlap_comm": True}),
    Run("offloaded-1", 1, "fp32", {"offload_optimizer": {"device": "cpu"}}),
    Run(
        "offloaded-3",
        3,
        "fp32",
        {"offload_optimizer": {"device": "cpu"}, "offload_param": {"device": "cpu"}},
    ),
    Run("persistent", 3, "fp32", {"stage3_param_persistence_threshold": 1_000_000}),
    Run("recomputed", 3, "fp32", model={"activation_checkpointing": True}),
    Run("untied", 3, "fp32", model={"tie_word_embeddings": False}),
    Run("pre-norm", 3, "fp32", pre_norm=True),
]
FP32 = [run for run in RUNS if run.precision == "fp32"]
BF16 = [run for run in RUNS if run.precision == "bf16"]


def run_config(run: Run) -> PretrainConfig:
    return PretrainConfig.model_validate(
        {
            "run_dir": "unused",
            "seed": 3,
            "data": {"path": "unused", "seq_len": 16},
            "model": {**tiny_model_config(pre_norm=run.pre_norm).model_dump(), **run.model},
            "optimizer": {"lr": 3e-3, "weight_decay": 0.1},
            "schedule": {"name": "linear", "warmup_steps": 2},
            "training": {
                "max_steps": STEPS,
                "global_batch_size": 2 * ACCUMULATION[0] * WORLD_SIZE,
                "micro_batch_size": 2,
                "precision": run.precision,
                "zero_stage": run.stage,
                "gradient_clipping": CLIPPING,  # below some norms of these steps, above others
            },
        }
    )


def micro_batch(step: int, accumulation: int, rank: int) -> Any:
    return random_micro_batch((step * max(ACCUMULATION) + accumulation) * WORLD_SIZE + rank)


def rate(config: PretrainConfig, step: int) -> float:
    return learning_rate(step, config.optimizer.lr, config.schedule, config.training.max_steps)


def plain_run(config: PretrainConfig) -> dict[str, Any]:
    model = MaskedLanguageModel(config.model)
    initialize(model, config.model, config.seed)
    weights = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim == 1]
    optimizer = torch.optim.AdamW(
        [
            {"params": weights, "weight_decay": config.optimizer.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ],
        betas=config.optimizer.betas,
        eps=config.optimizer.eps,
    )
    losses, norms, languages = [], [], []
    for step in range(STEPS):
        total = 0.0
        sums = torch.zeros(2, LANGUAGES, dtype=torch.float64)
        for accumulation in range(ACCUMULATION[step]):
            for rank in range(WORLD_SIZE):
                batch = micro_batch(step, accumulation, rank)
                loss, each = model(
                    batch.tokens,
                    batch.positions,
                    batch.cu_seqlens,
                    batch.target_index,
                    batch.targets,
                    batch.target_weight,
                    batch.seq_len,
                )
                (loss / (ACCUMULATION[step] * WORLD_SIZE)).backward()
                total += float(loss.detach()) / (ACCUMULATION[step] * WORLD_SIZE)
                for position, value, weight in zip(
                    batch.target_index, each, batch.target_weight, strict=True
                ):
                    language = batch.languages[position]
                    sums[0, language] += float(value) * float(weight)
                    sums[1, language] += float(weight)
        norm = nn.utils.clip_grad_norm_(model.parameters(), config.training.gradient_clipping)
        for group in optimizer.param_groups:
            group["lr"] = rate(config, step)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(total)
        norms.append(float(norm))
        languages.append(sums)
    return {
        "losses": losses,
        "norms": norms,
        "languages": torch.stack(languages),
        "weights": {name: value.detach() for name, value in model.named_parameters()},
    }


def engine_runs(runs: list[Run]) -> list[dict[str, Any]]:
    from megaxlm.train.backend import connect
    from megaxlm.train.engine import TrainingEngine

    place = environment.discover()
    connect(place, torch.device("cpu"))
    results = []
    for run in runs:
        config = run_config(run)
        raw = builtin_deepspeed_config(run.stage)
        if (run.stage, run.precision) != (1, "bf16"):  # whose optimizer has buckets of its own
            raw["zero_optimization"].update(SMALL_BUCKETS.get(run.stage, {}))
        raw["zero_optimization"].update(run.zero)
        deepspeed_config = resolve_deepspeed_config(raw, config, place.world_size)
        initial = InitialWeights(config.model, config.seed)
        engine = TrainingEngine(
            config, LANGUAGES, deepspeed_config, place, torch.device("cpu"), initial
        )
        engine.load_initial()
        losses, norms, languages = [], [], []
        for step in range(STEPS):
            batches = [micro_batch(step, a, place.rank) for a in range(ACCUMULATION[step])]
            result = engine.train_step(batches, rate(config, step))
            assert not result.skipped
            losses.append(result.loss)
            norms.append(result.grad_norm)
            languages.append(torch.stack([result.language_loss_sum, result.language_targets]))
        fragments = [(f.name, f.shape, f.start, f.tensor.clone()) for f in engine.fragments()]
        results.append(
            {
                "losses": losses,
                "norms": norms,
                "languages": reduce.all_sum(torch.stack(languages)),
                "fragments": fragments,
                "optimizer_step": engine.optimizer_step,
                "dtypes": {str(p.dtype) for p in engine.forward_module.parameters()},
                "grad_dtypes": {str(p.grad_dtype) for p in engine.forward_module.parameters()},
            }
        )
        engine.close(disconnect_ranks=False)
    return results


@pytest.fixture(scope="module")
def results() -> dict[str, list[dict[str, Any]]]:
    by_rank = run_distributed(engine_runs, WORLD_SIZE, RUNS, timeout_seconds=240)
    return {run.name: [rank[number] for rank in by_rank] for number, run in enumerate(RUNS)}


def assembled(ranks: list[dict[str, Any]], prefix: str) -> dict[str, torch.Tensor]:
    """Joins the fragments of all ranks, asserting that each element stands in exactly one."""
    whole: dict[str, torch.Tensor] = {}
    counts: dict[str, torch.Tensor] = {}
    for rank in ranks:
        for name, shape, start, values in rank["fragments"]:
            if name.startswith(prefix):
                flat = whole.setdefault(name, torch.zeros(shape)).view(-1)
                count = counts.setdefault(name, torch.zeros(shape, dtype=torch.int64)).view(-1)
                flat[start : start + values.numel()] = values
                count[start : start + values.numel()] += 1
    for name, count in counts.items():
        assert (count == 1).all(), f"{name}: held {count.min()} to {count.max()} times"
    return {name.removeprefix(prefix): value for name, value in whole.items()}


@pytest.mark.parametrize("run", FP32, ids=lambda run: run.name)
def test_fp32_equals_plain_torch(results: Any, run: Run) -> None:
    plain = plain_run(run_config(run))
    assert min(plain["norms"]) < CLIPPING < max(plain["norms"])  # clipping is at work, and is not
    for rank in results[run.name]:
        assert rank["losses"] == pytest.approx(plain["losses"], rel=1e-5)
        assert rank["norms"] == pytest.approx(plain["norms"], rel=1e-5)
        assert rank["optimizer_step"] == STEPS
        torch.testing.assert_close(rank["languages"], plain["languages"], rtol=1e-5, atol=1e-6)
    weights = assembled(results[run.name], "model/")
    assert weights.keys() == plain["weights"].keys()
    for name, value in weights.items():
        torch.testing.assert_close(value, plain["weights"][name], rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("run", BF16, ids=lambda run: run.name)
def test_bf16_stays_within_a_percent(results: Any, run: Run) -> None:
    plain = plain_run(run_config(run))
    for rank in results[run.name]:
        assert rank["dtypes"] == {"torch.bfloat16"}
        assert rank["losses"] == pytest.approx(plain["losses"], rel=1e-2)
        assert rank["norms"] == pytest.approx(plain["norms"], rel=1e-2)
    weights = assembled(results[run.name], "model/")
    # The masters keep what bf16 cannot hold.
    assert any((value != value.bfloat16().float()).any() for value in weights.values())


def test_stage_0_accumulates_bf16_gradients_in_fp32(results: Any) -> None:
    for rank in results["stage-0-bf16"]:
        assert rank["grad_dtypes"] == {"torch.float32"}


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.name)
def test_fragments_hold_every_element_once(results: Any, run: Run) -> None:
    model = MaskedLanguageModel(run_config(run).model)
    shapes = {name: value.shape for name, value in model.named_parameters()}
    for prefix in ("model/", "exp_avg/", "exp_avg_sq/"):
        whole = assembled(results[run.name], prefix)
        assert {name: value.shape for name, value in whole.items()} == shapes
        assert all(value.abs().max() > 0 for value in whole.values())
    held = [sum(f[3].numel() for f in rank["fragments"]) for rank in results[run.name]]
    assert max(held) <= 1.1 * min(held)  # an even share of the writing
