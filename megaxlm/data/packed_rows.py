"""Rows filled with whole items, documents or sentence pairs, without a plan of the whole data.

The items of a language lie in chunks of neighbours on disk. An epoch visits the chunks in keyed
random order, sixteen of them at a time: such a block (some sixteen thousand items) is small enough
to be packed in milliseconds and large enough that best fit leaves next to nothing empty, and its
rows are visited in random order again. The cursor is (epoch, block, row), and the plan of one
block a source is all that is held.
"""

from __future__ import annotations

import hashlib
import logging
import math
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from megaxlm.data.order import Int64Array, derive_key, hash64, hash_one, permute
from megaxlm.data.packing import Packing, add_full_rows, pack, shuffle_rows
from megaxlm.data.rows import Cursor, Row, RowBorders, RowFormat
from megaxlm.data.special_tokens import BOS, EOS, PAD
from megaxlm.data.store import SubsetReader
from megaxlm.errors import UserError

CHUNK_ITEMS = 1024
CHUNK_TOKENS = 1 << 18
CHUNKS_PER_BLOCK = 16
FULL_SHARE = 0.98  # what packing reaches where enough items may share a row

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class BlockPlan:
    """The rows of a block: which pieces of which shards stand in each."""

    packing: Packing
    shard: Int64Array  # (pieces,) shard number
    first: Int64Array  # (pieces, sides) index of the first token among the shard's values
    length: Int64Array  # (pieces, sides) tokens, without special tokens
    swapped: Int64Array  # (pieces,) 1 where the target side stands first

    @property
    def num_rows(self) -> int:
        """Rows in the block."""
        return self.packing.num_rows


