"""LAMB, StableAdamW and Muon against their papers' formulas, written out in float64."""

from collections.abc import Callable, Sequence
from math import sqrt
from typing import Any

import pytest
import torch
from torch import Tensor

from megaxlm.config.pretrain import OptimizerConfig
from megaxlm.optim.muon_exchange import COEFFICIENTS, orthogonalize
from megaxlm.optim.optimizers import build_torch_optimizer
from megaxlm.optim.param_groups import LR_SCALE
from megaxlm.optim.state import ADAM_MOMENTS, MOMENTS, MUON_MOMENTS, STACKED, moment_names

BETAS, EPS, DECAY, MOMENTUM = (0.8, 0.9), 1e-4, 0.1, 0.9
RATES = (0.05, 0.1, 0.03, 0.02)
SHAPES = ((5, 7), (8, 3), (9,), (4, 4))

Update = Callable[[Tensor, list[Tensor], int, float, float], Tensor]


def adam(grads: Sequence[Tensor], step: int) -> tuple[Tensor, Tensor]:
    """The bias-corrected moments after `step` gradients, summed up from their definition."""
    beta1, beta2 = BETAS
    first = sum((1 - beta1) * beta1 ** (step - 1 - i) * g for i, g in enumerate(grads[:step]))
    second = sum((1 - beta2) * beta2 ** (step - 1 - i) * g**2 for i, g in enumerate(grads[:step]))
    return first / (1 - beta1**step), second / (1 - beta2**step)


def lamb(weight: Tensor, grads: list[Tensor], step: int, lr: float, decay: float) -> Tensor:
    first, second = adam(grads, step)
    update = first / (second.sqrt() + EPS) + decay * weight
    ratio = weight.norm() / update.norm() if weight.ndim >= 2 and weight.norm() > 0 else 1.0
    return weight - lr * ratio * update


def stable_adamw(weight: Tensor, grads: list[Tensor], step: int, lr: float, decay: float) -> Tensor:
    """Correcting the betas makes the moments those of Adam with correction."""
    first, second = adam(grads, step)
    rms = (grads[step - 1] ** 2 / second.clamp(min=EPS**2)).mean().sqrt()
    rate = lr / max(1.0, float(rms))
    return weight - rate * decay * weight - rate * first / (second.sqrt() + EPS)


def adamw(weight: Tensor, grads: list[Tensor], step: int, lr: float, decay: float) -> Tensor:
    first, second = adam(grads, step)
    return weight - lr * decay * weight - lr * first / (second.sqrt() + EPS)


def muon(weight: Tensor, grads: list[Tensor], step: int, lr: float, decay: float) -> Tensor:
    momentum = sum(MOMENTUM ** (step - 1 - i) * g for i, g in enumerate(grads[:step]))
    ahead = grads[step - 1] + MOMENTUM * momentum
    # On singular values the iteration is a polynomial: the matrices need not be multiplied.
    u, s, vh = torch.linalg.svd(ahead / ahead.norm(), full_matrices=False)
    a, b, c = COEFFICIENTS
    for _ in range(5):
        s = a * s + b * s**3 + c * s**5
    scale = 0.2 * sqrt(max(weight.shape))
    return (1 - lr * decay) * weight - lr * scale * (u * s) @ vh


def groups_of(name: str, weights: Sequence[Tensor]) -> list[dict[str, Any]]:
    """A group as the builder of groups would make it, decayed ones first."""
    matrices = [weight for weight in weights if weight.ndim >= 2]
    rest = [weight for weight in weights if weight.ndim < 2]
    moments = MUON_MOMENTS if name == "muon" else ADAM_MOMENTS
    common = {LR_SCALE: 1.0}
    return [
        {"name": "m", "params": matrices, "weight_decay": DECAY, MOMENTS: moments, **common},
        {"name": "r", "params": rest, "weight_decay": 0.0, MOMENTS: ADAM_MOMENTS, **common},
    ]


