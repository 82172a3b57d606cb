"""Which documents are looked at as a pair: those that share the hash of a band.

Locality-sensitive hashing of signatures (Indyk and Motwani, STOC 1998; Leskovec, Rajaraman and
Ullman, "Mining of Massive Datasets", section 3.4). A thousand copies of a page share a hash; they
are not compared each with each but with the first of them and a few neighbours, so that pairs grow
as documents do.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from megaxlm_data.dedup.records import Records, records_of, unique

NEIGHBOURS = 3  # in the order of the corpus


def band_records(
    hashes: npt.NDArray[np.uint64],
    rows: npt.NDArray[np.uint64],
) -> Records:
    """Returns a record of hash and row for each band of each document.

    Args:
        hashes: (documents, bands)
        rows: (documents,)
    """
    return records_of(hashes.ravel(), np.repeat(rows, hashes.shape[1]))


def candidate_pairs(bucket: Records) -> Records:
    """Returns pairs of rows that share a hash.

    Args:
        bucket: Records of hash and row, all there are of the hashes among them, those of a hash by
            ascending row wherever they stand.

    Returns:
        Distinct records of the later row and the earlier one, in this order.
    """
    bucket = bucket[np.argsort(bucket["key"], kind="stable")]
    hashes, rows = bucket["key"], bucket["value"]
    starts = np.ones(len(bucket), np.bool_)
    starts[1:] = hashes[1:] != hashes[:-1]
    first = np.maximum.accumulate(np.where(starts, np.arange(len(bucket)), 0))
    distance = np.arange(len(bucket)) - first
    pairs = []
    for step in range(1, NEIGHBOURS + 1):
        later = np.flatnonzero(distance >= step)
        pairs.append(records_of(rows[later], rows[later - step]))
    later = np.flatnonzero(distance > NEIGHBOURS)
    pairs.append(records_of(rows[later], rows[first[later]]))
    found = np.concatenate(pairs)
    return unique(found[found["key"] != found["value"]])
