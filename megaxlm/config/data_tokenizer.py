"""The tokenizer of a data set."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from megaxlm.config.base import Section


class TokenizerConfig(Section):
    """A SentencePiece Unigram model: an existing one (`model`), or one to train here."""

    model: Path | None = None
    vocab_size: int = Field(default=32_000, ge=300)  # of the finished tokenizer, special tokens in
    alpha: float = Field(default=0.3, ge=0, le=1)  # sentences are sampled with p ~ bytes^alpha
    # At most this many lines, of 300 bytes on average: training takes some 25 bytes of memory for
    # each byte of the sample, so this default stays under 2 GB. A vocabulary of 250k gains from
    # 2-10 million sentences where there is memory for them.
    max_sentences: int = Field(default=200_000, ge=100)
    character_coverage: float = Field(default=0.9995, gt=0, le=1)
    byte_fallback: bool = True
    max_sentence_bytes: int = Field(default=4_192, ge=64)
