"""Reads the output of WikiExtractor: `<doc id=... title=...>`, lines of text, `</doc>`.

Its text is made safe for HTML (`&amp;`, `&lt;`): that is undone. With `--json` it writes a JSON
object a line instead; a line that begins with a brace is read as one.
"""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Iterator

from megaxlm.errors import UserError
from megaxlm_data.readers.json_lines import JsonLinesReader
from megaxlm_data.readers.lines import HEAD_CHARS, LineReader, Overlong, Undecodable
from megaxlm_data.readers.records import FieldNames, Malformed, Policies, RawRow

_BEGINNING = re.compile(r'<doc id="[^"]*"')
_END = "</doc>"


def is_json(head: bytes) -> bool:
    """Returns whether an extract is of the JSON form, by its first bytes."""
    return head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"{")


class WikipediaReader:
    """Reads the articles of an extract.

    Args:
        path: The file.
        policies: What to do with what is damaged.
        max_chars: A longer article is given as `Overlong`, and never held.
    """

    def __init__(self, path: str, policies: Policies, max_chars: int) -> None:
        self._path, self._policies, self._max_chars = path, policies, max_chars
        self._reader = LineReader(path, policies.invalid_utf8, 4 * max_chars)
        self.counts: Counter[str] = self._reader.counts

    @property
    def position(self) -> int:
        """Bytes of the file itself read until now."""
        return self._reader.position

    def __enter__(self) -> WikipediaReader:
        return self

    def __exit__(self, *exc: object) -> None:
        self._reader.__exit__(*exc)

    def __iter__(self) -> Iterator[RawRow]:
        """Yields the articles, the title first, as WikiExtractor writes them.

        Raises:
            UserError: Text stands outside of an article, or the last one has no end.
        """
        article: list[str] | None = None
        size, number = 0, 0
        for block in self._reader:
            for number, line in enumerate(block.lines, start=block.first_line):
                if isinstance(line, Undecodable):
                    continue
                if isinstance(line, Overlong):
                    size = self._max_chars + 1
                elif article is None:
                    if _BEGINNING.match(line):
                        article, size = [], 0
                    elif line and not line.isspace():
                        yield self._bad(line, number, "is outside of `<doc id=...>` and `</doc>`")
                elif line.startswith(_END):
                    yield _finished(article, size > self._max_chars)
                    article = None
                else:
                    size += len(line)
                    if size <= self._max_chars:
                        article.append(line)
        if article is not None:
            text = "\n".join(article)
            yield self._bad(text, number, "the file ends inside an article, it is not whole")

    def _bad(self, text: str, number: int, what: str) -> Malformed:
        if self._policies.bad_record == "fail":
            raise UserError(
                f"{self._path}:{number}: {what}; repair the extract, or set on_bad_record to skip"
            )
        return Malformed(text[:HEAD_CHARS])


def _finished(article: list[str], too_long: bool) -> RawRow:
    text = html.unescape("\n".join(article))
    return Overlong(text[:HEAD_CHARS]) if too_long else (text,)


class WikipediaJsonReader(JsonLinesReader):
    """Reads the articles of an extract made with `--json`."""

    def __init__(self, path: str, policies: Policies, max_chars: int) -> None:
        fields = FieldNames(("text",), 1, ("format",))
        super().__init__(path, fields, policies, 8 * max_chars)

    def __iter__(self) -> Iterator[RawRow]:
        """Yields the articles."""
        for row in super().__iter__():
            yield (html.unescape(row[0]),) if isinstance(row, tuple) else row
