"""Random access to the documents of a data set without loading or indexing it.

Opening reads `dataset.json` alone; a shard is memory mapped when a row of it is first asked for.
Mappings are kept, since mapping one anew costs as much as making several rows.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from megaxlm.data.order import Int64Array
from megaxlm.data.shards import DatasetIndex, Shard, Subset, read_index, tokenizer_path
from megaxlm.errors import CorruptDataError, UserError

MAX_OPEN_SHARDS = 16_384  # Linux allows a process 65,530 mappings (vm.max_map_count)


class ShardStore:
    """A data set opened for reading."""

    def __init__(self, directory: Path, max_open_shards: int = MAX_OPEN_SHARDS) -> None:
        """Opens a data set.

        Args:
            directory: The data set.
            max_open_shards: How many shards stay mapped at once.

        Raises:
            UserError: There is no data set here, or its tokenizer is not the one it was made with.
            CorruptDataError: The index cannot be read.
        """
        self.directory = directory
        self.index: DatasetIndex = read_index(directory)
        self._max_open = max_open_shards
        self._open: OrderedDict[str, Shard] = OrderedDict()
        self._checked: set[str] = set()
        check_tokenizer(directory, self.index)

    def shard(self, subset: Subset, number: int) -> Shard:
        """Returns a shard of a subset, mapped.

        Raises:
            CorruptDataError: The file is missing, truncated or not what the index says.
        """
        info = subset.shards[number]
        shard = self._open.get(info.path)
        if shard is not None:
            self._open.move_to_end(info.path)
            return shard
        shard = Shard(self.directory, info, subset.is_bitext)
        if info.path not in self._checked:
            self._check_offsets(shard)
            self._checked.add(info.path)
        if len(self._open) >= self._max_open:
            self._open.popitem(last=False)
        self._open[info.path] = shard
        return shard

    def _check_offsets(self, shard: Shard) -> None:
        tokens = 0
        for values, offsets in shard.sides:
            if offsets[0] < 0 or offsets[-1] > len(values) or bool((np.diff(offsets) < 0).any()):
                tokens = -1
                break
            tokens += int(offsets[-1] - offsets[0])
        if tokens != shard.info.tokens:
            raise CorruptDataError(
                f"{self.directory / shard.info.path}: document borders differ from dataset.json; "
                "run `megaxlm data verify` and build this data set again"
            )


def check_tokenizer(directory: Path, index: DatasetIndex) -> None:
    """Makes sure that the token ids in the shards mean what the tokenizer beside them says.

    Raises:
        UserError: The tokenizer is missing or another one.
    """
    path = tokenizer_path(directory)
    try:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise UserError(
            f"{path}: cannot read the tokenizer of this data set ({error.strerror}); "
            "restore the file or build the data set again"
        ) from None
    if found != index.tokenizer_sha256:
        raise UserError(
            f"{path}: SHA-256 {found[:12]}... where dataset.json says "
            f"{index.tokenizer_sha256[:12]}...: the shards were made with another tokenizer; "
            "restore it or build the data set again"
        )


class SubsetReader:
    """The documents (or pairs) of one subset as one long list over all its shards."""

    def __init__(self, store: ShardStore, subset: Subset) -> None:
        self.store = store
        self.subset = subset
        self.rows_before: Int64Array = _starts([shard.rows for shard in subset.shards])
        self.tokens_before: Int64Array = _starts([shard.tokens for shard in subset.shards])
        self.num_rows = int(self.rows_before[-1])
        self.num_tokens = int(self.tokens_before[-1])

    def shard(self, number: int) -> Shard:
        """Returns a shard by its number in the subset."""
        return self.store.shard(self.subset, number)

    def spans(self, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """Yields (shard number, first row, last row + 1) covering rows [start, stop)."""
        number = int(np.searchsorted(self.rows_before, start, side="right")) - 1
        while start < stop:
            first, end = int(self.rows_before[number]), int(self.rows_before[number + 1])
            last = min(stop, end)
            if start < last:
                yield number, start - first, last - first
            start = max(start, last)
            number += 1


def _starts(counts: list[int]) -> Int64Array:
    return np.concatenate(([0], np.cumsum(np.array(counts, np.int64)))).astype(np.int64)
