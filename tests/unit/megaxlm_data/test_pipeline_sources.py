"""Whole builds from every form of source: the same documents, whatever they are read from."""

import bz2
import gzip
import json
import lzma

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from megaxlm_data.pipeline import build
from megaxlm_data.readers import choice

from megaxlm.config.data_build import DataBuildConfig
from megaxlm.data.shards import Shard, read_index
from megaxlm.errors import UserError


@pytest.fixture
def texts(make_corpus):
    """40 documents of each of two languages, a line each."""
    return {
        lang: [
            " ".join(part.split()) for part in make_corpus(lang, 60).split("\n\n") if len(part) > 60
        ][:40]
        for lang in ("en", "ru")
    }


@pytest.fixture
def config(tmp_path, build_model):
    def make(output="out", **changes):
        values = {
            "output": tmp_path / output,
            "tokenizer": {"model": build_model},
            "filters": {"max_pair_length_ratio": 100},
            "validation_fraction": 0,
            "workers": 1,
        }
        return DataBuildConfig(**{**values, **changes})

    return make


def ids(directory, *langs):
    """Returns the hashes of the documents, in order."""
    subset = read_index(directory).subset("train", *langs)
    return [
        doc_id
        for info in subset.shards
        for doc_id in Shard(directory, info, subset.is_bitext).doc_ids.tolist()
    ]


def fails(settings):
    with pytest.raises(UserError) as caught:
        build(settings, progress=False)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def records(texts, **more):
    return "".join(json.dumps({"text": text, **more}) + "\n" for text in texts)


def write_sources(folder, texts):
    """Writes the same English documents in every form; returns the settings of each."""
    english = texts["en"]
    table = pa.table({"id": range(len(english)), "content": english})
    plain = "\n\n".join(english).encode()
    packers = {
        "gz": gzip.compress,
        "xz": lzma.compress,
        "bz2": bz2.compress,
        "zst": zstandard.compress,
    }
    for suffix, pack in packers.items():
        (folder / f"a.txt.{suffix}").write_bytes(pack(plain))
        (folder / f"a.jsonl.{suffix}").write_bytes(pack(records(english).encode()))
    (folder / "a.txt").write_bytes(plain)
    (folder / "lines.txt").write_text("\n".join(english))
    numbered = [f"{number}\t{text}" for number, text in enumerate(english)]
    (folder / "a.tsv.gz").write_bytes(gzip.compress("\n".join(numbered).encode()))
    (folder / "named.tsv").write_text("\n".join(["id\tcontent", *numbered]))
    pq.write_table(table, folder / "a.parquet", row_group_size=7)
    saved = folder / "saved"
    saved.mkdir()
    for number in range(2):
        part = table.slice(20 * number, 20)
        with pa.ipc.new_stream(saved / f"data-0000{number}-of-00002.arrow", part.schema) as writer:
            writer.write_table(part, max_chunksize=6)
    with pa.ipc.new_file(folder / "file.arrow", table.schema) as writer:
        writer.write_table(table, max_chunksize=6)
    (folder / "AA").mkdir()
    articles = "".join(f'<doc id="{i}">\n{text}\n\n</doc>\n' for i, text in enumerate(english))
    (folder / "AA" / "wiki_00").write_text(articles)
    (folder / "AA" / "wiki_01.bz2").write_bytes(bz2.compress(records(english).encode()))
    in_content = {"text_field": "content"}
    found = {f"a.{form}.{suffix}": {} for suffix in packers for form in ("txt", "jsonl")}
    found |= {"a.txt": {}, "lines.txt": {"format": "lines"}, "AA/wiki_00": {}, "AA/wiki_01.bz2": {}}
    found["a.tsv.gz"] = {"text_field": 1}
    return found | {name: in_content for name in ("a.parquet", "saved", "file.arrow", "named.tsv")}


def test_every_form_of_documents_gives_the_same_ones(tmp_path, config, texts):
    sources = write_sources(tmp_path, texts)
    expected = None
    for number, (name, options) in enumerate(sources.items()):
        settings = config(
            f"out{number}", corpora=[{"lang": "en", "paths": [f"{tmp_path}/{name}"], **options}]
        )
        build(settings, progress=False)
        found = ids(settings.output, "en")
        expected = expected or found
        assert found == expected, name
    assert len(expected) == 40
    files = [f"{tmp_path}/a.txt", f"file://{tmp_path}/a.jsonl.gz", f"{tmp_path}/AA/wiki*"]
    settings = config(corpora=[{"lang": "en", "paths": files}])
    index = build(settings, progress=False)
    assert ids(settings.output, "en") == expected
    assert index.build["cleaning"]["en"]["read"] == 160
    assert index.build["cleaning"]["en"]["duplicates"] == 120


