"""What flows through the build: a document of one language or a pair of two, and its normal form.

The text of a document is its lines joined by a newline; the tokenizer sees them joined by a space
(SentencePiece folds a newline into a space anyway). Lines are kept apart until then because
filters and the sampling of sentences for the tokenizer need them.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Literal, final

import numpy as np
import numpy.typing as npt
import xxhash

Normalization = Literal["nfkc", "nfc", "none"]

# What is taken out of text: it cannot be seen, or it means nothing without a font or a machine, and
# the same word with and without it would become two.
_REMOVED_RANGES = (
    # control characters but those Python counts as white space, which become a space
    *((0x00, 0x08), (0x0E, 0x1B), (0x7F, 0x84), (0x86, 0x9F)),
    (0xAD, 0xAD),  # soft hyphen
    (0x034F, 0x034F),  # combining grapheme joiner: it only orders accents for old Hebrew
    (0x200B, 0x200B),  # zero-width space
    # marks of direction: they lay out a line, which no encoder sees, and hide a word from its twin
    *((0x061C, 0x061C), (0x200E, 0x200F), (0x202A, 0x202E), (0x2066, 0x206F)),
    (0x2060, 0x2065),  # word joiner, invisible operators
    # variation selectors: which of two pictures of the same character is shown
    *((0xFE00, 0xFE0F), (0xE0100, 0xE01EF)),
    (0xFEFF, 0xFEFF),  # byte order mark
    *((0xFFF9, 0xFFFC), (0xE0000, 0xE007F)),  # annotations, objects, invisible tags
    *((0xE000, 0xF8FF), (0xF0000, 0x10FFFF)),  # private use: icons of a font, mostly
    *((0xFDD0, 0xFDEF), (0xFFFE, 0xFFFF)),  # no characters
)
_SURROGATES = (0xD800, 0xDFFF)  # half a character, from a broken JSON escape
_REMOVED = re.compile(f"[{''.join(f'{chr(a)}-{chr(b)}' for a, b in _REMOVED_RANGES)}]+")
_REMOVED_ASCII = re.compile("[\x00-\x08\x0e-\x1b\x7f]+")
_SURROGATE = re.compile("[\ud800-\udfff]")

# U+200C and U+200D stay where spelling needs them, after a letter of these scripts (Persian, the
# scripts of India, Mongolian) or inside a picture; after any other character they are noise.
_JOINED = (
    "\u0600-\u109f\u1700-\u18af\u1900-\u1cff\ua840-\uabff\U00010a00-\U00010fff\U00011000-\U00011fff"
)
_PICTURES = "\u2190-\u2bff\U0001f000-\U0001faff"
_STRAY_JOINER = re.compile(f"[\u200c\u200d](?<![{_JOINED}{_PICTURES}].)")
_FORMS: dict[Normalization, Literal["NFKC", "NFC"]] = {"nfkc": "NFKC", "nfc": "NFC"}

# Scripts written without spaces between words, as ranges of code points: Thai and Lao, Tibetan,
# Myanmar, Khmer, New Tai Lue, Tai Tham, kana, Han, Javanese, Tai Viet, Han with its extensions.
UNSPACED_RANGES = (
    (0x0E00, 0x0EFF),
    (0x0F00, 0x0FFF),
    (0x1000, 0x109F),
    (0x1780, 0x17FF),
    (0x1980, 0x19DF),
    (0x1A20, 0x1AAF),
    (0x3040, 0x30FF),
    (0x3400, 0x9FFF),
    (0xA980, 0xA9DF),
    (0xAA80, 0xAADF),
    (0xF900, 0xFAFF),
    (0x20000, 0x3FFFF),
)


@final
@dataclass(frozen=True)
class Document:
    """A document of one language, normalised: lines without an empty one."""

    lang: str
    lines: tuple[str, ...]

    @cached_property
    def text(self) -> str:
        """The text that is encoded and hashed."""
        return " ".join(self.lines)


@final
@dataclass(frozen=True, slots=True)
class Pair:
    """A sentence and its translation, normalised."""

    langs: tuple[str, str]
    source: str
    target: str


def normalize_line(line: str, form: Normalization) -> str:
    """Returns a line in its normal form: Unicode form, no invisible characters, single spaces."""
    return _single_spaces(_normalize_form(_remove_invisible(line), form))


def normalize_lines(text: str, form: Normalization) -> tuple[str, ...]:
    """Returns the normalised lines of a document, empty ones left out.

    A carriage return without a newline is white space and ends no line, like every character but
    the newline.

    Args:
        text: Lines joined by a newline.
        form: The Unicode normal form.
    """
    lines = _remove_invisible(text).split("\n")
    # line by line: most lines are in normal form, which is cheaper to see than to make again
    clean = (_single_spaces(_normalize_form(line, form)) for line in lines)
    return tuple(line for line in clean if line)


def _remove_invisible(text: str) -> str:
    if text.isascii():
        return _REMOVED_ASCII.sub("", text)
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    if np.take(_suspicious(), points, mode="clip").any():  # far faster than a search for a class
        text = _SURROGATE.sub("\ufffd", _REMOVED.sub("", text))
    return text


def _normalize_form(line: str, form: Normalization) -> str:
    if line.isascii():
        return line
    line = line if form == "none" else unicodedata.normalize(_FORMS[form], line)
    if "\u200c" in line or "\u200d" in line:
        kept = _STRAY_JOINER.sub("", line)
        if kept != line:  # a letter and its accent may have been kept apart
            return kept if form == "none" else unicodedata.normalize(_FORMS[form], kept)
    return line


@cache
def _suspicious() -> npt.NDArray[np.bool_]:
    """Returns, for each code point, whether it is removed or replaced."""
    table = np.zeros(sys.maxunicode + 1, dtype=np.bool_)
    for first, last in (*_REMOVED_RANGES, _SURROGATES):
        table[first : last + 1] = True
    return table


def _single_spaces(line: str) -> str:
    if "  " not in line and line.isprintable():  # of white space, only a space is printable
        return line.strip(" ")
    return " ".join(line.split())


def document_id(text: str) -> int:
    """Returns XXH3-64 of a normalised text."""
    return xxhash.xxh3_64_intdigest(text.encode())


def pair_id(source: str, target: str) -> int:
    """Returns XXH3-64 of a pair, the same in both directions.

    So a pair is a duplicate of itself with the sides swapped, and `en-fr` and `fr-en` built from
    the same file agree on what is validation.
    """
    first, second = sorted((source, target))
    return xxhash.xxh3_64_intdigest(first.encode() + b"\n" + second.encode())


def code_points(text: str) -> npt.NDArray[np.uint32]:
    """Returns the code points of a text, (characters,)."""
    return np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)


def count_unspaced(text: str) -> int:
    """Counts the characters of scripts that are written without spaces between words."""
    if text.isascii():
        return 0
    table = unspaced_table()
    return int(np.count_nonzero(table[np.minimum(code_points(text), len(table) - 1)]))


@cache
def unspaced_table() -> npt.NDArray[np.bool_]:
    """Returns, for each code point up to the last such script, whether it belongs to one."""
    table = np.zeros(UNSPACED_RANGES[-1][1] + 2, dtype=np.bool_)
    for first, last in UNSPACED_RANGES:
        table[first : last + 1] = True
    return table
