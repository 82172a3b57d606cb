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
- In bf16 DeepSpeed's masters start from rounded weights; here they are filled in fp32 from the
  source of initial weights, range by range, so that a first step does not depend on the layout
  and no rank ever holds the whole model at stage 3.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import deepspeed
import torch
from torch import Tensor, nn

from megaxlm.checkpoint.fragments import Fragment
from megaxlm.config.deepspeed import deepspeed_config_of
from megaxlm.config.pretrain import ModelConfig, PretrainConfig
from megaxlm.data.batch import MicroBatch
from megaxlm.data.shards import DatasetIndex
from megaxlm.distributed import reduce
from megaxlm.distributed.environment import Environment, Grid
from megaxlm.model.dropout_key import DropoutKey
from megaxlm.model.encoder import MaskedLanguageModel
from megaxlm.model.fused import use_kernels
from megaxlm.optim.param_groups import LR_SCALE, parameter_groups
from megaxlm.train.backend import connect, device_of, disconnect, initialize, read_config
from megaxlm.train.fragments import EngineFragments
from megaxlm.train.initial_weights import initial_weights
from megaxlm.train.kernels import kernels_of
from megaxlm.train.optimizer import build_optimizer
from megaxlm.train.sources import TensorSource


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
    """A model, its optimizer and DeepSpeed around both; built with `create`.

    Its weights mean nothing until `load_initial` or `load` has been called.
    """

    def __init__(
        self,
        config: PretrainConfig,
        num_languages: int,
        deepspeed_config: dict[str, Any],
        place: Environment,
        device: torch.device,
        initial: TensorSource,
    ) -> None:
        """Builds the model and wraps it; process groups must be up (`connect`).

        Args:
            config: The run, with every derived value in place.
            num_languages: Length of the per-language sums.
            deepspeed_config: As `deepspeed_config_of` returns it.
            place: This rank among all.
            device: Where this rank trains.
            initial: The weights before the first step.
        """
        self.config, self.device = config, device
        self.grid = Grid(place.rank, place.world_size)
        self.grad_accum_steps: int = deepspeed_config["gradient_accumulation_steps"]
        self._num_languages = num_languages
        self._initial = initial
        self._clip = float(config.training.gradient_clipping)
        stage = deepspeed_config["zero_optimization"]["stage"]
        bf16 = config.training.precision == "bf16"
        source = str(config.training.deepspeed_config or "the built-in DeepSpeed config")
        read_config(deepspeed_config, source)  # before `zero.Init` meets it
        with reduce.together():  # nvcc may be missing on one node
            kernels = kernels_of(config, device)
        model = build_model(config.model, deepspeed_config, device)
        use_kernels(model, kernels)
        self._replicated = stage == 0
        if self._replicated:
            deepspeed_config = {**deepspeed_config, "gradient_clipping": 0.0}
        state_device = torch.device("cpu") if _offloads(deepspeed_config) else device
        groups = parameter_groups(model.named_parameters(), config.model, config.optimizer)
        with reduce.together():  # a library may be missing on one node
            optimizer = build_optimizer(config.optimizer, groups, state_device)
        self._engine = initialize(model, optimizer, deepspeed_config, source)
        if self._replicated and bf16 and "grad_accum_dtype" not in deepspeed_config["data_types"]:
            for parameter in self._engine.module.parameters():
                parameter.grad_dtype = torch.float32
        self._fragments = EngineFragments(self._engine, self.grid)

    @classmethod
    def create(
        cls,
        config: PretrainConfig,
        index: DatasetIndex,
        place: Environment,
        *,
        debug: bool = False,
    ) -> TrainingEngine:
        """Connects the ranks and builds the model, still without its weights.

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
            initial = initial_weights(config, index.tokenizer_sha256)
        return cls(config, len(index.languages), deepspeed_config, place, device, initial)

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

        A loss or gradient that is not finite on one rank skips the update on all of them; weights,
        moments and the optimizer's step count are then as they were.

        Args:
            batches: This rank's micro-batches, as many on every rank.
            lr: The rate of this step, before the scale of each parameter group.
        """
        if len(batches) != self.grad_accum_steps:
            self._accumulate(len(batches))
        self._engine.train()  # an evaluation may have been in between
        for group in self._engine.basic_optimizer.param_groups:
            group["lr"] = lr * group[LR_SCALE]
        loss_sum = torch.zeros((), dtype=torch.float64, device=self.device)
        by_language = torch.zeros(2, self._num_languages, dtype=torch.float64, device=self.device)
        for number, batch in enumerate(batches):
            key = DropoutKey.of(self.config.seed, batch.row_ids, batch.seq_len)
            batch = batch.to(self.device)
            loss, target_losses = self._engine(
                batch.tokens,
                batch.positions,
                batch.cu_seqlens,
                batch.target_index,
                batch.targets,
                batch.target_weight,
                batch.seq_len,
                key,
            )
            self._engine.backward(loss)
            loss_sum += loss.detach()
            add_by_language(by_language, batch, target_losses)
            if number + 1 < len(batches):
                self._engine.step()
        grad_norm, skipped = self._update()
        mean_loss = reduce.all_sum(loss_sum) / (self.grad_accum_steps * self._engine.world_size)
        loss_value = float(mean_loss)
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

    def load_initial(self) -> None:
        """Takes the weights before the first step, with zero moments and a step count of zero."""
        self._fragments.load_weights(self._initial)

    def data_sum(self, values: Tensor) -> Tensor:
        """Sums a tensor over the data-parallel ranks, in place, and returns it."""
        return reduce.all_sum(values)

    def close(self, disconnect_ranks: bool = True) -> None:
        """Lets go of DeepSpeed and, unless another engine follows, of the process groups."""
        self._engine.destroy()
        # DeepSpeed keeps hpZ's group in a global that another engine of this process would meet.
        deepspeed.utils.groups._ZERO_PARAM_INTRA_PARALLEL_GROUP = None
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

    def _accumulate(self, grad_accum_steps: int) -> None:
        """Changes the number of micro-batches of a step, between two steps."""
        rows = grad_accum_steps * self.config.training.micro_batch_size
        self._engine.set_train_batch_size(rows * self.grid.data_world_size)
        self._engine.micro_steps = 0  # DeepSpeed finds a step's end by counting from here
        if hasattr(self._engine.optimizer, "gradient_accumulation_steps"):
            self._engine.optimizer.gradient_accumulation_steps = grad_accum_steps
        self.grad_accum_steps = grad_accum_steps


