"""Which ranges of which named tensors this rank holds inside DeepSpeed, to read and to write.

Each of DeepSpeed's optimizers keeps the fp32 master weights and the moments in flat tensors of
its own shape. `held_pieces` finds where every parameter lies in them; what is saved, loaded or
handed to another layout is then the same few lines for all of them:

| stage, precision | optimizer | master weights |
|---|---|---|
| 0, fp32 | the torch optimizer itself | the parameters, a copy on every rank |
| 0, bf16 | `FP16_UnfusedOptimizer` | one fp32 tensor a parameter, a copy on every rank |
| 1, bf16, fp32 accumulation | `BF16_Optimizer` | a flat partition a group |
| 1 and 2 | `DeepSpeedZeroOptimizer` | a flat partition a group, parameters perhaps reordered |
| 3 | `DeepSpeedZeroOptimizer_Stage3` | a partition of every parameter, in flat sub-groups |

DeepSpeed links parameters to their fragments itself (`_hp_mapping`), but not at every stage, and
the moments only after the first step; the partitions are the same whether it has or not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch
from deepspeed.runtime.bf16_optimizer import BF16_Optimizer
from deepspeed.runtime.engine import DeepSpeedEngine
from deepspeed.runtime.fp16.unfused_optimizer import FP16_UnfusedOptimizer
from deepspeed.runtime.zero.stage3 import DeepSpeedZeroOptimizer_Stage3
from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer
from torch import Tensor, nn
from torch.optim import Optimizer

from megaxlm.checkpoint.fragments import WEIGHTS_PREFIX, Fragment
from megaxlm.distributed import reduce
from megaxlm.distributed.environment import Grid
from megaxlm.errors import UserError
from megaxlm.optim.state import moment_names, reset_state, step_count
from megaxlm.train.sources import TensorSource

EMA = "ema"  # the moment that may be missing in a checkpoint: it then starts from the weights


@dataclass(frozen=True)
class Piece:
    """Elements [start, start + numel) of a parameter, at `offset` of one of the flat tensors."""

    group: int  # of the inner optimizer
    name: str
    shape: tuple[int, ...]  # of the whole parameter
    start: int
    numel: int
    master: nn.Parameter | Tensor  # fp32; also the key of its moments in the optimizer's state
    offset: int

    def of(self, flat: Tensor) -> Tensor:  # (numel,) view
        """Returns this piece of the master tensor, or of a moment of the same shape."""
        return flat.detach().view(-1)[self.offset : self.offset + self.numel]


class EngineFragments:
    """Reads and writes the named state of one engine on this rank."""

    def __init__(
        self,
        engine: DeepSpeedEngine,
        grid: Grid,
        names: dict[nn.Parameter, str] | None = None,
    ) -> None:
        """Finds every piece and tells the optimizer, if it asks, which parameter it belongs to.

        Args:
            engine: DeepSpeed's engine.
            grid: This rank's place.
            names: Names of the parameters in a checkpoint; None: those of the module.
        """
        self._optimizer = engine.optimizer
        self._inner: Optimizer = engine.basic_optimizer
        self._held = list(_held_pieces(engine, engine.param_names if names is None else names))
        partitioned = engine.zero_optimization_stage() > 0
        self._owned = self._held
        if not partitioned:
            self._owned = _share(self._held, grid.data_rank, grid.data_world_size)
        bind = getattr(self._inner, "bind", None)
        if bind is not None:
            bind(self._held, self._optimizer.dp_process_group if partitioned else None)
        self.reset_optimizer_state()

    @torch.no_grad()
    def reset_optimizer_state(self, optimizer_step: int = 0) -> None:
        """Gives the optimizer zero moments and a step count, as torch would at its first step.

        DeepSpeed leaves the state unmade until then, or makes it with a step of zero gradients
        that already counts.
        """
        for master, group in self._masters():
            reset_state(self._inner, group, master, optimizer_step)

    @property
    def optimizer_step(self) -> int:
        """Updates that the optimizer has applied, without skipped ones; 0 on a rank of padding."""
        for master, group in self._masters():
            return step_count(self._inner, group, master)
        return 0

    def owned(self) -> Iterator[Fragment]:
        """Yields this rank's share as views; all ranks together hold every element once."""
        for piece in self._owned:
            yield Fragment(
                f"{WEIGHTS_PREFIX}{piece.name}", piece.shape, piece.start, piece.of(piece.master)
            )
            state = self._inner.state[piece.master]
            for moment in self._moments(piece):
                values = piece.of(state[moment])
                yield Fragment(f"{moment}/{piece.name}", piece.shape, piece.start, values)

    def load(self, source: TensorSource, optimizer_step: int) -> None:
        """Takes weights, moments and step count, whatever layout wrote them; all ranks call it.

        Raises:
            UserError: A tensor is missing or has another shape; the same error on every rank.
        """
        with reduce.together():
            for piece in self._held:
                self._check(source, piece, WEIGHTS_PREFIX)
                for moment in self._moments(piece):
                    if moment != EMA:
                        self._check(source, piece, f"{moment}/")
            self.reset_optimizer_state(optimizer_step)
            self._copy_weights(source)
            for piece in self._held:
                state = self._inner.state[piece.master]
                for moment in self._moments(piece):
                    name = f"{moment}/{piece.name}"
                    if moment == EMA and not _has(source, name):
                        name = f"{WEIGHTS_PREFIX}{piece.name}"
                    piece.of(state[moment]).copy_(source.read(name, piece.start, piece.numel))
        _refresh_model_weights(self._optimizer)

    def load_weights(self, source: TensorSource) -> None:
        """Takes the weights alone and begins the optimizer anew; all ranks call it.

        Raises:
            UserError: A tensor is missing or has another shape; the same error on every rank.
        """
        with reduce.together():
            for piece in self._held:
                self._check(source, piece, WEIGHTS_PREFIX)
            self.reset_optimizer_state()
            self._copy_weights(source)
        _refresh_model_weights(self._optimizer)

    @torch.no_grad()
    def _copy_weights(self, source: TensorSource) -> None:
        for piece in self._held:
            values = source.read(f"{WEIGHTS_PREFIX}{piece.name}", piece.start, piece.numel)
            piece.of(piece.master).copy_(values)

    def _check(self, source: TensorSource, piece: Piece, prefix: str) -> None:
        shape = tuple(source.shape(f"{prefix}{piece.name}"))
        if shape != piece.shape:
            where = getattr(source, "path", "the weights given")
            raise UserError(
                f"{where}: {prefix}{piece.name} has shape {shape}, the model has "
                f"{piece.shape}; use the model config it was saved with"
            )

    def _moments(self, piece: Piece) -> tuple[str, ...]:
        return moment_names(self._inner.param_groups[piece.group])

    def _masters(self) -> Iterator[tuple[Tensor, dict[str, Any]]]:
        """Yields every master once, with its param group."""
        seen: set[int] = set()
        for piece in self._held:
            if id(piece.master) not in seen:
                seen.add(id(piece.master))
                yield piece.master, self._inner.param_groups[piece.group]


