"""Hashes of spans of text that don't see case, punctuation, white space or width.

A text is read in two ways. In words, for scripts that put spaces between them: a word is a run of
letters, marks and digits. In characters, for Chinese, Japanese, Thai and other scripts that don't.
A span is some tokens in a row; its hash depends on the tokens, their number and the way of reading.

The hashes are polynomials modulo 2^64, taken from prefix sums: that of tokens i to j is
(P[j] - P[i]) * B^-i, so that all spans of one length cost four passes over an array, and a text of
any length a fixed number of calls of NumPy.
"""

from __future__ import annotations

import sys
import unicodedata
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
import numpy.typing as npt

from megaxlm_data.document import code_points, count_unspaced

Hashes = npt.NDArray[np.uint64]
Way = Literal["words", "characters"]
# How much a character says differs: 30 of Chinese are a sentence, 30 letters of Thai a phrase.
Reading = Literal["words", "ideographs", "syllables"]
WAYS: dict[Reading, Way] = {
    "words": "words",
    "ideographs": "characters",
    "syllables": "characters",
}

_SPACE, _LETTER, _UNSPACED, _SENTENCE_END, _IGNORED = range(5)
_SENTENCE_ENDS = "\n.!?;:…。！？；：｡؟؛۔।॥၊။።៕。"
# Not seen at all: Arabic vowel signs and tatweel, Hebrew points, which one text has and another
# not, and apostrophes, so that `don't` is one word, whichever of them it's written with.
_APOSTROPHES = "'\u2018\u2019\u02bc\u0060\u00b4"
_IGNORED_RANGES = ((0x0591, 0x05BD), (0x0610, 0x061A), (0x0640, 0x0640), (0x064B, 0x065F))
_UNSPACED_SHARE = 0.3  # of the letters, from which on a text is read in characters

_FIRST_KANA = 0x3040
_LAST_LETTER = 0x32400  # beyond it there are tags and private use
_BLOCK = 16  # code points; every script has whole blocks

_CHARACTER_BASE = 0x9E3779B97F4A7C15  # odd, so that there is an inverse; else arbitrary
_TOKEN_BASE = 0xD6E8FEB86659FD93
_MIX = np.uint64(0xBF58476D1CE4E5B9)  # of SplitMix64
_LENGTH_SALT = 0x94D049BB133111EB
WAY_SALT: dict[Way, int] = {"words": 0x2545F4914F6CDD1D, "characters": 0x5851F42D4C957F2D}


@dataclass(frozen=True)
class Tokens:
    """A text as tokens.

    Attributes:
        way: `words` or `characters`.
        hashes: Of each token, (tokens,).
        begins: Whether a sentence or line begins with it, (tokens,).
        ends: Whether one ends with it, (tokens,).
        first: Where it begins in the folded text, (tokens,), characters.
        last: Where it ends, exclusive, (tokens,).
    """

    way: Way
    hashes: Hashes
    begins: npt.NDArray[np.bool_]
    ends: npt.NDArray[np.bool_]
    first: npt.NDArray[np.int64]
    last: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.hashes)


