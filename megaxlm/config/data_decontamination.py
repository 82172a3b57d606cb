"""Which text must not be trained on, because a model will be measured with it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from megaxlm.config.base import Section


class EvaluationSet(Section):
    """Files of an evaluation set: text (a line an item), TSV, CSV, JSON or JSON lines."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")  # for the report
    paths: list[str] = Field(min_length=1)  # files, globs or folders; .gz, .zst and .xz too
    format: Literal["auto", "text", "tsv", "csv", "json", "jsonl"] = "auto"  # by the extension
    # Names of columns (in the first line) or their numbers from 1; keys of JSON; [] takes all.
    fields: list[str] = Field(default_factory=list)


class DecontaminationConfig(Section):
    """Takes training text out that overlaps with evaluation sets; off while none is named."""

    evaluation_sets: list[EvaluationSet] = Field(default_factory=list)
    # So many words in a row in common are an overlap (GPT-3, Brown et al. 2020, appendix C) ...
    ngram_words: int = Field(default=13, ge=2, le=64)
    # ... or so many characters, in scripts without spaces: Chinese, Japanese, Thai, ...
    ngram_chars: int = Field(default=30, ge=4, le=256)
    # A shorter item is looked for as a whole sentence or line, unless it's shorter than this: a
    # sentence of three words is everybody's.
    min_words: int = Field(default=5, ge=1)
    min_chars: int = Field(default=10, ge=1)
    action: Literal["drop", "cut"] = "drop"  # the document, or its lines that overlap
    samples: int = Field(default=20, ge=0)  # in the report, for each language and set

    @model_validator(mode="after")
    def _consistent(self) -> DecontaminationConfig:
        names = [each.name for each in self.evaluation_sets]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two evaluation sets are named {name}")
        if self.min_words > self.ngram_words or self.min_chars > self.ngram_chars:
            raise ValueError("min_words and min_chars may not exceed ngram_words and ngram_chars")
        return self
