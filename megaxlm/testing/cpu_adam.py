"""DeepSpeed's Adam for the CPU in tests: the compiled one where there is one, else a stand-in.

Compiling it takes two minutes of a core. The stand-in does in torch what the kernel does in C++,
with all that it remembers from one call to the next; everything around it is real.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils import cpp_extension

from megaxlm.train import optimizer

_deepspeed: Any = vars(optimizer)["deepspeed"]  # the trainer alone imports it
_installed_ops = _deepspeed.git_version_info.installed_ops
_builder = _deepspeed.ops.op_builder.CPUAdamBuilder


def is_compiled() -> bool:
    """Whether DeepSpeed's Adam loads without being compiled first."""
    folder = os.environ.get("TORCH_EXTENSIONS_DIR")
    compiled = Path(folder or cpp_extension.get_default_build_root())
    return bool(_installed_ops["cpu_adam"]) or any(compiled.rglob("cpu_adam.so"))


def use_stand_in() -> None:
    """Lets this process take the stand-in from now on, unless the kernel is compiled."""
    if not is_compiled():
        _installed_ops["cpu_adam"] = True
        _builder.load = lambda self, verbose=True: StandIn()


@dataclass
class Powers:
    """Those of both betas as of the last call, in fp32 as the kernel has them."""

    betas: tuple[float, float]
    step: int = 0
    values: tuple[Tensor, Tensor] = (torch.ones(()), torch.ones(()))

    def advance(self, step: int, betas: tuple[float, float]) -> None:
        """Goes to a step: by a product where it is the next one, by powers elsewhere."""
        first, second = (torch.tensor(beta) for beta in betas)
        if betas == self.betas and step == self.step + 1:
            self.values = (self.values[0] * first, self.values[1] * second)
        elif betas != self.betas or step != self.step:
            first, second = (first.double() ** step, second.double() ** step)
            self.values = (first.float(), second.float())  # as C++ computes and rounds them
        self.betas, self.step = betas, step


class StandIn:
    """The functions of the compiled module that `DeepSpeedCPUAdam` calls."""

    def __init__(self) -> None:
        self._powers: dict[int, Powers] = {}

    def create_adam(
        self,
        number: int,
        lr: float,
        beta1: float,
        beta2: float,
        eps: float,
        weight_decay: float,
        adamw_mode: bool,
        log: bool,
    ) -> None:
        """Begins an optimizer."""
        assert adamw_mode
        self._powers[number] = Powers((beta1, beta2))

    def destroy_adam(self, number: int) -> None:
        """Ends it."""
        del self._powers[number]

    def adam_update(
        self,
        number: int,
        step: int,
        lr: float,
        beta1: float,
        beta2: float,
        eps: float,
        weight_decay: float,
        bias_correction: bool,
        parameter: Tensor,
        gradient: Tensor,
        exp_avg: Tensor,
        exp_avg_sq: Tensor,
    ) -> None:
        """Updates a parameter and its moments in place."""
        assert bias_correction
        powers = self._powers[number]
        powers.advance(step, (beta1, beta2))
        first, second = (1 - value for value in powers.values)
        gradient = gradient.float()
        exp_avg.mul_(beta1).add_(gradient, alpha=1 - beta1)
        exp_avg_sq.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        update = exp_avg / first / ((exp_avg_sq / second).sqrt() + eps)
        parameter.mul_(1 - lr * weight_decay).sub_(lr * update)
