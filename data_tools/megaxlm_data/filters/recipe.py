"""Which filters and edits a build applies, in order: cheap ones first."""

from __future__ import annotations

from megaxlm.config.data_filters import FilterConfig
from megaxlm_data.document import Document, Pair
from megaxlm_data.filters.base import Step
from megaxlm_data.filters.length import DocumentLength, PairLength, PairLengthRatio
from megaxlm_data.filters.quality import LetterShare, PairLetterShare, RepeatedLines


def document_steps(config: FilterConfig) -> list[Step[Document]]:
    """Returns what is done to monolingual documents."""
    return [
        DocumentLength(config.min_document_chars, config.max_document_chars),
        RepeatedLines(config.max_repeated_line_share),
        LetterShare(config.min_letter_share),
    ]


def pair_steps(config: FilterConfig) -> list[Step[Pair]]:
    """Returns what is done to sentence pairs."""
    return [
        PairLength(config.min_pair_chars, config.max_pair_chars),
        PairLengthRatio(config.max_pair_length_ratio),
        PairLetterShare(config.min_letter_share),
    ]
