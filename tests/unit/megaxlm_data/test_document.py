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

# what normal forms and invisible characters do to each other shows when they stand together
AWKWARD = st.text(
    st.sampled_from("aé\u0301\u0327 \n\r\t\u00a0\u200b\u200c\u200d\u200e\ufe0f\ufb01①가ᄀ\u1161")
    | st.sampled_from("می\u0654क\u094dष\u093c❤🔥\u034f\ue000\ufffd\ud83d\udd25\U000e0061\u3000")
)


@given(st.text() | AWKWARD, st.sampled_from(["nfkc", "nfc", "none"]))
def test_normalization_is_idempotent(text, form):
    lines = normalize_lines(text, form)
    assert normalize_lines("\n".join(lines), form) == lines
    assert tuple(normalize_line(line, form) for line in lines) == lines
    assert all(line and line == line.strip() and "  " not in line for line in lines)


@given(st.text() | AWKWARD)
def test_no_control_or_invisible_character_is_left(text):
    line = normalize_line(text, "nfkc")
    assert line.encode().decode() == line  # no half of a surrogate pair
    for character in line:
        assert unicodedata.category(character) not in ("Cc", "Co", "Cs", "Zl", "Zp")
        assert character not in "\xad\u200b\u200e\u200f\u2066\ufe0f\ufeff"


@pytest.mark.parametrize(
    "word",
    [
        "می\u200cخواهم",  # Persian
        "क\u094d\u200dष",  # Hindi
        "ക\u0d4d\u200d",  # Malayalam
        "ක\u0dca\u200dර",  # Sinhala
        "ᠨ\u180eᠠ",  # Mongolian, a vowel apart
        "👩\u200d🚀",
    ],
)
def test_joiners_stay_where_they_spell(word):
    for form in ("nfkc", "nfc", "none"):
        assert normalize_line(word, form) == word


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("wa\u200dter \u200cmill", "water mill"),
        ("水\u200d车", "水车"),
        ("می\u200c\u200cخواهم", "می\u200cخواهم"),
        ("e\u200d\u0301", "é"),  # nothing keeps the accent from its letter
    ],
)
def test_joiners_go_where_they_are_noise(raw, clean):
    assert normalize_line(raw, "nfkc") == clean


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("a\u00a0b", "a b"),
        ("a\u2028b\u0085c", "a b c"),
        ("a\r", "a"),
        ("\ufeffa\u200bb\u00adc", "abc"),
        ("\ufb01ne \uff21", "fine A"),
        ("a\x00\x1bb", "ab"),
        ("a\rb", "a b"),  # no end of a line
        ("\u202bשלום\u202c\u200f", "שלום"),
        ("1\u2060\u206f2", "12"),
        ("❤\ufe0f", "❤"),
        ("葛\U000e0100", "葛"),
        ("\ue001 \uf8ffa\U000f0001", "a"),
        ("a\ufff9b\ufffcc", "abc"),
        ("x\ufdd0\uffff", "x"),
        ("\U0001f3f4\U000e0067\U000e007f", "\U0001f3f4"),
        ("caf\ufffd", "caf\ufffd"),  # a filter counts these
        ("\ud83d", "\ufffd"),
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
