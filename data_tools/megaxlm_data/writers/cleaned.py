"""Cleaned text between the stages: Arrow files of blocks of about a megabyte, zstd inside.

A block is what one task encodes. The columns of numbers can be read without the text, so that
deduplication and the choice of the validation split touch a hundredth of the bytes. Files are
read, not mapped: pages of a mapped corpus would count as memory of the build.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from megaxlm_data.document import Document, Pair, document_id, pair_id
from megaxlm_data.writers.atomic import CheckedFile

BLOCK_BYTES = 1 << 20
_MOST_HELD_BYTES = 64 << 20  # of all languages together
_DOCUMENT_SCHEMA = pa.schema(
    [
        ("doc_id", pa.uint64()),
        ("lines", pa.uint32()),
        ("bytes_0", pa.uint32()),
        ("text_0", pa.string()),
    ]
)
_PAIR_SCHEMA = pa.schema(
    [
        ("doc_id", pa.uint64()),
        ("lines", pa.uint32()),
        ("bytes_0", pa.uint32()),
        ("bytes_1", pa.uint32()),
        ("text_0", pa.string()),
        ("text_1", pa.string()),
    ]
)


@dataclass
class _Held:
    """Rows of one language or pair that are not written yet."""

    texts: tuple[list[str], ...]
    sizes: tuple[list[int], ...]
    ids: list[int] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    text_bytes: int = 0


class CleanedWriter:
    """Writes documents, or pairs, as blocks; each block is of one language or pair.

    Attributes:
        block_rows: Rows of each block written.
        block_names: Its language, `en`, or pair, `en-fr`.
        text_bytes: UTF-8 bytes written, by language or pair.
    """

    def __init__(self, file: CheckedFile, is_bitext: bool) -> None:
        self.block_rows: list[int] = []
        self.block_names: list[str] = []
        self.text_bytes: Counter[str] = Counter()
        self._schema = _PAIR_SCHEMA if is_bitext else _DOCUMENT_SCHEMA
        self._sides = 1 + is_bitext
        self._held: dict[str, _Held] = {}
        self._held_bytes = 0
        options = pa.ipc.IpcWriteOptions(compression="zstd", use_threads=False)
        sink = pa.PythonFile(file, mode="w")
        self._writer = pa.ipc.new_file(sink, self._schema, options=options)

    def add(self, item: Document | Pair) -> None:
        """Adds a row."""
        if isinstance(item, Document):
            name, doc_id, lines = item.lang, document_id(item.text), len(item.lines)
            sides: tuple[str, ...] = ("\n".join(item.lines),)
        else:
            name, doc_id, lines = "-".join(item.langs), pair_id(item.source, item.target), 1
            sides = (item.source, item.target)
        held = self._held.get(name)
        if held is None:
            columns = range(self._sides)
            held = _Held(tuple([] for _ in columns), tuple([] for _ in columns))
            self._held[name] = held
        held.ids.append(doc_id)
        held.lines.append(lines)
        for texts, sizes, side in zip(held.texts, held.sizes, sides, strict=True):
            size = len(side.encode())
            texts.append(side)
            sizes.append(size)
            held.text_bytes += size
            self._held_bytes += size
        if held.text_bytes >= BLOCK_BYTES:
            self._flush(name)
        elif self._held_bytes >= _MOST_HELD_BYTES:  # a file of very many languages
            self._flush(max(self._held, key=lambda each: self._held[each].text_bytes))

    def close(self) -> None:
        """Writes what is held and the footer."""
        for name in sorted(self._held):
            self._flush(name)
        self._writer.close()

    def _flush(self, name: str) -> None:
        held = self._held.pop(name)
        columns: tuple[list[Any], ...] = (held.ids, held.lines, *held.sizes, *held.texts)
        arrays = [
            pa.array(column, kind.type) for column, kind in zip(columns, self._schema, strict=True)
        ]
        self._writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=self._schema))
        self.block_rows.append(len(held.ids))
        self.block_names.append(name)
        self.text_bytes[name] += held.text_bytes
        self._held_bytes -= held.text_bytes


class CleanedFile:
    """Reads blocks.

    Args:
        path: A file of `CleanedWriter`.
        with_text: Whether the text is read too, or the columns of numbers alone.
    """

    def __init__(self, path: Path, with_text: bool) -> None:
        self._file = pa.OSFile(str(path), "rb")
        schema = pa.ipc.open_file(self._file).schema
        self._sides = sum(name.startswith("text_") for name in schema.names)
        fields = None if with_text else list(range(2 + self._sides))
        options = pa.ipc.IpcReadOptions(use_threads=False, included_fields=fields)
        self._reader = pa.ipc.open_file(self._file, options=options)

    def numbers(
        self, block: int
    ) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint32], list[npt.NDArray[np.uint32]]]:
        """Returns ids, numbers of lines, and the UTF-8 bytes of each side, (rows,) each."""
        batch = self._reader.get_batch(block)
        sizes = [batch.column(f"bytes_{side}").to_numpy() for side in range(self._sides)]
        return batch.column("doc_id").to_numpy(), batch.column("lines").to_numpy(), sizes

    def texts(self, block: int, rows: npt.NDArray[np.bool_]) -> list[list[str]]:
        """Returns the text of the chosen rows, side by side; lines are joined by a newline."""
        batch = self._reader.get_batch(block)
        if not rows.all():
            batch = batch.filter(pa.array(rows))
        return [batch.column(f"text_{side}").to_pylist() for side in range(self._sides)]

    def utf8(
        self, block: int, rows: npt.NDArray[np.bool_]
    ) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
        """Returns the text of the chosen rows of a block of documents as bytes.

        Returns:
            The bytes, and the offsets of each row and of the end in them, (chosen rows + 1,).
        """
        batch = self._reader.get_batch(block)
        if not rows.all():
            batch = batch.filter(pa.array(rows))
        column = batch.column("text_0")
        _, offsets, data = column.buffers()
        if not len(column) or data is None:
            return np.zeros(0, np.uint8), np.zeros(len(column) + 1, np.int64)
        ends = np.frombuffer(offsets, np.int32)[column.offset :][: len(column) + 1]
        return np.frombuffer(data, np.uint8), ends.astype(np.int64)


@lru_cache(maxsize=8)
def open_cleaned(path: Path, with_text: bool) -> CleanedFile:
    """Opens a cleaned file; a worker opens one file many times, block by block."""
    return CleanedFile(path, with_text)
