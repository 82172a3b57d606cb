"""The shingles of a document: what two documents are compared by.

Characters are folded first: upper and lower case are one, a run of digits is one `0`, marks stay
(they spell vowels), punctuation, symbols and white space part words, invisible characters are
dropped. What is left makes words, or, where more than `UNSPACED_ABOVE` of it is of scripts without
spaces between words, single characters: words would be whole clauses there. A shingle is a run of
so many of them, a document with fewer is one shingle. It is known by 32 bits of a hash.

The loop of the compiled way is `csrc/minhash.cpp`; `shingle_hashes` gives the same numbers.
"""

from __future__ import annotations

import unicodedata
from functools import cache

import numpy as np
import numpy.typing as npt

from megaxlm_data.document import unspaced_table

UNSPACED_ABOVE = 0.3  # share of letters: Chinese text full of English names stays Chinese
DROPPED, SEPARATOR, DIGIT = 0, 1, ord("0")
UNSPACED_FLAG = 1 << 31
_TABLE_SIZE = 0x40000  # the planes above hold tags, variation selectors and private use: dropped
_BASE = 0x9E3779B97F4A7C15  # odd, so that it has an inverse
_INVERSE = pow(_BASE, -1, 1 << 64)
_INVISIBLE = ("Cc", "Cf", "Cn", "Co", "Cs")

Numbers = npt.NDArray[np.uint64]


@cache
def folding_table() -> npt.NDArray[np.uint32]:
    """Returns what becomes of each code point, (code points,): see `csrc/minhash.cpp`."""
    table = np.full(_TABLE_SIZE, SEPARATOR, np.uint32)
    for point in range(_TABLE_SIZE):
        character = chr(point)
        category = unicodedata.category(character)
        if category[0] in "LM":
            folded = character.casefold()
            folded = folded if len(folded) == 1 else character.lower()
            table[point] = ord(folded) if len(folded) == 1 else point
        elif category == "Nd":
            table[point] = DIGIT
        elif category[0] == "N":
            table[point] = point
        elif category in _INVISIBLE and not character.isspace():
            table[point] = DROPPED
    unspaced = np.zeros(_TABLE_SIZE, np.bool_)
    known = unspaced_table()[:_TABLE_SIZE]
    unspaced[: len(known)] = known
    table[unspaced & (table > DIGIT)] |= np.uint32(UNSPACED_FLAG)
    return table


def mixed(x: Numbers) -> Numbers:
    """The finalizer of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def shingle_hashes(
    text: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int64], words: int, characters: int
) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64]]:
    """Hashes the shingles of documents, in NumPy.

    Args:
        text: UTF-8 bytes; document i is text[offsets[i]:offsets[i + 1]].
        offsets: (documents + 1,)
        words: Words of a shingle.
        characters: Characters of a shingle, for scripts without spaces.

    Returns:
        Hashes, (shingles,), and the document of each, ascending.
    """
    documents = len(offsets) - 1
    letters, of = _letters(text, offsets)
    counts = [
        np.bincount(of[mask], minlength=documents)
        for mask in (letters >= np.uint32(UNSPACED_FLAG), letters != SEPARATOR)
    ]
    by_character = counts[0] > UNSPACED_ABOVE * counts[1]
    letters = letters & ~np.uint32(UNSPACED_FLAG)
    parts = []
    single = by_character[of]
    tokens, owners = _character_tokens(letters[single], of[single])
    parts.append(_windows(tokens, owners, characters))
    tokens, owners = _word_tokens(letters[~single], of[~single])
    parts.append(_windows(tokens, owners, words))
    hashes, owners = (np.concatenate(each) for each in zip(*parts, strict=True))
    order = np.argsort(owners, kind="stable")
    return hashes[order], owners[order]


def _letters(
    text: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64]]:
    """Returns folded characters, each document ending with a separator, and their documents."""
    starts = np.flatnonzero((text & 0xC0) != 0x80)  # of each character
    points = np.frombuffer(text.tobytes().decode().encode("utf-32-le"), np.uint32)
    ends = np.searchsorted(starts, offsets[1:])  # in characters
    table = folding_table()
    inside = points < len(table)
    folded = np.where(inside, table[np.where(inside, points, 0)], np.uint32(DROPPED))
    letters = np.insert(folded, ends, np.uint32(SEPARATOR))
    lengths = np.diff(ends, prepend=0) + 1
    of = np.repeat(np.arange(len(lengths)), lengths)
    kept = letters != DROPPED
    letters, of = letters[kept], of[kept]
    digit = letters == DIGIT
    kept = ~digit
    kept[1:] |= ~digit[:-1]
    kept[:1] = True
    return letters[kept], of[kept]


def _character_tokens(
    letters: npt.NDArray[np.uint32], of: npt.NDArray[np.int64]
) -> tuple[Numbers, npt.NDArray[np.int64]]:
    kept = letters != SEPARATOR
    return mixed(letters[kept].astype(np.uint64)), of[kept]


def _word_tokens(
    letters: npt.NDArray[np.uint32], of: npt.NDArray[np.int64]
) -> tuple[Numbers, npt.NDArray[np.int64]]:
    """Hashes words: the polynomial of a word is a difference of two running sums."""
    inside = np.concatenate([[False], letters != SEPARATOR, [False]])
    edges = np.flatnonzero(inside[1:] != inside[:-1])
    starts, ends = edges[::2], edges[1::2]
    falling, rising = _powers(_INVERSE, len(letters)), _powers(_BASE, len(letters))
    sums = np.zeros(len(letters) + 1, np.uint64)
    np.cumsum(letters * falling, out=sums[1:])
    return mixed((sums[ends] - sums[starts]) * rising[ends - 1]), of[starts]


def _powers(base: int, count: int) -> Numbers:
    powers = np.full(count, base, np.uint64)
    powers[:1] = 1
    return np.cumprod(powers)


def _windows(
    tokens: Numbers, of: npt.NDArray[np.int64], size: int
) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64]]:
    """Hashes every run of `size` tokens inside a document, or all tokens of a shorter one."""
    base = np.uint64(_BASE)
    hashes, count = tokens.copy(), len(tokens)
    whole = np.ones(count, np.bool_)
    for k in range(1, size):
        left = max(0, count - k)
        same = np.zeros(count, np.bool_)
        same[:left] = of[k:] == of[:left]
        following = np.zeros(count, np.uint64)
        following[:left] = tokens[k:]
        hashes = np.where(same, hashes * base + following, hashes)
        whole = same
    first = np.ones(count, np.bool_)
    first[1:] = of[1:] != of[:-1]
    kept = whole | first  # the first run of a short document is all of it
    return (mixed(hashes[kept]) >> np.uint64(32)).astype(np.uint32), of[kept]
