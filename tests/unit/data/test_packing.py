import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megaxlm.data.packing import Packing, add_full_rows, pack, shuffle_rows

CAPACITY = 32


def rows_of(packing: Packing) -> list[list[int]]:
    return [part.tolist() for part in np.split(packing.items, packing.row_start[1:-1])]


def one_by_one(lengths: list[int], capacity: int, max_items: int) -> list[list[int]]:
    """Best fit decreasing as in a textbook: the lengths in each row."""
    rows: list[list[int]] = []
    for length in sorted(lengths, reverse=True):
        fitting = [r for r in rows if sum(r) + length <= capacity and len(r) < max_items]
        if fitting:
            max(fitting, key=sum).append(length)
        else:
            rows.append([length])
    return rows


@given(st.lists(st.integers(1, CAPACITY), max_size=300), st.integers(1, 8), st.integers(0, 99))
def test_every_item_once_and_no_row_overflows(lengths: list[int], most: int, key: int) -> None:
    sizes = np.array(lengths, np.int64)
    packing = pack(sizes, CAPACITY, most, key)
    assert np.array_equal(np.sort(packing.items), np.arange(len(lengths)))
    if lengths:
        for row in rows_of(packing):
            assert 1 <= len(row) <= most
            assert sizes[row].sum() <= CAPACITY


@given(st.lists(st.integers(1, CAPACITY), min_size=1, max_size=120), st.integers(1, 40))
def test_as_few_rows_as_best_fit_decreasing_item_by_item(lengths: list[int], most: int) -> None:
    packing = pack(np.array(lengths), CAPACITY, most, key=1)
    expected = one_by_one(lengths, CAPACITY, most)
    if most >= CAPACITY:  # a limit makes ties between equally full rows matter
        assert packing.num_rows == len(expected)
    else:
        assert packing.num_rows <= 1.25 * len(expected) + 1


def test_key_chooses_among_equals_but_not_the_shape_of_rows() -> None:
    lengths = np.random.default_rng(0).integers(1, CAPACITY, 500)
    first, second = pack(lengths, CAPACITY, 4, key=1), pack(lengths, CAPACITY, 4, key=2)
    assert np.array_equal(first.row_start, second.row_start)
    assert not np.array_equal(first.items, second.items)
    assert np.array_equal(first.items, pack(lengths, CAPACITY, 4, key=1).items)


def test_items_of_a_row_are_not_sorted_by_length() -> None:
    lengths = np.tile([20, 11], 500)
    firsts = [lengths[row[0]] for row in rows_of(pack(lengths, 31, 8, key=5))]
    assert 0.35 < np.mean(np.array(firsts) == 20) < 0.65


@pytest.mark.parametrize("seq_len", [128, 512, 1024])
@pytest.mark.parametrize("median", [60, 150, 300, 700])
def test_realistic_lengths_fill_rows_to_98_percent(seq_len: int, median: int) -> None:
    """Remainders alone; with the full rows that long documents are cut into it is more."""
    rng = np.random.default_rng(median)
    lengths = np.maximum(1, rng.lognormal(np.log(median), 1.0, 16_384).astype(np.int64))
    rest = lengths % (seq_len - 2)
    rest = rest[rest > 0] + 2
    packing = pack(rest, seq_len, max_items=64, key=0)
    assert rest.sum() / (packing.num_rows * seq_len) >= 0.98


@given(st.lists(st.integers(1, CAPACITY), max_size=60), st.integers(0, 5))
def test_shuffling_keeps_rows_whole(lengths: list[int], full: int) -> None:
    packing = add_full_rows(pack(np.array(lengths, np.int64), CAPACITY, 8, 0), full)
    shuffled = shuffle_rows(packing, key=3)
    assert sorted(rows_of(shuffled)) == sorted(rows_of(packing))
    assert shuffled.num_rows == packing.num_rows
    assert np.array_equal(np.sort(shuffled.items), np.arange(len(lengths) + full))


def test_shuffling_shuffles() -> None:
    packing = pack(np.full(1000, CAPACITY), CAPACITY, 1, key=0)
    assert not np.array_equal(shuffle_rows(packing, 1).items, shuffle_rows(packing, 2).items)
