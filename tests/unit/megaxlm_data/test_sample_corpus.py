"""The corpus as data: distinct, deterministic, held out, of any size, in its own script."""

import hashlib
import unicodedata
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest
from megaxlm_data.sample import (
    LANGUAGES,
    documents,
    held_out,
    num_sentences,
    parallel,
    sentences,
    write_corpus,
)
from megaxlm_data.sample.concepts import LEXICONS, LexiconSize
from megaxlm_data.sample.corpus import DocumentStream, HeldOutStream
from megaxlm_data.sample.meanings import template_spaces

from megaxlm.errors import UserError

_SCRIPTS = {"ru": "CYRILLIC", "ar": "ARABIC", "zh": "CJK", "hi": "DEVANAGARI"}


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A lexicon so small that a test can see all of it."""
    size = LexiconSize(2, 1, 12, 3, 2, 1, 1, 2, 2, 4)
    monkeypatch.setitem(LEXICONS, "tiny", size)
    yield "tiny"
    template_spaces.cache_clear()


def test_nine_languages() -> None:
    assert LANGUAGES == ("en", "fr", "de", "es", "ru", "ar", "zh", "hi", "sw")


def test_sizes() -> None:
    assert num_sentences("small") > 400_000
    assert num_sentences("full") > 10_000_000
    assert HeldOutStream("small", 0).size > 5_000


@pytest.mark.parametrize("lexicon", ["small", "full"])
def test_sentences_are_distinct_in_every_language(lexicon: str) -> None:
    columns = list(zip(*parallel(LANGUAGES, 25_000, lexicon=lexicon), strict=True))
    for lang, column in zip(LANGUAGES, columns, strict=True):
        assert len(set(column)) == 25_000, lang


def test_every_meaning_once_then_again_in_another_order(tiny: str) -> None:
    size = num_sentences(tiny)
    assert 2_000 < size < 20_000
    for lang in LANGUAGES:
        rows = list(sentences(lang, 2 * size, lexicon=tiny))
        assert len(set(rows[:size])) == size, lang
        assert set(rows[size:]) == set(rows[:size])
        assert rows[size:] != rows[:size]


def test_held_out_is_nowhere_else(tiny: str) -> None:
    count = HeldOutStream(tiny, 0).size
    size = num_sentences(tiny)
    assert 0.01 < count / (count + size) < 0.03
    for lang in LANGUAGES:
        kept = {row for (row,) in held_out([lang], count, seed=7, lexicon=tiny)}
        assert len(kept) == count
        assert kept.isdisjoint(sentences(lang, size, seed=3, lexicon=tiny))
        for document in documents(lang, 400, seed=5, lexicon=tiny):
            assert kept.isdisjoint(document)


def test_held_out_of_the_real_lexicon_is_nowhere_else() -> None:
    kept = {row for (row,) in held_out(["de"], HeldOutStream("small", 0).size, lexicon="small")}
    assert kept.isdisjoint(sentences("de", 50_000, lexicon="small"))
    assert all(kept.isdisjoint(d) for d in documents("de", 3_000, lexicon="small"))


def test_held_out_set_does_not_depend_on_the_seed(tiny: str) -> None:
    count = HeldOutStream(tiny, 0).size
    one, two = (list(held_out(["sw", "en"], count, seed, tiny)) for seed in (0, 1))
    assert one != two
    assert set(one) == set(two)


def test_same_seed_same_text_and_another_seed_another_order() -> None:
    assert list(sentences("hi", 500, seed=4)) == list(sentences("hi", 500, seed=4))
    assert list(sentences("hi", 500, seed=4)) != list(sentences("hi", 500, seed=5))
    assert list(documents("fr", 20, seed=4)) == list(documents("fr", 20, seed=4))
    assert list(documents("fr", 20, seed=4)) != list(documents("fr", 20, seed=5))


def test_start_skips() -> None:
    everything = list(sentences("ru", 300, seed=2))
    assert list(sentences("ru", 100, seed=2, start=200)) == everything[200:]
    far = num_sentences("full") * 5 + 11
    assert len(list(sentences("ru", 3, seed=2, start=far))) == 3


def test_parallel_columns_are_the_sentences() -> None:
    rows = list(parallel(["zh", "es"], 200, seed=9, lexicon="small", start=50))
    assert [row[0] for row in rows] == list(sentences("zh", 200, 9, "small", 50))
    assert [row[1] for row in rows] == list(sentences("es", 200, 9, "small", 50))


@pytest.mark.parametrize("lang", LANGUAGES)
def test_script(lang: str) -> None:
    script = _SCRIPTS.get(lang, "LATIN")
    stop = {"zh": "。", "hi": "।"}.get(lang, ".")
    for sentence in islice(sentences(lang, 2_000), 2_000):
        assert sentence == unicodedata.normalize("NFC", sentence)
        assert sentence.endswith(stop)
        assert sentence.count(stop) == 1
        assert "  " not in sentence
        assert sentence == sentence.strip()
        for character in sentence:
            if character not in " '-,.।。":
                assert unicodedata.name(character).startswith(script), (sentence, character)


def test_documents_are_short_and_share_a_topic() -> None:
    lengths = set()
    stream = DocumentStream("full", 0, "en")
    for index in range(300):
        meanings = list(stream(index))
        lengths.add(len(meanings))
        about_person = {m.subject for m in meanings}
        about_place = {m.place for m in meanings}
        assert about_person == {-1} or len(about_person) == 1
        assert about_person != {-1} or len(about_place) == 1
        assert len(set(meanings)) == len(meanings)
    assert lengths == set(range(4, 13))


def test_documents_of_two_languages_are_not_translations() -> None:
    streams = [DocumentStream("full", 0, lang) for lang in ("en", "de")]
    first, second = ([m for d in range(100) for m in stream(d)] for stream in streams)
    assert len(set(first) & set(second)) < 10


GOLDEN = {
    "en": "6c7dc059a77fbdc4",
    "fr": "100d146e4c5e09e7",
    "de": "f5ab6a114b6c8ff3",
    "es": "ae449fda837eed74",
    "ru": "0fa008c2b4333dfc",
    "ar": "eb1781f54396fa09",
    "zh": "f81628e216e23200",
    "hi": "47ece64fc51e9f99",
    "sw": "32cc75ff2d230ac0",
}


@pytest.mark.parametrize("lang", LANGUAGES)
def test_golden(lang: str) -> None:
    """A changed word or order is a changed corpus: results made from it no longer compare."""
    text = "\n".join(sentences(lang, 1_000))
    assert hashlib.sha256(text.encode("utf-8")).hexdigest()[:16] == GOLDEN[lang]


def _read(path: Path) -> str:
    return path.read_bytes().decode("utf-8")


def test_write_corpus(tmp_path: Path) -> None:
    langs = ["en", "ar", "zh"]
    summary = write_corpus(
        tmp_path, langs, documents=40, pairs=30, retrieval=25, lexicon="small", documents_skew=0.5
    )
    assert summary["documents"] == {"en": 40, "ar": 20, "zh": 10}
    names = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    pairs = ["en-ar", "en-zh", "ar-zh"]
    assert names == (
        {f"mono/{lang}.txt" for lang in langs}
        | {f"bitext/{pair}.tsv" for pair in pairs}
        | {f"retrieval/{pair}.{lang}" for pair in pairs for lang in pair.split("-")}
    )
    text = _read(tmp_path / "mono" / "ar.txt")
    assert "\r" not in text
    blocks = text.removesuffix("\n").split("\n\n")
    assert [tuple(b.split("\n")) for b in blocks] == list(documents("ar", 20, 0, "small"))
    assert summary["sentences"]["ar"] == sum(len(b.split("\n")) for b in blocks)  # type: ignore[index]

    bitext = [_read(tmp_path / "bitext" / f"{p}.tsv").splitlines() for p in pairs]
    assert all(len(rows) == 30 and all(r.count("\t") == 1 for r in rows) for rows in bitext)
    english = [{row.split("\t")[0] for row in rows} for rows in bitext[:2]]
    assert english[0].isdisjoint(english[1])

    columns = {
        (p, lang): _read(tmp_path / "retrieval" / f"{p}.{lang}").splitlines()
        for p in pairs
        for lang in p.split("-")
    }
    assert columns["en-ar", "ar"] == columns["ar-zh", "ar"]
    rows = zip(columns["en-zh", "en"], columns["en-zh", "zh"], strict=True)
    assert list(rows) == list(held_out(["en", "zh"], 25, 0, "small"))
    assert all(len(set(column)) == 25 for column in columns.values())


def test_write_corpus_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_corpus(tmp_path / name, ["hi", "sw"], documents=10, pairs=10, retrieval=10, seed=3)
    for path in (tmp_path / "a").rglob("*.*"):
        assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes()


def test_empty_parts(tmp_path: Path) -> None:
    write_corpus(tmp_path, ["en", "fr"], documents=0, pairs=0, retrieval=0)
    assert all(p.stat().st_size == 0 for p in tmp_path.rglob("*.*"))
    assert list(sentences("en", 0)) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"languages": ["en", "xx"]}, "unknown language 'xx'; choose from en, fr"),
        ({"languages": ["en", "en"]}, "named twice"),
        ({"languages": []}, "no languages"),
        ({"lexicon": "huge"}, "unknown lexicon 'huge'; choose from small, full"),
        ({"documents": -1}, "documents is -1"),
        ({"pairs": -2}, "pairs is -2"),
        ({"retrieval": -3}, "retrieval is -3"),
        ({"retrieval": 10**9}, "holds out"),
        ({"documents_skew": 0.0}, "0 < skew <= 1"),
    ],
)
def test_what_a_user_can_get_wrong(tmp_path: Path, change: dict[str, object], words: str) -> None:
    arguments = {"languages": ["en", "fr"], "documents": 1, "pairs": 1, "retrieval": 1, **change}
    with pytest.raises(UserError) as error:
        write_corpus(tmp_path / "out", **arguments)  # type: ignore[arg-type]
    assert words in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_errors_come_with_the_call_not_with_the_first_sentence() -> None:
    with pytest.raises(UserError, match="unknown language"):
        sentences("xx", 1)
    with pytest.raises(UserError, match="start is -1"):
        parallel(["en"], 1, start=-1)
    with pytest.raises(UserError, match="unknown lexicon"):
        documents("en", 1, lexicon="medium")


def test_unwritable_output_keeps_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write .*file/mono/en.txt"):
        write_corpus(tmp_path / "file", ["en"], documents=1, pairs=0, retrieval=0)

    write_corpus(tmp_path, ["en"], documents=2, pairs=0, retrieval=0)
    before = _read(tmp_path / "mono" / "en.txt")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("megaxlm_data.sample.corpus.os.replace", full)
    with pytest.raises(UserError, match="No space left on device"):
        write_corpus(tmp_path, ["en"], documents=9, pairs=0, retrieval=0)
    assert _read(tmp_path / "mono" / "en.txt") == before
    assert [p.name for p in (tmp_path / "mono").iterdir()] == ["en.txt"]
