"""Writes a checkpoint every N steps; the last one is the trainer's own concern."""

from __future__ import annotations

from typing import TYPE_CHECKING

from megaxlm.checkpoint.host_memory import memory_shortage, snapshot_memory
from megaxlm.distributed import reduce
from megaxlm.train.callbacks.base import Callback, StepRecord

if TYPE_CHECKING:
    from megaxlm.train.trainer import Trainer


class Checkpoints(Callback):
    """Calls `Trainer.save` when it is due; runs last, so that it saves what the others hold."""

    name = "checkpoints"

    def __init__(self, every_steps: int) -> None:
        self.every_steps = every_steps

    def on_train_begin(self, trainer: Trainer) -> None:
        """Warns where the copies of asynchronous saving do not fit into a node's memory."""
        if trainer.config.checkpoint.asynchronous:
            shortage = memory_shortage(
                reduce.all_gather(snapshot_memory(trainer.engine.fragments()))
            )
            if shortage is not None:
                trainer.say(shortage)

    def on_step_end(self, trainer: Trainer, record: StepRecord) -> None:
        """Saves at every multiple of `every_steps`."""
        if record.step % self.every_steps == 0:
            trainer.save()
