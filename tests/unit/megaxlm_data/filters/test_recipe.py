import pytest
from megaxlm_data.document import Document, Pair
from megaxlm_data.filters.base import Edit, apply_steps, total_drops, total_edits
from megaxlm_data.filters.recipe import document_steps, pair_steps

from megaxlm.config.data_filters import FilterConfig

MENU = ("Home", "Shop", "About us", "Contact")
BODY = "The mill stands where two streams meet; write to miller@example.org."
KEPT = [
    ("en", BODY),
    ("sw", "Kinu kipo mahali ambapo vijito viwili hukutana."),
    ("fi", "Lentokonesuihkuturbiinimoottoriapumekaanikko nukkuu."),
    ("th", "โรงสีตั้งอยู่ตรงที่ลำธารสองสายไหลมาพบกัน"),
    ("zh", "1984年，这里住着三户人家，共有17人，今天有120户。"),
    ("ja", "水車小屋は二本の小川が出会う場所に立っている。"),
    ("my", "ရေစက်သည် ချောင်းနှစ်ခု ဆုံရာတွင် ရှိသည်။"),
    ("am", "ወፍጮው ሁለት ጅረቶች በሚገናኙበት ቦታ ይገኛል።"),
    ("ar", "تقع الطاحونة حيث يلتقي الجدولان منذ زمن بعيد."),
    ("fa", "آسیاب جایی است که دو جوی به هم می\u200cرسند."),
    ("hi", "चक्की वहाँ है जहाँ दो धाराएँ मिलती हैं।"),
    ("vi", "Cối xay đứng ở nơi hai con suối gặp nhau."),
    ("sr", "Воденица стоји где се срећу два потока."),
    ("qqq", "Ꮎ ᏗᏓᎴᎲᏍᎩ ᎠᎴ ᏚᏙᎢᏓ ᎤᏃᎮᎸᎢ"),
    ("yo", "Ọlọ wà níbi tí odò méjì ti pàdé, odò méjì, odò méjì."),
]


@pytest.mark.parametrize(("lang", "text"), KEPT)
@pytest.mark.parametrize("preset", ["lenient", "none"])
def test_defaults_keep_plain_text_of_any_language(lang, text, preset):
    steps = document_steps(FilterConfig(preset=preset))
    document = Document(lang, (text,))
    assert apply_steps(steps, document) == (document, None)


@pytest.mark.parametrize(
    ("lang", "lines", "reason"),
    [
        ("en", ("too short",), "too_short"),
        ("en", ("same old line",) * 5, "repeated_lines"),
        ("en", ("1987 1988 1989 1990 1991 1992",), "few_letters"),
        ("en", ("ab 1987 ab 1988 ab 1989 ab 1990 abcde",), "many_digits"),
        ("en", ("★☆★☆★☆★☆ abcdefghij ★☆",), "many_symbols"),
        ("fr", ("caf\ufffd et th\ufffd pour deux",), "replacement_characters"),
        ("el", ("Maintainers need time off too",), "wrong_script"),
        ("en", ("win big win now or win never " * 9,), "repeated_5grams"),
    ],
)
def test_defaults_drop_what_is_no_text_of_its_language(lang, lines, reason):
    steps = document_steps(FilterConfig())
    assert apply_steps(steps, Document(lang, lines))[1] == reason
    assert total_drops(steps, lang) == {reason: 1}


def test_lines_go_first_and_masks_come_last():
    config = FilterConfig(
        remove_boilerplate=True, mask_personal_data=True, by_lang={"sw": {"preset": "none"}}
    )
    steps = document_steps(config)
    document, reason = apply_steps(steps, Document("en", (*MENU, BODY)))
    assert reason is None
    assert document.lines == (BODY.replace("miller@example.org", "<email>"),)
    assert apply_steps(steps, Document("en", MENU))[1] == "too_short"
    assert total_edits(steps, "en") == {"menu_line": 8, "masked_email": 1}
    assert isinstance(steps[0], Edit) and isinstance(steps[-1], Edit)


def test_what_no_language_uses_is_left_out():
    names = [type(step).__name__ for step in document_steps(FilterConfig(preset="none"))]
    assert names == ["DocumentLength"]
    one = FilterConfig(preset="none", by_lang={"th": {"min_letter_share": 0.3}})
    steps = document_steps(one)
    assert type(steps[-1]).__name__ == "LetterShare"
    assert apply_steps(steps, Document("th", ("123 456",)))[1] == "few_letters"
    assert apply_steps(steps, Document("en", ("123 456",)))[1] is None


@pytest.mark.parametrize(
    ("source", "target", "reason"),
    [
        ("The mill stands here.", "Die Mühle steht hier.", None),
        ("The mill stands here.", "The mill stands here!", "identical_sides"),
        ("The mill stands here.", "The mill stands here. Die Mühle.", "contained_side"),
        ("Mill.", "Die Mühle steht seit vielen hundert Jahren hier.", "length_ratio"),
        ("The mill stands here.", "Мельница стоит здесь.", "wrong_script"),
        ("The mill stands here.", "12 - 34 - 56 - 78", "few_letters"),
        ("", "Die Mühle", "empty_side"),
    ],
)
def test_pairs_by_default(source, target, reason):
    steps = pair_steps(FilterConfig())
    assert apply_steps(steps, Pair(("en", "de"), source, target))[1] == reason


def test_pairs_take_what_is_of_a_side_by_language_and_what_is_of_both_by_name():
    config = FilterConfig(
        min_pair_number_overlap=0.5,
        by_lang={
            "zh": {"min_letter_share": 0, "max_digit_share": 1},
            "zh-en": {"min_pair_number_overlap": 0},
        },
    )
    steps = pair_steps(config)
    numbers = Pair(("en", "zh"), "the years of the mill", "1984 1985")
    assert apply_steps(steps, numbers)[1] is None
    other = Pair(("en", "ja"), "the years of the mill", "水車の 1984年、1985年")
    assert apply_steps(steps, other)[1] == "numbers_differ"
