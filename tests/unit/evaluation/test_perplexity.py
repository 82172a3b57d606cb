"""Perplexity and bits per byte, by hand and the same on any layout."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from megaxlm.config.pretrain import DataConfig, MaskingConfig
from megaxlm.data.shards import read_index
from megaxlm.evaluation.perplexity import LanguagePerplexity, evaluate_perplexity
from megaxlm.model.encoder import MaskedLanguageModel
from megaxlm.model.initialization import initialize
from megaxlm.objectives.validation import validation_batches
from megaxlm.testing.datasets import BYTES_PER_TOKEN, write_dataset
from megaxlm.testing.models import tiny_model_config

VOCAB, SEQ_LEN = 203, 16
MASKING = MaskingConfig(mlm_probability=0.25)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("dataset")
    rng = np.random.default_rng(0)

    def documents(count: int, longest: int = 30) -> list[np.ndarray]:
        return [rng.integers(4, VOCAB - 1, rng.integers(3, longest)) for _ in range(count)]

    pairs = list(zip(documents(9, 6), documents(9, 6), strict=True))
    write_dataset(
        directory,
        {"en": documents(3), "sw": documents(3), "zh-Hant": documents(3)},
        {("en", "sw"): pairs[:3]},
        VOCAB,
        validation={"en": documents(23), "sw": documents(1), "zh-Hant": documents(7)},
        validation_bitext={("en", "sw"): pairs},
    )
    return directory


def _data(dataset: Path, languages: list[str] | None = None) -> DataConfig:
    return DataConfig(path=dataset, seq_len=SEQ_LEN, languages=languages)


def _model(dropout: float = 0.0) -> MaskedLanguageModel:
    config = tiny_model_config(vocab_size=VOCAB, seq_len=SEQ_LEN, dropout=dropout)
    config = config.model_copy(update={"initializer_range": 0.3})
    model = MaskedLanguageModel(config)
    initialize(model, config, seed=1)
    return model


class ScriptedModel(nn.Module):
    """Gives each target the loss that a function names, and counts its forward passes."""

    def __init__(self, loss_of: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.loss_of = loss_of
        self.shapes: list[tuple[int, ...]] = []

    def forward(
        self,
        tokens: Tensor,
        positions: Tensor,
        cu_seqlens: Tensor,
        target_index: Tensor,
        targets: Tensor,
        target_weight: Tensor,
        seq_len: int,
    ) -> tuple[Tensor, Tensor]:
        assert not self.training and not torch.is_grad_enabled()
        self.shapes.append((len(tokens), len(cu_seqlens), len(targets)))
        losses = self.loss_of(targets)
        losses = torch.where(target_weight > 0, losses, torch.nan)  # padding must not be read
        return losses.mean(), losses


def test_constant_loss_by_hand(dataset: Path) -> None:
    model = ScriptedModel(lambda targets: torch.full((len(targets),), 3 * math.log(2)))
    results = evaluate_perplexity(model, dataset, _data(dataset), MASKING, 0, 100, 4)
    assert list(results) == ["en", "sw", "zh-Hant"]
    for result in results.values():
        assert result.loss_nats_per_token == pytest.approx(3 * math.log(2))
        assert result.perplexity == pytest.approx(8)
        # 3 bits a token, and write_dataset claims 4 bytes a token.
        assert result.bits_per_byte == pytest.approx(3 / BYTES_PER_TOKEN)
    assert model.training


def test_loss_is_the_mean_over_the_targets_of_each_language(dataset: Path) -> None:
    model = ScriptedModel(lambda targets: targets.float() / 7)
    results = evaluate_perplexity(model, dataset, _data(dataset), MASKING, 5, 100, 3)
    seen: dict[str, list[float]] = {}
    for name, batch in validation_batches(dataset, _data(dataset), MASKING, 5, 100, 1):
        real = batch.targets[batch.target_weight > 0]
        seen.setdefault(name, []).extend((real.float() / 7).tolist())
    assert {name: result.targets for name, result in results.items()} == {
        name: len(losses) for name, losses in seen.items()
    }
    for name, losses in seen.items():
        assert results[name].loss_nats_per_token == pytest.approx(float(np.mean(losses)))
    assert len({round(r.loss_nats_per_token, 6) for r in results.values()}) == 3


def test_rows_are_capped_and_languages_chosen(dataset: Path) -> None:
    model = ScriptedModel(lambda targets: targets.float())
    whole = evaluate_perplexity(model, dataset, _data(dataset), MASKING, 0, 100, 2)
    part = evaluate_perplexity(model, dataset, _data(dataset, ["en"]), MASKING, 0, 2, 2)
    assert list(part) == ["en"]
    assert 0 < part["en"].targets <= 2 * round(0.25 * SEQ_LEN) < whole["en"].targets


def _on_ranks(
    world_size: int, run: Callable[[int, Callable[[Tensor], Tensor]], object]
) -> list[object]:
    """Runs every rank twice: to learn what each gives to the sum, then with the sum."""
    given: list[Tensor] = []
    for rank in range(world_size):
        run(rank, lambda values: given.append(values.clone()) or values)
    total = torch.stack(given).sum(dim=0)
    return [run(rank, lambda values: total.clone()) for rank in range(world_size)]


@pytest.mark.parametrize("world_size", [2, 3, 4, 16])
def test_any_number_of_ranks_gives_the_same_to_the_bit(dataset: Path, world_size: int) -> None:
    model = _model()

    def run(
        rank: int, reduce: Callable[[Tensor], Tensor], world: int = world_size
    ) -> dict[str, LanguagePerplexity]:
        return evaluate_perplexity(
            model, dataset, _data(dataset), MASKING, 0, 100, 2, "cpu", reduce, rank, world
        )

    alone = evaluate_perplexity(model, dataset, _data(dataset), MASKING, 0, 100, 2)
    assert all(2 < result.loss_nats_per_token < 20 for result in alone.values())
    assert _on_ranks(world_size, run) == [alone] * world_size


@pytest.mark.parametrize("world_size", [3, 16])
def test_every_rank_makes_the_same_forward_passes(dataset: Path, world_size: int) -> None:
    shapes = []
    for rank in range(world_size):
        model = ScriptedModel(lambda targets: targets.float())
        evaluate_perplexity(
            model, dataset, _data(dataset), MASKING, 0, 100, 2, "cpu", lambda x: x, rank, world_size
        )
        shapes.append(model.shapes)
    assert all(shape == shapes[0] for shape in shapes) and len(set(shapes[0])) == 1


def test_micro_batch_size_changes_nothing(dataset: Path) -> None:
    model = _model()
    results = [
        evaluate_perplexity(model, dataset, _data(dataset), MASKING, 0, 100, size)
        for size in (1, 3, 8)
    ]
    for other in results[1:]:
        for lang, result in other.items():
            assert result.targets == results[0][lang].targets
            assert result.loss_nats_per_token == pytest.approx(
                results[0][lang].loss_nats_per_token, rel=1e-6
            )


def test_dropout_is_off_and_the_mode_comes_back(dataset: Path) -> None:
    expected = evaluate_perplexity(_model(), dataset, _data(dataset), MASKING, 0, 100, 4)
    model = _model(dropout=0.5).train()
    assert evaluate_perplexity(model, dataset, _data(dataset), MASKING, 0, 100, 4) == expected
    assert model.training and model.layers[0].training
    model.eval()
    evaluate_perplexity(model, dataset, _data(dataset), MASKING, 0, 100, 4)
    assert not model.training


def test_pairs_are_measured_as_pairs(dataset: Path) -> None:
    model = ScriptedModel(lambda targets: torch.full((len(targets),), math.log(2)))
    results = evaluate_perplexity(
        model, dataset, _data(dataset), MASKING, 0, 100, 2, objective="tlm"
    )
    assert list(results) == ["en-sw"]
    assert results["en-sw"].bits_per_byte == pytest.approx(1 / BYTES_PER_TOKEN)


def test_no_validation_text_is_an_empty_result(tmp_path: Path) -> None:
    write_dataset(tmp_path, {"en": [[5, 6, 7, 8]]}, vocab_size=VOCAB)
    assert not read_index(tmp_path).monolingual("validation")
    assert evaluate_perplexity(_model(), tmp_path, _data(tmp_path), MASKING, 0, 100, 2) == {}


def test_several_ranks_need_a_sum(dataset: Path) -> None:
    with pytest.raises(ValueError, match="2 ranks need `reduce`"):
        evaluate_perplexity(_model(), dataset, _data(dataset), MASKING, 0, 9, 2, world_size=2)


def test_what_is_not_finite_is_null_in_json() -> None:
    assert LanguagePerplexity(1000.0, 300.0, 7).to_json() == {
        "loss_nats_per_token": 1000.0,
        "perplexity": None,
        "bits_per_byte": 300.0,
        "targets": 7,
    }
    diverged = LanguagePerplexity(math.nan, math.nan, 7)
    assert math.isnan(diverged.perplexity)
    assert diverged.to_json()["loss_nats_per_token"] is None
