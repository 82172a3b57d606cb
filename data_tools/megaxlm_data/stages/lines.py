"""Stage 3, if asked for: lines go that an earlier document of the language holds too.

    hash      a chunk of blocks to sorted records of (hash of a line, row)
    repeat    a range of hashes, out of all chunks, to sorted records of (row, hash that goes)
    rewrite   the clean text of a unit, without these lines

Each task is a function of its inputs and writes a file that gets its name when it is whole. What
comes out is clean text in a folder of its own, with reports and units of its own, so that the
stages after this one see no difference. Documents get the id of the text that is left; those that
are too short without their repeated lines are dropped. Pairs of bitext stay as they are.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from megaxlm.config.data_build import DataBuildConfig
from megaxlm.config.data_deduplication import LineDeduplicationConfig
from megaxlm.data.shards import write_atomically
from megaxlm_data.dedup import records as sorted_records
from megaxlm_data.dedup.lines import line_records, repeats, without_lines
from megaxlm_data.dedup.records import (
    RECORD,
    Records,
    SortedFile,
    bucket_bounds,
    read_range,
    write_sorted,
)
from megaxlm_data.document import Document
from megaxlm_data.progress import Progress
from megaxlm_data.stages import chunks
from megaxlm_data.stages.chunks import Chunk, chunks_of, remove_temporary
from megaxlm_data.stages.clean import CleanReport, cleaned_path
from megaxlm_data.stages.plan import Group, Plan, Unit, digest_of
from megaxlm_data.stages.select import Block, blocks_of
from megaxlm_data.workers import WorkerPool, advance
from megaxlm_data.writers.atomic import atomic_file
from megaxlm_data.writers.cleaned import CleanedWriter, open_cleaned

DROPPED = "duplicate_lines"  # why a document goes that is too short without them
REMOVED = "duplicate"  # lines taken out
_VERSION = 1


@dataclass(frozen=True)
class _Work:
    """The files of a group that is under way."""

    folder: Path
    chunks: int
    settings: LineDeduplicationConfig
    bucket_records: int

    def records(self, chunk: int) -> Path:
        return self.folder / f"{chunk:06d}.records"

    def repeats(self, bucket: int) -> Path:
        return self.folder / f"{bucket:06d}.repeats"

    def buckets(self) -> list[tuple[int, int]]:
        """The ranges of hashes; known once all records are there."""
        sizes = (self.records(number).stat().st_size for number in range(self.chunks))
        return bucket_bounds(sum(sizes) // RECORD.itemsize, self.bucket_records)


@dataclass(frozen=True)
class _HashTask:
    work: _Work
    chunk: Chunk


@dataclass(frozen=True)
class _RepeatTask:
    work: _Work
    bucket: int
    first: int
    end: int


@dataclass(frozen=True)
class _RewriteTask:
    work: _Work
    buckets: int
    blocks: tuple[Block, ...]
    lang: str
    min_document_chars: int
    report: CleanReport
    source: Path
    target: Path
    marker: Path


def deduplicate_lines(
    plan: Plan,
    config: DataBuildConfig,
    reports: dict[str, CleanReport],
    cleaned: Path,
    folder: Path,
    pool: WorkerPool,
    progress: Progress,
) -> tuple[Plan, dict[str, CleanReport], Path]:
    """Takes out lines that an earlier document of the same language holds.

    Args:
        plan: The groups; those of pairs are left as they are.
        config: The build's config.
        reports: What cleaning left, by unit digest.
        cleaned: The folder of clean text.
        folder: For the files of this stage.
        pool: Where tasks run.
        progress: Where the bars are shown.

    Returns:
        The plan with units of the text that is left, their reports, and its folder; what was given
        where the config doesn't ask for this.
    """
    settings = config.deduplication.lines
    if settings is None:
        return plan, reports, cleaned
    folder.mkdir(parents=True, exist_ok=True)
    groups, left, waiting = [], dict[str, CleanReport](), list[tuple[Group, Group]]()
    for group in plan.groups:
        after = group if group.is_bitext else _renamed(group, config, settings)
        groups.append(after)
        if group.is_bitext:
            for unit in group.units:
                _link(cleaned_path(cleaned, unit), cleaned_path(folder, unit))
                left[unit.digest] = reports[unit.digest]
        elif not all(_finished(folder, unit) for unit in after.units):
            waiting.append((group, after))
    _tidy(folder, groups, waiting)
    _run(waiting, config, settings, reports, cleaned, folder, pool, progress)
    for group in groups:
        for unit in group.units:
            if unit.digest not in left:
                content = json.loads(_marker(folder, unit).read_text(encoding="utf-8"))
                left[unit.digest] = CleanReport(**content)
    return replace(plan, groups=tuple(groups)), left, folder


def _renamed(group: Group, config: DataBuildConfig, settings: LineDeduplicationConfig) -> Group:
    """Returns a group of units that are known by all that their text depends on now."""
    minimum = config.filters.min_document_chars
    units = [unit.digest for unit in group.units]
    cuts = [sorted_records.BUCKET_RECORDS, chunks.SIZES]  # files under way depend on them
    key = [_VERSION, cuts, group.langs, units, settings.model_dump(), minimum]
    return replace(
        group,
        units=tuple(
            replace(unit, digest=digest_of([key, number]))
            for number, unit in enumerate(group.units)
        ),
    )


def _marker(folder: Path, unit: Unit) -> Path:
    return folder / f"{unit.digest}.json"


def _finished(folder: Path, unit: Unit) -> bool:
    return _marker(folder, unit).exists() and cleaned_path(folder, unit).exists()


def _work_folder(folder: Path, after: Group) -> Path:
    return folder / f"{after.units[0].digest}.work"


def _tidy(folder: Path, groups: list[Group], waiting: list[tuple[Group, Group]]) -> None:
    """Removes what builds of another config left, and what killed ones left half written."""
    names = {cleaned_path(folder, unit).name for group in groups for unit in group.units}
    names |= {_marker(folder, unit).name for group in groups for unit in group.units}
    names |= {_work_folder(folder, after).name for _, after in waiting}
    for path in folder.iterdir():
        if path.name not in names:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    remove_temporary(folder)


def _run(
    waiting: list[tuple[Group, Group]],
    config: DataBuildConfig,
    settings: LineDeduplicationConfig,
    reports: dict[str, CleanReport],
    cleaned: Path,
    folder: Path,
    pool: WorkerPool,
    progress: Progress,
) -> None:
    """Runs the tasks whose files are not there yet."""
    works, hash_tasks = [], []
    for group, after in waiting:
        pieces = chunks_of(blocks_of(group, reports, cleaned))
        work = _Work(
            _work_folder(folder, after), len(pieces), settings, sorted_records.BUCKET_RECORDS
        )
        work.folder.mkdir(exist_ok=True)
        works.append(work)
        for chunk in pieces:
            if not work.records(chunk.number).exists():
                hash_tasks.append(_HashTask(work, chunk))
    rows = sum(task.chunk.stop - task.chunk.start for task in hash_tasks)
    with progress.bar("lines", rows, "doc") as bar:
        for _ in pool.map(_hash, hash_tasks, "finished", bar.update):
            pass
    repeat_tasks = [
        _RepeatTask(work, bucket, first, end)
        for work in works
        for bucket, (first, end) in enumerate(work.buckets())
        if not work.repeats(bucket).exists()
    ]
    with progress.bar("repeats", len(repeat_tasks), "bucket") as bar:
        for _ in pool.map(_repeat, repeat_tasks, "finished", bar.update):
            pass
    rewrite_tasks = [
        task
        for work, (group, after) in zip(works, waiting, strict=True)
        for task in _rewrite_tasks(work, group, after, config, reports, cleaned, folder)
    ]
    rows = sum(task.report.kept for task in rewrite_tasks)
    with progress.bar("rewrite", rows, "doc") as bar:
        for _ in pool.map(_rewrite, rewrite_tasks, "finished", bar.update):
            pass
    for work in works:
        shutil.rmtree(work.folder)


def _rewrite_tasks(
    work: _Work,
    group: Group,
    after: Group,
    config: DataBuildConfig,
    reports: dict[str, CleanReport],
    cleaned: Path,
    folder: Path,
) -> Iterator[_RewriteTask]:
    row, buckets = 0, len(work.buckets())
    for unit, new in zip(group.units, after.units, strict=True):
        alone = blocks_of(replace(group, units=(unit,)), reports, cleaned)
        blocks = tuple(replace(b, start=b.start + row, stop=b.stop + row) for b in alone)
        row = blocks[-1].stop if blocks else row
        if not _finished(folder, new):
            yield _RewriteTask(
                work,
                buckets,
                blocks,
                group.name,
                config.filters.min_document_chars,
                reports[unit.digest],
                cleaned_path(cleaned, unit),
                cleaned_path(folder, new),
                _marker(folder, new),
            )


def _hash(task: _HashTask) -> None:
    min_chars = task.work.settings.min_chars
    found = [np.zeros(0, RECORD)]
    for block in task.chunk.blocks:
        rows = range(block.start, block.stop)
        (texts,) = open_cleaned(block.path, True).texts(block.number, np.ones(len(rows), np.bool_))
        found.append(line_records(texts, rows, min_chars))
        advance(len(rows))
    write_sorted(task.work.records(task.chunk.number), np.concatenate(found))


def _repeat(task: _RepeatTask) -> None:
    work = task.work
    paths = [work.records(number) for number in range(work.chunks)]
    found = repeats(read_range(paths, task.first, task.end), work.settings.max_documents)
    write_sorted(work.repeats(task.bucket), found)
    advance(1)


def _rewrite(task: _RewriteTask) -> None:
    files = [SortedFile(task.work.repeats(bucket)) for bucket in range(task.buckets)]
    first, end = (task.blocks[0].start, task.blocks[-1].stop) if task.blocks else (0, 0)
    if all(file.place(first) == file.place(end) for file in files):
        _link(task.source, task.target)
        report = task.report
        advance(report.kept)
    else:
        report = _rewritten(task, files)
    write_atomically(task.marker, json.dumps(asdict(report)).encode())


def _rewritten(task: _RewriteTask, files: list[SortedFile]) -> CleanReport:
    """Writes the clean text of a unit again."""
    settings = task.work.settings
    removed = kept = text_bytes = 0
    with atomic_file(task.target) as file:
        writer = CleanedWriter(file, is_bitext=False)
        for block in task.blocks:
            going = np.concatenate([each.range(block.start, block.stop) for each in files])
            rows = np.ones(block.stop - block.start, np.bool_)
            (texts,) = open_cleaned(block.path, True).texts(block.number, rows)
            for text, hashes in zip(texts, _by_row(going, block), strict=True):
                before = lines = tuple(text.split("\n"))
                if len(hashes):
                    lines = without_lines(before, hashes, settings.min_chars)
                    removed += len(before) - len(lines)
                    length = sum(map(len, lines)) + len(lines) - 1
                    if length < max(1, task.min_document_chars):
                        continue
                writer.add(Document(task.lang, lines))
                kept += 1
                text_bytes += len("\n".join(lines).encode())
            advance(len(rows))
        writer.close()
    report = task.report
    dropped = {DROPPED: report.kept - kept} if kept < report.kept else {}
    return replace(
        report,
        kept=kept,
        text_bytes=text_bytes,
        block_rows=writer.block_rows,
        drops=dict(sorted({**report.drops, **dropped}.items())),
        lines=dict(sorted({**report.lines, REMOVED: removed}.items())),
    )


def _by_row(going: Records, block: Block) -> list[np.ndarray[tuple[int], np.dtype[np.uint64]]]:
    """Returns the hashes that go from each row of a block."""
    going = going[np.argsort(going["key"], kind="stable")]
    cuts = np.searchsorted(going["key"], np.arange(block.start + 1, block.stop, dtype=np.uint64))
    return np.split(going["value"], cuts)


def _link(source: Path, target: Path) -> None:
    """Gives a file a second name; copies it where the file system can't."""
    if target.exists():
        return
    with suppress(OSError):
        os.link(source, target)
        return
    with open(source, "rb") as old, atomic_file(target) as new:
        while part := old.read(1 << 20):
            new.write(part)
