import pytest
from megaxlm_data.document import Document, Pair
from megaxlm_data.filters.base import PerLanguage
from megaxlm_data.filters.scripts import ScriptShare, script_share, scripts_of


@pytest.mark.parametrize(
    ("lang", "scripts"),
    [
        ("en", {"Latn"}),
        ("eng_Latn", {"Latn"}),
        ("sr", {"Cyrl", "Latn"}),
        ("sr-Latn", {"Latn"}),
        ("srp_Cyrl", {"Cyrl"}),
        ("zh", {"Hani", "Bopo"}),
        ("zh-Hant", {"Hani", "Bopo"}),
        ("zho_Hans", {"Hani", "Bopo"}),
        ("zh-TW", {"Hani", "Bopo"}),
        ("ja", {"Hani", "Hira", "Kana"}),
        ("ko", {"Hang", "Hani"}),
        ("ar", {"Arab"}),
        ("ar-Latn", {"Latn"}),
        ("kas_Deva", {"Deva"}),
        ("th", {"Thai"}),
        ("am", {"Ethi"}),
        ("yi", {"Hebr"}),
        ("nqo", {"Nkoo", "Latn"}),
        ("ber", {"Latn", "Tfng"}),  # not in CLDR
    ],
)
def test_scripts_of_a_language(lang, scripts):
    assert scripts_of(lang) == scripts


@pytest.mark.parametrize("lang", ["qqq", "acm", "zz", "roa-rup", "toolongcode", "en-Zzzz-x"])
def test_a_language_of_which_nothing_is_known_passes(lang):
    if scripts_of(lang):  # langcodes reads the rest of such a code
        assert scripts_of(lang) == {"Latn"}
    else:
        assert script_share("какой-то текст", lang) == 1.0


KEPT = [
    ("en", "A long walk by the river"),
    ("sr", "Дуга шетња поред реке"),
    ("sr", "Duga šetnja pored reke"),
    ("zh", "他昨天买了一台新的 GPU 服务器"),
    ("zh-Hant", "他昨天買了一台新的伺服器"),
    ("ja", "昨日はカフェで本を読みました"),
    ("ko", "어제 새 책을 읽었다 (冊)"),
    ("hi", "कल मैंने एक किताब पढ़ी"),
    ("th", "เมื่อวานฉันอ่านหนังสือ"),
    ("fa", "دیروز کتابی می\u200cخواندم"),
    ("ar-Latn", "mar7aba kifak lyom"),
    ("vi", "Hôm qua tôi đọc một cuốn sách"),
    ("am", "ትናንት መጽሐፍ አነበብኩ"),
    ("ru", "12 : 45 — 2020"),  # no letter at all
    ("qqq", "ᏣᎳᎩ ነው ไทย"),
]
DROPPED = [
    ("en", "Длинная прогулка вдоль реки"),
    ("sr-Latn", "Дуга шетња поред реке"),
    ("zh", "Page not found, go back to start"),
    ("ja", "This page is not translated yet"),
    ("ko", "きのうカフェでほんをよみました"),
    ("ar-Latn", "مرحبا كيف حالك اليوم"),
    ("hi", "kal maine ek kitaab padhi thi"),
    ("ru", "Ð´Ð»Ð¸Ð½Ð½Ð°Ñ Ð¿ÑÐ¾Ð³ÑÐ»ÐºÐ°"),  # UTF-8 read as Latin-1
    ("el", "Maintainers need time off too"),
]


@pytest.mark.parametrize(("lang", "text"), KEPT)
def test_text_in_a_script_of_its_language_stays(lang, text):
    assert ScriptShare(PerLanguage(0.2)).reason_to_drop(Document(lang, (text,))) is None


@pytest.mark.parametrize(("lang", "text"), DROPPED)
def test_text_in_another_script_is_dropped(lang, text):
    document = Document(lang, (text,))
    assert ScriptShare(PerLanguage(0.2)).reason_to_drop(document) == "wrong_script"


def test_the_share_leaves_out_what_belongs_to_no_script():
    assert script_share("абвг abcd", "ru") == 0.5
    assert script_share("абвг abcd 123 …!", "ru") == 0.5
    assert script_share("е\u0301а\u0301", "ru") == 1.0  # accents are of no script


def test_each_side_of_a_pair_has_its_script():
    both = ScriptShare(PerLanguage(0.5))
    assert both.reason_to_drop(Pair(("en", "ru"), "a house", "дом")) is None
    assert both.reason_to_drop(Pair(("ru", "en"), "a house", "дом")) == "wrong_script"
    assert both.reason_to_drop(Pair(("en", "ru"), "a house", "a house")) == "wrong_script"
