"""Which form a file has: by the config, or by its extension."""

from __future__ import annotations

import re
from typing import Literal

from megaxlm.config.data_sources import BitextFormat, MonolingualFormat
from megaxlm.errors import UserError
from megaxlm_data.readers.locations import FileFacts
from megaxlm_data.readers.stream import ByteStream, bare_name, codec_of
from megaxlm_data.readers.wikipedia import is_json

Form = Literal[
    "documents",
    "lines",
    "jsonl",
    "parquet",
    "arrow",
    "wikipedia",
    "wikipedia_json",
    "tsv",
    "tmx",
    "aligned",
]
COLUMNAR: tuple[Form, ...] = ("parquet", "arrow")
SPLIT_ANYWHERE: tuple[Form, ...] = ("documents", "lines", "jsonl", "tsv")  # by ranges of bytes
_BY_EXTENSION: dict[str, Form] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".tmx": "tmx",
    ".tsv": "tsv",
}
_EXTRACT = re.compile(r"wiki_\d+")  # how WikiExtractor names its files


def document_form(path: str, wanted: MonolingualFormat) -> Form:
    """Returns the form of a file of documents.

    Raises:
        UserError: It is one for pairs, or compressed where that cannot be.
    """
    if wanted != "auto":
        return _checked(path, wanted)
    name = bare_name(path)
    if _EXTRACT.fullmatch(name.name):
        return "wikipedia"
    form = _BY_EXTENSION.get(name.suffix.lower(), "documents")
    if form == "tmx":
        raise UserError(f"{path}: TMX holds pairs; name it under `bitext`")
    return _checked(path, form)


def pair_form(path: str, wanted: BitextFormat) -> Form:
    """Returns the form of a file of pairs.

    Raises:
        UserError: It is compressed where that cannot be.
    """
    if wanted != "auto":
        return _checked(path, wanted)
    return _checked(path, _BY_EXTENSION.get(bare_name(path).suffix.lower(), "tsv"))


def settled(form: Form, facts: FileFacts) -> Form:
    """Tells the two forms of a Wikipedia extract apart, by its first characters."""
    if form != "wikipedia" or not facts.head:
        return form
    head = facts.head
    if codec_of(facts.path) is not None:
        with ByteStream(facts.path) as stream:
            head = stream.read()
    return "wikipedia_json" if is_json(head) else form


def _checked(path: str, form: Form) -> Form:
    if form in COLUMNAR and (codec := codec_of(path)) is not None:
        raise UserError(
            f"{path}: a {form.capitalize()} file is compressed inside, not with {codec} as a "
            "whole; unpack it"
        )
    return form
