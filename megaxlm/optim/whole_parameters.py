"""Optimizers that look at whole parameters, on masters that hold no whole parameter.

LAMB and StableAdamW take a norm of every parameter, Muon orthogonalises whole matrices. ZeRO gives
an optimizer flat tensors instead, each a part of many parameters, so that a plain implementation
would silently take norms of whatever lies in a partition. Here an optimizer is told where every
parameter lies (`bind`), and the ranks that share the masters bring the parts together: norms by
one all-reduce a call of `step`, matrices by `megaxlm.optim.muon_exchange`.

Without `bind`, and at stage 0, every parameter is whole and nothing is exchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor
from torch.optim import Optimizer

from megaxlm.optim.state import STACKED, STEP, moment_names


class Piece(Protocol):
    """Elements [start, start + numel) of a parameter, at `offset` of a master."""

    @property
    def group(self) -> int:
        """The param group's place in the optimizer."""

    @property
    def name(self) -> str:
        """The parameter's name in a checkpoint."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the whole parameter."""

    @property
    def start(self) -> int:
        """Where the piece begins in the flat parameter."""

    @property
    def numel(self) -> int:
        """Elements of the piece."""

    @property
    def master(self) -> Tensor:
        """The tensor that the optimizer updates."""

    @property
    def offset(self) -> int:
        """Where the piece begins in the flat master."""


@dataclass(frozen=True)
class Part:
    """What one rank holds of a parameter, in the one master that a call of `step` is about."""

    start: int  # in the flat parameter
    numel: int
    offset: int  # in the flat master


@dataclass
class Unit:
    """The parameters that one call of `step` updates, in the same order on every rank."""

    names: list[str] = field(default_factory=list)
    shapes: list[tuple[int, ...]] = field(default_factory=list)
    # By rank of the process group, then by parameter; a rank may hold nothing of one.
    parts: list[dict[int, Part]] = field(default_factory=list)

    def add(self, rank: int, name: str, shape: tuple[int, ...], part: Part) -> None:
        """Notes what a rank holds of a parameter."""
        if name not in self.names:
            self.names.append(name)
            self.shapes.append(shape)
        self.parts[rank][self.names.index(name)] = part


@dataclass(frozen=True)
class View:
    """What this rank holds of a parameter, ready to be sliced out of a master or a moment."""

    parameter: int  # in the list of the unit's shapes
    tensor: int  # in the list of the call's masters
    part: Part

    def of(self, tensors: Sequence[Tensor]) -> Tensor:  # (numel,) view
        """Returns the elements in one of the masters, or of tensors of their shapes."""
        flat = tensors[self.tensor].detach().view(-1)
        return flat[self.part.offset : self.part.offset + self.part.numel]


@dataclass(frozen=True)
class Call:
    """What one call of `step` is about, in one param group."""

    shapes: list[tuple[int, ...]]  # of the whole parameters
    views: list[View]  # this rank's parts
    unit: Unit | None  # None: every parameter is whole on this rank


@dataclass(frozen=True)
class _Row:
    """A piece as it is sent to the other ranks."""

    group: int
    master: int  # numbered within the rank, in the order in which DeepSpeed steps them
    parameter: str
    name: str  # of the parameter, or of one of the matrices stacked in it
    shape: tuple[int, ...]
    part: Part


