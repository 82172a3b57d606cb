"""Which parameters are decayed, and the optimizer built over them."""

import pytest
import torch

from megaxlm.config.pretrain import OptimizerConfig
from megaxlm.model.encoder import MaskedLanguageModel
from megaxlm.optim.optimizers import build_optimizer
from megaxlm.optim.param_groups import DECAYED, UNDECAYED, parameter_groups
from megaxlm.testing.models import tiny_model_config


@pytest.mark.parametrize("pre_norm", [False, True])
def test_norms_and_biases_are_not_decayed(pre_norm: bool) -> None:
    model = MaskedLanguageModel(tiny_model_config(pre_norm=pre_norm))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed, undecayed = parameter_groups(model, 0.1)
    assert (decayed["name"], decayed["weight_decay"]) == (DECAYED, 0.1)
    assert (undecayed["name"], undecayed["weight_decay"]) == (UNDECAYED, 0.0)
    kept = {names[id(parameter)] for parameter in undecayed["params"]}
    assert kept == {n for n in names.values() if n.endswith("bias") or "norm" in n}
    assert "embeddings.word.weight" in {names[id(p)] for p in decayed["params"]}


def test_every_trainable_parameter_stands_once() -> None:
    model = MaskedLanguageModel(tiny_model_config())
    frozen = model.embeddings.position.weight.requires_grad_(False)
    members = [p for group in parameter_groups(model, 0.1) for p in group["params"]]
    assert len(members) == len({id(p) for p in members})
    trainable = {id(p) for p in model.parameters()} - {id(frozen)}
    assert {id(p) for p in members} == trainable


def test_empty_groups_are_left_out() -> None:
    assert [g["name"] for g in parameter_groups(torch.nn.Linear(2, 2, bias=False), 0.1)] == [
        DECAYED
    ]


def test_adamw_takes_its_settings_and_waits_for_a_rate() -> None:
    model = torch.nn.Linear(3, 3)
    config = OptimizerConfig(betas=(0.8, 0.9), eps=1e-7, weight_decay=0.2)
    optimizer = build_optimizer(config, parameter_groups(model, 0.2), torch.device("cpu"))
    before = [parameter.detach().clone() for parameter in model.parameters()]
    for group in optimizer.param_groups:
        assert (group["betas"], group["eps"], group["lr"]) == ((0.8, 0.9), 1e-7, 0.0)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    for group in optimizer.param_groups:
        group["lr"] = 0.1
    optimizer.step()
    assert not any(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
