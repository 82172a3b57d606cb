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
    tied: bool = True
    lr_decay: float = 1.0  # a layer down, which gives the stages unlike groups of parameters


# One process trains and saves; every layout loads that and saves it again, untouched.
STARTS = [
    Job("one-fp32", 1, TRAINED, save_at=TRAINED),
    Job("one-bf16", 1, TRAINED, save_at=TRAINED, precision="bf16"),
    Job("one-untied", 1, TRAINED, save_at=TRAINED, tied=False),
]


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
ON_TWO = [
    Job(f"{name}-{kind}", stages, TRAINED, f"one-{kind}", TRAINED, zero, tied=kind != "untied")
    for kind in ("fp32", "untied")
    for name, stages, zero in (("2x1", 2, 1), ("zero-2", 1, 2), ("zero-3-on-two", 1, 3))
]
# From a pipeline to one of other stages: 2x1 to 4x1, which takes a step of its own, to 2x2.
DECAYS = {"plain": 1.0, "decay": 0.8}
for kind, decay in DECAYS.items():
    two, four = f"two-{kind}", f"four-{kind}"
    ON_TWO.append(Job(two, 2, STEPS, None, TRAINED, lr_decay=decay))
    JOBS += [
        Job(f"{four}-untouched", 4, TRAINED + 1, two, TRAINED, lr_decay=decay),
        Job(four, 4, STEPS, two, TRAINED + 1, lr_decay=decay),
        Job(f"two-again-{kind}", 2, STEPS, four, TRAINED + 1, lr_decay=decay),
    ]


