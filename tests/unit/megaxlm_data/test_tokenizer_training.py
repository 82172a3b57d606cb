import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from megaxlm_data.tokenizer import install_tokenizer, train_tokenizer
from megaxlm_data.tokenizer.training import cut_sentence, train_model
from sentencepiece import sentencepiece_model_pb2 as model_pb2

from megaxlm.config.data_tokenizer import TokenizerConfig
from megaxlm.data.tokenizer import Tokenizer
from megaxlm.errors import CorruptDataError, UserError

FILES = ["sentencepiece.bpe.model", "tokenizer.json", "tokenizer_config.json"]
CONFIG = TokenizerConfig(vocab_size=420)


@pytest.fixture(scope="module")
def sentences(make_lines):
    return [line for lang in ("en", "ru") for line in make_lines(lang, 300, 0)]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope="module")
def trained(tmp_path_factory, sentences):
    out = tmp_path_factory.mktemp("trained") / "tokenizer"
    train_tokenizer(sentences, CONFIG, out, seed=0, workers=1)
    return out


def test_folder_holds_the_size_asked_for(trained):
    assert names(trained) == FILES
    assert names(trained.parent) == ["tokenizer"]
    tokenizer = Tokenizer(trained / FILES[0])
    assert tokenizer.vocab_size == CONFIG.vocab_size
    assert tokenizer.piece(4) == "<0x00>" and tokenizer.piece(259) == "<0xFF>"


def test_same_input_same_bytes_whatever_the_workers(trained, sentences):
    before = os.sched_getaffinity(0)
    again = train_model(sentences, CONFIG, seed=0, workers=2)
    assert again == (trained / FILES[0]).read_bytes()
    assert os.sched_getaffinity(0) == before


def test_model_does_not_hold_paths(trained):
    content = (trained / FILES[0]).read_bytes()
    assert str(trained.parent).encode() not in content and os.getcwd().encode() not in content


def test_a_kill_leaves_the_old_folder_or_the_new(trained, sentences, tmp_path):
    out = tmp_path / "tokenizer"
    install_tokenizer(trained, out)
    before = {name: (out / name).read_bytes() for name in FILES}
    script = (
        "import os, sys; from pathlib import Path\n"
        "from megaxlm_data.tokenizer import folder\n"
        "folder.write_hf_tokenizer = lambda *_: os._exit(9)\n"
        "folder.install_tokenizer(Path(sys.argv[1]), Path(sys.argv[2]))\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    killed = subprocess.run(
        [sys.executable, "-c", script, str(trained), str(out)], env=environment, check=False
    )
    assert killed.returncode == 9
    assert {name: (out / name).read_bytes() for name in FILES} == before


def test_vocabulary_too_large_names_one_that_works(sentences):
    with pytest.raises(UserError, match=r"vocab_size: 50000 .* at most (\d+)") as error:
        train_model(sentences, TokenizerConfig(vocab_size=50_000), seed=0, workers=1)
    largest = int(str(error.value).split("at most ")[1].split(",")[0])
    train_model(sentences, TokenizerConfig(vocab_size=largest), seed=0, workers=1)


def test_vocabulary_too_small_names_one_that_works(sentences):
    with pytest.raises(UserError, match=r"vocab_size: 300 is less .* at least (\d+)") as error:
        train_model(sentences, TokenizerConfig(vocab_size=300), seed=0, workers=1)
    smallest = int(str(error.value).split("at least ")[1].split(",")[0])
    train_model(sentences, TokenizerConfig(vocab_size=smallest), seed=0, workers=1)


def test_an_empty_sample_is_an_error():
    for sample in ([], ["", ""]):
        with pytest.raises(UserError, match="no sentence to train on"):
            train_model(sample, CONFIG, seed=0, workers=1)


def test_the_reader_s_own_error_comes_through(tmp_path):
    def failing():
        yield "some text"
        raise UserError("corpus.txt.gz: truncated")

    with pytest.raises(UserError, match="truncated"):
        train_tokenizer(failing(), CONFIG, tmp_path / "tokenizer", seed=0, workers=1)
    assert names(tmp_path) == []


def test_reserved_names_are_never_learned(sentences, tmp_path):
    literals = "<mask> <pad> <unk> <s> </s> <0x41> "
    content = train_model([literals * 3 + s for s in sentences], CONFIG, seed=0, workers=1)
    path = tmp_path / "m.model"
    path.write_bytes(content)
    tokenizer = Tokenizer(path)
    pieces = [tokenizer.piece(i) for i in range(tokenizer.vocab_size)]
    assert len(set(pieces)) == len(pieces)
    assert tokenizer.decode(tokenizer.encode(literals)) == literals.strip()


