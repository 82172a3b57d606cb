"""Moments and step counts, as every optimizer wants them; averaged weights."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from megaxlm.config.pretrain import OptimizerConfig
from megaxlm.optim.param_groups import parameter_groups
from megaxlm.optim.state import moment_names, reset_state, step_count
from megaxlm.testing.models import tiny_model_config
from megaxlm.train.optimizer import build_optimizer

NAMES = ["adamw", "lamb", "stable_adamw", "muon"]


def build(name: str, **settings: Any) -> tuple[torch.optim.Optimizer, list[nn.Parameter]]:
    """Two matrices and a bias under an optimizer with a rate."""
    generator = torch.Generator().manual_seed(2)
    shapes = {"layers.0.a.weight": (4, 6), "head.b.weight": (3, 5), "head.b.bias": (7,)}
    named = {
        name: nn.Parameter(torch.randn(shape, generator=generator))
        for name, shape in shapes.items()
    }
    config = OptimizerConfig(name=name, **settings)
    groups = parameter_groups(named.items(), tiny_model_config(), config)
    optimizer = build_optimizer(config, groups, torch.device("cpu"))
    assert all(group["lr"] == 0.0 for group in optimizer.param_groups)  # until a step sets it
    for group in optimizer.param_groups:
        group["lr"] = 0.1
    return optimizer, list(named.values())


def take_step(optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    optimizer.step()


def states(optimizer: torch.optim.Optimizer) -> list[dict[str, Tensor]]:
    return [
        {name: optimizer.state[p][name] for name in moment_names(group)}
        for group in optimizer.param_groups
        for p in group["params"]
    ]


@pytest.mark.parametrize("name", NAMES)
def test_a_reset_optimizer_takes_the_step_of_a_new_one(name: str) -> None:
    fresh, expected = build(name)
    used, parameters = build(name)
    before = [parameter.detach().clone() for parameter in parameters]
    take_step(used, parameters, 5)
    moments = [value for state in states(used) for value in state.values()]
    with torch.no_grad():
        for parameter, value in zip(parameters, before, strict=True):
            parameter.copy_(value)
    for group in used.param_groups:
        for parameter in group["params"]:
            reset_state(used, group, parameter, 0)
            assert step_count(used, group, parameter) == 0
    kept = [value for state in states(used) for value in state.values()]
    assert all(a is b for a, b in zip(moments, kept, strict=True))  # fragments hold views of them
    assert not any(value.any() for value in kept)
    for optimizer, weights in ((fresh, expected), (used, parameters)):
        take_step(optimizer, weights, 9)
    for weight, value in zip(parameters, expected, strict=True):
        assert torch.equal(weight, value)


@pytest.mark.parametrize("name", NAMES)
def test_moments_and_a_count_are_all_that_a_resume_needs(name: str) -> None:
    unbroken, expected = build(name, ema_decay=0.7)
    for seed in range(3):
        take_step(unbroken, expected, seed)
    resumed, parameters = build(name, ema_decay=0.7)
    with torch.no_grad():
        for parameter, value in zip(parameters, expected, strict=True):
            parameter.copy_(value)
        for group in resumed.param_groups:
            for parameter in group["params"]:
                reset_state(resumed, group, parameter, 3)
                assert step_count(resumed, group, parameter) == 3
        for state, saved in zip(states(resumed), states(unbroken), strict=True):
            for moment, value in saved.items():
                state[moment].copy_(value)
    for optimizer, weights in ((unbroken, expected), (resumed, parameters)):
        take_step(optimizer, weights, 7)
    for weight, value in zip(parameters, expected, strict=True):
        assert torch.equal(weight, value)
    for state, saved in zip(states(resumed), states(unbroken), strict=True):
        assert all(torch.equal(state[moment], value) for moment, value in saved.items())
    group = resumed.param_groups[0]
    assert step_count(resumed, group, group["params"][0]) == 4


@pytest.mark.parametrize("name", NAMES)
def test_averages_follow_the_weights(name: str) -> None:
    optimizer, parameters = build(name, ema_decay=0.6)
    plain, twins = build(name)
    averages: list[Tensor] = []
    for seed in range(4):
        take_step(optimizer, parameters, seed)
        take_step(plain, twins, seed)
        weights = [parameter.detach().double() for parameter in parameters]
        if seed == 0:
            averages = weights
        averages = [0.6 * a + 0.4 * w for a, w in zip(averages, weights, strict=True)]
    for parameter, twin, average in zip(parameters, twins, averages, strict=True):
        assert torch.equal(parameter, twin)  # averaging does not touch training
        found = optimizer.state[parameter]["ema"].double()
        torch.testing.assert_close(found, average, rtol=1e-6, atol=1e-7)
        assert not torch.allclose(found, parameter.double(), rtol=1e-3)


def test_only_what_was_stepped_is_averaged() -> None:
    """Under ZeRO-3 an optimizer is shown one part of its masters at a time."""
    optimizer, parameters = build("adamw", ema_decay=0.5)
    for seed in range(2):
        take_step(optimizer, parameters, seed)
    whole = optimizer.param_groups
    before = [state["ema"].clone() for state in states(optimizer)]
    optimizer.param_groups = whole[:1]
    optimizer.step()
    optimizer.param_groups = whole
    changed = [
        not torch.equal(a, state["ema"]) for a, state in zip(before, states(optimizer), strict=True)
    ]
    assert changed == [True] * len(whole[0]["params"]) + [False] * len(whole[1]["params"])


def test_the_count_before_any_step_is_zero() -> None:
    optimizer, parameters = build("lamb")
    assert step_count(optimizer, optimizer.param_groups[0], parameters[0]) == 0
