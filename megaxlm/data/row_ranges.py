"""Sets of stream positions as sorted ranges: which rows are left out, and which are left."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeAlias

RowRange: TypeAlias = tuple[int, int]  # [begin, end) of the stream


def merge_ranges(ranges: Iterable[Iterable[int]]) -> list[RowRange]:
    """Returns the same rows as sorted ranges of which no two touch.

    Args:
        ranges: Pairs (begin, end) in any order, overlapping or not; empty ones are dropped.
    """
    merged: list[RowRange] = []
    for begin, end in sorted((int(begin), int(end)) for begin, end in ranges):
        if end <= begin:
            continue
        if merged and begin <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((begin, end))
    return merged


def from_row(ranges: Iterable[RowRange], row: int) -> list[RowRange]:
    """Returns what of the ranges lies at `row` or behind it."""
    return [(max(begin, row), end) for begin, end in ranges if end > row]


def ranges_outside(skipped: Iterable[RowRange], begin: int, end: int) -> Iterator[RowRange]:
    """Yields what of [begin, end) is not skipped.

    Args:
        skipped: As `merge_ranges` returns them.
        begin: First row.
        end: Row after the last.
    """
    for gap_begin, gap_end in from_row(skipped, begin):
        if gap_begin >= end:
            break
        if begin < gap_begin:
            yield begin, gap_begin
        begin = gap_end
    if begin < end:
        yield begin, end


def rows_outside(skipped: Iterable[RowRange], begin: int, end: int) -> list[int]:
    """Returns the rows of [begin, end) that are not skipped; see `ranges_outside`."""
    return [row for run in ranges_outside(skipped, begin, end) for row in range(*run)]


def runs_outside(skipped: Iterable[RowRange], begin: int, count: int) -> Iterator[RowRange]:
    """Yields ranges with the next `count` rows from `begin` on that are not skipped.

    Args:
        skipped: As `merge_ranges` returns them.
        begin: First row that may be used.
        count: Rows that are used, skipped ones not counted.
    """
    for gap_begin, gap_end in from_row(skipped, begin):
        run = min(count, gap_begin - begin)
        if run:
            yield begin, begin + run
            count -= run
        if not count:
            return
        begin = gap_end
    yield begin, begin + count
