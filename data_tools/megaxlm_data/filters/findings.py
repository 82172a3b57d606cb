"""What filters and edits have to report beside their counts: languages found, samples of text.

A unit of input is cleaned in one process and its findings are kept with its report, as JSON; those
of all units are put together in the order of the plan, so that they don't depend on which process
did what.
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

    def findings(self, name: str) -> Any:
        """Returns what was found in a language or pair, JSON-able; something false for nothing."""


def findings_of(steps: Sequence[Step[T]], name: str) -> Findings:
    """Returns the findings of all steps about a language or pair, by topic."""
    finders = [step for step in steps if isinstance(step, Finder)]
    return {finder.topic: found for finder in finders if (found := finder.findings(name))}
