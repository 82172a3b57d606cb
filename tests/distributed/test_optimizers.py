"""Optimizers that need whole parameters give one process's result however ZeRO cuts them up."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from megaxlm.config.deepspeed import builtin_deepspeed_config, resolve_deepspeed_config
from megaxlm.config.pretrain import PretrainConfig
from megaxlm.distributed import environment
from megaxlm.model.encoder import MaskedLanguageModel
from megaxlm.optim.param_groups import LR_SCALE, parameter_groups
from megaxlm.optim.state import moment_names
from megaxlm.testing import cpu_adam
from megaxlm.testing.distributed import run_distributed
from megaxlm.testing.models import random_micro_batch, tiny_model_config
from megaxlm.train.initial_weights import InitialWeights

pytestmark = pytest.mark.distributed

STEPS, SAVED_AT = 4, 2
MICRO_BATCHES = 6  # a step, over all ranks
RATES = (1e-3, 3e-3, 2e-3, 3e-3)
CUT_SMALL = {"stage3_param_persistence_threshold": 100, "sub_group_size": 4000}
NAMES = ("lamb", "stable_adamw", "muon")
ADAM = "deepspeed_adam"  # is AdamW, but for how its kernel rounds


@dataclass(frozen=True)
class Job:
    """Train with an optimizer at a stage, from the start or from where another job was saved."""

    optimizer: str
    stage: int
    ranks: int
    precision: str = "fp32"
    load_from: str | None = None
    stages: int = 1  # of a pipeline

    @property
    def name(self) -> str:
        """Names the job; a resumed one also says from where."""
        own = f"{self.optimizer}-stage{self.stage}-{self.precision}-{self.ranks}ranks"
        own += f"-pipeline{self.stages}" * (self.stages > 1)
        return own if self.load_from is None else f"{own}-from-{self.load_from}"


def job_config(
    optimizer: str, stage: int | None, precision: str, stages: int = 1
) -> PretrainConfig:
    return PretrainConfig.model_validate(
        {
            "run_dir": "unused",
            "seed": 5,
            "data": {"path": "unused", "seq_len": 16},
            "model": tiny_model_config().model_dump(),
            "optimizer": {
                "name": optimizer,
                "weight_decay": 0.1,
                # The gradient of the attention's key bias is zero but for rounding.
                "eps": 1e-4,
                "layer_lr_decay": 0.8,
                "ema_decay": 0.6,
            },
            "training": {
                "max_steps": STEPS,
                "global_batch_size": 2 * MICRO_BATCHES,
                "micro_batch_size": 2,
                "precision": precision,
                "pipeline_stages": stages,
                "zero_stage": stage,
                "gradient_clipping": 1.0,  # below some norms of these steps
            },
        }
    )


def one_process(optimizer_name: str) -> dict[str, Any]:
    """Trains the plain module with whole parameters."""
    from megaxlm.train.optimizer import build_optimizer

    config = job_config(optimizer_name, None, "fp32")
    model = MaskedLanguageModel(config.model)
    source = InitialWeights(config.model, config.seed)
    named = dict(model.named_parameters())
    with torch.no_grad():
        for name, parameter in named.items():
            parameter.copy_(source.read(f"model/{name}", 0, parameter.numel()).view_as(parameter))
    groups = parameter_groups(named.items(), config.model, config.optimizer)
    optimizer = build_optimizer(config.optimizer, groups, torch.device("cpu"))
    losses, norms = [], []
    for step in range(STEPS):
        total = 0.0
        for number in range(MICRO_BATCHES):
            batch = random_micro_batch(step * MICRO_BATCHES + number)
            loss, _ = model(
                batch.tokens,
                batch.positions,
                batch.cu_seqlens,
                batch.target_index,
                batch.targets,
                batch.target_weight,
                batch.seq_len,
            )
            (loss / MICRO_BATCHES).backward()
            total += float(loss.detach()) / MICRO_BATCHES
        norms.append(float(nn.utils.clip_grad_norm_(model.parameters(), 1.0)))
        for group in optimizer.param_groups:
            group["lr"] = RATES[step] * group[LR_SCALE]
        optimizer.step()
        optimizer.zero_grad()
        losses.append(total)
    state = {f"model/{name}": parameter.detach() for name, parameter in named.items()}
    names = {parameter: name for name, parameter in named.items()}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            for moment in moment_names(group):
                state[f"{moment}/{names[parameter]}"] = optimizer.state[parameter][moment]
    return {"losses": losses, "norms": norms, "state": state}


def whole_state(engine: Any) -> dict[str, Tensor]:
    """Puts the fragments of all ranks together; they must hold every element once."""
    mine = [(f.name, f.shape, f.start, f.tensor.clone()) for f in engine.fragments()]
    everyone: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(everyone, mine)
    state: dict[str, Tensor] = {}
    seen: dict[str, int] = {}
    for name, shape, start, values in (entry for rank in everyone for entry in rank):
        flat = state.setdefault(name, torch.full(shape, float("nan"))).view(-1)
        flat[start : start + values.numel()] = values
        seen[name] = seen.get(name, 0) + values.numel()
    assert all(seen[name] == value.numel() for name, value in state.items())
    return state


def run_jobs(jobs: list[Job], saved: dict[str, dict[str, Tensor]]) -> dict[str, Any]:
    """Returns what every job did, and adds what it would have saved to `saved`."""
    from megaxlm.train.backend import connect
    from megaxlm.train.engine import TrainingEngine
    from megaxlm.train.pipeline_engine import PipelineTrainingEngine
    from megaxlm.train.sources import InMemoryWeights

    place = environment.discover()
    connect(place, torch.device("cpu"))
    cpu_adam.use_stand_in()
    results: dict[str, Any] = {}
    for job in jobs:
        config = job_config(job.optimizer, job.stage, job.precision, job.stages)
        raw = builtin_deepspeed_config(job.stage)
        if job.stage == 3:
            raw["zero_optimization"].update(CUT_SMALL)
        resolved = resolve_deepspeed_config(raw, config, place.world_size)
        initial = InitialWeights(config.model, config.seed)
        kind = PipelineTrainingEngine if job.stages > 1 else TrainingEngine
        engine = kind(config, 3, resolved, place, torch.device("cpu"), initial)
        first = 0
        if job.load_from is None:
            engine.load_initial()
        else:
            first = SAVED_AT
            source = {n.removeprefix("model/"): v for n, v in saved[job.load_from].items()}
            engine.load(InMemoryWeights(source), first)
        losses, norms = [], []
        for step in range(first, STEPS):
            batches = [
                random_micro_batch(step * MICRO_BATCHES + number)
                for number in range(
                    engine.grid.data_rank, MICRO_BATCHES, engine.grid.data_world_size
                )
            ]
            result = engine.train_step(batches, RATES[step])
            assert not result.skipped
            losses.append(result.loss)
            norms.append(result.grad_norm)
            if step + 1 == SAVED_AT and job.load_from is None:
                saved[job.name] = whole_state(engine)
        assert engine.optimizer_step == STEPS
        results[job.name] = {
            "losses": losses,
            "norms": norms,
            "state": whole_state(engine),
            "saved": saved.get(job.name),
        }
        engine.close(disconnect_ranks=False)
    return results


TWO = [Job(name, stage, 2) for name in ("lamb", "muon") for stage in range(4)]
TWO += [Job(name, stage, 2) for name in ("stable_adamw", ADAM) for stage in (1, 3)]
THREE = [Job("lamb", 1, 3), Job("stable_adamw", 3, 3), Job("muon", 1, 3), Job("muon", 3, 3)]
BF16 = [Job(name, stage, 2, "bf16") for name, stage in zip(NAMES, (1, 2, 3), strict=True)]
BF16 += [Job("muon", 0, 2, "bf16"), Job(ADAM, 0, 2, "bf16")]
SAME = [  # goes on in the layout that was saved
    Job(job.optimizer, job.stage, 2, job.precision, load_from=job.name)
    for job in [*TWO, *BF16]
    if job.precision == "bf16" or job.stage == 3
]
OTHER = [  # goes on in another
    Job(name, stage, 3, load_from=f"{name}-stage{saved}-fp32-2ranks")
    for name, stage, saved in zip((*NAMES, ADAM), (3, 2, 0, 2), (0, 3, 1, 3), strict=True)
]
PIPELINED = [Job(name, 1, 4, stages=2) for name in (*NAMES, ADAM)]  # each stage on two ranks
OTHER.append(Job("muon", 1, 4, load_from="muon-stage3-fp32-2ranks", stages=2))


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    two = run_distributed(run_jobs, 2, [*TWO, *BF16, *SAME], {}, timeout_seconds=600)[0]
    saved = {name: found["saved"] for name, found in two.items()}
    for ranks, jobs in ((3, THREE), (4, PIPELINED)):
        jobs = [*jobs, *(job for job in OTHER if job.ranks == ranks)]
        two.update(run_distributed(run_jobs, ranks, jobs, saved, timeout_seconds=600)[0])
    return two


@pytest.fixture(scope="module")
def references() -> dict[str, dict[str, Any]]:
    return {name: one_process(name) for name in NAMES} | {ADAM: one_process("adamw")}


def tolerance(job: Job) -> float:
    return 1e-5 if job.optimizer == ADAM else 1e-6


def assert_same(found: dict[str, Any], expected: dict[str, Any], rtol: float) -> None:
    """Compares what each tensor is, relative to its norm, and the losses."""
    steps = len(found["losses"])
    assert found["losses"] == pytest.approx(expected["losses"][-steps:], rel=rtol)
    assert found["norms"] == pytest.approx(expected["norms"][-steps:], rel=10 * rtol)
    assert found["state"].keys() == expected["state"].keys()
    for name, value in expected["state"].items():
        error = (found["state"][name] - value).norm() / value.norm()
        assert float(error) < rtol, (name, float(error))


@pytest.mark.parametrize("job", [*TWO, *THREE, *PIPELINED], ids=lambda job: job.name)
def test_any_stage_does_what_one_process_does(
    results: dict[str, Any], references: dict[str, Any], job: Job
) -> None:
    assert_same(results[job.name], references[job.optimizer], tolerance(job))


@pytest.mark.parametrize("job", BF16, ids=lambda job: job.name)
def test_bf16_is_near(results: dict[str, Any], references: dict[str, Any], job: Job) -> None:
    found, expected = results[job.name], references[job.optimizer]
    assert found["losses"] == pytest.approx(expected["losses"], rel=1e-2)


@pytest.mark.parametrize("job", SAME, ids=lambda job: job.name)
def test_a_resume_is_exact(results: dict[str, Any], job: Job) -> None:
    found, unbroken = results[job.name], results[str(job.load_from)]
    assert found["losses"] == unbroken["losses"][SAVED_AT:]
    assert all(torch.equal(found["state"][n], value) for n, value in unbroken["state"].items())


@pytest.mark.parametrize("job", OTHER, ids=lambda job: job.name)
def test_a_resume_in_another_layout_goes_on(
    results: dict[str, Any], references: dict[str, Any], job: Job
) -> None:
    assert_same(results[job.name], references[job.optimizer], tolerance(job))


def test_the_optimizers_do_different_things(references: dict[str, Any]) -> None:
    """What is compared above is no rounding of one and the same run."""
    weights = [references[name]["state"]["model/layers.0.feed_forward.up.weight"] for name in NAMES]
    for index, first in enumerate(weights):
        for second in weights[index + 1 :]:
            assert float((first - second).norm() / second.norm()) > 1e-3
