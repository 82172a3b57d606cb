"""Lines that an earlier document holds too (as CCNet, arXiv:1911.00359, does with paragraphs).

A line is known by XXH3-64 of its normalised text. Whether it goes from a document depends on the
documents before: the first that holds it keeps it, every time it stands there, and so a refrain
stays.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import xxhash

from megaxlm_data.dedup.records import RECORD, Records, records_of


def line_hash(line: str) -> int:
    """Returns XXH3-64 of a line."""
    return xxhash.xxh3_64_intdigest(line.encode())


def line_records(texts: Iterable[str], rows: Iterable[int], min_chars: int) -> Records:
    """Returns a record of hash and row for each distinct long line of each document.

    Args:
        texts: Documents, their lines joined by a newline.
        rows: The row of each.
        min_chars: Shorter lines are passed over.
    """
    hashes: list[int] = []
    owners: list[int] = []
    for text, row in zip(texts, rows, strict=True):
        if len(text) < min_chars:
            continue
        found = {line_hash(line) for line in text.split("\n") if len(line) >= min_chars}
        hashes += sorted(found)
        owners += [row] * len(found)
    return records_of(np.array(hashes, np.uint64), np.array(owners, np.uint64))


def repeats(bucket: Records, max_documents: int) -> Records:
    """Finds the documents that lose a line.

    Args:
        bucket: Records of hash and row, all there are of the hashes among them, those of a hash by
            ascending row wherever they stand.
        max_documents: A line that no more documents hold goes from none.

    Returns:
        Records of row and hash: a line that goes from this document.
    """
    if not len(bucket):
        return np.zeros(0, RECORD)
    bucket = bucket[np.argsort(bucket["key"], kind="stable")]
    hashes = bucket["key"]
    first = np.ones(len(bucket), np.bool_)
    first[1:] = hashes[1:] != hashes[:-1]
    starts = np.flatnonzero(first)
    documents = np.diff(np.append(starts, len(bucket)))
    goes = ~first & np.repeat(documents > max_documents, documents)
    return records_of(bucket["value"][goes], hashes[goes])


def without_lines(
    lines: Iterable[str], hashes: npt.NDArray[np.uint64], min_chars: int
) -> tuple[str, ...]:
    """Returns the lines of a document that stay."""
    going = set(hashes.tolist())
    return tuple(line for line in lines if len(line) < min_chars or line_hash(line) not in going)
