import pytest
from megaxlm_data.document import Document
from megaxlm_data.filters.base import PerLanguage
from megaxlm_data.filters.boilerplate import Boilerplate, boilerplate_kind
from megaxlm_data.filters.lines import BulletLines, EllipsisLines, WordLength


def test_bullets_and_ellipses_are_counted_by_line():
    bullets = BulletLines(PerLanguage(0.6))
    assert bullets.reason_to_drop(Document("en", ("• tea", "- milk", "plain"))) == "bullet_lines"
    assert bullets.reason_to_drop(Document("en", ("• tea", "-5 degrees", "plain"))) is None
    ellipses = EllipsisLines(PerLanguage(0.3))
    teasers = Document("zh", ("他说…", "第二天。", "后来。。。"))
    assert ellipses.reason_to_drop(teasers) == "ellipsis_lines"
    assert ellipses.reason_to_drop(Document("en", ("Wait... what?", "He left."))) is None


@pytest.mark.parametrize(
    ("lang", "text", "reason"),
    [
        ("en", "a b c d", "short_words"),
        ("en", "plain words of a common length", None),
        ("en", "0x3fa9c1d7e2b84455aa 0x99ef01b2c3d4e5f60718", "long_words"),
        ("fi", "epäjärjestelmällisyydellään tietokoneohjelmistosuunnittelija", None),
        ("th", "เมื่อวานฉันอ่านหนังสือที่ห้องสมุดกับเพื่อน", None),
        ("zh", "昨天我和朋友一起在图书馆看书直到很晚才回家", None),
    ],
)
def test_the_length_of_words_matters_where_words_have_spaces(lang, text, reason):
    lengths = WordLength(PerLanguage(3.0), PerLanguage(10, {"fi": None}))
    assert lengths.reason_to_drop(Document(lang, (text,))) == reason


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("if (x) { return y }", "code"),
        ("<div class=main>", "code"),
        ("Lorem ipsum dolor", "placeholder"),
        ("We use cookies to make this site better. Accept?", "notice"),
        ("Wir verwenden Cookies. Mehr erfahren", "notice"),
        ("本サイトではクッキーを使用しています", "notice"),
        ("Enable JavaScript to go on", "notice"),
        ("© 2019 Alle Rechte vorbehalten", "copyright"),
        ("(c) 2021 wszelkie prawa zastrzeżone", "copyright"),
        ("Teilen: Facebook Twitter WhatsApp", "share"),
        ("分享到 微信 微博", "share"),
        ("Home | Products | Contact", "navigation"),
        ("Start » Bøker » Barn", "navigation"),
        ("read it at https://example.org/a/very/long/path/to/the/page.html", "link"),
        ("He read the licence: © means that somebody owns the text, and so he asked first.", None),
        ("« Viens », dit-elle, « il est tard » ?", None),
        ("Twitter was down again.", None),
        ("Πού πας;", None),  # a question in Greek
        ("Either tea / coffee / milk will do.", None),
        ("The page https://example.org/a explains in detail how the mill was repaired.", None),
        ("Flumen ipsum ad mare fluit.", None),
        ("ቤቱ ትልቅ ነው።", None),
    ],
)
def test_a_line_by_itself(line, kind):
    assert boilerplate_kind(line) == kind


def test_runs_of_short_lines_are_menus_and_single_ones_headings():
    body = "The mill stands where two streams meet, and has done so for a long time."
    menu = ("Home", "About us", "Our shop", "Contact")
    edit = Boilerplate(PerLanguage(True))
    document = Document("en", ("The mill", body, *menu, body, "The end"))
    assert edit.edit(document).lines == ("The mill", body, body, "The end")
    assert edit.counts == {("en", "menu_line"): 4}
    for kept in (
        (body, *menu[:3], body),  # three are a list
        ('"Who is there?"', "Nobody.", "Really?", "Go away!", "No."),  # dialogue
        ("कौन है?", "कोई नहीं।", "सच में?", "जाओ।", "नहीं।"),
        ("谁在那里？", "没有人。", "真的吗？", "走开！", "不。"),
    ):
        assert edit.edit(Document("en", kept)).lines == kept


def test_menus_are_found_without_spaces_too():
    body = "磨坊建在两条小溪汇合的地方，春天磨坊主打开两道闸门，水车从清晨转到黄昏。"
    edit = Boilerplate(PerLanguage(True))
    lines = ("首页", "关于我们", "联系方式", "产品中心", body)
    assert edit.edit(Document("zh", lines)).lines == (body,)


def test_boilerplate_can_be_left_in_one_language():
    edit = Boilerplate(PerLanguage(True, {"fi": False}))
    lines = ("Home | Products | Contact",)
    assert edit.edit(Document("fi", lines)).lines == lines
    assert edit.edit(Document("en", lines)).lines == ()
    assert edit.counts == {("en", "navigation_line"): 1}
