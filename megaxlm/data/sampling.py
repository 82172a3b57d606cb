"""Which source the next row comes from: languages by p ~ n^alpha, drawn by position.

Sources are the languages (or pairs) of the objectives. A draw is a pure function of the row's
position in the stream, so that every rank knows the whole order without talking to another.

The draws are stratified: among any DRAW_BLOCK rows that start at a multiple of it, each of the
DRAW_BLOCK equal parts of [0, 1) is used exactly once, in keyed random order. A source of
probability p therefore gets p * DRAW_BLOCK rows of the block to within one, where independent
draws would stray by the square root of that; small languages feel the difference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from megaxlm.data.order import Int64Array, UInt64Array, derive_key, hash64, permute
from megaxlm.data.rows import RowSource

_DRAW_BLOCK_BITS = 12
DRAW_BLOCK = 1 << _DRAW_BLOCK_BITS
_RESOLUTION_BITS = 48  # draws are integers in [0, 2^48): exact in float64 and in uint64


def alpha_probabilities(num_tokens: Sequence[int], alpha: float) -> list[float]:
    """Returns p_i proportional to n_i^alpha (Conneau and Lample, 2019, section 3.1).

    Args:
        num_tokens: Training tokens of each language or pair, positive.
        alpha: 1 samples as the data lies, 0 samples every language alike.
    """
    largest = max(num_tokens)
    weights = [(n / largest) ** alpha for n in num_tokens]
    total = sum(weights)
    return [weight / total for weight in weights]


@dataclass(frozen=True)
class MixturePhase:
    """The probabilities of the sources from one row of the stream on."""

    start_row: int
    probabilities: tuple[float, ...]  # one per source, sum 1; 0 switches a source off

    @property
    def thresholds(self) -> UInt64Array:
        """Ends of the sources' parts of [0, 2^48); the last is exactly 2^48."""
        shares = np.array(self.probabilities, np.float64)
        ends = np.cumsum(shares) / shares.sum()
        result: UInt64Array = np.rint(ends * 2.0**_RESOLUTION_BITS).astype(np.uint64)
        result[int(np.flatnonzero(shares)[-1]) :] = 1 << _RESOLUTION_BITS
        return result


class SourceDraw:
    """Draws the source of any row."""

    def __init__(self, phases: Sequence[MixturePhase], seed: int) -> None:
        """Keeps the phases.

        Args:
            phases: In increasing order of `start_row`, the first starting at 0.
            seed: The seed of the run.
        """
        self._starts = np.array([phase.start_row for phase in phases], np.int64)
        self._thresholds = [phase.thresholds for phase in phases]
        self._seed = seed

    def __call__(self, start: int, count: int) -> Int64Array:
        """Returns the source numbers of rows [start, start + count)."""
        rows = np.arange(start, start + count, dtype=np.int64)
        draws = self._uniform(rows)
        phase = np.searchsorted(self._starts, rows, side="right") - 1
        sources = np.empty(count, np.int64)
        for number in range(int(phase[0]), int(phase[-1]) + 1):
            inside = phase == number
            sources[inside] = np.searchsorted(self._thresholds[number], draws[inside], side="right")
        return sources

    def _uniform(self, rows: Int64Array) -> UInt64Array:
        strata = np.empty(len(rows), np.int64)
        blocks = rows >> _DRAW_BLOCK_BITS
        for block in range(int(blocks[0]), int(blocks[-1]) + 1):
            inside = blocks == block
            key = derive_key(self._seed, "draw", block)
            strata[inside] = permute(key, DRAW_BLOCK, rows[inside] & (DRAW_BLOCK - 1))
        inside_bits = _RESOLUTION_BITS - _DRAW_BLOCK_BITS
        jitter = hash64(derive_key(self._seed, "jitter"), rows) >> np.uint64(64 - inside_bits)
        return (strata.astype(np.uint64) << np.uint64(inside_bits)) | jitter


@dataclass(frozen=True)
class Mixture:
    """The sources of a stream and, phase by phase, their shares of its rows."""

    sources: tuple[RowSource, ...]
    phases: tuple[MixturePhase, ...]  # by increasing start_row, the first at 0
