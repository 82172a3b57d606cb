from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from megaxlm_data import native
from megaxlm_data.decontamination.search import Lengths, Searcher, make_bitmap
from megaxlm_data.decontamination.spans import Spans, fold, read_characters, read_words

NGRAM, CHARACTERS = 4, 6
LENGTHS = (Lengths("words", NGRAM, (2, 3)), Lengths("characters", CHARACTERS, (3, 5)))
# few symbols, so that texts overlap by chance
TEXT = st.text(alphabet="ab .,\nAé́渡船ก่\u200d\u0640१", max_size=60)


def keys_of(texts: list[str]) -> np.ndarray:
    keys = [np.zeros(0, np.uint64)]
    for text in texts:
        for tokens, lengths in zip(
            (read_words(fold(text)), read_characters(fold(text))), LENGTHS, strict=True
        ):
            for length in (*lengths.items, lengths.ngram):
                starts = np.arange(len(tokens) - length + 1)
                keys.append(Spans(tokens).hashes(starts, length))
    return np.unique(np.concatenate(keys))


def searcher(keys: np.ndarray, monkeypatch: pytest.MonkeyPatch, compiled: bool) -> Searcher:
    with monkeypatch.context() as patch:
        if not compiled:
            patch.setattr(native, "load", lambda: None)
        return Searcher(keys, *make_bitmap(keys), LENGTHS)


def compiled_or_skip() -> None:
    if native.load() is None:
        pytest.skip("no C++ compiler")


def test_the_compiled_search_finds_what_numpy_finds() -> None:
    compiled_or_skip()
    with pytest.MonkeyPatch.context() as monkeypatch:

        @settings(max_examples=300, deadline=None)
        @given(st.lists(TEXT, max_size=4), TEXT)
        def check(items: list[str], text: str) -> None:
            keys = keys_of(items)
            found = searcher(keys, monkeypatch, True).find(fold(text))
            expected = searcher(keys, monkeypatch, False).find(fold(text))
            assert np.array_equal(found, expected)

        check()


@pytest.mark.parametrize("compiled", [True, False])
def test_more_spans_than_there_is_room_for_are_all_found(
    monkeypatch: pytest.MonkeyPatch, compiled: bool
) -> None:
    if compiled:
        compiled_or_skip()
    find = searcher(keys_of(["a a a a"]), monkeypatch, compiled).find
    assert len(find("a " * 6_000)) == 6_000 - NGRAM + 1
    assert len(find("a a a a")) == 1


@pytest.mark.parametrize("compiled", [True, False])
def test_short_items_are_found_as_whole_sentences_alone(
    monkeypatch: pytest.MonkeyPatch, compiled: bool
) -> None:
    if compiled:
        compiled_or_skip()
    find = searcher(keys_of(["b a"]), monkeypatch, compiled).find
    assert find(fold("a. B, a! b")).tolist() == [[3, 7, 0]]
    assert len(find("a b a b")) == 0


@pytest.mark.parametrize("compiled", [True, False])
def test_an_empty_index_finds_nothing(monkeypatch: pytest.MonkeyPatch, compiled: bool) -> None:
    if compiled:
        compiled_or_skip()
    find = searcher(np.zeros(0, np.uint64), monkeypatch, compiled).find
    assert find("a b c d e").shape == (0, 3)
    assert find("").shape == (0, 3)


def test_the_bitmap_has_the_bit_of_every_key() -> None:
    keys = np.sort(np.random.default_rng(1).integers(0, 2**64, 1000, dtype=np.uint64))
    bits, shift = make_bitmap(keys)
    places = keys >> np.uint64(shift)
    assert ((bits[places >> np.uint64(3)] >> (places & np.uint64(7)).astype(np.uint8)) & 1).all()
    assert np.unpackbits(bits).mean() < 1 / 16
