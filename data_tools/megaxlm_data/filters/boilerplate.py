"""Takes lines out of documents that belong to the page and not to the text.

What such a line is like shows in its form, in any language: menus are runs of short lines without
the end of a sentence, navigation has separators between its words, code has braces. Where words
must tell, they are the same in most languages: names of networks, `cookie`, `javascript`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import regex

from megaxlm_data.document import Document, count_unspaced
from megaxlm_data.filters.base import Edit, PerLanguage

_SHORT_WORDS = 6  # a line with fewer words can be part of a menu
_CHARS_PER_WORD = 2  # where words have no spaces between them
_MENU_LINES = 4  # so many short lines in a row: a menu, not a heading or a line of dialogue
_NOTICE_WORDS = 40  # a longer line about cookies is text about cookies
_NOTICE_CHARS = 400  # a still longer line is text, without counting words
_SIGNATURE_WORDS = 12  # a longer line with a copyright sign is text about copyright

# a sentence ends with its mark, and perhaps with what closes a quotation or a bracket
_ENDS = regex.compile(r"[\p{Sentence_Terminal}…:;,،、]['\"\p{Pf}\p{Pe}\p{Pi}]*+$")
# code is not known by a semicolon at its end, which is the question mark of Greek
_MARKUP = re.compile(r"</?[a-z][a-z0-9]*+[ />]|/\*|\*/")
_PLACEHOLDER = re.compile(r"(?i:lorem ipsum)")
_SEPARATOR = re.compile(r"(?<=\s)[|»›·•→>](?=\s)|\|")
_LINK = re.compile(r"(?:https?://|www\.)\S++")
_COPYRIGHT = re.compile(r"[©Ⓒ℗]|\([cC]\)\s*+(?:19|20)\d\d|(?i:\bcopyright\b)")
_COOKIES = re.compile(r"(?i:\bcookies?\b|クッキー|쿠키|\bкуки\b|کوکی|कुकी|คุกกี้|ملفات تعريف الارتباط)")
_SCRIPT = re.compile(r"(?i:\bjavascript\b)")
_NETWORK = re.compile(
    r"(?i:\b(?:facebook|twitter|whatsapp|telegram|linkedin|pinterest|instagram|reddit|tumblr|"
    r"vkontakte|weibo|wechat|viber|tiktok|e-?mail|rss)\b|微信|微博)"
)


class Boilerplate(Edit[Document]):
    """Removes such lines, counted by kind; a document may lose all of them."""

    def __init__(self, applies: PerLanguage[bool]) -> None:
        super().__init__()
        self._applies = applies

    def edit(self, item: Document) -> Document:
        """Returns the document without them."""
        if not self._applies[item.lang]:
            return item
        menu = set(_menu_lines(item.lines))
        kept = []
        for number, line in enumerate(item.lines):
            kind = "menu" if number in menu else boilerplate_kind(line)
            if kind is None:
                kept.append(line)
            else:
                self.count(item, f"{kind}_line")
        return item if len(kept) == len(item.lines) else Document(item.lang, tuple(kept))


def boilerplate_kind(line: str) -> str | None:
    """Returns what a line is by itself: one of a few kinds of boilerplate, or None for text."""
    if "{" in line or "}" in line or _MARKUP.match(line):
        return "code"
    if "ipsum" in line and _PLACEHOLDER.search(line):  # a word of Latin by itself
        return "placeholder"
    if "://" in line or "www." in line:
        rest = _LINK.sub("", line)
        if 2 * len(rest) < len(line):
            return "link"
    if len(line) > _NOTICE_CHARS:
        return None
    words = _count_words(line)
    if words <= _NOTICE_WORDS and _COOKIES.search(line):
        return "notice"
    if words <= _SIGNATURE_WORDS:
        if _SCRIPT.search(line):
            return "notice"
        if _COPYRIGHT.search(line):
            return "copyright"
        if len(set(map(str.casefold, _NETWORK.findall(line)))) >= 2:
            return "share"
    return "navigation" if _is_navigation(line, words) else None


def _is_navigation(line: str, words: int) -> bool:
    """Whether a few short items stand between separators of one kind."""
    separators = _SEPARATOR.findall(line)
    if len(separators) < 2 or len(set(separators)) > 1 or "«" in line or "‹" in line:
        return False
    return words <= 4 * (len(separators) + 1) and _ENDS.search(line) is None


def _menu_lines(lines: Sequence[str]) -> Iterator[int]:
    """Yields the numbers of lines in long runs of short ones that end no sentence."""
    start = 0
    for number in range(len(lines) + 1):
        if number < len(lines) and _is_short_fragment(lines[number]):
            continue
        if number - start >= _MENU_LINES:
            yield from range(start, number)
        start = number + 1


def _is_short_fragment(line: str) -> bool:
    return (
        len(line) < 80  # characters: what is longer need not be counted
        and _count_words(line) < _SHORT_WORDS
        and _ENDS.search(line) is None
    )


def _count_words(line: str) -> int:
    unspaced = count_unspaced(line)
    return unspaced // _CHARS_PER_WORD + line.count(" ") + (unspaced < len(line))
