"""StableAdamW (Wortsman et al. 2023, arXiv:2304.13013, algorithm 2)."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod
from typing import Any

import torch
from torch import Tensor

from megaxlm.optim.state import ADAM_MOMENTS, MOMENTS, STEP
from megaxlm.optim.whole_parameters import (
    Call,
    WholeParameterOptimizer,
    gradients,
    sums_of_squares,
)


class StableAdamW(WholeParameterOptimizer):
    """AdamW whose rate falls, parameter by parameter, where second moments lag behind.

    With `RMS = sqrt(mean(g^2 / max(v, eps^2)))` over a parameter, its rate in this step is
    `lr / max(1, RMS)`, as AdaFactor clips updates; decay is at that rate too. Betas are corrected
    for the bias of the first steps instead of the moments.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
    ) -> None:
        """Takes parameters or groups of them; settings in a group go before these."""
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, {**defaults, MOMENTS: ADAM_MOMENTS})

    def own_moments(self, group: dict[str, Any]) -> tuple[str, ...]:
        """Returns Adam's two moments."""
        return ADAM_MOMENTS

    def _update(self, group: dict[str, Any], masters: list[Tensor], call: Call) -> None:
        states = [self.state[master] for master in masters]
        grads = gradients(masters)
        first, second = ([state[name] for state in states] for name in ADAM_MOMENTS)
        beta1, beta2 = (_corrected(beta, states[0][STEP]) for beta in group["betas"])
        torch._foreach_lerp_(first, grads, 1 - beta1)
        torch._foreach_mul_(second, beta2)
        torch._foreach_addcmul_(second, grads, grads, 1 - beta2)
        work = list(torch._foreach_clamp_min(second, group["eps"] ** 2))
        torch._foreach_sqrt_(work)
        torch._foreach_reciprocal_(work)
        torch._foreach_mul_(work, grads)  # its mean square, over a parameter, is RMS^2
        rates = group["lr"] / self._rms(work, call).clamp(min=1.0)
        torch._foreach_copy_(work, second)
        torch._foreach_sqrt_(work)
        torch._foreach_add_(work, group["eps"])
        torch._foreach_reciprocal_(work)
        torch._foreach_mul_(work, first)
        if group["weight_decay"]:
            torch._foreach_add_(work, masters, alpha=group["weight_decay"])
        if call.views:
            moved = [view.of(work) for view in call.views]
            torch._foreach_mul_(moved, [rates[view.parameter] for view in call.views])
            torch._foreach_sub_([view.of(masters) for view in call.views], moved)

    def _rms(self, ratios: list[Tensor], call: Call) -> Tensor:  # (parameters,) float32
        squares = sums_of_squares([view.of(ratios) for view in call.views]) if call.views else []
        device = ratios[0].device
        sums = self._sum_by_parameter(call, (squares,), device)[0]
        sizes = torch.tensor([prod(shape) for shape in call.shapes], device=device)
        return (sums / sizes).sqrt().to(torch.float32)


def _corrected(beta: float, step: int) -> float:
    """Returns the beta of this step; 0 in the first, whose moments are the gradient's own."""
    return beta * (1 - beta ** (step - 1)) / (1 - beta**step)
