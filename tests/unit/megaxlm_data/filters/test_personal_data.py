import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from megaxlm_data.document import Document, Pair
from megaxlm_data.filters import personal_data, phones
from megaxlm_data.filters.base import PerLanguage
from megaxlm_data.filters.personal_data import MaskPersonalData, mask_personal_data
from megaxlm_data.filters.phones import country_of, find_phones

from megaxlm.config.data_filters import PersonalDataConfig

ALL = PersonalDataConfig()


def masked(text, lang="en", config=ALL):
    return mask_personal_data(text, lang, config)[0]


@pytest.mark.parametrize(
    ("lang", "text", "expected"),
    [
        ("en", "Write to ann.o-hara+list@mail.example.org.", "Write to <email>."),
        ("zh", "请联系foo@example.com谢谢", "请联系<email>谢谢"),
        ("ru", "пишите на мастер@пример.рф!", "пишите на <email>!"),
        ("de", "Post an info@mühle.example.de", "Post an <email>"),
        ("bn", "চিঠি security@example.com-এ", "চিঠি <email>-এ"),
        ("en", "call +49 30 901820 or 0049 30 901820", "call <phone> or <phone>"),
        ("en", "(202) 456-1111, 202-456-1111", "<phone>, <phone>"),
        ("fr", "Tél. 01 42 68 53 00.", "Tél. <phone>."),
        ("zh", "电话010-62332233。", "电话<phone>。"),
        ("ja", "電話は03-3580-3311です", "電話は<phone>です"),
        ("ru", "тел. 8 (495) 606-36-02", "тел. <phone>"),
        ("qqq", "in any language +255 22 211 6898", "in any language <phone>"),
        ("en", "card 4111 1111 1111 1111 or 4111111111111111", "card <card> or <card>"),
        ("en", "1 4111-1111-1111-1111", "1 <card>"),
        ("en", "3782 822463 10005", "<card>"),
        ("de", "IBAN DE89 3704 0044 0532 0130 00 BIC", "IBAN <iban> BIC"),
        ("en", "to GB82WEST12345698765432", "to <iban>"),
        ("en", "from 93.184.216.34 at noon", "from <ip> at noon"),
        ("en", "and 2001:4860:4860::8888, too", "and <ip>, too"),
        ("zh", "服务器93.184.216.34已停", "服务器<ip>已停"),
    ],
)
def test_personal_data_is_masked(lang, text, expected):
    assert masked(text, lang) == expected


@pytest.mark.parametrize(
    ("lang", "text"),
    [
        ("en", "on 2021-03-04, 04/05/2021 and 12.03.2021 at 12:30:45"),
        ("de", "von 1990-2000, 1 000 000 Einwohner, 1.234.567,89 Euro"),
        ("ko", "프리드리히 (1688-1740) 재위 1713-1740"),
        ("vi", "ông (1900 - 2001) là"),
        ("en", "$1234567 and 12345678% and 3.14159265358979"),
        ("my", "0.98879766 ဖြစ်ပါလိမ့်"),
        ("en", "ISBN 978-3-16-148410-0, ISBN 3-16-148410-0, ISSN 0378-5955"),
        ("en", "version 1.2.3.4, enzyme 2.4.1.16, section 10.1.2.3"),
        ("en", "192.168.100.14, 127.0.0.1, 255.255.255.0, 224.0.10.16, 300.20.10.40"),
        ("en", "4111 1111 1111 1112"),  # wrong check digit
        ("en", "9780306406157, 1700000000000"),
        ("en", "id 2024561111"),  # as likely an identifier
        ("en", "TV20 THE NEW SHOW TONIGHT IS GOOD"),
        ("en", "DE89 3704 0044 0532 0130 01"),  # wrong check digits
        ("en", "std::cout << a::b at 10:20:30:40:50:60"),
        ("en", "@handle, a@b, me@home.1, price@ 5.00"),
        ("hi", "१९८७ में १,२५,००० लोग"),
        ("en", "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16"),
    ],
)
def test_other_numbers_and_signs_stay(lang, text):
    assert masked(text, lang) == text


