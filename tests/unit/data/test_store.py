import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megaxlm.data.shards import read_index, tokenizer_path
from megaxlm.data.store import ShardStore, SubsetReader
from megaxlm.errors import CorruptDataError, UserError
from megaxlm.testing.datasets import write_dataset

DOCUMENTS = [[4 + i] * (1 + i % 5) for i in range(23)]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("dataset")
    write_dataset(directory, {"en": DOCUMENTS}, rows_per_shard=5)
    return directory


def reader(directory: Path, max_open_shards: int = 100) -> SubsetReader:
    store = ShardStore(directory, max_open_shards)
    return SubsetReader(store, store.index.subsets[0])


@given(start=st.integers(0, 23), stop=st.integers(0, 23))
def test_spans_cover_a_range_of_rows(dataset: Path, start: int, stop: int) -> None:
    rows = reader(dataset)
    found = [
        int(rows.shard(number).doc_ids[row])
        for number, first, last in rows.spans(start, stop)
        for row in range(first, last)
    ]
    assert found == list(range(start, stop))


def test_shards_are_mapped_when_asked_for_and_hold_no_descriptor(dataset: Path) -> None:
    descriptors = len(os.listdir("/proc/self/fd"))
    rows = reader(dataset)
    assert not rows.store._open
    shards = [rows.shard(number) for number in range(5)]
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert [shard.info.rows for shard in shards] == [5, 5, 5, 5, 3]
    assert rows.shard(2) is shards[2]


def test_no_more_shards_stay_mapped_than_allowed(dataset: Path) -> None:
    rows = reader(dataset, max_open_shards=2)
    first = rows.shard(0)
    rows.shard(1)
    assert rows.shard(0) is first  # used again, so shard 1 is the one to go
    rows.shard(2)
    assert len(rows.store._open) == 2
    assert rows.shard(0) is first
    assert first.sides[0][0][0] == 4


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    write_dataset(tmp_path, {"en": DOCUMENTS}, rows_per_shard=50)
    return tmp_path


def test_a_truncated_shard_is_named(broken: Path) -> None:
    path = broken / "train/en/00000.arrow"
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(CorruptDataError, match=r"train/en/00000.arrow: \d+ bytes where") as caught:
        reader(broken).shard(0)
    assert caught.value.exit_code == 1 and "\n" not in str(caught.value)


def test_a_missing_shard_is_named(broken: Path) -> None:
    (broken / "train/en/00000.arrow").unlink()
    with pytest.raises(CorruptDataError, match="train/en/00000.arrow: shard is missing"):
        reader(broken).shard(0)


def test_altered_document_borders_are_noticed(broken: Path) -> None:
    path = broken / "train/en/00000.arrow"
    content = path.read_bytes()
    offsets = np.cumsum([0, *map(len, DOCUMENTS)], dtype=np.int32).tobytes()
    assert content.count(offsets) == 1
    path.write_bytes(content.replace(offsets, offsets[:4] + b"\xff" + offsets[5:]))
    with pytest.raises(CorruptDataError, match="document borders differ from dataset.json"):
        reader(broken).shard(0)


def test_any_altered_byte_is_an_error_of_one_line_or_harmless(broken: Path) -> None:
    path = broken / "train/en/00000.arrow"
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    noticed = 0
    for _ in range(300):
        altered = bytearray(content)
        altered[int(rng.integers(len(altered)))] = int(rng.integers(256))
        path.write_bytes(altered)
        try:
            values, offsets = reader(broken).shard(0).sides[0]
        except CorruptDataError as error:
            noticed += 1
            assert "00000.arrow" in str(error)
        else:
            assert len(values[offsets[0] : offsets[-1]]) == sum(map(len, DOCUMENTS))
    assert noticed > 30


def test_another_tokenizer_is_an_error(broken: Path) -> None:
    tokenizer_path(broken).write_bytes(b"another")
    with pytest.raises(UserError, match="made with another tokenizer"):
        ShardStore(broken)


def test_a_missing_tokenizer_is_an_error(broken: Path) -> None:
    tokenizer_path(broken).unlink()
    with pytest.raises(UserError, match="cannot read the tokenizer.*No such file"):
        ShardStore(broken)


def test_no_data_set_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no data set here"):
        ShardStore(tmp_path / "nowhere")


def test_a_row_count_that_differs_from_the_index_is_an_error(broken: Path) -> None:
    index = read_index(broken)
    subset = index.subsets[0]
    wrong = replace(subset, shards=(replace(subset.shards[0], rows=99),))
    with pytest.raises(CorruptDataError, match="rows differ"):
        ShardStore(broken).shard(wrong, 0)
