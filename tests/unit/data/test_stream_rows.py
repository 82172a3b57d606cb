import tempfile
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from megaxlm.data.rows import RowBorders, RowFormat
from megaxlm.data.special_tokens import BOS, EOS
from megaxlm.data.store import ShardStore, SubsetReader
from megaxlm.data.stream_rows import StreamRows
from megaxlm.testing.datasets import write_dataset

SEQ_LEN = 16


def open_rows(
    lengths: list[int],
    seq_len: int = SEQ_LEN,
    *,
    rows_per_shard: int = 3,
    across: bool = False,
    max_segments: int = 32,
    seed: int = 0,
) -> tuple[StreamRows, list[int]]:
    """Opens a language whose tokens are all distinct; returns the ring of its text as well."""
    ids = iter(range(4, 4 + sum(lengths)))
    documents = [[next(ids) for _ in range(length)] for length in lengths]
    with tempfile.TemporaryDirectory() as name:  # mappings outlive the files
        directory = Path(name)
        write_dataset(directory, {"en": documents}, rows_per_shard=rows_per_shard)
        store = ShardStore(directory)
        subset = store.index.subsets[0]
        reader = SubsetReader(store, subset)
        rows = StreamRows("mlm/en", reader, 5, RowFormat(seq_len, max_segments, across), seed)
        for number in range(len(subset.shards)):
            reader.shard(number)
    return rows, [token for document in documents for token in (*document, EOS)]


def read(rows: StreamRows, cursor: tuple[int, ...], count: int, seq_len: int = SEQ_LEN) -> list:
    taken, _ = rows.take(cursor, count, range(count))
    written: list[tuple[list[int], RowBorders]] = []
    for row in taken:
        tokens, languages = np.full(seq_len, -1), np.full(seq_len, -1)
        borders = row.write(tokens, languages)
        assert (languages == 5).all()
        written.append((tokens.tolist(), borders))
    return written


lengths_of_documents = st.lists(st.integers(0, 50), min_size=1, max_size=12)


@given(lengths_of_documents, st.integers(8, 40), st.integers(1, 5), st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_an_epoch_is_the_ring_cut_into_rows(
    lengths: list[int], seq_len: int, rows_per_shard: int, epoch: int
) -> None:
    rows, ring = open_rows(lengths, seq_len, rows_per_shard=rows_per_shard)
    n = len(ring)
    assert rows.rows_per_epoch == -(-n // (seq_len - 1))
    texts = []
    for tokens, _ in read(rows, (epoch, 0), rows.rows_per_epoch, seq_len):
        assert tokens[0] == BOS
        texts.append(tuple(tokens[1:]))
    cuts = []
    for cut in range(n):  # some cut explains all rows
        starts = [(cut + i * (seq_len - 1)) % n for i in range(rows.rows_per_epoch)]
        expected = [tuple(ring[(s + i) % n] for i in range(seq_len - 1)) for s in starts]
        if sorted(expected) == sorted(texts):
            cuts.append(cut)
    assert cuts


@given(lengths_of_documents)
@settings(max_examples=30, deadline=None)
def test_every_token_of_an_epoch_once_and_less_than_a_row_twice(lengths: list[int]) -> None:
    rows, ring = open_rows(lengths)
    seen = [t for tokens, _ in read(rows, (0, 0), rows.rows_per_epoch) for t in tokens[1:]]
    counts = np.bincount(seen, minlength=max(ring) + 1)
    assert all(counts[token] >= 1 for token in ring)
    assert len(seen) - len(ring) < SEQ_LEN - 1


@given(lengths_of_documents, st.booleans(), st.integers(1, 6))
@settings(max_examples=60, deadline=None)
def test_borders_lie_behind_documents(lengths: list[int], across: bool, most: int) -> None:
    rows, _ = open_rows(lengths, across=across, max_segments=most)
    for tokens, borders in read(rows, (0, 0), rows.rows_per_epoch):
        ends = [i + 1 for i, token in enumerate(tokens) if token == EOS]
        expected = [] if across else ends[: most - 1]
        expected = [end for end in expected if end < SEQ_LEN] + [SEQ_LEN]
        assert borders.segment_ends == expected
        assert borders.position_starts == [0, *expected[:-1]]
        assert len(borders.segment_ends) <= most


@given(lengths_of_documents, st.lists(st.integers(1, 9), min_size=1, max_size=8), st.data())
@settings(max_examples=40, deadline=None)
def test_taking_in_steps_is_taking_at_once(
    lengths: list[int], steps: list[int], data: st.DataObject
) -> None:
    rows, _ = open_rows(lengths)
    together, end = rows.take(rows.start, sum(steps), range(sum(steps)))
    cursor, pieces = rows.start, []
    for step in steps:
        wanted = sorted(data.draw(st.sets(st.integers(0, step - 1))))
        taken, after = rows.take(cursor, step, wanted)
        assert [together[len(pieces) + i] for i in wanted] == taken
        pieces.extend(rows.take(cursor, step, range(step))[0])
        cursor = after
    assert pieces == together
    assert cursor == end


def test_a_language_shorter_than_a_row_goes_round() -> None:
    rows, ring = open_rows([3, 1])
    assert rows.rows_per_epoch == 1
    tokens, borders = read(rows, (0, 0), 1)[0]
    start = next(i for i in range(6) if ring[i] == tokens[1] and ring[(i + 1) % 6] == tokens[2])
    assert tokens[1:] == [ring[(start + i) % 6] for i in range(SEQ_LEN - 1)]
    assert len(borders.segment_ends) >= 5


def test_epochs_differ_in_order_and_cut() -> None:
    rows, _ = open_rows([40] * 20, rows_per_shard=7)
    epochs = [[t for t, _ in read(rows, (epoch, 0), rows.rows_per_epoch)] for epoch in range(4)]
    assert len({tuple(map(tuple, epoch)) for epoch in epochs}) == 4
    assert not set(map(tuple, epochs[0])) & set(map(tuple, epochs[1]))


def test_fingerprint_follows_what_a_cursor_means() -> None:
    base = open_rows([40, 30])[0].fingerprint
    assert open_rows([40, 30])[0].fingerprint == base
    assert open_rows([40, 30], seed=1)[0].fingerprint != base
    assert open_rows([40, 30], seq_len=17)[0].fingerprint != base
    assert open_rows([40, 31])[0].fingerprint != base
    assert open_rows([40, 30], across=True)[0].fingerprint == base
