import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megaxlm.data.order import bounded, derive_key, hash64, hash_one, permute

KEYS = st.integers(0, 2**64 - 1)


@given(KEYS, st.integers(1, 3000))
def test_permutation_visits_everything_once(key: int, n: int) -> None:
    image = permute(key, n, np.arange(n))
    assert np.array_equal(np.sort(image), np.arange(n))


@given(KEYS, st.integers(1, 2**40), st.lists(st.integers(0, 2**40), min_size=1, max_size=20))
def test_permutation_of_a_huge_set_is_pointwise_and_injective(
    key: int, n: int, index: list[int]
) -> None:
    places = np.unique(np.array(index) % n)
    image = permute(key, n, places)
    assert len(np.unique(image)) == len(places)
    assert image.min() >= 0 and image.max() < n
    assert [int(permute(key, n, places[i : i + 1])[0]) for i in range(len(places))] == list(image)


def test_every_order_of_four_is_about_equally_likely() -> None:
    keys = range(12_000)
    orders, counts = np.unique(
        [permute(derive_key(key), 4, np.arange(4)) for key in keys], axis=0, return_counts=True
    )
    assert len(orders) == 24
    assert abs(counts / len(keys) * 24 - 1).max() < 0.2  # 500 each, standard deviation 22


def test_neighbours_are_torn_apart() -> None:
    n = 10_000
    image = permute(3, n, np.arange(n))
    assert abs(np.corrcoef(image[:-1], image[1:])[0, 1]) < 0.03
    assert abs(np.corrcoef(image, np.arange(n))[0, 1]) < 0.03


def test_hash_is_splitmix64() -> None:
    # Outputs of the generator seeded with 1234567, as in the reference by Vigna.
    expected = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    assert hash64(1234567, np.arange(1, 6)).tolist() == expected
    assert [hash_one(1234567, i) for i in range(1, 6)] == expected


def test_hash_takes_negative_counters_and_leaves_its_input_alone() -> None:
    counters = np.array([-1, 5], np.int64)
    assert hash64(9, counters)[0] == hash_one(9, 2**64 - 1)
    assert counters.tolist() == [-1, 5]


def test_keys_depend_on_types_and_borders_of_their_parts() -> None:
    keys = {
        derive_key(1, "a"),
        derive_key("1", "a"),
        derive_key(1, "a", 0),
        derive_key("1a"),
        derive_key(11, "a"),
        derive_key(-1, "a"),
    }
    assert len(keys) == 6
    assert derive_key(7, "mask", "choice") == 1198589980173038056  # the same on every platform


@pytest.mark.parametrize("bound", [1, 2, 3, 1000, 250_000])
def test_bounded_is_uniform(bound: int) -> None:
    values = bounded(hash64(1, np.arange(200_000)), bound)
    assert values.min() >= 0 and values.max() < bound
    assert abs(values.mean() / ((bound - 1) / 2) - 1) < 0.01 if bound > 1 else True
