"""Stage 2: read, normalise and filter. One task a unit, each writing its own file of clean text."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from megaxlm.config.data_build import DataBuildConfig
from megaxlm.config.data_sources import MonolingualSource
from megaxlm.data.shards import write_atomically
from megaxlm.errors import UserError
from megaxlm_data.crew import Crew
from megaxlm_data.document import (
    Document,
    Normalization,
    Pair,
    normalize_line,
    normalize_lines,
)
from megaxlm_data.filters.base import Step, apply_steps
from megaxlm_data.filters.build_steps import build_document_steps, build_pair_steps
from megaxlm_data.filters.length import TOO_LONG
from megaxlm_data.progress import Progress
from megaxlm_data.readers import choice
from megaxlm_data.readers.lines import HEAD_CHARS
from megaxlm_data.readers.records import Row
from megaxlm_data.readers.stream import TruncatedInputError
from megaxlm_data.stages.plan import Group, Inputs, Plan, Unit, check_names
from megaxlm_data.stages.rejected import write_samples
from megaxlm_data.stages.rows import open_rows
from megaxlm_data.stages.tally import CleanReport as CleanReport  # where others look for it
from megaxlm_data.stages.tally import Tally
from megaxlm_data.workers import WorkerPool, advance
from megaxlm_data.writers.atomic import atomic_file
from megaxlm_data.writers.cleaned import CleanedWriter

CleanRow = Callable[[Row], Document | Pair | None]

_EMPTY_SIDE = "empty_side"  # as the filter of length calls it
_REPORT_EVERY = 256  # documents


@dataclass(frozen=True)
class Cleaned:
    """What cleaning made of the inputs.

    Attributes:
        plan: The groups there are: languages and pairs with clean text.
        reports: What became of each unit of a group, by digest.
        left_out: What became of languages that are no group, because none of their documents is
            left or wanted; `und` is what has no known language.
        parts: Every unit by language or pair, also of those left out, and what became of it.
    """

    plan: Plan
    reports: dict[str, CleanReport]
    left_out: dict[str, CleanReport]
    parts: tuple[tuple[str, Unit, CleanReport], ...]


@dataclass(frozen=True)
class _CleanTask:
    unit: Unit
    config: DataBuildConfig
    folder: Path


def cleaned_path(folder: Path, unit: Unit) -> Path:
    """Returns where the clean text of a unit lies, or of the unit that it is a part of."""
    return folder / f"{unit.digest.partition('.')[0]}.arrow"


def samples_path(folder: Path, unit: Unit) -> Path:
    """Returns where samples of what was dropped from a unit lie; there may be none."""
    return folder / f"{unit.digest}.rejected.jsonl"


def clean(
    inputs: Inputs,
    config: DataBuildConfig,
    folder: Path,
    pool: WorkerPool,
    crew: Crew,
    progress: Progress,
) -> Cleaned:
    """Cleans every unit that is not clean yet, and forms groups of what is there.

    Args:
        inputs: The units.
        config: The build's config.
        folder: For clean text.
        pool: Where units are cleaned.
        crew: The ranks that share the units.
        progress: Where the bar is shown.

    Raises:
        UserError: An input is damaged, or a language or source ends with no document.
    """
    folder.mkdir(parents=True, exist_ok=True)
    units = sorted(inputs.distinct, key=lambda unit: -unit.input_bytes)  # the longest first
    shared = crew.mine([unit.input_bytes for unit in units])
    mine = [unit for unit, is_mine in zip(units, shared, strict=True) if is_mine]
    tasks = [_CleanTask(unit, config, folder) for unit in mine if not _finished(folder, unit)]
    if done := len(mine) - len(tasks):
        progress.say(f"clean: {done} of {len(mine)} inputs are already done")
    with progress.bar("clean", sum(task.unit.input_bytes for task in tasks), "B") as bar:
        for _ in pool.map(_clean_unit, tasks, "finished", bar.update):
            pass
    crew.wait("clean", lambda: [unit for unit in units if not _marker(folder, unit).exists()])
    reports = {unit.digest: _reports(folder, unit) for unit in units}
    for unit in inputs.distinct:
        read = sum(report.read for report in reports[unit.digest].values())
        if unit.input_bytes and not read and unit.start == 0 and unit.end is None:
            of = f" of {'-'.join(unit.langs)}" if unit.langs else ""
            progress.warn(f"{' and '.join(unit.files)}: no document{of} inside")
    cleaned = _grouped(inputs, reports)
    _warn_of_absent(inputs, reports, progress)
    for langs in dict.fromkeys(unit.langs for unit in inputs.units):
        if (name := "-".join(langs)) in cleaned.left_out:  # a path names it
            progress.warn(f"{name}: no document of it is left, the data set is without it")
    return cleaned


def _warn_of_absent(
    inputs: Inputs, reports: dict[str, dict[str, CleanReport]], progress: Progress
) -> None:
    """Names the languages that a source asks for and does not give."""
    missing: dict[str, dict[str, None]] = {}
    for unit in inputs.units:
        if isinstance(unit.source, MonolingualSource) and unit.source.languages:
            named = unit.source.languages
            names = named.values() if isinstance(named, dict) else named
            missing.setdefault(unit.where, dict.fromkeys(names))
            for name, report in reports[unit.digest].items():
                if report.kept:
                    missing[unit.where].pop(name, None)
    for where, absent in missing.items():
        if absent:
            progress.warn(f"{where}.languages: no document of {', '.join(absent)} is left")


def _grouped(inputs: Inputs, reports: dict[str, dict[str, CleanReport]]) -> Cleaned:
    parts: dict[tuple[str, ...], list[Unit]] = {}
    by_part: dict[str, CleanReport] = {}
    sources: dict[str, list[Unit]] = {}  # that name no language, by their place in the config
    for unit in inputs.units:
        if not unit.is_named:
            sources.setdefault(unit.where, []).append(unit)
        for name, report in reports[unit.digest].items():
            langs = unit.langs or (name,)
            part = unit.part(langs)
            parts.setdefault(langs, []).append(part)
            by_part[part.digest] = report
    for where, units in sources.items():
        mine = [report for unit in units for report in reports[unit.digest].values()]
        if not any(report.kept for report in mine):
            files = [path for unit in units for path in unit.files]
            raise UserError(_no_data(where, list(dict.fromkeys(files)), mine))
    named = {unit.langs for unit in inputs.units if unit.is_named}
    groups, left_out = [], {}
    for langs, units in parts.items():
        group = Group(langs, tuple(units))
        mine = [by_part[unit.digest] for unit in units]
        if any(report.kept for report in mine):
            groups.append(group)
        elif langs in named:
            raise UserError(_no_data(group.name, group.files, mine))
        else:
            left_out[group.name] = _total(mine)
    check_names([group.langs for group in groups])
    found = tuple(
        ("-".join(langs), unit, by_part[unit.digest])
        for langs, units in parts.items()
        for unit in units
    )
    return Cleaned(Plan(tuple(groups), inputs.digest), by_part, left_out, found)


def _total(reports: list[CleanReport]) -> CleanReport:
    total = CleanReport()
    for report in reports:
        total.read += report.read
        for mine, its in (
            (total.drops, report.drops),
            (total.edits, report.edits),
            (total.lines, report.lines),
        ):
            for what, count in its.items():
                mine[what] = mine.get(what, 0) + count
    return total


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


def _finished(folder: Path, unit: Unit) -> bool:
    return _marker(folder, unit).exists() and cleaned_path(folder, unit).exists()


def _reports(folder: Path, unit: Unit) -> dict[str, CleanReport]:
    content = json.loads(_marker(folder, unit).read_text(encoding="utf-8"))
    return {name: CleanReport(**report) for name, report in content.items()}


def _marker(folder: Path, unit: Unit) -> Path:
    return folder / f"{unit.digest}.json"


def _clean_unit(task: _CleanTask) -> None:
    unit, config = task.unit, task.config
    tally = Tally(unit, config.rejected_samples)
    cleaner: _DocumentCleaner | _PairCleaner
    if len(unit.langs) == 2:
        pair = (unit.langs[0], unit.langs[1])
        pair_steps = build_pair_steps(config, task.folder.parent)
        cleaner = _PairCleaner(pair, pair_steps, config.normalization, tally)
    else:
        document_steps = build_document_steps(config, task.folder.parent)
        cleaner = _DocumentCleaner(unit, document_steps, config, tally)
    with atomic_file(cleaned_path(task.folder, unit)) as file:
        writer = CleanedWriter(file, is_bitext=len(unit.langs) == 2)
        for item in _clean_items(unit, config, cleaner.clean, tally):
            writer.add(item)
        writer.close()
    reports = tally.finished(cleaner.steps)
    for block, (name, rows) in enumerate(zip(writer.block_names, writer.block_rows, strict=True)):
        reports[name].block_rows.append(rows)
        if len(reports) > 1:
            reports[name].blocks.append(block)
    for name, size in writer.text_bytes.items():
        reports[name].text_bytes = size
    write_samples(samples_path(task.folder, unit), tally.samples)
    content = {name: asdict(report) for name, report in reports.items()}
    write_atomically(_marker(task.folder, unit), json.dumps(content).encode())


def _clean_items(
    unit: Unit, config: DataBuildConfig, clean_row: CleanRow, tally: Tally
) -> Iterator[Document | Pair]:
    """Yields what stays of a unit.

    Raises:
        UserError: The input is damaged, and the policy is to fail.
    """
    read = position = begin = 0

    def tick() -> None:
        nonlocal position
        # a line that ends beyond the range counts up to there: the rest is another unit's
        most = begin + unit.input_bytes if unit.input_bytes else rows.position
        before, position = position, min(rows.position, most)
        advance(position - before)

    with ExitStack() as stack:
        rows = open_rows(unit, config, stack, tick)
        begin = position = rows.position
        try:
            for row in rows.rows:
                read += 1
                if read % _REPORT_EVERY == 0:
                    tick()
                if not isinstance(row, tuple):
                    tally.drop(tally.name, row.reason, (row.head,))
                elif max(map(len, row)) > rows.max_chars:
                    tally.drop(tally.name, TOO_LONG, tuple(text[:HEAD_CHARS] for text in row))
                elif (item := clean_row(row)) is not None:
                    yield item
        except TruncatedInputError as error:
            kind = "pairs" if len(unit.langs) == 2 else "documents"
            raise UserError(f"{error} ({read:,} {kind} were read before)") from None
        tick()
        if lines := rows.counts:
            tally.report(tally.name).lines = dict(sorted(lines.items()))


class _DocumentCleaner:
    """Cleans documents, and finds their language where it is not known from the config."""

    def __init__(
        self, unit: Unit, steps: list[Step[Document]], config: DataBuildConfig, tally: Tally
    ) -> None:
        assert isinstance(unit.source, MonolingualSource)
        self.steps = steps
        self._form, self._tally = config.normalization, tally
        self._lang = unit.langs[0] if unit.langs else None
        self._has_field = unit.source.lang_field is not None
        self._choice = choice.LanguageChoice(unit.source.languages)
        self._identifier: choice.LanguageIdentifier | None = None
        if self._lang is None and not self._has_field:
            self._identifier = choice.make_identifier(config)

    def clean(self, row: Row) -> Document | None:
        """Returns the document of a row, None if it goes."""
        lang = self._lang
        if lang is None and self._has_field:
            lang, reason = self._choice.of(row[1])
            if reason is not None:
                self._tally.drop(lang, reason, row[:1])
                return None
        lines = normalize_lines(row[0], self._form)
        if lang is None:
            assert self._identifier is not None
            lang, reason = self._choice.of(self._identifier.identify("\n".join(lines))[0])
            if reason is not None:
                self._tally.drop(lang, reason, ("\n".join(lines),))
                return None
        document, reason = apply_steps(self.steps, Document(lang, lines))
        if reason is not None:
            self._tally.drop(lang, reason, ("\n".join(document.lines),), counted=True)
            return None
        self._tally.keep(lang, (document.text,))
        return document


class _PairCleaner:
    """Cleans pairs."""

    def __init__(
        self, langs: tuple[str, str], steps: list[Step[Pair]], form: Normalization, tally: Tally
    ) -> None:
        self.steps, self._form, self._langs, self._tally = steps, form, langs, tally

    def clean(self, row: Row) -> Pair | None:
        """Returns the pair of a row, None if it goes."""
        if not row[0] and not row[1]:  # files aligned by paragraph hold millions of them
            self._tally.drop(self._tally.name, _EMPTY_SIDE, ())
            return None
        source, target = (normalize_line(side, self._form) for side in row)
        pair, reason = apply_steps(self.steps, Pair(self._langs, source, target))
        sides = (pair.source, pair.target)
        if reason is not None:
            self._tally.drop(self._tally.name, reason, sides, counted=True)
            return None
        self._tally.keep(self._tally.name, sides)
        return pair
