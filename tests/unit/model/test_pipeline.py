"""Stages run one after another are the whole model; the cut is the best there is."""

from itertools import combinations
from typing import Any

import pytest
import torch

from megaxlm.config.pretrain import ModelConfig
from megaxlm.errors import UserError
from megaxlm.model.dropout_key import DropoutKey
from megaxlm.model.encoder import MaskedLanguageModel
from megaxlm.model.flops import FORWARD_AND_BACKWARD, training_flops
from megaxlm.model.initialization import initialize
from megaxlm.model.pipeline import (
    TIED_PARAMETER,
    PipelineStage,
    StageSpan,
    balance_stages,
    state_owners,
    unit_costs,
)
from megaxlm.testing.models import random_micro_batch, tiny_model_config

LARGE = ModelConfig(
    vocab_size=250_002,
    hidden_size=1024,
    num_hidden_layers=24,
    num_attention_heads=16,
    intermediate_size=4096,
    max_position_embeddings=514,
)
# (tied, pre-norm, units of each stage): layers everywhere, a lone head, lone embeddings
CUTS = [
    (True, False, [(0, 2), (2, 5)]),
    (True, True, [(0, 4), (4, 5)]),
    (False, True, [(0, 2), (2, 3), (3, 5)]),
    (False, False, [(0, 1), (1, 4), (4, 5)]),
]


def config_of(tied: bool, pre_norm: bool, **changes: Any) -> ModelConfig:
    config = tiny_model_config(num_hidden_layers=3, pre_norm=pre_norm, dropout=0.1)
    return config.model_copy(update={"tie_word_embeddings": tied, **changes})


def stages_of(config: ModelConfig, cut: list[tuple[int, int]]) -> list[PipelineStage]:
    stages = [PipelineStage(config, StageSpan(*units, config.num_hidden_layers)) for units in cut]
    for stage in stages:
        initialize(stage, config, seed=1)
    return stages


def whole_of(config: ModelConfig) -> MaskedLanguageModel:
    model = MaskedLanguageModel(config)
    initialize(model, config, seed=1)
    return model


@pytest.mark.parametrize(("tied", "pre_norm", "cut"), CUTS)
@pytest.mark.parametrize("recompute", [False, 1, True])
def test_stages_compute_loss_and_gradients_of_the_whole(
    tied: bool, pre_norm: bool, cut: list[tuple[int, int]], recompute: bool | int
) -> None:
    config = config_of(tied, pre_norm, activation_checkpointing=recompute)
    stages, whole = stages_of(config, cut), whole_of(config)
    batch, key = random_micro_batch(7), DropoutKey(1, (14, 15), 16)
    sides = (batch.positions, batch.cu_seqlens, batch.target_index)
    hidden = batch.tokens
    for stage in stages:
        hidden = stage(hidden, *sides, batch.seq_len, key)
    loss, losses = stages[-1].loss(hidden, batch.targets, batch.target_weight)
    expected_loss, expected_losses = whole(
        batch.tokens, *sides, batch.targets, batch.target_weight, batch.seq_len, key
    )
    assert torch.equal(loss, expected_loss) and torch.equal(losses, expected_losses)
    loss.backward()
    expected_loss.backward()
    found: dict[str, torch.Tensor] = {}
    for stage in stages:
        for name, parameter in stage.named_parameters():
            assert parameter.grad is not None, name
            found[name] = found[name] + parameter.grad if name in found else parameter.grad
    expected = {name: parameter.grad for name, parameter in whole.named_parameters()}
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-5, atol=1e-7, msg=name)


@pytest.mark.parametrize(("tied", "pre_norm", "cut"), CUTS)
def test_hidden_states_come_from_their_owners(
    tied: bool, pre_norm: bool, cut: list[tuple[int, int]]
) -> None:
    config = config_of(tied, pre_norm)
    stages, whole = stages_of(config, cut), whole_of(config).eval()
    batch = random_micro_batch(3)
    hidden, given = batch.tokens, []
    for stage in stages:
        states, hidden = stage.eval().hidden_states(
            hidden, batch.positions, batch.cu_seqlens, batch.seq_len
        )
        given.append(states)
    expected = whole.hidden_states(batch.tokens, batch.positions, batch.cu_seqlens, batch.seq_len)
    owners = state_owners([stage.span for stage in stages], config)
    assert len(owners) == len(expected)
    for index, state in enumerate(expected):
        assert torch.equal(given[owners[index]][index], state), index


