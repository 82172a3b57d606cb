from collections import Counter

import numpy as np
import pytest
from megaxlm_data.stages import vocabulary
from megaxlm_data.stages.vocabulary import MAX_REPEATS, _copies

from megaxlm.config.data_build import DataBuildConfig
from megaxlm.errors import UserError


@pytest.mark.parametrize("rate", [0.0, 0.05, 0.5, 1.0, 2.3])
def test_a_line_is_drawn_as_often_as_its_rate_says(rate):
    rng = np.random.default_rng(1)
    ids = rng.integers(0, 2**64 - 1, 5_000, dtype=np.uint64)
    lines = rng.integers(1, 20, 5_000).astype(np.uint32)
    copies = _copies(ids, lines, rate, key=3)
    assert len(copies) == lines.sum()
    assert copies.mean() == pytest.approx(rate, abs=0.01)
    assert set(np.unique(copies)) <= {int(rate), int(rate) + 1}


def test_draws_depend_on_the_document_and_the_seed_but_not_on_the_block():
    ids = np.arange(100, dtype=np.uint64)
    lines = np.full(100, 3, np.uint32)
    whole = _copies(ids, lines, 0.5, key=1)
    assert np.array_equal(whole[150:], _copies(ids[50:], lines[50:], 0.5, key=1))
    assert not np.array_equal(whole, _copies(ids, lines, 0.5, key=2))


def test_the_sample_is_balanced_and_leaves_validation_out(
    tmp_path, monkeypatch, make_corpus, build_model
):
    from megaxlm_data.pipeline import build
    from megaxlm_data.tokenizer import install_tokenizer

    documents = {"en": 1500, "ru": 150, "hi": 3}
    for lang, count in documents.items():
        (tmp_path / f"{lang}.txt").write_text(make_corpus(lang, count))
    drawn = []

    def train(sentences, config, out_dir, **_):
        drawn.extend(sentences)
        install_tokenizer(build_model, out_dir)

    monkeypatch.setattr(vocabulary, "train_tokenizer", train)
    config = DataBuildConfig(
        output=tmp_path / "out",
        corpora=[{"lang": x, "paths": [str(tmp_path / f"{x}.txt")]} for x in documents],
        filters={"min_document_chars": 1},
        tokenizer={"max_sentences": 1_000, "alpha": 0.3, "vocab_size": 600},
        validation_fraction=0.2,
        workers=1,
    )
    index = build(config, progress=False)
    lang_of = {}
    for lang in documents:
        for line in (tmp_path / f"{lang}.txt").read_text().split("\n"):
            if line:
                lang_of[line] = lang
    found = Counter(lang_of[sentence] for sentence in drawn)
    available = Counter(lang_of.values())
    assert max(Counter(s for s in drawn if lang_of[s] == "hi").values()) <= MAX_REPEATS
    assert found["hi"] == MAX_REPEATS * sum(1 for x in lang_of.values() if x == "hi")
    size = {x: index.subset("train", x).text_bytes for x in ("en", "ru")}
    expected = (size["en"] / size["ru"]) ** 0.3
    assert found["en"] / found["ru"] == pytest.approx(expected, rel=0.15)
    assert sum(found.values()) == pytest.approx(1_000, rel=0.06)
    assert available["en"] > 3 * found["en"]
    validation = _validation_lines(config, tmp_path, "en")
    assert validation and not validation & set(drawn)


def _validation_lines(config, tmp_path, lang):
    import xxhash

    below = int(config.validation_fraction * 2**64)
    lines = set()
    for document in (tmp_path / f"{lang}.txt").read_text().strip().split("\n\n"):
        if xxhash.xxh3_64_intdigest(document.replace("\n", " ").encode()) < below:
            lines |= set(document.split("\n"))
    return lines


LANGS = {"en": 300, "ru": 300, "hi": 300}


@pytest.fixture
def built(tmp_path, monkeypatch, make_corpus, build_model):
    """`built(tokenizer=..., **)`: what was drawn, by language, for these settings."""
    from megaxlm_data.pipeline import build
    from megaxlm_data.tokenizer import install_tokenizer

    lang_of = {}
    for lang, count in LANGS.items():
        text = make_corpus(lang, count)
        (tmp_path / f"{lang}.txt").write_text(text)
        lang_of |= dict.fromkeys(text.split("\n"), lang)

    def run(**tokenizer):
        drawn = []

        def train(sentences, config, out_dir, **_):
            drawn.extend(sentences)
            install_tokenizer(build_model, out_dir)

        monkeypatch.setattr(vocabulary, "train_tokenizer", train)
        config = DataBuildConfig(
            output=tmp_path / "out",
            corpora=[{"lang": x, "paths": [str(tmp_path / f"{x}.txt")]} for x in LANGS],
            tokenizer={"vocab_size": 600, "max_sentences": 300} | tokenizer,
            workers=1,
        )
        index = build(config, progress=False)
        return Counter(lang_of[sentence] for sentence in drawn), index

    return run


