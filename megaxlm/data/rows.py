"""What a source of rows owes the stream, and how a row states its borders.

A source is one language (or pair) read in one way. It holds no state: the stream hands it a
cursor, a few integers, and gets the rows that follow and the cursor after them. Taking rows is
cheap, for every rank takes all rows of a global batch to keep the cursors alike; only writing a
row touches tokens, and a rank writes its own alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from megaxlm.data.order import Int64Array

Cursor: TypeAlias = tuple[int, ...]


@dataclass(frozen=True)
class RowFormat:
    """What all rows of a run have in common."""

    seq_len: int
    max_segments_per_row: int
    attend_across_documents: bool


@dataclass(frozen=True)
class RowBorders:
    """Where attention and positions begin anew inside a row."""

    segment_ends: list[int]  # ascending, the last is seq_len
    position_starts: list[int]  # ascending from 0: positions count from 0 again at each


class Row(Protocol):
    """A row whose place is known and whose tokens have not been read yet."""

    def write(
        self,
        tokens: Int64Array,  # (seq_len,) out, special tokens and padding included
        languages: Int64Array,  # (seq_len,) out
    ) -> RowBorders:
        """Fills the row in place and returns its borders."""
        ...


class RowSource(Protocol):
    """An endless, keyed order of the rows of one language or pair."""

    @property
    def name(self) -> str:
        """Unique in the stream and stable between runs, such as `mlm/en`."""
        ...

    @property
    def start(self) -> Cursor:
        """The cursor of the first row; cursors begin with the epoch."""
        ...

    @property
    def fingerprint(self) -> str:
        """Changes when a saved cursor would no longer mean the same place."""
        ...

    def take(self, cursor: Cursor, count: int, wanted: Sequence[int]) -> tuple[list[Row], Cursor]:
        """Walks `count` rows on.

        Args:
            cursor: Where to start.
            count: How many rows to walk over.
            wanted: Which of them to return, ascending numbers in [0, count).

        Returns:
            The wanted rows, and the cursor after all `count`.
        """
        ...
