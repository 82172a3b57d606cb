"""A pipeline fed from a real stream of MLM and TLM rows, and measured between its steps."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from megaxlm.config.deepspeed import builtin_deepspeed_config, resolve_deepspeed_config
from megaxlm.config.pretrain import PretrainConfig
from megaxlm.distributed import environment
from megaxlm.evaluation.perplexity import evaluate_perplexity
from megaxlm.evaluation.sentence_embedding import embed_sentences
from megaxlm.model.encoder import MaskedLanguageModel
from megaxlm.model.initialization import initialize
from megaxlm.objectives.mixture import open_stream
from megaxlm.testing.datasets import write_dataset
from megaxlm.testing.distributed import run_distributed
from megaxlm.testing.models import tiny_model_config
from megaxlm.train.initial_weights import InitialWeights

pytestmark = pytest.mark.distributed

SEQ_LEN, VOCAB, STEPS, SEED = 24, 203, 3, 7
SENTENCES = ["one", "a rather long one", "", "two", "three words here", "four"]
LAYOUTS = [(2, False), (4, True)]  # (stages, pre-norm): two replicas and one


class CharacterTokenizer:
    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [[4 + ord(char) % (VOCAB - 5) for char in text][: SEQ_LEN - 2] for text in texts]


def run_config(dataset: Path, stages: int, pre_norm: bool) -> PretrainConfig:
    model = tiny_model_config(
        vocab_size=VOCAB, num_hidden_layers=5, seq_len=SEQ_LEN, dropout=0.1, pre_norm=pre_norm
    )
    return PretrainConfig.model_validate(
        {
            "run_dir": "unused",
            "seed": SEED,
            "data": {
                "path": dataset,
                "seq_len": SEQ_LEN,
                "packing": "documents",
                "prefetch_batches": 0,
            },
            "objectives": [{"name": "mlm", "weight": 1.0}, {"name": "tlm", "weight": 1.0}],
            "model": model.model_dump(),
            "training": {
                "max_steps": STEPS,
                "global_batch_size": 8,
                "micro_batch_size": 2,
                "precision": "fp32",
                "zero_stage": 1,
                "pipeline_stages": stages,
            },
        }
    )


def measure(model: Any, bare: Any, config: PretrainConfig, ranks: dict[str, Any]) -> dict[str, Any]:
    perplexity = evaluate_perplexity(
        model, config.data.path, config.data, config.masking, 0, 8, 2, "cpu", **ranks
    )
    pooled = {
        layer: embed_sentences(bare, CharacterTokenizer(), SENTENCES, layer, 10, **ranks)
        for layer in (0, 2, -2, -1)
    }
    return {"perplexity": perplexity, "embeddings": pooled}


def train(dataset: str, layouts: list[tuple[int, bool]]) -> list[dict[str, Any]]:
    """Trains with and without evaluation before every step, layout by layout."""
    from megaxlm.train.backend import connect
    from megaxlm.train.engine import TrainingEngine
    from megaxlm.train.pipeline_engine import PipelineTrainingEngine

    place, cpu = environment.discover(), torch.device("cpu")
    connect(place, cpu)
    runs = []
    for stages, pre_norm in layouts:
        config = run_config(Path(dataset), stages, pre_norm)
        content = resolve_deepspeed_config(builtin_deepspeed_config(1), config, place.world_size)
        kind = PipelineTrainingEngine if stages > 1 else TrainingEngine
        result: dict[str, Any] = {"measured": [], "segments": []}
        for evaluating in (True, False):
            initial = InitialWeights(config.model, SEED)
            engine = kind(config, 2, content, place, cpu, initial)
            engine.load_initial()
            replica, replicas = engine.grid.data_rank, engine.grid.data_world_size
            ranks = {"reduce": engine.data_sum, "rank": replica, "world_size": replicas}
            stream = open_stream(
                config.data.path, config.data, config.objectives, config.masking,
                SEED, 8, 2, replica, replicas,
            )  # fmt: skip
            steps = []
            for _ in range(STEPS):
                if evaluating:
                    measured = measure(engine.forward_module, engine.model, config, ranks)
                    result["measured"].append(measured)
                batches = [next(stream).batch for _ in range(4 // replicas)]
                bounds = [batch.cu_seqlens.unique().numel() - 1 for batch in batches]
                result["segments"] += bounds
                step = engine.train_step(batches, 3e-3)
                steps.append((step.loss, step.grad_norm))
            stream.close()
            engine.close(disconnect_ranks=False)
            result[evaluating] = steps
        result["modules"] = {
            "config": engine.model.config == config.model,
            "training": engine.model.training,
        }
        runs.append(result)
    return runs


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)

    def texts(count: int) -> list[np.ndarray]:
        return [rng.integers(4, VOCAB - 1, rng.integers(3, 9)) for _ in range(count)]

    pairs = list(zip(texts(60), texts(60), strict=True))
    write_dataset(
        folder,
        {"en": texts(80), "sw": texts(40)},
        {("en", "sw"): pairs},
        VOCAB,
        validation={"en": texts(12), "sw": texts(1)},
    )
    return folder


@pytest.fixture(scope="module")
def runs(dataset: Path) -> dict[tuple[int, bool], list[dict[str, Any]]]:
    """Results by layout, rank by rank."""
    found = {}
    for processes, layouts in ((1, [(1, True), (1, False)]), (4, LAYOUTS)):
        by_rank = run_distributed(train, processes, str(dataset), layouts, timeout_seconds=300)
        for number, layout in enumerate(layouts):
            found[layout] = [rank[number] for rank in by_rank]
    return found


@pytest.mark.parametrize(("stages", "pre_norm"), LAYOUTS)
def test_a_stream_of_mlm_and_tlm_rows_trains_as_on_one_process(
    runs: Any, stages: int, pre_norm: bool
) -> None:
    (plain,) = runs[(1, pre_norm)]
    segments = plain["segments"]
    assert min(segments) >= 2 and len(set(segments)) > 2  # several a row, and not always as many
    for rank in runs[(stages, pre_norm)]:
        for (loss, norm), (expected_loss, expected_norm) in zip(
            rank[False], plain[False], strict=True
        ):
            assert loss == pytest.approx(expected_loss, rel=1e-5)
            assert norm == pytest.approx(expected_norm, rel=1e-5)


@pytest.mark.parametrize(("stages", "pre_norm"), LAYOUTS)
def test_every_stage_learns_what_was_measured(
    runs: Any, dataset: Path, stages: int, pre_norm: bool
) -> None:
    config = run_config(dataset, 1, pre_norm)
    plain = MaskedLanguageModel(config.model)
    initialize(plain, config.model, SEED)
    expected = measure(plain, plain, config, {})
    for rank in runs[(stages, pre_norm)]:
        assert rank["modules"] == {"config": True, "training": True}
        first, second = rank["measured"][:2]
        for lang in ("en", "sw"):
            found, right = first["perplexity"][lang], expected["perplexity"][lang]
            assert found.targets == right.targets
            assert found.loss_nats_per_token == pytest.approx(right.loss_nats_per_token, rel=1e-6)
        for layer, embeddings in expected["embeddings"].items():
            np.testing.assert_allclose(first["embeddings"][layer], embeddings, atol=1e-6)
        assert second["perplexity"] != first["perplexity"]  # it sees the weights move


@pytest.mark.parametrize(("stages", "pre_norm"), LAYOUTS)
def test_measuring_leaves_no_trace(runs: Any, stages: int, pre_norm: bool) -> None:
    ranks = runs[(stages, pre_norm)]
    for rank in ranks:
        assert rank[True] == rank[False]
        assert rank[True] == ranks[0][True]
        for mine, other in zip(rank["measured"], ranks[0]["measured"], strict=True):
            assert mine["perplexity"] == other["perplexity"]
            for layer, embeddings in other["embeddings"].items():
                assert (mine["embeddings"][layer] == embeddings).all()
