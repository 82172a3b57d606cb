from __future__ import annotations

import pytest
from megaxlm_data.languages.codes import base_language, normalize_code


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("zho_Hans", "zh"),
        ("zh-cn", "zh"),
        ("zh_CN", "zh"),
        ("cmn", "zh"),
        ("zho_Hani", "zh"),
        ("zh-TW", "zh-Hant"),
        ("zh-hk", "zh-Hant"),
        ("zho_Hant", "zh-Hant"),
        ("yue_Hant", "yue"),
        ("lzh_Hani", "lzh"),
        ("iw", "he"),
        ("in", "id"),
        ("ji", "yi"),
        ("mo", "ro"),
        ("jw", "jv"),
        ("arb", "ar"),
        ("arb_Latn", "ar-Latn"),
        ("arz", "arz"),
        ("swh_Latn", "sw"),
        ("pes_Arab", "fa"),
        ("prs", "fa"),
        ("azj", "az"),
        ("azb_Arab", "azb"),
        ("nb", "no"),
        ("nob_Latn", "no"),
        ("nn", "nn"),
        ("nno", "nn"),
        ("fil", "tl"),
        ("tgl_Latn", "tl"),
        ("pbt", "ps"),
        ("quy", "qu"),
        ("plt", "mg"),
        ("kmr", "ku"),
        ("ckb", "ckb"),
        ("als", "sq"),
        ("ger", "de"),
        ("twi", "tw"),
        ("tw", "tw"),
        ("aka", "ak"),
        ("cnr", "cnr"),
        ("cnr_Latn", "cnr"),
        ("srp_Cyrl", "sr"),
        ("srp_Latn", "sr-Latn"),
        ("sh", "sr-Latn"),
        ("uzn_Cyrl", "uz-Cyrl"),
        ("kor_Hang", "ko"),
        ("jpn_Jpan", "ja"),
        ("hi-Latn", "hi-Latn"),
        ("hin_Deva", "hi"),
        ("ace_Arab", "ace-Arab"),
        ("ace_Latn", "ace"),
        ("EN", "en"),
        (" en_XX ", "en"),
        ("pt-BR", "pt"),
        ("simple", "en"),
        ("be-x-old", "be"),
        ("zh-classical", "lzh"),
    ],
)
def test_what_corpora_write_becomes_one_spelling(written: str, expected: str) -> None:
    assert normalize_code(written) == expected


@pytest.mark.parametrize("code", ["", " ", "english", "e", "zh--", "?", "und", "mul", "zxx", "12"])
def test_what_names_no_language_is_undetermined(code: str) -> None:
    assert normalize_code(code) == "und"


def test_a_normalised_code_stays_as_it_is() -> None:
    written = "af ar arz az azb bho ckb en-GB fil gom he id ku ne_NP nn no pnb sr-Latn tl yue zh-TW"
    for code in map(normalize_code, written.split()):
        assert normalize_code(code) == code


def test_the_base_of_a_code_has_no_script() -> None:
    assert base_language("zh-Hant") == "zh"
    assert base_language("yue") == "yue"
