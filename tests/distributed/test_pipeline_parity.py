"""A pipeline against a plain torch run of the whole model and all micro-batches in one process."""

import dataclasses
import functools
import gc
import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn

from megaxlm.config.deepspeed import builtin_deepspeed_config, resolve_deepspeed_config
from megaxlm.config.pretrain import PretrainConfig
from megaxlm.distributed import environment, reduce
from megaxlm.model.dropout_key import DropoutKey
from megaxlm.model.encoder import MaskedLanguageModel
from megaxlm.model.initialization import initialize
from megaxlm.model.pipeline import TIED_PARAMETER
from megaxlm.optim.schedules import learning_rate
from megaxlm.testing.distributed import run_distributed
from megaxlm.testing.models import nan_weights, random_micro_batch, tiny_model_config
from megaxlm.train.initial_weights import InitialWeights

pytestmark = pytest.mark.distributed

STEPS, LAYERS, LANGUAGES, SEED = 3, 5, 3, 3
CLIPPING = 1.6  # below some norms of these runs, above others


@dataclass(frozen=True)
class Case:
    stages: int
    replicas: int
    accumulation: tuple[int, ...]  # micro-batches of a replica, step by step
    tied: bool
    pre_norm: bool = False
    precision: str = "fp32"
    dropout: float = 0.0
    recompute: bool | int = False
    lr_decay: float = 1.0  # a layer down, which gives the stages unlike groups of parameters
    broken_step: int | None = None  # in which one micro-batch has a NaN

    @property
    def name(self) -> str:
        kinds = ["tied" if self.tied else "untied", "pre" if self.pre_norm else "post"]
        kinds += [self.precision] + ["dropout"] * bool(self.dropout)
        kinds += [f"recompute-{self.recompute}"] * bool(self.recompute)
        kinds += ["lr-decay"] * (self.lr_decay < 1)
        kinds += ["nan"] * (self.broken_step is not None)
        each = "-".join(map(str, sorted(set(self.accumulation))))
        return f"{self.stages}x{self.replicas}-accumulate-{each}-" + "-".join(kinds)

    @property
    def processes(self) -> int:
        return self.stages * self.replicas


CASES = [
    Case(stages, replicas, (accumulation,) * STEPS, tied, pre_norm=accumulation == 2)
    for stages in (1, 2, 4)
    for replicas in (1, 2)
    for accumulation in (1, 2, 4)
    for tied in (True, False)
]
CASES += [
    Case(2, 1, (4,) * STEPS, True, precision="bf16"),
    Case(2, 2, (1,) * STEPS, False, pre_norm=True, precision="bf16"),
    Case(4, 1, (2,) * STEPS, False, precision="bf16"),
    Case(4, 2, (1,) * STEPS, True, pre_norm=True, precision="bf16"),
]
CASES += [
    Case(2, 1, (2,) * STEPS, True, dropout=0.1, recompute=1),
    Case(2, 2, (3, 1, 2), True, pre_norm=True, dropout=0.1),
    Case(4, 1, (4,) * STEPS, False, dropout=0.1, recompute=True),
    Case(2, 1, (2,) * STEPS, True, lr_decay=0.5),
    Case(2, 2, (2,) * STEPS, True, precision="bf16", lr_decay=0.5),
    Case(2, 4, (2,) * STEPS, True),
    Case(2, 2, (2,) * STEPS, True, broken_step=1),
    Case(2, 2, (2,) * STEPS, True, precision="bf16", broken_step=1),
    Case(4, 1, (2,) * STEPS, False, broken_step=1),
]
FP32 = [case for case in CASES if case.precision == "fp32"]


def case_config(case: Case) -> PretrainConfig:
    model = tiny_model_config(
        num_hidden_layers=LAYERS, pre_norm=case.pre_norm, dropout=case.dropout
    )
    return PretrainConfig.model_validate(
        {
            "run_dir": "unused",
            "seed": SEED,
            "data": {"path": "unused", "seq_len": 16},
            "model": {
                **model.model_dump(),
                "tie_word_embeddings": case.tied,
                "activation_checkpointing": case.recompute,
            },
            "optimizer": {"lr": 3e-3, "weight_decay": 0.1, "layer_lr_decay": case.lr_decay},
            "schedule": {"name": "linear", "warmup_steps": 2},
            "training": {
                "max_steps": STEPS,
                "global_batch_size": 2 * case.accumulation[0] * case.replicas,
                "micro_batch_size": 2,
                "precision": case.precision,
                "zero_stage": 1,
                "pipeline_stages": case.stages,
                "gradient_clipping": CLIPPING,
            },
        }
    )


