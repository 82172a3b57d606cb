import json
import shutil
from dataclasses import asdict

import numpy as np
import pytest
from megaxlm_data.pipeline import build
from megaxlm_data.shard_scan import _count_bytes, open_columns
from megaxlm_data.verify import verify
from megaxlm_data.verify.document_ids import check_document_ids
from megaxlm_data.writers.shards import EncodedSide, write_shard

from megaxlm.config.data_build import DataBuildConfig
from megaxlm.data.shards import file_xxh3, read_index
from megaxlm.errors import CorruptDataError, UserError


@pytest.fixture(scope="module")
def built(tmp_path_factory, make_corpus, build_model):
    directory = tmp_path_factory.mktemp("verify")
    (directory / "en.txt").write_text(make_corpus("en", 200))
    (directory / "p.tsv").write_text("a house\tдом тут\nthe river\tрека там\n")
    config = DataBuildConfig(
        output=directory / "out",
        corpora=[{"lang": "en", "paths": [str(directory / "en.txt")]}],
        bitext=[{"langs": ["en", "ru"], "tsv": [str(directory / "p.tsv")]}],
        tokenizer={"model": build_model},
        shard_tokens=2_000,
        workers=1,
    )
    build(config, progress=False)
    return config.output


@pytest.fixture
def dataset(built, tmp_path):
    shutil.copytree(built, tmp_path / "ds")
    return tmp_path / "ds"


def problems(directory):
    return [(p.path, p.what) for p in verify(directory, progress=False).problems]


def change_index(directory, change):
    path = directory / "dataset.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_a_sound_data_set_passes_and_stray_files_do_not_matter(dataset, capsys):
    (dataset / "train" / "en" / "00099.arrow").write_bytes(b"stray")
    (dataset / "notes.txt").write_text("mine")
    report = verify(dataset)
    assert report.ok and report.shards >= 3
    assert "all as indexed" in report.render()
    (note,) = report.notes  # a file of the user's own elsewhere is nobody's business
    assert str(dataset / "train" / "en" / "00099.arrow") in note and "not in the index" in note
    assert "verify" in capsys.readouterr().err


