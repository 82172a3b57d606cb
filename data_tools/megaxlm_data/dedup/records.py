"""Records of a key and a value in sorted files: the shuffle of deduplication, by files alone.

A task of the first kind writes its records sorted by key, under a name that only a whole file gets.
A task of the second kind takes one range of keys out of all those files, as a bucket that fits
into memory. Both are functions of their input: any process of any host may do any of them, in any
order, and a killed one is done again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from megaxlm_data.writers.atomic import atomic_file

RECORD = np.dtype([("key", "<u8"), ("value", "<u8")])
BUCKET_RECORDS = 1 << 20  # 16 MB, and 60 to 350 MB (all of one hash) while a bucket is worked on
_KEYS = 1 << 64

Records = npt.NDArray[np.void]  # of RECORD


def records_of(keys: npt.NDArray[np.uint64], values: npt.NDArray[np.uint64]) -> Records:
    """Returns records, in the order given."""
    records = np.empty(len(keys), RECORD)
    records["key"], records["value"] = keys, values
    return records


def write_sorted(path: Path, records: Records) -> None:
    """Writes records by ascending key, those of one key in the order given."""
    order = np.argsort(records["key"], kind="stable")
    with atomic_file(path) as file:
        file.write(records[order].tobytes())


def unique(records: Records) -> Records:
    """Returns distinct records by ascending key and value."""
    records = records[np.lexsort((records["value"], records["key"]))]
    new = np.ones(len(records), np.bool_)
    new[1:] = records[1:] != records[:-1]
    return records[new]


def bucket_bounds(records: int, bucket_records: int) -> list[tuple[int, int]]:
    """Cuts the keys, hashes of 64 bits, into ranges of about so many records each.

    Returns:
        First key and the one after the last, of each bucket.
    """
    count = max(1, -(-records // bucket_records))
    cuts = [_KEYS * number // count for number in range(count + 1)]
    return list(zip(cuts[:-1], cuts[1:], strict=True))


class SortedFile:
    """Reads ranges of keys from a file of `write_sorted`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        # mapped for the search alone: what is returned is read
        empty = path.stat().st_size == 0
        self._keys = np.zeros(0, RECORD) if empty else np.memmap(path, RECORD, mode="r")

    def place(self, key: int) -> int:
        """Returns how many records have smaller keys."""
        if key >= _KEYS:
            return len(self._keys)
        low, high = 0, len(self._keys)
        while low < high:
            middle = (low + high) // 2
            if int(self._keys[middle]["key"]) < key:
                low = middle + 1
            else:
                high = middle
        return low

    def range(self, first: int, end: int) -> Records:
        """Returns the records with keys in [first, end)."""
        start = self.place(first)
        count = self.place(end) - start
        return np.fromfile(self._path, RECORD, count, offset=start * RECORD.itemsize)


def read_range(paths: Iterable[Path], first: int, end: int) -> Records:
    """Returns the records of all files with keys in [first, end), file by file."""
    parts = [SortedFile(path).range(first, end) for path in paths]
    return np.concatenate([np.zeros(0, RECORD), *parts])


def read_pieces(
    paths: Sequence[Path], first: int, end: int, limit: int
) -> Iterator[tuple[int, int, Records]]:
    """Yields [first, end) in ranges of at most `limit` records, or of one key.

    Yields:
        First key, the key after the last, and their records, file by file.
    """
    files = [SortedFile(path) for path in paths]
    waiting = [(first, end)]
    while waiting:
        low, high = waiting.pop()
        count = sum(file.place(high) - file.place(low) for file in files)
        if count > limit and high - low > 1:
            middle = (low + high) // 2
            waiting += [(middle, high), (low, middle)]
            continue
        parts = [file.range(low, high) for file in files]
        yield low, high, np.concatenate([np.zeros(0, RECORD), *parts])
