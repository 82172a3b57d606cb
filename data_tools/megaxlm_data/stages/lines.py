"""Stage 2, last part, if asked for: lines go that an earlier document of the language holds too.

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
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from megaxlm.config.data_build import DataBuildConfig
from megaxlm.config.data_deduplication import LineDeduplicationConfig
from megaxlm.data.shards import write_atomically
from megaxlm_data.crew import Crew
from megaxlm_data.dedup import records as sorted_records
from megaxlm_data.dedup.lines import line_records, repeats, without_lines
from megaxlm_data.dedup.records import RECORD, Records, SortedFile, write_sorted
from megaxlm_data.document import Document
from megaxlm_data.progress import Progress
from megaxlm_data.stages import chunks
from megaxlm_data.stages.chunks import chunks_of, remove_temporary
from megaxlm_data.stages.clean import CleanReport, cleaned_path
from megaxlm_data.stages.plan import Group, Plan, Unit, digest_of
from megaxlm_data.stages.select import Block, blocks_of
from megaxlm_data.stages.shuffle import BucketTask, ChunkTask, GroupFiles, GroupTask
from megaxlm_data.stages.tasks import run_tasks
from megaxlm_data.workers import WorkerPool, advance
from megaxlm_data.writers.atomic import atomic_file
from megaxlm_data.writers.cleaned import CleanedWriter, open_cleaned

DROPPED = "duplicate_lines"  # why a document goes that is too short without them
REMOVED = "duplicate"  # lines taken out
_VERSION = 1


@dataclass(frozen=True)
class _Work(GroupFiles):
    """A group's files, until all its units are rewritten."""

    settings: LineDeduplicationConfig

    def repeats(self, bucket: int) -> Path:
        return self.folder / f"{bucket:06d}.repeats"


class _HashTask(ChunkTask[_Work]):
    @property
    def result(self) -> Path:
        return self.work.records(self.chunk.number)


class _RepeatTask(BucketTask[_Work]):
    @property
    def result(self) -> Path:
        return self.work.repeats(self.bucket)


@dataclass(frozen=True)
class _RewriteTask(GroupTask[_Work]):
    blocks: tuple[Block, ...]
    lang: str
    min_document_chars: int
    report: CleanReport
    source: Path
    target: Path
    result: Path  # the marker

    @property
    def size(self) -> int:
        return self.report.kept


