"""What `megaxlm data verify` says, with or without `--repair`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from megaxlm_data.verify.check import verify
from megaxlm_data.verify.repair import repair


@dataclass(frozen=True)
class Verdict:
    """Whether all is well, and the lines that say so or say what is not."""

    ok: bool
    lines: tuple[str, ...]
    notes: tuple[str, ...] = ()  # of what does no harm


def verdict(directory: Path, mend: bool, progress: bool = True) -> Verdict:
    """Verifies a data set; with `mend`, makes a lost index again first.

    Raises:
        UserError: As `verify` and `repair`.
    """
    repaired: tuple[str, ...] = ()
    if mend:
        report = repair(directory, progress)
        if report.written or not report.ok:  # every shard has just been read
            return Verdict(report.ok, tuple(report.lines()))
        repaired = tuple(report.lines())
    found = verify(directory, progress)
    lines = (*repaired, found.render()) if found.ok else tuple(found.lines())
    return Verdict(found.ok, lines, found.notes)