def test_every_form_of_pairs_gives_the_same_ones(tmp_path, config, texts):
    pairs = list(zip(texts["en"], texts["ru"], strict=True))
    (tmp_path / "a.en").write_text("\n".join(texts["en"]))
    (tmp_path / "a.ru").write_text("\n".join(texts["ru"]))
    rows = [f"{number}\t{b}\t0.5\t{a}" for number, (a, b) in enumerate(pairs)]
    (tmp_path / "scored.tsv.zst").write_bytes(zstandard.compress("\n".join(rows).encode()))
    (tmp_path / "two.tsv").write_text("\n".join(f"{a}\t{b}" for a, b in pairs))
    units = "".join(
        f'<tu><tuv xml:lang="ru"><seg>{b}</seg></tuv>'
        f'<tuv xml:lang="en-GB"><seg>{a}</seg></tuv></tu>'
        for a, b in pairs
    )
    tmx = f'<tmx version="1.4"><header/><body>{units}</body></tmx>'
    (tmp_path / "a.tmx.gz").write_bytes(gzip.compress(tmx.encode()))
    nested = [{"translation": {"en": a, "ru": b}} for a, b in pairs]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(each) + "\n" for each in nested))
    pq.write_table(pa.Table.from_pylist(nested), tmp_path / "a.parquet")
    flat = pa.table({"src": texts["en"], "tgt": texts["ru"]})
    with pa.ipc.new_stream(tmp_path / "flat.arrow", flat.schema) as writer:
        writer.write_table(flat)
    expected = None
    for number, source in enumerate(
        [
            {"source": [f"{tmp_path}/a.en"], "target": [f"{tmp_path}/a.ru"]},
            {"paths": [f"{tmp_path}/scored.tsv.zst"], "columns": [3, 1]},
            {"paths": [f"{tmp_path}/two.tsv"]},
            {"tsv": [f"{tmp_path}/two.tsv"]},
            {"paths": [f"{tmp_path}/a.tmx.gz"]},
            {"paths": [f"{tmp_path}/a.jsonl", f"{tmp_path}/a.parquet"]},
            {"paths": [f"{tmp_path}/flat.arrow"], "fields": ["src", "tgt"]},
        ]
    ):
        settings = config(f"out{number}", bitext=[{"langs": ["en", "ru"], **source}])
        build(settings, progress=False)
        found = ids(settings.output, "en", "ru")
        expected = expected or found
        assert found == expected, source
    assert len(expected) == 40


def test_parts_of_large_files_do_not_change_the_shards(tmp_path, config, texts, monkeypatch):
    (tmp_path / "a.jsonl").write_text(records(texts["en"], lang="en"))
    table = pa.table({"text": texts["ru"], "lang": ["rus_Cyrl"] * 40})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=4)
    with pa.ipc.new_file(tmp_path / "a.arrow", table.schema) as writer:
        writer.write_table(table.slice(0, 30), max_chunksize=4)
    source = {"lang_field": "lang", "paths": [f"{tmp_path}/a.*"]}
    whole = config("whole", corpora=[source])
    build(whole, progress=False)
    monkeypatch.setattr("megaxlm_data.stages.plan.RANGE_BYTES", 600)
    for workers in (1, 2):
        ranges = config(f"ranges{workers}", corpora=[source], workers=workers)
        # a worker process plans nothing, so that it need not know of the small ranges
        build(ranges, progress=False)
        for lang in ("en", "ru"):
            assert ids(ranges.output, lang) == ids(whole.output, lang)
        cleaning = read_index(ranges.output).build["cleaning"]["ru"]
        assert (cleaning["read"], cleaning["duplicates"]) == (70, 30)


def test_a_language_from_the_path_groups_files_of_one_name(tmp_path, config, texts):
    for lang, name in (("en", "en"), ("ru", "rus_Cyrl"), ("en", "eng")):
        folder = tmp_path / "raw" / name
        folder.mkdir(parents=True)
        half = texts[lang][:20] if name != "eng" else texts[lang][20:]
        (folder / "part.jsonl").write_text(records(half))
    source = {"lang_from": "path", "paths": [f"{tmp_path}/raw/{{lang}}/*.jsonl"]}
    settings = config(corpora=[source])
    index = build(settings, progress=False)
    assert index.languages == ("en", "ru")
    assert len(ids(settings.output, "en")) == 40
    assert len(ids(settings.output, "ru")) == 20
    settings = config("chosen", corpora=[{**source, "languages": {"eng": "en-GB"}}])
    assert build(settings, progress=False).languages == ("en-GB",)
    (tmp_path / "raw" / "old_stuff_2").mkdir()
    (tmp_path / "raw" / "old_stuff_2" / "part.jsonl").write_text(records(texts["en"]))
    assert fails(config("odd", corpora=[source])) == (
        f"{tmp_path}/raw/old_stuff_2/part.jsonl: `old_stuff_2` in the place of `{{lang}}` is no "
        "language code; rename it, or name the languages to take: corpora.0.languages"
    )
    chosen = {**source, "languages": ["ru"]}
    assert build(config("one", corpora=[chosen]), progress=False).languages == ("ru",)


