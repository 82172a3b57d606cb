"""What flows through the build: a document of one language or a pair of two, and its normal form.

The text of a document is its lines joined by a newline; the tokenizer sees them joined by a space
(SentencePiece folds a newline into a space anyway). Lines are kept apart until then because
filters and the sampling of sentences for the tokenizer need them.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
import numpy.typing as npt
import xxhash

Normalization = Literal["nfkc", "nfc", "none"]

# Control characters but those Python counts as white space (they become a space), the soft hyphen,
# the zero-width space and the byte order mark. U+200C and U+200D stay: Persian and the scripts of
# India spell with them.
_REMOVED = re.compile("[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\xad\u200b\ufeff]+")
_FORMS: dict[Normalization, Literal["NFKC", "NFC"]] = {"nfkc": "NFKC", "nfc": "NFC"}

# Scripts written without spaces between words, as ranges of code points: Thai and Lao, Tibetan,
# Myanmar, Khmer, kana, Han with its extensions.
_UNSPACED_RANGES = (
    (0x0E00, 0x0EFF),
    (0x0F00, 0x0FFF),
    (0x1000, 0x109F),
    (0x1780, 0x17FF),
    (0x3040, 0x30FF),
    (0x3400, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x3FFFF),
)


@dataclass(frozen=True, slots=True)
class Document:
    """A document of one language, normalised: lines without an empty one."""

    lang: str
    lines: tuple[str, ...]

    @property
    def text(self) -> str:
        """The text that is encoded and hashed."""
        return " ".join(self.lines)


@dataclass(frozen=True, slots=True)
class Pair:
    """A sentence and its translation, normalised."""

    langs: tuple[str, str]
    source: str
    target: str


def normalize_line(line: str, form: Normalization) -> str:
    """Returns a line in its normal form: Unicode form, no invisible characters, single spaces."""
    return " ".join(_normalize_characters(line, form).split())


def normalize_lines(text: str, form: Normalization) -> tuple[str, ...]:
    """Returns the normalised lines of a document, empty ones left out.

    Args:
        text: Lines joined by a newline.
        form: The Unicode normal form.
    """
    # one call for the whole document: no normal form makes or moves a newline
    lines = (" ".join(line.split()) for line in _normalize_characters(text, form).split("\n"))
    return tuple(line for line in lines if line)


def _normalize_characters(text: str, form: Normalization) -> str:
    text = _REMOVED.sub("", text) if _REMOVED.search(text) else text
    if form == "none" or text.isascii():
        return text
    return unicodedata.normalize(_FORMS[form], text)


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
    table = np.zeros(_UNSPACED_RANGES[-1][1] + 2, dtype=np.bool_)
    for first, last in _UNSPACED_RANGES:
        table[first : last + 1] = True
    return table
