"""What a filter is: one decision on one document. The base class counts what was dropped, why."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from typing import Generic, TypeVar

from megaxlm_data.document import Document, Pair

T = TypeVar("T", Document, Pair)


class Filter(ABC, Generic[T]):
    """Decides on documents or on pairs.

    Attributes:
        drops: How many were dropped, by (language or pair, reason).
    """

    def __init__(self) -> None:
        self.drops: Counter[tuple[str, str]] = Counter()

    @abstractmethod
    def reason_to_drop(self, item: T) -> str | None:
        """Returns why this one is dropped, a short snake_case name, or None to keep it."""

    def keep(self, item: T) -> bool:
        """Decides, and counts a drop."""
        reason = self.reason_to_drop(item)
        if reason is None:
            return True
        name = item.lang if isinstance(item, Document) else "-".join(item.langs)
        self.drops[name, reason] += 1
        return False


def total_drops(filters: Sequence[Filter[T]], name: str) -> Counter[str]:
    """Returns the drops of a language or pair by reason, over all filters."""
    total: Counter[str] = Counter()
    for each in filters:
        total.update({reason: n for (lang, reason), n in each.drops.items() if lang == name})
    return total
