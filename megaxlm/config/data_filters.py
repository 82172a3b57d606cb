"""What text must be like to stay in a data set."""

from __future__ import annotations

from pydantic import Field

from megaxlm.config.base import Section


class FilterConfig(Section):
    """Length and quality limits; each drop is counted by reason."""

    min_document_chars: int = Field(default=20, ge=0)
    max_document_chars: int = Field(default=1_000_000, ge=1)
    min_letter_share: float = Field(default=0.5, ge=0, le=1)  # letters and marks among non-spaces
    max_repeated_line_share: float = Field(default=0.5, ge=0, le=1)
    min_pair_chars: int = Field(default=2, ge=1)
    max_pair_chars: int = Field(default=2_000, ge=1)
    max_pair_length_ratio: float = Field(default=6.0, ge=1)  # UTF-8 bytes, longer over shorter
