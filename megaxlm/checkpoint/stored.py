"""Fragments as a manifest names them: no torch, so that looking at checkpoints is fast."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod

# The dtype names of the safetensors format and the bytes of an element.
ELEMENT_BYTES = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
}


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
