"""What text must be like to stay in a data set."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError, model_validator

from megaxlm.config.base import Section

Share = Annotated[float, Field(ge=0, le=1)]
TopNgrams = dict[Annotated[int, Field(ge=2, le=4)], Share]
RepeatedNgrams = dict[Annotated[int, Field(ge=5, le=10)], Share]

# Table A1 of Rae et al. 2021 (Gopher) but its stop words, which are English: made for English web
# text, and strict. The mean length of a word suits languages like English only; raise the upper
# bound for Finnish, Turkish or Zulu under `by_lang`.
_GOPHER: dict[str, Any] = {
    "max_symbol_share": 0.1,
    "max_repeated_line_share": 0.3,
    "max_repeated_line_char_share": 0.2,
    "max_top_ngram_share": {2: 0.2, 3: 0.18, 4: 0.16},
    "max_repeated_ngram_share": {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.1},
    "max_bullet_line_share": 0.9,
    "max_ellipsis_line_share": 0.3,
    "min_mean_word_chars": 3,
    "max_mean_word_chars": 10,
}
# Nothing is dropped but what is empty or longer than what one document may take in memory.
_NONE: dict[str, Any] = {
    "min_document_chars": 0,
    "min_letter_share": 0,
    "max_digit_share": 1,
    "max_symbol_share": 1,
    "max_replacement_share": 1,
    "min_script_share": 0,
    "max_repeated_line_share": 1,
    "max_repeated_line_char_share": 1,
    "max_top_ngram_share": {},
    "max_repeated_ngram_share": {},
    "max_bullet_line_share": 1,
    "max_ellipsis_line_share": 1,
    "min_mean_word_chars": 0,
    "max_mean_word_chars": None,
    "min_pair_chars": 1,
    "max_pair_length_ratio": 1e9,
    "drop_identical_pairs": False,
    "drop_contained_pairs": False,
    "min_pair_number_overlap": 0,
}
_PRESETS: dict[str, dict[str, Any]] = {"lenient": {}, "gopher": _GOPHER, "none": _NONE}


def _cannot_look_like_data(placeholder: str) -> str:
    if any(character.isdigit() or character in "@:\n\r" for character in placeholder):
        raise ValueError("a placeholder has no digit, `@`, `:` or line break: it would be masked")
    return placeholder


Placeholder = Annotated[str, Field(max_length=64), AfterValidator(_cannot_look_like_data)]


class PersonalDataConfig(Section):
    """Which personal data is masked, and what stands there instead; null leaves a kind alone.

    Data is known by its form, not by what is said around it: names and addresses stay.
    """

    emails: Placeholder | None = "<email>"
    phones: Placeholder | None = "<phone>"  # national forms: of the country the language is from
    cards: Placeholder | None = "<card>"  # payment cards, by issuer and check digit
    ibans: Placeholder | None = "<iban>"  # bank accounts, by check digits
    ips: Placeholder | None = "<ip>"  # public addresses only


class FilterConfig(Section):
    """Quality limits and edits; each drop and change is counted by language and reason.

    The defaults, the preset `lenient`, drop what is no text in any language. `gopher` has the
    limits of a known English data set, `none` switches everything off. What is written beside the
    preset overrides it, and `by_lang` overrides both: for documents of a language and sides of
    pairs in it, or, under the name of a pair such as `en-th`, for limits on pairs as a whole.
    """

    preset: Literal["lenient", "gopher", "none"] = "lenient"
    min_document_chars: int = Field(default=20, ge=0)
    max_document_chars: int = Field(default=1_000_000, ge=1)

    # shares of the characters other than spaces
    min_letter_share: Share = 0.4  # letters and marks
    max_digit_share: Share = 0.5
    max_symbol_share: Share = 0.3  # mathematics, currencies, pictures; no punctuation
    max_replacement_share: Share = 0.01  # U+FFFD: what could not be decoded
    min_script_share: Share = 0.2  # letters of the language's scripts among letters

    # a line counts from its second copy on
    max_repeated_line_share: Share = 0.5
    max_repeated_line_char_share: Share = 0.5
    # share of the characters in the commonest run of n words
    max_top_ngram_share: TopNgrams = Field(default_factory=dict)
    # share of the characters in later copies of runs of n words
    max_repeated_ngram_share: RepeatedNgrams = Field(default_factory=lambda: {5: 0.7})

    max_bullet_line_share: Share = 1.0  # lines that begin with a bullet
    max_ellipsis_line_share: Share = 1.0  # lines that end with an ellipsis
    min_mean_word_chars: float = Field(default=0.0, ge=0)  # where words have spaces between them
    max_mean_word_chars: float | None = Field(default=None, gt=0)

    min_pair_chars: int = Field(default=2, ge=1)
    max_pair_chars: int = Field(default=2_000, ge=1)
    max_pair_length_ratio: float = Field(default=6.0, ge=1)  # UTF-8 bytes, longer over shorter
    drop_identical_pairs: bool = True  # the same letters and digits on both sides
    drop_contained_pairs: bool = True  # one side, of 10 characters or more, is part of the other
    min_pair_number_overlap: Share = 0.0  # numbers of two digits or more: in both over in either

    remove_boilerplate: bool = False  # lines of menus, code, cookie banners, copyright
    mask_personal_data: PersonalDataConfig | None = None  # `true` masks all kinds

    by_lang: dict[str, dict[str, Any]] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _expand(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        preset = data.get("preset", "lenient")
        given = {**_PRESETS[preset], **data} if preset in _PRESETS else dict(data)
        mask = given.get("mask_personal_data")
        if isinstance(mask, bool):
            given["mask_personal_data"] = {} if mask else None
        return given

    @model_validator(mode="after")
    def _overrides_are_valid(self) -> FilterConfig:
        for lang, changes in self.by_lang.items():
            known = set(FilterConfig.model_fields) - {"by_lang"}
            for key in changes.keys() - known:
                near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
                hint = f"; did you mean `{near[0]}`?" if near else ""
                raise ValueError(f"by_lang.{lang}: unknown key `{key}`{hint}")
            try:
                self.for_lang(lang)
            except ValidationError as error:
                problem = error.errors()[0]
                key = ".".join(map(str, problem["loc"]))
                message = problem["msg"][:1].lower() + problem["msg"][1:]
                raise ValueError(f"by_lang.{lang}.{key}: {message}") from None
        return self

    def for_lang(self, lang: str) -> FilterConfig:
        """Returns the settings of one language or pair, its overrides applied.

        An override replaces a setting as a whole, but adds to a mapping such as
        `max_top_ngram_share`. A `preset` inside an override comes before what stands beside it.

        Args:
            lang: A language code, or two joined by a hyphen.
        """
        changes = self.by_lang.get(lang)
        if changes is None:
            return self if not self.by_lang else self.model_copy(update={"by_lang": {}})
        base = self.model_dump(exclude={"by_lang"})
        return FilterConfig.model_validate(_merged(_merged_preset(base, changes), changes))


def _merged_preset(base: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    if "preset" not in changes:
        return base
    preset = _PRESETS.get(changes["preset"], {})
    defaults = FilterConfig().model_dump(exclude={"by_lang"})
    return {**base, **{key: defaults[key] for key in _NONE}, **preset}


def _merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            # a YAML key is a string where the model has a number
            parts = ({str(name): of for name, of in part.items()} for part in (old, value))
            merged[key] = _merged(*parts)
        else:
            merged[key] = value
    return merged
