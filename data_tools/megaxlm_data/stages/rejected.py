"""A few of the documents that cleaning dropped, so that a person can look at what was thrown away.

Of every language and reason, those with the lowest hashes are kept: the same ones whatever the
order of the work and the size of its pieces.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import xxhash

from megaxlm.data.shards import write_atomically
from megaxlm_data.readers.lines import HEAD_CHARS

REJECTED_NAME = "rejected.jsonl"

Sample = dict[str, Any]  # lang, reason, id, file, and text, or source and target


class RejectedSamples:
    """Holds at most `limit` samples of each language and reason."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held: dict[tuple[str, str], dict[str, Sample]] = {}
        self._highest: dict[tuple[str, str], str] = {}  # where there are as many as may be

    def add(self, lang: str, reason: str, sides: tuple[str, ...], file: str) -> None:
        """Takes a document, or the sides of a pair."""
        text = "\n".join(sides)
        if self._limit == 0 or not text or text.isspace():
            return
        name = f"{xxhash.xxh3_64_intdigest(text.encode('utf-8', 'replace')):016x}"
        if name >= self._highest.get((lang, reason), "g"):
            return
        shown = [side[:HEAD_CHARS] for side in sides]
        sample: Sample = {"lang": lang, "reason": reason, "id": name, "file": file}
        sample |= (
            {"text": shown[0]}
            if len(shown) == 1
            else dict(zip(("source", "target"), shown, strict=True))
        )
        self.put(sample)

    def put(self, sample: Sample) -> None:
        """Takes a sample; of two with one text the first one stays."""
        kind = (sample["lang"], sample["reason"])
        held = self._held.setdefault(kind, {})
        held.setdefault(sample["id"], sample)
        if len(held) > self._limit:
            del held[max(held)]
        if len(held) == self._limit:
            self._highest[kind] = max(held)

    def __iter__(self) -> Iterator[Sample]:
        """Yields the samples by language, reason and hash."""
        for kind in sorted(self._held):
            held = self._held[kind]
            yield from (held[name] for name in sorted(held))


def write_samples(path: Path, samples: Iterable[Sample]) -> None:
    """Writes samples as JSON lines; a file without one is not made."""
    lines = [json.dumps(sample, ensure_ascii=False) + "\n" for sample in samples]
    if lines:
        path.parent.mkdir(exist_ok=True)
        write_atomically(path, "".join(lines).encode("utf-8", "replace"))
    else:
        path.unlink(missing_ok=True)


def merge_samples(
    paths: Iterable[Path], drops: dict[str, dict[str, int]], limit: int
) -> Iterator[Sample]:
    """Yields the samples of a whole build.

    Args:
        paths: The samples of each unit, in the order of the config; not all of them exist.
        drops: How many were dropped, by language or pair and reason.
        limit: The most for a language and reason.

    Yields:
        Each sample, with the number of drops it stands for.
    """
    merged = RejectedSamples(limit)
    for path in paths:
        if path.exists():
            for line in path.read_text(encoding="utf-8").split("\n"):
                if line:
                    merged.put(json.loads(line))
    for sample in merged:
        count = drops.get(sample["lang"], {}).get(sample["reason"], 0)
        yield {"lang": sample["lang"], "reason": sample["reason"], "dropped": count, **sample}
