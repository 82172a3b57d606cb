"""Ranges against plain sets of rows."""

from hypothesis import given
from hypothesis import strategies as st

from megaxlm.data.row_ranges import from_row, merge_ranges, rows_outside, runs_outside

LIMIT = 60
PAIRS = st.lists(st.tuples(st.integers(0, LIMIT), st.integers(0, LIMIT)), max_size=6)


def rows_in(ranges: list[tuple[int, int]]) -> set[int]:
    return {row for begin, end in ranges for row in range(begin, end)}


@given(PAIRS)
def test_merging_keeps_the_rows_and_leaves_gaps_between(pairs: list[tuple[int, int]]) -> None:
    merged = merge_ranges(pairs)
    assert rows_in(merged) == rows_in(pairs)
    assert all(begin < end for begin, end in merged)
    assert all(a[1] < b[0] for a, b in zip(merged, merged[1:], strict=False))
    assert merge_ranges([list(of) for of in merged]) == merged


@given(PAIRS, st.integers(0, LIMIT), st.integers(0, LIMIT))
def test_rows_outside(pairs: list[tuple[int, int]], begin: int, length: int) -> None:
    skipped = merge_ranges(pairs)
    kept = [row for row in range(begin, begin + length) if row not in rows_in(pairs)]
    assert rows_outside(skipped, begin, begin + length) == kept
    assert rows_in(from_row(skipped, begin)) == {row for row in rows_in(pairs) if row >= begin}


@given(PAIRS, st.integers(0, LIMIT), st.integers(1, LIMIT))
def test_runs_hold_the_next_rows_that_are_left(
    pairs: list[tuple[int, int]], begin: int, count: int
) -> None:
    runs = list(runs_outside(merge_ranges(pairs), begin, count))
    found = [row for run in runs for row in range(*run)]
    everything = [row for row in range(begin, begin + count + LIMIT) if row not in rows_in(pairs)]
    assert found == everything[:count]
    assert all(first < end for first, end in runs)
