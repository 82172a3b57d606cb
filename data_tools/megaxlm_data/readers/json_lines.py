"""Reads JSON lines: one object a line, of which some fields are text.

The standard library decodes them: at 150 to 370 MB/s a core it is some ten times faster than what
follows, and unlike orjson it takes `NaN` and large numbers, which metadata written by Python holds.
"""

from __future__ import annotations

import json
from typing import Any

from megaxlm.errors import UserError
from megaxlm_data.readers.lines import HEAD_CHARS, Undecodable
from megaxlm_data.readers.record_lines import RecordLinesReader
from megaxlm_data.readers.records import (
    FieldNames,
    Malformed,
    Policies,
    RawRow,
    lookup,
    names_in,
)


class JsonLinesReader(RecordLinesReader):
    """Reads the records of a file, or of a range of an uncompressed one. Blank lines are none.

    Args:
        path: The file.
        fields: What a row is made of.
        policies: What to do with what is damaged.
        max_line_bytes: A longer line is given as `Overlong`, and never held.
        start: A line that begins before this byte is not read.
        end: Nor is one that begins at or after this one; None for the whole file.
    """

    def __init__(
        self,
        path: str,
        fields: FieldNames,
        policies: Policies,
        max_line_bytes: int,
        start: int = 0,
        end: int | None = None,
    ) -> None:
        super().__init__(path, policies, max_line_bytes, start, end)
        self._fields = fields

    def _row(self, line: str, number: int) -> RawRow:
        try:
            record = json.loads(line)
        except ValueError as error:
            if line.strip() in ("[", "{", "[{"):  # one value over many lines
                return self._bad(line, number, "is no JSON object; give one object a line")
            hint = (
                " (the line breaks off: perhaps the file was not fetched whole)"
                if getattr(error, "pos", 0) >= len(line.rstrip())
                or "Unterminated string" in str(error)
                else ""
            )
            return self._bad(line, number, f"not valid JSON: {_reason(error)}{hint}; repair it")
        except RecursionError:
            return self._bad(line, number, "not valid JSON: nested too deeply; repair it")
        if not isinstance(record, dict):
            return self._bad(
                line,
                number,
                "is no JSON object; give one object a line",
            )
        texts = []
        for place, name in enumerate(self._fields.names):
            value = lookup(record, name)
            if isinstance(value, str):
                texts.append(value)
                continue
            if place >= self._fields.required:
                texts.append("")
                continue
            if value is None:
                there = names_in(record)
                if name in there:  # null: a text that is empty
                    texts.append("")
                    continue
                return self._bad(line, number, self._fields.missing(place, there))
            kind = type(value).__name__
            return self._bad(line, number, self._fields.no_text(place, kind))
        if "\\ud" in line or "\\uD" in line:
            return self._without_surrogates(texts, line, number)
        return tuple(texts)

    def _without_surrogates(self, texts: list[str], line: str, number: int) -> RawRow:
        """Half of a surrogate pair, written as an escape, is what invalid UTF-8 is elsewhere."""
        try:
            for text in texts:
                text.encode()
            return tuple(texts)
        except UnicodeEncodeError:
            if self._policies.invalid_utf8 == "fail":
                raise UserError(
                    f"{self._path}:{self._line(number)}: a text holds half a surrogate pair; "
                    "repair the line, or set on_invalid_utf8 to skip or replace"
                ) from None
        if self._policies.invalid_utf8 == "skip":
            self.counts["invalid_utf8"] += 1
            return Undecodable(line[:HEAD_CHARS])
        self.counts["replaced_utf8"] += 1
        return tuple(
            text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
            for text in texts
        )

    def _bad(self, line: str, number: int, what: str) -> Malformed:
        if self._policies.bad_record == "fail":
            raise UserError(
                f"{self._path}:{self._line(number)}: {what}, or set on_bad_record to skip"
            )
        return Malformed(line[:HEAD_CHARS])


def _reason(error: ValueError) -> str:
    decoded: Any = error
    place = f" at character {decoded.pos + 1:,}" if hasattr(error, "pos") else ""
    return f"{getattr(error, 'msg', str(error))}{place}"