def test_truncated_altered_and_missing_shards_are_named(dataset):
    train = dataset / "train" / "en"
    content = bytearray((train / "00000.arrow").read_bytes())
    content[len(content) // 2] ^= 1  # one bit
    (train / "00000.arrow").write_bytes(content)
    (train / "00001.arrow").write_bytes((train / "00001.arrow").read_bytes()[:-1])
    (dataset / "train" / "en-ru" / "00000.arrow").unlink()
    found = dict(problems(dataset))
    assert set(found) == {
        "train/en/00000.arrow",
        "train/en/00001.arrow",
        "train/en-ru/00000.arrow",
    }
    assert "altered: XXH3" in found["train/en/00000.arrow"]
    assert "truncated" in found["train/en/00001.arrow"]
    assert "missing" in found["train/en-ru/00000.arrow"]
    rendered = verify(dataset, progress=False).render()
    assert str(train / "00000.arrow") in rendered
    assert "3 problems" in rendered


def test_shards_of_one_language_swapped_are_found(dataset):
    train = dataset / "train" / "en"
    (train / "00000.arrow").rename(train / "x")
    (train / "00001.arrow").rename(train / "00000.arrow")
    (train / "x").rename(train / "00001.arrow")
    assert {path for path, _ in problems(dataset)} == {
        "train/en/00000.arrow",
        "train/en/00001.arrow",
    }


def test_a_changed_or_missing_tokenizer_is_found(dataset):
    model = dataset / "tokenizer" / "sentencepiece.bpe.model"
    model.write_bytes(model.read_bytes() + b" ")
    ((path, what),) = problems(dataset)
    assert path == "tokenizer/sentencepiece.bpe.model"
    assert "tokenizer changed: SHA-256" in what
    model.unlink()
    ((_, what),) = problems(dataset)
    assert "cannot be read" in what


def test_an_index_that_counts_otherwise_is_found(dataset):
    def change(content):
        shard = content["subsets"][0]["shards"][0]
        shard["rows"] += 1
        content["subsets"][0]["shards"][1]["tokens"] += 1
        content["vocab_size"] = 50

    change_index(dataset, change)
    found = problems(dataset)
    assert any(path.endswith("00000.arrow") and "rows instead of" in what for path, what in found)
    assert any(path.endswith("00001.arrow") and "tokens instead of" in what for path, what in found)
    assert any("outside the vocabulary of 50" in what for _, what in found)
    assert any(path == "dataset.json" and "vocab_size 50" in what for path, what in found)


def test_statistics_that_the_shards_do_not_bear_out_are_named(dataset):
    def change(content):
        content["build"]["counts"]["en"]["train"]["en"]["byte_fallback"] += 7
        content["build"]["counts"]["en-ru"]["train"]["ru"]["unknown"] += 1

    change_index(dataset, change)
    assert [path for path, _ in problems(dataset)] == ["dataset.json"] * 2
    found = [what for _, what in problems(dataset)]
    assert found[0].startswith("build.counts.en.train.en.byte_fallback is 7, the shards hold 0")
    assert found[1].startswith("build.counts.en-ru.train.ru.unknown is")


def forge(dataset, path, change):
    """Writes a shard anew with other columns, and its true size and checksums into the index."""
    columns = open_columns(dataset / path)
    sides = [
        EncodedSide(side.values.copy(), np.diff(side.offsets).astype(np.int64), side.text_bytes)
        for side in columns.sides
    ]
    ids = columns.doc_ids.copy()
    change(sides, ids)
    info = write_shard(dataset, path, sides, ids)

    def enter(content):
        for subset in content["subsets"]:
            for number, shard in enumerate(subset["shards"]):
                if shard["path"] == path:
                    subset["shards"][number] = asdict(info)

    change_index(dataset, enter)


def test_a_document_that_stands_twice_is_found_in_ranges_as_at_once(dataset):
    first, second = "train/en/00000.arrow", "train/en/00001.arrow"
    copied = open_columns(dataset / first).doc_ids[:3].copy()

    def change(sides, ids):
        ids[-3:] = copied

    forge(dataset, second, change)
    assert problems(dataset) == [(second, "3 documents stand more than once in train/en")]
    index = read_index(dataset)
    whole = {(subset.split, subset.name) for subset in index.subsets}
    for held in (1, 10, 50, 1000):
        (found,) = check_document_ids(dataset, index, whole, threads=1, held_ids=held)
        assert found.path == second and found.what.startswith("3 documents")


def test_copies_that_the_recipe_left_in_are_no_problem(dataset):
    def change(sides, ids):
        ids[1] = ids[0]

    forge(dataset, "train/en/00000.arrow", change)
    assert len(problems(dataset)) == 1

    def allow(content):
        content["build"]["settings"]["deduplication"]["documents"] = False

    change_index(dataset, allow)
    assert problems(dataset) == []


def test_a_document_of_both_splits_is_found(dataset):
    of_training = open_columns(dataset / "train" / "en" / "00000.arrow").doc_ids[5]

    def change(sides, ids):
        ids[0] = of_training

    forge(dataset, "validation/en/00000.arrow", change)
    assert problems(dataset) == [("validation/en/00000.arrow", "1 documents stand in train/en too")]


def test_a_shard_that_denies_its_own_checksum_is_found(dataset):
    path = dataset / "train" / "en" / "00000.arrow"
    values = open_columns(path).sides[0].values[:4].tobytes()
    content = path.read_bytes()
    place = content.index(values)
    path.write_bytes(content[:place] + values[4:8] + content[place + 4 :])

    def enter(content):
        content["subsets"][0]["shards"][0]["xxh3"] = file_xxh3(path)

    change_index(dataset, enter)
    ((name, what),) = problems(dataset)
    assert name == "train/en/00000.arrow" and "its own checksum" in what


def test_hugging_face_files_that_say_otherwise_are_found(dataset):
    folder = dataset / "tokenizer"
    content = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = content["model"]["vocab"]
    places = [i for i, (piece, _) in enumerate(vocabulary) if len(piece) > 1][10:12]
    swapped = json.loads(json.dumps(content))
    for place, other in zip(places, reversed(places), strict=True):
        swapped["model"]["vocab"][place][0] = vocabulary[other][0]
    (folder / "tokenizer.json").write_text(json.dumps(swapped))
    ((path, what),) = problems(dataset)
    assert path == "tokenizer/tokenizer.json"
    assert f"2 pieces have another id than in the model (first: {places[0]})" in what

    content["pre_tokenizer"] = {"type": "WhitespaceSplit"}
    (folder / "tokenizer.json").write_text(json.dumps(content))
    ((path, what),) = problems(dataset)
    assert path == "tokenizer/tokenizer.json" and "gives other ids than the model" in what

    (folder / "tokenizer.json").write_text("{")
    (folder / "tokenizer_config.json").unlink()
    assert [path for path, _ in problems(dataset)] == [
        "tokenizer/tokenizer.json",
        "tokenizer/tokenizer_config.json",
    ]


def test_bytes_are_counted_wherever_they_stand_in_the_vocabulary():
    values = np.random.default_rng(0).integers(0, 40, 5000).astype(np.uint32)
    for places in ([], [7], [3, 4, 5, 6], [3, 4, 9], [30, 2]):
        is_byte = np.zeros(50, np.bool_)
        is_byte[places] = True
        expected = sum(int(value) in places for value in values)
        assert _count_bytes(values, is_byte, np.flatnonzero(is_byte)) == expected


def test_threads_change_nothing(dataset):
    (dataset / "train" / "en" / "00001.arrow").unlink()
    reports = [verify(dataset, progress=False, threads=threads) for threads in (1, 2, 7)]
    assert reports[0] == reports[1] == reports[2] and not reports[0].ok


def test_no_data_set_and_a_broken_index(tmp_path, dataset):
    with pytest.raises(UserError, match="no data set here"):
        verify(tmp_path / "nothing")
    (dataset / "dataset.json").write_text("{")
    with pytest.raises(CorruptDataError, match="unreadable index"):
        verify(dataset)
