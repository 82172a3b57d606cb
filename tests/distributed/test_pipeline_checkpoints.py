"""A checkpoint does not know of pipelines: any layout exports the same bytes and goes on."""

import gc
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from megaxlm.checkpoint.exchange import export_checkpoint
from megaxlm.checkpoint.reader import CheckpointReader
from megaxlm.checkpoint.resolve import load_weights
from megaxlm.checkpoint.writer import CheckpointWriter
from megaxlm.config.deepspeed import builtin_deepspeed_config, resolve_deepspeed_config
from megaxlm.config.pretrain import PretrainConfig
from megaxlm.distributed import environment, reduce
from megaxlm.errors import UserError
from megaxlm.optim.schedules import learning_rate
from megaxlm.testing.distributed import run_distributed
from megaxlm.testing.models import random_micro_batch, tiny_model_config
from megaxlm.train.initial_weights import InitialWeights

pytestmark = pytest.mark.distributed

STEPS, MICRO_BATCHES, TRAINED = 6, 4, 2


@dataclass(frozen=True)
class Job:
    """Train from a checkpoint to `until`, saving at the step of loading or at `save_at`."""

    name: str
    stages: int
    until: int
    load_from: str | None = None  # job whose newest checkpoint is read
    save_at: int | None = None
    zero: int = 1
    precision: str = "fp32"


def start_jobs(precision: str) -> list[Job]:
    """One process trains and saves; every layout loads that and saves it again, untouched."""
    return [Job(f"one-{precision}", 1, TRAINED, save_at=TRAINED, precision=precision)]


def layout_jobs(precision: str, layouts: tuple[str, ...]) -> list[Job]:
    one, given = f"one-{precision}", {"precision": precision}
    jobs = [
        Job(f"2x2-{precision}", 2, STEPS, one, TRAINED, **given),
        Job(f"4x1-{precision}", 4, TRAINED + 1, one, TRAINED, **given),
        Job(f"zero-3-{precision}", 1, TRAINED + 1, one, TRAINED, zero=3, **given),
    ]
    # Pipeline, ZeRO-3, pipeline of other stages.
    a, b, c = (f"chain-{link}-{precision}" for link in "abc")
    chain = [
        Job(a, 2, TRAINED + 1, one, TRAINED + 1, **given),
        Job(b, 1, TRAINED + 2, a, TRAINED + 2, zero=3, **given),
        Job(c, 4, STEPS, b, **given),
    ]
    return [job for job in jobs if job.name.removesuffix(f"-{precision}") in layouts] + chain


LAYOUTS = {"fp32": ("2x2", "4x1", "zero-3"), "bf16": ("2x2",)}
JOBS = [job for precision, layouts in LAYOUTS.items() for job in layout_jobs(precision, layouts)]


def job_config(job: Job, changes: dict[str, Any] | None = None) -> PretrainConfig:
    model = tiny_model_config(num_hidden_layers=4, dropout=0.1, pre_norm=job.precision == "bf16")
    return PretrainConfig.model_validate(
        {
            "run_dir": "unused",
            "seed": 5,
            "data": {"path": "unused", "seq_len": 16},
            "model": {**model.model_dump(), **(changes or {})},
            "optimizer": {"lr": 3e-3, "weight_decay": 0.1},
            "schedule": {"name": "cosine", "warmup_steps": 2},
            "training": {
                "max_steps": STEPS,
                "global_batch_size": 2 * MICRO_BATCHES,
                "micro_batch_size": 2,
                "precision": job.precision,
                "zero_stage": job.zero,
                "pipeline_stages": job.stages,
            },
        }
    )


def engine_of(job: Job, config: PretrainConfig) -> Any:
    from megaxlm.train.backend import connect
    from megaxlm.train.engine import TrainingEngine
    from megaxlm.train.pipeline_engine import PipelineTrainingEngine

    place, cpu = environment.discover(), torch.device("cpu")
    connect(place, cpu)
    resolved = resolve_deepspeed_config(
        builtin_deepspeed_config(job.zero), config, place.world_size
    )
    kind = PipelineTrainingEngine if job.stages > 1 else TrainingEngine
    engine = kind(config, 3, resolved, place, cpu, InitialWeights(config.model, config.seed))
    engine.load_initial()
    return engine


def run_jobs(folder: Path, jobs: list[Job]) -> dict[str, dict[int, tuple[float, float]]]:
    """Returns (loss, gradient norm) by job and step."""
    gc.freeze()  # DeepSpeed collects garbage a dozen times for each bf16 engine
    records: dict[str, dict[int, tuple[float, float]]] = {}
    for job in jobs:
        config = job_config(job)
        engine, step = engine_of(job, config), 0
        if job.load_from is not None:
            newest = max((folder / job.load_from / "checkpoints").glob("step-*"))
            with CheckpointReader(newest) as reader:
                engine.load(reader, reader.shared["optimizer_step"])
                step = reader.shared["step"]
            assert engine.optimizer_step == step
        place, grid = environment.discover(), engine.grid
        writer = CheckpointWriter(
            folder / job.name, place.rank, place.world_size, reduce.barrier, reduce.all_ok
        )
        records[job.name] = {}
        while True:
            if step == job.save_at:
                shared = {
                    "step": step,
                    "optimizer_step": engine.optimizer_step,
                    "model": config.model.model_dump(mode="json"),
                }
                writer.save(step, engine.fragments(), {}, shared)
            if step == job.until:
                break
            batches = [
                random_micro_batch(step * MICRO_BATCHES + number)
                for number in range(grid.data_rank, MICRO_BATCHES, grid.data_world_size)
            ]
            lr = learning_rate(step, config.optimizer.lr, config.schedule, STEPS)
            result = engine.train_step(batches, lr)
            assert not result.skipped
            records[job.name][step] = (result.loss, result.grad_norm)
            step += 1
        engine.close(disconnect_ranks=False)
    return records


