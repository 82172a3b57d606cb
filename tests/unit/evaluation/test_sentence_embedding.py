"""Packed, length-sorted embeddings against one sentence at a time."""

import gzip
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from megaxlm.config.pretrain import ModelConfig
from megaxlm.data.special_tokens import BOS, EOS
from megaxlm.errors import UserError
from megaxlm.evaluation.retrieval import evaluate_retrieval
from megaxlm.evaluation.sentence_embedding import embed_sentences
from megaxlm.model.encoder import MaskedLanguageModel
from megaxlm.model.initialization import initialize

VOCAB = 64
SENTENCES = ["abc", "a much longer sentence than the rest", "", "abc", "zz", "middle sized"]


class CharacterTokenizer:
    """A character is a token: ids follow from the code point."""

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [[4 + ord(char) % (VOCAB - 5) for char in text] for text in texts]


def _model(model_type: str = "xlm-roberta", positions: int = 66) -> MaskedLanguageModel:
    config = ModelConfig.model_validate(
        {
            "model_type": model_type,
            "vocab_size": VOCAB,
            "hidden_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 32,
            "max_position_embeddings": positions,
            "initializer_range": 0.3,
            "hidden_dropout_prob": 0.5,
        }
    )
    model = MaskedLanguageModel(config)
    initialize(model, config, seed=3)
    return model


def _one_by_one(model: MaskedLanguageModel, layer: int, max_len: int = 64) -> np.ndarray:
    model.eval()
    rows = []
    for tokens in CharacterTokenizer().encode_batch(SENTENCES):
        ids = torch.tensor([BOS, *tokens[: max_len - 2], EOS])
        n = len(ids)
        with torch.no_grad():
            states = model.hidden_states(
                ids, torch.arange(n), torch.tensor([0, n], dtype=torch.int32), n
            )
        rows.append(states[layer].numpy().mean(axis=0))
    return np.stack(rows)


@pytest.mark.parametrize("model_type", ["xlm-roberta", "xlm-roberta-xl"])
@pytest.mark.parametrize("layer", [-1, 0, 1, 2])
@pytest.mark.parametrize("batch_tokens", [1, 20, 4096])
def test_equals_one_sentence_at_a_time(model_type: str, layer: int, batch_tokens: int) -> None:
    model = _model(model_type)
    expected = _one_by_one(model, layer)
    model.train()  # dropout must be off all the same
    found = embed_sentences(model, CharacterTokenizer(), SENTENCES, layer, batch_tokens)
    assert found.dtype == np.float32 and found.shape == (len(SENTENCES), 16)
    np.testing.assert_allclose(found, expected, atol=2e-6)
    assert np.abs(expected).max() > 0.05
    assert model.training


def test_equal_sentences_are_equal_to_the_bit_and_layers_differ() -> None:
    model = _model()
    last = embed_sentences(model, CharacterTokenizer(), SENTENCES, -1)
    assert (last[0] == last[3]).all()
    first = embed_sentences(model, CharacterTokenizer(), SENTENCES, 1)
    assert np.abs(last - first).max() > 0.05


def test_long_sentences_are_cut_at_max_len_and_at_the_positions() -> None:
    model = _model()
    found = embed_sentences(model, CharacterTokenizer(), SENTENCES, max_len=10)
    np.testing.assert_allclose(found, _one_by_one(model, -1, max_len=10), atol=2e-6)
    short = _model(positions=14)  # 12 positions: XLM-R spends two
    found = embed_sentences(short, CharacterTokenizer(), SENTENCES)
    np.testing.assert_allclose(found, _one_by_one(short, -1, max_len=12), atol=2e-6)


def test_no_sentences() -> None:
    assert embed_sentences(_model(), CharacterTokenizer(), []).shape == (0, 16)


@pytest.mark.parametrize("layer", [3, -4, 12])
def test_layer_out_of_range_is_refused(layer: int) -> None:
    with pytest.raises(UserError, match=rf"layer {layer}: the model has 2 layers.*0 .* to 2"):
        embed_sentences(_model(), CharacterTokenizer(), SENTENCES, layer)


def _write_pair(folder: Path, name: str, source: list[str], target: list[str]) -> None:
    for lang, lines in zip(name.split("-"), (source, target), strict=True):
        text = "".join(f"{line}\n" for line in lines).encode()
        (folder / f"{name}.{lang}.gz").write_bytes(gzip.compress(text))


@pytest.mark.parametrize("scoring", ["cosine", "margin"])
def test_retrieval_from_files(tmp_path: Path, scoring: str) -> None:
    lines = [f"sentence {i} {i * 7919 % 1000}" for i in range(12)]
    _write_pair(tmp_path, "aa-bb", lines, lines)
    _write_pair(tmp_path, "aa-cc", lines, lines[6:] + lines[:6])  # each line meets another one
    seen: list[str] = []
    report = evaluate_retrieval(
        _model(),
        CharacterTokenizer(),
        tmp_path,
        scoring=scoring,
        on_pair=lambda pair: seen.append(pair.name),
    )
    assert seen == ["aa-bb", "aa-cc"]
    right, wrong = report.pairs
    assert (right.source_to_target, right.target_to_source, right.candidates) == (1.0, 1.0, 12)
    assert (wrong.source_to_target, wrong.target_to_source) == (0.0, 0.0)
    assert report.mean == 0.5 and report.chance == pytest.approx(1 / 12)


def test_retrieval_limit(tmp_path: Path) -> None:
    lines = [f"sentence {i} {i * 7919 % 1000}" for i in range(12)]
    _write_pair(tmp_path, "aa-bb", lines, lines)
    report = evaluate_retrieval(_model(), CharacterTokenizer(), tmp_path, ["aa-bb"], limit=5)
    assert report.pairs[0].candidates == 5
    with pytest.raises(UserError, match="limit 0"):
        evaluate_retrieval(_model(), CharacterTokenizer(), tmp_path, limit=0)


@pytest.mark.parametrize("world_size", [2, 3, 7])
def test_ranks_share_the_sentences_and_agree_to_the_bit(world_size: int) -> None:
    model = _model()
    alone = embed_sentences(model, CharacterTokenizer(), SENTENCES, batch_tokens=12)
    given: list[torch.Tensor] = []
    passes: list[int] = []
    count = 0

    def counted(*_: object) -> None:
        nonlocal count
        count += 1

    handle = model.embeddings.register_forward_hook(counted)
    for rank in range(world_size):
        count = 0
        embed_sentences(
            model,
            CharacterTokenizer(),
            SENTENCES,
            batch_tokens=12,
            reduce=lambda values: given.append(values.clone()) or values,
            rank=rank,
            world_size=world_size,
        )
        passes.append(count)
    handle.remove()
    assert len(set(passes)) == 1 and passes[0] > 0
    total = torch.stack(given).sum(dim=0)
    shared = embed_sentences(
        model,
        CharacterTokenizer(),
        SENTENCES,
        batch_tokens=12,
        reduce=lambda _: total,
        rank=0,
        world_size=world_size,
    )
    assert (shared == alone).all()