def fold(text: str) -> str:
    """Returns a text without its case and in NFKC; newlines stay where they are."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return text.casefold()


def has_unspaced(text: str) -> bool:
    """Tells whether a text has any character of a script without spaces."""
    return count_unspaced(text) > 0


def reading_of(text: str) -> Reading:
    """Tells how a text as a whole is to be read."""
    unspaced = count_unspaced(text)
    if not unspaced:
        return "words"
    found = kinds()[code_points(text)]
    letters = np.count_nonzero((found == _LETTER) | (found == _UNSPACED))
    if unspaced <= _UNSPACED_SHARE * letters:
        return "words"
    later = np.count_nonzero(code_points(text) >= _FIRST_KANA)  # Thai, Burmese, ... come before
    return "ideographs" if 2 * later > unspaced else "syllables"


def read_words(folded: str) -> Tokens:
    """Reads a folded text in words."""
    points, seen, places = _visible(folded)
    letters = (seen == _LETTER) | (seen == _UNSPACED)
    edges = np.flatnonzero(np.diff(letters.view(np.int8), prepend=0, append=0))
    first, last = edges[::2], edges[1::2]
    sums = _prefix_sums(points.astype(np.uint64), _CHARACTER_BASE)
    hashes = _between(sums, first, last, _CHARACTER_BASE)
    stops = np.concatenate([[0], np.cumsum(seen == _SENTENCE_END)])
    ends = np.ones(len(first), np.bool_)
    ends[:-1] = stops[first[1:]] > stops[last[:-1]]
    return _tokens("words", hashes, ends, first, last, places)


def read_characters(folded: str) -> Tokens:
    """Reads a folded text in characters; a sentence ends at any space or punctuation."""
    points, seen, places = _visible(folded)
    first = np.flatnonzero((seen == _LETTER) | (seen == _UNSPACED))
    ends = np.ones(len(first), np.bool_)
    ends[:-1] = np.diff(first) > 1
    return _tokens("characters", points[first].astype(np.uint64), ends, first, first + 1, places)


def _tokens(
    way: Way,
    hashes: Hashes,
    ends: npt.NDArray[np.bool_],
    first: npt.NDArray[np.int64],
    last: npt.NDArray[np.int64],
    places: npt.NDArray[np.int64] | None,
) -> Tokens:
    begins = np.ones(len(hashes), np.bool_)
    begins[1:] = ends[:-1]
    if places is not None and len(first):
        first, last = places[first], places[last - 1] + 1
    return Tokens(way, _mixed(hashes), begins, ends, first, last)


class Spans:
    """The hashes of spans of tokens."""

    def __init__(self, tokens: Tokens) -> None:
        self._sums = _prefix_sums(tokens.hashes, _TOKEN_BASE)
        self._way = WAY_SALT[tokens.way]

    def hashes(self, starts: npt.NDArray[np.int64], length: int) -> Hashes:
        """Returns the hashes of the spans of `length` tokens that begin at `starts`."""
        raw = _between(self._sums, starts, starts + length, _TOKEN_BASE)
        return _mixed(raw ^ np.uint64((self._way + length * _LENGTH_SALT) % (1 << 64)))


def _visible(
    folded: str,
) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint8], npt.NDArray[np.int64] | None]:
    """Returns code points and their kinds, and their places if some were left out."""
    points = code_points(folded)
    found = kinds()[points]
    if not (found == _IGNORED).any():
        return points, found, None
    places = np.flatnonzero(found != _IGNORED)
    return points[places], found[places], places


@cache
def kinds() -> npt.NDArray[np.uint8]:
    """Returns what each code point is, (code points,)."""
    table = np.zeros(sys.maxunicode + 1, np.uint8)
    for start in range(0, _LAST_LETTER, _BLOCK):
        block = "".join(map(chr, range(start, start + _BLOCK)))
        letter = _UNSPACED if not 0xD800 <= start < 0xE000 and has_unspaced(block) else _LETTER
        for point, character in enumerate(block, start):
            category = unicodedata.category(character)
            if category[0] in "LMN":
                table[point] = letter
            elif category == "Cf":
                table[point] = _IGNORED
    table[0xE0000:0xE0200] = _IGNORED  # tags, variation selectors
    table[code_points(_SENTENCE_ENDS)] = _SENTENCE_END
    table[code_points(_APOSTROPHES)] = _IGNORED
    for first, last in _IGNORED_RANGES:
        table[first : last + 1] = _IGNORED
    return table


def _mixed(hashes: Hashes) -> Hashes:
    """Spreads every bit over all others (half of SplitMix64's finisher)."""
    hashes = hashes ^ (hashes >> np.uint64(31))
    hashes *= _MIX
    hashes ^= hashes >> np.uint64(29)
    return hashes


def _prefix_sums(values: Hashes, base: int) -> Hashes:
    """Returns sums of values[k] * base^k over k < i, for i from 0 to the number of values."""
    sums = np.zeros(len(values) + 1, np.uint64)
    np.cumsum(values * _powers(base, len(values)), out=sums[1:])
    return sums


def _between(
    sums: Hashes, first: npt.NDArray[np.int64], last: npt.NDArray[np.int64], base: int
) -> Hashes:
    """Returns the polynomials of the values from `first` to before `last`."""
    inverse = pow(base, -1, 1 << 64)
    result: Hashes = (sums[last] - sums[first]) * _powers(inverse, len(sums))[first]
    return result


_POWERS: dict[int, Hashes] = {}


def _powers(base: int, count: int) -> Hashes:
    """Returns at least `count` powers of a base modulo 2^64, from the zeroth on."""
    known = _POWERS.get(base)
    if known is None or len(known) < count:
        size = 1 << max(12, (count - 1).bit_length())
        known = np.full(size, base, np.uint64)
        known[0] = 1
        _POWERS[base] = known = np.cumprod(known)
    return known[:count]
