"""The language of a text against the one it is declared to be in.

Only a confident contradiction drops anything: a text that is short, unsure, of a close language or
of a language that no library knows stays. Which languages the dropped texts were in is counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Generic

from megaxlm.config.data_languages import LanguageIdentificationConfig
from megaxlm_data.document import Document, Pair
from megaxlm_data.filters.base import Filter, T
from megaxlm_data.filters.findings import Findings
from megaxlm_data.languages.codes import UNDETERMINED, normalize_code
from megaxlm_data.languages.identify import (
    DOUBTFUL_LABELS,
    LanguageIdentifier,
    make_identifier,
)
from megaxlm_data.languages.relatives import Relatives

WRONG_LANGUAGE = "wrong_language"
# For languages that the identifier doesn't know, it must be sure, and by the fast library: the
# accurate one gives such a text to a relative with great confidence.
_SURE = LanguageIdentificationConfig(accurate=False)


class LanguageJudge:
    """Says of one text whether its language contradicts the declared one.

    Args:
        config: Thresholds and policies.
        identifier: What finds the language.
    """

    def __init__(
        self, config: LanguageIdentificationConfig, identifier: LanguageIdentifier
    ) -> None:
        self._config = config
        self._identifier = identifier
        self._sure: LanguageIdentifier | None = None
        if config.unknown_languages == "judge":
            self._sure = make_identifier(_SURE)
        self._thresholds = {normalize_code(k): v for k, v in config.thresholds.items()}
        self._relatives = Relatives(config.close_groups)

    def contradiction(self, declared: str, text: str) -> str | None:
        """Returns the other language that a text is in; None if it may be in the declared one."""
        lang = normalize_code(declared)
        if self._identifier.knows(lang):
            found, confidence = self._identifier.identify(
                text, lambda code: self._expected(lang, code)
            )
        elif self._sure is not None:
            found, confidence = self._sure.identify(text)
            if found in DOUBTFUL_LABELS:
                return None  # under these it puts languages that it doesn't know
        else:
            return None
        threshold = self._thresholds.get(lang, self._config.threshold)
        if found == UNDETERMINED or confidence < threshold or self._agree(lang, found):
            return None
        return found

    def _agree(self, declared: str, found: str) -> bool:
        if self._config.close_languages == "agree":
            return self._relatives.are_close(declared, found)
        return declared == found

    def _expected(self, declared: str, code: str) -> bool:
        """Tells whether the fast library's word for a code settles the matter."""
        if self._config.close_languages == "differ" and code in DOUBTFUL_LABELS:
            return False
        return self._agree(declared, code)


class _LanguageFilter(Filter[T], Generic[T]):
    """What documents and pairs have in common: the judge, the policies, the findings."""

    topic = WRONG_LANGUAGE

    def __init__(self, config: LanguageIdentificationConfig, judge: LanguageJudge) -> None:
        super().__init__()
        self._config, self._judge = config, judge
        self._found: Counter[tuple[str, str, str]] = Counter()

    def findings(self, name: str) -> dict[str, dict[str, int]]:
        """Returns how many texts were dropped, by the language declared and the one found."""
        result: dict[str, dict[str, int]] = {}
        for (of, declared, found), number in sorted(self._found.items()):
            if of == name:
                result.setdefault(declared, {})[found] = number
        return result

    def _reason(self, name: str, lang: str, text: str) -> str | None:
        if len(text) < self._config.min_chars:
            return "short_for_language" if self._config.short_texts == "drop" else None
        found = self._judge.contradiction(lang, text)
        if found is None:
            return None
        self._found[name, lang, found] += 1
        return WRONG_LANGUAGE


class LanguageMatch(_LanguageFilter[Document]):
    """Drops documents that are in another language than declared."""

    def reason_to_drop(self, item: Document) -> str | None:
        """Judges the whole document."""
        return self._reason(item.lang, item.lang, item.text)


class PairLanguageMatch(_LanguageFilter[Pair]):
    """Drops pairs of which a side is in another language than declared."""

    def reason_to_drop(self, item: Pair) -> str | None:
        """Judges each side by itself."""
        name = "-".join(item.langs)
        first = self._reason(name, item.langs[0], item.source)
        return first or self._reason(name, item.langs[1], item.target)


def total_found(findings: Iterable[Findings]) -> dict[str, dict[str, int]]:
    """Returns how many texts were dropped, by the language declared and the one found."""
    total: dict[str, Counter[str]] = {}
    for each in findings:
        for declared, found in each.get(WRONG_LANGUAGE, {}).items():
            total.setdefault(declared, Counter()).update(found)
    return {lang: dict(sorted(found.items())) for lang, found in sorted(total.items())}


def language_match(config: LanguageIdentificationConfig) -> LanguageMatch:
    """Returns the filter of documents.

    Raises:
        UserError: A library isn't installed.
    """
    return LanguageMatch(config, LanguageJudge(config, make_identifier(config)))


def pair_language_match(config: LanguageIdentificationConfig) -> PairLanguageMatch:
    """Returns the filter of pairs.

    Raises:
        UserError: A library isn't installed.
    """
    return PairLanguageMatch(config, LanguageJudge(config, make_identifier(config)))
