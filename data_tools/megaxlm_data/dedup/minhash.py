"""MinHash signatures (Broder, "On the resemblance and containment of documents", 1997).

A signature holds, for each of some pseudo-random permutations of 32-bit numbers, the least image of
a document's shingles. Two documents agree in a place of it with a probability that is their
Jaccard similarity. The signatures are compiled (`csrc/minhash.cpp`); where there is no compiler,
NumPy gives the same bits at about a tenth of the speed.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from megaxlm_data import native
from megaxlm_data.dedup.shingles import UNSPACED_ABOVE, folding_table, mixed, shingle_hashes

EMPTY = np.uint32(0xFFFFFFFF)  # in every place of the signature of a document without a shingle
_SHIFT = np.uint32(15)
_PIECE_SHINGLES = 4096  # times the permutations in memory, in NumPy
_PIECE_BYTES = 1 << 20  # of text at a time, in NumPy: a document and its arrays

Signatures = npt.NDArray[np.uint32]  # (documents, permutations)


@dataclass(frozen=True)
class Shingling:
    """How documents are cut and how long a signature is."""

    words: int
    characters: int
    permutations: int


@cache
def _permutations(count: int) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32]]:
    """Returns multipliers, which are odd, and masks, (count,) each."""
    numbers = mixed(np.arange(1, 2 * count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15))
    high = (numbers >> np.uint64(32)).astype(np.uint32)
    return high[::2] | np.uint32(1), high[1::2].copy()


def sign(
    text: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int64], shingling: Shingling
) -> Signatures:
    """Signs documents.

    Args:
        text: Valid UTF-8; document i is text[offsets[i]:offsets[i + 1]].
        offsets: (documents + 1,)
        shingling: The sizes.
    """
    function = _compiled()
    if function is None:
        return sign_in_numpy(text, offsets, shingling)
    text = np.ascontiguousarray(text)
    offsets = np.ascontiguousarray(offsets, np.int64)
    table = folding_table()
    multipliers, masks = _permutations(shingling.permutations)
    signatures = np.empty((len(offsets) - 1, shingling.permutations), np.uint32)
    function(
        text.ctypes.data,
        offsets.ctypes.data,
        len(offsets) - 1,
        table.ctypes.data,
        len(table),
        UNSPACED_ABOVE,
        shingling.words,
        shingling.characters,
        multipliers.ctypes.data,
        masks.ctypes.data,
        shingling.permutations,
        signatures.ctypes.data,
    )
    return signatures


@cache
def _compiled() -> Any:
    library = native.load()
    if library is None:
        return None
    function = library.megaxlm_minhash
    pointer, long, int32 = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32
    function.argtypes = [pointer, pointer, long, pointer, ctypes.c_uint32, ctypes.c_double]
    function.argtypes += [int32, int32, pointer, pointer, int32, pointer]
    function.restype = None
    return function


def sign_in_numpy(
    text: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int64], shingling: Shingling
) -> Signatures:
    """Does what `sign` does, without a compiler."""
    signatures = np.full((len(offsets) - 1, shingling.permutations), EMPTY, np.uint32)
    start = 0
    while start < len(offsets) - 1:
        stop = int(np.searchsorted(offsets, offsets[start] + _PIECE_BYTES, side="right")) - 1
        stop = max(start + 1, stop)
        part = text[offsets[start] : offsets[stop]]
        hashes, owners = shingle_hashes(
            part, offsets[start : stop + 1] - offsets[start], shingling.words, shingling.characters
        )
        _permute(hashes, owners, shingling.permutations, signatures[start:stop])
        start = stop
    return signatures


def _permute(
    hashes: npt.NDArray[np.uint32],
    owners: npt.NDArray[np.int64],
    permutations: int,
    signatures: Signatures,
) -> None:
    multipliers, masks = _permutations(permutations)
    for first in range(0, len(hashes), _PIECE_SHINGLES):
        piece = owners[first : first + _PIECE_SHINGLES]
        images = (hashes[first : first + _PIECE_SHINGLES, None] ^ masks) * multipliers
        images ^= images >> _SHIFT
        documents, starts = np.unique(piece, return_index=True)
        least = np.minimum.reduceat(images, starts, axis=0)
        signatures[documents] = np.minimum(signatures[documents], least)


def has_shingles(signatures: Signatures) -> npt.NDArray[np.bool_]:
    """Returns which documents have a shingle, (documents,)."""
    result: npt.NDArray[np.bool_] = (signatures != EMPTY).any(axis=1)
    return result


def band_hashes(signatures: Signatures, bands: int) -> npt.NDArray[np.uint64]:
    """Hashes each band of a signature, (documents, bands); no two bands share hashes."""
    rows_per_band = signatures.shape[1] // bands
    parts = signatures.reshape(len(signatures), bands, rows_per_band).astype(np.uint64)
    hashes = np.broadcast_to(
        mixed(np.arange(1, bands + 1, dtype=np.uint64)), (len(signatures), bands)
    )
    for place in range(rows_per_band):
        hashes = mixed(hashes ^ parts[:, :, place]) + np.uint64(place)
    return hashes
