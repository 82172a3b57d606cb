import gzip

import numpy as np
import pytest
import xxhash
from megaxlm_data.pipeline import build

from megaxlm.config.data_build import DataBuildConfig
from megaxlm.data.shards import Shard, read_index, tokenizer_path
from megaxlm.data.tokenizer import Tokenizer


@pytest.fixture
def corpus(tmp_path, make_corpus, make_lines):
    """Three languages, one in two files and one compressed, a pair as TSV and one as two files."""
    raw = tmp_path / "raw"
    raw.mkdir()
    english = make_corpus("en", 300)
    (raw / "en1.txt").write_text(english)
    (raw / "en2.txt").write_text(make_corpus("en", 100, seed=1) + "\n" + english[:4000])
    (raw / "ru.txt.gz").write_bytes(gzip.compress(make_corpus("ru", 120).encode()))
    (raw / "hi.txt").write_text(make_corpus("hi", 15))
    left, right = make_lines("en", 80, 7), make_lines("ru", 80, 7)
    rows = [f"{a}\t{b}" for a, b in zip(left, right, strict=True)]
    (raw / "en-ru.tsv").write_text("\n".join([*rows, *rows[:10], "only one side\t"]) + "\n")
    (raw / "x.en").write_text("\n".join(left))
    (raw / "x.hi").write_text("\n".join(make_lines("hi", 80, 7)))
    return raw


@pytest.fixture
def config(corpus, tmp_path, build_model):
    def make(output="out", **changes):
        values = {
            "output": tmp_path / output,
            "corpora": [
                {"lang": "en", "paths": [f"{corpus}/en*.txt"]},
                {"lang": "ru", "paths": [f"{corpus}/ru.txt.gz"]},
                {"lang": "hi", "paths": [f"{corpus}/hi.txt"]},
            ],
            "bitext": [
                {"langs": ["en", "ru"], "tsv": [f"{corpus}/en-ru.tsv"]},
                {"langs": ["en", "hi"], "source": [f"{corpus}/x.en"], "target": [f"{corpus}/x.hi"]},
            ],
            "tokenizer": {"model": build_model},
            "filters": {"max_pair_length_ratio": 100},
            "validation_fraction": 0.1,
            "shard_tokens": 2_000,
            "workers": 1,
        }
        return DataBuildConfig(**{**values, **changes})

    return make


def documents(directory, split, *langs):
    """Returns {doc_id: tuple of texts} in order."""
    index = read_index(directory)
    tokenizer = Tokenizer(tokenizer_path(directory))
    subset = index.subset(split, *langs)
    found = {}
    for info in subset.shards if subset else ():
        shard = Shard(directory, info, subset.is_bitext)
        for row, doc_id in enumerate(shard.doc_ids.tolist()):
            texts = tuple(
                tokenizer.decode(values[offsets[row] : offsets[row + 1]].tolist())
                for values, offsets in shard.sides
            )
            assert doc_id not in found
            found[doc_id] = texts
    return found


def test_every_document_is_there_once_in_order_and_decodes(config, corpus):
    settings = config()
    index = build(settings, progress=False)
    assert index == read_index(settings.output)
    assert index.languages == ("en", "ru", "hi")
    text = (corpus / "en1.txt").read_text() + "\n" + (corpus / "en2.txt").read_text()
    expected = {}
    for document in text.strip().split("\n\n"):
        joined = " ".join(document.split())
        if len(joined) >= settings.filters.min_document_chars:
            expected.setdefault(xxhash.xxh3_64_intdigest(joined.encode()), (joined,))
    train = documents(settings.output, "train", "en")
    validation = documents(settings.output, "validation", "en")
    assert {**train, **validation} == expected
    assert not set(train) & set(validation)
    order = list(expected)
    assert list(train) == [i for i in order if i in train]  # the order of the input
    below = 2**64 // 10
    assert set(validation) == {i for i in order if i < below}
    assert len(index.subset("train", "en").shards) > 3
    cleaning = index.build["cleaning"]["en"]
    assert cleaning["read"] == cleaning["kept"] + cleaning["duplicates"] + sum(
        cleaning["dropped"].values()
    )
    assert cleaning["duplicates"] > 10


