"""Dropout masks as a pure function of (seed, place, column), the same in torch as in the CUDA ops.

csrc/philox.h says how: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3",
SC 2011) keyed by a 64-bit seed, counted by the row's place and the group of 8 columns, 16 bits an
element.
"""

from __future__ import annotations

import torch
from torch import Tensor

WORD = 0xFFFFFFFF
GROUP = 8  # elements that one call of Philox serves


def drop_threshold(dropout_p: float) -> int:
    """Returns the probability in units of 1/65536, to the nearest; 65535 at most."""
    return min(int(dropout_p * 65536 + 0.5), 65535)


def keep_scale(dropout_p: float) -> float:
    """Returns what a kept element is multiplied by, so that the mean stays what it was."""
    return 65536 / (65536 - drop_threshold(dropout_p))


def philox4x32_10(
    counter: tuple[Tensor, Tensor, Tensor, Tensor],  # 32-bit words in int64, any one shape
    key: tuple[Tensor, Tensor],  # likewise, broadcast
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns the 128 random bits of each counter as four 32-bit words in int64."""
    c0, c1, c2, c3 = counter
    key0, key1 = key
    for _ in range(10):
        # The product of two 32-bit words wraps into int64's sign; shift and mask undo that.
        product0, product1 = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c2 = (
            (product1 >> 32 & WORD) ^ c1 ^ key0,
            (product0 >> 32 & WORD) ^ c3 ^ key1,
        )
        c1, c3 = product1 & WORD, product0 & WORD
        key0, key1 = key0 + 0x9E3779B9 & WORD, key1 + 0xBB67AE85 & WORD
    return c0, c1, c2, c3


def dropout_mask(
    rows: int,
    hidden_size: int,  # a multiple of 8
    dropout_p: float,
    seed: int,
    device: torch.device,
    places: Tensor | None = None,  # (rows,) int64
) -> Tensor:  # (rows, hidden) bool
    """Returns which elements are kept; without places, rows count from 0."""
    threshold = drop_threshold(dropout_p)
    group = torch.arange(hidden_size // GROUP, device=device)
    row = torch.arange(rows, device=device) if places is None else places
    shape = (rows, hidden_size // GROUP)
    group, place = group.expand(shape), row[:, None].expand(shape)
    # A tensor, not Python arithmetic: under torch.compile the seed is a symbol.
    seed_bits = torch.full((), seed, dtype=torch.int64, device=device)
    key = (seed_bits & WORD, seed_bits >> 32 & WORD)
    zero = torch.zeros_like(group)
    words = philox4x32_10((group, zero, place & WORD, place >> 32 & WORD), key)
    halves = [
        half for word in words for half in ((word & 0xFFFF) >= threshold, word >> 16 >= threshold)
    ]
    return torch.stack(halves, dim=2).view(rows, hidden_size)