def job_config(job: Job, changes: dict[str, Any] | None = None) -> PretrainConfig:
    model = tiny_model_config(num_hidden_layers=4, dropout=0.1, pre_norm=job.precision == "bf16")
    return PretrainConfig.model_validate(
        {
            "run_dir": "unused",
            "seed": 5,
            "data": {"path": "unused", "seq_len": 16},
            "model": {
                **model.model_dump(),
                "tie_word_embeddings": job.tied,
                **(changes or {}),
            },
            "optimizer": {"lr": 3e-3, "weight_decay": 0.1, "layer_lr_decay": job.lr_decay},
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


def settings_of(engine: Any) -> dict[str, Any]:
    """Returns every field of its group, and what its state is, for each parameter held here."""
    inner, found = engine._engine.basic_optimizer, {}
    for piece in engine._fragments._held:
        group = {key: of for key, of in inner.param_groups[piece.group].items() if key != "params"}
        state = {
            key: (str(of.dtype), of.numel() == piece.master.numel())
            for key, of in inner.state[piece.master].items()
            if key != "step"
        }
        found[piece.name] = (group, state, float(inner.state[piece.master]["step"]))
    return found


def run_jobs(folder: Path, jobs: list[Job]) -> dict[str, Any]:
    """Returns (loss, gradient norm) by job and step, and the settings behind each step."""
    gc.freeze()  # DeepSpeed collects garbage a dozen times for each bf16 engine
    records: dict[str, Any] = {}
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
        records[job.name], settings = {}, {}
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
            settings[step] = settings_of(engine)
        records[f"{job.name} settings"] = settings
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
def starts(folder: Path) -> tuple[dict[str, list[Any]], list[str]]:
    """Steps and settings of every job, by name, on every rank; what each says of another model."""
    alone = run_distributed(run_jobs, 1, folder, STARTS, timeout_seconds=300)
    two = run_distributed(run_jobs, 2, folder, ON_TWO, timeout_seconds=300)
    four = run_distributed(all_in_one_start, 4, folder, JOBS, timeout_seconds=500)
    found = {
        name: [rank[name] for rank in ranks]
        for ranks in (alone, two, [records for records, _ in four])
        for name in ranks[0]
    }
    return found, [message for _, message in four]


@pytest.fixture(scope="module")
def records(starts: Any) -> dict[str, list[Any]]:
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
    for layout in ("2x2", "4x1", "zero-3", "2x1", "zero-2", "zero-3-on-two"):
        assert exported(folder, f"{layout}-fp32") == expected, layout
    # They are not equal for want of training.
    untrained = InitialWeights(job_config(Job("one", 1, 0)).model, 5)
    weights = load_weights(folder / "one-fp32").parameters
    for name, value in weights.items():
        first = untrained.read(f"model/{name}", 0, value.numel())
        assert (value.reshape(-1) - first).abs().max() > 1e-5, name


def test_every_layout_exports_the_same_bytes_untied(records: Any, folder: Path) -> None:
    expected = exported(folder, "one-untied")
    for layout in ("2x1", "zero-2", "zero-3-on-two"):
        assert exported(folder, f"{layout}-untied") == expected, layout
    word, decoder = (
        load_weights(folder / "one-untied").parameters[name]
        for name in ("embeddings.word.weight", "head.decoder.weight")
    )
    assert word.shape == decoder.shape and not torch.equal(word, decoder)


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


@pytest.mark.parametrize("kind", DECAYS)
def test_a_pipeline_goes_on_with_other_stages(records: Any, kind: str) -> None:
    unbroken = records[f"two-{kind}"][0]
    losses = [loss for loss, _ in unbroken.values()]
    assert len(set(losses)) == STEPS
    for job, first in ((f"four-{kind}", TRAINED), (f"two-again-{kind}", TRAINED + 1)):
        for steps in records[job]:
            assert sorted(steps) == list(range(first, STEPS))
            for step, (loss, norm) in steps.items():
                rel = 1e-6 if step == first else 1e-5
                assert loss == pytest.approx(unbroken[step][0], rel=rel), job
                assert norm == pytest.approx(unbroken[step][1], rel=1e-5), job


@pytest.mark.parametrize("kind", DECAYS)
def test_other_stages_hold_the_same_state(records: Any, folder: Path, kind: str) -> None:
    """Every tensor that there is, weights and moments, bit for bit."""
    for source, copy, step in (
        (f"two-{kind}", f"four-{kind}-untouched", TRAINED),
        (f"four-{kind}", f"two-again-{kind}", TRAINED + 1),
    ):
        name = f"step-{step:08d}"
        with (
            CheckpointReader(folder / source / "checkpoints" / name) as expected,
            CheckpointReader(folder / copy / "checkpoints" / name) as found,
        ):
            assert sorted(found.names()) == sorted(expected.names())
            assert {name.partition("/")[0] for name in found.names()} == {
                "model",
                "exp_avg",
                "exp_avg_sq",
            }
            for tensor in expected.names():
                assert torch.equal(found.full(tensor), expected.full(tensor)), tensor


@pytest.mark.parametrize("kind", DECAYS)
def test_optimizer_groups_of_other_stages_are_the_same_field_by_field(
    records: Any, kind: str
) -> None:
    def by_parameter(job: str, step: int) -> dict[str, Any]:
        """What all ranks together say of each parameter; those that hold a part of one agree."""
        whole: dict[str, Any] = {}
        for settings in records[f"{job} settings"]:
            for name, of in settings[step].items():
                assert whole.setdefault(name, of) == of, (job, name)
        return whole

    compared = [(f"four-{kind}-untouched", TRAINED + 1)]
    compared += [(f"four-{kind}", step) for step in range(TRAINED + 1, STEPS + 1)]
    compared += [(f"two-again-{kind}", step) for step in range(TRAINED + 2, STEPS + 1)]
    for job, step in compared:
        found, expected = by_parameter(job, step), by_parameter(f"two-{kind}", step)
        assert found == expected, (job, step)
        assert {count for _, _, count in found.values()} == {step}
    group, state, _ = found["layers.0.feed_forward.up.weight"]
    assert {"lr", "betas", "eps", "weight_decay", "lr_scale", "name", "moments"} <= group.keys()
    assert state.keys() == {"exp_avg", "exp_avg_sq"}
    assert all(
        of == ("torch.float32", True) for _, each, _ in found.values() for of in each.values()
    )
    rates = {group["lr"] for group, _, _ in found.values()}
    # Head, four layers, embeddings.
    assert len(rates) == (6 if kind == "decay" else 1)
    assert {group["weight_decay"] for group, _, _ in found.values()} == {0.1, 0.0}


def test_checkpoint_of_another_model_is_refused_on_every_stage(starts: Any) -> None:
    messages = starts[1]
    assert len(messages) == 4 and len(set(messages)) == 1
    assert "head.decoder.weight" in messages[0] and "\n" not in messages[0]
