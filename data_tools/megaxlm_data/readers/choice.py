"""Which languages of a source are taken, and what they are called."""

from __future__ import annotations

from typing import Any, Protocol

from megaxlm.config.data_build import DataBuildConfig
from megaxlm_data.languages.codes import UNDETERMINED, normalize_code

UNKNOWN = "language_unknown"
NOT_WANTED = "language_not_wanted"


class LanguageIdentifier(Protocol):
    """Says which language a text is in."""

    def identify(self, text: str) -> tuple[str, float]:
        """Returns a code, `und` if unsure, and the confidence in it from 0 to 1."""


def make_identifier(config: DataBuildConfig) -> LanguageIdentifier:
    """Returns what `lang: detect` asks; loaded where it is needed alone, for it holds a model."""
    from megaxlm_data.languages.identify import make_identifier as make

    return make(config.language_identification)


def identifier_key(config: DataBuildConfig) -> Any:
    """Returns what the answers of the identifier depend on beside the config, JSON-able.

    Raises:
        UserError: A library is not installed.
    """
    from megaxlm_data.languages.identify import library_versions

    return library_versions(config.language_identification)


class LanguageChoice:
    """Brings codes to one spelling and says whether their language is wanted.

    Args:
        languages: The languages that are taken, as they will be called; or a mapping to that from
            how they are written in the source; None takes every language.
    """

    def __init__(self, languages: list[str] | dict[str, str] | None) -> None:
        self._takes_all = languages is None
        named = (
            languages if isinstance(languages, dict) else {code: code for code in languages or ()}
        )
        self._exact = dict(named)
        self._near = {normalize_code(written): name for written, name in named.items()}
        self._near.pop(UNDETERMINED, None)  # what is no code is taken as it is written alone
        self._known: dict[str, tuple[str, str | None]] = {}

    def of(self, written: str) -> tuple[str, str | None]:
        """Returns what a language is called here, and why it is not taken; None if it is.

        Args:
            written: A code as corpora write it: `zho_Hans`, `iw`, `__label__eng_Latn`.
        """
        if (answer := self._known.get(written)) is None:
            if len(self._known) > 10_000:  # a field that holds something else than languages
                self._known.clear()
            answer = self._known[written] = self._find(written)
        return answer

    def _find(self, written: str) -> tuple[str, str | None]:
        if written in self._exact:
            return self._exact[written], None
        code = normalize_code(written.removeprefix("__label__"))
        if code in self._near:
            return self._near[code], None
        if code == UNDETERMINED:
            return code, UNKNOWN
        return code, None if self._takes_all else NOT_WANTED
