"""No document twice in a language or pair, and none in both of its splits.

Ids are uniform hashes, so that those of one part of their range are as good as any: of a subset
with more rows than are held at a time, the ids are read again for each part. They are a hundredth
of the shards.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from megaxlm.data.shards import SPLITS, DatasetIndex, Split, Subset
from megaxlm_data.shard_scan import open_columns
from megaxlm_data.threads import map_threads
from megaxlm_data.verify.problem import Problem
from megaxlm_data.workers import available_cpus

HELD_IDS = 64 << 20  # by all threads together: half a gigabyte, twice that while they are sorted
Ids = npt.NDArray[np.uint64]


@dataclass
class _Found:
    """What a check of ids turned up."""

    count: int = 0
    example: int = 0

    def add(self, ids: Ids) -> None:
        if len(ids) and not self.count:
            self.example = int(ids[0])
        self.count += len(ids)


@dataclass
class _Group:
    """One language or pair."""

    name: str
    subsets: dict[Split, Subset] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        return sum(subset.rows for subset in self.subsets.values())


def check_document_ids(
    directory: Path,
    index: DatasetIndex,
    whole: Collection[tuple[Split, str]],
    threads: int | None = None,
    held_ids: int = HELD_IDS,
) -> list[Problem]:
    """Checks the ids of every language and pair.

    Args:
        directory: The data set.
        index: Its index.
        whole: (split, name) of the subsets whose shards can all be read; others are left out.
        threads: How many groups at once; None for one a CPU.
        held_ids: How many ids are held in memory.
    """
    settings = index.build.get("settings", {}).get("deduplication", {})
    unique = settings.get("documents") is True  # where the recipe is not known copies may be meant
    groups: dict[str, _Group] = {}
    for subset in index.subsets:
        if subset.rows and (subset.split, subset.name) in whole:
            group = groups.setdefault(subset.name, _Group(subset.name))
            group.subsets[subset.split] = subset
    threads = threads or available_cpus()

    def check(group: _Group) -> list[Problem]:
        return list(_check_group(directory, group, unique, max(1, held_ids // threads)))

    results = map_threads(check, list(groups.values()), threads)
    return [problem for problems in results for problem in problems]


def _check_group(directory: Path, group: _Group, unique: bool, held: int) -> Iterator[Problem]:
    bits = max(0, (-(-group.rows // held) - 1).bit_length())  # 2^bits parts of the range
    twice = {split: _Found() for split in group.subsets}
    both = _Found()
    for part in range(1 << bits):
        ids = {
            split: np.sort(_ids_of(directory, subset, part, bits))
            for split, subset in group.subsets.items()
        }
        for split, ordered in ids.items():
            twice[split].add(ordered[1:][ordered[1:] == ordered[:-1]])
        if len(ids) == len(SPLITS):
            train, validation = ids["train"], ids["validation"]
            place = np.minimum(np.searchsorted(train, validation), max(0, len(train) - 1))
            if len(train):
                both.add(validation[train[place] == validation])
    for split, subset in group.subsets.items():
        if unique and twice[split].count:
            path = _last_shard_with(directory, subset, twice[split].example)
            name = f"{split}/{group.name}"
            yield Problem(path, f"{twice[split].count:,} documents stand more than once in {name}")
    if both.count:
        path = _last_shard_with(directory, group.subsets["validation"], both.example)
        yield Problem(path, f"{both.count:,} documents stand in train/{group.name} too")


def _ids_of(directory: Path, subset: Subset, part: int, bits: int) -> Ids:
    """Returns the ids of a subset whose upper bits are `part`."""
    pieces = []
    for info in subset.shards:
        ids = open_columns(directory / info.path).doc_ids
        pieces.append(ids[(ids >> np.uint64(64 - bits)) == np.uint64(part)] if bits else ids)
    return np.concatenate(pieces)


def _last_shard_with(directory: Path, subset: Subset, doc_id: int) -> str:
    """Returns the path of the last shard that holds an id: where a copy came to."""
    for info in reversed(subset.shards):
        if bool((open_columns(directory / info.path).doc_ids == np.uint64(doc_id)).any()):
            return info.path
    raise AssertionError("the id was found before")
