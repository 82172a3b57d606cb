"""What shows that the sides of a pair are no translations of each other."""

from __future__ import annotations

import re
import unicodedata

import regex

from megaxlm_data.document import Pair
from megaxlm_data.filters.base import Filter, PerLanguage

_NO_WORD = regex.compile(r"[\W_]+")  # `re` takes the vowel signs of India for no part of a word
_MIN_CONTAINED = 10  # characters; what is shorter, a name or a number, is part of many translations
# Digits with what groups them: 1,000.50 and 1.000,50 and 1 000,50 are the same number elsewhere.
_NUMBER = re.compile(r"(?:(?<!\d)\d{1,3}(?:[.,'’٬٫ ]\d{3}(?!\d))++|\d++)(?:[.,٫]\d++)?+")
_MIN_DIGITS = 2  # below, one side often has the word: "two"


def _bare(text: str) -> str:
    """Returns the letters and digits of a text, without case, as one string."""
    return str(_NO_WORD.sub("", text.casefold()))


class IdenticalSides(Filter[Pair]):
    """Drops pairs whose sides have the same letters and digits: nothing was translated."""

    def __init__(self, applies: PerLanguage[bool]) -> None:
        super().__init__()
        self._applies = applies

    def reason_to_drop(self, item: Pair) -> str | None:
        """Ignores case, spaces and punctuation."""
        if not self._applies.of_pair(item):
            return None
        same = _bare(item.source) == _bare(item.target)
        return "identical_sides" if same else None


class ContainedSide(Filter[Pair]):
    """Drops pairs of which one side stands whole inside the other, as when a page shows both."""

    def __init__(self, applies: PerLanguage[bool]) -> None:
        super().__init__()
        self._applies = applies

    def reason_to_drop(self, item: Pair) -> str | None:
        """Compares the text as it stands."""
        if not self._applies.of_pair(item):
            return None
        shorter, longer = sorted((item.source, item.target), key=len)
        contained = len(shorter) >= _MIN_CONTAINED and len(shorter) < len(longer)
        return "contained_side" if contained and shorter in longer else None


class NumberOverlap(Filter[Pair]):
    """Drops pairs whose numbers differ: a date or a price is the same in every language.

    Numbers of one digit don't count, being words in many a sentence; nor do separators, which
    differ by country. Digits of any script are compared by value.
    """

    def __init__(self, minimum: PerLanguage[float]) -> None:
        """Takes the limit.

        Args:
            minimum: The smallest share of numbers in both sides among those in either.
        """
        super().__init__()
        self._minimum = minimum

    def reason_to_drop(self, item: Pair) -> str | None:
        """Compares the sets of numbers; two sides without any agree."""
        minimum = self._minimum.of_pair(item)
        if minimum <= 0:
            return None
        source, target = _numbers(item.source), _numbers(item.target)
        either = source | target
        if either and len(source & target) < minimum * len(either):
            return "numbers_differ"
        return None


def _numbers(text: str) -> set[str]:
    found = set()
    for number in _NUMBER.findall(text):
        digits = "".join(str(unicodedata.decimal(c)) for c in number if c.isdecimal())
        if len(digits) >= _MIN_DIGITS:
            found.add(digits)
    return found
