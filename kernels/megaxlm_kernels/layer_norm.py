"""Bias, dropout, residual and norm in one pass over memory: what stands between two GEMMs.

    sum = residual + dropout(x + bias)
    LayerNorm:  y = (sum - mean) / sqrt(variance + eps) * gamma + beta
    RMSNorm:    y = sum / sqrt(mean of squares + eps) * gamma

Eager torch reads and writes (rows, hidden) eleven times for that, the CUDA op reads two and writes
two. `sum` is the residual stream of a pre-LN encoder and what backward needs; no mask is stored.
`y` is the norm of `sum` as stored, in the inputs' dtype, with statistics in fp32.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from megaxlm_kernels.checks import (
    check_implementation,
    check_indices,
    check_probability,
    check_seed,
    check_tensor,
)
from megaxlm_kernels.library import Implementation, ensure_loaded, when_loaded
from megaxlm_kernels.philox import drop_threshold, dropout_mask, keep_scale


def add_layer_norm(
    x: Tensor,  # (rows, hidden)
    residual: Tensor | None,  # (rows, hidden)
    bias: Tensor | None,  # (hidden,)
    gamma: Tensor,  # (hidden,)
    beta: Tensor | None,  # (hidden,)
    eps: float,
    dropout_p: float = 0.0,
    seed: int = 0,
    places: Tensor | None = None,  # (rows,) int64
    *,
    implementation: Implementation = "torch",
) -> tuple[Tensor, Tensor]:
    """Normalises `residual + dropout(x + bias)`; differentiable in all tensors and both results.

    Args:
        x: The output of a GEMM; fp32, bf16 or fp16 ("torch" takes fp64 too), hidden a multiple
            of 8. What is not contiguous is copied.
        residual: Added after the dropout, or None.
        bias: Added before the dropout, or None.
        gamma: Weight of the norm.
        beta: Bias of the norm, or None.
        eps: Added to the variance.
        dropout_p: Probability of a zero, in [0, 1), taken to the nearest 1/65536; 0 in evaluation.
        seed: 64-bit; the same seed, places and probability drop the same elements anywhere.
        places: What the dropout of each row is drawn by, such as the token's position in the
            stream: rows then lose the same in any batch. None: rows count from 0.
        implementation: As `megaxlm_kernels.library.choose_implementation` gave it.

    Returns:
        `y` and `sum`, both (rows, hidden) in the dtype of `x`. `sum` is `x` itself where nothing
        is added or dropped. Gradients of gamma, beta and bias are summed in fp32, in an order that
        only shapes and device decide: two runs give the same bits.

    Raises:
        ValueError: An argument has the wrong dtype, device, shape or value; it is named.
        RuntimeError: "cuda" without a library (see `choose_implementation`).
    """
    check_implementation(implementation)
    return _run(x, residual, bias, gamma, beta, eps, dropout_p, seed, places, True, implementation)


def add_rms_norm(
    x: Tensor,  # (rows, hidden)
    residual: Tensor | None,  # (rows, hidden)
    bias: Tensor | None,  # (hidden,)
    gamma: Tensor,  # (hidden,)
    eps: float,
    dropout_p: float = 0.0,
    seed: int = 0,
    places: Tensor | None = None,  # (rows,) int64
    *,
    implementation: Implementation = "torch",
) -> tuple[Tensor, Tensor]:
    """Normalises `residual + dropout(x + bias)` by its root mean square (Zhang, Sennrich 2019).

    Arguments, results and errors as those of `add_layer_norm`; there is no mean and no beta.
    """
    check_implementation(implementation)
    return _run(x, residual, bias, gamma, None, eps, dropout_p, seed, places, False, implementation)


def _run(
    x: Tensor,
    residual: Tensor | None,
    bias: Tensor | None,
    gamma: Tensor,
    beta: Tensor | None,
    eps: float,
    dropout_p: float,
    seed: int,
    places: Tensor | None,
    centred: bool,
    implementation: Implementation,
) -> tuple[Tensor, Tensor]:
    fused = implementation == "cuda"
    rows, hidden_size = check_tensor("x", x, None, rank=2, multiple_of=8, fused=fused)
    check_tensor("gamma", gamma, x, shape=(hidden_size,))
    if residual is not None:
        check_tensor("residual", residual, x, shape=(rows, hidden_size))
    if bias is not None:
        check_tensor("bias", bias, x, shape=(hidden_size,))
    if beta is not None:
        check_tensor("beta", beta, x, shape=(hidden_size,))
    check_probability("dropout_p", dropout_p)
    check_seed("seed", seed)
    if places is not None:
        check_indices("places", places, x, rows)
    if not eps >= 0:
        raise ValueError(f"eps must not be negative, got {eps}")
    if not fused:
        total = _sum_torch(x, residual, bias, dropout_p, seed, places)
        shape = (hidden_size,)
        if centred:
            return F.layer_norm(total, shape, gamma, beta, eps), total
        return F.rms_norm(total, shape, gamma, eps), total
    ensure_loaded(x.device.type)
    x = x.contiguous()
    y, total, _, _ = _AddLayerNorm.apply(  # type: ignore[no-untyped-call]
        x,
        None if residual is None else residual.contiguous(),
        None if bias is None else bias.contiguous(),
        gamma.contiguous(),
        None if beta is None else beta.contiguous(),
        eps,
        dropout_p,
        seed,
        None if places is None else places.contiguous(),
        centred,
    )
    return y, (total if _has_own_sum(residual, bias, dropout_p) else x)


def add_layer_norm_reference(
    x: Tensor,  # (rows, hidden)
    residual: Tensor | None,  # (rows, hidden)
    bias: Tensor | None,  # (hidden,)
    gamma: Tensor,  # (hidden,)
    beta: Tensor | None,  # (hidden,)
    eps: float,
    dropout_p: float = 0.0,
    seed: int = 0,
    places: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The same in float64, and float64 out: what every implementation is measured against."""
    total = _sum_reference(x, residual, bias, dropout_p, seed, places)
    centred = total - total.mean(1, keepdim=True)
    y = centred / (centred.square().mean(1, keepdim=True) + eps).sqrt() * gamma.double()
    return (y if beta is None else y + beta.double()), total


