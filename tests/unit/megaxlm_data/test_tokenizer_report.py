from dataclasses import replace

import numpy as np
import pytest
from megaxlm_data.tokenizer.report import SideCounts, count_side, tokenizer_report

from megaxlm.data.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenizer(build_model):
    return Tokenizer(build_model)


def side(tokenizer, lang, pieces, **fields):
    counts = np.zeros(tokenizer.vocab_size, dtype=np.int64)
    for token, count in pieces.items():
        counts[token] = count
    values = {
        "lang": lang,
        "partner": None,
        "unspaced_share": 0.0,
        "tokens": int(counts.sum()),
        "words": 10,
        "chars": 50,
        "text_bytes": 60,
        "unknown": 0,
        "byte_fallback": 0,
    }
    return SideCounts(**(values | fields), pieces=counts)


def test_numbers_are_those_of_the_text(tokenizer, make_lines):
    texts = [*make_lines("en", 20, 0), "龘"]
    ids = [token for row in tokenizer.encode_batch(texts) for token in row]
    report = tokenizer_report(tokenizer, [count_side(tokenizer, "en", texts)])
    found = report["languages"]["en"]
    assert found["tokens"] == len(ids)
    assert found["tokens_per_word"] == pytest.approx(len(ids) / len(" ".join(texts).split()))
    assert found["tokens_per_char"] == pytest.approx(len(ids) / sum(map(len, texts)))
    assert found["bytes_per_token"] == pytest.approx(len("".join(texts).encode()) / len(ids))
    assert found["unknown_share"] == pytest.approx(1 / len(ids))
    pieces = [tokenizer.piece(token).lstrip("\u2581") for token in ids]
    assert found["character_share"] == pytest.approx(sum(len(p) <= 1 for p in pieces) / len(ids))
    assert found["pieces_used"] == report["pieces_used"] == len(set(ids))
    assert (found["byte_share"], found["parity"], found["premium"]) == (0, 1, None)
    assert report["vocab_size"] == tokenizer.vocab_size and report["pivot"] is None


def test_owned_pieces_go_by_rate_not_by_size(tokenizer):
    small = side(tokenizer, "sw", {10: 8, 11: 1, 12: 1})
    large = side(tokenizer, "en", {10: 800, 13: 9_200})
    report = tokenizer_report(tokenizer, [large, small])
    # 10 is 80% of the small language's tokens and 8% of the large one's; 11 and 12 are met once
    assert report["languages"]["sw"]["pieces_owned"] == 1
    assert report["languages"]["en"]["pieces_owned"] == 1
    assert report["languages"]["sw"]["pieces_used"] == 3
    assert report["pieces_used"] == 4
    even = [side(tokenizer, lang, {10: 5, 11: 5}) for lang in ("en", "sw")]
    assert all(
        lang["pieces_owned"] == 0
        for lang in tokenizer_report(tokenizer, even)["languages"].values()
    )


def test_parity_compares_words_with_words_and_characters_with_characters(tokenizer):
    sides = [
        side(tokenizer, "en", {10: 12}, words=10),
        side(tokenizer, "fi", {10: 24}, words=10),
        side(tokenizer, "zh", {10: 30}, chars=50, unspaced_share=0.9),
        side(tokenizer, "th", {10: 15}, chars=50, unspaced_share=0.9),
    ]
    found = tokenizer_report(tokenizer, sides)["languages"]
    assert {lang: each["parity"] for lang, each in found.items()} == {
        "en": 1.0,
        "fi": 2.0,
        "zh": 2.0,
        "th": 1.0,
    }
    assert found["zh"]["tokens_per_word"] is None
    assert found["fi"]["tokens_per_word"] == 2.4


def test_premium_is_reckoned_over_the_pairs_with_the_pivot(tokenizer):
    def pair(a, b, tokens_a, tokens_b):
        yield side(tokenizer, a, {10: tokens_a}, partner=b)
        yield side(tokenizer, b, {10: tokens_b}, partner=a)

    sides = [
        *pair("en", "de", 100, 150),
        *pair("ru", "en", 300, 100),
        *pair("en", "ru", 100, 100),
        *pair("de", "xx", 7, 7),
        *pair("en", "yy", 100, 50),
        side(tokenizer, "en", {10: 9_999}),
    ]
    report = tokenizer_report(tokenizer, sides)
    assert report["pivot"] == "en"
    premium = {lang: each["premium"] for lang, each in report["languages"].items()}
    assert premium == {"en": 2.0, "de": 3.0, "ru": 4.0, "yy": 1.0, "xx": None}


def test_sides_of_a_language_are_added_up_and_empty_ones_left_out(tokenizer):
    one = side(tokenizer, "en", {10: 4, 11: 6}, unknown=2, byte_fallback=3)
    empty = replace(one, lang="xx", tokens=0, pieces=one.pieces * 0)
    report = tokenizer_report(tokenizer, iter([one, one, empty]))
    assert list(report["languages"]) == ["en"]
    found = report["languages"]["en"]
    assert (found["tokens"], found["unknown_share"], found["byte_share"]) == (20, 0.2, 0.3)
    assert tokenizer_report(tokenizer, [])["languages"] == {}
