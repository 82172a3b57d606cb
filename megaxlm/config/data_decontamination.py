"""Which text must not be trained on, because a model will be measured with it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from megaxlm.config.base import Section
from megaxlm.config.data_sources import Column, FieldName


class EvaluationSet(Section):
    """Files of an evaluation set: text (a line an item), TSV, CSV, JSON or JSON lines."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")  # for the report
    paths: list[str] = Field(min_length=1)  # files, globs or folders; .gz, .zst and .xz too
    format: Literal["auto", "text", "tsv", "csv", "json", "jsonl"] = "auto"  # by the extension
    # Columns, by number from 0 or by their names in the first line; keys of JSON; [] takes all.
    fields: list[FieldName | Column] = Field(default_factory=list)


class DecontaminationConfig(Section):
    """Takes training text out that overlaps with evaluation sets; off while none is named."""

    evaluation_sets: list[EvaluationSet] = Field(default_factory=list)
    # So many words in a row in common are an overlap (GPT-3, Brown et al. 2020, appendix C) ...
    ngram_words: int = Field(default=13, ge=2, le=64)
    # ... or so many characters of Chinese or Japanese ...
    ngram_chars: int = Field(default=30, ge=4, le=256)
    # ... or so many letters and marks of Thai, Lao, Khmer, Burmese, Tibetan.
    ngram_letters: int = Field(default=70, ge=4, le=256)
    # A shorter item is looked for as a whole sentence or line, unless it's shorter than this: a
    # sentence of four words is everybody's.
    min_words: int = Field(default=6, ge=1)
    min_chars: int = Field(default=12, ge=1)
    min_letters: int = Field(default=28, ge=1)
    # The whole document goes, or its lines that overlap. Of long documents, books, many hold some
    # short sentence of some set: cut those.
    action: Literal["drop", "cut"] = "drop"
    samples: int = Field(default=20, ge=0)  # in the report, for each language and set

    @model_validator(mode="after")
    def _consistent(self) -> DecontaminationConfig:
        names = [each.name for each in self.evaluation_sets]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two evaluation sets are named {name}")
        for unit in ("words", "chars", "letters"):
            if getattr(self, f"min_{unit}") > getattr(self, f"ngram_{unit}"):
                raise ValueError(f"min_{unit} may not be more than ngram_{unit}")
        return self
