"""What kinds of characters a text is made of: tables, noise and pictures have few letters.

Shares are of the characters other than spaces. A document's are counted once, for all filters.
"""

from __future__ import annotations

import sys
import unicodedata
from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np

from megaxlm_data.filters.base import PerLanguage, T, TextFilter
from megaxlm_data.filters.kinds import Table, count_kinds

# Marks are counted with the letters because the vowels of the scripts of India are marks.
_KINDS = {"L": 1, "M": 1, "N": 2, "S": 3, "Z": 4}
_OTHER, LETTER, _DIGIT, _SYMBOL, _SPACE, _REPLACEMENT = range(6)


@cache
def character_kinds() -> Table:
    """Returns the kind of every code point, (code points,)."""
    table = np.fromiter(
        (_KINDS.get(unicodedata.category(chr(p))[0], _OTHER) for p in range(sys.maxunicode + 1)),
        dtype=np.uint8,
        count=sys.maxunicode + 1,
    )
    table[ord("\n")] = _SPACE
    table[0xFFFD] = _REPLACEMENT
    return table


@dataclass(frozen=True, slots=True)
class CharacterCounts:
    """How many characters of each kind a text has."""

    total: int  # without spaces
    letters: int  # with combining marks
    digits: int  # of any script, with fractions and Roman numerals
    symbols: int
    replacements: int  # U+FFFD

    def share(self, count: int) -> float:
        """Returns a count over all characters that are no spaces."""
        return count / max(1, self.total)


@lru_cache(maxsize=2)  # several filters ask for the same document, or sides of a pair
def count_characters(text: str) -> CharacterCounts:
    """Counts the characters of a text by kind."""
    counts = count_kinds(text, character_kinds())
    return CharacterCounts(
        len(text) - counts[_SPACE],
        counts[LETTER],
        counts[_DIGIT],
        counts[_SYMBOL],
        counts[_REPLACEMENT],
    )


def letter_share(text: str) -> float:
    """Returns the letters and marks of a text over its characters other than spaces."""
    counts = count_characters(text)
    return counts.share(counts.letters)


class LetterShare(TextFilter[T]):
    """Drops text with too small a share of letters."""

    def __init__(self, minimum: PerLanguage[float]) -> None:
        super().__init__()
        self._minimum = minimum

    def reason_against(self, text: str, lang: str) -> str | None:
        """Compares the share over the whole text."""
        return "few_letters" if letter_share(text) < self._minimum[lang] else None


class DigitShare(TextFilter[T]):
    """Drops text with too large a share of digits: tables, logs, price lists."""

    def __init__(self, maximum: PerLanguage[float]) -> None:
        super().__init__()
        self._maximum = maximum

    def reason_against(self, text: str, lang: str) -> str | None:
        """Compares the share over the whole text."""
        counts = count_characters(text)
        return "many_digits" if counts.share(counts.digits) > self._maximum[lang] else None


class SymbolShare(TextFilter[T]):
    """Drops text with too large a share of symbols: formulas, currencies, pictures, box drawing."""

    def __init__(self, maximum: PerLanguage[float]) -> None:
        super().__init__()
        self._maximum = maximum

    def reason_against(self, text: str, lang: str) -> str | None:
        """Compares the share over the whole text."""
        counts = count_characters(text)
        return "many_symbols" if counts.share(counts.symbols) > self._maximum[lang] else None


class ReplacementShare(TextFilter[T]):
    """Drops text that was decoded wrongly: with many U+FFFD for what could not be decoded."""

    def __init__(self, maximum: PerLanguage[float]) -> None:
        super().__init__()
        self._maximum = maximum

    def reason_against(self, text: str, lang: str) -> str | None:
        """Compares the share over the whole text."""
        counts = count_characters(text)
        share = counts.share(counts.replacements)
        return "replacement_characters" if share > self._maximum[lang] else None
