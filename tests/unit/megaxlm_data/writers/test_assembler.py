import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st
from megaxlm_data.writers.assembler import Assembler, EncodedRows
from megaxlm_data.writers.shards import EncodedSide

from megaxlm.data.shards import Shard, file_xxh3

VOCABULARY = 300


def encoded(block, lengths, sides=1, first=0):
    rng = np.random.default_rng(block)
    count = len(lengths)
    numbers = np.array(lengths, dtype=np.int64)
    parts = tuple(
        EncodedSide(
            rng.integers(3, VOCABULARY, int(numbers.sum())).astype(np.uint32),
            numbers,
            (numbers * 4).astype(np.uint32),
        )
        for _ in range(sides)
    )
    ids = rng.integers(0, 2**64 - 1, count, dtype=np.uint64)
    ones = tuple(np.ones(count, np.uint32) for _ in range(sides))
    return EncodedRows(block, np.arange(first, first + count), ids, parts, ones, ones)


def assembler(directory, shard_tokens, sides=1):
    langs = ("en", "fr")[:sides]
    byte_pieces = np.arange(VOCABULARY) < 100
    return Assembler(directory, directory / "m", "train", langs, shard_tokens, byte_pieces)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 30), min_size=1, max_size=8), min_size=1, max_size=6),
    st.integers(1, 60),
    st.integers(1, 2),
)
def test_shards_hold_every_document_once_within_the_limit(
    tmp_path_factory, blocks, shard_tokens, sides
):
    directory = tmp_path_factory.mktemp("shards")
    made = assembler(directory, shard_tokens, sides)
    rows = [encoded(number, lengths, sides) for number, lengths in enumerate(blocks)]
    for each in rows:
        made.add(each)
    made.finish(len(blocks))
    values = [[] for _ in range(sides)]
    ids = []
    for number, counted in enumerate(made.shards):
        info = counted.info
        assert info.path == f"train/{'-'.join(('en', 'fr')[:sides])}/{number:05d}.arrow"
        assert info.tokens <= shard_tokens or info.rows == 1
        assert info.xxh3 == file_xxh3(directory / info.path)
        shard = Shard(directory, info, sides == 2)
        ids += shard.doc_ids.tolist()
        for side, (tokens, offsets) in enumerate(shard.sides):
            values[side] += tokens.tolist()
            assert offsets[-1] == len(tokens)
        counts = counted.counts["en"]
        assert counts["tokens"] == len(shard.sides[0][0])
        assert counts["unknown"] == int((shard.sides[0][0] == 3).sum())
        assert counts["byte_fallback"] == int((shard.sides[0][0] < 100).sum())
        assert pa.ipc.open_file(str(directory / info.path)).num_record_batches == 1
    assert ids == [i for each in rows for i in each.doc_ids.tolist()]
    for side in range(sides):
        assert values[side] == [v for each in rows for v in each.sides[side].values.tolist()]


def test_an_interrupted_assembler_goes_on_where_its_last_shard_ended(tmp_path):
    blocks = [[5, 9, 3], [7, 7, 7, 7], [2], [30, 1]]
    whole = assembler(tmp_path / "whole", 20)
    for number, lengths in enumerate(blocks):
        whole.add(encoded(number, lengths))
    whole.finish(len(blocks))

    cut = assembler(tmp_path / "cut", 20)
    for number, lengths in enumerate(blocks[:2]):
        cut.add(encoded(number, lengths))  # and then it is killed
    again = assembler(tmp_path / "cut", 20)
    assert again.resume()
    assert again.shards == cut.shards == whole.shards[:2]
    block, row = again.next
    for number in range(block, len(blocks)):
        rows = encoded(number, blocks[number])
        again.add(rows.slice(row, len(rows.rows)) if number == block else rows)
    again.finish(len(blocks))
    assert again.shards == whole.shards


def test_an_altered_shard_and_all_after_it_are_made_again(tmp_path):
    made = assembler(tmp_path, 10)
    made.add(encoded(0, [10, 10, 10]))
    made.finish(1)
    path = tmp_path / made.shards[1].info.path
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    again = assembler(tmp_path, 10)
    assert not again.resume()
    assert again.shards == made.shards[:1]
    assert again.next == (0, 1)
    fresh = assembler(tmp_path, 10)
    assert fresh.resume()
    assert fresh.shards == made.shards[:1]
