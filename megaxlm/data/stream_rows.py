"""`packing: stream`: a language's documents as one endless text, cut into full rows (XLM-R).

The text of an epoch is every document in the order on disk, each followed by `</s>`, closed to a
ring; a row is `<s>` and the next seq_len - 1 tokens. The place of a row follows from its number
by two binary searches, over the shards' token counts in the index and over the list offsets of
the Arrow file itself, so there is no index to build, load or keep.

An epoch has ceil(n / (seq_len - 1)) rows: each token is seen at least once, and fewer than
seq_len - 1 of them twice, where the last row runs into the first. Every epoch visits its rows in
another order and starts cutting at another place, so that rows differ between epochs. A language
shorter than a row goes round the ring inside the row.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from megaxlm.data.order import Int64Array, derive_key, hash_one, permute
from megaxlm.data.rows import Cursor, Row, RowBorders, RowFormat
from megaxlm.data.special_tokens import BOS, EOS
from megaxlm.data.store import SubsetReader


class StreamRows:
    """Rows cut from the running text of one language; the cursor is (epoch, row)."""

    start: Cursor = (0, 0)

    def __init__(
        self, name: str, reader: SubsetReader, language: int, row_format: RowFormat, seed: int
    ) -> None:
        """Measures the text; reads nothing.

        Args:
            name: Name of the source in the stream.
            reader: A monolingual subset that holds at least one document.
            language: Id of its language.
            row_format: Shape of the rows.
            seed: The seed of the run.
        """
        self.name = name
        self._reader = reader
        self._language = language
        self._format = row_format
        self._key = derive_key(seed, "stream rows", name)
        # Ring positions at which the shards start; every document has one </s> of its own.
        self._shard_starts = (reader.tokens_before + reader.rows_before).tolist()
        self._ring = int(self._shard_starts[-1])
        self.rows_per_epoch = -(-self._ring // (row_format.seq_len - 1))
        text = f"stream rows:{self._key}:{row_format.seq_len}:" + ",".join(
            shard.xxh3 for shard in reader.subset.shards
        )
        self.fingerprint = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()

    def take(self, cursor: Cursor, count: int, wanted: Sequence[int]) -> tuple[list[Row], Cursor]:
        """Walks `count` rows on; see `RowSource.take`."""
        epoch, row = cursor
        n = self.rows_per_epoch
        ordinals = row + np.asarray(wanted, np.int64)
        rows: list[Row] = []
        for later in np.unique(ordinals // n).tolist():
            key = derive_key(self._key, epoch + later)
            cut = hash_one(derive_key(key, "cut"), 0) % self._ring
            visited = permute(key, n, ordinals[ordinals // n == later] % n)
            starts = (cut + visited * (self._format.seq_len - 1)) % self._ring
            rows.extend(_StreamRow(self, start) for start in starts.tolist())
        later, row = divmod(row + count, n)
        return rows, (epoch + later, row)

    def write(self, start: int, tokens: Int64Array, languages: Int64Array) -> RowBorders:
        """Writes the row that begins at ring position `start`."""
        seq_len = self._format.seq_len
        languages[:] = self._language
        tokens[0] = BOS
        filled, position = 1, start
        document_ends: list[int] = []
        while filled < seq_len:
            number = bisect_right(self._shard_starts, position) - 1
            stop = min(self._shard_starts[number + 1], position + seq_len - filled)
            offset = position - self._shard_starts[number]
            ends = self._read(number, offset, tokens[filled : filled + stop - position])
            document_ends.extend((ends + filled).tolist())
            filled += stop - position
            position = stop % self._ring
        if self._format.attend_across_documents:
            document_ends = []
        # Documents beyond the limit share the last segment.
        segment_ends = document_ends[: self._format.max_segments_per_row - 1]
        if not segment_ends or segment_ends[-1] != seq_len:
            segment_ends.append(seq_len)
        return RowBorders(segment_ends, [0, *segment_ends[:-1]])

    def _read(self, number: int, start: int, out: Int64Array) -> Int64Array:
        """Copies text from place `start` of a shard; returns where documents end in `out`."""
        values, offsets = self._reader.shard(number).sides[0]
        base = int(offsets[0])

        def document_at(place: int) -> int:
            return bisect_right(
                range(len(offsets) - 1), place, key=lambda i: offsets.item(i) - base + i
            )

        first, last = document_at(start) - 1, document_at(start + len(out) - 1)
        # Document i, counted from the shard's start, closes with </s> at place offsets[i+1] + i.
        closing = offsets[first + 1 : last + 1].astype(np.int64) - base - start
        closing += np.arange(first, last)
        closing = closing[closing < len(out)]
        value = base + start - first
        if len(closing) == 0:
            out[:] = values[value : value + len(out)]
        else:
            is_text = np.ones(len(out), bool)
            is_text[closing] = False
            out[is_text] = values[value : value + len(out) - len(closing)]
            out[closing] = EOS
        return closing + 1


@dataclass(frozen=True)
class _StreamRow:
    source: StreamRows
    start: int

    def write(self, tokens: Int64Array, languages: Int64Array) -> RowBorders:
        return self.source.write(self.start, tokens, languages)
