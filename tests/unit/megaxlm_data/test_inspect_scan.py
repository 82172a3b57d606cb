from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from megaxlm_data.inspect.cleaning import drop_counts, other_counts
from megaxlm_data.inspect.lengths import LengthHistogram, bin_of, length_histograms
from megaxlm_data.inspect.overlap import find_overlap
from megaxlm_data.writers.shards import EncodedSide, write_shard

from megaxlm.data.shards import DatasetIndex, Subset


def encoded(lengths):
    lengths = np.asarray(lengths, np.int64)
    values = np.full(int(lengths.sum()), 5, np.uint32)
    return EncodedSide(values, lengths, lengths.astype(np.uint32))


def write_dataset(directory, subsets):
    """Writes shards: {(split, *langs): [(lengths of each side, ids) of each shard]}."""
    made = []
    for (split, *langs), shards in subsets.items():
        infos = [
            write_shard(
                directory,
                f"{split}/{'-'.join(langs)}/{number:05d}.arrow",
                [encoded(side) for side in sides],
                np.asarray(ids, np.uint64),
            )
            for number, (sides, ids) in enumerate(shards)
        ]
        made.append(Subset(split, tuple(langs), tuple(infos)))
    return DatasetIndex("", 100, tuple(made))


def test_quantiles_are_those_of_the_lengths_to_within_a_bin(tmp_path):
    rng = np.random.default_rng(0)
    lengths = np.concatenate([rng.integers(1, 3000, 900), rng.integers(1, 40, 300)])
    rng.shuffle(lengths)
    parts = [lengths[:500], lengths[500:]]
    index = write_dataset(
        tmp_path,
        {
            ("train", "en"): [([parts[0]], range(500))],
            ("validation", "en"): [([parts[1]], range(700))],
            ("train", "en", "fr"): [([[3, 5, 0], [4, 9, 0]], range(3))],
        },
    )
    found = length_histograms(tmp_path, index, threads=2)
    assert found["en"].documents == 1200
    for share in (0.05, 0.25, 0.5, 0.75, 0.95):
        exact = float(np.quantile(lengths, share, method="inverted_cdf"))
        assert exact / 1.1 <= found["en"].quantile(share) <= 1.1 * exact
    assert found["en"].share_above(512) == pytest.approx((lengths > 512).mean(), abs=0.02)
    pairs = found["en-fr"]  # of both sides together: 7, 14 and 0 tokens
    assert pairs.quantile(0.1) == 0 and 6.5 < pairs.quantile(0.5) < 7.7 and pairs.documents == 3


def test_bins_begin_at_powers_of_two_and_hold_every_length():
    lengths = np.arange(0, 70_000)
    bins = bin_of(lengths)
    assert bins[0] == 0 and bins[1] == 1 and (np.diff(bins) >= 0).all()
    assert [int(bins[2**power]) for power in range(1, 17)] == [1 + 8 * p for p in range(1, 17)]
    assert int(bin_of(np.array([2**31 - 1]))[0]) <= 8 * 32
    assert LengthHistogram(np.bincount(bins, minlength=257)).documents == 70_000


def brute_force(index, ids):
    shared = Counter()
    for a, b in combinations(range(len(index.subsets)), 2):
        count = len(set(ids[a]) & set(ids[b]))
        if count:
            shared[a, b] = count
    return dict(shared)


@pytest.fixture(scope="module")
def overlapping(tmp_path_factory):
    directory = tmp_path_factory.mktemp("overlap")
    rng = np.random.default_rng(1)
    pool = rng.integers(0, 2**64, 40_000, dtype=np.uint64)
    common = pool[:3000]
    sizes = {"a": 40, "b": 300, "c": 2000, "d": 9000, "e": 12_000}
    subsets, ids = {}, []
    for place, (lang, size) in enumerate(sizes.items()):
        own = pool[3000 + 7000 * min(place, 4) :][:size]
        taken = rng.choice(common, size // 4, replace=False)
        mine = np.concatenate([own, taken])
        rng.shuffle(mine)
        low = mine < np.uint64(1 << 60)  # validation is the low ids
        for split, part in (("train", mine[~low]), ("validation", mine[low])):
            halves = np.array_split(part, 2)
            subsets[split, lang] = [([np.ones(len(h), np.int64)], h) for h in halves]
            ids.append(part.tolist())
    return directory, write_dataset(directory, subsets), ids


def test_what_fits_into_memory_is_counted_exactly(overlapping):
    directory, index, ids = overlapping
    expected = brute_force(index, ids)
    assert len(expected) > 10
    for threads in (1, 3):
        found = find_overlap(directory, index, threads=threads)
        assert found.compared_share == 1
        assert found.shared == expected


def test_small_subsets_are_exact_and_large_ones_are_estimated(overlapping):
    directory, index, ids = overlapping
    expected = brute_force(index, ids)
    found = find_overlap(directory, index, held_rows=6000)
    rows = [subset.rows for subset in index.subsets]
    order = sorted(range(len(rows)), key=lambda number: (rows[number], number))
    held, total = set(), 0
    for number in order:
        total += rows[number]
        if total <= 6000:
            held.add(number)
    assert 4 < len(held) < len(rows)
    estimated = 0
    for pair, count in expected.items():
        if held & set(pair):
            assert found.shared[pair] == count
        elif count > 500:
            estimated += 1
            assert found.shared[pair] == pytest.approx(count, rel=0.3)
            assert found.shared[pair] != count  # or nothing was sampled
    assert estimated and 0 < found.compared_share < 1
    again = find_overlap(directory, index, held_rows=6000, threads=5)
    assert again == found


def test_copies_inside_a_subset_are_not_shared(tmp_path):
    index = write_dataset(
        tmp_path,
        {("train", "a"): [([[1, 1, 1]], [7, 7, 8])], ("train", "b"): [([[1, 1]], [9, 10])]},
    )
    assert find_overlap(tmp_path, index).shared == {}
    assert find_overlap(tmp_path, index, held_rows=2).shared == {}


def test_counts_of_cleaning_are_told_apart_by_what_they_are():
    cleaning = {
        "files": ["a.txt"],
        "read": 100,
        "dropped": {"too_short": 5, "wrong_script": 2},
        "duplicates": 7,
        "near_duplicates": 3,
        "contaminated": 1,
        "kept": 82,
        "lines": {"replaced_utf8": 4},
        "edits": {"masked": {"email": 6, "phone": 1}},
        "validation_below": 1 << 60,
        "unspaced_share": [0.0],
    }
    drops = drop_counts(cleaning)
    assert drops == {
        "too short": 5,
        "wrong script": 2,
        "exact duplicates": 7,
        "near duplicates": 3,
        "contaminated": 1,
    }
    assert sum(drops.values()) == cleaning["read"] - cleaning["kept"]
    assert other_counts(cleaning) == {
        "lines: replaced utf8": 4,
        "edits: masked: email": 6,
        "edits: masked: phone": 1,
    }
