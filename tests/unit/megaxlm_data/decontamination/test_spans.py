from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from megaxlm_data.decontamination.spans import (
    Spans,
    Tokens,
    fold,
    has_unspaced,
    read_characters,
    read_words,
    reading_of,
)

SENTENCE = "The old ferryman counts his coins twice before he casts off."


def whole(tokens: Tokens) -> int:
    return int(Spans(tokens).hashes(np.array([0]), len(tokens))[0])


@pytest.mark.parametrize(
    "variant",
    [
        "the old FERRYMAN counts his coins twice before he casts off",
        "The old ferryman counts\r\nhis coins twice before he casts off.\r\n",
        "“The old ferryman — counts his coins (twice) before he casts off!”",
        "  The\told  ferryman\u00a0counts his coins twice before he casts off...",
        "The old ferry\u00adman counts his coins twice before he casts off.",
        "Ｔｈｅ ｏｌｄ ferryman counts his coins twice before he casts off.",
    ],
)
def test_case_punctuation_and_white_space_are_not_seen(variant: str) -> None:
    assert whole(read_words(fold(variant))) == whole(read_words(fold(SENTENCE)))


@pytest.mark.parametrize(
    "other",
    [
        "The old ferryman counts his coins twice before he casts.",
        "The old ferryman counts coins his twice before he casts off.",
        "The oldferryman counts his coins twice before he casts off.",
        "The old ferryman counts his coins thrice before he casts off.",
    ],
)
def test_other_words_are_another_span(other: str) -> None:
    assert whole(read_words(fold(other))) != whole(read_words(fold(SENTENCE)))


def test_a_word_with_an_apostrophe_is_one() -> None:
    tokens = read_words(fold("I don\u2019t ‘know’ it"))
    assert len(tokens) == 4
    assert whole(tokens) == whole(read_words(fold("I don't know it")))


def test_vowel_signs_of_arabic_are_not_seen() -> None:
    assert whole(read_words(fold("كَتَبَ الوَلَدُ"))) == whole(read_words(fold("كتب الولد")))


def test_a_span_has_the_same_hash_wherever_it_stands() -> None:
    inside = read_words(fold(f"Someone said: {SENTENCE} Nobody answered him."))
    span = Spans(inside).hashes(np.arange(len(inside) - 10), 11)
    assert whole(read_words(fold(SENTENCE))) in span.tolist()


def test_sentences_begin_and_end_where_they_should() -> None:
    tokens = read_words(fold("Come in, please. Sit down!\nTea"))
    assert tokens.begins.tolist() == [True, False, False, True, False, True]
    assert tokens.ends.tolist() == [False, False, True, False, True, True]
    words = ["come", "in", "please", "sit", "down", "tea"]
    folded = fold("Come in, please. Sit down!\nTea")
    assert [folded[a:b] for a, b in zip(tokens.first, tokens.last, strict=True)] == words


def test_scripts_without_spaces_are_read_in_characters() -> None:
    tokens = read_characters(fold("渡船七点，离开。"))
    assert len(tokens) == 6
    assert tokens.ends.tolist() == [False, False, False, True, False, True]
    assert reading_of(fold("渡船七点离开, OK")) == "ideographs"
    assert reading_of(fold("わたしぶねは七時")) == "ideographs"
    assert reading_of(fold("เรือข้ามฟาก")) == "syllables"
    assert reading_of(fold("ကူးတို့သင်္ဘော")) == "syllables"
    assert reading_of(fold(SENTENCE + "渡船")) == "words"
    assert reading_of("") == "words"
    assert has_unspaced(SENTENCE + "渡船")
    assert not has_unspaced("Паром уходит")


def test_the_ways_of_reading_do_not_meet() -> None:
    assert whole(read_words("渡")) != whole(read_characters("渡"))


@pytest.mark.parametrize("text", ["", " ", "...", "\n\n", "\u200d"])
def test_text_without_a_word_has_no_tokens(text: str) -> None:
    assert len(read_words(text)) == 0
    assert len(read_characters(text)) == 0


@given(st.text(max_size=200))
def test_folding_keeps_lines(text: str) -> None:
    assert fold(text).count("\n") == text.count("\n")


def test_no_two_of_many_spans_share_a_hash() -> None:
    rng = np.random.default_rng(5)
    words = [f"w{number}" for number in range(50)]
    text = " ".join(rng.choice(words, 60_000))
    spans = Spans(read_words(text))
    tokens = text.split()
    hashes = spans.hashes(np.arange(len(tokens) - 12), 13)
    distinct = {tuple(tokens[start : start + 13]) for start in range(len(tokens) - 12)}
    assert len(np.unique(hashes)) == len(distinct)
