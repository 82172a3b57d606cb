from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from megaxlm_data.document import Document
from megaxlm_data.filters import repetition, units
from megaxlm_data.filters.base import PerLanguage
from megaxlm_data.filters.repetition import (
    RepeatedLines,
    RepeatedNgrams,
    TopNgram,
    repeated_ngram_share,
    top_ngram_share,
)
from megaxlm_data.filters.units import units_of

GOPHER = RepeatedNgrams(PerLanguage({5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.1}))
# Plain paragraphs of the kind that must not be dropped, each with a word that comes again.
GOOD = {
    "en": "The mill stands where two streams meet. In spring the miller opens both gates, and the "
    "wheel turns from dawn to dusk. By August only one of the streams still carries water.",
    "fi": "Mylly seisoo kahden puron yhtymäkohdassa. Keväällä mylläri avaa molemmat luukut, ja "
    "pyörä pyörii aamusta iltaan. Elokuussa vettä virtaa enää toisessa purossa.",
    "th": "โรงสีตั้งอยู่ตรงที่ลำธารสองสายไหลมาพบกัน ในฤดูใบไม้ผลิเจ้าของโรงสีเปิดประตูน้ำทั้งสองบาน "
    "และกังหันหมุนตั้งแต่เช้าจนค่ำ พอถึงเดือนสิงหาคมก็เหลือน้ำอยู่ในลำธารเพียงสายเดียว",
    "zh": "磨坊建在两条小溪汇合的地方。春天，磨坊主打开两道闸门，水车从清晨转到黄昏。到了八月，"
    "只有一条小溪里还有水，于是他每天只磨半天面粉。",
    "ja": "水車小屋は二本の小川が出会う場所に立っている。春になると主人は二つの水門を開け、水車は"
    "朝から晩まで回る。八月には片方の川にしか水が残らない。",
    "sw": "Kinu kipo mahali ambapo vijito viwili hukutana. Wakati wa masika mwenye kinu hufungua "
    "milango yote miwili, na gurudumu huzunguka tangu asubuhi hadi jioni.",
}
SPAM = {
    "en": "buy cheap watches online now best price " * 6,
    "fi": "osta halvat kellot netistä heti parhaaseen hintaan " * 6,
    "th": "ซื้อนาฬิการาคาถูกออนไลน์ตอนนี้" * 6,
    "zh": "立即在线购买便宜手表，价格最优惠。" * 6,
    "ja": "今すぐオンラインで安い時計を買う。" * 6,
    "sw": "nunua saa za bei nafuu mtandaoni sasa hivi " * 6,
}


def of(text, lang="en"):
    return Document(lang, (text.strip(),))


@pytest.mark.parametrize(("lang", "text"), GOOD.items())
def test_plain_text_stays_under_the_limits_of_gopher(lang, text):
    assert GOPHER.reason_to_drop(of(text, lang)) is None
    top = TopNgram(PerLanguage({2: 0.2, 3: 0.18, 4: 0.16}))
    assert top.reason_to_drop(of(text, lang)) is None


@pytest.mark.parametrize(("lang", "text"), SPAM.items())
def test_a_slogan_over_and_over_is_dropped_in_any_script(lang, text):
    assert GOPHER.reason_to_drop(of(text, lang)) == "repeated_5grams"
    default = RepeatedNgrams(PerLanguage({5: 0.7}))
    assert default.reason_to_drop(of(text, lang)) == "repeated_5grams"


def test_the_top_ngram_is_weighed_by_its_length():
    text = of("ab cd ef ab cd gh ab cd ij")
    assert top_ngram_share(units_of(text.text), 2) == 12 / 18
    assert top_ngram_share(units_of(text.text), 3) == 0
    assert TopNgram(PerLanguage({2: 0.6, 3: 0.1})).reason_to_drop(text) == "top_2gram"
    assert TopNgram(PerLanguage({2: 0.7, 3: 0.1})).reason_to_drop(text) is None
    assert TopNgram(PerLanguage({})).reason_to_drop(of("a a a a")) is None


