import pytest
from hypothesis import given
from hypothesis import strategies as st
from megaxlm_data.tokenizer import sampling_quota

sizes = st.dictionaries(st.text("abc", min_size=1, max_size=3), st.integers(0, 10**12), min_size=1)


def test_shares_follow_bytes_to_the_alpha():
    quota = sampling_quota({"en": 10_000, "sw": 100}, 0.5, 1_100)
    assert quota == {"en": 1_000, "sw": 100}
    assert sampling_quota({"en": 900, "sw": 100}, 1.0, 100) == {"en": 90, "sw": 10}
    assert sampling_quota({"en": 900, "sw": 1}, 0.0, 10) == {"en": 5, "sw": 5}


def test_a_language_without_text_gets_none():
    assert sampling_quota({"en": 10, "xx": 0}, 0.0, 7) == {"en": 7, "xx": 0}
    assert sampling_quota({"xx": 0}, 0.3, 7) == {"xx": 0}
    assert sampling_quota({}, 0.3, 7) == {}


def test_what_one_cannot_give_goes_to_the_others():
    quota = sampling_quota({"a": 1, "b": 1, "c": 2}, 1.0, 100, {"a": 4, "b": 1_000, "c": 1_000})
    assert quota == {"a": 4, "b": 32, "c": 64}
    few = {"a": 4, "b": 5}
    assert sampling_quota({"a": 1, "b": 9}, 1.0, 100, few) == few


def test_a_factor_lifts_or_holds_a_language():
    factors = {"sw": 3.0, "de": 0.5, "xx": 9.0}
    sizes = {"en": 100, "sw": 100, "de": 100}
    quota = sampling_quota(sizes, 0.3, 900, factors=factors)
    assert quota == {"en": 200, "sw": 600, "de": 100}


@given(sizes, st.floats(0, 1), st.integers(0, 10**6))
def test_sum_is_exact_and_shares_are_within_one(bytes_by_lang, alpha, total):
    quota = sampling_quota(bytes_by_lang, alpha, total)
    weights = {lang: size**alpha for lang, size in bytes_by_lang.items() if size}
    assert list(quota) == list(bytes_by_lang)
    assert sum(quota.values()) == (total if weights else 0)
    for lang, weight in weights.items():
        assert quota[lang] == pytest.approx(weight / sum(weights.values()) * total, abs=1.001)


@given(sizes, st.floats(0, 1), st.integers(0, 10**4), st.data())
def test_never_more_than_there_is(bytes_by_lang, alpha, total, data):
    available = {lang: data.draw(st.integers(0, 3_000)) for lang in bytes_by_lang}
    quota = sampling_quota(bytes_by_lang, alpha, total, available)
    held = sum(available[lang] for lang, size in bytes_by_lang.items() if size)
    assert sum(quota.values()) == min(total, held)
    assert all(0 <= quota[lang] <= available[lang] for lang in quota)
