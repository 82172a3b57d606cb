"""The recipe of `megaxlm data build`: which text, how it is cleaned, tokenised and sharded."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

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


class FilterConfig(Section):
    """Length and quality limits; each drop is counted by reason."""

    min_document_chars: int = Field(default=20, ge=0)
    max_document_chars: int = Field(default=1_000_000, ge=1)
    min_letter_share: float = Field(default=0.5, ge=0, le=1)  # letters and marks among non-spaces
    max_repeated_line_share: float = Field(default=0.5, ge=0, le=1)
    min_pair_chars: int = Field(default=2, ge=1)
    max_pair_chars: int = Field(default=2_000, ge=1)
    max_pair_length_ratio: float = Field(default=6.0, ge=1)  # UTF-8 bytes, longer over shorter
    deduplicate: bool = True


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


class DataBuildConfig(Section):
    """One complete recipe: `megaxlm data build configs/data/NAME.yaml`."""

    output: Path
    seed: int = Field(default=0, ge=0, lt=2**63)
    corpora: list[MonolingualSource] = Field(default_factory=list)
    bitext: list[BitextSource] = Field(default_factory=list)
    on_invalid_utf8: Literal["fail", "skip", "replace"] = "fail"  # skip drops the line, counted
    normalization: Literal["nfkc", "nfc", "none"] = "nfkc"
    filters: FilterConfig = FilterConfig()
    tokenizer: TokenizerConfig = TokenizerConfig()
    validation_fraction: float = Field(default=0.01, ge=0, lt=1)
    max_validation_documents: int = Field(default=2_000, ge=0)  # per language or pair
    shard_tokens: int = Field(default=16_000_000, ge=1_000)
    workers: int | Literal["auto"] = "auto"

    @model_validator(mode="after")
    def _something_to_read(self) -> DataBuildConfig:
        if not self.corpora and not self.bitext:
            raise ValueError("name at least one source under `corpora` or `bitext`")
        return self
