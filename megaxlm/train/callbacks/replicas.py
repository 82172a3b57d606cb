"""Ends a run whose replicas have drifted apart, before a checkpoint is made of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from megaxlm.train.callbacks.base import Callback, StepRecord
from megaxlm.train.replicas import check_replicas

if TYPE_CHECKING:
    from megaxlm.train.trainer import Trainer


class Replicas(Callback):
    """Compares the weights every `every_steps` steps, before each checkpoint and at the end.

    Usage: `Replicas(faults.replica_check_steps, checkpoint.every_steps)` among the callbacks,
    before `Checkpoints`. What is saved has thus been compared, but for a checkpoint made because
    a run is told to stop.

    Args:
        every_steps: None: never, not even before checkpoints.
        checkpoint_steps: Steps between checkpoints.
    """

    name = "replicas"

    def __init__(self, every_steps: int | None, checkpoint_steps: int) -> None:
        self._every_steps, self._checkpoint_steps = every_steps, checkpoint_steps

    def on_step_end(self, trainer: Trainer, record: StepRecord) -> None:
        """Compares when it is due.

        Raises:
            UserError: Replicas differ; the same error on every rank.
        """
        if self._every_steps is None:
            return
        periods = (self._every_steps, self._checkpoint_steps, trainer.max_steps)
        if any(record.step % period == 0 for period in periods):
            check_replicas(trainer.engine, record.step)