@pytest.mark.parametrize(
    ("name", "of_matrices", "of_vectors"),
    [
        ("lamb", lamb, lamb),
        ("stable_adamw", stable_adamw, stable_adamw),
        ("muon", muon, adamw),
        ("adamw", adamw, adamw),
    ],
)
def test_updates_are_those_of_the_paper(name: str, of_matrices: Update, of_vectors: Update) -> None:
    generator = torch.Generator().manual_seed(3)
    weights = [torch.randn(shape, generator=generator).requires_grad_() for shape in SHAPES]
    weights[3].detach().zero_()  # a matrix without a norm
    config = OptimizerConfig(
        name=name, betas=BETAS, eps=EPS, weight_decay=DECAY, muon_momentum=MOMENTUM
    )
    optimizer = build_torch_optimizer(config, groups_of(name, weights), torch.device("cpu"))
    expected = [weight.detach().double() for weight in weights]
    grads: list[list[Tensor]] = [[] for _ in weights]
    for step, lr in enumerate(RATES, 1):
        for index, weight in enumerate(weights):
            # The third gradient is large: what clips updates must show.
            size = 20.0 if step == 3 else 1.0
            weight.grad = size * torch.randn(weight.shape, generator=generator)
            grads[index].append(weight.grad.double())
            update, decay = (of_matrices, DECAY) if weight.ndim >= 2 else (of_vectors, 0.0)
            expected[index] = update(expected[index], grads[index], step, lr, decay)
        before = [weight.grad.clone() for weight in weights if weight.grad is not None]
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()
        for weight, value in zip(weights, expected, strict=True):
            torch.testing.assert_close(weight.detach().double(), value, rtol=2e-5, atol=2e-6)
        after = [weight.grad for weight in weights]
        assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    for group in optimizer.param_groups:
        for weight in group["params"]:
            assert set(moment_names(group)) | {"step"} == set(optimizer.state[weight])


def test_the_papers_differ_where_they_should() -> None:
    """The references above would not tell the optimizers apart if they agreed."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(6, 5, generator=generator, dtype=torch.float64)
    grads = [torch.randn(6, 5, generator=generator, dtype=torch.float64) * s for s in (1, 1, 20)]
    results = [rule(weight, grads, 3, 0.1, DECAY) for rule in (lamb, stable_adamw, adamw, muon)]
    for index, first in enumerate(results):
        for second in results[index + 1 :]:
            assert (first - second).abs().max() > 1e-3


def test_stacked_matrices_move_as_if_they_were_apart() -> None:
    generator = torch.Generator().manual_seed(6)
    apart = [torch.randn(4, 5, generator=generator).requires_grad_() for _ in range(3)]
    stacked = torch.cat([matrix.detach() for matrix in apart]).requires_grad_()
    config = OptimizerConfig(name="muon", weight_decay=DECAY)
    results = []
    for weights, count in ((apart, 1), ([stacked], 3)):
        group = {"params": weights, MOMENTS: MUON_MOMENTS, STACKED: count}
        optimizer = build_torch_optimizer(config, [group], torch.device("cpu"))
        optimizer.param_groups[0]["lr"] = 0.1
        for step in range(2):
            grad = torch.randn(12, 5, generator=torch.Generator().manual_seed(step))
            for weight, part in zip(weights, grad.split(12 // len(weights)), strict=True):
                weight.grad = part.clone()
            optimizer.step()
        results.append(torch.cat([weight.detach() for weight in weights]))
    assert torch.equal(*results)


@pytest.mark.parametrize("shape", [(12, 30), (30, 12), (16, 16)])
def test_orthogonalize_brings_singular_values_near_one(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    result = orthogonalize(matrix)
    assert result.shape == shape
    values = torch.linalg.svdvals(result)
    assert 0.6 < float(values.min()) and float(values.max()) < 1.3
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    projected = u.mT @ result @ vh.mT
    assert float((projected - projected.diag().diag()).abs().max()) < 1e-3


def test_a_zero_gradient_makes_no_nan() -> None:
    for name in ("lamb", "stable_adamw", "muon"):
        weight = torch.zeros(3, 4, requires_grad=True)
        config = OptimizerConfig(name=name)
        optimizer = build_torch_optimizer(config, groups_of(name, [weight]), torch.device("cpu"))
        optimizer.param_groups[0]["lr"] = 0.1
        weight.grad = torch.zeros(3, 4)
        optimizer.step()
        assert torch.equal(weight.detach(), torch.zeros(3, 4)), name


def test_a_parameter_in_pieces_must_be_bound_with_its_ranks() -> None:
    from types import SimpleNamespace

    weight = torch.zeros(3, 4, requires_grad=True)
    optimizer = build_torch_optimizer(
        OptimizerConfig(name="lamb"), groups_of("lamb", [weight]), torch.device("cpu")
    )
    half = SimpleNamespace(
        group=0, name="w", shape=(3, 4), start=0, numel=6, master=weight, offset=0
    )
    with pytest.raises(ValueError, match="not whole: w"):
        optimizer.bind([half], None)  # type: ignore[attr-defined]
