"""Orthogonalises matrices that lie in parts on several ranks, each of them once.

Every matrix has an owner among the ranks. They send their parts there, the owner orthogonalises
the whole and sends the parts back: two all-to-alls, in rounds, so that no rank ever holds many
matrices beside its own share. Who owns what, and the sizes of all messages, follow from where the
parts lie and are worked out once.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch
import torch.distributed as dist
from torch import Tensor

from megaxlm.optim.whole_parameters import Part, Unit, communication_device

# Newton-Schulz iteration of degree 5 of Jordan et al. 2024 ("Muon: An optimizer for hidden layers
# in neural networks"): five steps bring every singular value to about 0.7 to 1.2.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5
SMALLEST_NORM = 1e-7
ROUND_ELEMENTS = 2**25  # that one owner gets in a round, unless a single matrix is larger


def orthogonalize(matrix: Tensor) -> Tensor:  # (rows, columns)
    """Returns about U V^T of the singular value decomposition U S V^T.

    Computed in the dtype of the matrix; bf16 is enough, see `working_dtype`.
    """
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.mT if tall else matrix
    x = x / (x.norm() + SMALLEST_NORM)
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT.contiguous() if tall else x


def working_dtype(device: torch.device) -> torch.dtype:
    """Returns what matrices are sent and multiplied in: bf16 on a GPU, fp32 on the CPU."""
    return torch.bfloat16 if device.type == "cuda" else torch.float32


@dataclass(frozen=True)
class _Round:
    """Which matrices are dealt with together, by owner."""

    owned: list[list[int]]

    def sent(self, unit: Unit, holder: int) -> list[list[tuple[int, Part]]]:
        """Returns the parts that a rank sends to each owner, in the order of the message."""
        parts = unit.parts[holder]
        return [[(m, parts[m]) for m in matrices if m in parts] for matrices in self.owned]


class MatrixExchange:
    """Orthogonalises the matrices of one unit together with the other ranks."""

    def __init__(self, unit: Unit, process_group: dist.ProcessGroup, rank: int) -> None:
        """Plans the rounds.

        Args:
            unit: Where the parts of every matrix lie; all its parameters have two dimensions.
            process_group: The ranks that hold them.
            rank: This one.
        """
        self._unit, self._group, self._rank = unit, process_group, rank
        self._ranks = len(unit.parts)
        self._rounds = _rounds(unit.shapes, self._ranks)

    def __call__(self, flat: Tensor) -> None:  # (master,)
        """Replaces every part in place by that of its matrix's U V^T; all ranks call it.

        Args:
            flat: This rank's elements, laid out as its master; padding stays as it is.
        """
        device = communication_device(self._group, flat.device)
        dtype = working_dtype(device)
        for planned in self._rounds:
            by_holder = [planned.sent(self._unit, rank) for rank in range(self._ranks)]
            mine = [part for parts in by_holder[self._rank] for _, part in parts]
            pieces = [flat[part.offset : part.offset + part.numel] for part in mine]
            outgoing = torch.cat(pieces or [flat[:0]]).to(device, dtype)
            send_sizes = [_numel(parts) for parts in by_holder[self._rank]]
            received = [parts[self._rank] for parts in by_holder]
            sizes = [_numel(parts) for parts in received]
            incoming = self._all_to_all(outgoing, sizes, send_sizes)
            self._orthogonalize_owned(planned.owned[self._rank], received, incoming)
            returned = self._all_to_all(incoming, send_sizes, sizes)
            for part, values in zip(
                mine, torch.split(returned, [part.numel for part in mine]), strict=True
            ):
                flat[part.offset : part.offset + part.numel] = values.to(flat.device, flat.dtype)

    def _orthogonalize_owned(
        self, matrices: list[int], received: list[list[tuple[int, Part]]], incoming: Tensor
    ) -> None:
        """Replaces the parts in a message by those of the orthogonal matrices."""
        places: dict[int, list[tuple[Part, int]]] = {matrix: [] for matrix in matrices}
        position = 0
        for parts in received:
            for matrix, part in parts:
                places[matrix].append((part, position))
                position += part.numel
        for matrix, parts_of in places.items():
            shape = self._unit.shapes[matrix]
            whole = incoming.new_empty(prod(shape))
            for part, at in parts_of:
                whole[part.start : part.start + part.numel] = incoming[at : at + part.numel]
            whole = orthogonalize(whole.view(shape)).view(-1)
            for part, at in parts_of:
                incoming[at : at + part.numel] = whole[part.start : part.start + part.numel]

    def _all_to_all(self, tensor: Tensor, into: list[int], out_of: list[int]) -> Tensor:
        if self._ranks == 1:
            return tensor
        result = tensor.new_empty(sum(into))
        dist.all_to_all_single(result, tensor, into, out_of, group=self._group)
        return result


def _numel(parts: list[tuple[int, Part]]) -> int:
    return sum(part.numel for _, part in parts)


def _rounds(shapes: list[tuple[int, ...]], ranks: int) -> list[_Round]:
    """Gives every matrix an owner, the costliest first to the least busy, and a round."""
    cost = {}
    for matrix, (rows, columns) in enumerate(shapes):
        small, large = sorted((rows, columns))
        cost[matrix] = small * small * (2 * large + small)
    busy = [0] * ranks
    owned: list[list[list[int]]] = [[] for _ in range(ranks)]  # by owner and round
    filled = [ROUND_ELEMENTS] * ranks
    for matrix in sorted(cost, key=lambda matrix: (-cost[matrix], matrix)):
        owner = busy.index(min(busy))
        busy[owner] += cost[matrix]
        numel = prod(shapes[matrix])
        if filled[owner] + numel > ROUND_ELEMENTS:
            owned[owner].append([])
            filled[owner] = 0
        owned[owner][-1].append(matrix)
        filled[owner] += numel
    count = max(len(rounds) for rounds in owned)
    return [
        _Round([rounds[number] if number < len(rounds) else [] for rounds in owned])
        for number in range(count)
    ]
