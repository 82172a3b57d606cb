"""Evaluation of a model that ZeRO-3 holds in parts: right, the same everywhere, and harmless."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from megaxlm.config.deepspeed import builtin_deepspeed_config, resolve_deepspeed_config
from megaxlm.config.pretrain import PretrainConfig
from megaxlm.distributed import environment, reduce
from megaxlm.evaluation.perplexity import evaluate_perplexity
from megaxlm.evaluation.sentence_embedding import embed_sentences
from megaxlm.model.encoder import MaskedLanguageModel
from megaxlm.model.initialization import initialize
from megaxlm.testing.datasets import write_dataset
from megaxlm.testing.distributed import run_distributed
from megaxlm.testing.models import random_micro_batch, tiny_model_config
from megaxlm.train.initial_weights import InitialWeights

pytestmark = pytest.mark.distributed

WORLD_SIZE, SEQ_LEN, VOCAB = 2, 16, 203
SENTENCES = ["one", "a rather long one", "", "two", "three words here"]


class CharacterTokenizer:
    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [[4 + ord(char) % (VOCAB - 5) for char in text][: SEQ_LEN - 2] for text in texts]


def run_config(dataset: Path) -> PretrainConfig:
    return PretrainConfig.model_validate(
        {
            "run_dir": "unused",
            "data": {"path": dataset, "seq_len": SEQ_LEN},
            "model": tiny_model_config(vocab_size=VOCAB, dropout=0.1).model_dump(),
            "training": {
                "max_steps": 4,
                "global_batch_size": 2 * WORLD_SIZE,
                "micro_batch_size": 2,
                "precision": "fp32",
                "zero_stage": 3,
            },
        }
    )


def measure(model: Any, bare: Any, config: PretrainConfig, ranks: dict[str, Any]) -> dict[str, Any]:
    perplexity = evaluate_perplexity(
        model, config.data.path, config.data, config.masking, 0, 8, 2, "cpu", **ranks
    )
    embeddings = embed_sentences(bare, CharacterTokenizer(), SENTENCES, -1, 10, **ranks)
    return {"perplexity": perplexity, "embeddings": embeddings}


def train(dataset: str) -> dict[bool, dict[str, Any]]:
    """Returns the losses of a run by whether it evaluated before each step, and what it saw."""
    from megaxlm.train.backend import connect, device_of
    from megaxlm.train.engine import TrainingEngine

    config = run_config(Path(dataset))
    place = environment.discover()
    device = device_of(place)
    connect(place, device)
    raw = builtin_deepspeed_config(3)
    raw["zero_optimization"]["stage3_param_persistence_threshold"] = 100  # partition most of it
    content = resolve_deepspeed_config(raw, config, place.world_size)
    ranks = {"reduce": reduce.all_sum, "rank": place.rank, "world_size": place.world_size}
    runs = {}
    for evaluating in (True, False):
        initial = InitialWeights(config.model, config.seed)
        engine = TrainingEngine(config, 3, content, place, device, initial)
        engine.load_initial()
        losses, measured = [], []
        for step in range(3):
            if evaluating:
                measured.append(measure(engine.forward_module, engine.model, config, ranks))
            batch = random_micro_batch(step * WORLD_SIZE + place.rank, vocab_size=VOCAB)
            losses.append(engine.train_step([batch], 1e-3).loss)
        engine.close(disconnect_ranks=not evaluating)
        runs[evaluating] = {"losses": losses, "measured": measured}
    return runs


def test_partitioned_model_is_measured_right_and_trains_on_undisturbed(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    texts = [rng.integers(4, VOCAB - 1, rng.integers(3, 14)) for _ in range(12)]
    write_dataset(tmp_path, {"en": texts}, None, VOCAB, validation={"en": texts, "sw": texts[:1]})
    runs = run_distributed(train, WORLD_SIZE, str(tmp_path))

    config = run_config(tmp_path)
    plain = MaskedLanguageModel(config.model)
    initialize(plain, config.model, config.seed)
    expected = measure(plain, plain, config, {})
    first, second = (run[True]["measured"] for run in runs)
    for mine, other in zip(first, second, strict=True):
        assert mine["perplexity"] == other["perplexity"]
        assert (mine["embeddings"] == other["embeddings"]).all()
    for lang in ("en", "sw"):
        found, right = first[0]["perplexity"][lang], expected["perplexity"][lang]
        assert found.targets == right.targets
        assert found.loss_nats_per_token == pytest.approx(right.loss_nats_per_token, rel=1e-6)
    np.testing.assert_allclose(first[0]["embeddings"], expected["embeddings"], atol=1e-6)
    assert first[1]["perplexity"] != first[0]["perplexity"]  # it sees the weights move
    for run in runs:
        assert run[True]["losses"] == run[False]["losses"]
