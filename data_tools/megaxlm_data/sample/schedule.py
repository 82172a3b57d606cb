"""Mixes several finite sequences by weight into one, with random access.

Drawing meanings uniformly would drown the small templates in the large ones. The schedule
takes `weight` items of each sequence per period for as long as all last, then goes on with
those that are left, so that the result still holds every item exactly once.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from .permutation import Permutation

_NUM_ORDERS = 16  # periods take turns through so many shuffles of the same items

_Slot = tuple[int, int]  # (sequence, how many of the same sequence come before it in the period)


@dataclass(frozen=True)
class _Phase:
    orders: tuple[tuple[_Slot, ...], ...]
    weights: tuple[int, ...]
    base: tuple[int, ...]  # items of each sequence used up before this phase


class Schedule:
    """`Schedule(weights, sizes)(i)` is (sequence, rank in it) of the i-th item.

    Args:
        weights: Share of each sequence in a period, at least 1.
        sizes: Number of items of each sequence; 0 is allowed.
    """

    def __init__(self, weights: Sequence[int], sizes: Sequence[int]) -> None:
        self.size = sum(sizes)
        self._starts: list[int] = []
        self._phases: list[_Phase] = []
        left = list(sizes)
        start = 0
        while any(left):
            phase_weights = tuple(min(w, n) for w, n in zip(weights, left, strict=True))
            periods = min(n // w for w, n in zip(phase_weights, left, strict=True) if w)
            slots = [(g, k) for g, w in enumerate(phase_weights) for k in range(w)]
            shuffles = [Permutation(len(slots), "schedule", v) for v in range(_NUM_ORDERS)]
            orders = tuple(tuple(slots[p(i)] for i in range(len(slots))) for p in shuffles)
            base = tuple(total - n for total, n in zip(sizes, left, strict=True))
            self._starts.append(start)
            self._phases.append(_Phase(orders, phase_weights, base))
            start += periods * len(slots)
            left = [n - w * periods for w, n in zip(phase_weights, left, strict=True)]

    def __call__(self, index: int) -> _Slot:
        """The item at place `index`; IndexError outside [0, size)."""
        if not 0 <= index < self.size:
            raise IndexError(f"{index} is outside [0, {self.size})")
        at = bisect_right(self._starts, index) - 1
        phase = self._phases[at]
        period, slot = divmod(index - self._starts[at], len(phase.orders[0]))
        group, before = phase.orders[period % _NUM_ORDERS][slot]
        return group, phase.base[group] + period * phase.weights[group] + before
