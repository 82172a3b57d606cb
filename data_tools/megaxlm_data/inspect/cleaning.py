"""What cleaning did to each language or pair, from whatever counts the build left.

The stages of a build add counts of their own. They are shown by the names they have: what takes
documents away (`dropped`, and anything that counts duplicates or contamination) as reasons for
drops, everything else as further counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

_NO_COUNTS = {"files", "read", "kept", "validation_below", "unspaced_share"}
_TAKES_AWAY = ("duplicate", "contaminat")
_EXACT = "duplicates"  # of whole documents or pairs


def drop_counts(cleaning: Mapping[str, Any]) -> dict[str, int]:
    """Returns how many documents or pairs each reason took, by reason."""
    reasons = {_words(key): int(value) for key, value in cleaning.get("dropped", {}).items()}
    for key, value in cleaning.items():
        if isinstance(value, int) and any(part in key for part in _TAKES_AWAY):
            reasons["exact duplicates" if key == _EXACT else _words(key)] = value
    return reasons


def other_counts(cleaning: Mapping[str, Any]) -> dict[str, float]:
    """Returns all further numbers, those of nested counts named after both."""
    taken = {"dropped", *_NO_COUNTS}
    return {
        _words(name): value
        for key, value in cleaning.items()
        if key not in taken
        and not (isinstance(value, int) and any(part in key for part in _TAKES_AWAY))
        for name, value in flattened(key, value)
    }


def flattened(key: str, value: Any) -> Iterator[tuple[str, float]]:
    """Yields the numbers of a value with their names: `lines: replaced`."""
    if isinstance(value, bool) or value is None:
        return
    if isinstance(value, int | float):
        yield key, value
    elif isinstance(value, Mapping):
        for inner, nested in value.items():
            yield from flattened(f"{key}: {inner}", nested)


def _words(name: str) -> str:
    return name.replace("_", " ")