def micro_batch(case: Case, step: int, number: int, replica: int) -> Any:
    batch = random_micro_batch(100 * step + number * case.replicas + replica)
    if step == case.broken_step and number == 1 and replica == case.replicas - 1:
        nan = torch.full_like(batch.target_weight, math.nan)
        batch = dataclasses.replace(batch, target_weight=nan)
    return batch


def rate(config: PretrainConfig, step: int) -> float:
    return learning_rate(step, config.optimizer.lr, config.schedule, STEPS)


def scale(case: Case, name: str) -> float:
    part, number, *_ = name.split(".")
    depth = {"head": 0, "final_norm": 0, "embeddings": LAYERS + 1}
    return case.lr_decay ** (LAYERS - int(number) if part == "layers" else depth[part])


@functools.cache
@nan_weights()
def plain_run(case: Case) -> dict[str, Any]:
    config = case_config(case)
    model = MaskedLanguageModel(config.model)
    initialize(model, config.model, SEED)
    groups = [
        {"params": [p], "weight_decay": 0.1 * (p.ndim > 1), "scale": scale(case, name)}
        for name, p in model.named_parameters()
    ]
    optimizer = torch.optim.AdamW(groups, betas=config.optimizer.betas, eps=config.optimizer.eps)
    losses, norms, languages = [], [], []
    for step, accumulation in enumerate(case.accumulation):
        count, total = accumulation * case.replicas, 0.0
        sums = torch.zeros(2, LANGUAGES, dtype=torch.float64)
        for number in range(count):
            batch = micro_batch(case, step, *divmod(number, case.replicas))
            loss, each = model(
                batch.tokens,
                batch.positions,
                batch.cu_seqlens,
                batch.target_index,
                batch.targets,
                batch.target_weight,
                batch.seq_len,
                DropoutKey.of(SEED, batch.row_ids, batch.seq_len),
            )
            (loss / count).backward()
            total += float(loss.detach()) / count
            counted = batch.target_weight > 0
            where = batch.languages[batch.target_index][counted]
            sums[0].index_add_(0, where, each[counted].double())
            sums[1].index_add_(0, where, torch.ones(len(where), dtype=torch.float64))
        norm = nn.utils.clip_grad_norm_(model.parameters(), CLIPPING)
        for group in optimizer.param_groups:
            group["lr"] = rate(config, step) * group["scale"]
        if math.isfinite(norm):
            optimizer.step()
        optimizer.zero_grad()
        losses.append(total)
        norms.append(float(norm))
        languages.append(sums)
    weights = {name: value.detach() for name, value in model.named_parameters()}
    return {
        "losses": losses,
        "norms": norms,
        "languages": torch.stack(languages),
        "weights": weights,
    }


def engine_runs(cases: list[Case]) -> list[dict[str, Any]]:
    with nan_weights():
        return _engine_runs(cases)


def _engine_runs(cases: list[Case]) -> list[dict[str, Any]]:
    from megaxlm.train.backend import connect
    from megaxlm.train.engine import TrainingEngine
    from megaxlm.train.pipeline_engine import PipelineTrainingEngine

    place, cpu = environment.discover(), torch.device("cpu")
    connect(place, cpu)
    gc.freeze()  # DeepSpeed collects garbage a dozen times for each bf16 engine
    results = []
    for case in cases:
        config = case_config(case)
        resolved = resolve_deepspeed_config(builtin_deepspeed_config(1), config, place.world_size)
        kind = PipelineTrainingEngine if case.stages > 1 else TrainingEngine
        initial = InitialWeights(config.model, SEED)
        engine = kind(config, LANGUAGES, resolved, place, cpu, initial)
        engine.load_initial()
        steps, languages = [], []
        for step, accumulation in enumerate(case.accumulation):
            batches = [
                micro_batch(case, step, number, engine.grid.data_rank)
                for number in range(accumulation)
            ]
            steps.append(engine.train_step(batches, rate(config, step)))
            languages.append(torch.stack([steps[-1].language_loss_sum, steps[-1].language_targets]))
        modules = engine.model.pipeline.stage if case.stages > 1 else engine.model
        parameters = dict(modules.named_parameters())
        results.append(
            {
                "losses": [step.loss for step in steps],
                "norms": [step.grad_norm for step in steps],
                "skipped": [step.skipped for step in steps],
                "languages": reduce.all_sum(torch.stack(languages)),
                "fragments": [
                    (f.name, f.shape, f.start, f.tensor.clone()) for f in engine.fragments()
                ],
                "optimizer_step": engine.optimizer_step,
                "word": parameters[TIED_PARAMETER].detach().clone()
                if TIED_PARAMETER in parameters
                else None,
                "grad_dtypes": {name: str(value.grad_dtype) for name, value in parameters.items()},
                "dtypes": {str(value.dtype) for value in parameters.values()},
            }
        )
        engine.close(disconnect_ranks=False)
    return results


