"""Finds the spans of a text that are in an index, in C++ or with NumPy; both find the same.

The index is a sorted array of hashes, with a bitmap before it: one bit for each value of the upper
bits of a hash, 32 or more bits a key, so that of 32 spans that aren't there 31 cost one look.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from megaxlm_data import native
from megaxlm_data.decontamination.spans import (
    WAY_SALT,
    Hashes,
    Spans,
    Tokens,
    Way,
    has_unspaced,
    kinds,
    read_characters,
    read_words,
)

_ROOM = 4_096  # spans that a search is given room for; if there are more, it is asked again
_BITS_PER_KEY = 32
_MAX_BITMAP_BITS = 33  # 1 GB
_NOTHING = np.zeros((0, 3), np.int64)


@dataclass(frozen=True)
class Lengths:
    """The length of n-grams and the lengths of shorter items, in tokens of a way of reading."""

    way: Way
    ngram: int
    items: tuple[int, ...]  # ascending, each below `ngram`


def make_bitmap(keys: Hashes) -> tuple[npt.NDArray[np.uint8], int]:
    """Returns the bitmap of some keys, and by how much a key is shifted to find its bit."""
    wanted = max(3, (max(1, len(keys)) * _BITS_PER_KEY - 1).bit_length())
    shift = 64 - min(_MAX_BITMAP_BITS, wanted)
    bits = np.zeros(1 << (64 - shift - 3), np.uint8)
    places = keys >> np.uint64(shift)
    np.bitwise_or.at(bits, places >> np.uint64(3), _mask(places))
    return bits, shift


def _mask(places: Hashes) -> npt.NDArray[np.uint8]:
    mask: npt.NDArray[np.uint8] = np.uint8(1) << (places & np.uint64(7)).astype(np.uint8)
    return mask


class Searcher:
    """Searches texts for the spans of an index.

    Args:
        keys: The hashes, sorted; a hash stands once for each evaluation set that has it.
        bits: Their bitmap.
        shift: That of the bitmap.
        lengths: What is looked for, in each way of reading.
    """

    def __init__(
        self,
        keys: Hashes,
        bits: npt.NDArray[np.uint8],
        shift: int,
        lengths: tuple[Lengths, ...],
    ) -> None:
        self._keys, self._bits, self._shift, self._lengths = keys, bits, shift, lengths
        self._native = _native_search(keys, bits, shift)
        self._items = [np.array(each.items, np.int64) for each in lengths]
        self._ways = list(map(_native_way, lengths, self._items))

    def find(self, folded: str) -> npt.NDArray[np.int64]:
        """Returns the spans that are in the index.

        Args:
            folded: A text as `fold` gives it.

        Returns:
            First character, last one exclusive and place of the first equal key, (spans, 3).
        """
        found = [
            self._find(folded, number)
            for number, lengths in enumerate(self._lengths)
            if lengths.way == "words" or not folded.isascii()
        ]
        if len(found) == 1:
            return found[0]
        return np.concatenate(found) if found else _NOTHING

    def _find(self, folded: str, number: int) -> npt.NDArray[np.int64]:
        if self._native is not None:
            return self._native(folded, self._ways[number])
        lengths = self._lengths[number]
        if lengths.way == "words":
            return self._find_tokens(read_words(folded), lengths)
        if has_unspaced(folded):
            return self._find_tokens(read_characters(folded), lengths)
        return _NOTHING

    def _find_tokens(self, tokens: Tokens, lengths: Lengths) -> npt.NDArray[np.int64]:
        spans = Spans(tokens)
        found = [
            self._look_up(tokens, spans, np.arange(len(tokens) - lengths.ngram + 1), lengths.ngram)
        ]
        begins = np.flatnonzero(tokens.begins)
        for length in lengths.items:
            starts = begins[begins + length <= len(tokens)]
            starts = starts[tokens.ends[starts + length - 1]]
            found.append(self._look_up(tokens, spans, starts, length))
        return np.concatenate(found)

    def _look_up(
        self, tokens: Tokens, spans: Spans, starts: npt.NDArray[np.int64], length: int
    ) -> npt.NDArray[np.int64]:
        if not len(starts):
            return _NOTHING
        hashes = spans.hashes(starts, length)
        places = hashes >> np.uint64(self._shift)
        maybe = np.flatnonzero(self._bits[places >> np.uint64(3)] & _mask(places))
        keys = np.searchsorted(self._keys, hashes[maybe])
        inside = keys < len(self._keys)
        maybe, keys = maybe[inside], keys[inside]
        equal = self._keys[keys] == hashes[maybe]
        starts, keys = starts[maybe[equal]], keys[equal]
        return np.stack([tokens.first[starts], tokens.last[starts + length - 1], keys], axis=1)


class _NativeIndex(ctypes.Structure):
    _fields_ = [
        ("keys", ctypes.c_void_p),
        ("num_keys", ctypes.c_int64),
        ("bits", ctypes.c_void_p),
        ("shift", ctypes.c_int32),
    ]


class _NativeWay(ctypes.Structure):
    _fields_ = [
        ("characters", ctypes.c_int32),
        ("salt", ctypes.c_uint64),
        ("ngram", ctypes.c_int64),
        ("lengths", ctypes.c_void_p),
        ("num_lengths", ctypes.c_int64),
    ]


def _native_way(lengths: Lengths, items: npt.NDArray[np.int64]) -> _NativeWay:
    """Returns the structure that points to `items`, which must live as long."""
    characters = int(lengths.way == "characters")
    salt = WAY_SALT[lengths.way]
    return _NativeWay(characters, salt, lengths.ngram, items.ctypes.data, len(items))


NativeSearch = Callable[[str, _NativeWay], npt.NDArray[np.int64]]


def _native_search(keys: Hashes, bits: npt.NDArray[np.uint8], shift: int) -> NativeSearch | None:
    library = native.load()
    if library is None:
        return None
    function = library.megaxlm_find_overlaps
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    function.argtypes = [ctypes.c_char_p, number, pointer, pointer, pointer, pointer, number]
    function.restype = number
    index = _NativeIndex(keys.ctypes.data, len(keys), bits.ctypes.data, shift)
    index_at, table_at = ctypes.byref(index), kinds().ctypes.data
    room = np.empty((_ROOM, 3), np.int64)
    room_at = room.ctypes.data  # looking these up takes longer than a short search

    def search(folded: str, way: _NativeWay) -> npt.NDArray[np.int64]:
        nonlocal room, room_at
        points = folded.encode("utf-32-le")
        size = len(points) // 4
        while True:
            way_at = ctypes.byref(way)
            count = function(points, size, table_at, index_at, way_at, room_at, len(room))
            if not count:
                return _NOTHING
            if count <= len(room):
                return room[:count].copy()
            room = np.empty((count, 3), np.int64)
            room_at = room.ctypes.data

    return search
