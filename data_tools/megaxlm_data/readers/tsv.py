"""Reads columns of lines whose fields are separated by tabs: one document a line.

There is no quoting: a quotation mark is text. Columns are chosen by number, from 0, or by what the
first line calls them; then that line is no document.
"""

from __future__ import annotations

from collections.abc import Iterator

from megaxlm.errors import UserError
from megaxlm_data.readers.lines import HEAD_CHARS, LineReader
from megaxlm_data.readers.record_lines import RecordLinesReader
from megaxlm_data.readers.records import Malformed, Policies, RawRow

Column = str | int
_NAMES_SHOWN, _NAME_CHARS = 20, 30


class TsvReader(RecordLinesReader):
    """Reads the rows of a file, or of a range of an uncompressed one. Blank lines are none.

    Args:
        path: The file.
        columns: What a row is made of.
        keys: The key of the config that gives each, for messages.
        policies: What to do with what is damaged.
        max_line_bytes: A longer line is given as `Overlong`, and never held.
        start: A line that begins before this byte is not read.
        end: Nor is one that begins at or after this one; None for the whole file.
    """

    def __init__(
        self,
        path: str,
        columns: tuple[Column, ...],
        keys: tuple[str, ...],
        policies: Policies,
        max_line_bytes: int,
        start: int = 0,
        end: int | None = None,
    ) -> None:
        super().__init__(path, policies, max_line_bytes, start, end, has_header(columns))
        self._columns, self._keys, self._limit = columns, keys, max_line_bytes
        self._places: list[int] = []  # of the columns; read from the first line when rows are

    def __iter__(self) -> Iterator[RawRow]:
        """Yields the rows.

        Raises:
            UserError: A name is not in the first line; or a line lacks a column, policy `fail`.
        """
        self._places = column_places(self._path, self._columns, self._keys, self._limit)
        return super().__iter__()

    def _row(self, line: str, number: int) -> RawRow:
        values, places = line.split("\t"), self._places
        if max(places) < len(values):
            return tuple(values[place].strip() for place in places)
        if self._policies.bad_record == "skip":
            return Malformed(line[:HEAD_CHARS])
        place, key = next(
            each for each in zip(places, self._keys, strict=True) if each[0] >= len(values)
        )
        raise UserError(
            f"{self._path}:{self._line(number)}: {len(values)} columns, and `{key}` asks for "
            f"number {place}, counted from 0; repair the line, correct `{key}`, or set "
            "on_bad_record to skip"
        )


def has_header(columns: tuple[Column, ...]) -> bool:
    """Whether the first line of a file gives its columns names."""
    return any(isinstance(column, str) for column in columns)


def column_places(
    path: str, columns: tuple[Column, ...], keys: tuple[str, ...], max_line_bytes: int = 1 << 20
) -> list[int]:
    """Returns the number of each column, from 0.

    Raises:
        UserError: The first line does not name it.
    """
    if not has_header(columns):
        return [int(column) for column in columns]
    with LineReader(path, "replace", max_line_bytes) as reader:
        first = next((block.lines[0] for block in reader if block.lines), "")
    names = [name.strip() for name in first.split("\t")] if isinstance(first, str) else []
    places = []
    for column, key in zip(columns, keys, strict=True):
        if isinstance(column, int):
            places.append(column)
        elif column in names:
            places.append(names.index(column))
        elif names != [""]:  # an empty file has no text, and is warned of
            shown = ", ".join(name[:_NAME_CHARS] for name in names[:_NAMES_SHOWN])
            raise UserError(
                f"{path}:1: no column `{column}`; the first line has: {shown}; correct `{key}`, or "
                f"where the columns have no names give a number, counted from 0: `{key}: 1`"
            )
        else:
            places.append(0)
    return places
