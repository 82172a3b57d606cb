"""A text as units: words, or characters where a script has no spaces between words.

Repetition is counted on them: two runs of units are the same text if their numbers are the same.
"""

from __future__ import annotations

import ctypes
import re
import sys
from collections import defaultdict
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from itertools import count
from typing import Any

import numpy as np
import numpy.typing as npt

from megaxlm_data import native
from megaxlm_data.document import UNSPACED_RANGES
from megaxlm_data.filters.kinds import Table, count_kinds

# How many characters of an unspaced script make a word: 1.5 in Chinese and 2 in Japanese; of Thai,
# Khmer and Burmese, whose vowels and tones are characters too, 4 to 5.
_SHORT_WORD, _LONG_WORD = 2, 4
_WORD, _SPACE, _SHORT, _LONG = range(4)  # the classes of characters

_UNSPACED = "".join(f"{chr(first)}-{chr(last)}" for first, last in UNSPACED_RANGES)
_CHARACTER_OR_WORD = re.compile(rf"[{_UNSPACED}]|[^\s{_UNSPACED}]++")


@dataclass(frozen=True, eq=False)
class Units:
    """The units of a text.

    Attributes:
        ids: The same number for the same unit, (units,): a hash of it.
        ends: The characters of the text up to the end of each unit, spaces left out, (units,).
        per_word: How many units a word has: 1, or more if most of the text has no spaces.
    """

    ids: npt.NDArray[np.uint64]
    ends: npt.NDArray[np.int64]
    per_word: int

    @cached_property
    def chars(self) -> int:
        """The characters of the text, spaces left out."""
        return int(self.ends[-1]) if len(self.ends) else 0

    @cached_property
    def addresses(self) -> tuple[int, int]:
        """Where `ids` and `ends` lie in memory: to ask an array takes as long as a short loop."""
        return self.ids.ctypes.data, self.ends.ctypes.data


@cache
def _classes() -> Table:
    """Returns the class of every code point, (code points,)."""
    table = np.full(sys.maxunicode + 1, _WORD, dtype=np.uint8)
    for first, last in UNSPACED_RANGES:
        is_short = 0x3000 <= first < 0xA000 or first >= 0xF900  # Han and kana
        table[first : last + 1] = _SHORT if is_short else _LONG
    table[[point for point in range(0x3001) if chr(point).isspace()]] = _SPACE
    return table


@cache
def _compiled() -> Any:
    if (library := native.load()) is None:
        return None
    function = library.megaxlm_units
    pointer = ctypes.c_void_p
    function.argtypes = [ctypes.c_char_p, ctypes.c_int64, pointer, pointer, pointer]
    function.restype = ctypes.c_int64
    return function


@lru_cache(maxsize=1)  # two filters ask for the same document
def units_of(text: str) -> Units:
    """Splits a text into its units."""
    per_word = 1
    if not text.isascii():
        counts = count_kinds(text, _classes())
        if 2 * (counts[_SHORT] + counts[_LONG]) > len(text):
            per_word = _SHORT_WORD if counts[_SHORT] > counts[_LONG] else _LONG_WORD
    if (function := _compiled()) is None:
        return _split(text, per_word)
    ids, ends = np.empty(len(text), dtype=np.uint64), np.empty(len(text), dtype=np.int64)
    addresses = ids.ctypes.data, ends.ctypes.data
    number = function(text.encode("utf-32-le"), len(text), _classes_address(), *addresses)
    return Units(ids[:number], ends[:number], per_word)


@cache
def _classes_address() -> int:
    return int(_classes().ctypes.data)


def _split(text: str, per_word: int) -> Units:
    """Does without a compiler what `megaxlm_units` does, with other hashes."""
    words = _CHARACTER_OR_WORD.findall(text)
    numbers: defaultdict[str, int] = defaultdict(count(1).__next__)
    ids = np.fromiter(map(numbers.__getitem__, words), dtype=np.uint64, count=len(words))
    lengths = np.fromiter(map(len, words), dtype=np.int64, count=len(words))
    # a Weyl sequence and a shift: consecutive numbers become independent
    ids *= np.uint64(0x9E3779B97F4A7C15)
    ids ^= ids >> np.uint64(32)
    return Units(ids, np.cumsum(lengths), per_word)
