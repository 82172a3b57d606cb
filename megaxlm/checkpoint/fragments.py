"""A fragment: a flat range of a named tensor, the one currency between engine and checkpoint.

Data parallelism, ZeRO stages and pipelines all cut tensors differently; each can say which flat
ranges of which named tensors it holds. A checkpoint is a set of fragments that covers every
tensor exactly once, so it can be written by any layout and read by any other.

Names: `model/<parameter>` (fp32 master weights), `ema/<parameter>` (their moving average) and
`<moment>/<parameter>` as the optimizer names its moments, e.g. `exp_avg/<parameter>`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

WEIGHTS_PREFIX = "model/"
AVERAGES_PREFIX = "ema/"  # the moving average of the weights, of runs that keep one

# The dtype names of the safetensors format.
DTYPE_NAMES: dict[torch.dtype, str] = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
DTYPES: dict[str, torch.dtype] = {name: dtype for dtype, name in DTYPE_NAMES.items()}


@dataclass(frozen=True)
class Fragment:
    """The range [start, start + tensor.numel()) of the flattened tensor `name`.

    The tensor may be a view of the engine's own memory on any device: the writer copies it to the
    host piece by piece and never changes it.

    Raises:
        ValueError: The tensor is not flat, has a dtype that is not stored, or leaves the shape.
    """

    name: str
    shape: tuple[int, ...]  # of the whole tensor
    start: int  # elements, row-major
    tensor: Tensor  # (numel,)

    def __post_init__(self) -> None:
        if self.tensor.dim() != 1:
            raise ValueError(f"fragment of {self.name}: tensor has {self.tensor.dim()} dims, not 1")
        if self.tensor.dtype not in DTYPE_NAMES:
            raise ValueError(f"fragment of {self.name}: dtype {self.tensor.dtype} is not stored")
        if self.start < 0 or self.start + self.numel > prod(self.shape):
            raise ValueError(
                f"fragment of {self.name}: [{self.start}, {self.start + self.numel}) leaves "
                f"the shape {self.shape} of {prod(self.shape)} elements"
            )

    @property
    def numel(self) -> int:
        """Elements in this fragment."""
        return self.tensor.numel()

    @property
    def num_bytes(self) -> int:
        """Bytes of this fragment on disk."""
        return self.tensor.numel() * self.tensor.element_size()

    @property
    def key(self) -> str:
        """The name of this fragment inside its rank's safetensors file."""
        return fragment_key(self.name, self.start)


@dataclass(frozen=True)
class StoredFragment:
    """Flat ranges on disk: `numel` elements from `start` on, in the file of `rank`.

    With a `count` above 1 the next ranks go on from there with as many elements each: piece i is
    `numel` elements from `start + i * numel` on, in the file of `rank + i`. ZeRO-3 cuts every
    tensor like that, and so a checkpoint of a thousand ranks has a few of these a tensor.
    """

    rank: int
    start: int
    numel: int
    count: int = 1

    @property
    def end(self) -> int:
        """The element after the last one."""
        return self.start + self.numel * self.count


def fragment_key(name: str, start: int) -> str:
    """Returns the key of a fragment in a safetensors file: `model/norm.weight@512`."""
    return f"{name}@{start}"


def whole(name: str, tensor: Tensor) -> Fragment:
    """Returns a whole tensor as one fragment."""
    return Fragment(name, tuple(tensor.shape), 0, tensor.detach().reshape(-1))


def ordered_cover(
    name: str, shape: Iterable[int], pieces: Iterable[StoredFragment]
) -> tuple[StoredFragment, ...]:
    """Returns the pieces in order of their start, having checked that they tile the tensor.

    Raises:
        ValueError: An element is covered by no piece or by two, or lies outside the shape.
    """
    numel = prod(shape)
    ordered = tuple(sorted(pieces, key=lambda piece: piece.start))
    end = 0
    for piece in ordered:
        if piece.numel < 1 or piece.start < 0 or piece.count < 1:
            raise ValueError(f"{name}: fragment of {piece.numel} elements at {piece.start}")
        if piece.start > end:
            raise ValueError(f"{name}: elements [{end}, {piece.start}) are in no fragment")
        if piece.start < end:
            raise ValueError(
                f"{name}: elements [{piece.start}, {min(end, piece.end)}) are in "
                f"two fragments, the second of rank {piece.rank}"
            )
        end = piece.end
    if end < numel:
        raise ValueError(f"{name}: elements [{end}, {numel}) are in no fragment")
    if end > numel:
        raise ValueError(f"{name}: fragments reach {end}, the tensor has {numel} elements")
    return ordered


def joined(pieces: Iterable[tuple[int, int, int]]) -> list[StoredFragment]:
    """Returns pieces (start, rank, numel) in order, those of a row of ranks made into one.

    A piece joins the one before it if it is as large, lies next to it, and its rank is the next.
    """
    found: list[StoredFragment] = []
    first_rank, first_start, size, count = 0, 0, 0, 0
    for start, rank, numel in sorted(pieces):
        follows = start == first_start + size * count and rank == first_rank + count
        if count and follows and numel == size:
            count += 1
            continue
        if count:
            found.append(StoredFragment(first_rank, first_start, size, count))
        first_rank, first_start, size, count = rank, start, numel, 1
    if count:
        found.append(StoredFragment(first_rank, first_start, size, count))
    return found