def test_a_repeated_ngram_counts_from_its_second_copy_on():
    once, twice = "one two three four five", "one two three four five six seven"
    assert repeated_ngram_share(units_of(once), 5) == 0
    text = f"{twice} but {twice}"
    words = len(twice.replace(" ", ""))
    assert repeated_ngram_share(units_of(text), 5) == words / (2 * words + 3)
    assert repeated_ngram_share(units_of(text), 7) == words / (2 * words + 3)
    assert repeated_ngram_share(units_of(text), 8) == 0


def test_a_longer_ngram_can_be_the_one_over_its_limit():
    limits = RepeatedNgrams(PerLanguage({5: 0.9, 7: 0.3}))
    text = "one two three four five six seven"
    assert limits.reason_to_drop(of(f"{text} but {text}")) == "repeated_7grams"
    assert limits.reason_to_drop(of(f"{text} but {text[:-6]} ten")) is None


def test_limits_differ_by_language():
    song = of("row the boat and row the boat " * 3, "sw")
    limits = RepeatedNgrams(PerLanguage({5: 0.2}, {"sw": {}}))
    assert limits.reason_to_drop(song) is None
    assert limits.reason_to_drop(of(song.text)) == "repeated_5grams"


def test_repeated_lines_count_by_number_and_by_length():
    lines = RepeatedLines(PerLanguage(0.5), PerLanguage(1.0))
    assert lines.reason_to_drop(Document("en", ("a", "a", "a", "b"))) is None
    assert lines.reason_to_drop(Document("en", ("a", "a", "a", "a", "b"))) == "repeated_lines"
    chars = RepeatedLines(PerLanguage(1.0), PerLanguage(0.4))
    assert chars.reason_to_drop(Document("en", ("ab", "ab", "cdefgh"))) is None
    long = Document("en", ("abcdefgh", "abcdefgh", "ab"))
    assert chars.reason_to_drop(long) == "repeated_line_chars"


@pytest.mark.parametrize(
    ("text", "words", "per_word"),
    [
        ("ab cd\u00a0 ef\n", ["ab", "cd", "ef"], 1),
        ("", [], 1),
        ("我爱GPU 吗", ["我", "爱", "GPU", "吗"], 1),  # half of it
        ("我们都爱GPU", ["我", "们", "都", "爱", "GPU"], 2),
        ("ที่นี่", ["ท", "ี", "่", "น", "ี", "่"], 4),
        ("한국어 책", ["한국어", "책"], 1),
    ],
)
@pytest.mark.parametrize("compiled", [True, False])
def test_units_are_words_or_characters(text, words, per_word, compiled, monkeypatch):
    if not compiled:
        monkeypatch.setattr(units, "_compiled", lambda: None)
    split = units_of.__wrapped__(text)
    assert split.per_word == per_word
    assert split.ends.tolist() == [len("".join(words[: n + 1])) for n in range(len(words))]
    assert len(set(split.ids.tolist())) == len(set(words))


WORDS = st.lists(st.sampled_from(["a", "bc", "def", "我", "ที่", "-"]), max_size=60)


def reference_shares(text, n):
    """Both shares by their definition, with strings."""
    parts = units._CHARACTER_OR_WORD.findall(text)
    length = n * units_of(text).per_word
    total = sum(map(len, parts))
    runs = [tuple(parts[i : i + length]) for i in range(len(parts) - length + 1)]
    counts = Counter(runs)
    top = max((len("".join(r)) * c for r, c in counts.items() if c > 1), default=0)
    covered, seen = set(), set()
    for start, run in enumerate(runs):
        if run in seen:
            covered.update(range(start, start + length))
        seen.add(run)
    return top / max(1, total), sum(len(parts[i]) for i in covered) / max(1, total)


@given(WORDS, st.integers(1, 6), st.booleans())
def test_shares_are_what_their_definition_says(parts, n, compiled):
    text = " ".join(parts)
    with pytest.MonkeyPatch.context() as patch:
        if not compiled:
            patch.setattr(units, "_compiled", lambda: None)
            patch.setattr(repetition, "_compiled", lambda: None)
        split = units_of.__wrapped__(text)
        shares = top_ngram_share(split, n), repeated_ngram_share(split, n)
    assert shares == reference_shares(text, n)
