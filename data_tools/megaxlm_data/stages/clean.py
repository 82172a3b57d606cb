"""Stage 2: read, normalise and filter. One task a unit, each writing its own file of clean text."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path

from megaxlm.config.data_build import DataBuildConfig
from megaxlm.data.shards import write_atomically
from megaxlm.errors import UserError
from megaxlm_data.bitext.readers import RawPair, read_aligned, read_tsv
from megaxlm_data.document import (
    Document,
    Pair,
    count_unspaced,
    normalize_line,
    normalize_lines,
)
from megaxlm_data.filters.base import apply_steps, total_drops
from megaxlm_data.filters.build_steps import build_document_steps, build_pair_steps
from megaxlm_data.filters.findings import Findings, findings_of
from megaxlm_data.filters.length import TOO_LONG
from megaxlm_data.progress import Progress
from megaxlm_data.readers.documents import read_documents
from megaxlm_data.readers.lines import OVERLONG, UNDECODABLE, LineReader
from megaxlm_data.readers.stream import TruncatedInputError
from megaxlm_data.stages.plan import Plan, Unit
from megaxlm_data.workers import WorkerPool, advance
from megaxlm_data.writers.atomic import atomic_file
from megaxlm_data.writers.cleaned import CleanedWriter

# Text is held before it is normalised, and white space may shrink: so much more than the limit on
# a clean document is read before one is given up as too long.
_RAW_FACTOR, _RAW_EXTRA = 4, 1 << 16
_SCRIPT_SAMPLE = 200  # characters at the start of a document that tell its script
_REPORT_EVERY = 256  # documents


@dataclass
class CleanReport:
    """What became of a unit."""

    read: int = 0  # documents or pairs
    kept: int = 0
    text_bytes: int = 0
    block_rows: list[int] = field(default_factory=list)
    drops: dict[str, int] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)  # invalid_utf8, replaced_utf8
    sampled_chars: list[int] = field(default_factory=list)  # of each side
    unspaced_chars: list[int] = field(default_factory=list)
    findings: Findings = field(default_factory=dict)


@dataclass(frozen=True)
class _CleanTask:
    unit: Unit
    config: DataBuildConfig
    folder: Path


def cleaned_path(folder: Path, unit: Unit) -> Path:
    """Returns where the clean text of a unit lies."""
    return folder / f"{unit.digest}.arrow"


def clean(
    plan: Plan, config: DataBuildConfig, folder: Path, pool: WorkerPool, progress: Progress
) -> dict[str, CleanReport]:
    """Cleans every unit that is not clean yet.

    Returns:
        The report of each unit, by its digest.

    Raises:
        UserError: An input is damaged, or a language ends with no document.
    """
    folder.mkdir(parents=True, exist_ok=True)
    reports: dict[str, CleanReport] = {}
    tasks = []
    for unit in sorted(plan.units, key=lambda unit: -unit.input_bytes):  # the longest first
        if (report := _finished(folder, unit)) is not None:
            reports[unit.digest] = report
        else:
            tasks.append(_CleanTask(unit, config, folder))
    if reports:
        progress.say(f"clean: {len(reports)} of {len(plan.units)} inputs are already done")
    with progress.bar("clean", sum(task.unit.input_bytes for task in tasks), "B") as bar:
        for task, report in pool.map(_clean_unit, tasks, "finished", bar.update):
            reports[task.unit.digest] = report
    for group in plan.groups:
        mine = [reports[unit.digest] for unit in group.units]
        for unit, report in zip(group.units, mine, strict=True):
            if unit.input_bytes and not report.read and unit.start == 0 and unit.end is None:
                files = " and ".join(map(str, unit.files))
                progress.warn(f"{files}: no document of {group.name} inside")
        if not any(report.kept for report in mine):
            raise UserError(_no_data(group.name, group.files, mine))
    return reports


def _no_data(name: str, files: list[str], reports: Iterable[CleanReport]) -> str:
    drops: Counter[str] = Counter()
    for report in reports:
        drops.update(report.drops)
    named = ", ".join(files[:3]) + (f" and {len(files) - 3} more" if len(files) > 3 else "")
    if not drops:
        return f"{name}: no document in {named}; give it text or take it out of the config"
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in drops.most_common())
    hint = " (documents are separated by a blank line)" if drops[TOO_LONG] else ""
    return (
        f"{name}: every document of {named} was dropped: {reasons}{hint}; change `filters`, or "
        "take it out of the config"
    )


def _finished(folder: Path, unit: Unit) -> CleanReport | None:
    try:
        content = json.loads(_marker(folder, unit).read_text(encoding="utf-8"))
        return CleanReport(**content) if cleaned_path(folder, unit).exists() else None
    except FileNotFoundError:
        return None


def _marker(folder: Path, unit: Unit) -> Path:
    return folder / f"{unit.digest}.json"


def _clean_unit(task: _CleanTask) -> CleanReport:
    unit = task.unit
    sides = len(unit.langs)
    report = CleanReport(sampled_chars=[0] * sides, unspaced_chars=[0] * sides)
    with atomic_file(cleaned_path(task.folder, unit)) as file:
        writer = CleanedWriter(file, is_bitext=sides == 2)
        items = (_pairs if sides == 2 else _documents)(unit, task, report)
        for item in items:
            writer.add(item)
            report.kept += 1
            texts = (item.text,) if isinstance(item, Document) else (item.source, item.target)
            for side, text in enumerate(texts):
                sample = text[:_SCRIPT_SAMPLE]
                report.sampled_chars[side] += len(sample)
                report.unspaced_chars[side] += count_unspaced(sample)
        writer.close()
    report.block_rows, report.text_bytes = writer.block_rows, writer.text_bytes
    write_atomically(_marker(task.folder, unit), json.dumps(asdict(report)).encode())
    return report


class _Meter:
    """Tells the parent of the bytes read, and counts what was read."""

    def __init__(self, readers: list[LineReader], report: CleanReport) -> None:
        self._readers, self._report = readers, report
        self._last = sum(reader.position for reader in readers)

    def count(self) -> None:
        self._report.read += 1
        if self._report.read % _REPORT_EVERY == 0:
            self.tick()

    def tick(self) -> None:
        position = sum(reader.position for reader in self._readers)
        advance(position - self._last)
        self._last = position


def _documents(unit: Unit, task: _CleanTask, report: CleanReport) -> Iterator[Document]:
    (lang,), config = unit.langs, task.config
    steps = build_document_steps(config, task.folder.parent)
    max_chars = _RAW_FACTOR * config.filters.max_document_chars + _RAW_EXTRA
    too_long = 0
    reader = LineReader(unit.files[0], config.on_invalid_utf8, 4 * max_chars, unit.start, unit.end)
    with reader:
        meter = _Meter([reader], report)
        try:
            for raw in read_documents(reader, max_chars, first_range=unit.start == 0):
                meter.count()
                if not isinstance(raw, str):
                    too_long += 1
                    continue
                document = Document(lang, normalize_lines(raw, config.normalization))
                document, reason = apply_steps(steps, document)
                if reason is None:
                    yield document
        except TruncatedInputError as error:
            raise UserError(f"{error} ({report.read:,} documents were read before)") from None
        meter.tick()
        dropped = total_drops(steps, lang) + Counter({TOO_LONG: too_long})
        report.drops, report.lines = dict(sorted(dropped.items())), dict(reader.counts)
        report.findings = findings_of(steps, lang)


def _pairs(unit: Unit, task: _CleanTask, report: CleanReport) -> Iterator[Pair]:
    langs, config = (unit.langs[0], unit.langs[1]), task.config
    steps = build_pair_steps(config, task.folder.parent)
    max_chars = _RAW_FACTOR * config.filters.max_pair_chars + _RAW_EXTRA
    dropped: Counter[str] = Counter()
    with ExitStack() as stack:
        readers = [
            stack.enter_context(
                LineReader(path, config.on_invalid_utf8, 4 * max_chars, unit.start, unit.end)
            )
            for path in unit.files
        ]
        meter = _Meter(readers, report)
        rows: Iterator[RawPair]
        if unit.form == "tsv":
            rows = read_tsv(readers[0], unit.start)
        else:
            rows = read_aligned(readers[0], readers[1], meter.tick)
        try:
            for raw in rows:
                meter.count()
                if raw is UNDECODABLE:
                    dropped["invalid_utf8"] += 1
                elif raw is OVERLONG:
                    dropped[TOO_LONG] += 1
                elif isinstance(raw, tuple):
                    source, target = (normalize_line(side, config.normalization) for side in raw)
                    pair = Pair(langs, source, target)
                    pair, reason = apply_steps(steps, pair)
                    if reason is None:
                        yield pair
        except TruncatedInputError as error:
            raise UserError(f"{error} ({report.read:,} pairs were read before)") from None
        meter.tick()
    dropped.update(total_drops(steps, "-".join(langs)))
    report.drops = dict(sorted(dropped.items()))
    report.findings = findings_of(steps, "-".join(langs))
    lines = sum((reader.counts for reader in readers), Counter[str]())
    report.lines = dict(sorted(lines.items()))
