"""Training text that a model will be measured with goes, whole or line by line.

What overlaps is counted by language and evaluation set, and a sample of it is kept for a person to
look at: `DIR/reports/contamination.jsonl`.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from megaxlm_data.decontamination.index import ContaminationIndex, Overlap
from megaxlm_data.decontamination.spans import fold
from megaxlm_data.document import Document, Pair, document_id, pair_id
from megaxlm_data.filters.base import Edit, Filter, PerLanguage

CONTAMINATED, CUT_LINES = "contaminated", "contaminated_lines"
TOPIC = "contamination"
_SNIPPET_CHARS = 300


class _Record:
    """Counts what overlaps, and keeps the first samples, by language or pair and set."""

    def __init__(self, samples: int) -> None:
        self._samples = samples
        self._counts: Counter[tuple[str, str]] = Counter()
        self._kept: dict[tuple[str, str], list[dict[str, Any]]] = {}

    def add(self, name: str, identity: int, folded: str, overlaps: list[Overlap]) -> None:
        """Takes what was found in a document or pair."""
        for evaluation_set in dict.fromkeys(each.evaluation_set for each in overlaps):
            self._counts[name, evaluation_set] += 1
            kept = self._kept.setdefault((name, evaluation_set), [])
            if len(kept) < self._samples:
                first = next(each for each in overlaps if each.evaluation_set == evaluation_set)
                snippet = folded[first.first : min(first.last, first.first + _SNIPPET_CHARS)]
                kept.append({"item": first.item, "id": f"{identity:016x}", "snippet": snippet})

    def findings(self, name: str) -> dict[str, Any]:
        """Returns, by set, how many were found and the samples."""
        return {
            evaluation_set: {"count": count, "samples": self._kept[lang, evaluation_set]}
            for (lang, evaluation_set), count in sorted(self._counts.items())
            if lang == name
        }


class Contaminated(Filter[Document]):
    """Drops documents that overlap with an evaluation set."""

    topic = TOPIC

    def __init__(self, index: ContaminationIndex, samples: int) -> None:
        super().__init__()
        self._index, self._record = index, _Record(samples)
        self.findings = self._record.findings

    def reason_to_drop(self, item: Document) -> str | None:
        """Looks for n-grams over the ends of lines, and for whole lines and sentences."""
        folded = fold("\n".join(item.lines))
        overlaps = self._index.find(folded)
        if not overlaps:
            return None
        self._record.add(item.lang, document_id(item.text), folded, overlaps)
        return CONTAMINATED


class ContaminatedLines(Edit[Document]):
    """Takes out the lines of a document that overlap with an evaluation set."""

    topic = TOPIC

    def __init__(self, index: ContaminationIndex, samples: int) -> None:
        super().__init__()
        self._index, self._record = index, _Record(samples)
        self.findings = self._record.findings

    def edit(self, item: Document) -> Document:
        """Takes out every line that a part of an overlap is in."""
        folded = fold("\n".join(item.lines))
        overlaps = self._index.find(folded)
        if not overlaps:
            return item
        self._record.add(item.lang, document_id(item.text), folded, overlaps)
        gone: set[int] = set()
        for overlap in overlaps:
            first = folded.count("\n", 0, overlap.first)
            gone.update(range(first, first + folded.count("\n", overlap.first, overlap.last) + 1))
        self.count(item, CUT_LINES, len(gone))
        lines = tuple(line for number, line in enumerate(item.lines) if number not in gone)
        return Document(item.lang, lines)


class LittleLeft(Filter[Document]):
    """Drops documents of which too little is left after lines were cut."""

    def __init__(self, minimum: PerLanguage[int]) -> None:
        super().__init__()
        self._minimum = minimum

    def reason_to_drop(self, item: Document) -> str | None:
        """Counts characters."""
        return CONTAMINATED if len(item.text) < max(1, self._minimum[item.lang]) else None


class ContaminatedPair(Filter[Pair]):
    """Drops pairs of which a side overlaps with an evaluation set."""

    topic = TOPIC

    def __init__(self, index: ContaminationIndex, samples: int) -> None:
        super().__init__()
        self._index, self._record = index, _Record(samples)
        self.findings = self._record.findings

    def reason_to_drop(self, item: Pair) -> str | None:
        """Looks at each side by itself."""
        for side in (item.source, item.target):
            folded = fold(side)
            if overlaps := self._index.find(folded):
                identity = pair_id(item.source, item.target)
                self._record.add("-".join(item.langs), identity, folded, overlaps)
                return CONTAMINATED
        return None
