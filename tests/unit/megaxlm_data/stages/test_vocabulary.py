from collections import Counter

import numpy as np
import pytest
from megaxlm_data.stages import vocabulary
from megaxlm_data.stages.vocabulary import MAX_REPEATS, _copies

from megaxlm.config.data_build import DataBuildConfig


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
