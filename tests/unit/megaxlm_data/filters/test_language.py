from __future__ import annotations

from collections.abc import Callable

import pytest
from megaxlm_data.document import Document, Pair
from megaxlm_data.filters.base import apply_steps, total_drops
from megaxlm_data.filters.findings import findings_of
from megaxlm_data.filters.language import (
    LanguageJudge,
    LanguageMatch,
    PairLanguageMatch,
    language_match,
    pair_language_match,
)

from megaxlm.config.data_languages import LanguageIdentificationConfig

GERMAN = "Der Leuchtturm steht seit langem leer, doch jeden Abend brennt oben ein kleines Licht."
ENGLISH = "The lighthouse has been empty for years, yet every evening a small light burns upstairs."
CROATIAN = "Svjetionik je već godinama prazan, ali svake večeri gore gori jedno malo svjetlo."


class Oracle:
    """Finds the language that the text names: `de 0.9 ...`."""

    languages = frozenset({"de", "en", "fr", "hr", "bs", "sr", "zh", "zh-Hant", "yue"})

    def __init__(self) -> None:
        self.asked = 0

    def knows(self, code: str) -> bool:
        return code in self.languages

    def identify(
        self, text: str, expected: Callable[[str], bool] | None = None
    ) -> tuple[str, float]:
        self.asked += 1
        code, confidence, *_ = text.split()
        return code, float(confidence)


def drops(lang: str, text: str, **settings: object) -> str | None:
    config = LanguageIdentificationConfig.model_validate({"min_chars": 1} | settings)
    step = LanguageMatch(config, LanguageJudge(config, Oracle()))
    return apply_steps([step], Document(lang, (text,)))[1]


def test_another_language_is_dropped_and_counted_with_what_was_found() -> None:
    config = LanguageIdentificationConfig(min_chars=1)
    step = LanguageMatch(config, LanguageJudge(config, Oracle()))
    for text in ("de 0.9", "de 0.95", "fr 1.0", "en 0.9", "und 0.1"):
        apply_steps([step], Document("en", (text,)))
    apply_steps([step], Document("fr", ("en 1.0",)))
    assert total_drops([step], "en") == {"wrong_language": 3}
    assert findings_of([step], "en") == {"wrong_language": {"en": {"de": 2, "fr": 1}}}


def test_nothing_found_is_no_finding() -> None:
    config = LanguageIdentificationConfig(min_chars=1)
    assert findings_of([LanguageMatch(config, LanguageJudge(config, Oracle()))], "en") == {}


def test_an_unsure_contradiction_keeps_the_document() -> None:
    assert drops("en", "de 0.79") is None
    assert drops("en", "de 0.80") == "wrong_language"


def test_a_threshold_of_its_own_goes_before_the_general_one() -> None:
    assert drops("en", "de 0.9", thresholds={"en": 0.95}) is None
    assert drops("eng_Latn", "de 0.9", thresholds={"en": 0.95}) is None
    assert drops("fr", "de 0.9", thresholds={"en": 0.95}) == "wrong_language"
    assert drops("en", "de 0.6", thresholds={"en": 0.5}) == "wrong_language"


@pytest.mark.parametrize(
    ("declared", "found"),
    [("hr", "bs"), ("bs", "sr"), ("zh", "zh-Hant"), ("zh-TW", "yue"), ("en-GB", "en")],
)
def test_close_languages_agree(declared: str, found: str) -> None:
    assert drops(declared, f"{found} 1.0") is None


def test_close_languages_differ_if_the_recipe_says_so() -> None:
    assert drops("hr", "bs 1.0", close_languages="differ") == "wrong_language"
    assert drops("hr", "hr 1.0", close_languages="differ") is None
    assert drops("en", "fr 1.0", close_groups=[["eng", "fra"]]) is None
    assert drops("en", "de 1.0", close_groups=[["eng", "fra"]]) == "wrong_language"


def test_languages_that_nobody_knows_are_kept_without_a_look() -> None:
    oracle = Oracle()
    config = LanguageIdentificationConfig(min_chars=1)
    step = LanguageMatch(config, LanguageJudge(config, oracle))
    assert step.reason_to_drop(Document("lgg", ("en 1.0",))) is None
    assert oracle.asked == 0


def test_short_texts_are_kept_or_dropped_by_policy() -> None:
    assert drops("en", "de 1.0", min_chars=7) is None
    assert drops("en", "de 1.0", min_chars=6) == "wrong_language"
    assert drops("en", "en 1.0", min_chars=7, short_texts="drop") == "short_for_language"


def test_both_sides_of_a_pair_are_judged() -> None:
    config = LanguageIdentificationConfig(min_chars=1)
    step = PairLanguageMatch(config, LanguageJudge(config, Oracle()))
    pairs = [("en 1.0", "de 1.0"), ("fr 1.0", "de 1.0"), ("en 1.0", "en 1.0")]
    reasons = [apply_steps([step], Pair(("en", "de"), *pair))[1] for pair in pairs]
    assert reasons == [None, "wrong_language", "wrong_language"]
    assert total_drops([step], "en-de") == {"wrong_language": 2}
    assert step.findings("en-de") == {"de": {"en": 1}, "en": {"fr": 1}}


class TestWithTheLibraries:
    @pytest.fixture(autouse=True)
    def _libraries(self) -> None:
        pytest.importorskip("eldc")
        pytest.importorskip("py3langid")

    def test_real_text_is_judged(self) -> None:
        step = language_match(LanguageIdentificationConfig())
        assert step.reason_to_drop(Document("en", (ENGLISH,))) is None
        assert step.reason_to_drop(Document("en", (GERMAN,))) == "wrong_language"
        assert step.reason_to_drop(Document("sr-Latn", (CROATIAN,))) is None
        assert step.reason_to_drop(Document("cs", (CROATIAN,))) == "wrong_language"

    def test_real_pairs_are_judged(self) -> None:
        step = pair_language_match(LanguageIdentificationConfig())
        assert step.reason_to_drop(Pair(("en", "de"), ENGLISH, GERMAN)) is None
        assert step.reason_to_drop(Pair(("de", "en"), ENGLISH, GERMAN)) == "wrong_language"
        assert step.reason_to_drop(Pair(("en", "de"), ENGLISH, ENGLISH)) == "wrong_language"

    def test_an_unknown_language_is_judged_by_what_is_sure_alone(self) -> None:
        judged = language_match(LanguageIdentificationConfig(unknown_languages="judge"))
        kept = language_match(LanguageIdentificationConfig())
        english = Document("lgg", (ENGLISH + " " + ENGLISH,))
        assert kept.reason_to_drop(english) is None
        assert judged.reason_to_drop(english) == "wrong_language"
        lugbara_like = Document("lgg", ("Ma ndra 'ba azi pi be aku ari driaria ma alia " * 3,))
        assert judged.reason_to_drop(lugbara_like) is None
