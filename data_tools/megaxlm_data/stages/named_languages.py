"""Looks whether the languages that a recipe names in its settings are languages it has text of."""

from __future__ import annotations

from collections.abc import Iterable

from megaxlm.config.data_build import DataBuildConfig
from megaxlm.errors import UserError
from megaxlm_data.languages.codes import normalize_code
from megaxlm_data.progress import Progress


def check_named(
    config: DataBuildConfig, groups: Iterable[tuple[str, ...]], progress: Progress
) -> None:
    """Refuses a tokenizer for languages without text, and warns of settings that change nothing.

    Args:
        config: The recipe.
        groups: The languages and pairs there are.
        progress: Where warnings are shown.

    Raises:
        UserError: `tokenizer` names a language without text, or none is left to train on.
    """
    groups = list(groups)
    known = {lang for group in groups for lang in group}
    settings = config.tokenizer
    for key, named in (
        ("languages", settings.languages or []),
        ("exclude_languages", settings.exclude_languages),
        ("weights", list(settings.weights)),
    ):
        for lang in named:
            if lang not in known:
                raise UserError(f"tokenizer.{key}: {_no_text(lang, known)}")
    trains = settings.model is None or settings.extend is not None
    if trains and known and known == set(settings.exclude_languages):
        raise UserError(
            "tokenizer.exclude_languages: leaves no language to train on; take one out of it"
        )
    pairs = {"-".join(group) for group in groups if len(group) == 2}
    for lang in config.filters.by_lang:
        if lang not in known | pairs:
            progress.warn(f"filters.by_lang: {_no_text(lang, known)}")
    for lang in config.language_identification.thresholds:
        if lang not in known:
            progress.warn(f"language_identification.thresholds: {_no_text(lang, known)}")


def _no_text(lang: str, known: set[str]) -> str:
    meant = normalize_code(lang)
    hint = f" (`{meant}` is here)" if meant in known else ""
    return (
        f"there is no text of {lang!r}{hint}; the languages of this data set are "
        f"{', '.join(sorted(known))}"
    )
