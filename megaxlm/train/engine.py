"""The one place that talks to DeepSpeed: a step, its numbers, and the state a resume needs.

`TrainingEngine` hides which optimizer DeepSpeed chose for a stage and precision. What it promises
for all of them: fp32 master weights, gradients averaged over micro-batches and ranks, one global
gradient norm before clipping, a step that is skipped on every rank or on none, and state that is
read and written by parameter name (`megaxlm.train.fragments`).

Where DeepSpeed leaves a gap, it is closed here:
- Stage 0 in fp32 reports no gradient norm and lets a NaN through; stage 0 in bf16 rounds gradients
  to bf16 before it takes the norm. At stage 0 the norm and the clipping are therefore ours.
- Stage 0 in bf16 accumulates in bf16 and refuses to do otherwise; torch accumulates in fp32 when
  asked parameter by parameter.
- In bf16 the masters start from weights that were already rounded; they are set again from the
  fp32 originals, so that a first step does not depend on the layout.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from megaxlm.checkpoint.fragments import Fragment
from megaxlm.config.deepspeed import deepspeed_config_of
from megaxlm.config.pretrain import PretrainConfig
from megaxlm.data.batch import MicroBatch
from megaxlm.data.shards import DatasetIndex
from megaxlm.distributed import reduce
from megaxlm.distributed.environment import Environment
from megaxlm.errors import EXIT_FOUND_WRONG, UserError
from megaxlm.model.encoder import MaskedLanguageModel
from megaxlm.optim.optimizers import build_optimizer
from megaxlm.optim.param_groups import parameter_groups
from megaxlm.train import random_state
from megaxlm.train.backend import connect, device_of, disconnect, initialize
from megaxlm.train.fragments import EngineFragments, InMemoryWeights, TensorSource
from megaxlm.train.initial_weights import fill

MAX_SKIPPED_IN_A_ROW = 3


@dataclass(frozen=True)
class StepResult:
    """One optimizer step. Loss and norm are those of all ranks, the language sums of this rank."""

    loss: float  # mean over the targets of the global batch, nats
    grad_norm: float  # over all parameters, before clipping; inf or nan when skipped
    lr: float
    skipped: bool  # the update was not applied, on any rank
    language_loss_sum: Tensor  # (languages,) float64, unweighted nats over targets of weight > 0
    language_targets: Tensor  # (languages,) float64, how many these are


class TrainingEngine:
    """A model, its optimizer and DeepSpeed around both; built with `create`."""

    def __init__(
        self,
        config: PretrainConfig,
        model: nn.Module,
        num_languages: int,
        deepspeed_config: dict[str, Any],
        place: Environment,
        device: torch.device,
    ) -> None:
        """Wraps an initialised model; process groups must be up (`connect`).

        Args:
            config: The run, with every derived value in place.
            model: A full fp32 model on the CPU, the same on every rank.
            num_languages: Length of the per-language sums.
            deepspeed_config: As `deepspeed_config_of` returns it.
            place: This rank among all.
            device: Where this rank trains.
        """
        self.config, self.device = config, device
        self.grad_accum_steps: int = deepspeed_config["gradient_accumulation_steps"]
        self._num_languages = num_languages
        self._skipped_in_a_row = 0
        self._clip = float(config.training.gradient_clipping)
        stage = deepspeed_config["zero_optimization"]["stage"]
        bf16 = config.training.precision == "bf16"
        # DeepSpeed replaces the parameters' data, so these references keep the fp32 values.
        originals = {name: p.detach() for name, p in model.named_parameters()} if bf16 else {}
        self._replicated = stage == 0
        if self._replicated:
            deepspeed_config = {**deepspeed_config, "gradient_clipping": 0.0}
        state_device = torch.device("cpu") if _offloads(deepspeed_config) else device
        groups = parameter_groups(model, config.optimizer.weight_decay)
        optimizer = build_optimizer(config.optimizer, groups, state_device)
        source = str(config.training.deepspeed_config or "the built-in DeepSpeed config")
        self._engine = initialize(model, optimizer, deepspeed_config, source)
        if self._replicated and bf16 and "grad_accum_dtype" not in deepspeed_config["data_types"]:
            for parameter in self._engine.module.parameters():
                parameter.grad_dtype = torch.float32
        self._fragments = EngineFragments(self._engine, place.rank, place.world_size)
        if bf16:
            self._fragments.load_weights(InMemoryWeights(originals))
        self._rank = place.rank
        random_state.seed_rank(config.seed, place.rank)

    @classmethod
    def create(
        cls,
        config: PretrainConfig,
        index: DatasetIndex,
        place: Environment,
        *,
        debug: bool = False,
    ) -> TrainingEngine:
        """Connects the ranks and builds the model with its initial weights.

        Args:
            config: The run, with every derived value in place.
            index: Its data set, for the number of languages.
            place: This rank; torch's environment variables must be exported.
            debug: Lets DeepSpeed's own log through.

        Raises:
            UserError: The DeepSpeed config contradicts the run or is refused by DeepSpeed, or
                `init_from` does not fit; the same error on every rank.
        """
        device = device_of(place)
        connect(place, device, debug=debug)
        with reduce.together():
            deepspeed_config = deepspeed_config_of(config, place.world_size)
            model = MaskedLanguageModel(config.model)
            fill(model, config, index.tokenizer_sha256)
        return cls(config, model, len(index.languages), deepspeed_config, place, device)

    @property
    def forward_module(self) -> nn.Module:
        """The module to call for a forward pass; at stage 3 it gathers weights as it goes."""
        return self._engine  # type: ignore[no-any-return]

    @property
    def model(self) -> MaskedLanguageModel:
        """The bare model inside, for hidden states; its modules gather weights at stage 3."""
        return self._engine.module  # type: ignore[no-any-return]

    @property
    def optimizer_step(self) -> int:
        """Updates that were applied; skipped steps are not among them."""
        return self._fragments.optimizer_step

    def train_step(self, batches: Sequence[MicroBatch], lr: float) -> StepResult:
        """Runs one optimizer step; every rank calls it together.

        Args:
            batches: This rank's `grad_accum_steps` micro-batches.
            lr: The rate of this step.

        Raises:
            UserError: The third step in a row had a loss or gradient that is not finite.
        """
        assert len(batches) == self.grad_accum_steps, len(batches)
        self._engine.train()  # an evaluation may have been in between
        for group in self._engine.basic_optimizer.param_groups:
            group["lr"] = lr
        loss_sum = torch.zeros((), dtype=torch.float64, device=self.device)
        by_language = torch.zeros(2, self._num_languages, dtype=torch.float64, device=self.device)
        for number, batch in enumerate(batches):
            batch = batch.to(self.device)
            loss, target_losses = self._engine(
                batch.tokens,
                batch.positions,
                batch.cu_seqlens,
                batch.target_index,
                batch.targets,
                batch.target_weight,
                batch.seq_len,
            )
            self._engine.backward(loss)
            loss_sum += loss.detach()
            _add_by_language(by_language, batch, target_losses)
            if number + 1 < len(batches):
                self._engine.step()
        grad_norm, skipped = self._update()
        mean_loss = reduce.all_sum(loss_sum) / (self.grad_accum_steps * self._engine.world_size)
        loss_value = float(mean_loss)
        self._count_skips(skipped, loss_value)
        return StepResult(loss_value, grad_norm, lr, skipped, by_language[0], by_language[1])

    def fragments(self) -> Iterator[Fragment]:
        """Yields this rank's share of weights and moments by name, as views."""
        return self._fragments.owned()

    def load(self, source: TensorSource, optimizer_step: int) -> None:
        """Takes weights, moments and step count from a checkpoint of any layout.

        Raises:
            UserError: A tensor is missing or has another shape; the same error on every rank.
        """
        self._fragments.load(source, optimizer_step)

    def rng_state(self) -> dict[str, Any]:
        """Returns the states of this rank's random generators."""
        return random_state.rng_state()

    def set_rng_state(self, state: dict[str, Any]) -> None:
        """Takes back what `rng_state` returned."""
        random_state.set_rng_state(state)

    def reseed(self, step: int) -> None:
        """Seeds this rank's generators from (seed, rank, step), where no state can be restored."""
        random_state.seed_rank(self.config.seed, self._rank, step)

    def close(self, disconnect_ranks: bool = True) -> None:
        """Lets go of DeepSpeed and, unless another engine follows, of the process groups."""
        self._engine.destroy()
        if disconnect_ranks:
            disconnect()

    def _update(self) -> tuple[float, bool]:
        """Ends the step; returns the gradient norm before clipping and whether it was skipped."""
        if not self._replicated:
            self._engine.step()
            return float(self._engine.get_global_grad_norm()), not self._engine.was_step_applied()
        # Stage 0: gradients are whole and reduced, the same bits on every rank.
        parameters = [p for p in self._engine.module.parameters() if p.grad is not None]
        norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        grad_norm = float(norm)
        if math.isfinite(grad_norm):
            if self._clip > 0:
                nn.utils.clip_grads_with_norm_(parameters, self._clip, norm)
            self._engine.step()
            return grad_norm, False
        self._engine.zero_grad()
        self._engine.set_gradient_accumulation_boundary(False)
        self._engine.step()  # counts the micro-batch and updates nothing
        self._engine.set_gradient_accumulation_boundary(None)
        return grad_norm, True

    def _count_skips(self, skipped: bool, loss: float) -> None:
        self._skipped_in_a_row = self._skipped_in_a_row + 1 if skipped else 0
        if self._skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW:
            raise UserError(
                f"the gradient was not finite in {self._skipped_in_a_row} steps in a row "
                f"(loss {loss:g}); lower optimizer.lr, lengthen schedule.warmup_steps or lower "
                "training.gradient_clipping, and resume from the last checkpoint",
                exit_code=EXIT_FOUND_WRONG,
            )


def _add_by_language(
    sums: Tensor,  # (2, languages) float64: loss, count
    batch: MicroBatch,
    target_losses: Tensor,  # (targets,) fp32
) -> None:
    counted = (batch.target_weight > 0).double()  # (targets,)
    languages = batch.languages[batch.target_index]  # (targets,)
    # A loss that is not finite times a weight of 0 would still be NaN.
    losses = torch.where(counted > 0, target_losses.double(), 0.0)
    sums[0].index_add_(0, languages, losses)
    sums[1].index_add_(0, languages, counted)


def _offloads(deepspeed_config: dict[str, Any]) -> bool:
    return bool(deepspeed_config["zero_optimization"].get("offload_optimizer"))
