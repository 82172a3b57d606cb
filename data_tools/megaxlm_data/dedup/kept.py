"""What deduplication leaves of a language or pair, as bits, and its files."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from megaxlm.data.shards import write_atomically
from megaxlm_data.dedup.exact import unpack
from megaxlm_data.writers.atomic import atomic_file


@dataclass(frozen=True)
class Kept:
    """Which rows stay, after one way of deduplication or two.

    Attributes:
        digest: Of all that it depends on.
        bits: In little-endian order, 1 for a row that stays.
        duplicates: Rows that are exact copies of an earlier one.
        near_duplicates: Further rows that are nearly the same as an earlier one.
    """

    digest: str
    bits: npt.NDArray[np.uint8]
    duplicates: int = 0
    near_duplicates: int = 0

    def rows(self, start: int, stop: int) -> npt.NDArray[np.bool_]:
        """Returns which of the rows [start, stop) stay."""
        return unpack(self.bits, start, stop)

    def save(self, folder: Path) -> None:
        """Writes it; the marker comes last."""
        with atomic_file(folder / f"{self.digest}.bits") as file:
            file.write(self.bits.data)
        content = {"duplicates": self.duplicates, "near_duplicates": self.near_duplicates}
        write_atomically(kept_marker(folder, self.digest), json.dumps(content).encode())


def kept_marker(folder: Path, digest: str) -> Path:
    """Returns the file that is there when a `Kept` is saved."""
    return folder / f"{digest}.json"


def read_kept(folder: Path, digest: str) -> Kept:
    """Returns what was saved."""
    content = json.loads(kept_marker(folder, digest).read_text(encoding="utf-8"))
    return Kept(digest, np.fromfile(folder / f"{digest}.bits", np.uint8), **content)
