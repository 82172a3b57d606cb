"""`megaxlm data verify`: does a data set hold, byte for byte, what its index says?"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from megaxlm.data.shards import (
    DatasetIndex,
    Shard,
    ShardInfo,
    Subset,
    file_xxh3,
    read_index,
    tokenizer_path,
)
from megaxlm.data.special_tokens import UNK
from megaxlm.errors import CorruptDataError
from megaxlm_data.progress import Progress
from megaxlm_data.workers import available_cpus

_MAX_THREADS = 8  # hashing runs outside the interpreter's lock; more only queue for the disk


@dataclass(frozen=True)
class Problem:
    """Something that is not as the index says."""

    path: str  # relative to the data set
    what: str


@dataclass(frozen=True)
class VerifyReport:
    """What was checked and what was wrong."""

    directory: Path
    shards: int
    size: int  # bytes of all shards
    problems: tuple[Problem, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing was wrong."""
        return not self.problems

    def render(self) -> str:
        """Returns one line for each problem, or the one that says there is none."""
        if self.ok:
            return f"{self.directory}: {self.shards} shards, {self.size:,} bytes: all as indexed"
        lines = [f"{self.directory / p.path}: {p.what}" for p in self.problems]
        return "\n".join([*lines, f"{len(lines)} problems: build this data set again"])


def verify(directory: Path, progress: bool = True) -> VerifyReport:
    """Checks the SentencePiece model and every shard: size, checksum, columns, rows, tokens.

    Files that the index does not name are not looked at, nor are the Hugging Face files, which
    are made from the model.

    Raises:
        UserError: There is no data set.
        CorruptDataError: The index itself is unreadable.
    """
    index = read_index(directory)
    problems = list(_check_tokenizer(directory, index))
    shards = [(subset, info) for subset in index.subsets for info in subset.shards]
    size = sum(info.size for _, info in shards)

    def check(item: tuple[Subset, ShardInfo]) -> tuple[int, list[Problem]]:
        subset, info = item
        found = _check_shard(directory, info, subset, index.vocab_size)
        return info.size, [Problem(info.path, what) for what in found]

    threads = min(_MAX_THREADS, available_cpus())
    with (
        Progress(progress).bar("verify", size, "B") as bar,
        ThreadPoolExecutor(threads) as executor,
    ):
        for done, found in executor.map(check, shards):
            bar.update(done)
            problems += found
    return VerifyReport(directory, len(shards), size, tuple(problems))


def _check_tokenizer(directory: Path, index: DatasetIndex) -> Iterator[Problem]:
    path = tokenizer_path(directory)
    name = path.relative_to(directory).as_posix()
    try:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        yield Problem(name, f"tokenizer cannot be read ({error.strerror})")
        return
    if found != index.tokenizer_sha256:
        yield Problem(
            name,
            f"tokenizer changed: SHA-256 {found[:12]}, the shards were made with "
            f"{index.tokenizer_sha256[:12]}",
        )


def _check_shard(directory: Path, info: ShardInfo, subset: Subset, vocab_size: int) -> list[str]:
    path = directory / info.path
    try:
        size = path.stat().st_size
        if size != info.size:
            return [f"shard is truncated or altered: {size:,} bytes instead of {info.size:,}"]
        checksum = file_xxh3(path)
    except FileNotFoundError:
        return ["shard is missing"]
    except OSError as error:
        return [f"shard cannot be read ({error.strerror})"]
    if checksum != info.xxh3:
        return [f"shard is altered: XXH3 {checksum} instead of {info.xxh3}"]
    try:
        shard = Shard(directory, info, subset.is_bitext)
    except CorruptDataError as error:
        return [str(error).removeprefix(f"{path}: ")]
    found = []
    tokens = 0
    for values, offsets in shard.sides:
        tokens += len(values)
        if len(offsets) and (offsets[0] != 0 or offsets[-1] != len(values)):
            found.append("offsets do not cover the tokens")
        if len(offsets) > 1 and int(np.diff(offsets).min()) < 0:
            found.append("offsets go backwards")
        if len(values) and not UNK <= int(values.min()) <= int(values.max()) < vocab_size - 1:
            found.append(f"token ids outside the vocabulary of {vocab_size}")
    if tokens != info.tokens:
        found.append(f"{tokens:,} tokens instead of {info.tokens:,}")
    return found
