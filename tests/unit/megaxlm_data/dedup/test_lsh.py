import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from megaxlm_data.dedup.clusters import Clusters
from megaxlm_data.dedup.lsh import NEIGHBOURS, band_records, candidate_pairs
from megaxlm_data.dedup.records import records_of


def bucket_of(pairs):
    pairs = sorted(pairs, key=lambda pair: pair[1])  # rows ascending, hashes as they come
    return records_of(*(np.array(column, np.uint64) for column in zip(*pairs, strict=True)))


@settings(deadline=None)
@given(st.sets(st.tuples(st.integers(0, 6), st.integers(0, 40)), min_size=1))
def test_those_who_share_a_hash_are_linked_and_no_others(pairs):
    found = candidate_pairs(bucket_of(pairs))
    by_hash = {}
    for key, row in pairs:
        by_hash.setdefault(key, set()).add(row)
    allowed = {(b, a) for rows in by_hash.values() for a in rows for b in rows if a < b}
    assert set(found.tolist()) <= allowed
    assert len(found) == len(set(found.tolist()))
    clusters, expected = Clusters(41), Clusters(41)
    clusters.unite(found["key"].astype(np.int64), found["value"].astype(np.int64))
    later, earlier = (
        (np.array(x, np.int64) for x in zip(*allowed, strict=True))
        if allowed
        else (np.zeros(0, np.int64),) * 2
    )
    expected.unite(later, earlier)
    rows = np.arange(41)
    assert np.array_equal(clusters.roots(rows), expected.roots(rows))


def test_all_pairs_of_a_few_and_a_bounded_number_of_many():
    few = candidate_pairs(bucket_of([(7, row) for row in range(NEIGHBOURS + 2)]))
    assert len(few) == (NEIGHBOURS + 2) * (NEIGHBOURS + 1) // 2
    many = candidate_pairs(bucket_of([(7, row) for row in range(100_000)]))
    assert len(many) < (NEIGHBOURS + 1) * 100_000
    later, counts = np.unique(many["key"], return_counts=True)
    assert len(later) == 99_999
    assert counts.max() == NEIGHBOURS + 1
    assert np.count_nonzero(many["value"] == 0) == 99_999  # each with the first


def test_a_record_for_each_band():
    hashes = np.array([[1, 2, 3], [4, 5, 6]], np.uint64)
    records = band_records(hashes, np.array([10, 12], np.uint64))
    assert records.tolist() == [(1, 10), (2, 10), (3, 10), (4, 12), (5, 12), (6, 12)]
