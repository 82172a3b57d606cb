"""A resume in fresh processes goes on digit for digit; any layout reads what another wrote."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from megaxlm.checkpoint.reader import CheckpointReader
from megaxlm.checkpoint.writer import CheckpointWriter
from megaxlm.config.deepspeed import builtin_deepspeed_config, resolve_deepspeed_config
from megaxlm.config.pretrain import PretrainConfig
from megaxlm.distributed import environment, reduce
from megaxlm.errors import UserError
from megaxlm.optim.schedules import learning_rate
from megaxlm.testing.distributed import run_distributed
from megaxlm.testing.models import join_micro_batches, random_micro_batch, tiny_model_config
from megaxlm.train.initial_weights import InitialWeights

pytestmark = pytest.mark.distributed

STEPS, SAVED_AT = 6, 3
MICRO_BATCHES = 4  # a step, over all ranks
PARTITION_ALL = {"stage3_param_persistence_threshold": 100, "sub_group_size": 4000}


@dataclass(frozen=True)
class Job:
    """Train from `load_from` (or from the start) to `until`, saving once on the way."""

    name: str
    stage: int
    precision: str
    dropout: float
    until: int = STEPS
    load_from: str | None = None  # name of the job whose checkpoint is read
    load_step: int = SAVED_AT
    save_at: int | None = None
    evaluate: bool = False  # between steps
    joined: int = 1  # micro-batches of the others that are one here


def job_config(job: Job) -> PretrainConfig:
    return PretrainConfig.model_validate(
        {
            "run_dir": "unused",
            "seed": 5,
            "data": {"path": "unused", "seq_len": 16},
            "model": tiny_model_config(dropout=job.dropout).model_dump(),
            "optimizer": {"lr": 3e-3, "weight_decay": 0.1},
            "schedule": {"name": "cosine", "warmup_steps": 2},
            "training": {
                "max_steps": STEPS,
                "global_batch_size": 2 * MICRO_BATCHES,
                "micro_batch_size": 2 * job.joined,
                "precision": job.precision,
                "zero_stage": job.stage,
            },
        }
    )


def run_jobs(folder: Path, jobs: list[Job]) -> dict[str, Any]:
    """Returns (loss, gradient norm) by job and step, and every job's settings by group."""
    from megaxlm.train.backend import connect
    from megaxlm.train.engine import TrainingEngine

    place = environment.discover()
    connect(place, torch.device("cpu"))
    records: dict[str, Any] = {}
    for job in jobs:
        config = job_config(job)
        raw = builtin_deepspeed_config(job.stage)
        if job.stage == 3:
            raw["zero_optimization"].update(PARTITION_ALL)
        resolved = resolve_deepspeed_config(raw, config, place.world_size)
        initial = InitialWeights(config.model, config.seed)
        engine = TrainingEngine(config, 3, resolved, place, torch.device("cpu"), initial)
        engine.load_initial()
        first = 0
        if job.load_from is not None:
            path = folder / job.load_from / "checkpoints" / f"step-{job.load_step:08d}"
            reader = CheckpointReader(path)
            engine.load(reader, reader.shared["optimizer_step"])
            first = reader.shared["step"]
            assert engine.optimizer_step == first
        records[job.name] = {}
        for step in range(first, job.until):
            batches = [
                join_micro_batches(
                    [
                        random_micro_batch(step * MICRO_BATCHES + number * job.joined + part)
                        for part in range(job.joined)
                    ]
                )
                for number in range(place.rank, MICRO_BATCHES // job.joined, place.world_size)
            ]
            lr = learning_rate(step, config.optimizer.lr, config.schedule, STEPS)
            result = engine.train_step(batches, lr)
            records[job.name][step] = (result.loss, result.grad_norm)
            if job.evaluate:
                evaluate(engine.forward_module, seed=1000 + step)
            if step + 1 == job.save_at:
                writer = CheckpointWriter(
                    folder / job.name, place.rank, place.world_size, reduce.barrier, reduce.all_ok
                )
                shared = {"step": step + 1, "optimizer_step": engine.optimizer_step}
                writer.save(step + 1, engine.fragments(), {}, shared)
        groups = engine._engine.basic_optimizer.param_groups
        records[f"{job.name} groups"] = [
            {key: value for key, value in group.items() if key != "params"} for group in groups
        ]
        engine.close(disconnect_ranks=False)
    return records


def evaluate(module: torch.nn.Module, seed: int) -> None:
    module.eval()
    batch = random_micro_batch(seed)
    with torch.no_grad():
        first, again = (
            module(
                batch.tokens,
                batch.positions,
                batch.cu_seqlens,
                batch.target_index,
                batch.targets,
                batch.target_weight,
                batch.seq_len,
            )[1]
            for _ in range(2)
        )
    assert torch.equal(first, again)  # no dropout


def refused_load(folder: Path) -> str:
    """Loads a checkpoint of another model; returns the message."""
    from megaxlm.train.backend import connect
    from megaxlm.train.engine import TrainingEngine

    place = environment.discover()
    connect(place, torch.device("cpu"))
    config = job_config(Job("other", 1, "fp32", 0.0))
    wider = config.model.model_copy(update={"intermediate_size": 64})
    config = config.model_copy(update={"model": wider})
    resolved = resolve_deepspeed_config(builtin_deepspeed_config(1), config, place.world_size)
    initial = InitialWeights(config.model, config.seed)
    engine = TrainingEngine(config, 3, resolved, place, torch.device("cpu"), initial)
    engine.load_initial()
    reader = CheckpointReader(folder / "plain-1" / "checkpoints" / f"step-{SAVED_AT:08d}")
    with pytest.raises(UserError) as caught:
        engine.load(reader, 3)
    return str(caught.value)


EXACT = [
    Job(f"stage-{stage}-{precision}", stage, precision, dropout=0.1, save_at=SAVED_AT)
    for precision in ("fp32", "bf16")
    for stage in range(4)
]
EVALUATED = [
    Job(f"{job.name}-evaluated", job.stage, job.precision, job.dropout, evaluate=True)
    for job in EXACT
    if job.name in ("stage-0-fp32", "stage-1-bf16", "stage-2-fp32", "stage-3-fp32")
]
PLAIN = [Job(f"plain-{stage}", stage, "fp32", 0.1, save_at=SAVED_AT) for stage in (1, 3)]
NO_DROPOUT = Job("no-dropout", 1, "fp32", 0.0, until=2)
ONE_RANK = Job(
    "one-rank", 2, "fp32", 0.1, until=SAVED_AT + 1, load_from="plain-1", save_at=SAVED_AT + 1
)
# Each goes on where another layout stopped.
CROSSED = [
    Job("3-from-1", 3, "fp32", 0.1, load_from="plain-1"),
    Job("0-from-3", 0, "fp32", 0.1, load_from="plain-3"),
    Job("2-from-3", 2, "fp32", 0.1, load_from="plain-3"),
    Job("3-from-one-rank", 3, "fp32", 0.1, load_from="one-rank", load_step=SAVED_AT + 1),
    Job("larger-micro-batches", 1, "fp32", 0.1, load_from="plain-1", joined=2),
    Job("1-bf16-from-3-fp32", 1, "bf16", 0.1, load_from="plain-3"),
    Job("3-bf16-from-1-bf16", 3, "bf16", 0.1, load_from="stage-1-bf16"),
    Job("2-bf16-from-3-bf16", 2, "bf16", 0.1, load_from="stage-3-bf16"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def records(folder: Path) -> dict[str, list[Any]]:
    """Steps and groups of every job, by name, on every rank."""
    resumed = [
        Job(f"{job.name}-resumed", job.stage, job.precision, job.dropout, load_from=job.name)
        for job in EXACT
    ]
    found: dict[str, list[Any]] = {}
    first = [*EXACT, *PLAIN, *EVALUATED, NO_DROPOUT]
    starts = ((2, first), (1, [ONE_RANK]), (2, resumed + CROSSED))
    for world_size, jobs in starts:
        for rank in run_distributed(run_jobs, world_size, folder, jobs, timeout_seconds=240):
            for name, steps in rank.items():
                found.setdefault(name, []).append(steps)
    return found


@pytest.mark.parametrize("job", EXACT, ids=lambda job: job.name)
def test_resume_is_exact_with_dropout(records: Any, job: Job) -> None:
    unbroken, resumed = records[job.name], records[f"{job.name}-resumed"]
    for rank in (0, 1):
        assert list(resumed[rank]) == list(range(SAVED_AT, STEPS))
        for step, values in resumed[rank].items():
            assert values == unbroken[rank][step], step
    assert len({loss for loss, _ in unbroken[0].values()}) == STEPS


@pytest.mark.parametrize("job", EVALUATED, ids=lambda job: job.name)
def test_evaluation_leaves_no_trace(records: Any, job: Job) -> None:
    assert records[job.name] == records[job.name.removesuffix("-evaluated")]


def test_dropout_matters(records: Any) -> None:
    dropped, whole = records["stage-1-fp32"][0], records["no-dropout"][0]
    for step, (loss, _) in whole.items():
        assert loss != pytest.approx(dropped[step][0], rel=1e-4)


def test_stages_drop_the_same(records: Any) -> None:
    for stage in (0, 2, 3):
        for step, (loss, norm) in records[f"stage-{stage}-fp32"][0].items():
            expected_loss, expected_norm = records["stage-1-fp32"][0][step]
            assert loss == pytest.approx(expected_loss, rel=1e-6)
            assert norm == pytest.approx(expected_norm, rel=1e-4)


@pytest.mark.parametrize("job", [*CROSSED[:5], ONE_RANK], ids=lambda job: job.name)
def test_another_layout_goes_on_with_dropout(records: Any, job: Job) -> None:
    for rank in records[job.name]:
        assert rank
        for step, (loss, norm) in rank.items():
            expected_loss, expected_norm = records["plain-1"][0][step]
            assert loss == pytest.approx(expected_loss, rel=1e-6)
            assert norm == pytest.approx(expected_norm, rel=1e-4)


@pytest.mark.parametrize("job", CROSSED[6:], ids=lambda job: job.name)
def test_another_stage_goes_on_in_bf16(records: Any, job: Job) -> None:
    loss, _ = records[job.name][0][SAVED_AT]
    assert loss == pytest.approx(records[job.load_from][0][SAVED_AT][0], rel=1e-3)


def test_another_precision_goes_on(records: Any) -> None:
    for step, (loss, _) in records["1-bf16-from-3-fp32"][0].items():
        assert loss == pytest.approx(records["plain-3"][0][step][0], rel=1e-2)


def test_optimizer_groups_are_the_same_field_by_field(records: Any) -> None:
    (expected, other) = records["plain-1 groups"]
    assert [group["weight_decay"] for group in expected] == [0.1, 0.0]
    assert expected == other
    for job in (*CROSSED[:5], PLAIN[1]):
        for groups in records[f"{job.name} groups"]:
            assert groups == expected, job.name


def test_checkpoint_of_another_model_is_refused_on_every_rank(records: Any, folder: Path) -> None:
    messages = run_distributed(refused_load, 2, folder)
    assert messages[0] == messages[1]
    assert "has shape (49, 24), the model has (64, 24)" in messages[0]
    assert str(folder) in messages[0] and "\n" not in messages[0]
