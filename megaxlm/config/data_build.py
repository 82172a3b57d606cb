"""The recipe of `megaxlm data build`: which text, how it is cleaned, tokenised and sharded."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from megaxlm.config.base import Section
from megaxlm.config.data_decontamination import DecontaminationConfig
from megaxlm.config.data_deduplication import DeduplicationConfig
from megaxlm.config.data_filters import FilterConfig
from megaxlm.config.data_languages import LanguageIdentificationConfig
from megaxlm.config.data_sources import BitextSource, MonolingualSource
from megaxlm.config.data_tokenizer import TokenizerConfig


class DataBuildConfig(Section):
    """One complete recipe: `megaxlm data build configs/data/NAME.yaml`."""

    output: Path
    seed: int = Field(default=0, ge=0, lt=2**63)
    corpora: list[MonolingualSource] = Field(default_factory=list)
    bitext: list[BitextSource] = Field(default_factory=list)
    on_invalid_utf8: Literal["fail", "skip", "replace"] = "fail"  # skip drops the line, counted
    on_bad_record: Literal["fail", "skip"] = "fail"  # JSON that is none, a field that is missing
    normalization: Literal["nfkc", "nfc", "none"] = "nfkc"
    filters: FilterConfig = FilterConfig()
    language_identification: LanguageIdentificationConfig = LanguageIdentificationConfig()
    decontamination: DecontaminationConfig = DecontaminationConfig()
    deduplication: DeduplicationConfig = DeduplicationConfig()
    tokenizer: TokenizerConfig = TokenizerConfig()
    validation_fraction: float = Field(default=0.01, ge=0, lt=1)
    max_validation_documents: int = Field(default=2_000, ge=0)  # per language or pair
    shard_tokens: int = Field(default=16_000_000, ge=1_000)
    rejected_samples: int = Field(default=20, ge=0)  # shown of each language and reason; 0: none
    workers: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"

    @model_validator(mode="after")
    def _something_to_read(self) -> DataBuildConfig:
        if not self.corpora and not self.bitext:
            raise ValueError("name at least one source under `corpora` or `bitext`")
        return self
