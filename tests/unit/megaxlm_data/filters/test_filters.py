import pytest
from megaxlm_data.document import Document, Pair
from megaxlm_data.filters.base import apply_steps, total_drops
from megaxlm_data.filters.length import DocumentLength, PairLength, PairLengthRatio
from megaxlm_data.filters.quality import (
    LetterShare,
    PairLetterShare,
    RepeatedLines,
    letter_share,
)


def document(*lines):
    return Document("en", lines)


def pair(source, target):
    return Pair(("en", "fr"), source, target)


def test_document_length_counts_the_encoded_text():
    short = DocumentLength(5, 8)
    assert short.reason_to_drop(document("ab", "cd")) is None  # "ab cd"
    assert short.reason_to_drop(document("ab", "c")) == "too_short"
    assert short.reason_to_drop(document("abcd", "efgh")) == "too_long"
    assert DocumentLength(0, 8).reason_to_drop(document()) == "too_short"


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("abcd", 1.0),
        ("ab 12", 0.5),
        ("", 0.0),
        ("!!", 0.0),
        ("हिन्दी", 1.0),  # half of it are combining marks
        ("été 12", 0.6),
        ("你好。。", 0.5),
    ],
)
def test_letter_share_counts_letters_and_marks(text, share):
    assert letter_share(text) == pytest.approx(share)


def test_filters_keep_or_give_a_reason():
    assert LetterShare(0.5).reason_to_drop(document("12345 ab")) == "few_letters"
    assert LetterShare(0.5).reason_to_drop(document("abc 12")) is None
    assert RepeatedLines(0.5).reason_to_drop(document("a", "a", "a", "b")) is None
    assert RepeatedLines(0.49).reason_to_drop(document("a", "a", "a", "b")) == "repeated_lines"
    assert PairLength(2, 5).reason_to_drop(pair("", "abc")) == "empty_side"
    assert PairLength(2, 5).reason_to_drop(pair("a", "abc")) == "too_short"
    assert PairLength(2, 5).reason_to_drop(pair("abc", "abcdef")) == "too_long"
    assert PairLength(2, 5).reason_to_drop(pair("abc", "你好")) is None
    assert PairLengthRatio(2).reason_to_drop(pair("abc", "你好")) is None  # 3 bytes and 6
    assert PairLengthRatio(2).reason_to_drop(pair("abc", "你好吗")) == "length_ratio"
    assert PairLetterShare(0.5).reason_to_drop(pair("abc", "2,008")) == "few_letters"


def test_the_base_class_counts_drops_by_language_and_reason():
    filters = [DocumentLength(5, 8)]
    reasons = [apply_steps(filters, document(text))[1] for text in ("abcdef", "a", "b", "x" * 9)]
    assert reasons == [None, "too_short", "too_short", "too_long"]
    assert total_drops(filters, "en") == {"too_short": 2, "too_long": 1}
    assert total_drops(filters, "fr") == {}