def mixed(tmp_path, texts):
    """A file of Russian, English, unknown and unwanted documents, in turn."""
    lines = []
    for english, russian in zip(texts["en"], texts["ru"], strict=True):
        lines.append({"text": russian, "meta": {"lang": "ru"}})
        lines.append({"text": english, "meta": {"lang": "eng_Latn"}})
    lines += [
        {"text": f"{number} " + texts["en"][0], "meta": {"lang": "de"}} for number in range(30)
    ]
    lines += [{"text": "no language here"}, {"text": "nor here", "meta": {"lang": "english"}}]
    path = tmp_path / "mixed.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + "not json\n")
    return {"lang_field": "meta.lang", "languages": ["en", "ru"], "paths": [str(path)]}


def test_a_field_parts_a_file_into_languages(tmp_path, config, texts, monkeypatch):
    monkeypatch.setattr("megaxlm_data.writers.cleaned.BLOCK_BYTES", 700)
    source = mixed(tmp_path, texts)
    settings = config(corpora=[source], on_bad_record="skip", deduplication={"documents": False})
    index = build(settings, progress=False)
    for lang in ("en", "ru"):
        alone = tmp_path / f"{lang}.txt"
        alone.write_text("\n".join(texts[lang]))
        single = config(lang, corpora=[{"lang": lang, "format": "lines", "paths": [str(alone)]}])
        build(single, progress=False)
        assert ids(settings.output, lang) == ids(single.output, lang)
        assert index.build["cleaning"][lang]["read"] == 40
    assert index.build["left_out"] == {
        "de": {"read": 30, "dropped": {"language_not_wanted": 30}, "lines": {}},
        "und": {"read": 3, "dropped": {"bad_record": 1, "language_unknown": 2}, "lines": {}},
    }
    rejected = [
        json.loads(line)
        for line in (settings.output / "reports" / "rejected.jsonl").read_text().splitlines()
    ]
    by_kind = {}
    for sample in rejected:
        by_kind.setdefault((sample["lang"], sample["reason"]), []).append(sample)
    assert {kind: len(samples) for kind, samples in by_kind.items()} == {
        ("de", "language_not_wanted"): 20,
        ("und", "bad_record"): 1,
        ("und", "language_unknown"): 2,
    }
    assert by_kind["und", "bad_record"] == [
        {
            "lang": "und",
            "reason": "bad_record",
            "dropped": 1,
            "id": by_kind["und", "bad_record"][0]["id"],
            "file": source["paths"][0],
            "text": "not json",
        }
    ]
    assert {sample["dropped"] for sample in by_kind["de", "language_not_wanted"]} == {30}
    assert fails(config("strict", corpora=[source])).startswith(
        f"{source['paths'][0]}:113: not valid JSON: Expecting value at character 1;"
    )


def test_a_column_parts_a_file_into_languages(tmp_path, config, texts, monkeypatch):
    lines = [
        f"{lang}\t{text}"
        for pair in zip(*texts.values(), strict=True)
        for lang, text in zip(texts, pair, strict=True)
    ]
    path = tmp_path / "mixed.txt"
    path.write_text("\n".join(["l\tsentence", *lines, "sw\tsentensi nzuri ya majaribio hapa"]))
    source = {"languages": ["en", "ru"], "paths": [str(path)], "format": "tsv"}
    by_name = {**source, "lang_field": "l", "text_field": "sentence"}
    by_number = {**source, "lang_field": 0, "text_field": 1}
    for number, corpus in enumerate((by_name, by_number)):
        monkeypatch.setattr("megaxlm_data.stages.plan.RANGE_BYTES", 1000 if number else 64 << 20)
        settings = config(f"out{number}", corpora=[corpus])
        index = build(settings, progress=False)
        for lang in ("en", "ru"):
            assert len(ids(settings.output, lang)) == 40
        assert index.build["left_out"]["sw"]["dropped"] == {"language_not_wanted": 1}
    for lang in ("en", "ru"):
        assert ids(tmp_path / "out0", lang) == ids(tmp_path / "out1", lang)


