import pytest
from megaxlm_data.readers.choice import NOT_WANTED, UNKNOWN, LanguageChoice


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("en", "en"),
        ("iw", "he"),
        ("in", "id"),
        ("ZHO", "zh"),
        ("zh-cn", "zh"),
        ("zho_Hans", "zh"),
        ("zh_TW", "zh-Hant"),
        ("__label__eng_Latn", "en"),
        ("srp_Latn", "sr-Latn"),
    ],
)
def test_codes_come_to_one_spelling(written, name):
    assert LanguageChoice(None).of(written) == (name, None)


@pytest.mark.parametrize("written", ["", "und", "mul", "english", "7", "a b"])
def test_what_is_no_language_is_unknown(written):
    assert LanguageChoice(None).of(written) == ("und", UNKNOWN)
    assert LanguageChoice(["en"]).of(written) == ("und", UNKNOWN)


def test_a_list_takes_its_languages_and_calls_them_as_it_does():
    choice = LanguageChoice(["en", "zh-CN"])
    assert choice.of("eng") == ("en", None)
    assert choice.of("zho_Hans") == ("zh-CN", None)
    assert choice.of("fr") == ("fr", NOT_WANTED)


def test_a_mapping_renames_even_what_is_no_code():
    choice = LanguageChoice({"zho_Hans": "zh", "newspaper_en": "en", "und": "xx"})
    assert choice.of("zho_Hans") == ("zh", None)
    assert choice.of("zh-cn") == ("zh", None)
    assert choice.of("newspaper_en") == ("en", None)
    assert choice.of("und") == ("xx", None)
    assert choice.of("en") == ("en", NOT_WANTED)
