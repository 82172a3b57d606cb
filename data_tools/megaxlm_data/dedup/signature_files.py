"""Signatures on disk, 16 bits a value, and the agreement of two of them.

The low 16 bits of a value are enough to compare with: two different ones agree by chance once in
65,536 times (Li and Koenig, "b-Bit Minwise Hashing", WWW 2010).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from megaxlm_data.dedup.minhash import Signatures
from megaxlm_data.writers.atomic import CheckedFile

Rows = npt.NDArray[np.uint64]


def write_signatures(
    file: CheckedFile, signatures: Signatures, rows: npt.NDArray[np.bool_]
) -> None:
    """Appends the rows of a block.

    Args:
        file: Where they go.
        signatures: Those of the chosen rows.
        rows: Which rows of the block were chosen; the others are filled with zeros.
    """
    short = np.zeros((len(rows), signatures.shape[1]), np.uint16)
    short[rows] = signatures.astype(np.uint16)
    file.write(short.tobytes())


class SignatureFiles:
    """Reads the signatures of any rows.

    Args:
        paths: The files, in the order of the rows.
        starts: The first row of each.
        permutations: Values of a signature.
    """

    def __init__(self, paths: Sequence[Path], starts: Sequence[int], permutations: int) -> None:
        self._paths, self._starts = paths, np.array(starts, np.uint64)
        self._permutations = permutations

    def read(self, rows: Rows) -> npt.NDArray[np.uint16]:
        """Returns the signatures of ascending rows, (rows, permutations)."""
        found = np.empty((len(rows), self._permutations), np.uint16)
        cuts = np.append(np.searchsorted(rows, self._starts), len(rows))
        for number, (first, end) in enumerate(zip(cuts[:-1], cuts[1:], strict=True)):
            if first < end:
                mapped = np.memmap(self._paths[number], np.uint16, mode="r")
                inside = (rows[first:end] - self._starts[number]).astype(np.int64)
                found[first:end] = mapped.reshape(-1, self._permutations)[inside]
        return found

    def agreement(self, one: Rows, other: Rows) -> npt.NDArray[np.int64]:
        """Returns in how many places the signatures of each pair agree, (pairs,)."""
        rows, places = np.unique(np.concatenate([one, other]), return_inverse=True)
        signatures = self.read(rows)
        a, b = np.split(places, 2)
        agreeing: npt.NDArray[np.int64] = np.count_nonzero(signatures[a] == signatures[b], axis=1)
        return agreeing
