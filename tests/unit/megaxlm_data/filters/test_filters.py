import pytest
from megaxlm_data.document import Document, Pair
from megaxlm_data.filters.base import Filter, PerLanguage, TextFilter, apply_steps, total_drops
from megaxlm_data.filters.length import DocumentLength, PairLength, PairLengthRatio


def document(*lines):
    return Document("en", lines)


def pair(source, target):
    return Pair(("en", "fr"), source, target)


def limits(minimum, maximum):
    return PerLanguage(minimum), PerLanguage(maximum)


def test_document_length_counts_the_encoded_text():
    short = DocumentLength(*limits(5, 8))
    assert short.reason_to_drop(document("ab", "cd")) is None  # "ab cd"
    assert short.reason_to_drop(document("ab", "c")) == "too_short"
    assert short.reason_to_drop(document("abcd", "efgh")) == "too_long"
    assert DocumentLength(*limits(0, 8)).reason_to_drop(document()) == "too_short"


def test_filters_of_pairs_keep_or_give_a_reason():
    length = PairLength(*limits(2, 5))
    assert length.reason_to_drop(pair("", "abc")) == "empty_side"
    assert length.reason_to_drop(pair("a", "abc")) == "too_short"
    assert length.reason_to_drop(pair("abc", "abcdef")) == "too_long"
    assert length.reason_to_drop(pair("abc", "你好")) is None
    ratio = PairLengthRatio(PerLanguage(2))
    assert ratio.reason_to_drop(pair("abc", "你好")) is None  # 3 bytes and 6
    assert ratio.reason_to_drop(pair("abc", "你好吗")) == "length_ratio"


def test_the_base_class_counts_drops_by_language_and_reason():
    filters = [DocumentLength(*limits(5, 8))]
    reasons = [apply_steps(filters, document(text))[1] for text in ("abcdef", "a", "b", "x" * 9)]
    assert reasons == [None, "too_short", "too_short", "too_long"]
    assert total_drops(filters, "en") == {"too_short": 2, "too_long": 1}
    assert total_drops(filters, "fr") == {}


def test_a_setting_may_differ_by_language():
    length = DocumentLength(PerLanguage(5, {"zh": 2}), PerLanguage(8))
    assert length.reason_to_drop(Document("en", ("你好吗",))) == "too_short"
    assert length.reason_to_drop(Document("zh", ("你好吗",))) is None


@pytest.mark.parametrize("name", ["en-fr", "fr-en"])
def test_a_setting_of_a_pair_holds_in_both_directions(name):
    ratio = PairLengthRatio(PerLanguage(2.0, {name: 5.0}))
    assert ratio.reason_to_drop(pair("abc", "你好吗")) is None
    assert ratio.reason_to_drop(Pair(("en", "de"), "abc", "你好吗")) == "length_ratio"


def test_a_text_filter_looks_at_each_side_in_its_own_language():
    class Shout(TextFilter):
        def reason_against(self, text, lang):
            return f"shouts_{lang}" if text.isupper() else None

    shout = Shout()
    assert isinstance(shout, Filter)
    assert shout.reason_to_drop(document("AB", "CD")) == "shouts_en"
    assert shout.reason_to_drop(document("AB", "cd")) is None
    assert shout.reason_to_drop(pair("ab", "CD")) == "shouts_fr"
    assert shout.reason_to_drop(pair("AB", "CD")) == "shouts_en"
    assert shout.reason_to_drop(pair("ab", "cd")) is None
