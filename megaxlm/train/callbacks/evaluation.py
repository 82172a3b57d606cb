"""Evaluation inside a run: bits per byte of each language, and retrieval where pairs are given.

The first evaluation measures the untrained model and the last the trained one; rank 0 prints
both side by side, because what each language got is the first thing to know of a run.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from rich.console import Console

from megaxlm.data.shards import write_atomically
from megaxlm.evaluation.report import render_comparison
from megaxlm.train.callbacks.base import Callback, StepRecord

if TYPE_CHECKING:
    from megaxlm.train.trainer import Trainer

PANEL_NAME = "evaluation.json"


class Evaluation(Callback):
    """Evaluates at step 0, every `every_steps` steps and at the end."""

    name = "evaluation"

    def __init__(self, every_steps: int | None) -> None:
        self.every_steps = every_steps
        self.panel: list[dict[str, Any]] = []

    def on_train_begin(self, trainer: Trainer) -> None:
        """Measures the untrained model."""
        if trainer.step == 0:
            self._evaluate(trainer)

    def on_step_end(self, trainer: Trainer, record: StepRecord) -> None:
        """Evaluates when it is due."""
        due = self.every_steps is not None and record.step % self.every_steps == 0
        if due or record.step == trainer.max_steps:
            self._evaluate(trainer)

    def on_train_end(self, trainer: Trainer) -> None:
        """Shows what the run gained, if it came to its end."""
        if trainer.rank == 0 and trainer.step >= trainer.max_steps and len(self.panel) > 1:
            Console(width=100).print(render_comparison(self.panel[0], self.panel[-1]))

    def state_dict(self) -> dict[str, Any]:
        """Returns every evaluation so far."""
        return {"panel": self.panel}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back every evaluation so far."""
        self.panel = list(state["panel"])

    def _evaluate(self, trainer: Trainer) -> None:
        results = trainer.evaluate()
        self.panel.append({"step": trainer.step, **results})
        for callback in trainer.callbacks:
            callback.on_evaluation(trainer, results)
        if trainer.rank == 0:
            content = json.dumps(self.panel, indent=1, ensure_ascii=False) + "\n"
            write_atomically(trainer.run_dir / PANEL_NAME, content.encode())
