"""Which copies of a text go."""

from __future__ import annotations

from pydantic import Field, model_validator

from megaxlm.config.base import Section

_LEAST_RECALL = 0.5


class LineDeduplicationConfig(Section):
    """Takes lines out of a document that an earlier document of the language holds too.

    The document keeps its other lines; one that is shorter than `filters.min_document_chars`
    without them is dropped.
    """

    min_chars: int = Field(default=40, ge=1)  # a shorter line is never taken out
    # Only lines that more documents than this hold: 1 takes out every repeat, 10 what is
    # boilerplate.
    max_documents: int = Field(default=1, ge=1)


class NearDuplicatesConfig(Section):
    """Finds documents of a language that are nearly the same: MinHash signatures and LSH.

    Two documents are compared by the share of shingles they have in common (Jaccard): runs of
    words, or runs of characters where the script has no spaces between words. Case, punctuation
    and the digits of a number do not count. Pairs of bitext are left alone.
    """

    threshold: float = Field(default=0.8, gt=0, le=1)  # estimated Jaccard similarity
    # A signature has bands x rows_per_band values. A pair of similarity s is looked at with
    # probability 1 - (1 - s^rows_per_band)^bands: 0.998 at 0.8, 0.27 at 0.5.
    bands: int = Field(default=20, ge=1, le=256)
    rows_per_band: int = Field(default=6, ge=1, le=64)
    shingle_words: int = Field(default=5, ge=1, le=64)
    shingle_characters: int = Field(default=10, ge=1, le=64)
    samples: int = Field(default=50, ge=0, le=10_000)  # pairs listed for a reader, per language

    @property
    def num_permutations(self) -> int:
        """Values of a signature."""
        return self.bands * self.rows_per_band

    def recall(self, similarity: float) -> float:
        """Returns the probability that a pair of this similarity is looked at."""
        return float(1 - (1 - similarity**self.rows_per_band) ** self.bands)

    @model_validator(mode="after")
    def _bands_suit_the_threshold(self) -> NearDuplicatesConfig:
        if (recall := self.recall(self.threshold)) < _LEAST_RECALL:
            raise ValueError(
                f"{self.bands} bands of {self.rows_per_band} rows find only {recall:.0%} of pairs "
                f"at threshold {self.threshold}; take more `bands` or fewer `rows_per_band`"
            )
        return self


class DeduplicationConfig(Section):
    """Within one language, or one pair, the first of what is the same stays."""

    documents: bool = True  # exact copies of a document, or of a pair in either direction
    lines: LineDeduplicationConfig | None = None  # `lines: {}` switches it on
    near: NearDuplicatesConfig | None = None  # `near: {}` switches it on
