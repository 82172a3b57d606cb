"""The feed-forward block's bias and activation in one pass, between its two GEMMs.

    bias_gelu:  y = gelu(x + bias)
    geglu:      y = gelu(gate) * linear,  x + bias = [gate, linear]

GELU is the exact one, x * cdf(x) of the normal distribution, as XLM-R has it. Eager torch keeps
x + bias for backward and moves (rows, width) five times forward; the CUDA op reads x and writes y,
and backward computes the rest again.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from megaxlm_kernels.checks import check_implementation, check_tensor
from megaxlm_kernels.library import Implementation, ensure_loaded, when_loaded


def bias_gelu(
    x: Tensor,  # (rows, width)
    bias: Tensor | None,  # (width,)
    *,
    implementation: Implementation = "torch",
) -> Tensor:  # (rows, width)
    """Computes `gelu(x + bias)`; differentiable in both.

    Args:
        x: The output of a GEMM; fp32, bf16 or fp16 ("torch" takes fp64 too), width a multiple of 8.
            What is not contiguous is copied.
        bias: Added before the activation, or None.
        implementation: As `megaxlm_kernels.library.choose_implementation` gave it.

    Returns:
        The activations in the dtype of `x`. The gradient of `bias` is summed in fp32, in an order
        that only shapes and device decide: two runs give the same bits.

    Raises:
        ValueError: An argument has the wrong dtype, device or shape; it is named.
        RuntimeError: "cuda" without a library (see `choose_implementation`).
    """
    return _run(x, bias, gated=False, implementation=implementation)


def geglu(
    x: Tensor,  # (rows, 2 * width): gate, linear
    bias: Tensor | None,  # (2 * width,)
    *,
    implementation: Implementation = "torch",
) -> Tensor:  # (rows, width)
    """Computes `gelu(gate) * linear` of the halves of `x + bias` (Shazeer, "GLU Variants", 2020).

    Arguments, results and errors as those of `bias_gelu`, with 2 * width a multiple of 16.
    """
    return _run(x, bias, gated=True, implementation=implementation)


def bias_gelu_reference(x: Tensor, bias: Tensor | None) -> Tensor:
    """`bias_gelu` in float64, and float64 out: what every implementation is measured against."""
    wide = x.double() if bias is None else x.double() + bias.double()
    return wide * (torch.erf(wide * 0.5**0.5) + 1) / 2


def geglu_reference(x: Tensor, bias: Tensor | None) -> Tensor:
    """`geglu` in float64, likewise."""
    wide = x.double() if bias is None else x.double() + bias.double()
    gate, linear = wide.chunk(2, 1)
    return bias_gelu_reference(gate, None) * linear


def _run(x: Tensor, bias: Tensor | None, *, gated: bool, implementation: Implementation) -> Tensor:
    check_implementation(implementation)
    fused = implementation == "cuda"
    _, columns = check_tensor("x", x, None, rank=2, multiple_of=16 if gated else 8, fused=fused)
    if bias is not None:
        check_tensor("bias", bias, x, shape=(columns,))
    if not fused:
        biased = x if bias is None else x + bias
        if not gated:
            return F.gelu(biased)
        gate, linear = biased.chunk(2, 1)
        return F.gelu(gate) * linear
    ensure_loaded(x.device.type)
    y: Tensor = _BiasGelu.apply(  # type: ignore[no-untyped-call]
        x.contiguous(), None if bias is None else bias.contiguous(), gated
    )
    return y


def _fake_forward(x: Tensor, bias: Tensor | None, gated: bool) -> Tensor:
    return x.new_empty(x.shape[0], x.shape[1] // 2 if gated else x.shape[1])


def _fake_backward(
    grad_y: Tensor, x: Tensor, bias: Tensor | None, gated: bool
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), x.new_empty(0 if bias is None else x.shape[1])


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, bias, ctx.gated = inputs
    ctx.save_for_backward(x, bias)


def _backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
    x, bias = ctx.saved_tensors
    dx, dbias = torch.ops.megaxlm.bias_gelu_backward.default(
        grad_y.contiguous(), x, bias, ctx.gated
    )
    return dx, None if bias is None else dbias, None


class _BiasGelu(torch.autograd.Function):
    """The hot path, as in layer_norm.py."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        output: Tensor = torch.ops.megaxlm.bias_gelu.default(*inputs)
        _setup_context(ctx, inputs, output)
        return output

    backward = staticmethod(_backward)


@when_loaded
def _register() -> None:
    torch.library.register_fake("megaxlm::bias_gelu", _fake_forward)
    torch.library.register_fake("megaxlm::bias_gelu_backward", _fake_backward)
    torch.library.register_autograd("megaxlm::bias_gelu", _backward, setup_context=_setup_context)
