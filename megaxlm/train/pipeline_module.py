"""DeepSpeed's PipelineModule and PipelineEngine around one stage of the encoder.

DeepSpeed's own module is a list of layers that hand tensors on; masks, positions and targets would
have to travel with the hidden states. Here every stage reads the same rows (the stream is a pure
function of its position), so that hidden states alone travel, in one static shape, and each stage
takes the rest from its own copy of the micro-batch.

What DeepSpeed 0.19.8 would do otherwise than we need, and is changed here:
- It trains the tied embedding on the first and on the last stage and trusts that equal gradients
  give equal copies. They do not: averages over the replicas are rounded differently (from three
  replicas on), and so are the vectorised steps of an optimizer. Here the first stage alone trains
  it: the last one hands over its gradient and is given the new weight, which moves no more bytes
  and needs no second optimizer state.
- Outside bf16, the squares of the gradient norm are summed over the stages once for every group of
  parameters. Stages with unlike numbers of groups (embeddings without a norm, rates that fall
  layer by layer) then wait for one another for ever. Here they are summed once.
- It prints to standard output, and sums and broadcasts a loss that we sum ourselves in float64.
"""

from __future__ import annotations

import contextlib
import io
import math
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.distributed as dist
from deepspeed.runtime.pipe import schedule
from deepspeed.runtime.pipe.engine import PipelineEngine
from deepspeed.runtime.pipe.module import PipelineModule
from deepspeed.runtime.pipe.topology import PipeDataParallelTopology
from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer
from torch import Tensor

from megaxlm.data.batch import MicroBatch
from megaxlm.distributed.environment import Grid
from megaxlm.model.dropout_key import DropoutKey
from megaxlm.model.pipeline import PipelineStage

# Called on the last stage with a micro-batch, its loss and the (targets,) unweighted losses.
LossObserver = Callable[[MicroBatch, Tensor, Tensor], None]


class EncoderPipeline(PipelineModule):  # type: ignore[misc]
    """One stage as DeepSpeed sees it: a tensor comes in, a tensor (or the loss) goes out."""

    def __init__(self, stage: PipelineStage, grid: Grid) -> None:
        """Makes the process groups of the pipeline; all ranks call it together.

        Args:
            stage: What this rank holds.
            grid: Its place.
        """
        topology = PipeDataParallelTopology(grid.num_stages, grid.data_world_size)
        with contextlib.redirect_stdout(io.StringIO()):
            super().__init__([stage], topology=topology)
        self._pending: deque[tuple[MicroBatch, DropoutKey]] = deque()
        self._observe: LossObserver | None = None

    @property
    def stage(self) -> PipelineStage:
        """What this rank holds."""
        return self._layer_specs[0]  # type: ignore[no-any-return]

    @property
    def pipe_group(self) -> Any:
        """The process group of this replica's stages."""
        return self._grid.get_pipe_parallel_group()

    @property
    def data_group(self) -> Any:
        """The process group of the ranks that hold this stage."""
        return self._grid.get_data_parallel_group()

    def begin_step(
        self, batches: Iterable[tuple[MicroBatch, DropoutKey]], observe: LossObserver
    ) -> None:
        """Says what the next forward passes are about.

        Args:
            batches: Micro-batches on this rank's device with their dropout keys, in the order of
                the schedule's forward passes: 1F1B starts them one after another on every stage.
            observe: See `LossObserver`.
        """
        self._pending = deque(batches)
        self._observe = observe

    def forward(self, received: Tensor) -> Tensor:
        """Runs this stage's part of the next micro-batch; the last stage returns its loss."""
        batch, key = self._pending.popleft()
        hidden: Tensor = self.stage(
            received, batch.positions, batch.cu_seqlens, batch.target_index, batch.seq_len, key
        )
        if not self.stage.span.has_head:
            return hidden
        loss, target_losses = self.stage.loss(hidden, batch.targets, batch.target_weight)
        assert self._observe is not None
        self._observe(batch, loss.detach(), target_losses)
        return loss

    def _partition_layers(self, method: str = "uniform") -> None:
        self.parts = list(range(self.num_stages + 1))
        self._set_bounds(0, 1)  # of the one layer that this rank was given

    def _index_tied_modules(self) -> dict[str, Any]:
        """Makes the groups of the stages that share the word embedding; DeepSpeed ties nothing."""
        grid, self.tied_group, self.tied_owner = self._grid, None, -1
        if self.stage.config.tie_word_embeddings:
            for replica in range(grid.data_parallel_size):  # every rank makes every group
                ranks = [
                    grid.stage_to_global(stage_id=stage, data=replica)
                    for stage in (0, self.num_stages - 1)
                ]
                group = dist.new_group(ranks=ranks)
                if self.global_rank in ranks:
                    self.tied_group, self.tied_owner = group, ranks[0]
        return {}

    def _synchronize_tied_weights(self) -> None:
        """Nothing: a stage has no values before it is loaded."""

    @torch.no_grad()
    def copy_tied_weight(self) -> None:
        """Gives the last stage the first one's word embedding, if they are tied."""
        embedding = self.stage.tied_embedding
        if embedding is not None:
            dist.broadcast(embedding.weight, self.tied_owner, group=self.tied_group)


