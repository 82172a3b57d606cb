"""Which subsets hold the same documents: exact copies, by their ids, in memory that is bounded.

Small subsets are held whole, and every document of the large ones is looked up among them: these
counts are exact. Among large subsets a part of the documents is compared, chosen by a hash of the
id, so that the copies of one document are all in it or all not; their counts are estimates. A
document in a small language that belongs to a large one is thus always found.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import numpy.typing as npt

from megaxlm.data.shards import DatasetIndex, ShardInfo, Subset
from megaxlm_data.shard_scan import open_columns
from megaxlm_data.threads import map_threads

HELD_ROWS = 8 << 20  # of small subsets, and as many of large ones: 128 MB each while sorted
_FILTER_BITS = 26  # one byte for each value of so many upper bits: 64 MB
_HASHES = 1 << 64
Ids = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Overlap:
    """What subsets share."""

    shared: dict[tuple[int, int], float]  # documents in both, by positions in the index
    compared_share: float  # of the documents of large subsets; 1: every number is exact


@dataclass(frozen=True)
class _Records:
    """Ids and the subsets that they are in, ordered by id."""

    ids: Ids
    subsets: npt.NDArray[np.int32]


def find_overlap(
    directory: Path,
    index: DatasetIndex,
    held_rows: int = HELD_ROWS,
    threads: int | None = None,
) -> Overlap:
    """Finds which subsets share documents.

    Subsets of documents and of pairs have different ids and never meet. Both splits are subsets of
    their own: validation documents of one language in the training text of another show as well.

    Args:
        directory: The data set.
        index: Its index.
        held_rows: How many rows of small subsets, and of large ones, are held in memory.
        threads: How many shards at once; None for one a CPU.

    Raises:
        CorruptDataError: A shard cannot be read.
    """
    numbers = sorted(range(len(index.subsets)), key=lambda n: (index.subsets[n].rows, n))
    ends = np.cumsum([index.subsets[number].rows for number in numbers], dtype=np.int64)
    num_small = int(np.searchsorted(ends, held_rows, side="right"))
    small, large = numbers[:num_small], numbers[num_small:]
    large_rows = sum(index.subsets[number].rows for number in large)
    share = min(1.0, held_rows / max(1, large_rows))

    held = _records([(number, _ids(directory, index.subsets[number])) for number in small])
    shared: Counter[tuple[int, int]] = Counter()
    _count_runs(held, shared)
    sampled: list[tuple[int, Ids]] = []
    lookup = _Lookup(held)
    below = np.uint64(min(_HASHES - 1, int(share * _HASHES)))
    items = [(number, info) for number in large for info in index.subsets[number].shards]

    def look(item: tuple[int, ShardInfo]) -> tuple[npt.NDArray[np.int64], Ids]:
        ids = open_columns(directory / item[1].path).doc_ids
        return lookup.owners(ids), ids[_mixed(ids) <= below]

    for (number, _), (owners, part) in zip(items, map_threads(look, items, threads), strict=True):
        for owner in np.flatnonzero(owners).tolist():
            shared[_ordered(owner, number)] += int(owners[owner])
        sampled.append((number, part))
    estimates: Counter[tuple[int, int]] = Counter()
    _count_runs(_records(sampled), estimates)
    result = {pair: float(count) for pair, count in shared.items()}
    result |= {pair: count / share for pair, count in estimates.items()}
    return Overlap(dict(sorted(result.items())), share)


def _ordered(a: int, b: int) -> tuple[int, int]:
    return (a, b) if a < b else (b, a)


def _ids(directory: Path, subset: Subset) -> Ids:
    pieces = [open_columns(directory / info.path).doc_ids for info in subset.shards]
    ids: Ids = np.sort(np.concatenate([np.zeros(0, np.uint64), *pieces]))
    # np.unique hashes first: 80 times as long
    distinct: Ids = ids[np.append(True, ids[1:] != ids[:-1])[: len(ids)]]
    return distinct


def _records(parts: list[tuple[int, Ids]]) -> _Records:
    ids = np.concatenate([np.zeros(0, np.uint64), *(part for _, part in parts)])
    subsets = np.repeat(
        np.array([number for number, _ in parts], np.int32), [len(part) for _, part in parts]
    )
    order = np.argsort(ids)
    return _Records(ids[order], subsets[order])


def _runs(ids: Ids) -> Iterator[tuple[int, int]]:
    """Yields (first, last + 1) of the runs of equal ids that are longer than one."""
    starts = np.flatnonzero(np.append(True, ids[1:] != ids[:-1])[: len(ids)])
    ends = np.append(starts[1:], len(ids))
    for run in np.flatnonzero(ends - starts > 1) if len(ids) else ():
        yield int(starts[run]), int(ends[run])


def _count_runs(records: _Records, shared: Counter[tuple[int, int]]) -> None:
    patterns: Counter[tuple[int, ...]] = Counter()
    for first, last in _runs(records.ids):
        patterns[tuple(sorted(set(records.subsets[first:last].tolist())))] += 1
    for pattern, count in patterns.items():
        for pair in combinations(pattern, 2):
            shared[pair] += count


class _Lookup:
    """Finds ids of large subsets among the held ones."""

    def __init__(self, held: _Records) -> None:
        self._held = held
        self._filter = np.zeros(1 << _FILTER_BITS, np.bool_)
        self._filter[self._upper(held.ids)] = True
        self._num_subsets = int(held.subsets.max()) + 1 if len(held.subsets) else 0

    def owners(self, ids: Ids) -> npt.NDArray[np.int64]:
        """Returns how many of some ids each held subset has, (subsets,)."""
        result = np.zeros(self._num_subsets, np.int64)
        ids = ids[self._filter[self._upper(ids)]]  # most are gone after this
        first = np.searchsorted(self._held.ids, ids, side="left")
        last = np.searchsorted(self._held.ids, ids, side="right")
        while len(first) and bool((found := first < last).any()):  # a copy each time
            first, last = first[found], last[found]
            np.add.at(result, self._held.subsets[first], 1)
            first = first + 1
        return result

    @staticmethod
    def _upper(ids: Ids) -> npt.NDArray[np.int64]:
        return (ids >> np.uint64(64 - _FILTER_BITS)).astype(np.int64)


def _mixed(ids: Ids) -> Ids:
    """Another hash of the ids (SplitMix64): low ones are validation, which is not to be chosen."""
    x = (ids ^ (ids >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: Ids = x ^ (x >> np.uint64(31))
    return mixed
