"""`megaxlm` with faults that a test asks for: in rows, gradients, weights, disks and processes.

`run_with_faults` changes what the trainer is given and then is the command itself, whatever starts
it: `Ranks` of `megaxlm.testing.distributed` for the price of a fork each, or a launcher.
"""

from __future__ import annotations

import collections
import dataclasses
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from megaxlm.checkpoint import space
from megaxlm.data.batch import MicroBatch
from megaxlm.testing.distributed import Ranks
from megaxlm.testing.launchers import run_megaxlm
from megaxlm.testing.models import nan_weights
from megaxlm.train import recovery
from megaxlm.train.engine import TrainingEngine
from megaxlm.train.pipeline_engine import PipelineTrainingEngine
from megaxlm.train.recovery import Recovery
from megaxlm.train.trainer import Trainer


@dataclasses.dataclass(frozen=True)
class Plan:
    """What goes wrong; steps count from 1."""

    factors: Mapping[int, float] = dataclasses.field(default_factory=dict)  # of losses, by row
    calls: Sequence[int] | None = None  # of `train_step` that have these factors; None: all
    full: Mapping[int, int] = dataclasses.field(default_factory=dict)  # disk, by step to be saved
    stop_at: int | None = None  # the step in which a rank gets SIGTERM
    drift_at: int | None = None  # the step after which one weight is another
    die_after: int | None = None  # the step after which a rank gets SIGKILL
    die_on_rollback: str | None = None  # `dropping`, `dropped` or `after`
    rank: int | None = None  # the one rank to which all this happens; None: each
    until: str | None = None  # it happens in the first start alone, which makes this file


def start_with_faults(plan: Plan, world_size: int, *arguments: str) -> Ranks:
    """Starts ranks of `megaxlm ARGUMENTS` as forks of a process that has torch imported."""
    return Ranks(run_with_faults, world_size, json.dumps(dataclasses.asdict(plan)), *arguments)


def run_with_faults(plan: str, *arguments: str) -> None:
    """Is `megaxlm ARGUMENTS` under a plan, given as a JSON object; ends the process."""
    settings = json.loads(plan)
    for name in ("factors", "full"):
        settings[name] = {int(key): value for key, value in settings.get(name, {}).items()}
    _put_faults(Plan(**settings))
    run_megaxlm(*arguments)


def run_program() -> None:
    """Is `run_with_faults` for a program that a launcher starts with PLAN pretrain CONFIG ..."""
    plan = sys.argv.pop(sys.argv.index("pretrain") - 1)  # DeepSpeed's has an option before it
    run_with_faults(plan, *sys.argv[1:])


def _put_faults(plan: Plan) -> None:
    if plan.rank in (None, int(os.environ["RANK"])) and _is_first(plan.until):
        Faults(plan).install()
    else:
        Faults(Plan()).install()  # for the rows


def _is_first(until: str | None) -> bool:
    if until is None:
        return True
    first = not Path(until).exists()
    Path(until).touch()
    return first


class Faults:
    """A plan and what has come of it in this process."""

    def __init__(self, plan: Plan) -> None:
        self._plan, self._calls = plan, 0
        self._full = collections.Counter(plan.full)
        self._nan_weights = nan_weights()

    def install(self) -> None:
        """Puts the faults in their places."""
        self._nan_weights.__enter__()  # for as long as this process lives
        for kind in (TrainingEngine, PipelineTrainingEngine):
            kind.train_step = self._with_factors(kind.train_step)  # type: ignore[method-assign]
        Trainer._take_step = self._noting(Trainer._take_step)  # type: ignore
        if self._plan.full:
            space.shutil.disk_usage = self._filling(space.shutil.disk_usage)  # type: ignore
        drop, roll_back = recovery.drop_later_checkpoints, Recovery.roll_back

        def drop_and_die(*arguments: Any) -> None:
            drop(*arguments)
            _die()

        def roll_back_and_die(self: Recovery, *arguments: Any) -> None:
            roll_back(self, *arguments)
            _die()

        if self._plan.die_on_rollback == "dropping":  # rank 0 drops what comes later
            recovery.drop_later_checkpoints = lambda *_: _die()
        elif self._plan.die_on_rollback == "dropped":
            recovery.drop_later_checkpoints = drop_and_die  # type: ignore[assignment]
        elif self._plan.die_on_rollback == "after":
            Recovery.roll_back = roll_back_and_die  # type: ignore

    def _with_factors(self, train_step: Callable[..., Any]) -> Callable[..., Any]:
        def step(engine: Any, batches: Sequence[MicroBatch], lr: float) -> Any:
            self._calls += 1
            if self._plan.factors and self._calls in (self._plan.calls or [self._calls]):
                batches = [self._broken(batch) for batch in batches]
            return train_step(engine, batches, lr)

        return step

    def _broken(self, batch: MicroBatch) -> MicroBatch:
        factors = self._plan.factors
        found = [factors[row] for row in batch.row_ids.tolist() if row in factors]
        weight = batch.target_weight * found[0] if found else batch.target_weight
        return dataclasses.replace(batch, target_weight=weight)

    def _filling(self, disk_usage: Callable[..., Any]) -> Callable[..., Any]:
        def usage(folder: Path) -> Any:
            step = folder.name.partition(".")[0].removeprefix("step-").lstrip("0")
            if not step.isdigit():
                return disk_usage(folder)
            self._full[int(step)] -= 1
            there = disk_usage(folder)
            return there._replace(free=0) if self._full[int(step)] >= 0 else there

        return usage

    def _noting(self, take_step: Callable[[Trainer], None]) -> Callable[[Trainer], None]:
        """Notes which rows each step of this rank has, in RUN_DIR/rows-WORLD_SIZE-RANK.jsonl."""

        def step_that_is_noted(trainer: Trainer) -> None:
            step, given = trainer.step + 1, []
            if self._plan.stop_at == step:
                os.kill(os.getpid(), signal.SIGTERM)
            if self._plan.drift_at == step - 1:
                _drift(trainer.engine)
            next_global_batch = trainer._next_global_batch

            def note() -> Any:
                given.append(next_global_batch())
                return given[0]

            trainer._next_global_batch = note  # type: ignore[method-assign]
            take_step(trainer)
            del trainer._next_global_batch
            rows = [row for batch in given[0][0] for row in batch.row_ids.tolist()]
            with open(
                f"{trainer.run_dir}/rows-{trainer.world_size}-{trainer.rank}.jsonl", "a"
            ) as file:
                file.write(json.dumps([step, rows]) + "\n")
            if self._plan.die_after == step:
                trainer.saver.wait()
                _die()

        return step_that_is_noted


@torch.no_grad()
def _drift(engine: TrainingEngine) -> None:
    parameter = next(engine.model.parameters())
    parameter.view(-1)[0] += 1e-3


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
