"""Checks a data set: every shard in full, its tokenizer, and what is told of them in the index."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from megaxlm.data.shards import (
    SPLITS,
    DatasetIndex,
    ShardInfo,
    Split,
    Subset,
    file_xxh3,
    read_index,
)
from megaxlm.errors import CorruptDataError
from megaxlm_data.progress import Progress
from megaxlm_data.shard_scan import ShardScan, scan_shard
from megaxlm_data.threads import map_threads
from megaxlm_data.verify.document_ids import check_document_ids
from megaxlm_data.verify.problem import Problem
from megaxlm_data.verify.tokenizer import check_tokenizer

Counts = tuple[dict[str, int], ...]  # of each side of a shard
_OTHER_FILES = 5  # named one by one; more are only counted


@dataclass(frozen=True)
class VerifyReport:
    """What was checked and what was wrong."""

    directory: Path
    shards: int
    size: int  # bytes of all shards
    problems: tuple[Problem, ...]
    notes: tuple[str, ...]  # one line each, of what does no harm

    @property
    def ok(self) -> bool:
        """Whether nothing was wrong."""
        return not self.problems

    def lines(self) -> list[str]:
        """Returns one line for each problem, and what to do at the end."""
        lines = [f"{self.directory / p.path}: {p.what}" for p in self.problems]
        if lines:
            count = "1 problem" if len(lines) == 1 else f"{len(lines)} problems"
            lines.append(
                f"{self.directory}: {count}; bring these files back from a copy, or delete this "
                "data set and build it again"
            )
        return lines

    def render(self) -> str:
        """Returns the lines, or the one that says there is none."""
        if self.ok:
            return f"{self.directory}: {self.shards} shards, {self.size:,} bytes: all as indexed"
        return "\n".join(self.lines())


@dataclass(frozen=True)
class _Checked:
    problems: tuple[Problem, ...]
    counts: Counts = ()


def verify(directory: Path, progress: bool = True, threads: int | None = None) -> VerifyReport:
    """Checks everything that a data set says of itself.

    The SentencePiece model, and that the Hugging Face files beside it give its ids. Every shard:
    size, checksum, columns, rows, tokens, bytes, ids inside the vocabulary. The counts of the
    build against the shards. No document twice in a language or pair (unless the recipe left
    copies in), none both in training and in validation. Files in the folders of shards that the
    index does not name are a note.

    Args:
        directory: The data set.
        progress: Whether a bar is shown on stderr.
        threads: How many shards are read at once; None for one a CPU.

    Raises:
        UserError: There is no data set.
        CorruptDataError: The index itself is unreadable.
    """
    index = read_index(directory)
    problems, is_byte = check_tokenizer(directory, index)
    shards = [(subset, info) for subset in index.subsets for info in subset.shards]
    size = sum(info.size for _, info in shards)

    def check(item: tuple[Subset, ShardInfo]) -> _Checked:
        subset, info = item
        return _check_shard(directory, info, subset, is_byte)

    sound: dict[tuple[Split, str], list[Counts]] = {}
    with Progress(progress).bar("verify", size, "B") as bar:
        results = map_threads(check, shards, threads)
        for (subset, info), checked in zip(shards, results, strict=True):
            bar.update(info.size)
            problems += checked.problems
            if not checked.problems:
                sound.setdefault((subset.split, subset.name), []).append(checked.counts)
    whole = {
        key: sound[key]
        for subset in index.subsets
        if len(sound.get(key := (subset.split, subset.name), ())) == len(subset.shards)
    }
    for subset in index.subsets:
        if subset.shards and (key := (subset.split, subset.name)) in whole:
            problems += _check_counts(index, subset, whole[key])
    problems += check_document_ids(directory, index, whole, threads)
    notes = tuple(_stray_files(directory, index))
    return VerifyReport(directory, len(shards), size, tuple(problems), notes)


def _check_shard(
    directory: Path, info: ShardInfo, subset: Subset, is_byte: npt.NDArray[np.bool_]
) -> _Checked:
    def wrong(*found: str) -> _Checked:
        return _Checked(tuple(Problem(info.path, what) for what in found))

    path = directory / info.path
    try:
        size = path.stat().st_size
        if size != info.size:
            return wrong(f"shard is truncated or altered: {size:,} bytes instead of {info.size:,}")
        checksum = file_xxh3(path)
        if checksum != info.xxh3:
            return wrong(f"shard is altered: XXH3 {checksum} instead of {info.xxh3}")
        scan = scan_shard(path, is_byte)
    except FileNotFoundError:
        return wrong("shard is missing")
    except OSError as error:
        return wrong(f"shard cannot be read ({error.strerror})")
    except CorruptDataError as error:
        return wrong(str(error).removeprefix(f"{path}: "))
    if scan.columns.is_bitext != subset.is_bitext:
        return wrong(f"columns are not those of {subset.name}")
    found = [*scan.problems, *_differences(scan, info)]
    return wrong(*found) if found else _Checked((), scan.counts)


def _differences(scan: ShardScan, info: ShardInfo) -> Iterator[str]:
    counted = {
        "rows": (scan.columns.rows, info.rows),
        "tokens": (scan.tokens, info.tokens),
        "bytes of text": (scan.text_bytes, info.text_bytes),
    }
    for what, (found, said) in counted.items():
        if found != said:
            yield f"{found:,} {what} instead of {said:,}"


def _check_counts(index: DatasetIndex, subset: Subset, shards: list[Counts]) -> Iterator[Problem]:
    """Compares what `inspect` shows with the shards it was counted in."""
    said = index.build.get("counts", {}).get(subset.name, {}).get(subset.split, {})
    for side, lang in enumerate(subset.langs):
        total: Counter[str] = Counter()
        for counts in shards:
            total.update(counts[side])
        for what, found in total.items():
            if what in said.get(lang, {}) and said[lang][what] != found:
                yield Problem(
                    "dataset.json",
                    f"build.counts.{subset.name}.{subset.split}.{lang}.{what} is "
                    f"{said[lang][what]:,}, the shards hold {found:,}",
                )


def _stray_files(directory: Path, index: DatasetIndex) -> Iterator[str]:
    """Names files that lie among the shards and are none: nobody reads them."""
    known = {info.path for subset in index.subsets for info in subset.shards}
    found = []
    for split in SPLITS:
        for path in sorted((directory / split).rglob("*")):
            if path.is_file() and path.relative_to(directory).as_posix() not in known:
                found.append(path)
    for path in found[:_OTHER_FILES]:
        yield f"{path}: not in the index, nobody reads it; delete it if it is not yours"
    if len(found) > _OTHER_FILES:
        yield f"{directory}: {len(found) - _OTHER_FILES} more files that are not in the index"