class PackedRows(ABC):
    """What documents and pairs share: blocks, plans, and rows of several pieces."""

    start: Cursor = (0, 0, 0)
    _item = "document"
    _special_tokens = 2  # added to each item

    def __init__(
        self,
        name: str,
        reader: SubsetReader,
        languages: tuple[int, ...],
        row_format: RowFormat,
        seed: int,
        announce: bool = False,
    ) -> None:
        """Measures the subset; reads nothing.

        Args:
            name: Name of the source in the stream.
            reader: A subset that holds at least one row.
            languages: Ids of its language or languages.
            row_format: Shape of the rows.
            seed: The seed of the run.
            announce: Whether to log what does not fit well (one process of a run should).
        """
        self.name = name
        self._announce = announce
        self._reader = reader
        self._languages = languages
        self._format = row_format
        self._key = derive_key(seed, type(self).__name__, name)
        chunks = max(-(-reader.num_rows // CHUNK_ITEMS), -(-reader.num_tokens // CHUNK_TOKENS))
        self._num_chunks = max(1, min(chunks, reader.num_rows))  # a chunk holds an item at least
        self.num_blocks = -(-self._num_chunks // CHUNKS_PER_BLOCK)
        self._planned: tuple[int, int, BlockPlan] | None = None
        text = f"{type(self).__name__}:{self._key}:{row_format.seq_len}:{self.max_items}:"
        text += ",".join(shard.xxh3 for shard in reader.subset.shards)
        self.fingerprint = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
        if announce:
            self._announce_limit()

    def _announce_limit(self) -> None:
        mean = self._reader.num_tokens / self._reader.num_rows + self._special_tokens
        share = mean * self.max_items / self._format.seq_len
        if share < FULL_SHARE:
            _logger.warning(
                "%s: %d %ss of %.0f tokens fill %.0f%% of a row of %d tokens; raise "
                "data.max_segments_per_row to %d to fill it",
                self.name,
                self.max_items,
                self._item,
                mean,
                100 * share,
                self._format.seq_len,
                math.ceil(1.5 * self._format.seq_len / mean),
            )

    @property
    def max_items(self) -> int:
        """Most pieces a row holds: as many as may have an attention segment of their own."""
        return self._format.max_segments_per_row

    @abstractmethod
    def _plan_items(self, key: int, spans: Sequence[tuple[int, int, int]]) -> BlockPlan:
        """Packs the items in `spans`, (shard number, first row, last row + 1) each."""

    @abstractmethod
    def _write_piece(
        self, plan: BlockPlan, piece: int, tokens: Int64Array, languages: Int64Array
    ) -> list[int]:
        """Writes a piece at the start of the views; returns its part ends, the last its length.

        Positions count from 0 again at each part; all parts are one attention segment.
        """

    def take(self, cursor: Cursor, count: int, wanted: Sequence[int]) -> tuple[list[Row], Cursor]:
        """Walks `count` rows on; see `RowSource.take`."""
        epoch, block, row = cursor
        rows: list[Row] = []
        done, blocks_without_rows = 0, 0
        while done < count:
            plan = self._plan(epoch, block)
            step = min(plan.num_rows - row, count - done)
            if step <= 0:
                blocks_without_rows = 0 if plan.num_rows else blocks_without_rows + 1
                if blocks_without_rows > self.num_blocks:
                    raise UserError(
                        f"{self.name}: no {self._item} fits into a row of data.seq_len "
                        f"{self._format.seq_len} tokens; raise data.seq_len or leave it out"
                    )
                epoch, block, row = (
                    (epoch, block + 1, 0) if block + 1 < self.num_blocks else (epoch + 1, 0, 0)
                )
                continue
            inside = wanted[bisect_left(wanted, done) : bisect_left(wanted, done + step)]
            rows.extend(_PackedRow(self, plan, row + number - done) for number in inside)
            row, done = row + step, done + step
        return rows, (epoch, block, row)

    def one_epoch(self) -> Iterator[Row]:
        """Yields every row of the first epoch."""
        for block in range(self.num_blocks):
            plan = self._plan(0, block)
            for row in range(plan.num_rows):
                yield _PackedRow(self, plan, row)

    def write(
        self, plan: BlockPlan, row: int, tokens: Int64Array, languages: Int64Array
    ) -> RowBorders:
        """Writes a row of a plan."""
        filled = 0
        segment_ends: list[int] = []
        position_starts: list[int] = []
        start, stop = plan.packing.row_start[row : row + 2].tolist()
        for piece in plan.packing.items[start:stop].tolist():
            parts = self._write_piece(plan, piece, tokens[filled:], languages[filled:])
            position_starts.append(filled)
            position_starts.extend(filled + end for end in parts[:-1])
            filled += parts[-1]
            segment_ends.append(filled)
        if self._format.attend_across_documents and len(self._languages) == 1:
            segment_ends, position_starts = [filled], [0]
        if filled < self._format.seq_len:
            tokens[filled:] = PAD
            languages[filled:] = self._languages[0]
            position_starts.append(filled)
            segment_ends.append(self._format.seq_len)
        return RowBorders(segment_ends, position_starts)

    def _plan(self, epoch: int, block: int) -> BlockPlan:
        if self._planned is None or self._planned[:2] != (epoch, block):
            key = derive_key(self._key, epoch)
            plan = self._plan_items(key, list(self._spans(key, block)))
            self._planned = (epoch, block, plan)
        return self._planned[2]

    def _spans(self, key: int, block: int) -> Iterator[tuple[int, int, int]]:
        """Yields the rows of a block; chunks start at another row in every epoch."""
        rows, chunks = self._reader.num_rows, self._num_chunks
        shift = hash_one(derive_key(key, "cut"), 0) % rows
        visits = np.arange(
            block * chunks // self.num_blocks, (block + 1) * chunks // self.num_blocks
        )
        for chunk in permute(key, chunks, visits).tolist():
            start = shift + chunk * rows // chunks
            stop = shift + (chunk + 1) * rows // chunks
            yield from self._reader.spans(min(start, rows), min(stop, rows))
            yield from self._reader.spans(max(start, rows) - rows, max(stop, rows) - rows)


@dataclass(frozen=True)
class _PackedRow:
    source: PackedRows
    plan: BlockPlan
    row: int

    def write(self, tokens: Int64Array, languages: Int64Array) -> RowBorders:
        return self.source.write(self.plan, self.row, tokens, languages)


class DocumentRows(PackedRows):
    """`packing: documents`: rows of whole documents, `<s> ... </s>` each.

    A document longer than a row is cut into full rows and a remainder that is packed like any
    other; each piece carries its own `<s>` and `</s>`.
    """

    @property
    def max_items(self) -> int:
        """Most documents a row holds; no limit where a row is one segment anyway."""
        if self._format.attend_across_documents:
            return self._format.seq_len
        return self._format.max_segments_per_row

    def _plan_items(self, key: int, spans: Sequence[tuple[int, int, int]]) -> BlockPlan:
        room = self._format.seq_len - 2
        shards, firsts, lengths = [], [], []
        for number, start, stop in spans:
            offsets = self._reader.shard(number).sides[0][1][start : stop + 1].astype(np.int64)
            firsts.append(offsets[:-1])
            lengths.append(np.diff(offsets))
            shards.append(np.full(stop - start, number, np.int64))
        shard, first, length = map(np.concatenate, (shards, firsts, lengths))
        full, rest = np.divmod(length, room)
        has_rest = rest > 0
        packing = pack(rest[has_rest] + 2, self._format.seq_len, self.max_items, key)
        cuts = np.arange(int(full.sum())) - np.repeat(np.cumsum(full) - full, full)
        packing = shuffle_rows(add_full_rows(packing, len(cuts)), key)
        return BlockPlan(
            packing,
            np.concatenate((shard[has_rest], np.repeat(shard, full))),
            np.concatenate(((first + full * room)[has_rest], np.repeat(first, full) + cuts * room))[
                :, None
            ],
            np.concatenate((rest[has_rest], np.full(len(cuts), room)))[:, None],
            np.zeros(0, np.int64),
        )

    def _write_piece(
        self, plan: BlockPlan, piece: int, tokens: Int64Array, languages: Int64Array
    ) -> list[int]:
        values, _ = self._reader.shard(int(plan.shard[piece])).sides[0]
        first, length = int(plan.first[piece, 0]), int(plan.length[piece, 0])
        tokens[0] = BOS
        tokens[1 : length + 1] = values[first : first + length]
        tokens[length + 1] = EOS
        languages[: length + 2] = self._languages[0]
        return [length + 2]


class PairRows(PackedRows):
    """Rows of whole sentence pairs, `<s> a </s> </s> b </s>` each (XLM-R's pair format).

    Positions count from 0 again at the second sentence, so that both start at the same place
    (TLM; Conneau and Lample, 2019, section 3.3). Which side stands first is a keyed coin, thrown
    anew in each epoch. A pair is never cut and never attends to another pair; one that is longer
    than a row, or has an empty side, is left out and counted.
    """

    _item = "pair"
    _special_tokens = 4

    def __init__(
        self,
        name: str,
        reader: SubsetReader,
        languages: tuple[int, ...],
        row_format: RowFormat,
        seed: int,
        announce: bool = False,
    ) -> None:
        """See `PackedRows`."""
        super().__init__(name, reader, languages, row_format, seed, announce)
        self.skipped_pairs = 0  # in the blocks planned so far

    def _plan_items(self, key: int, spans: Sequence[tuple[int, int, int]]) -> BlockPlan:
        shards, firsts, lengths, numbers = [], [], [], []
        for number, start, stop in spans:
            sides = self._reader.shard(number).sides
            offsets = np.stack([side[1][start : stop + 1].astype(np.int64) for side in sides], 1)
            firsts.append(offsets[:-1])
            lengths.append(np.diff(offsets, axis=0))
            shards.append(np.full(stop - start, number, np.int64))
            numbers.append(int(self._reader.rows_before[number]) + np.arange(start, stop))
        shard, first, length, pair = map(np.concatenate, (shards, firsts, lengths, numbers))
        total = length.sum(axis=1) + self._special_tokens
        kept = (total <= self._format.seq_len) & (length.min(axis=1) > 0)
        self._count_skipped(len(kept) - int(kept.sum()), len(kept))
        packing = pack(total[kept], self._format.seq_len, self.max_items, key)
        coins = (hash64(derive_key(key, "direction"), pair[kept]) >> np.uint64(63)).astype(np.int64)
        return BlockPlan(shuffle_rows(packing, key), shard[kept], first[kept], length[kept], coins)

    def _count_skipped(self, skipped: int, pairs: int) -> None:
        if skipped and not self.skipped_pairs and self._announce:
            _logger.warning(
                "%s: %d of the first %d pairs are empty on one side or longer than data.seq_len "
                "%d and are left out; raise data.seq_len to keep long ones",
                self.name,
                skipped,
                pairs,
                self._format.seq_len,
            )
        self.skipped_pairs += skipped

    def _write_piece(
        self, plan: BlockPlan, piece: int, tokens: Int64Array, languages: Int64Array
    ) -> list[int]:
        sides = self._reader.shard(int(plan.shard[piece])).sides
        swapped = int(plan.swapped[piece])
        ends: list[int] = []
        filled = 0
        for side in (swapped, 1 - swapped):
            first, length = int(plan.first[piece, side]), int(plan.length[piece, side])
            stop = filled + length + 2
            tokens[filled] = EOS if ends else BOS
            tokens[filled + 1 : stop - 1] = sides[side][0][first : first + length]
            tokens[stop - 1] = EOS
            languages[filled:stop] = self._languages[side]
            ends.append(stop)
            filled = stop
        return ends
