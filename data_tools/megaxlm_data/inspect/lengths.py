"""How long documents are: a histogram of each subset, from the list offsets of its shards alone.

Offsets are four bytes a document; the tokens between them are not touched.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from megaxlm.data.shards import DatasetIndex, ShardInfo
from megaxlm_data.shard_scan import open_columns
from megaxlm_data.threads import map_threads

BINS_PER_OCTAVE = 8  # a bin is 9% wide
_OCTAVES = 32  # offsets are int32
_BINS = BINS_PER_OCTAVE * _OCTAVES


@dataclass(frozen=True)
class LengthHistogram:
    """Documents by their number of tokens; pairs by that of both sides together."""

    counts: npt.NDArray[np.int64]  # (bins + 1,): bin 0 is for none, bin i for 2^((i - 1) / 8) on

    @property
    def documents(self) -> int:
        """How many there are."""
        return int(self.counts.sum())

    def quantile(self, share: float) -> float:
        """Returns the length that a share of the documents does not pass, to within a bin."""
        ends = np.cumsum(self.counts)
        index = int(np.searchsorted(ends, share * ends[-1]))
        return 0.0 if index == 0 else float(2 ** ((index - 0.5) / BINS_PER_OCTAVE))

    def share_above(self, length: int) -> float:
        """Returns the share of documents with more tokens than this, to within a bin."""
        first = int(bin_of(np.array([length]))[0]) + 1
        return float(self.counts[first:].sum() / max(1, self.documents))


def bin_of(lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Returns the bins of lengths."""
    positive = np.maximum(lengths, 1).astype(np.float64)
    bins = 1 + np.floor(BINS_PER_OCTAVE * np.log2(positive) + 1e-9).astype(np.int64)
    result: npt.NDArray[np.int64] = np.where(lengths > 0, bins, 0)
    return result


def length_histograms(
    directory: Path, index: DatasetIndex, threads: int | None = None
) -> dict[str, LengthHistogram]:
    """Returns a histogram for each language or pair, both splits together.

    Args:
        directory: The data set.
        index: Its index.
        threads: How many shards at once; None for one a CPU.

    Raises:
        CorruptDataError: A shard cannot be read.
    """
    shards = [(subset.name, info) for subset in index.subsets for info in subset.shards]

    def count(item: tuple[str, ShardInfo]) -> npt.NDArray[np.int64]:
        sides = open_columns(directory / item[1].path).sides
        return _histogram([side.offsets for side in sides])

    totals: dict[str, npt.NDArray[np.int64]] = {}
    for (name, _), counts in zip(shards, map_threads(count, shards, threads), strict=True):
        totals[name] = totals[name] + counts if name in totals else counts
    return {name: LengthHistogram(counts) for name, counts in totals.items()}


def _histogram(offsets: Sequence[npt.NDArray[np.int32]]) -> npt.NDArray[np.int64]:
    lengths = sum(np.diff(each).astype(np.int64) for each in offsets)
    counts: npt.NDArray[np.int64] = np.bincount(bin_of(np.asarray(lengths)), minlength=_BINS + 1)
    return counts.astype(np.int64)