@pytest.mark.parametrize(("tied", "pre_norm", "cut"), CUTS)
def test_every_parameter_is_owned_once(
    tied: bool, pre_norm: bool, cut: list[tuple[int, int]]
) -> None:
    config = config_of(tied, pre_norm)
    owned: list[str] = []
    for number, (stage, (start, stop)) in enumerate(zip(stages_of(config, cut), cut, strict=True)):
        names = [name for name, _ in stage.named_parameters()]
        assert names and stop > start
        is_copy = tied and number == len(cut) - 1
        assert stage.replicas == ({TIED_PARAMETER} if is_copy else set())
        assert (stage.tied_embedding is not None) == (tied and number in (0, len(cut) - 1))
        owned += [name for name in names if name not in stage.replicas]
    assert sorted(owned) == sorted(name for name, _ in whole_of(config).named_parameters())


def test_a_single_stage_is_refused() -> None:
    with pytest.raises(ValueError, match="single stage"):
        PipelineStage(config_of(True, False), StageSpan(0, 5, 3))


def test_costs_add_up_to_the_flops_of_a_step() -> None:
    embeddings, *layers, head = unit_costs(LARGE, 8192, 1229, 512)
    flops = training_flops(LARGE, 8192, 1229, 512)
    assert sum(layers) + head == flops.total
    assert head == flops.head
    assert layers[-1] < layers[0] and len(set(layers[:-1])) == 1
    assert 0 < embeddings < layers[0]


@pytest.mark.parametrize("recompute", [False, 2, True])
@pytest.mark.parametrize("stages", [2, 3, 5])
def test_cut_is_the_best_of_all(stages: int, recompute: bool | int) -> None:
    config = LARGE.model_copy(
        update={"num_hidden_layers": 7, "activation_checkpointing": recompute}
    )
    costs = unit_costs(config, 2048, 307, 512)

    def slowest(bounds: list[int]) -> float:
        worst = 0.0
        for start, stop in zip(bounds[:-1], bounds[1:], strict=True):
            inside = [unit for unit in range(start, stop) if 1 <= unit <= 7]
            again = inside if recompute is True else inside[: int(recompute)]
            forward = sum(costs[unit] for unit in again) / FORWARD_AND_BACKWARD
            worst = max(worst, sum(costs[start:stop]) + forward)
        return worst

    best = min(slowest([0, *inner, 9]) for inner in combinations(range(1, 9), stages - 1))
    spans = balance_stages(config, stages, 2048, 307, 512)
    bounds = [span.start for span in spans] + [9]
    assert [span.stop for span in spans] == bounds[1:] and bounds[0] == 0
    assert slowest(bounds) == pytest.approx(best, rel=1e-12)


def test_head_of_a_large_vocabulary_counts() -> None:
    """250,000 words weigh about three layers, so the last stage holds fewer of them."""
    spans = balance_stages(LARGE, 4, 8192, 1229, 512)
    assert spans[0].has_embeddings and spans[-1].has_head
    assert [list(span.layers) for span in spans][0][0] == 0
    assert sum(len(span.layers) for span in spans) == 24
    assert len(spans[-1].layers) <= len(spans[1].layers) - 2


@pytest.mark.parametrize("stages", [1, 24])
def test_as_many_stages_as_layers(stages: int) -> None:
    spans = balance_stages(LARGE, stages, 8192, 1229, 512)
    assert len(spans) == stages and all(span.stop > span.start for span in spans)


def test_more_stages_than_layers_are_refused() -> None:
    with pytest.raises(UserError) as caught:
        balance_stages(LARGE, 25, 8192, 1229, 512)
    assert str(caught.value) == (
        "training.pipeline_stages 25 exceeds model.num_hidden_layers 24; use "
        "training.pipeline_stages 1 to 24"
    )
