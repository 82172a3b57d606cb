"""Reads sentence pairs. Every line of the input gives one pair, so that nothing is misaligned."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import zip_longest

from megaxlm.errors import UserError
from megaxlm_data.readers.lines import (
    HEAD_CHARS,
    Line,
    LineReader,
    Overlong,
    Undecodable,
    count_newlines,
)
from megaxlm_data.readers.records import BadRecord, Malformed

RawPair = tuple[str, str] | Overlong | Undecodable | Malformed
Columns = tuple[int, int]


def read_tsv(
    reader: LineReader,
    start: int = 0,
    chosen: Columns | None = None,
    on_bad_record: BadRecord = "fail",
) -> Iterator[RawPair]:
    """Yields the pairs of a file, or of a range of it, with one pair in every line.

    There is no quoting: a quotation mark is text. A blank line is a pair of two empty sides.

    Args:
        reader: The lines; the ones marked `past_end` belong to the next range.
        start: Where the range begins, to name the right line in an error.
        chosen: The columns of the two sides, from 0; None where every line has exactly two.
        on_bad_record: What to do with a line that has other columns.

    Raises:
        UserError: A line has not exactly two columns, or not the chosen ones; policy `fail`.
    """
    first, second = chosen or (0, 1)
    needed = max(first, second) + 1
    for block in reader:
        if block.past_end:
            return
        for index, line in enumerate(block.lines):
            if not isinstance(line, str):
                yield line
                continue
            columns = line.split("\t")
            if len(columns) == needed or chosen and len(columns) > needed:
                yield columns[first], columns[second]
            elif not line.strip():
                yield "", ""
            elif on_bad_record == "skip":
                yield Malformed(line[:HEAD_CHARS])
            else:
                number = block.first_line + index
                # the range begins after the first newline at or behind the byte before it
                number += count_newlines(reader.path, start - 1) + 1 if start else 0
                wanted = (
                    f"`columns` asks for number {needed - 1}, counted from 0"
                    if chosen
                    else "bitext has exactly two separated by a tab"
                )
                raise UserError(
                    f"{reader.path}:{number}: {len(columns)} columns, {wanted}; repair the line, "
                    f"{'correct' if chosen else 'choose'} `columns`, or set on_bad_record to skip"
                )


def read_aligned(
    source: LineReader, target: LineReader, tick: Callable[[], None]
) -> Iterator[RawPair]:
    """Yields the pairs of two files that are aligned line by line.

    Args:
        source: Lines of the first language.
        target: Lines of the second one.
        tick: Called now and then while the rest of a longer file is counted.

    Raises:
        UserError: One file has more lines than the other.
    """
    left, right = _lines(source), _lines(target)
    pairs = 0
    for a, b in zip_longest(left, right):
        if a is None or b is None:
            longer = left if b is None else right
            extra = 1
            for extra, _ in enumerate(longer, start=2):
                if extra % 100_000 == 0:
                    tick()
            counts = (pairs + extra, pairs) if b is None else (pairs, pairs + extra)
            raise UserError(
                f"{source.path} has {counts[0]:,} lines and {target.path} has {counts[1]:,}: "
                "aligned files have the same number of lines; align them again"
            )
        pairs += 1
        if isinstance(a, str) and isinstance(b, str):
            yield a, b
        else:
            bad = [side for side in (a, b) if not isinstance(side, str)]
            yield next((side for side in bad if isinstance(side, Undecodable)), bad[0])


def _lines(reader: LineReader) -> Iterator[Line]:
    for block in reader:
        yield from block.lines
