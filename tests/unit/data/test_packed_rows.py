import logging
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megaxlm.data import packed_rows
from megaxlm.data.packed_rows import DocumentRows, PackedRows, PairRows
from megaxlm.data.rows import RowBorders, RowFormat
from megaxlm.data.special_tokens import BOS, EOS, PAD
from megaxlm.data.store import ShardStore, SubsetReader
from megaxlm.errors import UserError
from megaxlm.testing.datasets import write_dataset

SEQ_LEN = 24
Written = tuple[list[int], list[int], RowBorders]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several chunks and blocks even in a data set of a few documents."""
    monkeypatch.setattr(packed_rows, "CHUNK_ITEMS", 4)
    monkeypatch.setattr(packed_rows, "CHUNKS_PER_BLOCK", 3)


def distinct(lengths: list[int], first: int = 4) -> list[list[int]]:
    ids = iter(range(first, first + sum(lengths)))
    return [[next(ids) for _ in range(length)] for length in lengths]


def open_documents(
    documents: list[list[int]], seq_len: int = SEQ_LEN, across: bool = False, most: int = 32
) -> DocumentRows:
    return open_rows(DocumentRows, documents, (5,), seq_len, across, most)


def open_pairs(
    pairs: list[tuple[list[int], list[int]]], seq_len: int = SEQ_LEN, across: bool = False
) -> PairRows:
    return open_rows(PairRows, pairs, (5, 6), seq_len, across)


def open_rows(
    kind: Any,
    rows: list,
    languages: tuple[int, ...],
    seq_len: int,
    across: bool = False,
    most: int = 32,
    announce: bool = False,
) -> Any:
    with tempfile.TemporaryDirectory() as name:  # mappings outlive the files
        directory = Path(name)
        if kind is DocumentRows:
            write_dataset(directory, {"en": rows}, rows_per_shard=5)
        else:
            write_dataset(directory, None, {("en", "fr"): rows}, rows_per_shard=5)
        store = ShardStore(directory)
        subset = store.index.subsets[0]
        reader = SubsetReader(store, subset)
        for number in range(len(subset.shards)):
            reader.shard(number)
    return kind("x/en", reader, languages, RowFormat(seq_len, most, across), 0, announce)


def read(rows: PackedRows, taken: list, seq_len: int = SEQ_LEN) -> list[Written]:
    written = []
    for row in taken:
        tokens, languages = np.full(seq_len, -1), np.full(seq_len, -1)
        borders = row.write(tokens, languages)
        assert borders.segment_ends[-1] == seq_len
        assert borders.position_starts[0] == 0
        written.append((tokens.tolist(), languages.tolist(), borders))
    return written


def epoch_of(rows: PackedRows, epoch: int, seq_len: int = SEQ_LEN) -> list[Written]:
    """Reads one epoch row by row, as the stream would."""
    written, cursor = [], (epoch, 0, 0)
    while True:
        taken, cursor = rows.take(cursor, 1, [0])
        if cursor[0] > epoch:
            return written
        written += read(rows, taken, seq_len)


def segments(tokens: list[int], borders: RowBorders) -> list[list[int]]:
    starts = [0, *borders.segment_ends[:-1]]
    return [tokens[a:b] for a, b in zip(starts, borders.segment_ends, strict=True)]


@given(
    st.lists(st.integers(0, 60), min_size=1, max_size=40).filter(any),
    st.integers(1, 6),
    st.integers(0, 2),
)
@settings(max_examples=60, deadline=None)
def test_every_document_token_once_an_epoch(lengths: list[int], most: int, epoch: int) -> None:
    documents = distinct(lengths)
    pieces = []
    for tokens, languages, borders in epoch_of(open_documents(documents, most=most), epoch):
        assert set(languages) == {5}
        assert borders.position_starts == [0, *borders.segment_ends[:-1]]
        parts = segments(tokens, borders)
        if parts[-1][0] == PAD:
            assert set(parts.pop()) == {PAD}
        assert 1 <= len(parts) <= most
        for part in parts:
            assert part[0] == BOS and part[-1] == EOS
            pieces.append(part[1:-1])
    room = SEQ_LEN - 2
    expected = [d[i : i + room] for d in documents for i in range(0, len(d), room)]
    assert sorted(pieces) == sorted(expected)


def test_rows_attending_across_documents_are_one_segment() -> None:
    rows = open_documents(distinct([5, 6, 2, 40, 1] * 6), across=True, most=1)
    written = epoch_of(rows, 0)
    assert any(tokens.count(BOS) > 1 for tokens, _, _ in written)  # the limit is on segments
    for tokens, _, borders in written:
        filled = len(tokens) - tokens.count(PAD)
        expected = [filled, SEQ_LEN] if filled < SEQ_LEN else [SEQ_LEN]
        assert borders.segment_ends == expected
        assert borders.position_starts == [0, *expected[:-1]]


@pytest.mark.parametrize(("median", "seq_len"), [(60, 128), (300, 512), (700, 512)])
def test_realistic_documents_fill_rows_to_98_percent(
    median: int, seq_len: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed_rows, "CHUNK_ITEMS", 1024)
    monkeypatch.setattr(packed_rows, "CHUNKS_PER_BLOCK", 16)
    lengths = np.random.default_rng(1).lognormal(np.log(median), 1.1, 2000)
    documents = [np.full(max(1, int(length)), 7) for length in lengths]
    rows = open_rows(DocumentRows, documents, (5,), seq_len)
    filled = [seq_len - tokens.count(PAD) for tokens, _, _ in epoch_of(rows, 0, seq_len)]
    assert np.mean(filled) / seq_len >= 0.98


@given(
    st.lists(st.tuples(st.integers(0, 16), st.integers(0, 16)), min_size=1, max_size=40),
    st.integers(0, 2),
    st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_pairs_are_whole_once_an_epoch(
    lengths: list[tuple[int, int]], epoch: int, across: bool
) -> None:
    sources, targets = distinct([a for a, _ in lengths]), distinct([b for _, b in lengths], 5000)
    pairs = list(zip(sources, targets, strict=True))
    fitting = [p for p in pairs if p[0] and p[1] and len(p[0]) + len(p[1]) + 4 <= SEQ_LEN]
    rows = open_pairs(pairs, across=across)
    if not fitting:
        with pytest.raises(UserError, match="x/en: no pair fits into a row of data.seq_len 24"):
            rows.take(rows.start, 1, [0])
        return
    found = []
    for tokens, languages, borders in epoch_of(rows, epoch):
        starts = [0, *borders.segment_ends[:-1]]
        position_starts = []
        for part, start in zip(segments(tokens, borders), starts, strict=True):
            position_starts.append(start)
            if part[0] == PAD:
                continue
            middle = part.index(EOS)
            first, second = part[1:middle], part[middle + 2 : -1]
            assert part == [BOS, *first, EOS, EOS, *second, EOS]
            position_starts.append(start + middle + 1)
            swapped = first[0] >= 5000
            side = languages[start : start + len(part)]
            ids = (6, 5) if swapped else (5, 6)
            assert side == [ids[0]] * (middle + 1) + [ids[1]] * (len(second) + 2)
            found.append((second, first) if swapped else (first, second))
        assert borders.position_starts == position_starts
    assert sorted(found) == sorted(fitting)


def test_direction_of_a_pair_is_a_fair_coin_of_each_epoch() -> None:
    rows = open_pairs([([4 + i], [5000 + i]) for i in range(400)])

    def source_first(epoch: int) -> set[int]:
        return {t for tokens, *_ in epoch_of(rows, epoch) for t in tokens[1::6] if 4 <= t < 5000}

    first, second = source_first(0), source_first(1)
    assert 150 < len(first) < 250
    assert 60 < len(first & second) < 140


def test_long_pairs_are_counted_and_announced(caplog: pytest.LogCaptureFixture) -> None:
    pairs = [([7] * 9, [8] * 9)] * 20 + [([7] * 20, [8] * 20)] * 10
    rows = open_rows(PairRows, pairs, (5, 6), SEQ_LEN, announce=True)
    with caplog.at_level(logging.WARNING):
        assert sum(1 for _ in rows.one_epoch()) == 20
    assert rows.skipped_pairs == 10
    assert len([r for r in caplog.records if "longer than data.seq_len 24" in r.message]) == 1


def test_limit_of_segments_that_leaves_rows_empty_is_announced(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        open_rows(DocumentRows, distinct([3] * 40), (5,), SEQ_LEN, most=2, announce=True)
    assert "2 documents of 5 tokens fill 42% of a row of 24 tokens" in caplog.text
    assert "raise data.max_segments_per_row to 8" in caplog.text


@given(st.lists(st.integers(1, 9), min_size=1, max_size=8), st.data())
@settings(max_examples=40, deadline=None)
def test_taking_in_steps_is_taking_at_once(steps: list[int], data: st.DataObject) -> None:
    documents = distinct([3, 30, 9, 14, 22, 50, 1] * 5)
    rows, fresh = open_documents(documents), open_documents(documents)
    taken, end = rows.take(rows.start, sum(steps), range(sum(steps)))
    together = read(rows, taken)
    cursor, done = fresh.start, 0
    for step in steps:
        wanted = sorted(data.draw(st.sets(st.integers(0, step - 1))))
        part, cursor = fresh.take(cursor, step, wanted)
        assert read(fresh, part) == [together[done + i] for i in wanted]
        done += step
    assert cursor == end


def test_any_cursor_is_reached_without_a_replay() -> None:
    documents = distinct([3, 30, 9, 14, 22, 50, 1] * 5)
    rows = open_documents(documents)
    cursor = rows.start
    for _ in range(60):
        here = cursor
        taken, cursor = rows.take(cursor, 1, [0])
        again, after = open_documents(documents).take(here, 1, [0])
        assert read(rows, again) == read(rows, taken) and after == cursor
    assert cursor[0] >= 1


def test_rows_of_neighbouring_documents_come_at_distant_times(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(packed_rows, "CHUNKS_PER_BLOCK", 16)
    documents = [[4 + i] * (SEQ_LEN - 2) for i in range(200)]
    order = [tokens[1] for tokens, *_ in epoch_of(open_documents(documents), 0)]
    assert sorted(order) == list(range(4, 204))
    assert np.mean(np.abs(np.diff(order)) == 1) < 0.15
    assert abs(np.corrcoef(order, np.arange(200))[0, 1]) < 0.3


def test_empty_documents_alone_are_an_error() -> None:
    rows = open_documents([[], [], []])
    with pytest.raises(UserError, match="x/en: no document fits into a row"):
        rows.take(rows.start, 1, [0])


def test_documents_longer_than_many_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_rows, "CHUNK_TOKENS", 2)  # far more chunks than documents
    documents = distinct([300, 200, 7])
    written = epoch_of(open_documents(documents), 0)
    tokens = sorted(token for row, _, _ in written for token in row if token not in (BOS, EOS, PAD))
    assert tokens == list(range(4, 4 + 507))
