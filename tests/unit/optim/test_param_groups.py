"""Which parameters are decayed, at which rate and by which rule; the optimizers built over them."""

from typing import Any

import pytest
import torch
from torch import nn

from megaxlm.config.pretrain import ModelConfig, OptimizerConfig
from megaxlm.model.encoder import MaskedLanguageModel
from megaxlm.optim.param_groups import (
    DECAYED,
    LR_SCALE,
    MUON,
    MUON_QKV,
    UNDECAYED,
    parameter_groups,
)
from megaxlm.optim.state import STACKED, moment_names
from megaxlm.testing.models import tiny_model_config


def build(
    model_config: ModelConfig | None = None, **optimizer: Any
) -> tuple[MaskedLanguageModel, list[dict[str, Any]], dict[str, dict[str, Any]]]:
    """Returns a model, its groups, and the group of each name."""
    model_config = model_config or tiny_model_config()
    model = MaskedLanguageModel(model_config)
    named = dict(model.named_parameters())
    groups = parameter_groups(named.items(), model_config, OptimizerConfig(**optimizer))
    names = {id(parameter): name for name, parameter in named.items()}
    return model, groups, {names[id(p)]: group for group in groups for p in group["params"]}


@pytest.mark.parametrize("pre_norm", [False, True])
def test_norms_and_biases_are_not_decayed(pre_norm: bool) -> None:
    _, groups, by_name = build(tiny_model_config(pre_norm=pre_norm), weight_decay=0.1)
    assert [(g["name"], g["weight_decay"]) for g in groups] == [(DECAYED, 0.1), (UNDECAYED, 0.0)]
    kept = {name for name, group in by_name.items() if group["name"] == UNDECAYED}
    assert kept == {n for n in by_name if n.endswith("bias") or "norm" in n}
    assert by_name["embeddings.word.weight"]["name"] == DECAYED
    assert all(group[LR_SCALE] == 1.0 for group in groups)
    assert all(moment_names(group) == ("exp_avg", "exp_avg_sq") for group in groups)


def test_partitioned_parameters_are_judged_by_their_real_shape() -> None:
    """ZeRO-3 leaves a flat and empty tensor behind."""
    matrix, bias = nn.Parameter(torch.empty(0)), nn.Parameter(torch.empty(0))
    matrix.ds_shape, bias.ds_shape = torch.Size([3, 4]), torch.Size([12])  # type: ignore[attr-defined]
    named = [("layers.0.feed_forward.up.weight", matrix), ("layers.0.feed_forward.up.bias", bias)]
    groups = parameter_groups(named, tiny_model_config(), OptimizerConfig(name="muon"))
    assert [(g["name"], len(g["params"])) for g in groups] == [(MUON, 1), (UNDECAYED, 1)]


def test_every_trainable_parameter_stands_once() -> None:
    config = tiny_model_config()
    model = MaskedLanguageModel(config)
    frozen = model.embeddings.position.weight.requires_grad_(False)
    groups = parameter_groups(model.named_parameters(), config, OptimizerConfig(layer_lr_decay=0.5))
    members = [p for group in groups for p in group["params"]]
    assert len(members) == len({id(p) for p in members})
    trainable = {id(p) for p in model.parameters()} - {id(frozen)}
    assert {id(p) for p in members} == trainable


def test_muon_takes_the_matrices_of_the_layers_alone() -> None:
    _, groups, by_name = build(name="muon", weight_decay=0.1, ema_decay=0.9)
    assert [g["name"] for g in groups] == [MUON, MUON_QKV, DECAYED, UNDECAYED]
    assert [g[STACKED] for g in groups] == [1, 3, 1, 1]
    taken = {name for name, group in by_name.items() if group["name"] in (MUON, MUON_QKV)}
    assert taken == {
        name for name in by_name if name.startswith("layers.") and by_name[name]["weight_decay"]
    }
    assert {"embeddings.word.weight", "head.dense.weight"} <= by_name.keys() - taken
    stacked = {name for name, group in by_name.items() if group["name"] == MUON_QKV}
    assert stacked == {f"layers.{layer}.attention.qkv.weight" for layer in (0, 1)}
    for matrices in groups[:2]:
        assert moment_names(matrices) == ("momentum_buffer", "ema")
        assert matrices["weight_decay"] == 0.1
    assert moment_names(groups[2]) == ("exp_avg", "exp_avg_sq", "ema")


@pytest.mark.parametrize("tied", [True, False])
def test_rates_fall_layer_by_layer(tied: bool) -> None:
    config = tiny_model_config(num_hidden_layers=3, pre_norm=True)
    config = config.model_copy(update={"tie_word_embeddings": tied})
    _, groups, by_name = build(config, layer_lr_decay=0.5)
    scale = {name: group[LR_SCALE] for name, group in by_name.items()}
    assert scale["head.dense.weight"] == scale["head.decoder.bias"] == 1.0
    assert scale["final_norm.weight"] == 1.0
    assert scale["layers.2.attention_norm.weight"] == 0.5
    assert {scale[name] for name in scale if name.startswith("layers.0.")} == {0.125}
    assert scale["embeddings.word.weight"] == scale["embeddings.position.weight"] == 0.0625
    if not tied:
        assert scale["head.decoder.weight"] == 1.0
    names = [group["name"] for group in groups]
    assert len(set(names)) == len(names) == 2 * 4 + 1  # no norm stands with these embeddings
    assert {"layers.1.decayed", "head.undecayed", "embeddings.decayed"} <= set(names)


def test_a_stage_of_a_pipeline_names_its_groups_as_the_whole_model_does() -> None:
    config, settings = tiny_model_config(num_hidden_layers=3), OptimizerConfig(layer_lr_decay=0.9)
    model = MaskedLanguageModel(config)
    whole = {g["name"]: g for g in parameter_groups(model.named_parameters(), config, settings)}
    last = [
        (name, parameter)
        for name, parameter in model.named_parameters()
        if name.startswith(("layers.2.", "head."))
    ]
    tied = [("head.decoder.weight", model.embeddings.word.weight)]
    for group in parameter_groups(last + tied, config, settings):
        same = whole[group["name"]]
        assert {k: v for k, v in group.items() if k != "params"} == {
            k: v for k, v in same.items() if k != "params"
        }
        assert {id(p) for p in group["params"]} <= {id(p) for p in same["params"]}


def test_empty_groups_are_left_out() -> None:
    named = nn.Linear(2, 2, bias=False).named_parameters()
    groups = parameter_groups(named, tiny_model_config(), OptimizerConfig())
    assert [group["name"] for group in groups] == [DECAYED]
