"""Is the text in a script of its language? A wrong label, mojibake and spam show in the letters.

Which scripts a language has is CLDR's likely script (through `langcodes`) and the table below for
languages that have several. A script that the code itself names wins: `sr-Latn`, `kas_Deva`. A
language of which nothing is known passes.
"""

from __future__ import annotations

import sys
from functools import cache, lru_cache

import langcodes
import numpy as np
import regex
from langcodes.data_dicts import LIKELY_SUBTAGS

from megaxlm_data.document import code_points
from megaxlm_data.filters.base import PerLanguage, T, TextFilter
from megaxlm_data.filters.characters import LETTER, character_kinds
from megaxlm_data.filters.kinds import Table, count_kinds

# Scripts of ISO 15924 that stand for several of Unicode's.
_COMBINED = {
    "Hans": ("Hani", "Bopo"),
    "Hant": ("Hani", "Bopo"),
    "Jpan": ("Hani", "Hira", "Kana"),
    "Kore": ("Hang", "Hani"),
    "Hrkt": ("Hira", "Kana"),
    "Cyrs": ("Cyrl",),
    "Aran": ("Arab",),
    "Latf": ("Latn",),
    "Latg": ("Latn",),
    "Syre": ("Syrc",),
    "Syrj": ("Syrc",),
    "Syrn": ("Syrc",),
}
# Languages with more than one script in today's text, beside the likely one.
_SEVERAL = {
    "Latn Cyrl": "sr hbs sh bs cnr uz uzn az azj kk tk tt crh kaa gag mo be rom",
    "Latn Cyrl Arab": "ku kmr az azj kk ky uz ug tk tg",
    "Latn Arab": "ms ace bjn ha ff fuv wo so kr knc sw min ary aeb bal brh az azb",
    "Latn Tfng": "ber kab rif shi tzm zgh taq thv ttq tmh",
    "Latn Deva": "kok gom sat",
    "Latn Hani Bopo": "nan hak cdo za",
    "Arab Deva": "sd ks kfr",
    "Arab Guru": "pa pnb",
    "Beng Mtei Latn": "mni",
    "Olck Beng Deva Orya": "sat",
    "Deva Knda Mlym Latn": "kok gom tcy",
    "Deva Beng Gujr Gran Knda Mlym Orya Sinh Telu Taml Thai Latn": "sa pi",
    "Cans Latn": "iu ike cr oj crk csw moe ojb",
    "Cher Latn": "chr",
    "Adlm Latn Arab": "ff fuf fuv",
    "Java Latn Arab": "jv",
    "Sund Latn": "su",
    "Bali Latn": "ban",
    "Bugi Latn": "bug mak",
    "Mong Cyrl": "mn khk mvf bua",
    "Hebr Latn": "lad",
    "Hebr Arab Syrc": "arc aii syr",
    "Grek Copt": "cop",
    "Goth Latn": "got",
    "Nkoo Latn": "nqo bm dyu man",
    "Hang Hani": "ko okm",
    "Hani Bopo": "zh lzh yue wuu cmn gan hsn",
    "Thaa Latn": "dv",
    "Lana Thai Laoo": "nod",
    "Ethi Latn Arab": "om aa so ti har",
}


def _several() -> dict[str, set[str]]:
    table: dict[str, set[str]] = {}
    for scripts, languages in _SEVERAL.items():
        for lang in languages.split():
            table.setdefault(lang, set()).update(scripts.split())
    return table


@cache
def scripts_of(lang: str) -> frozenset[str]:
    """Returns the scripts a language is written in, by their four-letter names in Unicode.

    Args:
        lang: A language code: ISO 639-1 or 639-3, with `-` or `_` and a script where it has one.

    Returns:
        The scripts; empty if nothing is known.
    """
    try:
        tag = langcodes.Language.get(lang)
    except ValueError:
        return frozenset()
    if tag.script is not None:
        return _unicode_scripts(tag.script)
    scripts = set(_several().get(tag.language or "", ()))
    # maximize() makes up Latin script for a language that CLDR does not know
    if tag.language in LIKELY_SUBTAGS and (likely := tag.maximize().script) is not None:
        scripts |= _unicode_scripts(likely)
    return frozenset(scripts)


def _unicode_scripts(name: str) -> frozenset[str]:
    scripts = _COMBINED.get(name, (name,))
    return frozenset(script for script in scripts if _is_known(script))


@cache
def _is_known(script: str) -> bool:
    try:
        regex.compile(rf"\p{{Script={script}}}")
    except regex.error:
        return False
    return True


@cache
def _letters() -> str:
    """Returns all letters and marks that belong to a script, as one string."""
    points = np.flatnonzero(character_kinds() == LETTER).astype(np.uint32)
    letters = points.tobytes().decode("utf-32")
    return str(regex.sub(r"[\p{Script=Common}\p{Script=Inherited}]+", "", letters))


@lru_cache(maxsize=32)
def _table(scripts: frozenset[str]) -> Table:
    """Returns for every code point: 0 no letter of any script, 1 of others, 2 of these."""
    table = np.zeros(sys.maxunicode + 1, dtype=np.uint8)
    table[code_points(_letters())] = 1
    inside = "".join(rf"\p{{Script={script}}}" for script in sorted(scripts))
    table[code_points("".join(regex.findall(f"[{inside}]+", _letters())))] = 2
    return table


def script_share(text: str, lang: str) -> float:
    """Returns the letters of the language's scripts over the letters of any script.

    Letters that belong to no one script (as combining accents do) count neither way. The share is
    1 without a letter, and for a language of which nothing is known.
    """
    scripts = scripts_of(lang)
    if not scripts:
        return 1.0
    counts = count_kinds(text, _table(scripts))
    letters = counts[1] + counts[2]
    return counts[2] / letters if letters else 1.0


class ScriptShare(TextFilter[T]):
    """Drops text that is mostly in scripts its language is not written in."""

    def __init__(self, minimum: PerLanguage[float]) -> None:
        super().__init__()
        self._minimum = minimum

    def reason_against(self, text: str, lang: str) -> str | None:
        """Compares the share over the whole text."""
        return "wrong_script" if script_share(text, lang) < self._minimum[lang] else None
