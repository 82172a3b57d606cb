"""Where the text of a data set comes from."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from megaxlm.config.base import Section


def _is_code(code: str) -> str:
    if not re.fullmatch(r"[A-Za-z]{2,8}([-_][A-Za-z0-9]{2,8})*", code):
        raise ValueError("is no language code; give one such as `en`, `zh-Hant` or `eng_Latn`")
    return code


LanguageCode = Annotated[str, AfterValidator(_is_code)]
DETECT = "detect"
Column = Annotated[int, Field(ge=0, strict=True)]  # of TSV, counted from 0
FieldName = Annotated[str, Field(min_length=1)]

MonolingualFormat = Literal[
    # by extension: .jsonl .ndjson .json .parquet .arrow .tsv, wiki_00; all others: documents
    "auto",
    "documents",  # text: one line a paragraph, a blank line ends a document (CC-100)
    "lines",  # text: one line a document
    "jsonl",  # one JSON object a line (OSCAR, mC4, CulturaX, FineWeb)
    "parquet",
    "arrow",  # files or streams, also those of Hugging Face `save_to_disk`
    "tsv",  # one document a line, in a column: `text_field`
    "wikipedia",  # what WikiExtractor writes, with --json or without
]
BitextFormat = Literal["auto", "tsv", "tmx", "jsonl", "parquet", "arrow"]


class MonolingualSource(Section):
    """Documents of one language (`lang`), or of many.

    The language of a document is `lang`; or what stands for `{lang}` in the path of its file
    (`lang_from: path`); or what its field `lang_field` says; or what is detected
    (`lang: detect`). Codes such as `zho_Hans`, `iw` or `zh-cn` are brought to one spelling.
    """

    lang: LanguageCode | None = None
    lang_from: Literal["path"] | None = None
    lang_field: FieldName | Column | None = None
    # Only these are taken. A mapping also renames: from the code in the path or field to ours.
    languages: list[LanguageCode] | dict[str, LanguageCode] | None = None
    # Files, patterns, folders of Arrow files, or addresses (s3://, gs://, hf://, https://);
    # text may be compressed: .gz .zst .xz .bz2
    paths: list[str] = Field(min_length=1)
    format: MonolingualFormat = "auto"
    # `a.b` is the field b inside of a. Of TSV: a column's name in the first line, or its number.
    text_field: FieldName | Column = "text"

    @model_validator(mode="after")
    def _one_language_rule(self) -> MonolingualSource:
        rules = [
            name for name in ("lang", "lang_from", "lang_field") if getattr(self, name) is not None
        ]
        if len(rules) != 1:
            raise ValueError(
                "say in one way which language it is: `lang: CODE`, `lang: detect`, `lang_from: "
                f"path` or `lang_field: NAME`; here are {' and '.join(rules) or 'none'}"
            )
        with_place = [path for path in self.paths if "{lang}" in path]
        if self.lang_from and len(with_place) != len(self.paths):
            raise ValueError("`lang_from: path` needs `{lang}` in every path")
        if with_place and not self.lang_from:
            raise ValueError(f"{with_place[0]}: `{{lang}}` in a path needs `lang_from: path`")
        if self.languages is not None and self.lang not in (None, DETECT):
            raise ValueError(f"`languages` chooses among several, and `lang` is {self.lang} alone")
        if self.lang_field is not None and self.format in ("documents", "lines", "wikipedia"):
            raise ValueError(f"files of format `{self.format}` have no field `{self.lang_field}`")
        if self.text_field == self.lang_field:
            raise ValueError(f"`text_field` and `lang_field` are both {self.text_field}")
        if self.format not in ("auto", "tsv"):
            for name in ("text_field", "lang_field"):
                if isinstance(value := getattr(self, name), int):
                    raise ValueError(
                        f"`{name}: {value}` is a column of TSV; files of format `{self.format}` "
                        "have names"
                    )
        return self

    @property
    def columns(self) -> tuple[str | int, ...]:
        """What a row of a TSV file is made of: text, and language where a column says it."""
        return (self.text_field,) if self.lang_field is None else (self.text_field, self.lang_field)


class BitextSource(Section):
    """Sentence pairs of two languages: files of pairs (`paths`), or aligned files."""

    langs: tuple[LanguageCode, LanguageCode]
    # .tmx .jsonl .parquet .arrow, and all others TSV, compressed or not, as files, patterns or
    # addresses.
    paths: list[str] = Field(default_factory=list)
    tsv: list[str] = Field(default_factory=list)  # the same as `paths` with `format: tsv`
    source: list[str] = Field(default_factory=list)  # aligned with `target`, file by file
    target: list[str] = Field(default_factory=list)
    format: BitextFormat = "auto"  # of `paths`
    # Of TSV, counted from 0, where there are more than two: ids, scores.
    columns: tuple[Column, Column] | None = None
    # Of JSON lines, Parquet and Arrow; translation.A and translation.B as Hugging Face has them.
    fields: tuple[str, str] | None = None

    @model_validator(mode="after")
    def _one_form(self) -> BitextSource:
        if self.langs[0] == self.langs[1]:
            raise ValueError(f"bitext needs two different languages, got {self.langs[0]} twice")
        if bool(self.paths) + bool(self.tsv) + bool(self.source or self.target) != 1:
            raise ValueError("give either `paths`, or `tsv`, or `source` and `target`")
        if len(self.source) != len(self.target):
            raise ValueError(
                f"`source` names {len(self.source)} files and `target` {len(self.target)}: "
                "aligned files come in pairs"
            )
        if self.columns is not None and self.columns[0] == self.columns[1]:
            raise ValueError(f"`columns` names column {self.columns[0]} twice")
        return self

    @property
    def text_fields(self) -> tuple[str, str]:
        """The fields of the two sides."""
        return self.fields or (f"translation.{self.langs[0]}", f"translation.{self.langs[1]}")