def add_rms_norm_reference(
    x: Tensor,  # (rows, hidden)
    residual: Tensor | None,  # (rows, hidden)
    bias: Tensor | None,  # (hidden,)
    gamma: Tensor,  # (hidden,)
    eps: float,
    dropout_p: float = 0.0,
    seed: int = 0,
    places: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """`add_rms_norm` in float64, likewise."""
    total = _sum_reference(x, residual, bias, dropout_p, seed, places)
    return total / (total.square().mean(1, keepdim=True) + eps).sqrt() * gamma.double(), total


def _sum_reference(
    x: Tensor,
    residual: Tensor | None,
    bias: Tensor | None,
    dropout_p: float,
    seed: int,
    places: Tensor | None,
) -> Tensor:
    total = x.double() if bias is None else x.double() + bias.double()
    if dropout_p:
        keep = dropout_mask(x.shape[0], x.shape[1], dropout_p, seed, x.device, places)
        total = total * keep * keep_scale(dropout_p)
    return total if residual is None else residual.double() + total


def _sum_torch(
    x: Tensor,
    residual: Tensor | None,
    bias: Tensor | None,
    dropout_p: float,
    seed: int,
    places: Tensor | None,
) -> Tensor:
    total = x if bias is None else x + bias
    if drop_threshold(dropout_p):
        keep = dropout_mask(x.shape[0], x.shape[1], dropout_p, seed, x.device, places)
        total = torch.where(keep, total * keep_scale(dropout_p), 0)
    return total if residual is None else residual + total


def _has_own_sum(residual: Tensor | None, bias: Tensor | None, dropout_p: float) -> bool:
    """Says whether `sum` is a tensor of its own: an op's output may not be its input."""
    return residual is not None or bias is not None or drop_threshold(dropout_p) > 0


def _fake_forward(
    x: Tensor,
    residual: Tensor | None,
    bias: Tensor | None,
    gamma: Tensor,
    beta: Tensor | None,
    eps: float,
    dropout_p: float,
    seed: int,
    places: Tensor | None,
    centred: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rows, hidden_size = x.shape
    own = rows if _has_own_sum(residual, bias, dropout_p) else 0
    statistics = x.new_empty(rows, dtype=torch.float32)
    return (
        x.new_empty(rows, hidden_size),
        x.new_empty(own, hidden_size),
        torch.empty_like(statistics) if centred else statistics.new_empty(0),
        statistics,
    )


def _fake_backward(
    grad_y: Tensor,
    grad_sum: Tensor | None,
    total: Tensor,
    gamma: Tensor,
    mean: Tensor | None,
    rstd: Tensor,
    dropout_p: float,
    seed: int,
    places: Tensor | None,
    wants_beta: bool,
    wants_bias: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    rows, hidden_size = total.shape
    return (
        total.new_empty(rows, hidden_size),
        total.new_empty(rows if drop_threshold(dropout_p) else 0, hidden_size),
        total.new_empty(hidden_size),
        total.new_empty(hidden_size if wants_beta else 0),
        total.new_empty(hidden_size if wants_bias else 0),
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, residual, bias, gamma, beta, _, dropout_p, seed, places, centred = inputs
    _, total, mean, rstd = output
    own_sum = _has_own_sum(residual, bias, dropout_p)
    ctx.save_for_backward(total if own_sum else x, gamma, mean if centred else None, rstd, places)
    ctx.own_sum, ctx.dropout_p, ctx.seed = own_sum, dropout_p, seed
    ctx.has_residual = residual is not None
    ctx.has_bias, ctx.has_beta = bias is not None, beta is not None
    # No gradient of `sum` (post-LN) must not cost a tensor of zeros.
    ctx.set_materialize_grads(False)


def _backward(
    ctx: Any, grad_y: Tensor | None, grad_sum: Tensor | None, *_: Tensor | None
) -> tuple[Tensor | None, ...]:
    total, gamma, mean, rstd, places = ctx.saved_tensors
    if grad_y is None:
        grad_y = torch.zeros_like(total)
    if not ctx.own_sum:
        grad_sum = None  # of the empty stand-in
    dsum, dx, dgamma, dbeta, dbias = torch.ops.megaxlm.add_layer_norm_backward.default(
        grad_y.contiguous(),
        None if grad_sum is None else grad_sum.contiguous(),
        total,
        gamma,
        mean,
        rstd,
        ctx.dropout_p,
        ctx.seed,
        places,
        ctx.has_beta,
        ctx.has_bias,
    )
    return (
        dx if drop_threshold(ctx.dropout_p) else dsum,
        dsum if ctx.has_residual else None,
        dbias if ctx.has_bias else None,
        dgamma,
        dbeta if ctx.has_beta else None,
        None,
        None,
        None,
        None,
        None,
    )


class _AddLayerNorm(torch.autograd.Function):
    """The hot path: 51 us a call on a slow core, where `register_autograd` takes 77."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, ...]:
        output: tuple[Tensor, ...] = torch.ops.megaxlm.add_layer_norm.default(*inputs)
        _setup_context(ctx, inputs, output)
        ctx.mark_non_differentiable(*output[2:])
        return output

    backward = staticmethod(_backward)


@when_loaded
def _register() -> None:
    torch.library.register_fake("megaxlm::add_layer_norm", _fake_forward)
    torch.library.register_fake("megaxlm::add_layer_norm_backward", _fake_backward)
    torch.library.register_autograd(
        "megaxlm::add_layer_norm", _backward, setup_context=_setup_context
    )
