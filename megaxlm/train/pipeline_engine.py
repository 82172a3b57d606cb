"""`TrainingEngine` for a run whose layers are spread over pipeline stages.

Built on DeepSpeed's PipelineEngine with ZeRO-1. Every stage of a replica is given the replica's
micro-batches and takes part in every call; the numbers of a step are known to all of them alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from deepspeed.runtime.pipe.engine import TRAIN_BATCH_TIMER
from deepspeed.utils import groups as deepspeed_groups
from torch import Tensor, nn

from megaxlm.config.deepspeed import deepspeed_source
from megaxlm.config.pretrain import PretrainConfig
from megaxlm.data.batch import MicroBatch
from megaxlm.data.masking import targets_per_row
from megaxlm.distributed import reduce
from megaxlm.distributed.environment import Environment, Grid
from megaxlm.model.dropout_key import DropoutKey
from megaxlm.model.fused import use_kernels
from megaxlm.model.pipeline import PipelineStage, StageSpan, balance_stages, state_owners
from megaxlm.optim.param_groups import LR_SCALE, parameter_groups
from megaxlm.train.backend import limit_waits, read_config
from megaxlm.train.engine import StepResult, TrainingEngine, add_by_language, default_dtype
from megaxlm.train.fragments import EngineFragments
from megaxlm.train.kernels import kernels_of
from megaxlm.train.optimizer import build_optimizer
from megaxlm.train.pipeline_module import EncoderPipeline, EncoderPipelineEngine
from megaxlm.train.sources import TensorSource


class PipelineTrainingEngine(TrainingEngine):
    """One stage of a model, its optimizer and DeepSpeed around both; built with `create`."""

    def __init__(
        self,
        config: PretrainConfig,
        num_languages: int,
        deepspeed_config: dict[str, Any],
        place: Environment,
        device: torch.device,
        initial: TensorSource,
    ) -> None:
        """Builds this rank's stage and wraps it; arguments as for `TrainingEngine`.

        Raises:
            UserError: The model cannot be cut into so many stages, or DeepSpeed refuses the
                config; the same error on every rank.
        """
        self.config, self.device = config, device
        self.grid = Grid(place.rank, place.world_size, config.training.pipeline_stages)
        self.grad_accum_steps = deepspeed_config["gradient_accumulation_steps"]
        self._num_languages = num_languages
        self._initial = initial
        spans = stage_spans(config)
        with default_dtype(
            torch.bfloat16 if config.training.precision == "bf16" else torch.float32
        ):
            with device:
                stage = PipelineStage(config.model, spans[self.grid.stage])
        with reduce.together():
            use_kernels(stage, kernels_of(config, device))
        named = [one for one in stage.named_parameters() if one[0] not in stage.replicas]
        groups = parameter_groups(named, config.model, config.optimizer)
        optimizer = build_optimizer(config.optimizer, groups, device)
        self._pipeline = EncoderPipeline(stage, self.grid)
        mpu = self._pipeline.mpu()
        self._engine = EncoderPipelineEngine(
            args=None,
            model=self._pipeline,
            optimizer=optimizer,
            mpu=mpu,
            config=deepspeed_config,
            config_class=read_config(deepspeed_config, deepspeed_source(config), mpu),
        )
        limit_waits()
        accumulation = deepspeed_config["data_types"]["grad_accum_dtype"]
        for name, parameter in stage.named_parameters():
            if name in stage.replicas:  # no optimizer sums its micro-batches in a wider dtype
                parameter.grad_dtype = torch.float32 if accumulation == "fp32" else torch.bfloat16
        names = {parameter: name for name, parameter in named}
        self._fragments = EngineFragments(self._engine, self.grid, names)
        self._replica = _Replica(self._pipeline, self.grid, spans)

    @property
    def forward_module(self) -> nn.Module:
        """To be called as the whole model, by all stages of a replica; without gradients."""
        return self._replica

    @property
    def model(self) -> nn.Module:
        """The same, for hidden states."""
        return self._replica

    def train_step(self, batches: Sequence[MicroBatch], lr: float) -> StepResult:
        """Runs one optimizer step; every rank calls it together.

        Args:
            batches: This replica's micro-batches, the same on each of its stages and as many on
                every replica.
            lr: The rate of this step, before the scale of each parameter group.

        Returns:
            As `TrainingEngine.train_step`; the language sums stand on the last stage, the others
            return zeros.
        """
        if len(batches) != self.grad_accum_steps:
            self._accumulate(len(batches))
        for group in self._engine.basic_optimizer.param_groups:
            group["lr"] = lr * group[LR_SCALE]
        loss_sum = torch.zeros((), dtype=torch.float64, device=self.device)
        by_language = torch.zeros(2, self._num_languages, dtype=torch.float64, device=self.device)

        def observe(batch: MicroBatch, loss: Tensor, target_losses: Tensor) -> None:
            loss_sum.add_(loss)
            add_by_language(by_language, batch, target_losses)

        keyed = [
            (
                batch.to(self.device),
                DropoutKey.of(self.config.seed, batch.row_ids, batch.seq_len),
            )
            for batch in batches
        ]
        self._pipeline.begin_step(keyed, observe)
        # DeepSpeed asks for inputs and labels; the stages look into their own micro-batches.
        self._engine.train_batch(iter([(batch.tokens, None) for batch, _ in keyed]))
        self._engine.timers(TRAIN_BATCH_TIMER).reset()  # it would keep an event a step for ever
        norm = float(self._engine.get_global_grad_norm())
        replicas = self.grid.data_world_size
        loss = float(reduce.all_sum(loss_sum) / (self.grad_accum_steps * replicas))
        skipped = not self._engine.was_step_applied()
        return StepResult(loss, norm, lr, skipped, by_language[0], by_language[1])

    def load(self, source: TensorSource, optimizer_step: int) -> None:
        """Takes weights, moments and step count from a checkpoint of any layout.

        Raises:
            UserError: A tensor is missing or has another shape; the same error on every rank.
        """
        super().load(source, optimizer_step)
        self._pipeline.copy_tied_weight()

    def load_initial(self) -> None:
        """Takes the weights before the first step, with zero moments and a step count of zero."""
        super().load_initial()
        self._pipeline.copy_tied_weight()

    def data_sum(self, values: Tensor) -> Tensor:
        """Sums a tensor over the ranks that hold this stage, in place, and returns it."""
        if self.grid.data_world_size > 1:
            dist.all_reduce(values, group=self._pipeline.data_group)
        return values

    def close(self, disconnect_ranks: bool = True) -> None:
        """Lets go of DeepSpeed and, unless another engine follows, of the process groups."""
        super().close(disconnect_ranks)
        # Else the next engine in this process would take this one's groups for its own.
        deepspeed_groups.mpu = None


def stage_spans(config: PretrainConfig) -> list[StageSpan]:
    """Returns which units of the model each stage of a run holds.

    Raises:
        UserError: The model cannot be cut into so many stages.
    """
    rows, seq_len = config.training.micro_batch_size, config.data.seq_len
    targets = rows * targets_per_row(config.masking, seq_len)
    return balance_stages(
        config.model, config.training.pipeline_stages, rows * seq_len, targets, seq_len
    )


class _Replica(nn.Module):
    """A whole model to call, made of the stages of one replica, which all call it together.

    Stage after stage computes and sends its hidden states on; what comes out is then told to all.
    Nothing is overlapped: evaluation is a small part of a run.
    """

    def __init__(self, pipeline: EncoderPipeline, grid: Grid, spans: list[StageSpan]) -> None:
        super().__init__()
        self.pipeline, self.config = pipeline, pipeline.stage.config
        self._grid, self._owners = grid, state_owners(spans, self.config)
        self._behind_layers = not spans[grid.stage].layers and not grid.is_first_stage

    @torch.no_grad()
    def forward(
        self,
        tokens: Tensor,  # (tokens,) int64
        positions: Tensor,  # (tokens,) int64
        cu_seqlens: Tensor,  # (max_segments + 1,) int32
        target_index: Tensor,  # (targets,) int64
        targets: Tensor,  # (targets,) int64
        target_weight: Tensor,  # (targets,) float32
        seq_len: int,
    ) -> tuple[Tensor, Tensor]:
        """Returns loss and target losses as `MaskedLanguageModel.forward`, on every stage."""
        stage = self.pipeline.stage
        rows = len(target_index) if self._behind_layers else len(tokens)
        received = tokens if self._grid.is_first_stage else self._receive(rows)
        hidden = stage(received, positions, cu_seqlens, target_index, seq_len)
        result = hidden.new_empty(1 + len(targets), dtype=torch.float32)
        if self._grid.is_last_stage:
            loss, target_losses = stage.loss(hidden, targets, target_weight)
            result = torch.cat([loss[None], target_losses])
        else:
            self._send(hidden)
        self._tell(result, self._grid.num_stages - 1)
        return result[0], result[1:]

    @torch.no_grad()
    def hidden_states(
        self,
        tokens: Tensor,  # (tokens,) int64
        positions: Tensor,  # (tokens,) int64
        cu_seqlens: Tensor,  # (max_segments + 1,) int32
        seq_len: int,
    ) -> list[Tensor]:  # num_hidden_layers + 1 of (tokens, hidden)
        """Returns what `MaskedLanguageModel.hidden_states` does, on every stage."""
        stage = self.pipeline.stage
        received = tokens if self._grid.is_first_stage else self._receive(len(tokens))
        mine, onward = stage.hidden_states(received, positions, cu_seqlens, seq_len)
        if not self._grid.is_last_stage:
            self._send(onward)
        states = []
        for index, owner in enumerate(self._owners):
            state = mine[index].contiguous() if index in mine else self._empty(len(tokens))
            states.append(self._tell(state, owner))
        return states

    def _empty(self, rows: int) -> Tensor:
        like = next(self.pipeline.parameters())
        return like.new_empty(rows, self.config.hidden_size)

    def _receive(self, rows: int) -> Tensor:
        hidden = self._empty(rows)
        dist.recv(hidden, self._rank_of(self._grid.stage - 1))
        return hidden

    def _send(self, hidden: Tensor) -> None:
        dist.send(hidden.contiguous(), self._rank_of(self._grid.stage + 1))

    def _tell(self, values: Tensor, stage: int) -> Tensor:
        dist.broadcast(values, self._rank_of(stage), group=self.pipeline.pipe_group)
        return values

    def _rank_of(self, stage: int) -> int:
        return stage * self._grid.data_world_size + self._grid.data_rank
