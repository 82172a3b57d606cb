"""Masks personal data that has a form of its own: addresses, phones, cards, accounts, machines.

A pattern proposes and a check decides: issuer and Luhn's digit for cards, ISO 7064 for accounts,
the numbering plan of a country (`phonenumbers`, the port of Google's library) for phones, the
registry of address space for machines. So dates, prices, years, version numbers and ISBNs stay.

Every pattern begins where its first character cannot continue an earlier match and takes what it
can get without ever giving it back (possessive quantifiers) or a bounded number of characters: the
time grows with the text and no faster, whatever the text.
"""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

from megaxlm.config.data_filters import PersonalDataConfig
from megaxlm_data.document import Document
from megaxlm_data.filters.base import Edit, PerLanguage, T
from megaxlm_data.filters.phones import find_phones

Check = Callable[[str], int]  # a proposed text -> how many of its characters to mask, from the left

_LOCAL = r"A-Za-z0-9._%+\-"
_EMAIL = re.compile(rf"(?<![{_LOCAL}])[{_LOCAL}]++@[A-Za-z0-9\-]++(?:\.[A-Za-z0-9\-]++)++(?![À-ԯ])")
_UNICODE_EMAIL = re.compile(r"(?<![\w.%+\-])[\w.%+\-]++@[\w\-]++(?:\.[\w\-]++)++")
# From here on, the look behind comes after the first character: a search for a set of characters
# is many times faster than one for a place.
_IBAN = re.compile(r"[A-Z](?<![A-Za-z0-9].)[A-Z]\d{2}(?:[ ]?[A-Z0-9]){11,37}")
_CARD = re.compile(
    r"\d(?<![\d.,A-Za-z_].)(?:\d{12,18}"
    r"|\d{3}([ \-])\d{4}\1\d{4}\1\d{1,4}(?:\1\d{1,3})?|\d{3}([ \-])\d{6}\2\d{4,5})"
    r"(?!\d|[.,\-]\d)"
)
_IPV4 = re.compile(r"\d(?<![\w.].)\d{0,2}(?:\.\d{1,3}){3}(?![\w]|\.\d)", re.ASCII)
_IPV6 = re.compile(r"[23](?<![\w:.].)[0-9A-Fa-f]{3}:[0-9A-Fa-f:]{2,34}(?![\w:])", re.ASCII)

# What is masked may have hidden its neighbour, as in two phone numbers with no space between them:
# a text in which something was found is looked at again, so that masking twice changes nothing.
_MAX_ROUNDS = 8

# How long an account number is, by country (the registry of ISO 13616).
_IBAN_LENGTHS = {
    code: length
    for length, codes in {
        15: "NO",
        16: "BE",
        18: "DK FI FK FO GL NL SD",
        19: "MK SI",
        20: "AT BA EE KZ LT LU MN XK",
        21: "CH HR LI LV",
        22: "BG BH CR DE GB GE IE ME RS VA",
        23: "AE GI IL IQ OM SO TL",
        24: "AD CZ ES MD PK RO SA SE SK TN VG",
        25: "LY PT ST",
        26: "IS TR",
        27: "BI DJ FR GR IT MC MR SM",
        28: "AL AZ BY CY DO GT HN HU LB NI PL SV",
        29: "BR EG PS QA UA",
        30: "JO KW MU YE",
        31: "MT SC",
        32: "LC",
        33: "RU",
    }.items()
    for code in codes.split()
}
# Cards, phones and the addresses of machines have at least so many digits close together.
_SIX_DIGITS = re.compile(r"\d(?:[^\d\n]{0,3}\d){5}")
# Beginnings of card numbers by network, and how long these are (ISO/IEC 7812).
_ISSUERS = (
    (re.compile("4"), (13, 16, 19)),
    (re.compile("5[1-5]|2(?:22[1-9]|2[3-9]|[3-6]|7[01]|720)"), (16,)),
    (re.compile("3[47]"), (15,)),
    (re.compile("3(?:0[0-5]|095|6|8|9)"), (14, 15, 16, 17, 18, 19)),
    (re.compile("35(?:2[89]|[3-8])"), (16, 17, 18, 19)),
    (re.compile("6(?:011|4[4-9]|5|2)"), (16, 17, 18, 19)),
)


