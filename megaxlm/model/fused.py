"""Modules whose bias, dropout, residual and norm can be one kernel, and who uses kernels at all.

A module keeps its parameters to itself: at ZeRO-3 they exist during its own forward alone. So a
linear map hands its bias on as a copy, and the norm that comes next adds it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from megaxlm_kernels.layer_norm import add_layer_norm
from megaxlm_kernels.library import Implementation
from torch import Tensor, nn


class Linear(nn.Linear):
    """A linear map that can leave its bias to what comes next."""

    def forward(  # type: ignore[override]
        self,
        hidden: Tensor,  # (tokens, in_features)
        bias_apart: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Returns (tokens, out_features); with `bias_apart` without the bias, and the bias."""
        if bias_apart:
            return F.linear(hidden, self.weight), self.bias.clone()
        return super().forward(hidden)


class Addition(NamedTuple):
    """What is added to a norm's input: `residual + dropout(input + bias)`."""

    residual: Tensor | None = None  # (tokens, hidden)
    bias: Tensor | None = None  # (hidden,)
    dropout_prob: float = 0.0
    seed: int = 0
    places: Tensor | None = None  # (tokens,) int64, see `DropoutKey.places`


class LayerNorm(nn.LayerNorm):
    """A LayerNorm that can add what comes before it, in the same kernel."""

    def forward(  # type: ignore[override]
        self,
        hidden: Tensor,  # (tokens, hidden)
        addition: Addition | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Returns the norm; with an addition, by the kernel, the norm of the sum and the sum."""
        if addition is None:
            return super().forward(hidden)
        residual, bias, dropout_prob, seed, places = addition
        return add_layer_norm(
            hidden,
            residual,
            bias,
            self.weight,
            self.bias,
            self.eps,
            dropout_prob,
            seed,
            places,
            implementation="cuda",
        )


class UsesKernels(nn.Module):
    """A module that computes by kernels if it is told to."""

    kernels: Implementation = "torch"

    @property
    def fused(self) -> bool:
        """Whether it does."""
        return self.kernels == "cuda"


def use_kernels(model: nn.Module, implementation: Implementation) -> None:
    """Tells all modules of a model, or of a pipeline's stage, how to compute."""
    for module in model.modules():
        if isinstance(module, UsesKernels):
            module.kernels = implementation
