import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from megaxlm_data.dedup.exact import first_occurrences, unpack


def expected(hashes):
    seen = set()
    return [not (value in seen or seen.add(value)) for value in hashes]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 20), max_size=200),
    st.integers(1, 30),
    st.integers(1, 250),
)
def test_the_first_occurrence_stays_whatever_the_pieces(tmp_path_factory, hashes, piece, bucket):
    values = np.array(hashes, dtype=np.uint64)
    pieces = (values[i : i + piece] for i in range(0, len(values), piece))
    work = tmp_path_factory.mktemp("dedup") / "buckets"
    keep = first_occurrences(pieces, len(values), work, bucket_rows=bucket)
    assert unpack(keep, 0, len(values)).tolist() == expected(hashes)
    assert not work.exists()


def test_buckets_on_disk_agree_with_memory(tmp_path):
    rng = np.random.default_rng(0)
    values = rng.integers(0, 2**64 - 1, 50_000, dtype=np.uint64)
    values[rng.integers(0, 50_000, 20_000)] = values[rng.integers(0, 50_000, 20_000)]
    in_memory = first_occurrences([values], len(values), tmp_path / "a")
    stale = tmp_path / "b"
    stale.mkdir()
    (stale / "000000").write_bytes(b"left by a killed build")
    on_disk = first_occurrences([values], len(values), stale, bucket_rows=3_000)
    assert np.array_equal(in_memory, on_disk)
    kept = unpack(in_memory, 0, len(values))
    assert kept.sum() == len(np.unique(values))


def test_unpack_any_range():
    bits = np.packbits(np.arange(40) % 3 == 0, bitorder="little")
    for start in range(40):
        for stop in range(start, 41):
            assert unpack(bits, start, stop).tolist() == [i % 3 == 0 for i in range(start, stop)]
