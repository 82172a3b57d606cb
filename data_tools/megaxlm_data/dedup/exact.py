"""Exact deduplication by 64-bit hash, in memory that does not grow with the corpus.

Up to `bucket_rows` hashes are sorted in memory. More are first spread over buckets on disk by
their high bits, so that equal hashes meet in one bucket, and each bucket is sorted by itself.
What grows is one bit a document. With a billion documents, the chance that any two different
texts share an XXH3-64 is under 3%, and then one document is lost.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt

BUCKET_ROWS = 8 << 20  # about 300 MB while a bucket is sorted
_RECORD = np.dtype([("hash", "<u8"), ("row", "<u8")])


def first_occurrences(
    hashes: Iterable[npt.NDArray[np.uint64]],
    rows: int,
    work: Path,
    bucket_rows: int = BUCKET_ROWS,
) -> npt.NDArray[np.uint8]:
    """Finds the rows whose hash did not occur before.

    Args:
        hashes: Hashes in row order, in pieces of any size.
        rows: How many there are in all.
        work: A folder for buckets; made and removed here.
        bucket_rows: About how many rows are sorted at a time.

    Returns:
        Bits in little-endian order, 1 for a first occurrence; see `unpack`.
    """
    keep = np.full((rows + 7) // 8, 0xFF, dtype=np.uint8)
    buckets = 1
    while rows > buckets * bucket_rows:
        buckets *= 2
    if buckets == 1:
        pieces = list(hashes)
        if pieces:
            _clear(keep, _repeats(np.concatenate(pieces)))
        return keep
    shutil.rmtree(work, ignore_errors=True)  # of a build that was killed here
    work.mkdir(parents=True)
    try:
        _spread(hashes, work, buckets, bucket_rows)
        for path in sorted(work.iterdir()):
            records = np.fromfile(path, dtype=_RECORD)
            _clear(keep, records["row"][_repeats(records["hash"])])
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return keep


def unpack(bits: npt.NDArray[np.uint8], start: int, stop: int) -> npt.NDArray[np.bool_]:
    """Returns bits [start, stop) as booleans."""
    first = start >> 3
    part = np.unpackbits(bits[first : (stop + 7) >> 3], bitorder="little")
    return part[start - 8 * first : stop - 8 * first].astype(np.bool_)


def _spread(
    hashes: Iterable[npt.NDArray[np.uint64]], work: Path, buckets: int, bucket_rows: int
) -> None:
    shift = np.uint64(64 - (buckets.bit_length() - 1))
    row, held, pending = 0, 0, []
    for piece in hashes:
        records = np.empty(len(piece), dtype=_RECORD)
        records["hash"] = piece
        records["row"] = np.arange(row, row + len(piece))
        row += len(piece)
        held += len(piece)
        pending.append(records)
        if held >= bucket_rows // 2:
            _append(np.concatenate(pending), shift, work)
            held, pending = 0, []
    if pending:
        _append(np.concatenate(pending), shift, work)


def _append(records: npt.NDArray[np.void], shift: np.uint64, work: Path) -> None:
    bucket = records["hash"] >> shift
    order = np.argsort(bucket, kind="stable")
    numbers, starts = np.unique(bucket[order], return_index=True)
    for number, part in zip(numbers, np.split(order, starts[1:]), strict=True):
        with open(work / f"{int(number):06d}", "ab") as file:
            file.write(records[part].tobytes())


def _repeats(hashes: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """Returns the positions of hashes that are equal to one at a smaller position."""
    order = np.argsort(hashes, kind="stable")
    ordered = hashes[order]
    repeats: npt.NDArray[np.int64] = order[1:][ordered[1:] == ordered[:-1]]
    return repeats


def _clear(bits: npt.NDArray[np.uint8], rows: npt.NDArray[np.int64]) -> None:
    row = rows.astype(np.uint64)
    mask = ~(np.uint8(1) << (row & np.uint64(7)).astype(np.uint8))
    np.bitwise_and.at(bits, (row >> np.uint64(3)).astype(np.int64), mask)
