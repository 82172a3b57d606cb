"""What a callback may do and when; each has one concern and its own saved state."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from megaxlm.train.trainer import Trainer


@dataclass(frozen=True)
class StepRecord:
    """One optimizer step as all ranks agree on it."""

    step: int  # steps done, this one in, also those that updated nothing
    loss: float  # mean over all targets of the global batch, nats
    grad_norm: float  # before clipping, over all parameters
    lr: float
    skipped: bool  # the update was not applied: a loss or gradient was not finite
    real_tokens: int  # non-padding tokens over all ranks
    attention_pairs: int  # squared lengths of all attention segments, summed
    seconds: float  # wall time of the step, data wait included
    data_wait_seconds: float  # wait for the loader, mean over ranks
    language_loss: dict[str, tuple[float, float]] = field(default_factory=dict)  # sum, targets
    rows: int = 0  # of the global batch


class Callback:
    """Hooks in the order in which a run meets them; override what is needed."""

    name = "callback"  # the key of its state in a checkpoint

    def on_train_begin(self, trainer: Trainer) -> None:
        """Called once, after a resume if there is one, before the first step."""

    def on_step_end(self, trainer: Trainer, record: StepRecord) -> None:
        """Called on every rank after each optimizer step; not after one that is rolled back."""

    def on_rollback(self, trainer: Trainer) -> None:
        """Called once a run stands at an earlier step again, with the callbacks' state of then."""

    def on_evaluation(self, trainer: Trainer, results: dict[str, Any]) -> None:
        """Called on every rank with the validation results of a step."""

    def on_train_end(self, trainer: Trainer) -> None:
        """Called once when the run ends or is stopped on request, whatever the outcome."""

    def state_dict(self) -> dict[str, Any]:
        """Returns what a resumed run needs, as JSON; the same on every rank."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what `state_dict` returned."""
