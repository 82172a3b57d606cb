"""Keyed randomness as arithmetic: hashes and permutations that are functions of a position.

Everything random in the stream of rows (which language comes next, the order of rows, the masks)
is computed from a key and a position, never drawn from a generator with a state. So any point of
the stream is reached in O(1), and the bytes are the same on every platform and NumPy version:
only 64-bit integer arithmetic is used, none of NumPy's distributions.
"""

from __future__ import annotations

import hashlib
import math
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

UInt64Array: TypeAlias = NDArray[np.uint64]
Int64Array: TypeAlias = NDArray[np.int64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MULTIPLIER_1 = np.uint64(0xBF58476D1CE4E5B9)
_MULTIPLIER_2 = np.uint64(0x94D049BB133111EB)
_SHIFT_1, _SHIFT_2, _SHIFT_3 = np.uint64(30), np.uint64(27), np.uint64(31)
_FEISTEL_ROUNDS = 6


def derive_key(*parts: int | str) -> int:
    """Returns a 64-bit key for a purpose, such as `derive_key(seed, "mask")`.

    Distinct part lists give unrelated keys, however their texts join.
    """
    text = "\x1f".join(f"{'s' if isinstance(part, str) else 'i'}{part}" for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def hash64(key: int, counter: Int64Array | UInt64Array) -> UInt64Array:
    """Hashes counters to uniform 64-bit numbers.

    This is SplitMix64 (Steele, Lea and Flood, OOPSLA 2014) read at arbitrary places: element i
    is output number `counter[i]` of the generator seeded with `key`.

    Args:
        key: 64-bit key.
        counter: Any shape; negative numbers wrap modulo 2^64.

    Returns:
        uint64 array of the same shape.
    """
    x = counter.astype(np.uint64)  # a copy, so that the rest may work in place
    x *= _GOLDEN
    x += np.uint64(key)
    x ^= x >> _SHIFT_1
    x *= _MULTIPLIER_1
    x ^= x >> _SHIFT_2
    x *= _MULTIPLIER_2
    x ^= x >> _SHIFT_3
    return x


def hash_one(key: int, counter: int) -> int:
    """Returns `hash64` of one counter as a Python int."""
    return int(hash64(key, np.array([counter % 2**64], dtype=np.uint64))[0])


def bounded(hashes: UInt64Array, bound: int) -> Int64Array:
    """Maps uniform hashes to integers in [0, bound), for 0 < bound < 2^32.

    Multiply and shift (Lemire, ACM TOMACS 2019); the bias is below bound / 2^32.
    """
    return (((hashes >> np.uint64(32)) * np.uint64(bound)) >> np.uint64(32)).astype(np.int64)


def permute(key: int, n: int, index: Int64Array) -> Int64Array:
    """Applies a keyed permutation of [0, n) without holding it.

    A Feistel network over pairs (left, right) in mixed radix a x b, a = ceil(sqrt(n)), which is
    a bijection of [0, a*b) with a*b - n < a; the few values outside [0, n) are sent through again
    ("cycle walking", Black and Rogaway, CT-RSA 2002).

    Args:
        key: 64-bit key; another key is another permutation.
        n: Size of the set, at least 1.
        index: Values in [0, n), any shape.

    Returns:
        int64 array of the same shape, the images.
    """
    a = math.isqrt(n - 1) + 1
    b = -(-n // a)
    keys = [derive_key(key, "feistel", i) for i in range(_FEISTEL_ROUNDS)]
    result = _feistel(keys, a, b, index)
    outside = result >= n
    while outside.any():
        result[outside] = _feistel(keys, a, b, result[outside])
        outside = result >= n
    return result


def _feistel(keys: list[int], a: int, b: int, index: Int64Array) -> Int64Array:
    right, left = np.divmod(index.astype(np.int64), np.int64(a))  # left in [0, a), right in [0, b)
    for i in range(0, len(keys), 2):
        left = (left + _remainder(hash64(keys[i], right), a)) % a
        right = (right + _remainder(hash64(keys[i + 1], left), b)) % b
    return right * a + left


def _remainder(hashes: UInt64Array, modulus: int) -> Int64Array:
    return (hashes % np.uint64(modulus)).astype(np.int64)
