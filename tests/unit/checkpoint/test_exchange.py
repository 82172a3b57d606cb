import os
import resource
import shutil

import pytest
import torch

from megaxlm.checkpoint.exchange import export_checkpoint, import_hf
from megaxlm.checkpoint.reader import CheckpointReader
from megaxlm.checkpoint.resolve import load_model, load_weights
from megaxlm.cli import main
from megaxlm.errors import UserError

FAMILIES = ["xlm-roberta", "xlm-roberta-xl"]


def logits_of_ours(model, rows):
    """Logits of rows of one length through the packed model: (rows, length, vocab)."""
    count, length = rows.shape
    with torch.no_grad():
        flat = model.logits(
            rows.reshape(-1),
            torch.arange(length).repeat(count),
            torch.arange(0, (count + 1) * length, length, dtype=torch.int32),
            torch.arange(count * length),
            seq_len=length,
        )
    return flat.reshape(count, length, -1)


def logits_of_transformers(folder, rows):
    from transformers import AutoModelForMaskedLM

    model = AutoModelForMaskedLM.from_pretrained(folder).eval()
    with torch.no_grad():
        return model(input_ids=rows, attention_mask=torch.ones_like(rows)).logits


def token_rows(vocab_size):
    generator = torch.Generator().manual_seed(5)
    return torch.randint(4, vocab_size, (3, 17), generator=generator)


@pytest.mark.parametrize("model_type", FAMILIES)
def test_export_computes_the_same_and_import_gives_it_back(make_run, tmp_path, model_type):
    run_dir = make_run(model_type)
    export_checkpoint(run_dir, tmp_path / "exported")
    loaded = load_model(run_dir)
    rows = token_rows(loaded.config.vocab_size)
    expected = logits_of_ours(loaded.model, rows)
    assert expected.std() > 0.1
    theirs = logits_of_transformers(tmp_path / "exported", rows)
    torch.testing.assert_close(theirs, expected, atol=1e-4, rtol=0)
    for name in ("sentencepiece.bpe.model", "tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "exported" / name).is_file()

    import_hf(tmp_path / "exported", tmp_path / "imported")
    ours = dict(loaded.model.named_parameters())
    for folder in (tmp_path / "exported", tmp_path / "imported"):
        again = load_model(folder)
        assert again.config == loaded.config
        assert again.tokenizer.sha256 == loaded.tokenizer.sha256
        for name, parameter in again.model.named_parameters():
            assert torch.equal(parameter, ours[name]), name
    assert again.run_config == {}


@pytest.mark.parametrize("model_type", FAMILIES)
def test_a_model_of_transformers_is_imported_and_exported(tokenizer_dir, tmp_path, model_type):
    from transformers import AutoConfig, AutoModelForMaskedLM, AutoTokenizer

    torch.manual_seed(0)
    config = AutoConfig.for_model(
        model_type,
        vocab_size=320,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=34,
        type_vocab_size=1,
        initializer_range=0.3,
    )
    published = tmp_path / "published"
    AutoModelForMaskedLM.from_config(config).save_pretrained(published)
    AutoTokenizer.from_pretrained(tokenizer_dir).save_pretrained(published)
    assert not (published / "sentencepiece.bpe.model").exists()
    import_hf(published, tmp_path / "imported")

    reader = CheckpointReader(tmp_path / "imported" / "checkpoints" / "step-00000000")
    assert reader.weights_only and reader.step == 0
    loaded = load_model(tmp_path / "imported")
    rows = token_rows(320)
    expected = logits_of_transformers(published, rows)
    torch.testing.assert_close(logits_of_ours(loaded.model, rows), expected, atol=1e-4, rtol=0)
    assert loaded.tokenizer.encode("a big house") == load_model(published).tokenizer.encode(
        "a big house"
    )
    export_checkpoint(tmp_path / "imported", tmp_path / "back")
    torch.testing.assert_close(
        logits_of_transformers(tmp_path / "back", rows), expected, atol=1e-4, rtol=0
    )


def test_a_taken_folder_is_left_as_it_is(make_run, tmp_path):
    run_dir = make_run()
    export_checkpoint(run_dir, tmp_path / "exported")
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "thesis.tex").write_text("mine")
    with pytest.raises(UserError, match="already there"):
        export_checkpoint(run_dir, taken)
    with pytest.raises(UserError, match="already there"):
        import_hf(tmp_path / "exported", taken)
    assert os.listdir(taken) == ["thesis.tex"]
    with pytest.raises(UserError, match="already a Hugging Face folder"):
        export_checkpoint(tmp_path / "exported", tmp_path / "copy")