def test_long_lines_are_used_not_skipped(make_lines, tmp_path):
    one_line = " ".join(make_lines("ru", 400, 1))
    config = TokenizerConfig(vocab_size=400, max_sentence_bytes=256)
    path = tmp_path / "m.model"
    path.write_bytes(train_model([one_line], config, seed=0, workers=1))
    assert any(len(piece) > 2 for piece in map(Tokenizer(path).piece, range(260, 399)))


@given(st.text(st.characters(exclude_categories=["Cs"])), st.integers(4, 40))
def test_cut_sentence_keeps_every_character_but_spaces(text, max_bytes):
    parts = list(cut_sentence(text, max_bytes))
    assert all(0 < len(part.encode()) <= max_bytes for part in parts)
    assert "".join(parts).replace(" ", "") == text.replace(" ", "")


def test_cut_sentence_cuts_at_spaces():
    assert list(cut_sentence("one two three", 8)) == ["one two", "three"]
    assert list(cut_sentence("ééé", 5)) == ["éé", "é"]


def test_installing_a_trained_model_gives_the_same_files(trained, tmp_path):
    out = tmp_path / "new" / "tokenizer"
    install_tokenizer(trained / FILES[0], out)
    assert names(out) == FILES and names(out.parent) == ["tokenizer"]
    for name in FILES:
        assert (out / name).read_bytes() == (trained / name).read_bytes()


def test_install_names_what_is_wrong(trained, tmp_path):
    out = tmp_path / "tokenizer"
    with pytest.raises(UserError, match=r"none\.model: cannot read"):
        install_tokenizer(tmp_path / "none.model", out)
    folder = tmp_path / "hf"
    folder.mkdir()
    with pytest.raises(UserError, match="expected one SentencePiece model .* found none"):
        install_tokenizer(folder, out)
    (folder / "a.model").write_bytes(b"damaged")
    with pytest.raises(CorruptDataError, match=r"a\.model: not a readable"):
        install_tokenizer(folder, out)
    (folder / "b.model").write_bytes(b"")
    with pytest.raises(UserError, match="found 2 of them"):
        install_tokenizer(folder, out)
    assert not out.exists()


def scores(content):
    proto = model_pb2.ModelProto()
    proto.ParseFromString(content)
    return [piece.score for piece in proto.pieces if piece.type == 1]


def test_scores_add_up_exactly_in_32_bits(trained):
    found = scores((trained / FILES[0]).read_bytes())
    assert len(set(found)) > 20 and found == sorted(found, reverse=True)
    assert all(score * 64 == int(score * 64) for score in found)


def test_a_word_is_segmented_in_the_same_way_wherever_it_stands(trained, make_lines):
    tokenizer = Tokenizer(trained / FILES[0])
    words = " ".join(make_lines("en", 60, 5) + make_lines("ru", 60, 5)).split()
    together = tokenizer.encode(" ".join(words * 4))
    assert together == [token for word in words for token in tokenizer.encode(word)] * 4


def test_bpe_is_trained_as_well(sentences, tmp_path):
    config = TokenizerConfig(vocab_size=420, model_type="bpe")
    train_tokenizer(sentences, config, tmp_path / "tokenizer", seed=0, workers=1)
    assert names(tmp_path / "tokenizer") == FILES
    tokenizer = Tokenizer(tmp_path / "tokenizer" / FILES[0])
    assert tokenizer.vocab_size == 420
    assert tokenizer.piece(4) == "<0x00>"
    content = (tmp_path / "tokenizer" / FILES[0]).read_bytes()
    assert content == train_model(sentences, config, seed=0, workers=2)
    ranks = scores(content)
    assert ranks[:4] == [0, -1, -2, -3]
    with pytest.raises(UserError, match=r"vocab_size: 300 is less .* at least (\d+)"):
        train_model(sentences, config.model_copy(update={"vocab_size": 300}), seed=0, workers=1)


def test_places_of_64_bits_give_the_same_model(sentences, trained):
    large = train_model(sentences, CONFIG, seed=0, workers=1, extremely_large=True)
    assert scores(large) == scores((trained / FILES[0]).read_bytes())
