"""The share of letters: menus, tables of numbers and binary noise have few."""

from __future__ import annotations

import string
import sys
import unicodedata
from functools import cache

import numpy as np
import numpy.typing as npt

from megaxlm_data.document import Document, Pair, code_points
from megaxlm_data.filters.base import Filter

_NOT_A_LETTER = bytes(set(range(128)) - set(string.ascii_letters.encode()))


@cache
def _letters() -> npt.NDArray[np.bool_]:
    """Returns, for every code point, whether it is a letter or a combining mark.

    Marks count because the vowels of the scripts of India are marks.
    """
    return np.fromiter(
        (unicodedata.category(chr(point))[0] in "LM" for point in range(sys.maxunicode + 1)),
        dtype=np.bool_,
        count=sys.maxunicode + 1,
    )


def letter_share(text: str) -> float:
    """Returns the letters and marks of a text over its characters other than spaces."""
    if text.isascii():
        raw = text.encode()
        letters = len(raw.translate(None, _NOT_A_LETTER))
    else:
        letters = int(np.count_nonzero(_letters()[code_points(text)]))
    return letters / max(1, len(text) - text.count(" ") - text.count("\n"))


class LetterShare(Filter[Document]):
    """Drops documents with too small a share of letters."""

    def __init__(self, minimum: float) -> None:
        super().__init__()
        self._minimum = minimum

    def reason_to_drop(self, item: Document) -> str | None:
        """Compares the share over the whole document."""
        return "few_letters" if letter_share(item.text) < self._minimum else None


class PairLetterShare(Filter[Pair]):
    """Drops pairs of which one side has too small a share of letters."""

    def __init__(self, minimum: float) -> None:
        super().__init__()
        self._minimum = minimum

    def reason_to_drop(self, item: Pair) -> str | None:
        """Compares each side by itself."""
        sides = (item.source, item.target)
        return "few_letters" if any(letter_share(s) < self._minimum for s in sides) else None


class RepeatedLines(Filter[Document]):
    """Drops documents in which too many lines are copies of an earlier line."""

    def __init__(self, maximum_share: float) -> None:
        super().__init__()
        self._maximum = maximum_share

    def reason_to_drop(self, item: Document) -> str | None:
        """Counts lines, whatever their length."""
        repeated = 1 - len(set(item.lines)) / max(1, len(item.lines))
        return "repeated_lines" if repeated > self._maximum else None