def deduplicate_lines(
    plan: Plan,
    config: DataBuildConfig,
    reports: dict[str, CleanReport],
    cleaned: Path,
    folder: Path,
    pool: WorkerPool,
    crew: Crew,
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
        crew: The ranks that share them.
        progress: Where the bars are shown.

    Returns:
        The plan with units of the text that is left, their reports, and its folder; what was given
        where the config doesn't ask for this.
    """
    settings = config.deduplication.lines
    if settings is None:
        return plan, reports, cleaned
    folder.mkdir(parents=True, exist_ok=True)
    works, groups, left, links = [], [], dict[str, CleanReport](), []
    for group in plan.groups:
        after = group if group.is_bitext else _renamed(group, config, settings)
        groups.append(after)
        if not group.is_bitext:
            works.append((_work(group, after, settings, reports, cleaned, folder), group, after))
            continue
        for unit in group.units:
            links.append((cleaned_path(cleaned, unit), cleaned_path(folder, unit)))
            left[unit.digest] = reports[unit.digest]
    if crew.leads:
        _tidy(folder, groups, alone=crew.world_size == 1)
        for source, target in links:
            _link(source, target)
    crew.wait("lines", lambda: [target for _, target in links if not target.exists()])
    _run(works, config, reports, cleaned, folder, pool, crew, progress)
    for group in groups:
        for unit in group.units:
            if unit.digest not in left:
                content = json.loads(_marker(folder, unit).read_text(encoding="utf-8"))
                left[unit.digest] = CleanReport(**content)
    return replace(plan, groups=tuple(groups)), left, folder


def _renamed(group: Group, config: DataBuildConfig, settings: LineDeduplicationConfig) -> Group:
    """Returns a group of units that are known by all that their text depends on now."""
    minimum = config.filters.for_lang(group.name).min_document_chars
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


def _work(
    group: Group,
    after: Group,
    settings: LineDeduplicationConfig,
    reports: dict[str, CleanReport],
    cleaned: Path,
    folder: Path,
) -> _Work:
    name = after.units[0].digest
    size = sum(reports[unit.digest].text_bytes for unit in group.units)
    return _Work(
        folder / f"{name}.work",
        folder / f"{name}.done",
        len(chunks_of(blocks_of(group, reports, cleaned))),
        size // settings.min_chars,  # a character takes a byte at least
        sorted_records.BUCKET_RECORDS,
        settings,
    )


def _tidy(folder: Path, groups: list[Group], alone: bool) -> None:
    """Removes what builds of another config left, and what killed ones left half written."""
    units = [unit for group in groups for unit in group.units]
    names = {cleaned_path(folder, unit).name for unit in units}
    names |= {f"{unit.digest}.{kind}" for unit in units for kind in ("json", "done", "work")}
    for path in folder.iterdir():
        if path.name.startswith("."):
            continue
        if path.name not in names:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        elif path.suffix == ".work" and path.with_suffix(".done").exists():
            shutil.rmtree(path)
    if alone:  # else another rank may be writing
        remove_temporary(folder)


def _run(
    works: list[tuple[_Work, Group, Group]],
    config: DataBuildConfig,
    reports: dict[str, CleanReport],
    cleaned: Path,
    folder: Path,
    pool: WorkerPool,
    crew: Crew,
    progress: Progress,
) -> None:
    """Does the tasks of all groups that are not done."""
    hashes, repeats_, rewrites = list[_HashTask](), list[_RepeatTask](), list[_RewriteTask]()
    for work, group, after in works:
        if not work.done.exists():
            work.folder.mkdir(exist_ok=True)
        pieces = chunks_of(blocks_of(group, reports, cleaned))
        hashes += [_HashTask(work, chunk) for chunk in pieces]
        repeats_ += [_RepeatTask(work, bucket) for bucket in range(len(work.buckets))]
        rewrites += _rewrite_tasks(work, group, after, config, reports, cleaned, folder)
    run_tasks("lines", "doc", _hash, hashes, pool, crew, progress)
    run_tasks("repeats", "bucket", _repeat, repeats_, pool, crew, progress)
    run_tasks("rewrite", "doc", _rewrite, rewrites, pool, crew, progress)
    for work, _, _ in works:
        if crew.leads and not work.done.exists():
            write_atomically(work.done, b"{}")
            shutil.rmtree(work.folder)
    crew.wait("lines", lambda: [work for work, _, _ in works if not work.done.exists()])


def _rewrite_tasks(
    work: _Work,
    group: Group,
    after: Group,
    config: DataBuildConfig,
    reports: dict[str, CleanReport],
    cleaned: Path,
    folder: Path,
) -> Iterator[_RewriteTask]:
    row = 0
    for unit, new in zip(group.units, after.units, strict=True):
        alone = blocks_of(replace(group, units=(unit,)), reports, cleaned)
        blocks = tuple(replace(b, start=b.start + row, stop=b.stop + row) for b in alone)
        row = blocks[-1].stop if blocks else row
        yield _RewriteTask(
            work,
            blocks,
            group.name,
            config.filters.for_lang(group.name).min_document_chars,
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
    write_sorted(task.result, np.concatenate(found))


def _repeat(task: _RepeatTask) -> None:
    work = task.work
    found = repeats(work.read_bucket(task.bucket), work.settings.max_documents)
    write_sorted(task.result, found)
    advance(task.size)


def _rewrite(task: _RewriteTask) -> None:
    work = task.work
    files = [SortedFile(work.repeats(bucket)) for bucket in range(len(work.buckets))]
    first, end = (task.blocks[0].start, task.blocks[-1].stop) if task.blocks else (0, 0)
    if all(file.place(first) == file.place(end) for file in files):
        _link(task.source, task.target)
        report = task.report
        advance(report.kept)
    else:
        report = _rewritten(task, files)
    write_atomically(task.result, json.dumps(asdict(report)).encode())


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
        blocks=[],  # the new file holds nothing else
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
    try:
        os.link(source, target)
    except OSError:
        with open(source, "rb") as old, atomic_file(target) as new:
            while part := old.read(1 << 20):
                new.write(part)
