import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from megaxlm_data.document import Document, Pair
from megaxlm_data.filters import kinds
from megaxlm_data.filters.base import PerLanguage
from megaxlm_data.filters.characters import (
    DigitShare,
    LetterShare,
    ReplacementShare,
    SymbolShare,
    character_kinds,
    count_characters,
    letter_share,
)


def of(text, lang="en"):
    return Document(lang, (text,))


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
        ("a\nb\u00a01", 2 / 3),
    ],
)
def test_letter_share_counts_letters_and_marks(text, share):
    assert letter_share(text) == pytest.approx(share)


def test_characters_are_counted_by_kind():
    counts = count_characters("ab १२ ½ + €😀 \ufffd.")
    assert (counts.total, counts.letters, counts.digits) == (10, 2, 3)
    assert (counts.symbols, counts.replacements) == (3, 1)


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_counts_agree_with_unicode(text):
    counts = count_characters(text)
    first = [unicodedata.category(character)[0] for character in text if character != "\ufffd"]
    assert counts.letters == first.count("L") + first.count("M")
    assert counts.digits == first.count("N")
    assert counts.symbols == first.count("S")
    assert counts.total == len(text) - first.count("Z") - text.count("\n")


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_counting_without_a_compiler_gives_the_same(text):
    compiled = kinds.count_kinds(text, character_kinds())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kinds, "_compiled", lambda: None)
        assert kinds.count_kinds(text, character_kinds()) == compiled
    assert sum(compiled) == len(text)


def test_filters_compare_shares_with_their_limits():
    assert LetterShare(PerLanguage(0.5)).reason_to_drop(of("12345 ab")) == "few_letters"
    assert LetterShare(PerLanguage(0.5)).reason_to_drop(of("abc 12")) is None
    assert DigitShare(PerLanguage(0.5)).reason_to_drop(of("12345 ab")) == "many_digits"
    assert DigitShare(PerLanguage(0.5)).reason_to_drop(of("৪৫ আজ")) is None  # 2 of 4
    assert SymbolShare(PerLanguage(0.3)).reason_to_drop(of("✓✓ ok →")) == "many_symbols"
    assert SymbolShare(PerLanguage(0.3)).reason_to_drop(of("sold for 12 €, not 20 €")) is None
    broken = of("caf\ufffd na\ufffdve")
    assert ReplacementShare(PerLanguage(0.1)).reason_to_drop(broken) == "replacement_characters"
    assert ReplacementShare(PerLanguage(0.3)).reason_to_drop(broken) is None


def test_each_language_has_its_limit_on_documents_and_sides():
    letters = LetterShare(PerLanguage(0.8, {"zh": 0.3}))
    text = "1984年共3户"
    assert letters.reason_to_drop(of(text)) == "few_letters"
    assert letters.reason_to_drop(of(text, "zh")) is None
    assert letters.reason_to_drop(Pair(("en", "zh"), "three homes", text)) is None
    assert letters.reason_to_drop(Pair(("zh", "en"), text, text)) == "few_letters"


def test_the_table_of_kinds_covers_every_code_point():
    table = character_kinds()
    assert len(table) == 0x110000
    assert int(np.max(table)) < kinds.NUM_KINDS
