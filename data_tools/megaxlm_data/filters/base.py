"""What is done to a document or pair: a filter decides, an edit changes; both count by language."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Generic, TypeVar

from megaxlm_data.document import Document, Pair

T = TypeVar("T", Document, Pair)
Value = TypeVar("Value")


class PerLanguage(Generic[Value]):
    """A setting with a value of its own for some languages, or for some pairs under their name."""

    def __init__(self, default: Value, of: Mapping[str, Value] | None = None) -> None:
        self._default, self._of = default, dict(of or {})

    def __getitem__(self, name: str) -> Value:
        return self._of.get(name, self._default)

    def of_pair(self, pair: Pair) -> Value:
        """Returns the value of a pair as a whole, whichever direction it is named in."""
        if not self._of:
            return self._default
        first, second = pair.langs
        return self._of.get(f"{first}-{second}", self[f"{second}-{first}"])

    def values(self) -> list[Value]:
        """Returns every value there is."""
        return [self._default, *self._of.values()]


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


class TextFilter(Filter[T]):
    """Decides by text and language alone: on a document, or on each side of a pair by itself."""

    @abstractmethod
    def reason_against(self, text: str, lang: str) -> str | None:
        """Returns why a document or pair with this text is dropped, or None."""

    def reason_to_drop(self, item: T) -> str | None:
        """Returns the reason against the document, or against the first side that has one."""
        if isinstance(item, Document):
            return self.reason_against(item.text, item.lang)
        first = self.reason_against(item.source, item.langs[0])
        return first or self.reason_against(item.target, item.langs[1])


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
