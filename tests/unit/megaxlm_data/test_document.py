import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from megaxlm_data.document import (
    Document,
    count_unspaced,
    document_id,
    normalize_line,
    normalize_lines,
    pair_id,
)


@given(st.text(), st.sampled_from(["nfkc", "nfc", "none"]))
def test_normalization_is_idempotent(text, form):
    lines = normalize_lines(text, form)
    assert normalize_lines("\n".join(lines), form) == lines
    assert all(line and line == line.strip() and "  " not in line for line in lines)


@given(st.text())
def test_no_control_or_invisible_character_is_left(text):
    for character in normalize_line(text, "nfkc"):
        assert unicodedata.category(character) != "Cc"
        assert character not in "\xad\u200b\ufeff"


def test_joiners_of_persian_and_hindi_stay():
    assert normalize_line("می\u200cخواهم", "nfkc") == "می\u200cخواهم"
    assert normalize_line("क\u094d\u200dष", "nfkc") == "क\u094d\u200dष"


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("a\u00a0b", "a b"),
        ("a\u2028b\u0085c", "a b c"),
        ("a\r", "a"),
        ("\ufeffa\u200bb\u00adc", "abc"),
        ("\ufb01ne \uff21", "fine A"),
        ("a\x00\x1bb", "ab"),
    ],
)
def test_what_becomes_of_odd_characters(raw, clean):
    assert normalize_line(raw, "nfkc") == clean


def test_form_none_keeps_compatibility_characters():
    assert normalize_line("\ufb01", "none") == "\ufb01"
    assert normalize_line("e\u0301", "nfc") == "é"
    assert normalize_line("\ufb01", "nfc") == "\ufb01"


def test_removed_characters_do_not_hide_a_composition():
    assert normalize_line("e\u200b\u0301", "nfkc") == "é"


def test_a_document_is_hashed_as_it_is_encoded():
    assert Document("en", ("a b", "c")).text == "a b c"
    assert document_id("a b c") == document_id(Document("en", ("a", "b c")).text)


def test_a_pair_has_one_id_in_both_directions():
    assert pair_id("house", "Haus") == pair_id("Haus", "house")
    assert pair_id("ab", "c") != pair_id("a", "bc")


def test_scripts_without_spaces_are_recognised():
    assert count_unspaced("你好 abc") == 2
    assert count_unspaced("สวัสดี") == 6
    assert count_unspaced("한국어 हिन्दी русский") == 0