def _has(source: TensorSource, name: str) -> bool:
    try:
        source.shape(name)
    except (UserError, KeyError):
        return False
    return True


def _held_pieces(engine: DeepSpeedEngine, names: dict[nn.Parameter, str]) -> Iterator[Piece]:
    """Yields where every element that this rank stores lies; replicas on every rank at stage 0."""
    optimizer = engine.optimizer
    if isinstance(optimizer, DeepSpeedZeroOptimizer_Stage3):
        yield from _stage_3_pieces(optimizer, names)
    elif isinstance(optimizer, DeepSpeedZeroOptimizer):
        rank = torch.distributed.get_rank(optimizer.dp_process_group)
        for group, (parameters, offsets, master, size) in enumerate(
            zip(
                optimizer.round_robin_bit16_groups,
                optimizer.round_robin_bit16_offsets,
                optimizer.single_partition_of_fp32_groups,
                optimizer.partition_size,
                strict=True,
            )
        ):
            yield from _flat_pieces(group, parameters, offsets, names, master, rank * size)
    elif isinstance(optimizer, BF16_Optimizer):
        rank = torch.distributed.get_rank(optimizer.dp_process_group)
        for group, (parameters, master) in enumerate(
            zip(optimizer.bf16_groups, optimizer.fp32_groups_flat_partition, strict=True)
        ):
            offsets, begin = _running_offsets(parameters), rank * master.numel()
            yield from _flat_pieces(group, parameters, offsets, names, master, begin)
    elif isinstance(optimizer, FP16_UnfusedOptimizer):
        for group, (parameters, masters) in enumerate(
            zip(optimizer.fp16_groups, optimizer.fp32_groups, strict=True)
        ):
            for parameter, master in zip(parameters, masters, strict=True):
                yield _whole(group, names[parameter], master)
    elif isinstance(optimizer, Optimizer):
        for group, settings in enumerate(optimizer.param_groups):
            for parameter in settings["params"]:
                yield _whole(group, names[parameter], parameter)
    else:
        raise TypeError(f"no fragments known for DeepSpeed's {type(optimizer).__name__}")


