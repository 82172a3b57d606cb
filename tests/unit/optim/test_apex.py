"""apex's optimizers, by a stand-in of the same signature: apex itself needs a GPU and a build."""

import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import Optimizer

from megaxlm.config.pretrain import OptimizerConfig
from megaxlm.errors import UserError
from megaxlm.optim.param_groups import parameter_groups
from megaxlm.optim.state import reset_state, step_count
from megaxlm.testing.models import tiny_model_config
from megaxlm.train.optimizer import build_optimizer


class FusedAdam(Optimizer):
    """Counts as apex does: in the group, at every call, and fails on a group without parameters."""

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        bias_correction: bool = True,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        adam_w_mode: bool = True,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        set_grad_none: bool = True,
        capturable: bool = False,
        master_weights: bool = False,
    ) -> None:
        settings = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, {"bias_correction": bias_correction, **settings})
        assert adam_w_mode and not capturable and not master_weights

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            assert group["params"][0].device.type == "cpu"
            group["step"] = group.get("step", 0) + 1
            beta1, beta2 = group["betas"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if len(state) == 0:
                    state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(p), torch.zeros_like(p)
                state["exp_avg"].lerp_(p.grad, 1 - beta1)
                state["exp_avg_sq"].mul_(beta2).addcmul_(p.grad, p.grad, value=1 - beta2)
                first = state["exp_avg"] / (1 - beta1 ** group["step"])
                second = state["exp_avg_sq"] / (1 - beta2 ** group["step"])
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.sub_(group["lr"] * first / (second.sqrt() + group["eps"]))


class FusedLAMB(Optimizer):
    """Keeps what it was given."""

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        bias_correction: bool = True,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.01,
        amsgrad: bool = False,
        adam_w_mode: bool = True,
        grad_averaging: bool = True,
        set_grad_none: bool = True,
        max_grad_norm: float = 1.0,
        use_nvlamb: bool = False,
    ) -> None:
        settings = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, {"max_grad_norm": max_grad_norm, **settings})


class NeedsCuda(Optimizer):
    """What apex does without its extensions."""

    def __init__(self, params: Any, **settings: Any) -> None:
        raise RuntimeError("apex.optimizers.FusedAdam requires cuda extensions")


@pytest.fixture
def apex(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    package, module = ModuleType("apex"), ModuleType("apex.optimizers")
    module.FusedAdam, module.FusedLAMB = FusedAdam, FusedLAMB  # type: ignore[attr-defined]
    package.optimizers = module  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "apex", package)
    monkeypatch.setitem(sys.modules, "apex.optimizers", module)
    yield module


def build(name: str) -> tuple[Optimizer, list[nn.Parameter]]:
    generator = torch.Generator().manual_seed(4)
    shapes = {"layers.0.a.weight": (4, 6), "head.b.weight": (3, 5), "head.b.bias": (7,)}
    named = {n: nn.Parameter(torch.randn(s, generator=generator)) for n, s in shapes.items()}
    config = OptimizerConfig(name=name, betas=(0.8, 0.9), eps=1e-5, weight_decay=0.2)
    groups = parameter_groups(named.items(), tiny_model_config(), config)
    return build_optimizer(config, groups, torch.device("cpu")), list(named.values())


def test_lamb_is_told_not_to_clip(apex: ModuleType) -> None:
    optimizer, _ = build("apex_lamb")
    assert isinstance(optimizer, FusedLAMB)
    for group, decay in zip(optimizer.param_groups, (0.2, 0.0), strict=True):
        assert (group["betas"], group["eps"], group["weight_decay"]) == ((0.8, 0.9), 1e-5, decay)
        assert group["max_grad_norm"] == float("inf")


def test_a_group_that_is_stepped_in_parts_counts_each_step_once(apex: ModuleType) -> None:
    """As ZeRO-3 does it: one master at a time, the other groups empty."""
    optimizer, parameters = build("apex_adam")
    twin, expected = build("adamw")
    groups = optimizer.param_groups
    members = [list(group["params"]) for group in groups]
    for group in groups:
        for parameter in group["params"]:
            reset_state(optimizer, group, parameter, 0)
    for step in range(3):
        generator = torch.Generator().manual_seed(step)
        for parameter, other in zip(parameters, expected, strict=True):
            parameter.grad = other.grad = torch.randn(parameter.shape, generator=generator)
        for each in (optimizer, twin):
            for group in each.param_groups:
                group["lr"] = 0.05
        twin.step()
        for group in groups:
            group["params"] = []
        for group, masters in zip(groups, members, strict=True):
            for master in masters:
                group["params"] = [master]
                optimizer.step()
                group["params"] = []
        assert optimizer.param_groups is groups
    for group, masters in zip(groups, members, strict=True):
        assert {step_count(optimizer, group, master) for master in masters} == {3}
    for parameter, other in zip(parameters, expected, strict=True):
        torch.testing.assert_close(parameter, other, rtol=1e-6, atol=1e-7)


def test_a_count_that_was_set_is_gone_on_from(apex: ModuleType) -> None:
    optimizer, parameters = build("apex_adam")
    group = optimizer.param_groups[1]
    (bias,) = group["params"]
    reset_state(optimizer, group, bias, 41)
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert step_count(optimizer, group, bias) == group["step"] == 42


@pytest.mark.parametrize(("name", "instead"), [("apex_adam", "adamw"), ("apex_lamb", "lamb")])
def test_without_apex_the_message_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, name: str, instead: str
) -> None:
    monkeypatch.setitem(sys.modules, "apex", None)
    with pytest.raises(UserError) as caught:
        build(name)
    message = str(caught.value)
    assert f"optimizer.name {name} needs NVIDIA apex" in message and "\n" not in message
    assert f"optimizer.name: {instead}" in message


def test_another_apex_is_told_apart(apex: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(apex, "FusedAdam")
    with pytest.raises(UserError, match=r"has no apex\.optimizers\.FusedAdam"):
        build("apex_adam")
    monkeypatch.setattr(apex, "FusedAdam", NeedsCuda, raising=False)
    with pytest.raises(UserError, match="cannot be built .*requires cuda extensions"):
        build("apex_adam")
