"""Which languages the folder of a subset is of: `zh-Hant` is one, `en-zh-Hant` are two."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from megaxlm.errors import UserError

# How tags are written (BCP 47): a language is two or three lower-case letters; what follows is a
# script (Hant), a region (BR, 419) or a variant, which is longer.
_LANGUAGE = re.compile(r"[a-z]{2,3}([-_]([A-Z][a-z]{3}|[A-Z]{2}|[0-9]{3}|[a-z0-9]{5,8}))*")


def languages_of(
    is_bitext: Mapping[str, bool], known: Sequence[str] = ()
) -> dict[str, tuple[str, ...]]:
    """Returns the languages of each subset.

    Args:
        is_bitext: Whether a subset holds pairs, by its name.
        known: Languages that are known otherwise.

    Raises:
        UserError: The name of a pair can be read in more than one way, or in none.
    """
    languages = {*known, *(name for name, pairs in is_bitext.items() if not pairs)}
    result = {name: (name,) for name, pairs in is_bitext.items() if not pairs}
    return {
        name: _sides(name, languages) if pairs else result[name]
        for name, pairs in is_bitext.items()
    }


def _sides(name: str, known: set[str]) -> tuple[str, ...]:
    parts = name.split("-")
    ways = [("-".join(parts[:i]), "-".join(parts[i:])) for i in range(1, len(parts))]
    for wanted in (
        [way for way in ways if set(way) <= known],
        [way for way in ways if known & set(way) and _is_tag(way, known)],
        [way for way in ways if _is_tag(way, known)],
        ways,
    ):
        if len(wanted) == 1:
            return wanted[0]
        if wanted:
            break
    read = " or ".join(" and ".join(way) for way in wanted) or "no pair"
    raise UserError(
        f"{name}: can be read as {read}, and only the lost index knew; bring dataset.json back "
        "from a copy, or build this data set again"
    )


def _is_tag(way: tuple[str, str], known: set[str]) -> bool:
    return all(side in known or _LANGUAGE.fullmatch(side) for side in way)
