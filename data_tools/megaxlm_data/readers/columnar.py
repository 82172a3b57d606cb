"""Reads columns of text from Parquet files and Arrow IPC files or streams.

Parquet is read by ranges of row groups, an Arrow file by ranges of record batches, and of both the
columns asked for alone, some rows at a time. Hugging Face datasets save data sets as Arrow streams:
those are read from the beginning to the end.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from megaxlm.errors import UserError
from megaxlm_data.readers.lines import HEAD_CHARS, Undecodable
from megaxlm_data.readers.locations import open_binary
from megaxlm_data.readers.records import FieldNames, Policies, RawRow
from megaxlm_data.readers.remote import is_remote

_BATCH_BYTES = 8 << 20  # uncompressed, on average
_MOST_ROWS = 1024
_ARROW_FILE = b"ARROW1"


@dataclass(frozen=True)
class ColumnarFacts:
    """What the footer of a file says.

    Attributes:
        names: The columns, those inside of structs too.
        part_bytes: Size on disk of each row group or record batch; empty for a stream, which has
            no footer.
    """

    names: list[str]
    part_bytes: list[int]


def parquet_facts(path: str) -> ColumnarFacts:
    """Returns the columns and row groups of a Parquet file.

    Raises:
        UserError: It is no whole Parquet file.
    """
    with _named(path, "Parquet"), _open(path) as file, pq.ParquetFile(file) as parquet:
        groups = [parquet.metadata.row_group(i) for i in range(parquet.metadata.num_row_groups)]
        sizes = [
            sum(group.column(i).total_compressed_size for i in range(group.num_columns))
            for group in groups
        ]
        return ColumnarFacts(_column_names(parquet.schema_arrow), sizes)


def arrow_facts(path: str, size: int, head: bytes) -> ColumnarFacts:
    """Returns the columns and record batches of an Arrow file or stream.

    Raises:
        UserError: It is neither.
    """
    with _named(path, "Arrow"), _open(path) as file:
        if not head.startswith(_ARROW_FILE):
            return ColumnarFacts(_column_names(pa.ipc.open_stream(file).schema), [])
        reader = pa.ipc.open_file(file)
        count = reader.num_record_batches
        bounds = [size * part // max(1, count) for part in range(count + 1)]
        sizes = [after - before for before, after in zip(bounds, bounds[1:], strict=False)]
        return ColumnarFacts(_column_names(reader.schema), sizes)


class _ColumnReader(ABC):
    """Takes rows out of record batches."""

    kind = ""

    def __init__(
        self,
        path: str,
        fields: FieldNames,
        policies: Policies,
        start: int = 0,
        end: int | None = None,
    ) -> None:
        self.counts: Counter[str] = Counter()
        self.position = 0
        self._path, self._fields, self._policies = path, fields, policies
        self._start, self._end = start, end
        with _named(path, self.kind):
            self._file = _open(path)
        self._row = 0  # counted from where reading began

    def __enter__(self) -> _ColumnReader:
        return self

    def __exit__(self, *exc: object) -> None:
        self._file.close()

    def __iter__(self) -> Iterator[RawRow]:
        """Yields the rows.

        Raises:
            UserError: A column is not there, or the file is damaged.
        """
        with _named(self._path, self.kind):
            yield from self._rows()

    @abstractmethod
    def _rows(self) -> Iterator[RawRow]: ...

    def _take(self, batch: pa.RecordBatch) -> Iterator[RawRow]:
        columns = [self._texts(batch, place) for place in range(len(self._fields.names))]
        for values in zip(*columns, strict=True):
            self._row += 1
            bad = [value for value in values if isinstance(value, Undecodable)]
            yield bad[0] if bad else tuple(values)

    def _texts(self, batch: pa.RecordBatch, place: int) -> list[Any]:
        """Returns the texts of a column, or what stands for one; null is empty text."""
        name = self._fields.names[place]
        array = _column(batch, name)
        if pa.types.is_dictionary(array.type):
            array = array.dictionary_decode()
        if not _is_text(array.type):
            if not pa.types.is_null(array.type):
                kind = str(array.type)
                raise UserError(f"{self._path}: {self._fields.no_text(place, kind)}")
            return [""] * batch.num_rows
        try:
            values = array.to_pylist()
            if not _is_binary(array.type):
                return ["" if value is None else value for value in values]
        except UnicodeDecodeError:  # Arrow does not check its strings
            values = array.cast(pa.large_binary()).to_pylist()
        return [self._decoded(value, name, row) for row, value in enumerate(values)]

    def _decoded(self, value: bytes | None, name: str, row: int) -> str | Undecodable:
        if value is None:
            return ""
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError as error:
            if self._policies.invalid_utf8 == "fail":
                raise UserError(
                    f"{self._path}: row {self._first_row() + self._row + row + 1:,} of `{name}`: "
                    f"invalid UTF-8 (byte 0x{value[error.start]:02x}); repair the file, or set "
                    "on_invalid_utf8 to skip or replace"
                ) from None
        text = value.decode("utf-8", "replace")
        if self._policies.invalid_utf8 == "replace":
            self.counts["replaced_utf8"] += 1
            return text
        self.counts["invalid_utf8"] += 1
        return Undecodable(text[:HEAD_CHARS])

    def _first_row(self) -> int:
        return 0


class ParquetReader(_ColumnReader):
    """Reads a range of row groups of a Parquet file.

    Args:
        path: The file.
        fields: What a row is made of.
        policies: What to do with what is damaged.
        start: The first row group.
        end: The one after the last; None for the last of the file.
    """

    kind = "Parquet"

    def _rows(self) -> Iterator[RawRow]:
        with pq.ParquetFile(self._file, pre_buffer=False, buffer_size=1 << 20) as parquet:
            self._parquet = parquet
            check_columns(self._path, _column_names(parquet.schema_arrow), self._fields)
            last = parquet.metadata.num_row_groups if self._end is None else self._end
            for number in range(self._start, last):
                group = parquet.metadata.row_group(number)
                rows = max(1, group.num_rows)
                each = max(1, group.total_byte_size // rows)
                for batch in parquet.iter_batches(
                    batch_size=max(1, min(_MOST_ROWS, _BATCH_BYTES // each)),
                    row_groups=[number],
                    columns=list(self._fields.names),
                    use_threads=False,
                ):
                    yield from self._take(batch)
                self.position += sum(
                    group.column(i).total_compressed_size for i in range(group.num_columns)
                )

    def _first_row(self) -> int:
        metadata = self._parquet.metadata
        return sum(metadata.row_group(number).num_rows for number in range(self._start))


class ArrowReader(_ColumnReader):
    """Reads a range of record batches of an Arrow file, or a whole Arrow stream.

    Args:
        path: The file.
        fields: What a row is made of.
        policies: What to do with what is damaged.
        start: The first record batch.
        end: The one after the last; None for the last of the file.
    """

    kind = "Arrow"

    def _rows(self) -> Iterator[RawRow]:
        is_file = self._file.read(len(_ARROW_FILE)) == _ARROW_FILE
        self._file.seek(0)
        schema = (pa.ipc.open_file if is_file else pa.ipc.open_stream)(self._file).schema
        check_columns(self._path, _column_names(schema), self._fields)
        roots = {name.split(".")[0] for name in self._fields.names} | set(self._fields.names)
        included = [place for place, name in enumerate(schema.names) if name in roots]
        options = pa.ipc.IpcReadOptions(use_threads=False, included_fields=included)
        self._file.seek(0)
        if not is_file:
            for batch in pa.ipc.open_stream(self._file, options=options):
                yield from self._take_slices(batch)
                self.position = self._file.tell()
            return
        self._reader = reader = pa.ipc.open_file(self._file, options=options)
        last = reader.num_record_batches if self._end is None else self._end
        size = self._file.size()
        for number in range(self._start, last):
            yield from self._take_slices(reader.get_batch(number))
            done = size * (number + 1) // reader.num_record_batches
            self.position = done - size * self._start // reader.num_record_batches

    def _first_row(self) -> int:
        before = range(self._start)  # none in a stream, which is always read from its beginning
        return sum(self._reader.get_batch(number).num_rows for number in before)

    def _take_slices(self, batch: pa.RecordBatch) -> Iterator[RawRow]:
        """Takes some rows at a time: a batch is whatever its writer chose, and text doubles."""
        each = max(1, batch.nbytes // max(1, batch.num_rows))
        step = max(1, min(_MOST_ROWS, _BATCH_BYTES // each))
        for first in range(0, batch.num_rows, step):
            yield from self._take(batch.slice(first, step))


@contextmanager
def _named(path: str, kind: str) -> Iterator[None]:
    """Turns what Arrow raises into one line that names the file."""
    try:
        yield
    except (pa.ArrowException, OSError, EOFError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{path}: is no {kind} file, or is damaged or cut off ({reason}); fetch the file again"
        ) from None


def _open(path: str) -> pa.NativeFile:
    """Opens a file for Arrow; a local one is mapped, so that its pages need no memory of ours."""
    if is_remote(path):
        return pa.PythonFile(open_binary(path), mode="r")
    return pa.memory_map(path)


def check_columns(path: str, there: list[str], fields: FieldNames) -> None:
    """Checks that a file has the columns asked for.

    Raises:
        UserError: One is not there.
    """
    for place, name in enumerate(fields.names):
        if name not in there:
            raise UserError(f"{path}: {fields.missing(place, there)}")


def _column_names(fields: Iterable[pa.Field], inside: str = "") -> list[str]:
    names = []
    for field in fields:
        names.append(inside + field.name)
        if pa.types.is_struct(field.type):
            names += _column_names(field.type, f"{inside}{field.name}.")
    return names


def _column(batch: pa.RecordBatch, name: str) -> pa.Array:
    if name in batch.schema.names:
        return batch.column(name)
    root, *parts = name.split(".")
    array = batch.column(root)
    for part in parts:
        # `flatten`, not `field`: a null of the struct is a null of what is inside
        array = array.flatten()[array.type.get_field_index(part)]
    return array


def _is_text(kind: pa.DataType) -> bool:
    types = pa.types
    return bool(
        types.is_string(kind)
        or types.is_large_string(kind)
        or types.is_string_view(kind)
        or _is_binary(kind)
    )


def _is_binary(kind: pa.DataType) -> bool:
    types = pa.types
    return bool(types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind))