def test_a_column_of_tsv_shows_before_anything_is_read(tmp_path, config):
    (tmp_path / "a.tsv").write_text("id\tbody\n1\tone\n")
    (tmp_path / "a.jsonl").write_text("{}\n")
    assert fails(config(corpora=[{"lang": "en", "paths": [f"{tmp_path}/a.tsv"]}])).startswith(
        f"{tmp_path}/a.tsv:1: no column `text`; the first line has: id, body; correct `text_field`"
    )
    source = {"lang": "en", "paths": [f"{tmp_path}/a.jsonl"], "text_field": 1}
    assert fails(config(corpora=[source])) == (
        f"{tmp_path}/a.jsonl: a field given as a number is a column of TSV; set `format: tsv` or "
        "name it"
    )
    assert not (tmp_path / "out").exists()


def test_samples_do_not_depend_on_ranges_or_workers(tmp_path, config, texts, monkeypatch):
    source = mixed(tmp_path, texts)
    content = []
    for number, (span, workers) in enumerate([(1 << 20, 1), (900, 1), (900, 2)]):
        monkeypatch.setattr("megaxlm_data.stages.plan.RANGE_BYTES", span)
        settings = config(
            f"out{number}",
            corpora=[source],
            on_bad_record="skip",
            workers=workers,
            filters={"min_document_chars": 100},
        )
        build(settings, progress=False)
        content.append((settings.output / "reports" / "rejected.jsonl").read_bytes())
    assert content[0] == content[1] == content[2]
    assert b"too_short" in content[0]
    settings = config("none", corpora=[source], on_bad_record="skip", rejected_samples=0)
    build(settings, progress=False)
    assert not (settings.output / "reports").exists()


class Fake:
    """Tells Cyrillic from Latin script, and is unsure of short texts."""

    def identify(self, text):
        if len(text) < 30:
            return "und", 0.1
        return ("rus", 0.9) if "\u0400" <= text[0] <= "\u04ff" else ("en", 0.9)


def test_a_detected_language_joins_the_group_of_the_same_name(tmp_path, config, texts, monkeypatch):
    monkeypatch.setattr(choice, "make_identifier", lambda config: Fake())
    monkeypatch.setattr(choice, "identifier_key", lambda config: {"fake": "1"})
    both = [text for pair in zip(texts["en"], texts["ru"], strict=True) for text in pair]
    (tmp_path / "both.txt").write_text("\n".join([*both, "too short to say"]))
    (tmp_path / "more.txt").write_text("\n\n".join(texts["ru"][:3]))
    detected = {"lang": "detect", "format": "lines", "paths": [f"{tmp_path}/both.txt"]}
    known = {"lang": "ru", "paths": [f"{tmp_path}/more.txt"]}
    settings = config(corpora=[known, detected])
    index = build(settings, progress=False)
    assert index.languages == ("ru", "en")
    assert len(ids(settings.output, "en")) == len(ids(settings.output, "ru")) == 40
    assert index.build["cleaning"]["ru"]["duplicates"] == 3
    assert index.build["left_out"]["und"]["dropped"] == {"language_unknown": 1}
    assert fails(config("none", corpora=[{**detected, "languages": ["sw"]}])) == (
        f"corpora.0: every document of {tmp_path}/both.txt was dropped: language_not_wanted 80, "
        "language_unknown 1; change `filters`, or take it out of the config"
    )


def test_a_build_of_many_languages_that_was_stopped_gives_the_same_bytes(
    tmp_path, config, texts, monkeypatch, tree_hash
):
    source = mixed(tmp_path, texts)
    monkeypatch.setattr("megaxlm_data.stages.plan.RANGE_BYTES", 3000)

    def make(name):
        return config(name, corpora=[source], on_bad_record="skip")

    build(make("whole"), progress=False)
    whole = tree_hash(make("whole").output)

    class Killed(BaseException):
        pass

    import os

    real = os.replace
    for number in range(1, 100, 3):  # at each rename, with fewer languages: test_pipeline_faults
        seen = [0]

        def replace(source, target, seen=seen, number=number):
            seen[0] += 1
            if seen[0] == number:
                raise Killed
            real(source, target)

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", replace)
            try:
                build(make(f"stopped{number}"), progress=False)
                break
            except Killed:
                pass
        build(make(f"stopped{number}"), progress=False)
        assert tree_hash(make(f"stopped{number}").output) == whole
    assert number > 12
