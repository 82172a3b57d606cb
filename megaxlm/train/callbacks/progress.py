"""The progress bar: loss, real tokens per second and time left, on rank 0."""

from __future__ import annotations

import sys
from collections import deque
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from megaxlm.train.callbacks.base import Callback, StepRecord

if TYPE_CHECKING:
    from megaxlm.train.trainer import Trainer


class Progress(Callback):
    """A bar in a terminal; in a log file, a line now and then."""

    name = "progress"

    def __init__(self) -> None:
        self._bar: Any = None
        self._recent: deque[StepRecord] = deque(maxlen=50)

    def on_train_begin(self, trainer: Trainer) -> None:
        """Opens the bar at the step from which the run goes on."""
        if trainer.rank != 0:
            return
        terminal = sys.stderr.isatty()
        self._bar = tqdm(
            total=trainer.max_steps,
            initial=trainer.step,
            desc="pretrain",
            unit="step",
            dynamic_ncols=terminal,
            ncols=None if terminal else 100,
            mininterval=0.5 if terminal else 10.0,
        )

    def on_step_end(self, trainer: Trainer, record: StepRecord) -> None:
        """Moves the bar."""
        if self._bar is None:
            return
        self._recent.append(record)
        seconds = sum(item.seconds for item in self._recent)
        tokens = sum(item.real_tokens for item in self._recent)
        losses = [item.loss for item in self._recent if not item.skipped]
        loss = f"{sum(losses) / len(losses):.3f}" if losses else "not finite"
        self._bar.set_postfix_str(
            f"loss {loss}, {tokens / max(seconds, 1e-9):,.0f} tokens/s", refresh=False
        )
        self._bar.update(1)

    def on_rollback(self, trainer: Trainer) -> None:
        """Moves the bar back."""
        if self._bar is None:
            return
        self._recent.clear()
        self._bar.n = self._bar.last_print_n = trainer.step
        self._bar.refresh()

    def on_train_end(self, trainer: Trainer) -> None:
        """Closes the bar."""
        if self._bar is not None:
            self._bar.close()
