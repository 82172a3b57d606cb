"""The bijections under the corpus, and the tables under the grammar."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from megaxlm_data.sample.lexicon.table import table
from megaxlm_data.sample.permutation import Permutation
from megaxlm_data.sample.schedule import Schedule


@given(size=st.integers(1, 3_000), key=st.integers(0, 2**64))
@settings(max_examples=50, deadline=None)
def test_permutation_is_a_bijection(size: int, key: int) -> None:
    permutation = Permutation(size, key)
    assert sorted(map(permutation, range(size))) == list(range(size))


def test_permutation_shuffles_and_depends_on_the_key() -> None:
    orders = [[Permutation(1_000, key)(i) for i in range(1_000)] for key in (1, "1", 2)]
    assert orders[0] != orders[1]
    assert orders[0] != orders[2]
    steps = {b - a for a, b in zip(orders[0], orders[0][1:], strict=False)}
    assert len(steps) > 300  # a plain stride would have two


def test_permutation_of_a_huge_range_has_random_access() -> None:
    permutation = Permutation(10**15, "x")
    drawn = [permutation(10**14 * k + 5) for k in range(10)]
    assert len(set(drawn)) == 10
    assert all(0 <= x < 10**15 for x in drawn)


@pytest.mark.parametrize("index", [-1, 10])
def test_outside_the_range(index: int) -> None:
    with pytest.raises(IndexError):
        Permutation(10, 0)(index)
    with pytest.raises(IndexError):
        Schedule([1, 2], [4, 6])(index)


def test_permutation_of_nothing() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Permutation(0)


@given(parts=st.lists(st.tuples(st.integers(1, 8), st.integers(0, 200)), min_size=1, max_size=6))
@settings(max_examples=60, deadline=None)
def test_schedule_has_every_item_once_and_in_order_of_periods(
    parts: list[tuple[int, int]],
) -> None:
    weights, sizes = [w for w, _ in parts], [n for _, n in parts]
    schedule = Schedule(weights, sizes)
    assert schedule.size == sum(sizes)
    items = [schedule(i) for i in range(schedule.size)]
    assert sorted(items) == [(g, k) for g, n in enumerate(sizes) for k in range(n)]


def test_schedule_mixes_by_weight() -> None:
    schedule = Schedule([3, 1], [3_000, 3_000])
    first = [schedule(i)[0] for i in range(400)]
    assert first.count(0) == 300


def test_table_reads_rows_in_order() -> None:
    assert table(("a", "b"), "\n a | x | y\n\n b | z | \n", 2) == (("x", "y"), ("z", ""))


@pytest.mark.parametrize(
    ("text", "words"),
    [("b | z\na | x", "expected"), ("a | x", "expected"), ("a | x | y\nb | z", "a has 2 forms")],
)
def test_table_with_a_mistake(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        table(("a", "b"), text, 1)
