"""Reads TMX, the exchange format of translation memories, as a stream.

Expat of the standard library parses it piece by piece. A file may declare a document type, as many
do, but no entities: those are how an XML file grows without bound or reaches for other files.
Expat loads nothing from outside by itself.
"""

from __future__ import annotations

import codecs
import html
import re
from collections import Counter
from collections.abc import Iterator
from xml.parsers import expat

from megaxlm.errors import UserError
from megaxlm_data.languages.codes import normalize_code
from megaxlm_data.readers.lines import HEAD_CHARS, InvalidUtf8, Overlong, Undecodable
from megaxlm_data.readers.records import MissingSide, RawRow
from megaxlm_data.readers.stream import ByteStream

_NATIVE_CODES = {"bpt", "ept", "it", "ph", "ut"}  # what stands inside is markup, no text
_CONTROLS = bytes(set(range(32)) - {9, 10, 13})  # XML has none, files from the web do
_MARK = "\U0010fffd"  # of the last private-use plane: stands for an invalid byte until it is known
_MARKUP_LIMIT = 16 << 20  # bytes without an end of a tag or text
_LANGUAGES_KEPT = 1000
_UTF8_NAMES = ("utf-8", "utf8", "us-ascii", "ascii")


class TmxReader:
    """Reads the translation units of a file that have text in both languages.

    Where a unit holds several variants of a language, the first one counts. `en-US` is `en`, and
    `zh-TW` is `zh-Hant`, not `zh`.

    Args:
        path: The file.
        langs: The languages of the pairs, source first.
        policy: What to do with invalid UTF-8.
        max_chars: A pair with a longer side is given as `Overlong`, and never held.
    """

    def __init__(
        self, path: str, langs: tuple[str, str], policy: InvalidUtf8, max_chars: int
    ) -> None:
        self.counts: Counter[str] = Counter()
        self._path, self._policy, self._max_chars = path, policy, max_chars
        self._langs = langs
        self._sides: dict[str, int | None] = {}  # by the language of a variant, as it is written
        self._stream = ByteStream(path)
        self._found: list[RawRow] = []
        self._seen: Counter[str] = Counter()  # languages of variants, as they are written
        self._pairs = self._newlines = 0
        self._texts: list[list[str] | None] = [None, None]
        self._variant: list[str] | None = None  # the text of the open <seg> of a wanted language
        self._size = 0  # characters of the longest side until now
        self._lang: int | None = None  # side of the open <tuv>
        self._in_segment = False
        self._codes = 0  # depth of native codes
        self._parser = expat.ParserCreate()
        self._parser.buffer_text = True
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._text
        self._parser.EntityDeclHandler = self._refuse_entity
        # an entity that only a document type elsewhere declares, as `&nbsp;` of HTML
        self._parser.SkippedEntityHandler = lambda name, _: self._text(html.unescape(f"&{name};"))
        self._root = ""

    @property
    def position(self) -> int:
        """Bytes of the file itself read until now."""
        return self._stream.position

    def __enter__(self) -> TmxReader:
        return self

    def __exit__(self, *exc: object) -> None:
        self._stream.__exit__(*exc)

    def __iter__(self) -> Iterator[RawRow]:
        """Yields the pairs.

        Raises:
            UserError: The file is no TMX, or holds nothing in one of the languages.
        """
        decoder, fed, first = None, 0, True
        while True:
            block = self._stream.read()
            if first:
                if not block:
                    return
                decoder, first = _utf8_decoder(block), False
            data = block
            if decoder is not None:
                data = self._checked(decoder.decode(block, final=not block))
            self._feed(data, final=not block)
            fed += len(data)
            yield from self._found
            self._found.clear()
            if not block:
                break
            if fed - self._parser.CurrentByteIndex > _MARKUP_LIMIT:
                raise self._error("a tag has no end within 16 MiB")
        if not self._pairs and self._seen:
            found = {self._side_of(name) for name in self._seen}
            missing = [lang for side, lang in enumerate(self._langs) if side not in found]
            if missing:
                there = ", ".join(name for name, _ in self._seen.most_common(30))
                raise UserError(
                    f"{self._path}: no text in `{missing[0]}`; the languages there are: {there}; "
                    "correct `langs`"
                )

    def _side_of(self, written: str) -> int | None:
        """Returns which side a variant is of; a code as in the config counts before a near one."""
        if written not in self._sides:
            if len(self._sides) > _LANGUAGES_KEPT:
                self._sides.clear()
            spellings = [normalize_code(lang) for lang in self._langs]
            side = None
            if written in self._langs:
                side = self._langs.index(written)
            elif (code := normalize_code(written)) in spellings:
                side = spellings.index(code)
            self._sides[written] = side
        return self._sides[written]

    def _feed(self, data: bytes, final: bool) -> None:
        try:
            self._parser.Parse(data, final)
        except expat.ExpatError as error:
            what = expat.errors.messages[error.code]
            cut = "; the file is cut off" if final else ""
            raise self._error(f"not well-formed XML ({what}{cut})", error.lineno) from None

    def _error(self, what: str, line: int | None = None) -> UserError:
        line = self._parser.CurrentLineNumber if line is None else line
        return UserError(f"{self._path}:{line}: {what}; repair the file, or fetch it again")

    def _checked(self, text: str) -> bytes:
        if _MARK in text and self._policy == "fail":
            line = 1 + self._newlines + text.count("\n", 0, text.index(_MARK))
            raise UserError(
                f"{self._path}:{line}: invalid UTF-8; repair the file, or set on_invalid_utf8 to "
                "skip or replace"
            )
        self._newlines += text.count("\n")
        return text.encode().translate(None, _CONTROLS)

    def _refuse_entity(self, name: str, *rest: object) -> None:
        raise self._error(f"declares an entity ({name[:40]}), which is not read for safety")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        if not self._root:
            self._root = name
            if name != "tmx":
                raise self._error(f"is no TMX: its outermost element is `{name[:40]}`")
        if self._in_segment:
            self._codes += name in _NATIVE_CODES
        elif name == "seg":
            self._in_segment = True
            if self._lang is not None and self._texts[self._lang] is None:
                self._variant = self._texts[self._lang] = []
        elif name == "tuv":
            lang = attributes.get("xml:lang") or attributes.get("lang") or ""
            if len(self._seen) < _LANGUAGES_KEPT or lang in self._seen:
                self._seen[lang] += 1
            self._lang = self._side_of(lang)
        elif name == "tu":
            self._texts, self._size = [None, None], 0

    def _end(self, name: str) -> None:
        if name == "seg" and not self._codes:
            self._in_segment, self._variant = False, None
        elif self._in_segment:
            self._codes -= name in _NATIVE_CODES
        elif name == "tuv":
            self._lang = None
        elif name == "tu":
            self._finish()

    def _text(self, text: str) -> None:
        if self._variant is not None and not self._codes:
            held = sum(map(len, self._variant))
            self._size = max(self._size, held + len(text))
            if held <= self._max_chars:
                self._variant.append(text)

    def _finish(self) -> None:
        source, target = self._texts
        self._texts = [None, None]
        if source is None or target is None:
            there = source if source is not None else target
            self._found.append(MissingSide("".join(there or [])[:HEAD_CHARS]))
            return
        self._pairs += 1
        sides = ("".join(source), "".join(target))
        if self._size > self._max_chars:
            self._found.append(Overlong("\t".join(sides)[:HEAD_CHARS]))
        elif any(_MARK in side for side in sides):
            shown = (sides[0].replace(_MARK, "\ufffd"), sides[1].replace(_MARK, "\ufffd"))
            if self._policy == "skip":
                self.counts["invalid_utf8"] += 1
                self._found.append(Undecodable("\t".join(shown)[:HEAD_CHARS]))
            else:
                self.counts["replaced_utf8"] += 1
                self._found.append(shown)
        else:
            self._found.append(sides)


def _utf8_decoder(head: bytes) -> codecs.IncrementalDecoder | None:
    """Returns what decodes a file by its beginning; None leaves another encoding to expat."""
    declared = re.match(rb"""<\?xml[^>]*?encoding\s*=\s*["']([A-Za-z0-9._-]+)""", head)
    if head[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in head[:4]:
        return None
    if declared and declared[1].decode().lower() not in _UTF8_NAMES:
        return None
    return codecs.getincrementaldecoder("utf-8")("megaxlm_mark")


def _mark(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return _MARK, error.end


codecs.register_error("megaxlm_mark", _mark)
