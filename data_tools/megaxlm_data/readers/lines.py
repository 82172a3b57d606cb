"""Cuts a byte stream into decoded lines, block by block.

Lines end at a line feed alone: real text holds U+0085, U+2028 and lone carriage returns inside
sentences, and `str.splitlines` would tear those apart and misalign bitext. A carriage return
before the line feed is white space to everything downstream. A line longer than the limit is
never held whole.
"""

from __future__ import annotations

import codecs
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

from megaxlm.errors import UserError
from megaxlm_data.readers.locations import open_binary
from megaxlm_data.readers.stream import ByteStream

InvalidUtf8 = Literal["fail", "skip", "replace"]
HEAD_CHARS = 300  # kept of what is not read, so that a person can see what it was


@dataclass(frozen=True, slots=True)
class Overlong:
    """Stands for a line that was longer than the limit."""

    reason: ClassVar[str] = "too_long"  # as the filters of length call it
    head: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Undecodable:
    """Stands for a line that was not UTF-8, under the policy `skip`."""

    reason: ClassVar[str] = "invalid_utf8"
    head: str = field(default="", compare=False)


OVERLONG, UNDECODABLE = Overlong(), Undecodable()
Line = str | Overlong | Undecodable


@dataclass(frozen=True, slots=True)
class LineBlock:
    """Some consecutive lines."""

    lines: list[Line]
    first_line: int  # number of the first one, from 1, counted from where reading began
    past_end: bool  # they begin at or after the end of the range


class LineReader:
    """Reads the lines of a file, or of a range of an uncompressed one.

    Args:
        path: The file.
        policy: What to do with a line that is not UTF-8.
        max_line_bytes: A longer line is given as `OVERLONG`.
        start: A line that begins before this byte is not read.
        end: Lines that begin at or after this byte are marked `past_end`; None for the whole file.
    """

    def __init__(
        self,
        path: str | Path,
        policy: InvalidUtf8,
        max_line_bytes: int,
        start: int = 0,
        end: int | None = None,
    ) -> None:
        self.path = path
        self.counts: Counter[str] = Counter()
        self._policy = policy
        self._limit = max_line_bytes
        self._start, self._end = start, end
        self._stream = ByteStream(path, max(0, start - 1))

    @property
    def position(self) -> int:
        """Bytes of the file itself read until now."""
        return self._stream.position

    def __enter__(self) -> LineReader:
        return self

    def __exit__(self, *exc: object) -> None:
        self._stream.__exit__(*exc)

    def __iter__(self) -> Iterator[LineBlock]:
        number = 1
        for offset, raw, head in self._whole_lines():
            parts = [(offset, raw, False)]
            if self._end is not None and offset + len(raw) > self._end:
                # the first line that begins at or after `end`
                newline = raw.find(b"\n", max(0, self._end - 1 - offset))
                cut = 0 if offset >= self._end else newline + 1 if newline >= 0 else len(raw)
                parts = [(offset, raw[:cut], False), (offset + cut, raw[cut:], True)]
            for part_offset, part, past_end in parts:
                if head is not None and part:
                    yield LineBlock([Overlong(head)], number, past_end)
                    number += 1
                elif part:
                    lines = self._decode(part, part_offset, number)
                    yield LineBlock(lines, number, past_end)
                    number += len(lines)

    def _whole_lines(self) -> Iterator[tuple[int, bytes, str | None]]:
        """Yields (offset, whole lines, None), or (offset, a newline, its head) for one too long."""
        offset = self._stream.offset
        rest = b""
        skipping = self._start > 0  # up to the first newline: inside another range's line
        overlong_at: int | None = None
        head = ""
        while block := self._stream.read():
            if offset == 0 and not rest and overlong_at is None:
                bom = len(codecs.BOM_UTF8) if block.startswith(codecs.BOM_UTF8) else 0
                block, offset = block[bom:], bom
            if skipping or overlong_at is not None:
                newline = block.find(b"\n")
                if newline < 0:
                    offset += len(block)
                    continue
                if overlong_at is not None:
                    yield overlong_at, b"\n", head
                block = block[newline + 1 :]
                offset += newline + 1
                skipping, overlong_at = False, None
            block = rest + block
            cut = block.rfind(b"\n") + 1
            if cut:
                yield offset, block[:cut], None
            rest = block[cut:]
            offset += cut
            if len(rest) > self._limit:
                head = rest[: 4 * HEAD_CHARS].decode("utf-8", "replace")[:HEAD_CHARS]
                overlong_at, offset, rest = offset, offset + len(rest), b""
        if overlong_at is not None:
            yield overlong_at, b"\n", head
        elif rest:
            yield offset, rest, None

    def _decode(self, raw: bytes, offset: int, number: int) -> list[Line]:
        try:
            lines = raw.decode("utf-8").split("\n")
        except UnicodeDecodeError as error:
            if self._policy == "fail":
                line = number + raw.count(b"\n", 0, error.start)
                if self._start > 0:  # counted from the middle of the file until now
                    line = 1 + count_newlines(self.path, offset + error.start)
                raise UserError(
                    f"{self.path}:{line}: invalid UTF-8 (byte 0x{raw[error.start]:02x}); repair "
                    "the file, or set on_invalid_utf8 to skip or replace"
                ) from None
            if self._policy == "replace":
                lines = raw.decode("utf-8", "replace").split("\n")
                self.counts["replaced_utf8"] += sum("\ufffd" in line for line in lines)
            else:
                return self._decode_each(raw)
        if not lines[-1]:
            lines.pop()  # after the newline that ends the block
        return list(lines)

    def _decode_each(self, raw: bytes) -> list[Line]:
        lines: list[Line] = []
        for line in raw.removesuffix(b"\n").split(b"\n"):
            try:
                lines.append(line.decode("utf-8"))
            except UnicodeDecodeError:
                head = line[: 4 * HEAD_CHARS].decode("utf-8", "replace")[:HEAD_CHARS]
                lines.append(Undecodable(head))
                self.counts["invalid_utf8"] += 1
        return lines


def count_newlines(path: str | Path, offset: int) -> int:
    """Counts the newlines in the first `offset` bytes of an uncompressed file."""
    newlines = 0
    with open_binary(path) as file:
        while offset > 0 and (block := file.read(min(offset, 4 << 20))):
            newlines += block.count(b"\n")
            offset -= len(block)
    return newlines