def test_kinds_can_be_left_and_placeholders_chosen():
    config = PersonalDataConfig(emails="[mail]", phones=None)
    text = "a.b@example.org, +49 30 901820, 93.184.216.34"
    assert masked(text, config=config) == "[mail], +49 30 901820, <ip>"


def test_documents_and_both_sides_are_masked_and_counted():
    mask = MaskPersonalData(PerLanguage(ALL, {"fi": None}))
    lines = ("mail a@example.org", "or b@example.org", "call +49 30 901820")
    assert mask.edit(Document("en", lines)).lines == ("mail <email>", "or <email>", "call <phone>")
    pair = Pair(("en", "de"), "to a@example.org", "an a@example.org")
    assert mask.edit(pair) == Pair(("en", "de"), "to <email>", "an <email>")
    finnish = Document("fi", lines)
    assert mask.edit(finnish) is finnish
    assert mask.edit(Pair(("en", "fi"), "a@example.org", "a@example.org")).target != "<email>"
    assert mask.counts == {
        ("en", "masked_email"): 2,
        ("en", "masked_phone"): 1,
        ("en-de", "masked_email"): 2,
        ("en-fi", "masked_email"): 1,
    }


@pytest.mark.parametrize(
    ("lang", "country"),
    [("de", "DE"), ("pt", "BR"), ("pt-PT", "PT"), ("sw", "TZ"), ("qqq", None), ("zz-", None)],
)
def test_the_country_of_a_language(lang, country):
    assert country_of(lang) == country


PIECES = st.sampled_from(
    ["a", "Z", "é", "文", "@", "@b.co", ".", "-", "+", " ", "\n", "/", "(", ")", ":", "::", "_"]
    + ["1", "٤", "00", "4111 1111 1111 1111", "4111111111111111", "DE89370400440532013000"]
    + ["93.184.216.34", "2001:4860:4860::8888", "+49 30 901820", "01 42 68 53 00", "x@y.org"]
)


@settings(max_examples=300, deadline=None)
@given(st.lists(PIECES, max_size=12).map("".join), st.sampled_from(["en", "fr", "zh"]))
def test_masking_is_idempotent_and_never_makes_text_longer_than_its_masks(text, lang):
    once, counts = mask_personal_data(text, lang, ALL)
    assert len(once) <= len(text) + sum(counts.values()) * len("<email>")
    assert once.count("\n") == text.count("\n")
    assert mask_personal_data(once, lang, ALL) == (once, {})


ADVERSARIAL = ["a", "1", "1 ", "a@", "a@b.", "a.", "1.", "1-", "A1", "DE89", "12:", "2001:", "(0"]


@pytest.mark.parametrize("piece", ADVERSARIAL)
def test_the_characters_a_pattern_looks_at_grow_with_the_text_and_no_faster(piece):
    """Sums, over every search, how far a match or a failed start can reach: no clock needed."""
    text = piece * 20_000
    patterns = (
        personal_data._EMAIL,
        personal_data._UNICODE_EMAIL,
        personal_data._IBAN,
        personal_data._CARD,
        personal_data._IPV4,
        personal_data._IPV6,
        phones._CANDIDATE,
    )
    for pattern in patterns:
        looked_at, at = 0, 0
        while match := pattern.search(text, at):
            looked_at += len(match.group())
            at = match.start() + 1  # as if every check failed
        assert looked_at <= 60 * len(text)


def test_no_pattern_backtracks():
    for pattern in (personal_data._EMAIL, personal_data._UNICODE_EMAIL):
        unbounded = re.findall(r"[+*](?!\+)", re.sub(r"\[[^\]]*\]", "", pattern.pattern))
        assert all(part == "+" for part in unbounded)
        assert "++" in pattern.pattern
    for pattern in (
        personal_data._IBAN,
        personal_data._CARD,
        personal_data._IPV4,
        personal_data._IPV6,
        phones._CANDIDATE,
    ):
        assert not re.search(r"[*+]", re.sub(r"\[[^\]]*\]|\\\+", "", pattern.pattern))


def test_a_megabyte_of_nothing_is_done():
    for piece in ("a", "1", "a@", "9 ", "1.", ":"):
        text = piece * (1_000_000 // len(piece))
        assert find_phones(text, "en") == []
        assert masked(text) == text
