"""What is done to a document or pair: a filter decides, an edit changes; both count by language."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from typing import Generic, TypeVar

from megaxlm_data.document import Document, Pair

T = TypeVar("T", Document, Pair)


class Step(ABC, Generic[T]):
    """A filter or an edit.

    Attributes:
        counts: How many were dropped, or changed, by (language or pair, what): a short snake_case
            name of the reason or of the change.
    """

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()

    def count(self, item: T, what: str, number: int = 1) -> None:
        """Counts under the item's language or pair."""
        name = item.lang if isinstance(item, Document) else "-".join(item.langs)
        self.counts[name, what] += number


class Filter(Step[T]):
    """Decides on documents or on pairs."""

    @abstractmethod
    def reason_to_drop(self, item: T) -> str | None:
        """Returns why this one is dropped, a short snake_case name, or None to keep it."""


class Edit(Step[T]):
    """Changes documents or pairs: takes lines out, masks parts."""

    @abstractmethod
    def edit(self, item: T) -> T:
        """Returns what becomes of this one, and counts what it changes."""


def apply_steps(steps: Sequence[Step[T]], item: T) -> tuple[T, str | None]:
    """Takes an item through all steps, or up to the filter that drops it.

    Returns:
        The item as the steps left it, and why it is dropped; None if it stays.
    """
    for step in steps:
        if isinstance(step, Edit):
            item = step.edit(item)
        elif isinstance(step, Filter) and (reason := step.reason_to_drop(item)) is not None:
            step.count(item, reason)
            return item, reason
    return item, None


def total_drops(steps: Sequence[Step[T]], name: str) -> Counter[str]:
    """Returns the drops of a language or pair by reason, over all filters."""
    return _total([step for step in steps if isinstance(step, Filter)], name)


def total_edits(steps: Sequence[Step[T]], name: str) -> Counter[str]:
    """Returns what was changed in a language or pair, over all edits."""
    return _total([step for step in steps if isinstance(step, Edit)], name)


def _total(steps: Sequence[Step[T]], name: str) -> Counter[str]:
    total: Counter[str] = Counter()
    for step in steps:
        total.update({what: n for (lang, what), n in step.counts.items() if lang == name})
    return total
