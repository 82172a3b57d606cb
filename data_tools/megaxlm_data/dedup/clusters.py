"""Clusters of near duplicates: connected components of the pairs found, by union-find.

The root of a cluster is its first document, so the result depends on the set of pairs alone.
Memory is four bytes a document of one language (a billion documents take 4 GB), eight from 2^32
documents on, whatever the number of pairs: they are taken in piece by piece.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_PIECE = 1 << 20
Rows = npt.NDArray[np.int64]


class Clusters:
    """Documents by their number, each at first a cluster of its own."""

    def __init__(self, documents: int) -> None:
        dtype = np.uint32 if documents <= 1 << 32 else np.uint64
        self._parent = np.arange(documents, dtype=dtype)  # never after its child

    def unite(self, one: Rows, other: Rows) -> None:
        """Unites the clusters of the two documents of each pair, (pairs,) each."""
        for start in range(0, len(one), _PIECE):
            a, b = one[start : start + _PIECE], other[start : start + _PIECE]
            while len(a):
                a, b = np.split(self.roots(np.concatenate([a, b])), 2)
                apart = a != b
                a, b = a[apart], b[apart]
                # a root with several smaller ones gets the smallest; the rest go round again
                np.minimum.at(
                    self._parent, np.maximum(a, b), np.minimum(a, b).astype(self._parent.dtype)
                )

    def roots(self, rows: Rows) -> Rows:
        """Returns the first document of each one's cluster, (rows,), and shortens the way there."""
        parent = self._parent
        above = parent[rows]
        while True:
            # each step skips one: a chain among the rows gets half as long
            further = parent[above]
            if np.array_equal(further, above):
                return above.astype(np.int64)
            parent[rows] = above = further
