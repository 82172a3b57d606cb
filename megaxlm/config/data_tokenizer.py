"""The tokenizer of a data set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from megaxlm.config.base import Section


class ExtensionConfig(Section):
    """Pieces for new languages behind those of `tokenizer.model`, whose ids stay as they are.

    Only `<mask>`, the last id by XLM-R's layout, moves behind the new pieces.
    """

    pieces: int = Field(ge=1)
    # Of the base's mixture of languages that the new ones are taken to be: more of it gives them
    # slightly fewer tokens, less of it leaves more text of the old languages encoded as before.
    share: float = Field(default=0.01, gt=0, le=1)


class TokenizerConfig(Section):
    """A SentencePiece model: an existing one (`model`), one to train here, or both (`extend`)."""

    model: Path | None = None  # a .model file, or a Hugging Face or tokenizer folder that holds one
    extend: ExtensionConfig | None = None  # of `model`, with pieces learned from `languages`
    model_type: Literal["unigram", "bpe"] = "unigram"
    vocab_size: int = Field(default=32_000, ge=300)  # of the finished tokenizer, special tokens in
    # Which sentences train it: languages are drawn with p ~ weight x bytes^alpha.
    alpha: float = Field(default=0.3, ge=0, le=1)
    weights: dict[str, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)  # default 1
    languages: list[str] | None = Field(default=None, min_length=1)  # None: all but the next
    exclude_languages: list[str] = Field(default_factory=list)
    # At most this many lines, of 300 bytes on average: training takes up to 25 bytes of memory for
    # each byte of the sample, so this default stays under 2 GB. A vocabulary of 250k gains from
    # 2-10 million sentences where there is memory for them.
    max_sentences: int = Field(default=200_000, ge=100)
    max_sentences_per_language: int | None = Field(default=None, ge=1)
    # The sample is cut to what can be trained in so much. A build whose sample needs more than the
    # machine has is refused: how much there happens to be never changes a vocabulary.
    max_memory_gb: float | None = Field(default=None, ge=0.5)
    character_coverage: float = Field(default=0.9995, gt=0, le=1)
    byte_fallback: bool = True
    max_sentence_bytes: int = Field(default=4_192, ge=64)

    @model_validator(mode="after")
    def _one_way(self) -> TokenizerConfig:
        if self.extend is not None and self.model is None:
            raise ValueError("`extend` adds pieces to an existing tokenizer: name it in `model`")
        if self.extend is not None and self.model_type != "unigram":
            raise ValueError("`extend` adds to a Unigram model: leave `model_type` out")
        if self.languages is not None and self.exclude_languages:
            raise ValueError("give `languages` or `exclude_languages`, not both")
        return self
