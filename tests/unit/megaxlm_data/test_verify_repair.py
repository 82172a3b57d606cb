import shutil

import numpy as np
import pytest
from megaxlm_data.pipeline import build
from megaxlm_data.verify import repair, verify
from megaxlm_data.verify.subset_names import languages_of

from megaxlm.cli import main
from megaxlm.config.data_build import DataBuildConfig
from megaxlm.data.shards import read_index
from megaxlm.errors import UserError


@pytest.fixture(scope="module")
def built(tmp_path_factory, make_corpus, make_lines, build_model):
    directory = tmp_path_factory.mktemp("repair")
    for lang in ("en", "ru"):
        (directory / f"{lang}.txt").write_text(make_corpus(lang, 150))
    rows = zip(make_lines("en", 60, 5), make_lines("ru", 60, 5), strict=True)
    (directory / "p.tsv").write_text("\n".join("\t".join(row) for row in rows))
    config = DataBuildConfig(
        output=directory / "out",
        corpora=[{"lang": x, "paths": [str(directory / f"{x}.txt")]} for x in ("ru", "en")],
        bitext=[{"langs": ["en", "ru"], "tsv": [str(directory / "p.tsv")]}],
        tokenizer={"model": build_model},
        shard_tokens=2_000,
        validation_fraction=0.1,
        workers=1,
    )
    build(config, progress=False)
    return config.output


@pytest.fixture
def dataset(built, tmp_path):
    shutil.copytree(built, tmp_path / "ds")
    return tmp_path / "ds"


def without_index(dataset):
    before = read_index(dataset)
    (dataset / "dataset.json").unlink()
    return before


def same(repaired, before, order=False):
    assert (repaired.tokenizer_sha256, repaired.vocab_size) == (
        before.tokenizer_sha256,
        before.vocab_size,
    )
    assert set(repaired.subsets) == set(before.subsets)
    if order:
        assert repaired.subsets == before.subsets and repaired.languages == before.languages
    for name, splits in before.build["counts"].items():
        for split, langs in splits.items():
            for lang, counts in langs.items():
                left = {k: v for k, v in counts.items() if k not in ("chars", "words")}
                assert repaired.build["counts"][name][split][lang] == left
    assert set(repaired.build["absent"]) >= set(before.build) - {"counts"}


def problems(report):
    return {problem.path: problem.what for problem in report.problems}


def test_a_lost_index_is_made_again_field_by_field(dataset):
    before = without_index(dataset)
    report = repair(dataset, progress=False)
    assert report.ok and report.written
    same(read_index(dataset), before)
    assert read_index(dataset) == report.index
    # the recipe named ru first; nothing that is left says so
    assert read_index(dataset).languages == ("en", "ru")
    assert any("order of the languages" in line for line in report.lines())
    assert verify(dataset, progress=False).ok
    threads = [repair(dataset, progress=False, threads=n).index for n in (1, 3)]
    assert threads == [report.index] * 2


@pytest.mark.parametrize("kept", [0.3, 0.6, 0.9])
def test_a_truncated_index_still_tells_the_order(dataset, kept):
    before = read_index(dataset)
    path = dataset / "dataset.json"
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    report = repair(dataset, progress=False)
    same(read_index(dataset), before, order=True)
    assert report.index.languages == ("ru", "en")
    assert not any("order of the languages" in line for line in report.lines())


def test_a_sound_index_is_left_alone(dataset):
    before = (dataset / "dataset.json").read_bytes()
    report = repair(dataset, progress=False)
    assert report.ok and not report.written
    assert (dataset / "dataset.json").read_bytes() == before


def flip(path, place):
    content = bytearray(path.read_bytes())
    content[place(content)] ^= 1
    path.write_bytes(content)


def test_a_flipped_bit_anywhere_in_a_shard_refuses_the_repair(dataset):
    without_index(dataset)
    path = dataset / "train" / "en" / "00001.arrow"
    sound = path.read_bytes()
    rng = np.random.default_rng(0)
    for place in rng.integers(0, len(sound), 40).tolist():
        flip(path, lambda content, place=place: place)
        report = repair(dataset, progress=False)
        if report.ok:  # padding, or text of the header that nobody reads: the columns are whole
            assert report.index.subsets[0].shards[1].rows > 0
            (dataset / "dataset.json").unlink()
        else:
            assert list(problems(report)) == ["train/en/00001.arrow"]
            assert not (dataset / "dataset.json").exists()
        path.write_bytes(sound)


