"""Which filters and edits a build applies, in order.

Lines go before anything is measured; then come the cheap filters, then those that read every
character or word; what remains is masked last. A step that no language uses is left out.
"""

from __future__ import annotations

from typing import Any

from megaxlm.config.data_filters import FilterConfig
from megaxlm_data.document import Document, Pair
from megaxlm_data.filters.base import PerLanguage, Step, T
from megaxlm_data.filters.boilerplate import Boilerplate
from megaxlm_data.filters.characters import DigitShare, LetterShare, ReplacementShare, SymbolShare
from megaxlm_data.filters.length import DocumentLength, PairLength, PairLengthRatio
from megaxlm_data.filters.lines import BulletLines, EllipsisLines, WordLength
from megaxlm_data.filters.pairs import ContainedSide, IdenticalSides, NumberOverlap
from megaxlm_data.filters.personal_data import MaskPersonalData
from megaxlm_data.filters.repetition import RepeatedLines, RepeatedNgrams, TopNgram
from megaxlm_data.filters.scripts import ScriptShare


class _Settings:
    """The settings of every language, by name."""

    def __init__(self, config: FilterConfig) -> None:
        self._default = config
        self._of = {lang: config.for_lang(lang) for lang in config.by_lang}

    def __call__(self, name: str) -> PerLanguage[Any]:
        """Returns a setting, with its value for each language that has its own."""
        of = {lang: getattr(config, name) for lang, config in self._of.items()}
        return PerLanguage(getattr(self._default, name), of)

    def uses(self, name: str, off: object) -> bool:
        """Whether any language has a setting other than `off`."""
        return any(value != off for value in self(name).values())


def document_steps(config: FilterConfig) -> list[Step[Document]]:
    """Returns all of the recipe for monolingual documents."""
    return [*document_filters(config), *edits(config)]


def pair_steps(config: FilterConfig) -> list[Step[Pair]]:
    """Returns all of the recipe for sentence pairs."""
    return [*pair_filters(config), *edits(config)]


def document_filters(config: FilterConfig) -> list[Step[Document]]:
    """Returns what is done to monolingual documents, but for the last edits."""
    of = _Settings(config)
    steps: list[Step[Document]] = []
    if of.uses("remove_boilerplate", False):
        steps.append(Boilerplate(of("remove_boilerplate")))
    steps.append(DocumentLength(of("min_document_chars"), of("max_document_chars")))
    if of.uses("max_repeated_line_share", 1) or of.uses("max_repeated_line_char_share", 1):
        limits = of("max_repeated_line_share"), of("max_repeated_line_char_share")
        steps.append(RepeatedLines(*limits))
    if of.uses("max_bullet_line_share", 1):
        steps.append(BulletLines(of("max_bullet_line_share")))
    if of.uses("max_ellipsis_line_share", 1):
        steps.append(EllipsisLines(of("max_ellipsis_line_share")))
    if of.uses("min_mean_word_chars", 0) or of.uses("max_mean_word_chars", None):
        steps.append(WordLength(of("min_mean_word_chars"), of("max_mean_word_chars")))
    steps += _text_filters(of)
    if of.uses("max_top_ngram_share", {}):
        steps.append(TopNgram(of("max_top_ngram_share")))
    if of.uses("max_repeated_ngram_share", {}):
        steps.append(RepeatedNgrams(of("max_repeated_ngram_share")))
    return steps


def min_document_chars(config: FilterConfig) -> PerLanguage[int]:
    """Returns the least length of a document, also of what an edit leaves of it."""
    return _Settings(config)("min_document_chars")


def pair_filters(config: FilterConfig) -> list[Step[Pair]]:
    """Returns what is done to sentence pairs, but for the last edits."""
    of = _Settings(config)
    steps: list[Step[Pair]] = [
        PairLength(of("min_pair_chars"), of("max_pair_chars")),
        PairLengthRatio(of("max_pair_length_ratio")),
    ]
    if of.uses("drop_identical_pairs", False):
        steps.append(IdenticalSides(of("drop_identical_pairs")))
    if of.uses("drop_contained_pairs", False):
        steps.append(ContainedSide(of("drop_contained_pairs")))
    if of.uses("min_pair_number_overlap", 0):
        steps.append(NumberOverlap(of("min_pair_number_overlap")))
    return steps + _text_filters(of)


def _text_filters(of: _Settings) -> list[Step[T]]:
    steps: list[Step[T]] = []
    if of.uses("min_letter_share", 0):
        steps.append(LetterShare(of("min_letter_share")))
    if of.uses("max_digit_share", 1):
        steps.append(DigitShare(of("max_digit_share")))
    if of.uses("max_symbol_share", 1):
        steps.append(SymbolShare(of("max_symbol_share")))
    if of.uses("max_replacement_share", 1):
        steps.append(ReplacementShare(of("max_replacement_share")))
    if of.uses("min_script_share", 0):
        steps.append(ScriptShare(of("min_script_share")))
    return steps


def edits(config: FilterConfig) -> list[Step[Any]]:
    """Returns what is done, last, to documents and pairs that stay."""
    of = _Settings(config)
    if not of.uses("mask_personal_data", None):
        return []
    return [MaskPersonalData(of("mask_personal_data"))]
