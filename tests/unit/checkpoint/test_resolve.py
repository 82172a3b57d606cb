import json
import os
import shutil

import pytest
import torch

from megaxlm.checkpoint.fragments import whole
from megaxlm.checkpoint.hf_tokenizer import HuggingFaceTokenizer
from megaxlm.checkpoint.resolve import find_source, load_model, load_weights
from megaxlm.checkpoint.writer import CheckpointWriter
from megaxlm.data.tokenizer import Tokenizer
from megaxlm.errors import CorruptDataError, UserError
from megaxlm.model.encoder import MaskedLanguageModel
from megaxlm.model.initialization import initialize


@pytest.mark.parametrize("model_type", ["xlm-roberta", "xlm-roberta-xl"])
def test_run_checkpoint_and_link_give_the_same_model(make_run, tmp_path, model_type):
    run_dir = make_run(model_type)
    checkpoint = run_dir / "checkpoints" / "step-00000020"
    os.symlink(checkpoint, tmp_path / "best")
    expected = MaskedLanguageModel(load_weights(run_dir).config)
    initialize(expected, expected.config, seed=3)
    for path in (run_dir, checkpoint, tmp_path / "best"):
        loaded = load_model(path, seq_len=32)
        assert not loaded.model.training
        assert loaded.tokenizer.vocab_size == loaded.config.vocab_size
        assert loaded.run_config == {"data": {"seq_len": 32}}
        given = dict(loaded.model.named_parameters())
        for name, parameter in expected.named_parameters():
            assert given[name].dtype == torch.float32 and torch.equal(given[name], parameter)
    assert load_model(run_dir).source == str(checkpoint)


def test_the_newest_finished_checkpoint_of_a_run_counts(make_run):
    run_dir = make_run()
    parent = run_dir / "checkpoints"
    shutil.copytree(parent / "step-00000020", parent / "step-00000030")
    (parent / "step-00000030" / "COMPLETE").unlink()
    assert find_source(run_dir).folder.name == "step-00000020"
    (parent / "step-00000020" / "COMPLETE").unlink()
    with pytest.raises(UserError, match="no finished checkpoint"):
        find_source(run_dir)


def test_an_unfinished_checkpoint_given_by_name_is_refused_by_file(make_run):
    path = make_run() / "checkpoints" / "step-00000020"
    (path / "COMPLETE").unlink()
    with pytest.raises(CorruptDataError, match="COMPLETE: missing"):
        load_model(path)


def test_a_damaged_checkpoint_is_refused_by_file(make_run):
    run_dir = make_run()
    file = run_dir / "checkpoints" / "step-00000020" / "rank-00000.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(CorruptDataError, match="rank-00000.safetensors"):
        load_model(run_dir)


def test_what_is_none_or_several_kinds_says_what_was_looked_for(tmp_path, make_run):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="checkpoints/.*manifest.json.*config.json; none of them"):
        load_model(tmp_path / "empty")
    with pytest.raises(UserError, match="no such folder"):
        load_model(tmp_path / "nowhere")
    run_dir = make_run()
    (run_dir / "config.json").write_text("{}")
    with pytest.raises(UserError, match="several are here"):
        load_model(run_dir)


def test_a_missing_or_changed_tokenizer_is_refused(make_run):
    run_dir = make_run()
    model_path = run_dir / "tokenizer" / "sentencepiece.bpe.model"
    content = model_path.read_bytes()
    model_path.write_bytes(content + b"\0")
    with pytest.raises(UserError, match="not the tokenizer that .* was trained with"):
        load_model(run_dir)
    model_path.unlink()
    with pytest.raises(UserError, match="not the tokenizer that"):  # tokenizer.json will not do
        load_model(run_dir)
    shutil.rmtree(run_dir / "tokenizer")
    with pytest.raises(UserError, match="no tokenizer here"):
        load_model(run_dir)
    assert load_weights(run_dir).parameters  # weights alone need no tokenizer


def test_rows_longer_than_the_position_table_are_refused(make_run):
    with pytest.raises(UserError, match="rows of 33 tokens asked for, its positions end at 32"):
        load_model(make_run(), seq_len=33)


def test_a_tokenizer_larger_than_the_model_is_refused(make_run):
    run_dir = make_run()
    config = load_weights(run_dir).config.model_dump(mode="json")
    shared = {"model": {**config, "vocab_size": 100}}
    CheckpointWriter(run_dir).save(21, [whole("model/x", torch.zeros(2))], {}, shared)
    with pytest.raises(UserError, match=r"tokenizer has \d+ tokens, the model 100"):
        load_model(run_dir)


@pytest.mark.parametrize(
    ("model", "problem"),
    [(None, "model"), ({"hidden_size": "wide"}, "model.hidden_size"), ({"flux": 1}, "model.flux")],
)
def test_a_checkpoint_without_a_readable_config_is_refused(make_run, model, problem):
    with pytest.raises(UserError, match=f"shared.json: {problem}"):
        load_model(make_run(model=model))


def test_parameters_of_another_model_are_refused(make_run):
    run_dir = make_run()
    shared = {"model": load_weights(run_dir).config.model_dump(mode="json")}
    CheckpointWriter(run_dir).save(21, [whole("model/x", torch.zeros(2))], {}, shared)
    with pytest.raises(CorruptDataError, match="not those of its config"):
        load_model(run_dir)


def test_the_hugging_face_tokenizer_gives_the_same_ids(tokenizer_dir, tmp_path, sentences):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(tokenizer_dir / name, tmp_path / name)
    theirs = HuggingFaceTokenizer(tmp_path)
    ours = Tokenizer(tokenizer_dir / "sentencepiece.bpe.model")
    assert (theirs.vocab_size, theirs.mask_id) == (ours.vocab_size, ours.mask_id)
    assert theirs.encode_batch(sentences) == ours.encode_batch(sentences)
    assert theirs.encode_batch([]) == []
    for sentence in sentences:
        ids = theirs.encode(sentence)
        assert theirs.decode([0, *ids, 2]) == sentence == ours.decode(ids)
        assert [theirs.piece(token) for token in ids] == [ours.piece(token) for token in ids]
    with pytest.raises(IndexError):
        theirs.piece(theirs.vocab_size)


@pytest.mark.parametrize("content", [None, "", "{}", "not json"])
def test_an_unreadable_hugging_face_tokenizer_is_a_user_error(tmp_path, content):
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(UserError, match="its tokenizer cannot be read") as caught:
        HuggingFaceTokenizer(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_tokenizer_of_another_layout_is_refused(tokenizer_dir, tmp_path):
    shutil.copyfile(tokenizer_dir / "tokenizer.json", tmp_path / "tokenizer.json")
    config = json.loads((tokenizer_dir / "tokenizer_config.json").read_text())
    config |= {"bos_token": "</s>", "eos_token": "<s>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"ids of bos, pad, eos, unk are \(2, 1, 0, 3\)"):
        HuggingFaceTokenizer(tmp_path)
