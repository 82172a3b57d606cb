"""What a run may go on from."""

from pathlib import Path

import pytest

from megaxlm.checkpoint.fragments import whole
from megaxlm.checkpoint.reader import CheckpointReader
from megaxlm.checkpoint.writer import CheckpointWriter
from megaxlm.config.pretrain import ModelConfig, PretrainConfig
from megaxlm.errors import UserError
from megaxlm.model.encoder import MaskedLanguageModel
from megaxlm.testing.models import tiny_model_config
from megaxlm.train.resume import check_compatible

SHA = "a" * 64


def saved(run_dir: Path, prefixes: tuple[str, ...]) -> CheckpointReader:
    model = MaskedLanguageModel(tiny_model_config())
    fragments = (
        whole(prefix + name, value)
        for name, value in model.named_parameters()
        for prefix in prefixes
    )
    shared = {"model": model.config.model_dump(mode="json"), "tokenizer_sha256": SHA}
    return CheckpointReader(CheckpointWriter(run_dir).save(3, fragments, {}, shared))


def config_of(model: ModelConfig) -> PretrainConfig:
    training = {"max_steps": 5, "global_batch_size": 1, "micro_batch_size": 1}
    return PretrainConfig.model_validate(
        {"run_dir": "r", "data": {"path": "d"}, "model": model.model_dump(), "training": training}
    )


def test_the_same_model_and_tokenizer_go_on(tmp_path: Path) -> None:
    with saved(tmp_path, ("model/", "exp_avg/", "exp_avg_sq/")) as reader:
        check_compatible(reader, config_of(tiny_model_config()), SHA)
        check_compatible(reader, config_of(tiny_model_config(dropout=0.3)), SHA)
        with pytest.raises(UserError, match=r"model\.hidden_size=24, the config says 32"):
            check_compatible(reader, config_of(tiny_model_config(hidden_size=32)), SHA)
        with pytest.raises(UserError, match="another tokenizer than d has"):
            check_compatible(reader, config_of(tiny_model_config()), "b" * 64)


def test_an_imported_model_is_no_run(tmp_path: Path) -> None:
    with (
        saved(tmp_path, ("model/",)) as reader,
        pytest.raises(UserError, match="imported model.*init_from"),
    ):
        check_compatible(reader, config_of(tiny_model_config()), SHA)
