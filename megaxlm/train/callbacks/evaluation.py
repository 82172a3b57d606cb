"""Evaluation inside a run: bits per byte of each language, and retrieval where pairs are given.

The first evaluation measures the untrained model and the last the trained one; rank 0 prints
both side by side, because what each language got is the first thing to know of a run.

A run that is asked to stop may have seconds left, so it does not wait for an evaluation: one that
is due is left out, one that is under way ends with the language at hand. It is owed then: the
checkpoint of that step says so, and the resumed run begins with it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from megaxlm.data.shards import tokenizer_path, write_atomically
from megaxlm.data.tokenizer import Tokenizer
from megaxlm.distributed import reduce
from megaxlm.evaluation.perplexity import evaluate_perplexity
from megaxlm.evaluation.report import evaluation_to_json, render_comparison
from megaxlm.evaluation.retrieval import evaluate_retrieval
from megaxlm.train.callbacks.base import Callback, StepRecord

if TYPE_CHECKING:
    from megaxlm.train.trainer import Trainer

PANEL_NAME = "evaluation.json"


class StopAskedFor(Exception):
    """The ranks have agreed to stop in the middle of an evaluation."""


class Evaluation(Callback):
    """Evaluates at step 0, every `every_steps` steps and at the end."""

    name = "evaluation"

    def __init__(self, every_steps: int | None) -> None:
        self.every_steps = every_steps
        self.panel: list[dict[str, Any]] = []
        self._written = True  # what the panel holds
        self._owed = False  # an evaluation of the step at hand that a stop has cut off

    def on_train_begin(self, trainer: Trainer) -> None:
        """Measures the untrained model, or what the last stop has left out."""
        if trainer.step == 0 or self._owed:
            self._evaluate(trainer)

    def on_rollback(self, trainer: Trainer) -> None:
        """Measures again where the evaluation of the step gone back to is not in its panel."""
        self.on_train_begin(trainer)

    def on_step_end(self, trainer: Trainer, record: StepRecord) -> None:
        """Evaluates when it is due."""
        due = self.every_steps is not None and record.step % self.every_steps == 0
        if due or record.step == trainer.max_steps:
            self._evaluate(trainer)

    def on_train_end(self, trainer: Trainer) -> None:
        """Shows what the run gained, if it came to its end."""
        if trainer.rank == 0 and not self._written:
            self._write(trainer.run_dir)
        if trainer.rank == 0 and trainer.step >= trainer.max_steps and len(self.panel) > 1:
            Console(width=100).print(render_comparison(self.panel[0], self.panel[-1]))

    def state_dict(self) -> dict[str, Any]:
        """Returns every evaluation so far, and whether that of this step is still to come."""
        return {"panel": self.panel, "owed": self._owed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back every evaluation so far."""
        self.panel = list(state["panel"])
        self._owed = bool(state.get("owed", False))

    def _evaluate(self, trainer: Trainer) -> None:
        self._owed = True
        if trainer.stopping is not None and trainer.step < trainer.max_steps:
            return
        try:
            results = measure(trainer)
        except StopAskedFor:
            return
        self._owed = False
        self.panel.append({"step": trainer.step, **results})
        for callback in trainer.callbacks:
            callback.on_evaluation(trainer, results)
        if trainer.rank == 0:
            self._write(trainer.run_dir)

    def _write(self, run_dir: Path) -> None:
        content = json.dumps(self.panel, indent=1, ensure_ascii=False) + "\n"
        try:
            write_atomically(run_dir / PANEL_NAME, content.encode())
        except OSError as error:  # the panel is in the checkpoints too: training goes on
            self._written = False
            print(
                f"megaxlm: {run_dir / PANEL_NAME}: cannot be written now "
                f"({error.strerror or error}); it is written with the next evaluation",
                file=sys.stderr,
                flush=True,
            )
        else:
            self._written = True


def measure(trainer: Trainer) -> dict[str, Any]:
    """Measures every language of the validation split, and retrieval if the config names it.

    Returns:
        A document of `evaluation_to_json`, the same on every rank.

    Raises:
        StopAskedFor: The run is to stop first, unless it ends with this evaluation; on every rank.
    """
    config, engine = trainer.config, trainer.engine
    settings, grid = config.evaluation, engine.grid

    @contextmanager
    def together() -> Iterator[None]:
        trainer.watchdog.progress(f"evaluation at step {trainer.step}")
        with reduce.together():
            yield
        # Outside of that, which would make another error of it.
        if trainer.step < trainer.max_steps and trainer.agree_to_stop():
            raise StopAskedFor

    perplexity_of = partial(
        evaluate_perplexity,
        engine.forward_module,
        config.data.path,
        config.data,
        config.masking,
        seed=config.seed,
        max_rows_per_language=settings.max_rows_per_language,
        micro_batch_size=config.training.micro_batch_size,
        device=engine.device,
        reduce=engine.data_sum,
        rank=grid.data_rank,
        world_size=grid.data_world_size,
        together=together,
    )
    perplexity = perplexity_of() or perplexity_of(objective="tlm")  # pairs, if there is no text
    retrieval = None
    if settings.retrieval is not None:
        trainer.watchdog.progress(f"retrieval at step {trainer.step}")
        retrieval = evaluate_retrieval(
            engine.model,
            Tokenizer(tokenizer_path(config.data.path)),  # that of the run: checked
            settings.retrieval,
            settings.retrieval_pairs,
            layer=settings.retrieval_layer,
            scoring=settings.retrieval_scoring,
            limit=settings.retrieval_limit,
            device=engine.device,
            reduce=engine.data_sum,
            rank=grid.data_rank,
            world_size=grid.data_world_size,
        )
    return evaluation_to_json(str(trainer.run_dir), perplexity, retrieval)
