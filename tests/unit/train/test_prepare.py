"""What can be known before the first step is checked before it, and filled in."""

from pathlib import Path
from typing import Any

import pytest

from megaxlm.config.pretrain import PretrainConfig
from megaxlm.errors import UserError
from megaxlm.testing.datasets import write_dataset
from megaxlm.train.prepare import resolve_run


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    write_dataset(tmp_path / "data", {"en": [[5, 6, 7]] * 4}, vocab_size=64)
    return tmp_path / "data"


def config_of(data: Path, **settings: Any) -> PretrainConfig:
    training = {"max_steps": 10, "global_batch_size": 8, "micro_batch_size": 4}
    return PretrainConfig.model_validate(
        {
            "run_dir": "unused",
            "data": {"path": data, "seq_len": 32},
            "training": training,
            **settings,
        }
    )


def test_derived_values_are_filled_in(dataset: Path) -> None:
    run = resolve_run(config_of(dataset))
    assert run.config.model.vocab_size == 64
    assert run.config.model.max_position_embeddings == 34
    assert run.tokens_per_step == 8 * 32
    run = resolve_run(config_of(dataset, model={"vocab_size": 80, "max_position_embeddings": 514}))
    assert (run.config.model.vocab_size, run.config.model.max_position_embeddings) == (80, 514)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"model": {"vocab_size": 63}}, r"model\.vocab_size=63.*64"),
        ({"model": {"max_position_embeddings": 33}}, r"max_position_embeddings=33.*34"),
        ({"schedule": {"warmup_steps": 11}}, r"warmup_steps 11.*max_steps 10"),
        ({"schedule": {"name": "wsd", "warmup_steps": 5, "decay_steps": 6}}, r"decay_steps 6"),
        ({"evaluation": {"retrieval": "/nowhere"}}, r"evaluation\.retrieval.*/nowhere"),
    ],
)
def test_contradictions_are_one_line(dataset: Path, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        resolve_run(config_of(dataset, **settings))
    assert "\n" not in str(caught.value)


def test_retrieval_is_checked_before_it_is_due(dataset: Path, tmp_path: Path) -> None:
    folder = tmp_path / "retrieval"
    folder.mkdir()
    for lang in ("en", "fr"):
        (folder / f"en-fr.{lang}").write_text("a\nb\n")

    def resolve(**evaluation: Any) -> None:
        resolve_run(config_of(dataset, evaluation={"retrieval": folder, **evaluation}))

    resolve(retrieval_pairs=["en-fr"], retrieval_layer=-13)
    with pytest.raises(UserError, match="en-de.*en-fr"):
        resolve(retrieval_pairs=["en-de"])
    with pytest.raises(UserError, match="retrieval_layer=13"):
        resolve(retrieval_layer=13)


def test_a_missing_data_set_says_how_to_build_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="megaxlm data build"):
        resolve_run(config_of(tmp_path / "nowhere"))
