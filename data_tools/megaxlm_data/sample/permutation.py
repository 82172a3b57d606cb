"""A keyed bijection of [0, size): random order with random access and no memory.

Multiplications by odd numbers, additions and xor-shifts are each a bijection of the b-bit
integers; what falls outside [0, size) walks on along its cycle until it is inside, which is
again a bijection (Black and Rogaway, "Ciphers with Arbitrary Finite Domains", 2002). It
shuffles; it is no cipher.
"""

import hashlib


def key_bytes(*key: int | str) -> bytes:
    """64 bytes that depend on every part of the key and on nothing else."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in key)
    return hashlib.blake2b(text.encode("utf-8")).digest()


class Permutation:
    """`Permutation(size, *key)(i)` is the i-th number of a shuffled [0, size).

    Args:
        size: Length of the range.
        *key: Integers and strings; another key is another order.
    """

    __slots__ = ("_add", "_mask", "_multiply", "_shift", "size")

    def __init__(self, size: int, *key: int | str) -> None:
        if size < 1:
            raise ValueError(f"a permutation needs a size of at least 1, not {size}")
        self.size = size
        bits = max(1, (size - 1).bit_length())
        self._mask = (1 << bits) - 1
        self._shift = (bits + 1) // 2
        digest = key_bytes(size, *key)
        words = [int.from_bytes(digest[k : k + 8], "little") for k in range(0, 64, 8)]
        self._multiply = tuple((word & self._mask) | 1 for word in words[:3])
        self._add = tuple(word & self._mask for word in words[3:6])

    def __call__(self, index: int) -> int:
        """The number at place `index`; IndexError outside [0, size)."""
        if not 0 <= index < self.size:
            raise IndexError(f"{index} is outside [0, {self.size})")
        mask, shift = self._mask, self._shift
        multiply_1, multiply_2, multiply_3 = self._multiply
        add_1, add_2, add_3 = self._add
        x = index
        while True:
            x = (x * multiply_1 + add_1) & mask
            x ^= x >> shift
            x = (x * multiply_2 + add_2) & mask
            x ^= x >> shift
            x = (x * multiply_3 + add_3) & mask
            x ^= x >> shift
            if x < self.size:
                return x
