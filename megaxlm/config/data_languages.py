"""How the language of a text is found, and what follows if it isn't the declared one."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from megaxlm.config.base import Section
from megaxlm.config.data_sources import LanguageCode

Confidence = Annotated[float, Field(ge=0, le=1)]


class LanguageIdentificationConfig(Section):
    """Identification, for `enabled` and for sources whose language is to be detected.

    `enabled` drops documents and pairs whose language isn't the declared one. It needs the
    libraries of the extra `lid`.
    """

    enabled: bool = False
    threshold: Confidence = 0.8  # another language found with this confidence drops a document
    thresholds: dict[LanguageCode, Confidence] = Field(default_factory=dict)  # by declared language
    min_chars: int = Field(default=40, ge=1)  # of a document, of each side of a pair
    short_texts: Literal["keep", "drop"] = "keep"  # what to do below `min_chars`
    # A language that no library knows: keep its text whatever is found, or judge it like any other.
    unknown_languages: Literal["keep", "judge"] = "keep"
    close_languages: Literal["agree", "differ"] = "agree"  # such as hr and bs, id and ms
    close_groups: list[list[LanguageCode]] = Field(default_factory=list)  # besides the built-in
    # The way of finding: the fast library decides from this score on, the accurate one else.
    fast_threshold: Confidence = 0.85
    accurate: bool = True  # False: the fast library alone, `und` where it's unsure
    min_confidence: Confidence = 0.5  # below it a text is `und`
    max_sample_chars: int = Field(default=2_000, ge=100)  # of a text are looked at
