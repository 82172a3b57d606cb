"""Groups the lines of a file into documents: a blank line ends a document.

A large uncompressed file is read in byte ranges by several processes. A range owns the documents
that follow a blank line which begins inside it (the first range also owns the one at the start of
the file), so that the ranges together give every document once, whatever their number.
"""

from __future__ import annotations

from collections.abc import Iterator

from megaxlm_data.readers.lines import (
    HEAD_CHARS,
    LineReader,
    Overlong,
    Undecodable,
)

RawDocument = str | Overlong  # lines joined by a newline, or one that was too long to hold


def read_documents(
    reader: LineReader, max_chars: int, first_range: bool = True
) -> Iterator[RawDocument]:
    """Yields the documents of a file or of a range of it.

    Args:
        reader: The lines; the ones marked `past_end` only finish the last document.
        max_chars: A longer document (before normalisation) is given as `OVERLONG`, and never held.
        first_range: Whether the first line begins a document; else the first blank line does.
    """
    started = first_range
    document: list[str] = []
    size = 0  # characters held, or max_chars + 1 once the document is too long
    head = ""  # of one that is
    for block in reader:
        for line in block.lines:
            if isinstance(line, Undecodable):
                continue
            if isinstance(line, str) and (not line or line.isspace()):
                if size:
                    yield Overlong(head) if size > max_chars else "\n".join(document)
                    document, size = [], 0
                if block.past_end:
                    return
                started = True
            elif started:
                if isinstance(line, str) and size + len(line) <= max_chars:
                    document.append(line)
                    size += len(line)
                else:
                    if size <= max_chars:
                        beginning = line if isinstance(line, str) else line.head
                        head = "\n".join([*document, beginning])[:HEAD_CHARS]
                    document, size = [], max_chars + 1
            elif block.past_end:
                return  # no blank line in this range: its text belongs to the one before
    if size:
        yield Overlong(head) if size > max_chars else "\n".join(document)


def read_lines(reader: LineReader, max_chars: int) -> Iterator[RawDocument | Undecodable]:
    """Yields every line that is not blank as a document of its own.

    Args:
        reader: The lines; the ones marked `past_end` belong to the next range.
        max_chars: A longer line is given as `OVERLONG`.
    """
    for block in reader:
        if block.past_end:
            return
        for line in block.lines:
            if not isinstance(line, str):
                yield line
            elif line and not line.isspace():
                yield Overlong(line[:HEAD_CHARS]) if len(line) > max_chars else line
