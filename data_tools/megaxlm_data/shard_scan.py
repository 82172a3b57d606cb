"""Reads a shard without trusting anybody: not the index, nor the file itself.

`verify` compares what is found here with the index, and its repair makes the index of it. A shard
is memory mapped, and its values are looked at a piece at a time, so that memory stays small.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from megaxlm.data.shards import BITEXT_SCHEMA, MONOLINGUAL_SCHEMA
from megaxlm.data.special_tokens import UNK
from megaxlm.data.tokenizer import Tokenizer
from megaxlm.errors import CorruptDataError
from megaxlm_data.writers.shards import CONTENT_CHECKSUM, content_checksum

_PIECE = 1 << 20  # tokens looked at together: 4 MB, which stays in a core's cache
_BYTE_PIECE = re.compile(r"<0x[0-9A-F]{2}>")


@dataclass(frozen=True)
class SideColumns:
    """The columns of one language: views of a mapped file."""

    values: npt.NDArray[np.uint32]  # (tokens,)
    offsets: npt.NDArray[np.int32]  # (rows + 1,)
    text_bytes: npt.NDArray[np.uint32]  # (rows,)


@dataclass(frozen=True)
class ShardColumns:
    """A shard, opened."""

    sides: tuple[SideColumns, ...]
    doc_ids: npt.NDArray[np.uint64]  # (rows,)
    declared_checksum: bytes | None  # of the columns; shards of earlier versions have none

    @property
    def is_bitext(self) -> bool:
        """Whether the rows are pairs."""
        return len(self.sides) == 2

    @property
    def rows(self) -> int:
        """Documents or pairs."""
        return len(self.doc_ids)

    def checksum(self) -> bytes:
        """Returns the checksum of the columns as they are."""
        lists = [array for side in self.sides for array in (side.offsets, side.values)]
        return content_checksum([*lists, *(s.text_bytes for s in self.sides), self.doc_ids])


def open_columns(path: Path) -> ShardColumns:
    """Maps a shard.

    Raises:
        CorruptDataError: It is not one record batch of a shard's columns.
        OSError: It cannot be read.
    """
    try:
        with pa.memory_map(str(path)) as mapped:
            file = pa.ipc.open_file(mapped)
            if file.num_record_batches != 1:
                raise CorruptDataError(
                    f"{path}: {file.num_record_batches} record batches instead of 1"
                )
            batch = file.get_batch(0)
        batch.validate()  # an altered header may point outside the file
    except pa.ArrowException as error:
        reason = " ".join(str(error).split())[:120]
        raise CorruptDataError(f"{path}: not a readable Arrow file ({reason})") from None
    schema = batch.schema.remove_metadata()
    if not (schema.equals(MONOLINGUAL_SCHEMA) or schema.equals(BITEXT_SCHEMA)):
        raise CorruptDataError(
            f"{path}: columns {', '.join(schema.names)} are not those of a shard"
        )
    prefixes = ("source_", "target_") if schema.equals(BITEXT_SCHEMA) else ("",)
    sides = []
    for prefix in prefixes:
        column = batch.column(f"{prefix}tokens")
        sizes = batch.column(f"{prefix}bytes" if prefix else "text_bytes")
        sides.append(
            SideColumns(column.values.to_numpy(), column.offsets.to_numpy(), sizes.to_numpy())
        )
    declared = (batch.schema.metadata or {}).get(CONTENT_CHECKSUM)
    return ShardColumns(tuple(sides), batch.column("doc_id").to_numpy(), declared)


def byte_pieces(tokenizer: Tokenizer) -> npt.NDArray[np.bool_]:
    """Returns which ids are single bytes of byte fallback, (vocabulary,)."""
    pieces = map(tokenizer.piece, range(tokenizer.vocab_size))
    return np.array([bool(_BYTE_PIECE.fullmatch(piece)) for piece in pieces])


def _count_bytes(
    piece: npt.NDArray[np.uint32], is_byte: npt.NDArray[np.bool_], places: npt.NDArray[np.intp]
) -> int:
    if not len(places):
        return 0
    if int(places[-1] - places[0]) + 1 == len(places):  # side by side, as sentencepiece has them
        first, count = np.uint32(places[0]), np.uint32(len(places))
        return int(np.count_nonzero(piece - first < count))  # four times as fast as a look-up
    return int(np.count_nonzero(is_byte[piece]))


@dataclass(frozen=True)
class ShardScan:
    """What a shard holds."""

    columns: ShardColumns
    tokens: int
    text_bytes: int
    counts: tuple[dict[str, int], ...]  # of each side, as the build counts but chars and words
    problems: tuple[str, ...]


def scan_shard(path: Path, is_byte: npt.NDArray[np.bool_]) -> ShardScan:
    """Opens a shard and looks at every row and token of it.

    Args:
        path: The file.
        is_byte: (vocabulary,) which ids are bytes; see `byte_pieces`.

    Raises:
        CorruptDataError: As `open_columns`.
        OSError: It cannot be read.
    """
    columns = open_columns(path)
    problems: list[str] = []
    counts = []
    places = np.flatnonzero(is_byte)
    for side in columns.sides:
        offsets, values = side.offsets, side.values
        if len(offsets) and (offsets[0] != 0 or offsets[-1] != len(values)):
            problems.append("offsets do not cover the tokens")
        if len(offsets) > 1 and bool((offsets[1:] < offsets[:-1]).any()):
            problems.append("offsets go backwards")
        unknown = fallback = outside = 0
        for start in range(0, len(values), _PIECE):
            piece = values[start : start + _PIECE]
            # neither a special token in front nor <mask>, which is the last id
            if UNK <= int(piece.min()) and int(piece.max()) < len(is_byte) - 1:
                unknown += int(np.count_nonzero(piece == UNK))
                fallback += _count_bytes(piece, is_byte, places)
            else:
                outside += 1
        if outside:
            problems.append(f"token ids outside the vocabulary of {len(is_byte)}")
        counts.append(
            {
                "documents": columns.rows,
                "tokens": len(values),
                "text_bytes": int(side.text_bytes.sum(dtype=np.int64)),
                "unknown": unknown,
                "byte_fallback": fallback,
            }
        )
    if columns.declared_checksum is not None and columns.declared_checksum != columns.checksum():
        problems.append("its columns are not those that its own checksum is of")
    return ShardScan(
        columns,
        tokens=sum(count["tokens"] for count in counts),
        text_bytes=sum(count["text_bytes"] for count in counts),
        counts=tuple(counts),
        problems=tuple(problems),
    )
