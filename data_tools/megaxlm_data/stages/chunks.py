"""Chunks of clean text: what one task of deduplication reads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from megaxlm.data.shards import TEMPORARY_SUFFIX
from megaxlm_data.stages.select import Block

# Blocks, some 64 MB of text, and rows, unless one block has more: 100 MB of signatures and records.
SIZES = (64, 1 << 17)


@dataclass(frozen=True)
class Chunk:
    """Consecutive blocks of a group."""

    number: int
    blocks: tuple[Block, ...]

    @property
    def start(self) -> int:
        """Its first row, counted over the group."""
        return self.blocks[0].start

    @property
    def stop(self) -> int:
        """The row after its last."""
        return self.blocks[-1].stop


def chunks_of(blocks: Iterator[Block]) -> list[Chunk]:
    """Cuts the blocks of a group into chunks, the same whatever the number of workers."""
    most_blocks, most_rows = SIZES
    chunks: list[Chunk] = []
    held: list[Block] = []
    for block in blocks:
        full = held and block.stop - held[0].start > most_rows
        if full or len(held) == most_blocks:
            chunks.append(Chunk(len(chunks), tuple(held)))
            held = []
        held.append(block)
    return [*chunks, Chunk(len(chunks), tuple(held))] if held else chunks


def remove_temporary(folder: Path) -> None:
    """Removes what killed builds left half written."""
    for path in folder.rglob(f".*{TEMPORARY_SUFFIX}"):
        path.unlink(missing_ok=True)  # a worker that outlives its build for a moment ends it