def test_languages_can_be_left_out_weighed_and_capped(built):
    found, _ = built(exclude_languages=["ru"], weights={"hi": 3.0})
    assert set(found) == {"en", "hi"}
    assert found["hi"] / found["en"] == pytest.approx(3.0 * 2.6**0.3, rel=0.35)  # 3 bytes a letter


def test_only_the_languages_named_train_and_a_cap_holds(built):
    found, _ = built(languages=["ru", "en"], max_sentences_per_language=40)
    assert set(found) == {"en", "ru"}
    for lang in found:
        assert found[lang] == pytest.approx(40, abs=20)


@pytest.mark.parametrize("key", ["languages", "exclude_languages", "weights"])
def test_a_language_without_text_is_named(built, tmp_path, key):
    value = {"sw": 2.0} if key == "weights" else ["sw"]
    with pytest.raises(UserError, match=rf"tokenizer\.{key}: there is no text of 'sw'.*en, hi, ru"):
        built(**{key: value})
    assert not (tmp_path / "out").exists(), "it shows before anything is read"
    assert built()[1].subset("train", "en") is not None


def test_more_memory_than_there_is_is_refused_before_training(built, monkeypatch, tmp_path):
    monkeypatch.setattr(vocabulary, "available_memory", lambda: 100_000_000)
    with pytest.raises(UserError, match=r"takes some 0\.2 GB .* 0\.1 GB are free .* at most \d+"):
        built()
    assert not (tmp_path / "out" / "tokenizer").exists()


def test_a_budget_of_memory_cuts_the_sample(built, monkeypatch):
    monkeypatch.setattr(vocabulary, "sample_within", lambda *_: 6_000)
    found, _ = built(max_memory_gb=0.5)
    assert 0 < sum(found.values()) < 150  # of 300; a line has some 80 bytes


def test_statistics_say_what_the_tokenizer_does_to_each_language(built, tmp_path):
    import json

    _, index = built()
    report = json.loads((tmp_path / "out" / "dataset.json").read_text())["build"]["tokenizer"]
    assert report == index.build["tokenizer"]
    assert set(report["languages"]) == set(LANGS)
    for lang in LANGS:
        mine = report["languages"][lang]
        subsets = [index.subset(split, lang) for split in ("train", "validation")]
        assert mine["tokens"] == sum(subset.tokens for subset in subsets if subset)
        # three alphabets that share nothing but the word start
        assert mine["pieces_owned"] > 0.9 * mine["pieces_used"] - 3
        assert mine["tokens_per_word"] > 1 and mine["premium"] is None


def test_new_languages_are_added_to_an_existing_tokenizer(tmp_path, make_corpus):
    import io

    import sentencepiece
    from megaxlm_data.pipeline import build

    from megaxlm.config.vocabulary_extension import read_extension
    from megaxlm.data.tokenizer import Tokenizer

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(make_corpus("en", 100).split("\n")),
        model_writer=model,
        vocab_size=200,
        pad_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    (tmp_path / "base.model").write_bytes(model.getvalue())
    for lang in ("en", "ru"):
        (tmp_path / f"{lang}.txt").write_text(make_corpus(lang, 150))

    def run(pieces):
        config = DataBuildConfig(
            output=tmp_path / f"out{pieces}",
            corpora=[{"lang": x, "paths": [str(tmp_path / f"{x}.txt")]} for x in ("en", "ru")],
            tokenizer={
                "model": tmp_path / "base.model",
                "languages": ["ru"],
                "extend": {"pieces": pieces},
            },
            workers=1,
        )
        return config, build(config, progress=False)

    config, index = run(80)
    base, extended = Tokenizer(tmp_path / "base.model"), config.output / "tokenizer"
    truth = Tokenizer(extended / "sentencepiece.bpe.model")
    assert index.vocab_size == truth.vocab_size == base.vocab_size + 80
    assert read_extension(extended).base_sha256 == base.sha256
    assert index.build["tokenizer"]["languages"]["ru"]["unknown_share"] == 0
    english = make_corpus("en", 20).split("\n")
    assert truth.encode_batch(english) == base.encode_batch(english)
    assert run(80)[1] == index