def all_in_one_start(folder: Path, jobs: list[Job]) -> tuple[dict[str, Any], str]:
    """Runs the jobs; then refuses a model whose difference the last stage alone can see."""
    records, job = run_jobs(folder, jobs), Job("other", 4, 0)
    engine = engine_of(job, job_config(job, {"tie_word_embeddings": False}))
    reader = CheckpointReader(folder / "one-fp32" / "checkpoints" / f"step-{TRAINED:08d}")
    with pytest.raises(UserError) as caught:
        engine.load(reader, TRAINED)
    return records, str(caught.value)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def starts(folder: Path) -> tuple[dict[str, list[dict[int, tuple[float, float]]]], list[str]]:
    """Steps of every job, by name, on every rank; and what each rank says of another model."""
    first = start_jobs("fp32") + start_jobs("bf16")
    (alone,) = run_distributed(run_jobs, 1, folder, first, timeout_seconds=300)
    ranks = run_distributed(all_in_one_start, 4, folder, JOBS, timeout_seconds=400)
    found = {job.name: [alone[job.name]] for job in first}
    found |= {job.name: [steps[job.name] for steps, _ in ranks] for job in JOBS}
    return found, [message for _, message in ranks]


@pytest.fixture(scope="module")
def records(starts: Any) -> dict[str, list[dict[int, tuple[float, float]]]]:
    return starts[0]


def exported(folder: Path, job: str) -> dict[str, bytes]:
    tokenizer = folder / job / "tokenizer"
    tokenizer.mkdir(exist_ok=True)
    (tokenizer / "sentencepiece.bpe.model").write_bytes(b"a stand-in: exports copy it")
    out = folder / f"exported-{job}"
    export_checkpoint(folder / job / "checkpoints" / f"step-{TRAINED:08d}", out)
    return {path.name: path.read_bytes() for path in out.iterdir()}


def test_every_layout_exports_the_same_bytes(records: Any, folder: Path) -> None:
    expected = exported(folder, "one-fp32")
    assert {"model.safetensors", "config.json"} <= expected.keys()
    for job in ("2x2-fp32", "4x1-fp32", "zero-3-fp32"):
        assert exported(folder, job) == expected
    # They are not equal for want of training.
    untrained = InitialWeights(job_config(Job("one", 1, 0)).model, 5)
    weights = load_weights(folder / "one-fp32").parameters
    for name, value in weights.items():
        first = untrained.read(f"model/{name}", 0, value.numel())
        assert (value.reshape(-1) - first).abs().max() > 1e-5, name


@pytest.mark.parametrize(
    ("layout", "precision"),
    [(layout, precision) for precision, layouts in LAYOUTS.items() for layout in layouts],
)
def test_every_layout_holds_the_same_state(
    records: Any, folder: Path, layout: str, precision: str
) -> None:
    """Masters and moments in fp32, also where the model trains in bf16."""
    name = f"step-{TRAINED:08d}"
    with (
        CheckpointReader(folder / f"one-{precision}" / "checkpoints" / name) as expected,
        CheckpointReader(folder / f"{layout}-{precision}" / "checkpoints" / name) as found,
    ):
        assert found.world_size == 4
        names = [*expected.names("model/"), *expected.names("exp_avg/")]
        names += expected.names("exp_avg_sq/")
        assert sorted(names) == sorted(
            name for prefix in ("model/", "exp_avg/", "exp_avg_sq/") for name in found.names(prefix)
        )
        for name in names:
            assert torch.equal(found.full(name), expected.full(name)), name


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-6), ("bf16", 1e-3)])
def test_pipeline_to_zero_3_to_pipeline_goes_on(
    records: Any, precision: str, tolerance: float
) -> None:
    unbroken = records[f"2x2-{precision}"]
    first_steps = {f"{layout}-{precision}": TRAINED for layout in LAYOUTS[precision]}
    first_steps |= {f"chain-b-{precision}": TRAINED + 1, f"chain-c-{precision}": TRAINED + 2}
    for job, first in first_steps.items():
        for rank, steps in enumerate(records[job]):
            assert min(steps) == first
            assert steps[first][0] == pytest.approx(unbroken[rank][first][0], rel=tolerance), job
    for rank, steps in enumerate(records[f"chain-c-{precision}"]):
        assert sorted(steps) == list(range(TRAINED + 2, STEPS))
        for step, (loss, norm) in steps.items():
            assert loss == pytest.approx(unbroken[rank][step][0], rel=10 * tolerance)
            assert norm == pytest.approx(unbroken[rank][step][1], rel=10 * tolerance)
    losses = [loss for loss, _ in unbroken[0].values()]
    assert len(set(losses)) == len(losses)


def test_checkpoint_of_another_model_is_refused_on_every_stage(starts: Any) -> None:
    messages = starts[1]
    assert len(messages) == 4 and len(set(messages)) == 1
    assert "head.decoder.weight" in messages[0] and "\n" not in messages[0]