class EncoderPipelineEngine(PipelineEngine):  # type: ignore[misc]
    """DeepSpeed's engine, quiet and mended as the module's docstring says."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Takes what PipelineEngine does."""
        super().__init__(*args, **kwargs)
        if isinstance(self.optimizer, DeepSpeedZeroOptimizer):
            self.optimizer.scaled_global_norm = self._global_norm

    def _global_norm(self) -> Tensor:
        """Returns the norm of the gradients of all stages; inf if one is not finite."""
        optimizer = self.optimizer
        squares = torch.zeros((), dtype=torch.float64, device=self.device)
        for gradients, parameters in zip(
            optimizer.averaged_gradients.values(), optimizer.params_in_partition, strict=True
        ):
            real = (one for one in gradients if not getattr(one, "_zero_padding", False))
            # The last gradient may be padding without a parameter.
            for gradient, _ in zip(real, parameters, strict=False):
                squares += torch.linalg.vector_norm(gradient, dtype=torch.float32).double() ** 2
        dist.all_reduce(squares, group=self.module.data_group)
        dist.all_reduce(squares, group=self.module.pipe_group)
        return torch.where(squares.isfinite(), squares.sqrt(), math.inf).float()

    def _exec_reduce_tied_grads(self) -> None:
        """Adds the last stage's gradient of the word embedding to the first one's."""
        embedding = self.module.stage.tied_embedding
        if embedding is None:
            return
        weight = embedding.weight
        # Where the optimizer knows the weight, bf16 gradients are summed in a buffer of its own.
        gradient = getattr(weight, "_hp_grad", None)
        gradient = weight.grad if gradient is None else gradient
        dist.reduce(gradient, self.module.tied_owner, group=self.module.tied_group)
        if not self.is_first_stage():
            weight.grad = None

    def _exec_optimizer_step(self, lr_kwargs: Any = None) -> None:
        super()._exec_optimizer_step(lr_kwargs)
        if self.was_step_applied():
            self.module.copy_tied_weight()

    def _aggregate_total_loss(self) -> Tensor:
        return torch.zeros(())

    def steps_per_print(self) -> None:
        """Never: DeepSpeed would print to standard output."""

    def wall_clock_breakdown(self) -> bool:
        """Never, for the same reason."""
        return False

    def tput_log(self, *messages: Any) -> None:
        """Nothing."""

    # DeepSpeed calls the functions of this table, not the methods.
    _INSTRUCTION_MAP = {
        **PipelineEngine._INSTRUCTION_MAP,
        schedule.ReduceTiedGrads: _exec_reduce_tied_grads,
        schedule.OptimizerStep: _exec_optimizer_step,
    }