def test_bitext_keeps_its_sides_together(config, make_lines):
    settings = config()
    index = build(settings, progress=False)
    pairs = dict(zip(make_lines("en", 80, 7), make_lines("ru", 80, 7), strict=True))
    found = {}
    for split in ("train", "validation"):
        found |= dict(documents(settings.output, split, "en", "ru").values())
    assert found == pairs
    assert index.build["cleaning"]["en-ru"]["dropped"] == {"empty_side": 1}
    assert index.build["cleaning"]["en-ru"]["duplicates"] == 10
    assert index.subset("train", "en", "hi").rows + index.subset(
        "validation", "en", "hi"
    ).rows == len(pairs)


def test_token_counts_and_offsets_match_a_plain_encoding(config):
    settings = config()
    index = build(settings, progress=False)
    tokenizer = Tokenizer(tokenizer_path(settings.output))
    for subset in index.subsets:
        for info in subset.shards:
            assert info.tokens <= settings.shard_tokens
            shard = Shard(settings.output, info, subset.is_bitext)
            for values, offsets in shard.sides:
                for row in range(info.rows):
                    ids = values[offsets[row] : offsets[row + 1]].tolist()
                    assert tokenizer.encode(tokenizer.decode(ids)) == ids
    counts = index.build["counts"]
    for subset in index.subsets:
        by_lang = counts[subset.name][subset.split]
        assert sum(c["tokens"] for c in by_lang.values()) == subset.tokens
        assert sum(c["text_bytes"] for c in by_lang.values()) == subset.text_bytes
        assert all(c["documents"] == subset.rows for c in by_lang.values())


def test_small_languages_have_no_validation_and_the_others_at_least_one(config):
    index = build(config(validation_fraction=1e-6), progress=False)
    assert index.subset("validation", "hi") is None  # 15 documents
    for lang in ("en", "ru"):
        assert index.subset("validation", lang).rows == 1
    index = build(config("none", validation_fraction=0), progress=False)
    assert not index.monolingual("validation")
    index = build(config("capped", max_validation_documents=3), progress=False)
    assert index.subset("validation", "en").rows == 3


def test_the_number_of_workers_and_a_trained_tokenizer_do_not_change_a_byte(config, tree_hash):
    trained = {"vocab_size": 500, "max_sentences": 400}
    one = config("one", tokenizer=trained)
    three = config("three", tokenizer=trained, workers=3)
    build(one, progress=False)
    build(three, progress=False)
    assert tree_hash(one.output) == tree_hash(three.output)
    assert sorted(p.name for p in one.output.iterdir()) == [
        "dataset.json",
        "reports",
        "tokenizer",
        "train",
        "validation",
    ]
    assert read_index(one.output).vocab_size == 500


def test_ranges_of_a_large_file_do_not_change_the_shards(config, monkeypatch, tree_hash):
    whole, ranges = config("whole"), config("ranges")
    build(whole, progress=False)
    monkeypatch.setattr("megaxlm_data.stages.plan.RANGE_BYTES", 3_000)
    monkeypatch.setattr("megaxlm_data.writers.cleaned.BLOCK_BYTES", 1_000)
    build(ranges, progress=False)
    a, b = tree_hash(whole.output), tree_hash(ranges.output)
    del a["dataset.json"], b["dataset.json"]  # names the digest of the ranges
    assert a == b


def test_crlf_and_a_byte_order_mark_change_nothing(config, corpus, tree_hash):
    unix = config("unix")
    build(unix, progress=False)
    for path in (corpus / "en1.txt", corpus / "x.hi", corpus / "en-ru.tsv"):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    windows = config("windows")
    build(windows, progress=False)
    a, b = tree_hash(unix.output), tree_hash(windows.output)
    del a["dataset.json"], b["dataset.json"]  # names the digest of the input
    assert a == b


