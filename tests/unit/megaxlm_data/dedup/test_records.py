import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from megaxlm_data.dedup.records import (
    SortedFile,
    bucket_bounds,
    read_pieces,
    read_range,
    records_of,
    unique,
    write_sorted,
)

PAIRS = st.lists(st.tuples(st.integers(0, 2**64 - 1) | st.integers(0, 9), st.integers(0, 99)))


def records(pairs):
    keys, values = zip(*pairs, strict=True) if pairs else ((), ())
    return records_of(np.array(keys, np.uint64), np.array(values, np.uint64))


def write_all(folder, files):
    paths = [folder / str(number) for number in range(len(files))]
    for path, pairs in zip(paths, files, strict=True):
        write_sorted(path, records(pairs))
    return paths


@settings(max_examples=60, deadline=None)
@given(st.lists(PAIRS, max_size=4), st.integers(1, 40))
def test_buckets_hold_every_record_once(tmp_path_factory, files, bucket_records):
    paths = write_all(tmp_path_factory.mktemp("records"), files)
    every = [pair for pairs in files for pair in pairs]
    bounds = bucket_bounds(len(every), bucket_records)
    assert len(bounds) == max(1, -(-len(every) // bucket_records))
    found = []
    for first, end in bounds:
        bucket = read_range(paths, first, end).tolist()
        assert all(first <= key < end for key, _ in bucket)
        found += bucket
    assert sorted(found) == sorted(every)


@settings(max_examples=60, deadline=None)
@given(st.lists(PAIRS, max_size=4), st.integers(1, 10))
def test_pieces_are_small_and_in_order(tmp_path_factory, files, limit):
    paths = write_all(tmp_path_factory.mktemp("records"), files)
    every = sorted(pair for pairs in files for pair in pairs)
    found, expected = [], 0
    for first, end, piece in read_pieces(paths, 0, 1 << 64, limit):
        assert first == expected
        expected = end
        assert len(piece) <= limit or end - first == 1
        assert all(first <= key < end for key in piece["key"].tolist())
        found += sorted(piece.tolist())
    assert expected == 1 << 64
    assert found == every


def test_records_of_one_key_keep_their_order(tmp_path):
    write_sorted(tmp_path / "a", records([(5, 3), (1, 9), (5, 1), (5, 2)]))
    assert read_range([tmp_path / "a"], 0, 9).tolist() == [(1, 9), (5, 3), (5, 1), (5, 2)]


def test_places_are_those_of_a_sorted_list(tmp_path):
    keys = sorted(np.random.default_rng(0).integers(0, 50, 70).tolist())
    write_sorted(tmp_path / "a", records([(key, 0) for key in keys]))
    file = SortedFile(tmp_path / "a")
    for key in [*range(-1, 52), 2**64]:
        if key >= 0:
            assert file.place(key) == sum(each < key for each in keys)
    assert len(file.range(3, 3)) == 0


def test_a_file_that_is_not_whole_has_no_name(tmp_path, monkeypatch):
    def full(self, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("megaxlm_data.writers.atomic.CheckedFile.write", full)
    with pytest.raises(OSError, match="No space"):
        write_sorted(tmp_path / "a", records([(1, 2)]))
    assert not list(tmp_path.iterdir())


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5))))
def test_unique_sorts_by_key_and_value(pairs):
    assert unique(records(pairs)).tolist() == sorted(set(pairs))