class WholeParameterOptimizer(Optimizer):
    """Base of the optimizers whose update depends on whole parameters."""

    def __init__(self, params: Iterable[Any], defaults: dict[str, Any]) -> None:
        super().__init__(params, defaults)
        self.process_group: dist.ProcessGroup | None = None
        self.rank, self.world_size = 0, 1
        self._partitioned = False
        self._calls: dict[int, Call] = {}  # by id of the master
        self._unseen: dict[str, list[Unit]] = {}  # units of which this rank holds padding alone

    def bind(self, pieces: Sequence[Piece], process_group: dist.ProcessGroup | None) -> None:
        """Says where every parameter lies; the ranks that share the masters call it together.

        Args:
            pieces: What this rank holds, masters in the order in which they are stepped.
            process_group: The ranks among which the masters are partitioned; None: they are not.

        Raises:
            ValueError: A parameter is not whole although nothing is partitioned, or its parts do
                not make it up.
        """
        if process_group is None:
            cut = [piece.name for piece in pieces if piece.numel != prod(piece.shape)]
            if cut:
                raise ValueError(f"not whole: {', '.join(cut)}")
            return
        self._partitioned = True
        self.process_group = process_group
        self.rank = dist.get_rank(process_group)
        self.world_size = dist.get_world_size(process_group)
        masters: dict[int, Tensor] = {id(piece.master): piece.master for piece in pieces}
        number = {master: index for index, master in enumerate(masters)}
        rows = [
            _Row(piece.group, number[id(piece.master)], piece.name, name, shape, part)
            for piece in pieces
            for name, shape, part in _unstacked(
                piece.name,
                tuple(piece.shape),
                Part(piece.start, piece.numel, piece.offset),
                self.param_groups[piece.group].get(STACKED, 1),
            )
        ]
        tables: list[list[_Row]] = [[] for _ in range(self.world_size)]
        dist.all_gather_object(tables, rows, group=process_group)
        names = [str(group["name"]) for group in self.param_groups]
        self._calls, self._unseen = {}, {}
        by_number = list(masters)
        for group, units in _units(tables).items():
            for unit in units:
                _check(unit)
                mine = unit.parts[self.rank]
                if not mine:
                    self._unseen.setdefault(names[group], []).append(unit)
                    continue
                own = next(row for row in rows if row.name == unit.names[min(mine)])
                self._calls[by_number[own.master]] = self._call_of(unit)

    @torch.no_grad()
    def step(  # type: ignore[override]
        self, closure: Callable[[], float] | None = None
    ) -> float | None:
        """Updates the parameters from their gradients; at ZeRO 1 to 3 all ranks call it together.

        Args:
            closure: Computes the loss anew; rarely given.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            masters = [master for master in group["params"] if master.grad is not None]
            if not masters:
                continue
            for master in masters:
                state = self.state[master]
                for name in moment_names(group):
                    if name not in state and name in self.own_moments(group):
                        state[name] = torch.zeros_like(master)
                state[STEP] = state.get(STEP, 0) + 1
            self._update(group, masters, self._call(group, masters))
        return loss

    def own_moments(self, group: dict[str, Any]) -> tuple[str, ...]:
        """Returns the state tensors that `step` itself reads and writes."""
        raise NotImplementedError

    def _update(self, group: dict[str, Any], masters: list[Tensor], call: Call) -> None:
        """Updates the masters of one group; their states are there and count this step."""
        raise NotImplementedError

    def _call(self, group: dict[str, Any], masters: list[Tensor]) -> Call:
        if not self._partitioned:
            shapes: list[tuple[int, ...]] = []
            views: list[View] = []
            for index, master in enumerate(masters):
                whole, stacked = Part(0, master.numel(), 0), group.get(STACKED, 1)
                for _, shape, part in _unstacked("", tuple(master.shape), whole, stacked):
                    views.append(View(len(shapes), index, part))
                    shapes.append(shape)
            return Call(shapes, views, None)
        (master,) = masters  # DeepSpeed flattens a group, or a part of it, into one
        if id(master) not in self._calls:
            # Nothing but padding here. Masters come in the same order on every rank, so it is the
            # first unit of the group that has not been seen yet.
            self._calls[id(master)] = self._call_of(self._unseen[group["name"]].pop(0))
        return self._calls[id(master)]

    def _call_of(self, unit: Unit) -> Call:
        views = [View(parameter, 0, part) for parameter, part in unit.parts[self.rank].items()]
        return Call(unit.shapes, views, unit)

    def _sum_by_parameter(
        self, call: Call, squares: Sequence[Sequence[Tensor]], device: torch.device
    ) -> Tensor:  # (kinds, parameters) float64
        """Adds up what the ranks' parts contribute to each parameter.

        In float64, so that the sum hardly depends on where a parameter is cut.

        Args:
            call: Which parameters.
            squares: Of each kind, a scalar for each of the call's views.
            device: Of the result.
        """
        sums = torch.zeros(len(squares), len(call.shapes), dtype=torch.float64, device=device)
        if call.views:
            places = torch.tensor([view.parameter for view in call.views], device=device)
            for row, values in zip(sums, squares, strict=True):
                row[places] = torch.stack(list(values)).to(torch.float64)
        if self.world_size > 1:
            carried = sums.to(communication_device(self.process_group, device))
            dist.all_reduce(carried, group=self.process_group)
            sums = carried.to(device)
        return sums


def communication_device(
    process_group: dist.ProcessGroup | None, device: torch.device
) -> torch.device:
    """Returns where tensors must be to be sent: NCCL takes none from the CPU."""
    if device.type == "cpu" and "nccl" in str(dist.get_backend(process_group)):
        return torch.device("cuda", torch.cuda.current_device())
    return device


def gradients(masters: Iterable[Tensor]) -> list[Tensor]:
    """Returns the gradients of masters that all have one."""
    return [master.grad for master in masters if master.grad is not None]


def sums_of_squares(tensors: list[Tensor]) -> list[Tensor]:
    """Returns the sum of squares of each tensor, float64 scalars."""
    return [norm.square() for norm in torch._foreach_norm(tensors, 2, dtype=torch.float64)]


def _unstacked(
    name: str, shape: tuple[int, ...], part: Part, stacked: int
) -> Iterator[tuple[str, tuple[int, ...], Part]]:
    """Cuts a part of a parameter that is several matrices into parts of these."""
    if stacked == 1:
        yield name, shape, part
        return
    each = prod(shape) // stacked
    for index in range(stacked):
        low = max(part.start, index * each)
        high = min(part.start + part.numel, (index + 1) * each)
        if low < high:
            inside = Part(low - index * each, high - low, part.offset + low - part.start)
            yield f"{name}[{index}]", (shape[0] // stacked, *shape[1:]), inside


def _units(tables: Sequence[Sequence[_Row]]) -> dict[int, list[Unit]]:
    """Returns the units of each param group, in the order in which they are stepped.

    Stages 1 and 2 step a group at once. Stage 3 steps it in parts, each with every rank's share of
    its parameters; the first rank holds some of every parameter and so knows all the parts.
    """
    groups = sorted({row.group for table in tables for row in table})
    found: dict[int, list[Unit]] = {}
    for group in groups:
        rows_of = [[row for row in table if row.group == group] for table in tables]
        numbers = [sorted({row.master for row in rows}) for rows in rows_of]
        in_parts = any(len(masters) > 1 for masters in numbers)
        units = [
            Unit(parts=[{} for _ in tables]) for _ in range(len(numbers[0]) if in_parts else 1)
        ]
        unit_of: dict[str, Unit] = {}
        for row in rows_of[0]:
            unit_of[row.parameter] = units[numbers[0].index(row.master) if in_parts else 0]
        for rank, rows in enumerate(rows_of):
            for row in rows:
                unit = unit_of[row.parameter] if in_parts else units[0]
                unit.add(rank, row.name, row.shape, row.part)
        found[group] = units
    return found


def _check(unit: Unit) -> None:
    for index, (name, shape) in enumerate(zip(unit.names, unit.shapes, strict=True)):
        held = sorted(
            (parts[index].start, parts[index].numel) for parts in unit.parts if index in parts
        )
        end = 0
        for start, numel in held:
            if start != end:
                raise ValueError(f"{name}: the ranks' parts leave a gap or overlap: {held}")
            end += numel
        if end != prod(shape):
            raise ValueError(f"{name}: the ranks hold {end} of {prod(shape)} elements")
