"""What the readers of one record a line have in common: opening, ranges, numbers of lines."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator
from typing import Self

from megaxlm_data.readers.lines import LineReader, count_newlines
from megaxlm_data.readers.records import Policies, RawRow


class RecordLinesReader(ABC):
    """Reads the records of a file, or of a range of an uncompressed one. Blank lines are none.

    Args:
        path: The file.
        policies: What to do with what is damaged.
        max_line_bytes: A longer line is given as `Overlong`, and never held.
        start: A line that begins before this byte is not read.
        end: Nor is one that begins at or after this one; None for the whole file.
        has_header: Whether the first line of the file is no record.
    """

    def __init__(
        self,
        path: str,
        policies: Policies,
        max_line_bytes: int,
        start: int = 0,
        end: int | None = None,
        has_header: bool = False,
    ) -> None:
        self._path, self._policies, self._start = path, policies, start
        self._skips = has_header and start == 0
        self._reader = LineReader(path, policies.invalid_utf8, max_line_bytes, start, end)
        self.counts: Counter[str] = self._reader.counts

    @property
    def position(self) -> int:
        """Bytes of the file itself read until now."""
        return self._reader.position

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._reader.__exit__(*exc)

    def __iter__(self) -> Iterator[RawRow]:
        """Yields the rows.

        Raises:
            UserError: A line is no record with what is asked for, under the policy `fail`.
        """
        skips = self._skips
        for block in self._reader:
            if block.past_end:
                return
            for index, line in enumerate(block.lines):
                if skips:
                    skips = False
                elif not isinstance(line, str):
                    yield line
                elif line and not line.isspace():
                    yield self._row(line, block.first_line + index)

    @abstractmethod
    def _row(self, line: str, number: int) -> RawRow:
        """Returns the row of a line; `number` counts from where reading began."""

    def _line(self, number: int) -> int:
        """Returns the number of a line in the whole file, for a message."""
        # a range begins after the first newline at or behind the byte before it
        return number + (count_newlines(self._path, self._start - 1) + 1 if self._start else 0)