def test_a_flipped_bit_in_the_tokens_is_seen_without_the_index(dataset):
    without_index(dataset)
    path = dataset / "train" / "ru" / "00000.arrow"
    flip(path, lambda content: len(content) // 2)
    report = repair(dataset, progress=False)
    assert not report.written and list(problems(report)) == ["train/ru/00000.arrow"]
    assert "its own checksum" in report.lines()[0]
    assert "bring these files back" in report.lines()[-1]


def test_truncated_missing_and_foreign_shards_refuse_the_repair(dataset):
    without_index(dataset)
    train = dataset / "train" / "en"
    (train / "00000.arrow").write_bytes((train / "00000.arrow").read_bytes()[:-9])
    (train / "00001.arrow").unlink()
    (dataset / "train" / "ru" / "00000.arrow").write_bytes(b"")
    report = repair(dataset, progress=False)
    found = problems(report)
    assert set(found) == {"train/en/00000.arrow", "train/en/00001.arrow", "train/ru/00000.arrow"}
    assert found["train/en/00001.arrow"] == "shard is missing"
    assert "not a readable Arrow file" in found["train/en/00000.arrow"]
    assert not (dataset / "dataset.json").exists()


def test_what_is_left_of_the_index_names_a_missing_last_shard_and_a_changed_one(dataset):
    index = read_index(dataset)
    path = dataset / "dataset.json"
    path.write_text(path.read_text().replace('"build"', '"build', 1))
    last = index.subset("train", "en").shards[-1].path
    (dataset / last).unlink()
    other = index.subset("train", "ru").shards
    shutil.copyfile(dataset / other[0].path, dataset / other[1].path)
    found = problems(repair(dataset, progress=False))
    assert found[last] == "shard is missing"
    assert "not the one that what is left of dataset.json tells of" in found[other[1].path]


def test_a_copied_shard_is_ambiguous(dataset):
    without_index(dataset)
    train = dataset / "train" / "en"
    number = len(list(train.iterdir()))
    shutil.copyfile(train / "00000.arrow", train / f"{number:05d}.arrow")
    found = problems(repair(dataset, progress=False))
    assert found == {f"train/en/{number:05d}.arrow": "shard is a copy of train/en/00000.arrow"}


@pytest.mark.parametrize("name", ["train/en/00000.arrow.bak", "train/.DS_Store", "train/en/x.txt"])
def test_files_that_a_build_does_not_make_are_ambiguous(dataset, name):
    without_index(dataset)
    (dataset / name).write_bytes(b"?")
    with pytest.raises(UserError, match="not certain what belongs") as error:
        repair(dataset, progress=False)
    assert str(dataset / name) in str(error.value)


def test_an_unfinished_build_is_not_taken_for_a_data_set(dataset):
    without_index(dataset)
    (dataset / ".build").mkdir()
    with pytest.raises(UserError, match="build is unfinished.*data build"):
        repair(dataset, progress=False)


def test_another_tokenizer_is_not_taken_for_the_one_of_the_shards(dataset, tmp_path, make_lines):
    import sentencepiece

    without_index(dataset)
    model = dataset / "tokenizer" / "sentencepiece.bpe.model"
    (tmp_path / "text").write_text("\n".join(make_lines("en", 400, 9) + make_lines("ru", 400, 9)))
    sentencepiece.SentencePieceTrainer.Train(
        input=str(tmp_path / "text"),
        model_prefix=str(tmp_path / "other"),
        vocab_size=600,
        hard_vocab_limit=False,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
        minloglevel=2,
    )
    shutil.copyfile(tmp_path / "other.model", model)
    with pytest.raises(UserError, match="not the one that the shards were made with"):
        repair(dataset, progress=False)
    model.unlink()
    with pytest.raises(UserError, match="cannot read the SentencePiece model"):
        repair(dataset, progress=False)
    assert not (dataset / "dataset.json").exists()


def test_the_command_repairs_then_verifies(dataset, capsys):
    without_index(dataset)
    assert main(["data", "verify", str(dataset)]) == 2
    assert main(["data", "verify", str(dataset), "--repair"]) == 0
    assert "made again" in capsys.readouterr().out
    flip(dataset / "train" / "ru" / "00000.arrow", lambda content: len(content) // 2)
    assert main(["data", "verify", str(dataset), "--repair"]) == 1
    assert "00000.arrow: shard is altered: XXH3" in capsys.readouterr().err
    (dataset / "dataset.json").unlink()
    assert main(["data", "verify", str(dataset), "--repair"]) == 1
    said = capsys.readouterr().err
    assert "megaxlm: error: " in said and "train/ru/00000.arrow: " in said
    assert "Traceback" not in said
    shutil.rmtree(dataset / "train")
    shutil.rmtree(dataset / "validation")
    assert main(["data", "verify", str(dataset), "--repair"]) == 2
    assert "no shard in it" in capsys.readouterr().err


def test_names_of_pairs():
    def read(*names, known=(), mono=()):
        kinds = dict.fromkeys(names, True) | dict.fromkeys(mono, False)
        return languages_of(kinds, known)

    assert read("en-fr")["en-fr"] == ("en", "fr")
    assert read(mono=["zh-Hant"])["zh-Hant"] == ("zh-Hant",)
    assert read("en-zh-Hant")["en-zh-Hant"] == ("en", "zh-Hant")
    assert read("sr-Latn-en")["sr-Latn-en"] == ("sr-Latn", "en")
    assert read("pt-br-en", mono=["pt-br", "en"])["pt-br-en"] == ("pt-br", "en")
    assert read("pt-br-en", known=["pt", "br-en"])["pt-br-en"] == ("pt", "br-en")
    with pytest.raises(UserError, match="pt and br-en or pt-br and en"):
        read("pt-br-en")
