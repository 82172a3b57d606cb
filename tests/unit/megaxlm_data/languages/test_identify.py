from __future__ import annotations

import builtins
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import pytest
from megaxlm_data.languages import identify as module
from megaxlm_data.languages.identify import (
    LanguageIdentifier,
    is_traditional,
    make_identifier,
    sample,
)

from megaxlm.config.data_languages import LanguageIdentificationConfig
from megaxlm.errors import UserError

pytest.importorskip("eldc")
pytest.importorskip("py3langid")

TEXTS = {
    "en": "The ferry leaves the harbour at seven, and nobody has told the baker about it yet.",
    "de": "Die Fähre verlässt den Hafen um sieben, und dem Bäcker hat noch niemand davon erzählt.",
    "fr": "Le bateau quitte le port à sept heures, et personne n'en a encore parlé au boulanger.",
    "ru": "Паром уходит из порта в семь часов, и пекарю об этом ещё никто не рассказал.",
    "ar": "تغادر العبارة الميناء في الساعة السابعة، ولم يخبر أحد الخباز بذلك حتى الآن.",
    "hi": "नाव सात बजे बंदरगाह से निकलती है, और अभी तक किसी ने नानबाई को यह बात नहीं बताई है।",
    "sw": "Kivuko kinaondoka bandarini saa moja, na hakuna mtu aliyemwambia mwokaji mikate bado.",
    "ja": "渡し船は七時に港を出るのに、まだ誰もパン屋さんにそのことを話していません。",
    "ko": "나룻배는 일곱 시에 항구를 떠나는데 아직 아무도 빵집 주인에게 말하지 않았습니다.",
    "th": "เรือข้ามฟากออกจากท่าตอนเจ็ดโมง และยังไม่มีใครบอกคนทำขนมปังเลย",
    "zh": "渡船七点钟离开港口，可是还没有人告诉面包师这件事，大家都以为他知道。",
    "zh-Hant": "渡船七點鐘離開港口，可是還沒有人告訴麵包師這件事，大家都以為他知道。",
    "id": "Kapal itu berangkat dari pelabuhan pukul tujuh, tetapi belum ada yang memberi tahu "
    "tukang roti karena mereka mengira dia sudah tahu.",
    "af": "Ons het gister vir die bakker gesê dat die boot eers om sewe-uur uit die hawe sal vaar, "
    "maar hy wou dit nie glo nie.",
    "sr": "Трајект испловљава из луке у седам сати, а пекару то још нико није рекао.",
}


@pytest.fixture(scope="module")
def identifier() -> LanguageIdentifier:
    return make_identifier(LanguageIdentificationConfig())


@pytest.mark.parametrize("lang", TEXTS)
def test_a_sentence_is_found_in_its_language(identifier: LanguageIdentifier, lang: str) -> None:
    found, confidence = identifier.identify(TEXTS[lang])
    assert found == lang
    assert 0.5 <= confidence <= 1
    assert found in identifier.languages


@pytest.mark.parametrize("text", ["", " ", "12 345 67,8", "...", "\u2603\u2603\u2603", "\x00"])
def test_what_has_no_words_is_undetermined(identifier: LanguageIdentifier, text: str) -> None:
    assert identifier.identify(text)[0] == "und"


def test_a_higher_demand_leaves_more_undetermined() -> None:
    strict = make_identifier(LanguageIdentificationConfig(min_confidence=1.0))
    text = TEXTS["de"] + " " + TEXTS["fr"] + " " + TEXTS["en"]
    found, confidence = strict.identify(text)
    assert found == "und"
    assert 0 < confidence < 1


def test_the_fast_library_alone_is_unsure_of_what_only_the_other_knows() -> None:
    fast = make_identifier(LanguageIdentificationConfig(accurate=False))
    assert fast.identify(TEXTS["de"])[0] == "de"
    assert fast.identify(TEXTS["sw"])[0] == "und"
    assert "sw" not in fast.languages


def test_the_accurate_library_is_not_asked_of_what_is_sure(monkeypatch: Any) -> None:
    asked = []

    def classify(text: str) -> tuple[str, float]:
        asked.append(text)
        return "id", 0.9

    monkeypatch.setattr(module, "_py3langid", lambda: (classify, frozenset({"id"})))
    identifier = make_identifier(LanguageIdentificationConfig())
    assert identifier.identify(TEXTS["fr"])[0] == "fr"
    assert asked == []
    assert identifier.identify(TEXTS["id"]) == ("id", 0.9)
    assert asked == [TEXTS["id"]]


def test_libraries_that_contradict_each_other_leave_little_confidence(monkeypatch: Any) -> None:
    monkeypatch.setattr(
        module, "_eldc", lambda: (lambda text: ("fi", 0.6), frozenset({"fi", "et"}))
    )
    monkeypatch.setattr(module, "_py3langid", lambda: (lambda text: ("et", 0.9), frozenset({"et"})))
    code, confidence = make_identifier(LanguageIdentificationConfig()).identify("tere")
    assert code == "und"
    assert confidence == pytest.approx(0.9 * 0.4)


def test_scripts_are_told_apart_where_a_language_has_two(identifier: LanguageIdentifier) -> None:
    cyrillic = (
        "Паром соат еттида бандаргоҳдан жўнайди, лекин ҳали ҳеч ким новвойга бу ҳақда гапиргани "
        "йўқ, чунки ҳамма уни билади деб ўйлайди."
    )
    latin = (
        "Parom soat yettida bandargohdan joʻnaydi, lekin hali hech kim novvoyga bu haqda gapirgani "
        "yoʻq, chunki hamma uni biladi deb oʻylaydi."
    )
    assert identifier.identify(cyrillic)[0] in ("uz-Cyrl", "und")
    assert identifier.identify(latin)[0] == "uz"


def test_traditional_characters_are_told_from_simplified() -> None:
    assert is_traditional("麵包師")
    assert not is_traditional("面包师")
    assert not is_traditional("山水")  # both write these
    assert not is_traditional("")


def test_a_name_in_another_script_does_not_make_a_text_of_its_language(
    identifier: LanguageIdentifier,
) -> None:
    text = "Ahmedabad (અમદાવાદ શહેર) ist eine große Stadt am Ufer eines Flusses im Westen."
    assert identifier.identify(text)[0] in ("de", "und")


def test_parts_of_a_long_text_are_looked_at() -> None:
    text = "a" * 500 + "b" * 500 + "c" * 500
    part = sample(text, 300)
    assert len(part) <= 300
    assert {"a", "b", "c"} <= set(part)
    assert sample("short", 300) == "short"


def test_a_long_text_is_judged_by_more_than_its_start(identifier: LanguageIdentifier) -> None:
    text = "Copyright. All rights reserved. Terms of use. " + (TEXTS["de"] + " ") * 500
    assert identifier.identify(text)[0] == "de"


def test_every_process_gives_the_same_answer(identifier: LanguageIdentifier) -> None:
    here = [identifier.identify(text) for text in TEXTS.values()]
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        assert pool.submit(_identify_backwards).result() == here


def _identify_backwards() -> list[tuple[str, float]]:
    identifier = make_identifier(LanguageIdentificationConfig())
    return [identifier.identify(text) for text in reversed(TEXTS.values())][::-1]


def test_a_missing_library_is_one_line_that_names_the_extra(monkeypatch: Any) -> None:
    original = builtins.__import__

    def without_eldc(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "eldc":
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_eldc)
    module._eldc.cache_clear()
    with pytest.raises(
        UserError, match=r"needs eldc; install it with: pip install 'megaxlm\[lid\]'"
    ):
        make_identifier(LanguageIdentificationConfig())