@pytest.fixture(scope="module")
def results() -> dict[Case, list[dict[str, Any]]]:
    """Every case's results, rank by rank; all cases of a number of processes share one start."""
    found: dict[Case, list[dict[str, Any]]] = {}
    for processes in sorted({case.processes for case in CASES}):
        cases = [case for case in CASES if case.processes == processes]
        by_rank = run_distributed(engine_runs, processes, cases, timeout_seconds=600)
        for number, case in enumerate(cases):
            found[case] = [rank[number] for rank in by_rank]
    return found


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


def whole_steps(case: Case) -> list[int]:
    return [step for step in range(STEPS) if step != case.broken_step]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_loss_and_gradient_norm_are_those_of_one_process(results: Any, case: Case) -> None:
    plain, tolerance = plain_run(case), 1e-5 if case.precision == "fp32" else 1e-2
    for rank in results[case]:
        for step in whole_steps(case):
            assert rank["losses"][step] == pytest.approx(plain["losses"][step], rel=tolerance)
            assert rank["norms"][step] == pytest.approx(plain["norms"][step], rel=tolerance)
            torch.testing.assert_close(
                rank["languages"][step],
                plain["languages"][step],
                rtol=tolerance,
                atol=1e-6,
            )
        assert rank["losses"] == pytest.approx(results[case][0]["losses"], rel=0, nan_ok=True)
        assert rank["norms"] == results[case][0]["norms"]
        wanted = "torch.float32" if case.precision == "fp32" else "torch.bfloat16"
        assert rank["dtypes"] == {wanted}


@pytest.mark.parametrize("case", FP32, ids=lambda case: case.name)
def test_weights_are_those_of_one_process(results: Any, case: Case) -> None:
    weights, plain = assembled(results[case], "model/"), plain_run(case)["weights"]
    assert weights.keys() == plain.keys()
    for name, value in weights.items():
        torch.testing.assert_close(value, plain[name], rtol=1e-4, atol=1e-5, msg=name)
    for prefix in ("exp_avg/", "exp_avg_sq/"):
        moments = assembled(results[case], prefix)
        assert {name: value.shape for name, value in moments.items()} == {
            name: value.shape for name, value in plain.items()
        }
        assert all(value.abs().max() > 0 for value in moments.values())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_step_is_skipped_by_every_stage_or_by_none(results: Any, case: Case) -> None:
    for rank in results[case]:
        assert rank["skipped"] == [step == case.broken_step for step in range(STEPS)]
        assert rank["optimizer_step"] == len(whole_steps(case))
        if case.broken_step is not None:
            assert not math.isfinite(rank["norms"][case.broken_step])


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.tied and case.stages > 1], ids=lambda case: case.name
)
def test_tied_copies_stay_equal_bit_for_bit(results: Any, case: Case) -> None:
    copies = [rank["word"] for rank in results[case] if rank["word"] is not None]
    assert len(copies) == 2 * case.replicas
    for copy in copies[1:]:
        assert torch.equal(copy, copies[0])


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.tied and case.stages > 1], ids=lambda case: case.name
)
def test_the_copy_sums_its_gradients_in_fp32(results: Any, case: Case) -> None:
    for rank in results[case][-case.replicas :]:
        assert rank["grad_dtypes"][TIED_PARAMETER] == "torch.float32"


def test_these_runs_put_clipping_and_updates_to_work() -> None:
    norms = [norm for case in FP32 for norm in plain_run(case)["norms"] if math.isfinite(norm)]
    assert min(norms) < CLIPPING < max(norms)
    for case in FP32:
        config = case_config(case)
        fresh = MaskedLanguageModel(config.model)
        initialize(fresh, config.model, SEED)
        for name, value in fresh.named_parameters():
            moved = (plain_run(case)["weights"][name] - value).abs().max()
            assert moved > 1e-4, name
