import json

import pytest
from megaxlm_data.inspect import inspect, render
from megaxlm_data.pipeline import build

from megaxlm.config.data_build import DataBuildConfig
from megaxlm.data.shards import Shard, read_index, tokenizer_path
from megaxlm.data.tokenizer import Tokenizer
from megaxlm.errors import UserError


@pytest.fixture(scope="module")
def directory(tmp_path_factory, make_corpus, make_lines, build_model):
    raw = tmp_path_factory.mktemp("inspect")
    (raw / "en.txt").write_text(make_corpus("en", 400))
    (raw / "ru.txt").write_text(make_corpus("ru", 60))
    (raw / "zh.txt").write_text("\n\n".join("你好世界" * n for n in range(5, 12)))
    rows = zip(make_lines("en", 50, 3), make_lines("ru", 50, 3), strict=True)
    (raw / "p.tsv").write_text("\n".join("\t".join(row) for row in rows))
    config = DataBuildConfig(
        output=raw / "out",
        corpora=[{"lang": x, "paths": [str(raw / f"{x}.txt")]} for x in ("en", "ru", "zh")],
        bitext=[{"langs": ["en", "ru"], "tsv": [str(raw / "p.tsv")]}],
        filters={"preset": "none"},  # the Chinese says one thing over and over
        tokenizer={"model": build_model},
        validation_fraction=0.1,
        workers=1,
    )
    build(config, progress=False)
    return config.output


def by_name(report, split="train"):
    return {subset.name: subset for subset in report.subsets if subset.split == split}


def test_counts_are_those_of_the_shards(directory):
    report = inspect(directory)
    index = read_index(directory)
    tokenizer = Tokenizer(tokenizer_path(directory))
    for subset in index.subsets:
        shown = by_name(report, subset.split)[subset.name]
        assert (shown.documents, shown.tokens) == (subset.rows, subset.tokens)
        shard = Shard(directory, subset.shards[0], subset.is_bitext)
        for language, (values, offsets) in zip(shown.languages, shard.sides, strict=True):
            texts = [
                tokenizer.decode(values[a:b].tolist())
                for a, b in zip(offsets[:-1], offsets[1:], strict=True)
            ]
            assert language.tokens == len(values)
            assert language.unknown_rate == pytest.approx((values == 3).mean())
            if language.lang == "zh":
                continue
            assert language.text_bytes == sum(len(text.encode()) for text in texts)
            assert language.tokens_per_char == pytest.approx(len(values) / sum(map(len, texts)))
            words = sum(len(text.split()) for text in texts)
            assert language.tokens_per_word == pytest.approx(len(values) / words)


def test_a_script_without_spaces_has_no_words_and_unknown_text_shows(directory):
    (chinese,) = by_name(inspect(directory))["zh"].languages
    assert chinese.tokens_per_word is None
    assert chinese.unknown_rate > 0.4


def test_sampling_shares_and_epochs(directory):
    for alpha in (0.0, 0.3, 1.0):
        report = inspect(directory, alpha, tokens=1_000_000)
        subsets = [s for s in by_name(report).values() if not s.is_bitext]
        weights = [s.tokens**alpha for s in subsets]
        for subset, weight in zip(subsets, weights, strict=True):
            assert subset.sampling_share == pytest.approx(weight / sum(weights))
            assert subset.epochs == pytest.approx(1e6 * subset.sampling_share / subset.tokens)
    assert all(s.epochs == pytest.approx(1) for s in by_name(inspect(directory, 1.0)).values())
    assert by_name(inspect(directory))["en-ru"].sampling_share == 1
    assert all(s.epochs is None for s in by_name(inspect(directory), "validation").values())


@pytest.mark.parametrize("alpha", [-0.1, 1.5, float("nan")])
def test_an_exponent_that_no_sampling_has_is_refused(directory, alpha):
    with pytest.raises(UserError, match="--alpha .*: must be from 0"):
        inspect(directory, alpha=alpha)


def test_json_and_table(directory):
    report = inspect(directory)
    content = json.loads(report.to_json())
    assert [s["name"] for s in content["subsets"] if s["split"] == "train"] == [
        "en",
        "ru",
        "zh",
        "en-ru",
    ]
    assert content["cleaning"]["en"]["read"] == 400
    shown = render(report)
    for title in ("train: documents", "train: pairs", "validation: documents"):
        assert title in shown
    (english,) = [line for line in shown.splitlines() if line.split()[:1] == ["en"]][:1]
    assert f"{by_name(report)['en'].tokens:,}" in english
    assert "share a=0.3" in shown
