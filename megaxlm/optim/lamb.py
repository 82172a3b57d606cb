"""LAMB (You et al. 2020, "Large Batch Optimization for Deep Learning", algorithm 2)."""

from __future__ import annotations

from collections.abc import Iterable
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


class Lamb(WholeParameterOptimizer):
    """Adam's direction, with a step as long as the parameter is large.

    Every matrix w moves by `lr * |w| / |u|` along `u = m / (sqrt(v) + eps) + weight_decay * w`,
    m and v the bias-corrected moments; the ratio is 1 where either norm is 0. Norms and biases
    keep the plain rate, as in the authors' code. The scaling function of the paper is the
    identity, and gradients are not normalised: clipping is the engine's.
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
        beta1, beta2 = group["betas"]
        step = states[0][STEP]
        torch._foreach_lerp_(first, grads, 1 - beta1)
        torch._foreach_mul_(second, beta2)
        torch._foreach_addcmul_(second, grads, grads, 1 - beta2)
        # One temporary of the masters' size, worked on in place.
        updates = list(torch._foreach_sqrt(second))
        torch._foreach_div_(updates, (1 - beta2**step) ** 0.5)
        torch._foreach_add_(updates, group["eps"])
        torch._foreach_mul_(updates, 1 - beta1**step)
        torch._foreach_reciprocal_(updates)
        torch._foreach_mul_(updates, first)
        if group["weight_decay"]:
            torch._foreach_add_(updates, masters, alpha=group["weight_decay"])
        self._scale(updates, masters, call)
        torch._foreach_add_(masters, updates, alpha=-group["lr"])

    def _scale(self, updates: list[Tensor], masters: list[Tensor], call: Call) -> None:
        """Multiplies each matrix's update by its trust ratio."""
        if not any(len(shape) >= 2 for shape in call.shapes):
            return  # on every rank alike: all know the shapes of all
        weights = sums_of_squares([view.of(masters) for view in call.views]) if call.views else []
        moves = sums_of_squares([view.of(updates) for view in call.views]) if call.views else []
        sums = self._sum_by_parameter(call, (weights, moves), masters[0].device)
        ratios = (sums[0] / sums[1]).sqrt()
        ratios = torch.where((sums > 0).all(dim=0), ratios, 1.0).to(torch.float32)
        matrices = [view for view in call.views if len(call.shapes[view.parameter]) >= 2]
        if matrices:
            scaled = [view.of(updates) for view in matrices]
            torch._foreach_mul_(scaled, [ratios[view.parameter] for view in matrices])