def build_model(
    config: ModelConfig, deepspeed_config: dict[str, Any], device: torch.device
) -> MaskedLanguageModel:
    """Returns a model without its values; at stage 3 every parameter is cut up as it is made."""
    if deepspeed_config["zero_optimization"]["stage"] == 3:
        with deepspeed.zero.Init(config_dict_or_path=deepspeed_config):
            return MaskedLanguageModel(config)
    # In bf16 from the start: fp32 weights of a large model would double the peak of start-up.
    with default_dtype(torch.bfloat16 if deepspeed_config["bf16"]["enabled"] else torch.float32):
        with device:
            return MaskedLanguageModel(config)


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Makes new tensors of a dtype."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def add_by_language(
    sums: Tensor,  # (2, languages) float64: loss, count
    batch: MicroBatch,
    target_losses: Tensor,  # (targets,) fp32
) -> None:
    """Adds the losses of a micro-batch, and how many they are, to the sums of their languages."""
    counted = (batch.target_weight > 0).double()  # (targets,)
    languages = batch.languages[batch.target_index]  # (targets,)
    # A loss that is not finite times a weight of 0 would still be NaN.
    losses = torch.where(counted > 0, target_losses.double(), 0.0)
    sums[0].index_add_(0, languages, losses)
    sums[1].index_add_(0, languages, counted)


def _offloads(deepspeed_config: dict[str, Any]) -> bool:
    return bool(deepspeed_config["zero_optimization"].get("offload_optimizer"))