def test_a_model_without_tokenizer_is_refused_before_writing(make_run, tmp_path):
    export_checkpoint(make_run(), tmp_path / "exported")
    for name in ("sentencepiece.bpe.model", "tokenizer.json"):
        (tmp_path / "exported" / name).unlink()
    with pytest.raises(UserError, match="no tokenizer here"):
        import_hf(tmp_path / "exported", tmp_path / "imported")
    assert not (tmp_path / "imported").exists()
    assert load_weights(tmp_path / "exported").parameters


def test_a_killed_import_does_not_hinder_the_next(make_run, tmp_path, monkeypatch):
    export_checkpoint(make_run(), tmp_path / "exported")
    left = tmp_path / ".imported.partial" / "checkpoints" / "step-00000000.staging"
    left.mkdir(parents=True)
    (tmp_path / "imported").mkdir()  # an empty folder is as good as none
    import_hf(tmp_path / "exported", tmp_path / "imported")
    assert sorted(os.listdir(tmp_path / "imported")) == ["checkpoints", "tokenizer"]
    assert not left.exists()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    export_checkpoint(tmp_path / "imported", type(tmp_path)("there"))
    assert (tmp_path / "here" / "there" / "model.safetensors").is_file()


def test_a_full_disk_leaves_nothing_of_an_import(make_run, tmp_path):
    export_checkpoint(make_run(), tmp_path / "exported")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 << 10, hard))
    try:
        with pytest.raises(UserError, match="File too large"):
            import_hf(tmp_path / "exported", tmp_path / "imported")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not (tmp_path / "imported").exists()
    assert not (tmp_path / ".imported.partial").exists()
    import_hf(tmp_path / "exported", tmp_path / "imported")
    shutil.rmtree(tmp_path / "imported")


def test_an_import_grows_to_an_extended_tokenizer(make_run, tmp_path):
    from sentencepiece import sentencepiece_model_pb2 as model_pb2

    from megaxlm.config.vocabulary_extension import EXTENSION_NAME, VocabularyExtension
    from megaxlm.data.tokenizer import Tokenizer

    published, extended = tmp_path / "published", tmp_path / "extended"
    export_checkpoint(make_run(), published)
    base = Tokenizer(published / "sentencepiece.bpe.model")
    proto = model_pb2.ModelProto()
    proto.ParseFromString(base.model_path.read_bytes())
    added = ["\u2581catdog", "\u10d0"]
    for piece in added:
        proto.pieces.add(piece=piece, score=-2.0, type=1)
    extended.mkdir()
    (extended / "sentencepiece.bpe.model").write_bytes(proto.SerializeToString())
    record = VocabularyExtension(
        base_sha256=base.sha256,
        base_vocab_size=base.vocab_size,
        vocab_size=base.vocab_size + 2,
        moved={base.mask_id: base.mask_id + 2},
        made_of=[[300, 301], []],
    )
    (extended / EXTENSION_NAME).write_text(record.model_dump_json())

    grown = ["import", str(published), str(tmp_path / "grown"), "--tokenizer", str(extended)]
    assert main(grown) == 0
    old, new = load_model(published), load_model(tmp_path / "grown")
    assert new.config.vocab_size == new.tokenizer.vocab_size == base.vocab_size + 2
    assert new.tokenizer.encode("catdog") == [base.mask_id]
    before, after = (m.model.embeddings.word.weight for m in (old, new))
    assert torch.equal(after[: base.mask_id], before[: base.mask_id])
    assert torch.equal(after[-1], before[base.mask_id])
    torch.testing.assert_close(after[base.mask_id], before[[300, 301]].mean(0))

    rows = token_rows(base.mask_id)
    kept = slice(0, base.mask_id)
    torch.testing.assert_close(
        logits_of_ours(new.model, rows)[..., kept], logits_of_ours(old.model, rows)[..., kept]
    )

    with pytest.raises(UserError, match=r"extension\.json: no such file"):
        import_hf(published, tmp_path / "no", published)
    other = tmp_path / "other"
    shutil.copytree(extended, other)
    proto.pieces[300].piece = "another"
    (other / "sentencepiece.bpe.model").write_bytes(proto.SerializeToString())
    with pytest.raises(UserError, match="not made from the tokenizer of .*id 301 is"):
        import_hf(published, tmp_path / "no", other)
    assert not (tmp_path / "no").exists()
