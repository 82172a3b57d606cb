"""Phone numbers in text, by the numbering plans of `phonenumbers` (the port of Google's library).

A number with `+` or `00` is one if it is valid in the country it names. Without, it has to be valid
in the country of the text's language and written in the groups used there; so most dates, prices
and identifiers stay, and numbers of other countries stay too.
"""

from __future__ import annotations

import re
from functools import cache

import langcodes
from langcodes.data_dicts import LIKELY_SUBTAGS
from phonenumbers import Leniency, PhoneNumberMatcher

# at most 17 digits with up to 3 characters between them: a bounded number of steps from any start
_CANDIDATE = re.compile(
    r"[+(\d](?<![A-Za-z0-9_.,/+#=$€£¥₹₽&?\-].)(?:(?<=\d)|\d)(?:[ .\-/()]{0,3}\d){6,16}"
    r"(?![A-Za-z0-9_%‰°€$£¥₹₽]|[.,:/\-+]\d| ?[%€$£¥₹₽])"
)
_GROUPED = re.compile(r"[1-9]\d{0,2}(?:[ .]\d{3})+")  # a large number or a price
_DECIMAL = re.compile(r"\d+\.\d+")
_DATE = re.compile(r"\d{1,4}([.\-/ ])\d{1,2}\1\d{1,4}(?: ?\d{1,2})?")
_YEARS = re.compile(r"(?:1\d|20)\d\d ?[\-/ .] ?(?:1\d|20)\d\d")
_GROUP = re.compile(r"\d+")
_MAX_DIGITS, _MAX_GROUPS = 15, 7  # 15: ITU-T E.164


def find_phones(text: str, lang: str) -> list[tuple[int, int]]:
    """Returns where phone numbers begin and end.

    Args:
        text: Any text.
        lang: Its language; one that names a country (`pt-BR`) has the numbers of that country.
    """
    spans = []
    for match in _CANDIDATE.finditer(text):
        found = match.group()
        groups = _GROUP.findall(found)
        digits = sum(map(len, groups)) - 2 * found.startswith("00")
        if digits > _MAX_DIGITS or len(groups) > min(_MAX_GROUPS, digits // 2):
            continue  # a list of numbers: seen here, it does not cost the look into a plan
        if found.startswith("+"):
            checked, country, leniency = found, None, Leniency.VALID
        elif found.startswith("00"):
            checked, country, leniency = f"+{found[2:]}", None, Leniency.VALID
        elif _is_another_number(found):
            continue
        else:
            checked, country, leniency = found, country_of(lang), Leniency.STRICT_GROUPING
            if country is None:
                continue
        number = next(iter(PhoneNumberMatcher(checked, country, leniency, max_tries=3)), None)
        if number is not None:
            end = match.end() - (len(checked) - number.end)
            spans.append((end - (number.end - number.start) - (found[:2] == "00"), end))
    return spans


@cache
def country_of(lang: str) -> str | None:
    """Returns the country (ISO 3166-1) where most of a language's speakers live, if known."""
    try:
        tag = langcodes.Language.get(lang)
    except ValueError:
        return None
    if tag.territory is None and tag.language not in LIKELY_SUBTAGS:
        return None
    country = tag.maximize().territory
    return country if country and country.isalpha() and country != "ZZ" else None


def _is_another_number(found: str) -> bool:
    """Whether digits without a country's prefix are a date, a sum, an ISBN or an ISSN."""
    found = found.strip("()")
    if (
        _GROUPED.fullmatch(found)
        or _DECIMAL.fullmatch(found)
        or _DATE.fullmatch(found)
        or _YEARS.fullmatch(found)
    ):
        return True
    digits = "".join(_GROUP.findall(found))
    if digits == found and not found.startswith("0"):
        return True  # an identifier as likely as a number
    if len(digits) == 13:
        return digits.startswith(("978", "979"))
    if len(digits) in (8, 10):
        weights = range(len(digits), 0, -1)
        return sum(w * int(d) for w, d in zip(weights, digits, strict=True)) % 11 == 0
    return False
