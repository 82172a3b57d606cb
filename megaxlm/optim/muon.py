"""Muon for the encoder's matrices, AdamW for everything else, in one optimizer.

Jordan et al. 2024 ("Muon: An optimizer for hidden layers in neural networks"), with decoupled
weight decay and the update scale of Liu et al. 2025 ("Muon is Scalable for LLM Training",
arXiv:2502.16982, section 2.2), which makes the update of a matrix as large as AdamW's, so that one
learning rate serves both.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import sqrt
from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from megaxlm.optim.muon_exchange import MatrixExchange, orthogonalize, working_dtype
from megaxlm.optim.state import ADAM_MOMENTS, MOMENTS, MUON_MOMENTS, STEP
from megaxlm.optim.whole_parameters import Call, WholeParameterOptimizer, gradients

RMS_OF_ADAMW = 0.2  # of an AdamW update, as measured by Liu et al. 2025


class Muon(WholeParameterOptimizer):
    """Moves a matrix along its orthogonalised momentum; groups say by their moments which part.

    With momentum `b = momentum * b + g` and Nesterov's look-ahead `n = g + momentum * b`, a matrix
    moves by `lr * 0.2 * sqrt(max(rows, columns)) * U V^T`, where `n = U S V^T`. A parameter that is
    several matrices one above the other (`stacked` of its group) moves matrix by matrix.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
    ) -> None:
        """Takes groups; one whose `moments` begin with `momentum_buffer` holds matrices alone."""
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, {**defaults, "momentum": momentum, MOMENTS: ADAM_MOMENTS})
        self._exchanges: dict[int, MatrixExchange] = {}  # by id of the unit

    def own_moments(self, group: dict[str, Any]) -> tuple[str, ...]:
        """Returns one momentum for matrices, Adam's moments for the rest."""
        return MUON_MOMENTS if _of_matrices(group) else ADAM_MOMENTS

    def _update(self, group: dict[str, Any], masters: list[Tensor], call: Call) -> None:
        if _of_matrices(group):
            self._update_matrices(group, masters, call)
        else:
            self._update_adamw(group, masters)

    def _update_matrices(self, group: dict[str, Any], masters: list[Tensor], call: Call) -> None:
        grads = gradients(masters)
        momenta = [self.state[master][MUON_MOMENTS[0]] for master in masters]
        lr = group["lr"]
        torch._foreach_mul_(momenta, group["momentum"])
        torch._foreach_add_(momenta, grads)
        if lr == 0:
            return  # nothing moves, and DeepSpeed's first steps come before `bind`
        updates = list(torch._foreach_add(grads, momenta, alpha=group["momentum"]))
        torch._foreach_mul_(masters, 1 - lr * group["weight_decay"])
        if call.unit is None:
            dtype = working_dtype(masters[0].device)
            for view in call.views:
                shape = call.shapes[view.parameter]
                matrix = orthogonalize(view.of(updates).view(shape).to(dtype))
                view.of(masters).sub_(matrix.view(-1), alpha=lr * _scale(shape))
            return
        exchange = self._exchanges.get(id(call.unit))
        if exchange is None:
            assert self.process_group is not None
            exchange = MatrixExchange(call.unit, self.process_group, self.rank)
            self._exchanges[id(call.unit)] = exchange
        exchange(updates[0].view(-1))
        for view in call.views:
            scale = _scale(call.shapes[view.parameter])
            view.of(masters).sub_(view.of(updates), alpha=lr * scale)

    def _update_adamw(self, group: dict[str, Any], masters: list[Tensor]) -> None:
        states = [self.state[master] for master in masters]
        device = masters[0].device
        beta1, beta2 = group["betas"]
        # torch counts the step itself, in tensors where the fused kernel reads them.
        steps = torch.full((len(masters),), float(states[0][STEP] - 1), device=device)
        adamw(
            masters,
            gradients(masters),
            [state[ADAM_MOMENTS[0]] for state in states],
            [state[ADAM_MOMENTS[1]] for state in states],
            [],
            list(steps.unbind()),
            fused=True,
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )


def _scale(shape: tuple[int, ...]) -> float:
    return RMS_OF_ADAMW * sqrt(max(shape))


def _of_matrices(group: dict[str, Any]) -> bool:
    return bool(group[MOMENTS][0] == MUON_MOMENTS[0])