def test_the_same_pair_lands_on_the_same_side_in_both_directions(config, corpus):
    lines = dict.fromkeys((corpus / "en-ru.tsv").read_text().splitlines())
    rows = [line.split("\t") for line in lines]
    (corpus / "en-ru.tsv").write_text("\n".join(lines))
    (corpus / "ru-en.tsv").write_text("\n".join(f"{b}\t{a}" for a, b in rows))
    both = [
        {"langs": ["en", "ru"], "tsv": [f"{corpus}/en-ru.tsv"]},
        {"langs": ["ru", "en"], "tsv": [f"{corpus}/ru-en.tsv"]},
    ]
    copies = {"deduplication": {"documents": False}}
    settings = config(corpora=[], bitext=both, validation_fraction=0.3, **copies)
    build(settings, progress=False)
    forward = documents(settings.output, "validation", "en", "ru")
    backward = documents(settings.output, "validation", "ru", "en")
    assert {i: pair[::-1] for i, pair in backward.items()} == forward
    assert forward


@pytest.mark.parametrize("ahead", [0, 3])
def test_a_pair_in_both_directions_is_one_pair(config, corpus, ahead):
    rows = [line.split("\t") for line in (corpus / "en-ru.tsv").read_text().splitlines()]
    own = f"{rows[0][1]} {rows[1][1]}", f"{rows[0][0]} {rows[1][0]}"
    backward = ["\t".join(own), *(f"{b}\t{a}" for a, b in rows[ahead:])]
    (corpus / "ru-en.tsv").write_text("\n".join(backward))
    both = [
        {"langs": ["en", "ru"], "tsv": [f"{corpus}/en-ru.tsv"]},
        {"langs": ["ru", "en"], "tsv": [f"{corpus}/ru-en.tsv"]},
    ]
    alone = config("alone", corpora=[], bitext=both[:1], validation_fraction=0)
    together = config("together", corpora=[], bitext=both, validation_fraction=0)
    build(alone, progress=False)
    cleaning = build(together, progress=False).build["cleaning"]
    forward = documents(together.output, "train", "en", "ru")
    assert forward == documents(alone.output, "train", "en", "ru")
    assert list(documents(together.output, "train", "ru", "en").values()) == [own]
    assert cleaning["ru-en"]["kept"] == 1
    found = cleaning["ru-en"]
    assert found["duplicates"] == found["read"] - sum(found["dropped"].values()) - 1 > 80


def test_without_deduplication_copies_stay_together(config, corpus):
    settings = config(deduplication={"documents": False})
    index = build(settings, progress=False)
    assert index.build["cleaning"]["en"]["duplicates"] == 0
    sides = {}
    for split in ("train", "validation"):
        for info in index.subset(split, "en").shards:
            ids = Shard(settings.output, info, False).doc_ids
            sides.setdefault(split, []).append(ids)
    train, validation = (np.concatenate(sides[s]) for s in ("train", "validation"))
    assert len(np.unique(train)) < len(train)
    assert not np.intersect1d(train, validation).size


def test_a_finished_build_is_left_alone(config, tree_hash, capsys):
    settings = config()
    build(settings, progress=False)
    before = tree_hash(settings.output)
    stamps = {p: p.stat().st_mtime_ns for p in settings.output.rglob("*") if p.is_file()}
    build(settings, progress=True)
    assert "is built already" in capsys.readouterr().err
    assert tree_hash(settings.output) == before
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())


def test_progress_names_every_stage(config, capsys):
    build(config(tokenizer={"vocab_size": 400, "max_sentences": 400}), progress=True)
    shown = capsys.readouterr().err
    for stage in ("clean", "dedup", "sample", "encode"):
        assert f"{stage} " in shown
    assert "B/s" in shown
    assert "training 400 pieces" in shown