class MaskPersonalData(Edit[T]):
    """Puts a placeholder where personal data stood, in documents and in both sides of pairs."""

    def __init__(self, config: PerLanguage[PersonalDataConfig | None]) -> None:
        super().__init__()
        self._config = config

    def edit(self, item: T) -> T:
        """Masks each kind that is switched on, counted as `masked_email` and so on."""
        if isinstance(item, Document):
            text = "\n".join(item.lines)
            masked = self._mask(item, text, item.lang)
            if masked == text:
                return item
            return replace(item, lines=tuple(masked.split("\n")))
        source = self._mask(item, item.source, item.langs[0])
        target = self._mask(item, item.target, item.langs[1])
        if source == item.source and target == item.target:
            return item
        return replace(item, source=source, target=target)

    def _mask(self, item: T, text: str, lang: str) -> str:
        config = self._config[lang]
        if config is None:
            return text
        text, counts = mask_personal_data(text, lang, config)
        for kind, number in counts.items():
            self.count(item, f"masked_{kind}", number)
        return text


def mask_personal_data(
    text: str, lang: str, config: PersonalDataConfig
) -> tuple[str, dict[str, int]]:
    """Returns a text with its personal data masked, and how many places of each kind there were.

    Args:
        text: Lines; nothing is found across a line's end.
        lang: The language: phone numbers without a country's prefix are of its country.
        config: What to mask, and with what.
    """
    total: Counter[str] = Counter()
    for _ in range(_MAX_ROUNDS):
        text, counts = _mask_once(text, lang, config)
        if not counts:
            break
        total.update(counts)
    return text, dict(total)


def _mask_once(text: str, lang: str, config: PersonalDataConfig) -> tuple[str, dict[str, int]]:
    counts: dict[str, int] = {}
    if config.emails is not None and "@" in text:
        text, found = _replace(_EMAIL, _email_length, config.emails, text)
        if not text.isascii():
            text, more = _replace(_UNICODE_EMAIL, _email_length, config.emails, text)
            found += more
        counts["email"] = found
    if config.ibans is not None:
        text, counts["iban"] = _replace(_IBAN, _iban_length, config.ibans, text)
    if config.ips is not None and text.count(":") >= 2:
        text, counts["ip"] = _replace(_IPV6, _address_length, config.ips, text)
    if not _SIX_DIGITS.search(text):
        return text, {kind: number for kind, number in counts.items() if number}
    if config.cards is not None:
        text, counts["card"] = _replace(_CARD, _card_length, config.cards, text)
    if config.ips is not None:
        text, found = _replace(_IPV4, _address_length, config.ips, text)
        counts["ip"] = counts.get("ip", 0) + found
    if config.phones is not None:
        spans = find_phones(text, lang)
        text, counts["phone"] = _cut(text, spans, config.phones), len(spans)
    return text, {kind: number for kind, number in counts.items() if number}


def _replace(
    pattern: re.Pattern[str], check: Check, placeholder: str, text: str
) -> tuple[str, int]:
    spans = []
    match = pattern.search(text)
    while match:
        if length := check(match.group()):
            spans.append((match.start(), match.start() + length))
        match = pattern.search(text, match.start() + (length or 1))
    return _cut(text, spans, placeholder), len(spans)


def _cut(text: str, spans: list[tuple[int, int]], placeholder: str) -> str:
    """Returns a text with the placeholder in the place of each span, in order."""
    if not spans:
        return text
    parts: list[str] = []
    last = 0
    for start, end in spans:
        parts += text[last:start], placeholder
        last = end
    return "".join((*parts, text[last:]))


def _email_length(found: str) -> int:
    found = found.rstrip("-")
    domain = found.rpartition("@")[2]
    top = domain.rpartition(".")[2]
    is_top = top.startswith("xn--") or (len(top) >= 2 and not any(map(str.isdigit, top)))
    return len(found) if is_top else 0


def _iban_length(found: str) -> int:
    """Returns how much is an account number: the country says how long, two digits prove it."""
    length = _IBAN_LENGTHS.get(found[:2], 0)
    positions = [index for index, character in enumerate(found) if character != " "]
    if not 0 < length <= len(positions):
        return 0
    end = positions[length - 1] + 1
    compact = found[:end].replace(" ", "")
    number = "".join(str(int(character, 36)) for character in compact[4:] + compact[:4])
    return end if int(number) % 97 == 1 and found[end : end + 1] in ("", " ") else 0


def _card_length(found: str) -> int:
    digits = [int(c) for c in found if c.isdecimal()]
    text = "".join(map(str, digits))
    if not any(len(digits) in lengths and issuer.match(text) for issuer, lengths in _ISSUERS):
        return 0
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[-2::-2]]
    return len(found) if (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0 else 0


def _address_length(found: str) -> int:
    found = found.rstrip(":") if found.endswith(":") and not found.endswith("::") else found
    try:
        address = ipaddress.ip_address(found)
    except ValueError:
        return 0
    if address.version == 4 and sum(len(part) > 1 for part in found.split(".")) < 2:
        return 0  # as likely the number of a section, a version or an enzyme
    return len(found) if address.is_global and not address.is_multicast else 0
