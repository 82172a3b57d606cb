"""Counts what cleaning makes of the rows of a unit, by language or pair."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from megaxlm_data.document import count_unspaced
from megaxlm_data.filters.base import Step, total_drops, total_edits
from megaxlm_data.filters.findings import Findings, findings_of
from megaxlm_data.languages.codes import UNDETERMINED
from megaxlm_data.stages.plan import Unit
from megaxlm_data.stages.rejected import RejectedSamples

_SCRIPT_SAMPLE = 200  # characters at the start of a document that tell its script


@dataclass
class CleanReport:
    """What became of the documents of one language, or the pairs of one pair, in a unit."""

    read: int = 0  # documents or pairs
    kept: int = 0
    text_bytes: int = 0
    block_rows: list[int] = field(default_factory=list)
    blocks: list[int] = field(default_factory=list)  # their numbers, if the file holds others too
    drops: dict[str, int] = field(default_factory=dict)
    edits: dict[str, int] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)  # invalid_utf8, replaced_utf8
    sampled_chars: list[int] = field(default_factory=list)  # of each side
    unspaced_chars: list[int] = field(default_factory=list)
    findings: Findings = field(default_factory=dict)


class Tally:
    """Counts what becomes of the rows of a unit, by language or pair.

    Attributes:
        name: That of the unit; `und` where it is not of one language.
        samples: Some of what was dropped.
    """

    def __init__(self, unit: Unit, samples: int) -> None:
        self.name = "-".join(unit.langs) or UNDETERMINED
        self.samples = RejectedSamples(samples)
        self._file = unit.files[0]
        self._sides = max(1, len(unit.langs))
        self._reports: dict[str, CleanReport] = {}
        if unit.langs:
            self.report(self.name)  # also if nothing is in the file

    def report(self, name: str) -> CleanReport:
        """Returns the report of a language or pair, a new one at its first row."""
        report = self._reports.get(name)
        if report is None:
            zeros = [0] * self._sides
            report = CleanReport(sampled_chars=zeros, unspaced_chars=zeros.copy())
            self._reports[name] = report
        return report

    def drop(self, name: str, reason: str, sides: tuple[str, ...], counted: bool = False) -> None:
        """Takes a row that goes; `counted` if the filter that dropped it counts by itself."""
        report = self.report(name)
        report.read += 1
        if not counted:
            report.drops[reason] = report.drops.get(reason, 0) + 1
        self.samples.add(name, reason, sides, self._file)

    def keep(self, name: str, sides: tuple[str, ...]) -> None:
        """Takes a row that stays."""
        report = self.report(name)
        report.read += 1
        report.kept += 1
        for side, text in enumerate(sides):
            sample = text[:_SCRIPT_SAMPLE]
            report.sampled_chars[side] += len(sample)
            report.unspaced_chars[side] += count_unspaced(sample)

    def finished(self, steps: Sequence[Step[Any]]) -> dict[str, CleanReport]:
        """Returns the reports by name, with what the steps counted and found."""
        for name, report in self._reports.items():
            drops = Counter(report.drops) + total_drops(steps, name)
            report.drops = dict(sorted(drops.items()))
            report.edits = dict(sorted(total_edits(steps, name).items()))
            report.findings = findings_of(steps, name)
        return dict(sorted(self._reports.items()))
