"""muP: what starts smaller and trains slower in a wider model, so that a rate transfers."""

import pytest
import torch
from pydantic import ValidationError

from megaxlm.config.pretrain import ModelConfig, OptimizerConfig, PretrainConfig
from megaxlm.model.encoder import MaskedLanguageModel
from megaxlm.model.initialization import initialize
from megaxlm.optim.param_groups import LR_SCALE, parameter_groups

SEED = 3


def model_of(width: int, base: int | None, tie: bool = True) -> MaskedLanguageModel:
    config = ModelConfig(
        vocab_size=400,
        hidden_size=width,
        num_hidden_layers=2,
        num_attention_heads=width // 16,
        intermediate_size=4 * width,
        max_position_embeddings=18,
        tie_word_embeddings=tie,
        mup_base_hidden_size=base,
    )
    model = MaskedLanguageModel(config)
    initialize(model, config, SEED)
    return model


def groups_by_name(model: MaskedLanguageModel, **optimizer: object) -> dict[str, dict[str, object]]:
    config = OptimizerConfig.model_validate(optimizer)
    groups = parameter_groups(model.named_parameters(), model.config, config)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {names[id(p)]: group for group in groups for p in group["params"]}


@pytest.mark.parametrize("tie", [True, False])
def test_at_the_base_width_nothing_changes(tie: bool) -> None:
    plain, same = model_of(32, None, tie), model_of(32, 32, tie)
    for one, other in zip(plain.parameters(), same.parameters(), strict=True):
        assert torch.equal(one, other)
    before, after = groups_by_name(plain), groups_by_name(same)
    for name, group in after.items():
        assert group[LR_SCALE] == 1.0
        assert group["weight_decay"] == before[name]["weight_decay"]


@pytest.mark.parametrize("tie", [True, False])
def test_a_wider_model_starts_with_smaller_matrices_and_logits(tie: bool) -> None:
    plain, wide = (dict(model_of(64, base, tie).named_parameters()) for base in (None, 16))
    for name, value in wide.items():
        if name == "head.norm.weight":
            shrunk = 4.0
        elif value.dim() == 2 and (name.startswith("layers.") or name == "head.dense.weight"):
            shrunk = 2.0
        else:  # embeddings, the decoder, norms, biases
            shrunk = 1.0
        torch.testing.assert_close(value * shrunk, plain[name])


@pytest.mark.parametrize("decay", [1.0, 0.5])
def test_rates_fall_with_the_width_and_a_step_decays_as_much(decay: float) -> None:
    plain, wide = (
        groups_by_name(model_of(64, base), weight_decay=0.1, layer_lr_decay=decay)
        for base in (None, 16)
    )
    falls = {
        name
        for name, group in wide.items()
        if group[LR_SCALE] == pytest.approx(plain[name][LR_SCALE] / 4)  # type: ignore[operator]
    }
    matrices = {n for n in wide if n.startswith("layers.") and wide[n]["weight_decay"]}
    assert falls == matrices | {"head.dense.weight", "head.norm.weight", "head.norm.bias"}
    for name, group in wide.items():
        product = group[LR_SCALE] * group["weight_decay"]  # type: ignore[operator]
        before = plain[name][LR_SCALE] * plain[name]["weight_decay"]  # type: ignore[operator]
        assert product == pytest.approx(before)
        assert name in falls or group[LR_SCALE] == plain[name][LR_SCALE]


def test_group_names_tell_the_groups_apart() -> None:
    model = model_of(64, 16)
    for settings in ({}, {"layer_lr_decay": 0.25}):  # a decay that is a width too
        config = OptimizerConfig.model_validate(settings)
        groups = parameter_groups(model.named_parameters(), model.config, config)
        names = [group["name"] for group in groups]
        assert len(set(names)) == len(names)
        assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))


@pytest.mark.parametrize("name", ["lamb", "apex_lamb", "muon"])
def test_optimizers_that_scale_otherwise_are_refused(name: str) -> None:
    settings = {
        "run_dir": "r",
        "data": {"path": "d"},
        "model": {"mup_base_hidden_size": 128},
        "optimizer": {"name": name},
        "training": {"max_steps": 1, "global_batch_size": 1, "micro_batch_size": 1},
    }
    with pytest.raises(ValidationError, match="set optimizer.name: adamw or stable_adamw"):
        PretrainConfig.model_validate(settings)
