"""Best-fit-decreasing bin packing over a histogram of lengths.

Whole documents are placed into rows, the longest first, each into the fullest row that still has
room. Documents of equal length are interchangeable, so groups of identical rows are filled at
once: the work grows with the number of distinct rows, not of documents (the histogram trick of
Krell et al., "Efficient sequence packing without cross-contamination", 2021; best fit as in Ding
et al., "Fewer truncations improve language modeling", 2024).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from megaxlm.data.order import Int64Array, derive_key, hash64

_Contents = tuple[tuple[int, int], ...]  # ((length, how many of it), ...) of one row


@dataclass(frozen=True)
class Packing:
    """Which items stand in which row: row r holds `items[row_start[r] : row_start[r + 1]]`."""

    row_start: Int64Array  # (rows + 1,)
    items: Int64Array  # (items,) indices into the lengths that were packed

    @property
    def num_rows(self) -> int:
        """Rows in use."""
        return len(self.row_start) - 1


def pack(lengths: Int64Array, capacity: int, max_items: int, key: int) -> Packing:
    """Packs items into rows by best fit decreasing.

    Args:
        lengths: (items,) item lengths, each in [1, capacity].
        capacity: Length of a row.
        max_items: Most items a row may hold.
        key: Chooses among items of equal length and the order of the items inside a row; the
            number and the lengths of the rows do not depend on it.

    Returns:
        Every item exactly once; rows in the order in which they were filled up.
    """
    if len(lengths) == 0:
        return Packing(np.zeros(1, np.int64), np.zeros(0, np.int64))
    rows = _best_fit_decreasing(np.bincount(lengths), capacity, max_items)
    run_length = np.array([run[0] for _, contents in rows for run in contents], np.int64)
    run_count = np.array([run[1] for _, contents in rows for run in contents], np.int64)
    runs = np.array([len(contents) for _, contents in rows], np.int64)
    items_per_row = np.add.reduceat(run_count, np.cumsum(runs) - runs)
    # One representative of each group of identical rows, then as many copies as the group has.
    copies = np.array([count for count, _ in rows], np.int64)
    slot_length = _repeat_parts(np.repeat(run_length, run_count), items_per_row, copies)
    row_sizes = np.repeat(items_per_row, copies)
    items = np.empty(len(lengths), np.int64)
    hashes = hash64(derive_key(key, "item"), np.arange(len(lengths)))
    items[np.argsort(slot_length, kind="stable")] = np.lexsort((hashes, lengths))
    row_of_slot = np.repeat(np.arange(len(row_sizes)), row_sizes)
    hashes = hash64(derive_key(key, "slot"), np.arange(len(items)))
    items = items[np.lexsort((hashes, row_of_slot))]
    return Packing(np.concatenate(([0], np.cumsum(row_sizes))), items)


def _best_fit_decreasing(
    histogram: Int64Array, capacity: int, max_items: int
) -> list[tuple[int, _Contents]]:
    """Returns groups of identical rows as (number of rows, contents)."""
    # Groups that still have room, by room left: (rows, items, contents); bit r of `rooms` says
    # whether open_groups[r] holds any, so that the best fit is the lowest bit not below `length`.
    open_groups: list[list[tuple[int, int, _Contents]]] = [[] for _ in range(capacity + 1)]
    rooms = 0
    closed: list[tuple[int, _Contents]] = []
    counts = histogram.tolist()
    shortest = next(length for length, count in enumerate(counts) if count)

    def put(rows: int, items: int, room: int, contents: _Contents) -> None:
        nonlocal rooms
        if room < shortest or items >= max_items:
            closed.append((rows, contents))
        else:
            open_groups[room].append((rows, items, contents))
            rooms |= 1 << room

    for length in range(len(counts) - 1, shortest - 1, -1):
        count = counts[length]
        while count:
            fitting = rooms >> length
            if fitting == 0:
                each = min(capacity // length, max_items)
                rows, rest = divmod(count, each)
                if rows:
                    put(rows, each, capacity - each * length, ((length, each),))
                if rest:
                    put(1, rest, capacity - rest * length, ((length, rest),))
                break
            room = length + (fitting & -fitting).bit_length() - 1
            group = open_groups[room]
            rows, items, contents = group.pop()
            taken = min(rows, count)
            if taken < rows:
                group.append((rows - taken, items, contents))
            elif not group:
                rooms &= ~(1 << room)
            put(taken, items + 1, room - length, _with_one_more(contents, length))
            count -= taken
    for groups in open_groups:
        closed.extend((rows, contents) for rows, _, contents in groups)
    return closed


def _with_one_more(contents: _Contents, length: int) -> _Contents:
    last, count = contents[-1]
    if last == length:
        return (*contents[:-1], (length, count + 1))
    return (*contents, (length, 1))


def _repeat_parts(values: Int64Array, sizes: Int64Array, copies: Int64Array) -> Int64Array:
    """Repeats consecutive parts of `values` (part i has sizes[i] elements) copies[i] times."""
    starts = np.repeat(np.cumsum(sizes) - sizes, copies)
    repeated_sizes = np.repeat(sizes, copies)
    ends = np.cumsum(repeated_sizes)
    offset_in_part = np.arange(ends[-1]) - np.repeat(ends - repeated_sizes, repeated_sizes)
    repeated: Int64Array = values[np.repeat(starts, repeated_sizes) + offset_in_part]
    return repeated


def shuffle_rows(packing: Packing, key: int) -> Packing:
    """Returns the same rows in keyed random order."""
    sizes = np.diff(packing.row_start)
    order = np.argsort(hash64(derive_key(key, "row"), np.arange(len(sizes))), kind="stable")
    sizes = sizes[order]
    row_start = np.concatenate(([0], np.cumsum(sizes)))
    offset_in_row = np.arange(row_start[-1]) - np.repeat(row_start[:-1], sizes)
    source = np.repeat(packing.row_start[:-1][order], sizes) + offset_in_row
    return Packing(row_start, packing.items[source])


def add_full_rows(packing: Packing, count: int) -> Packing:
    """Appends `count` rows of one item each, numbered on from the items packed so far."""
    end, first = int(packing.row_start[-1]), len(packing.items)
    return Packing(
        np.concatenate((packing.row_start, end + np.arange(1, count + 1))),
        np.concatenate((packing.items, first + np.arange(count))),
    )