def _whole(group: int, name: str, master: Tensor) -> Piece:
    assert master.is_contiguous(), name
    return Piece(group, name, tuple(master.shape), 0, master.numel(), master, 0)


def _running_offsets(parameters: Sequence[nn.Parameter]) -> list[int]:
    offsets, end = [], 0
    for parameter in parameters:
        offsets.append(end)
        end += parameter.numel()
    return offsets


def _flat_pieces(
    group: int,
    parameters: Iterable[nn.Parameter],
    offsets: Iterable[int],
    names: dict[nn.Parameter, str],
    master: Tensor,  # (partition,)
    partition_start: int,
) -> Iterator[Piece]:
    """Yields the parts of a flat group that fall into one partition; alignment padding does not."""
    partition_end = partition_start + master.numel()
    for parameter, begin in zip(parameters, offsets, strict=True):
        low = max(begin, partition_start)
        high = min(begin + parameter.numel(), partition_end)
        if low < high:
            yield Piece(
                group,
                names[parameter],
                tuple(parameter.shape),
                low - begin,
                high - low,
                master,
                low - partition_start,
            )


def _stage_3_pieces(
    optimizer: DeepSpeedZeroOptimizer_Stage3, names: dict[nn.Parameter, str]
) -> Iterator[Piece]:
    for sub_group, (parameters, master) in enumerate(
        zip(optimizer.fp16_groups, optimizer.fp32_partitioned_groups_flat, strict=True)
    ):
        group, offset = optimizer.sub_group_to_group_id[sub_group], 0
        for parameter in parameters:
            each = parameter.partition_numel()  # rounded up, so the last ranks hold padding
            start = torch.distributed.get_rank(parameter.ds_process_group) * each
            numel = min(each, max(0, parameter.ds_numel - start))
            if numel:
                shape = tuple(parameter.ds_shape)
                yield Piece(group, names[parameter], shape, start, numel, master, offset)
            offset += each


def _share(pieces: Sequence[Piece], rank: int, world_size: int) -> list[Piece]:
    """Cuts replicated pieces into one even run of elements a rank."""
    total = sum(piece.numel for piece in pieces)
    begin, end = total * rank // world_size, total * (rank + 1) // world_size
    share, position = [], 0
    for piece in pieces:
        assert piece.numel == prod(piece.shape), piece.name
        low, high = max(begin, position), min(end, position + piece.numel)
        if low < high:
            inside = low - position
            share.append(
                replace(
                    piece,
                    start=piece.start + inside,
                    numel=high - low,
                    offset=piece.offset + inside,
                )
            )
        position += piece.numel
    return share


@torch.no_grad()
def _refresh_model_weights(optimizer: Any) -> None:
    """Brings the weights that the forward pass uses in line with the masters; a collective call.

    The calls are those with which each optimizer ends its own step.
    """
    if isinstance(optimizer, DeepSpeedZeroOptimizer_Stage3):
        optimizer._partition_all_parameters()
        for sub_group in range(len(optimizer.fp16_groups)):
            optimizer._reassign_or_swap_out_partitioned_parameters(sub_group)
        optimizer._post_step(set())  # gathers the small parameters that stay on every rank
    elif isinstance(optimizer, DeepSpeedZeroOptimizer | BF16_Optimizer):
        optimizer.update_lp_params()
    elif isinstance(optimizer, FP16_UnfusedOptimizer):
        for parameters, masters in zip(optimizer.fp16_groups, optimizer.fp32_groups, strict=True):
            for parameter, master in zip(parameters, masters, strict=True):
                parameter.copy_(master)
