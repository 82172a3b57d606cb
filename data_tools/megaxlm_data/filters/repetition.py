"""Repetition: text that says the same again and again comes from machines and templates.

After Rae et al. 2021 (Gopher), section A.1.1 and table A1, with two changes. A document's lines are
its paragraphs, so that there is one rule for both. And in a script without spaces the n words of an
n-gram are n times as many characters as a word has there: otherwise every long word of Thai would
count as a repeated 5-gram.
"""

from __future__ import annotations

import ctypes
from abc import abstractmethod
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from megaxlm_data import native
from megaxlm_data.document import Document
from megaxlm_data.filters.base import Filter, PerLanguage
from megaxlm_data.filters.units import Units, units_of

_MULTIPLIER = np.uint64(0xD6E8FEB86659FD93)  # odd, so that it has an inverse modulo 2^64
_INVERSE = np.uint64(pow(0xD6E8FEB86659FD93, -1, 2**64))

Hashes = npt.NDArray[np.uint64]


class RepeatedLines(Filter[Document]):
    """Drops documents in which too many lines, or their characters, are copies of earlier lines."""

    def __init__(
        self, maximum_lines: PerLanguage[float], maximum_chars: PerLanguage[float]
    ) -> None:
        super().__init__()
        self._maximum_lines, self._maximum_chars = maximum_lines, maximum_chars

    def reason_to_drop(self, item: Document) -> str | None:
        """Counts a line from its second copy on."""
        different = set(item.lines)
        copies = len(item.lines) - len(different)
        if copies == 0:
            return None
        if copies > self._maximum_lines[item.lang] * len(item.lines):
            return "repeated_lines"
        chars = sum(map(len, item.lines))
        repeated = chars - sum(map(len, different))
        return "repeated_line_chars" if repeated > self._maximum_chars[item.lang] * chars else None


class _NgramShares(Filter[Document]):
    """Drops documents of which runs of n words make up too much, for some n."""

    def __init__(self, maximum: PerLanguage[Mapping[int, float]]) -> None:
        """Takes the limits.

        Args:
            maximum: For each n the largest share of characters, spaces left out.
        """
        super().__init__()
        self._maximum = maximum

    def reason_to_drop(self, item: Document) -> str | None:
        """Names the first n over its limit."""
        limits = self._maximum[item.lang]
        return self._first_over(units_of(item.text), limits) if limits else None

    @abstractmethod
    def _first_over(self, units: Units, limits: Mapping[int, float]) -> str | None: ...


class TopNgram(_NgramShares):
    """Drops documents of which one run of n words makes up too much."""

    def _first_over(self, units: Units, limits: Mapping[int, float]) -> str | None:
        for n, limit in sorted(limits.items()):
            if top_ngram_share(units, n) > limit:
                return f"top_{n}gram"
        return None


class RepeatedNgrams(_NgramShares):
    """Drops documents of which too much lies in runs of n words that were there before."""

    def _first_over(self, units: Units, limits: Mapping[int, float]) -> str | None:
        lowest = min(limits.values())
        for n, limit in sorted(limits.items()):
            share = repeated_ngram_share(units, n)
            if share > limit:
                return f"repeated_{n}grams"
            if share <= lowest:  # what longer runs cover, shorter ones cover as well
                return None
        return None


def top_ngram_share(units: Units, n: int) -> float:
    """Returns the share of characters in the n-gram that takes most of them.

    Args:
        units: The text.
        n: Words.

    Returns:
        Its length times how often it comes, over the length of the text; 0 if none comes twice.
        A run that overlaps itself, as in "ha ha ha", can take more than the whole.
    """
    length = n * units.per_word
    if len(units.ids) <= length:
        return 0.0
    if (library := _compiled()) is None:
        return _top_ngram_chars(units, length) / units.chars
    return _call(library.megaxlm_top_ngram, units, length) / units.chars


def repeated_ngram_share(units: Units, n: int) -> float:
    """Returns the share of characters in n-grams that were there before.

    Args:
        units: The text.
        n: Words.

    Returns:
        The characters of every copy but the first, each counted once, over those of the text.
    """
    length = n * units.per_word
    if len(units.ids) <= length:
        return 0.0
    if (library := _compiled()) is None:
        return _repeated_ngram_chars(units, length) / units.chars
    return _call(library.megaxlm_repeated_ngram, units, length) / units.chars


@cache
def _compiled() -> Any:
    if (library := native.load()) is None:
        return None
    for function in (library.megaxlm_top_ngram, library.megaxlm_repeated_ngram):
        function.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64]
        function.restype = ctypes.c_int64
    return library


def _call(function: Any, units: Units, length: int) -> int:
    return int(function(*units.addresses, len(units.ids), length))


# Without a compiler: the same by sorting the hashes of all runs.


def _top_ngram_chars(units: Units, length: int) -> int:
    hashes = _run_hashes(units.ids, length)
    order = np.argsort(hashes)
    starts = _group_starts(hashes[order])
    counts = np.diff(starts, append=len(order))
    several = counts > 1
    if not several.any():
        return 0
    first = order[starts[several]]
    before = np.concatenate(([0], units.ends))[first]
    return int(((units.ends[first + length - 1] - before) * counts[several]).max())


def _repeated_ngram_chars(units: Units, length: int) -> int:
    hashes = _run_hashes(units.ids, length)
    order = np.argsort(hashes)
    later = np.ones(len(order), dtype=np.bool_)
    later[np.minimum.reduceat(order, _group_starts(hashes[order]))] = False
    change = np.zeros(len(units.ids) + 1, dtype=np.int64)
    change[: len(later)] += later
    change[length : length + len(later)] -= later
    covered = np.cumsum(change[:-1]) > 0
    return int(np.diff(units.ends, prepend=0)[covered].sum())


def _group_starts(ranked: Hashes) -> npt.NDArray[np.int64]:
    """Returns where each value of a sorted array begins."""
    return np.flatnonzero(np.concatenate(([True], ranked[1:] != ranked[:-1])))


def _run_hashes(ids: Hashes, length: int) -> Hashes:
    """Returns a hash of each run of `length` units, (units - length + 1,).

    A polynomial in `_MULTIPLIER` modulo 2^64, from differences of prefix sums: the work does not
    grow with `length`.
    """
    powers, inverses = _powers(1 << len(ids).bit_length())
    sums = np.concatenate((np.zeros(1, np.uint64), np.cumsum(ids * powers[: len(ids)])))
    runs = len(ids) - length + 1
    hashes: Hashes = (sums[length:] - sums[:runs]) * inverses[:runs]
    return hashes


@cache
def _powers(size: int) -> tuple[Hashes, Hashes]:
    """Returns the powers 0, 1, 2, ... of the multiplier and of its inverse, (size,) each."""
    factors = np.full((2, size), 1, dtype=np.uint64)
    factors[0, 1:], factors[1, 1:] = _MULTIPLIER, _INVERSE
    powers = np.cumprod(factors, axis=1, dtype=np.uint64)
    return powers[0], powers[1]
