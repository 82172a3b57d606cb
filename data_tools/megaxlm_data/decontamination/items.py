"""Reads evaluation sets, in the forms they come in, item by item.

An item is a piece of text that a model will be measured with: a line, a cell of a table, a string
in JSON. Without `fields` every cell and string is one; labels and numbers among them are too short
to be looked for.
"""

from __future__ import annotations

import csv
import glob
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash

from megaxlm.config.data_decontamination import EvaluationSet
from megaxlm.errors import UserError
from megaxlm_data.readers.lines import LineReader
from megaxlm_data.readers.stream import check_readable, codec_of

_FORMS = {
    ".tsv": "tsv",
    ".csv": "csv",
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
}
_MAX_LINE_BYTES = 64 << 20  # a JSON file may be one line


@dataclass(frozen=True, slots=True)
class Item:
    """A piece of text of an evaluation set, and the line it begins in, from 1."""

    text: str
    line: int


def files_of(evaluation_set: EvaluationSet, where: str) -> list[Path]:
    """Returns the files of a set, in order.

    Args:
        evaluation_set: The set.
        where: Its place in the config, for messages.

    Raises:
        UserError: A path doesn't exist, a pattern matches nothing or a folder is empty.
    """
    files: list[Path] = []
    for pattern in map(os.path.expanduser, evaluation_set.paths):
        path = Path(pattern)
        if path.is_dir():
            found = sorted(each for each in path.rglob("*") if each.is_file())
            found = [each for each in found if not each.name.startswith(".")]
        elif glob.has_magic(pattern) and not path.exists():
            found = sorted(Path(each) for each in glob.glob(pattern, recursive=True))
            found = [each for each in found if each.is_file()]
        else:
            found = [path]
        if not found:
            raise UserError(
                f"{where}.paths ({evaluation_set.name}): no file in {pattern}; correct the path"
            )
        files += found
    for file in files:
        try:
            check_readable(file)
        except UserError as error:
            raise UserError(f"{where}.paths ({evaluation_set.name}): {error}") from None
    return list(dict.fromkeys(files))


def content_hash(path: Path) -> str:
    """Returns XXH3-128 of a file as it lies on the disk."""
    state = xxhash.xxh3_128()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            state.update(block)
    return state.hexdigest()


def read_items(evaluation_set: EvaluationSet, path: Path) -> Iterator[Item]:
    """Yields the items of a file.

    Raises:
        UserError: The file is damaged, not in its format or without a field that is asked for.
    """
    form = evaluation_set.format
    if form == "auto":
        name = path.with_suffix("") if codec_of(path) else path
        form = _FORMS.get(name.suffix.lower(), "text")  # type: ignore[assignment]
    fields = evaluation_set.fields
    lines = _lines(path)
    if form in ("json", "jsonl") and any(isinstance(field, int) for field in fields):
        raise UserError(f"{path}: JSON has keys, not numbers of columns; correct `fields`")
    if form == "text":
        return (Item(text, line) for line, text in lines)
    if form == "json":
        return _json(path, "\n".join(text for _, text in lines), fields)
    if form == "jsonl":
        return _json_lines(path, lines, fields)
    rows = _csv_rows(lines) if form == "csv" else ((n, text.split("\t")) for n, text in lines)
    return _cells(path, rows, fields)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yields numbered lines; of one that isn't UTF-8, what is."""
    with LineReader(path, "replace", _MAX_LINE_BYTES) as reader:
        for block in reader:
            for number, line in enumerate(block.lines, block.first_line):
                if not isinstance(line, str):
                    raise UserError(f"{path}:{number}: longer than 64 MB; break the line")
                yield number, line.removesuffix("\r")


def _csv_rows(lines: Iterator[tuple[int, str]]) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(text + "\n" for _, text in lines)
    line = 1
    for row in reader:
        yield line, row
        line = reader.line_num + 1


def _cells(
    path: Path, rows: Iterator[tuple[int, list[str]]], fields: Sequence[str | int]
) -> Iterator[Item]:
    wanted: list[int] | None = None
    if fields:
        named = any(isinstance(field, str) for field in fields)
        header = next(rows, (1, []))[1] if named else []
        for field in fields:
            if isinstance(field, str) and field not in header:
                raise UserError(
                    f"{path}:1: no column `{field}`, there are {', '.join(header) or 'none'}; "
                    "correct `fields`"
                )
        wanted = [field if isinstance(field, int) else header.index(field) for field in fields]
    for line, row in rows:
        if row in ([], [""]):
            continue
        if wanted is not None and max(wanted) >= len(row):
            raise UserError(
                f"{path}:{line}: has {len(row)} columns, `fields` asks for number "
                f"{max(wanted)}, counted from 0; mend the line or correct `fields` and `format`"
            )
        for cell in row if wanted is None else [row[place] for place in wanted]:
            yield Item(cell, line)


def _json(path: Path, text: str, fields: Sequence[str | int]) -> Iterator[Item]:
    for value in _strings(_parsed(path, 1, text), fields, not fields):
        yield Item(value, 1)


def _json_lines(
    path: Path, lines: Iterator[tuple[int, str]], fields: Sequence[str | int]
) -> Iterator[Item]:
    for line, text in lines:
        if text.strip():
            for value in _strings(_parsed(path, line, text), fields, not fields):
                yield Item(value, line)


def _parsed(path: Path, line: int, text: str) -> Any:
    try:
        return json.loads(text) if text.strip() else None
    except (ValueError, RecursionError) as error:
        line += getattr(error, "lineno", 1) - 1
        message = getattr(error, "msg", error)
        raise UserError(
            f"{path}:{line}: not JSON ({message}); mend the file, or set its `format`"
        ) from None


def _strings(value: Any, fields: Sequence[str | int], inside: bool) -> Iterator[str]:
    """Yields the strings in a JSON value, under the keys that are asked for."""
    if isinstance(value, str):
        if inside:
            yield value
    elif isinstance(value, list):
        for each in value:
            yield from _strings(each, fields, inside)
    elif isinstance(value, dict):
        for key, each in value.items():
            yield from _strings(each, fields, inside or key in fields)
