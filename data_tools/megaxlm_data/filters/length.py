"""Limits on length, of documents and of pairs."""

from __future__ import annotations

from megaxlm_data.document import Document, Pair
from megaxlm_data.filters.base import Filter, PerLanguage

TOO_LONG = "too_long"


class DocumentLength(Filter[Document]):
    """Drops documents that are too short or too long, in characters."""

    def __init__(self, minimum: PerLanguage[int], maximum: PerLanguage[int]) -> None:
        super().__init__()
        self._minimum, self._maximum = minimum, maximum

    def reason_to_drop(self, item: Document) -> str | None:
        """Counts the characters of the text that would be encoded."""
        length = sum(map(len, item.lines)) + len(item.lines) - 1
        if length < max(1, self._minimum[item.lang]):
            return "too_short"
        return TOO_LONG if length > self._maximum[item.lang] else None


class PairLength(Filter[Pair]):
    """Drops pairs with a side that is empty, too short or too long, in characters."""

    def __init__(self, minimum: PerLanguage[int], maximum: PerLanguage[int]) -> None:
        super().__init__()
        self._minimum, self._maximum = minimum, maximum

    def reason_to_drop(self, item: Pair) -> str | None:
        """Looks at both sides."""
        shorter, longer = sorted((len(item.source), len(item.target)))
        if shorter == 0:
            return "empty_side"
        if shorter < self._minimum.of_pair(item):
            return "too_short"
        return TOO_LONG if longer > self._maximum.of_pair(item) else None


class PairLengthRatio(Filter[Pair]):
    """Drops pairs of which one side is many times longer than the other: hardly a translation.

    Lengths are UTF-8 bytes: a character of Chinese says more than one of Latin script and takes
    more bytes, so that bytes compare better across scripts than characters do.
    """

    def __init__(self, maximum: PerLanguage[float]) -> None:
        super().__init__()
        self._maximum = maximum

    def reason_to_drop(self, item: Pair) -> str | None:
        """Compares the longer side with the shorter."""
        shorter, longer = sorted((len(item.source.encode()), len(item.target.encode())))
        limit = self._maximum.of_pair(item) * max(1, shorter)
        return "length_ratio" if longer > limit else None
