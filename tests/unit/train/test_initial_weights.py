"""`init_from`: needed at the beginning alone, and only with the tokenizer it was trained with."""

import shutil
from pathlib import Path

import pytest
import torch

from megaxlm.checkpoint.fragments import whole
from megaxlm.checkpoint.writer import CheckpointWriter
from megaxlm.config.pretrain import PretrainConfig
from megaxlm.errors import UserError
from megaxlm.model.encoder import MaskedLanguageModel
from megaxlm.model.initialization import initialize
from megaxlm.testing.models import tiny_model_config
from megaxlm.train.initial_weights import initial_weights

SHA = "a" * 64


def imported(folder: Path, tokenizer_sha256: str | None) -> MaskedLanguageModel:
    """Writes what `megaxlm import` writes of a model, and returns the model."""
    model = MaskedLanguageModel(tiny_model_config())
    initialize(model, model.config, seed=77)
    shared = {
        "model": model.config.model_dump(mode="json"),
        "tokenizer_sha256": tokenizer_sha256,
    }
    fragments = (whole(f"model/{name}", value) for name, value in model.named_parameters())
    CheckpointWriter(folder).save(0, fragments, {}, shared)
    return model


def config_of(tmp_path: Path) -> PretrainConfig:
    training = {"max_steps": 1, "global_batch_size": 1, "micro_batch_size": 1}
    return PretrainConfig.model_validate(
        {
            "run_dir": tmp_path / "run",
            "init_from": tmp_path / "given",
            "data": {"path": tmp_path / "data", "seq_len": 16},
            "model": tiny_model_config().model_dump(),
            "training": training,
        }
    )


@pytest.mark.parametrize("recorded", [SHA, None])
def test_weights_of_the_same_tokenizer_are_taken(tmp_path: Path, recorded: str | None) -> None:
    given = imported(tmp_path / "given", recorded)
    source = initial_weights(config_of(tmp_path), SHA)
    for name, theirs in given.named_parameters():
        assert source.shape(f"model/{name}") == tuple(theirs.shape)
        assert torch.equal(source.read(f"model/{name}", 1, 7), theirs.flatten()[1:8]), name


def test_another_tokenizer_of_the_same_size_is_refused(tmp_path: Path) -> None:
    imported(tmp_path / "given", "b" * 64)
    with pytest.raises(UserError, match="given: trained with another tokenizer"):
        initial_weights(config_of(tmp_path), SHA)

    imported(tmp_path / "given", None)  # nothing recorded: the file beside it counts
    (tmp_path / "given" / "tokenizer").mkdir()
    (tmp_path / "given" / "tokenizer" / "sentencepiece.bpe.model").write_bytes(b"another")
    with pytest.raises(UserError, match="another tokenizer"):
        initial_weights(config_of(tmp_path), SHA)


def test_a_run_with_a_checkpoint_needs_it_no_more(tmp_path: Path) -> None:
    imported(tmp_path / "run", SHA)
    initial_weights(config_of(tmp_path), SHA)
    shutil.rmtree(tmp_path / "run")
    with pytest.raises(UserError, match="no such folder"):
        initial_weights(config_of(tmp_path), SHA)
