"""What filters and edits have to report beside their counts: languages found, samples of text.

A unit of input is cleaned in one process and its findings are kept with its report, as JSON; the
findings of all units are put together in the order of the plan, so that they don't depend on which
process did what.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from megaxlm_data.filters.base import Step, T

Findings = dict[str, Any]  # by topic, JSON-able


@runtime_checkable
class Finder(Protocol):
    """A filter or an edit that has findings."""

    topic: str

    def findings(self) -> Any:
        """Returns what was found until now, JSON-able; something false if nothing was."""


def findings_of(steps: Sequence[Step[T]]) -> Findings:
    """Returns the findings of all steps that have some, by topic."""
    finders = [step for step in steps if isinstance(step, Finder)]
    return {finder.topic: found for finder in finders if (found := finder.findings())}
