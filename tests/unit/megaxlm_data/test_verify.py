import json
import shutil

import pytest
from megaxlm_data.pipeline import build
from megaxlm_data.verify import verify

from megaxlm.config.data_build import DataBuildConfig
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
    assert ("train/en/00000.arrow", "columns or rows differ from dataset.json; rebuild") in found
    assert any(path.endswith("00001.arrow") and "tokens instead of" in what for path, what in found)
    assert any("outside the vocabulary of 50" in what for _, what in found)


def test_no_data_set_and_a_broken_index(tmp_path, dataset):
    with pytest.raises(UserError, match="no data set here"):
        verify(tmp_path / "nothing")
    (dataset / "dataset.json").write_text("{")
    with pytest.raises(CorruptDataError, match="unreadable index"):
        verify(dataset)
