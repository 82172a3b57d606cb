"""Where the text of a data set comes from."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from megaxlm.config.base import Section

LanguageCode = Annotated[str, Field(pattern=r"^[A-Za-z]{2,8}([-_][A-Za-z0-9]{2,8})*$")]


class MonolingualSource(Section):
    """Plain text of one language: one line a paragraph, a blank line ends a document."""

    lang: LanguageCode
    paths: list[str] = Field(min_length=1)  # files or globs; .txt, .gz, .zst, .xz


class BitextSource(Section):
    """Sentence pairs of two languages: `tsv` files of two columns, or aligned files."""

    langs: tuple[LanguageCode, LanguageCode]
    tsv: list[str] = Field(default_factory=list)
    source: list[str] = Field(default_factory=list)  # aligned with `target`, file by file
    target: list[str] = Field(default_factory=list)

    @model_validator(mode="after")
    def _one_form(self) -> BitextSource:
        if self.langs[0] == self.langs[1]:
            raise ValueError(f"bitext needs two different languages, got {self.langs[0]} twice")
        if bool(self.tsv) == bool(self.source or self.target):
            raise ValueError("give either `tsv`, or `source` and `target`")
        if len(self.source) != len(self.target):
            raise ValueError(
                f"`source` names {len(self.source)} files and `target` {len(self.target)}: "
                "aligned files come in pairs"
            )
        return self
