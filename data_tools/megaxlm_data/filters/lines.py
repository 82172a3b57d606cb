"""What lines and words look like: lists without sentences, teasers cut short, strings of code."""

from __future__ import annotations

from megaxlm_data.document import Document, count_unspaced
from megaxlm_data.filters.base import Filter, PerLanguage

_BULLETS = (*"•‣⁃●◦○■□▪▫►▶❖✓*・", "- ", "– ", "— ")  # a dash alone is a minus or a range
_ELLIPSES = ("...", "…", "。。。", "···", "・・・")


class BulletLines(Filter[Document]):
    """Drops documents of which too many lines begin with a bullet."""

    def __init__(self, maximum: PerLanguage[float]) -> None:
        super().__init__()
        self._maximum = maximum

    def reason_to_drop(self, item: Document) -> str | None:
        """Counts lines."""
        bullets = sum(line.startswith(_BULLETS) for line in item.lines)
        return "bullet_lines" if bullets > self._maximum[item.lang] * len(item.lines) else None


class EllipsisLines(Filter[Document]):
    """Drops documents of which too many lines end with an ellipsis."""

    def __init__(self, maximum: PerLanguage[float]) -> None:
        super().__init__()
        self._maximum = maximum

    def reason_to_drop(self, item: Document) -> str | None:
        """Counts lines."""
        ends = sum(line.endswith(_ELLIPSES) for line in item.lines)
        return "ellipsis_lines" if ends > self._maximum[item.lang] * len(item.lines) else None


class WordLength(Filter[Document]):
    """Drops documents whose words are too short or too long on average, in characters.

    Text of which more than a tenth is in a script without spaces between words passes.
    """

    def __init__(self, minimum: PerLanguage[float], maximum: PerLanguage[float | None]) -> None:
        super().__init__()
        self._minimum, self._maximum = minimum, maximum

    def reason_to_drop(self, item: Document) -> str | None:
        """Takes what is between two spaces for a word."""
        minimum, maximum = self._minimum[item.lang], self._maximum[item.lang]
        if minimum <= 0 and maximum is None:
            return None
        text = item.text
        if 10 * count_unspaced(text) > len(text):
            return None
        spaces = text.count(" ")
        mean = (len(text) - spaces) / (spaces + 1)
        if mean < minimum:
            return "short_words"
        return "long_words" if maximum is not None and mean > maximum else None
