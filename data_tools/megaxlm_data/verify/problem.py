"""Something that is not as the index says."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """One line of a report."""

    path: str  # relative to the data set
    what: str
