"""The "cuda" implementation of linear_cross_entropy: three GEMMs of torch's and one kernel.

The logits of a chunk exist once, in the dtype of the GEMMs; csrc/cross_entropy.cu adds the bias,
takes the losses and writes the gradient over them in one go. Rows are padded to 128 bytes: a row of
250,002 would not start at a multiple of 16, and neither GEMM nor kernel could load it by vectors.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from megaxlm_kernels.library import when_loaded

ROW_BYTES = 128
# Of fp32 products that are added to the gradient of the weight at a time, where a GEMM cannot add.
BLOCK_BYTES = 64 << 20
TINY = torch.finfo(torch.float32).tiny
BIAS_COLUMNS = 8  # the first holds the gradient of the bias; a GEMM wants a multiple of 8


def fused_linear_cross_entropy(
    hidden: Tensor,  # (targets, hidden)
    weight: Tensor,  # (vocab, hidden)
    bias: Tensor | None,  # (vocab,)
    targets: Tensor,  # (targets,)
    target_weight: Tensor,  # (targets,)
    chunk_size: int,
    label_smoothing: float,
    z_loss: float,
    grad_enabled: bool,
) -> tuple[Tensor, Tensor]:
    """As `linear_cross_entropy`, which has checked the arguments and loaded the library."""
    loss_sum: Tensor
    loss_sum, target_losses = _FusedLinearCrossEntropy.apply(  # type: ignore[no-untyped-call]
        hidden,
        weight,
        bias,
        targets,
        target_weight,
        chunk_size,
        label_smoothing,
        z_loss,
        grad_enabled,
    )
    return loss_sum, target_losses


def taken_gradients(ctx: Any) -> tuple[Tensor | None, ...]:
    """Returns what forward left for backward, which scales it in place, and so but once."""
    if ctx.gradients is None:
        raise RuntimeError("linear_cross_entropy: backward ran twice over one forward")
    gradients: tuple[Tensor | None, ...] = ctx.gradients
    ctx.gradients = None
    return gradients


class _FusedLinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        target_weight: Tensor,
        chunk_size: int,
        label_smoothing: float,
        z_loss: float,
        grad_enabled: bool,
    ) -> tuple[Tensor, Tensor]:
        num_targets, hidden_size = hidden.shape
        vocab_size = weight.shape[0]
        needs = ctx.needs_input_grad[:3]
        wants_hidden, wants_weight, wants_bias = (grad_enabled and wanted for wanted in needs)
        wanted = wants_hidden or wants_weight or wants_bias
        # Gradients stay in fp32 until the loss's own gradient has scaled them.
        grad_hidden = hidden.new_empty(hidden.shape, dtype=torch.float32)
        # The first chunk overwrites, the others add.
        shape = (vocab_size, hidden_size)
        grad_weight = weight.new_empty(shape if wants_weight else 0, dtype=torch.float32)
        grad_bias = weight.new_zeros(vocab_size if wants_bias else 0, dtype=torch.float32)
        if not num_targets:
            grad_weight.zero_()
        bias = None if bias is None else bias.contiguous()
        targets = targets.contiguous()
        num_chunks = -(-num_targets // chunk_size)
        rows = -(-num_targets // max(1, num_chunks))  # as many in each chunk, but for the last
        step = ROW_BYTES // hidden.element_size()
        stride = -(-vocab_size // step) * step
        buffer = hidden.new_empty(rows, stride)
        # Weights such as 1 / targets are no number of bf16; as parts of the largest they are.
        peak = target_weight.abs().amax().clamp_min(TINY) if num_targets else target_weight.sum()
        parts = target_weight / peak
        all_nll, all_losses = [], []
        for start in range(0, num_targets, max(1, rows)):
            chunk = slice(start, min(start + rows, num_targets))
            h = hidden[chunk]
            padded = buffer[: h.shape[0]]  # (chunk, stride)
            logits = padded[:, :vocab_size]
            if torch.compiler.is_compiling():  # it takes no `out` with a stride
                logits.copy_(torch.mm(h, weight.t()))
            else:
                torch.mm(h, weight.t(), out=logits)
            nll, losses = torch.ops.megaxlm.cross_entropy_.default(
                padded, bias, targets[chunk], vocab_size, label_smoothing, z_loss, wanted
            )
            all_nll.append(nll)
            all_losses.append(losses)
            # From here on `logits` holds the gradient, of rows that are not weighted yet: small
            # weights would push it out of fp16.
            row_weight = parts[chunk, None]  # (chunk, 1)
            if wants_hidden:
                torch.mul(_product(logits, weight), row_weight, out=grad_hidden[chunk])
            if wants_weight or wants_bias:
                _add_columns(
                    grad_weight if wants_weight else None,
                    grad_bias if wants_bias else None,
                    logits,
                    h,
                    row_weight,
                    first=start == 0,
                )
        target_losses = torch.cat(all_nll) if all_nll else target_weight.new_empty(0)
        loss_sum = torch.dot(torch.cat(all_losses) if all_losses else target_losses, target_weight)
        ctx.gradients = (
            grad_hidden if wants_hidden else None,
            grad_weight if wants_weight else None,
            grad_bias if wants_bias else None,
        )
        ctx.dtype, ctx.peak = hidden.dtype, peak
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(target_losses)
        return loss_sum, target_losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
        gradients = taken_gradients(ctx)
        scaled: list[Tensor | None] = [None] * 3
        if grad_loss is not None:
            factor = grad_loss * ctx.peak
            scaled = [None if g is None else g.mul_(factor).to(ctx.dtype) for g in gradients]
        return (*scaled, *[None] * 6)


def _add_columns(
    grad_weight: Tensor | None,  # (vocab, hidden), fp32
    grad_bias: Tensor | None,  # (vocab,), fp32
    gradient: Tensor,  # (chunk, vocab)
    hidden: Tensor,  # (chunk, hidden)
    row_weight: Tensor,  # (chunk, 1), fp32
    first: bool,
) -> None:
    """Adds the chunk's `gradient.T @ (row_weight * hidden)` and `gradient.T @ row_weight`.

    Both in one GEMM, as one column more, so that the (chunk, vocab) gradient is read once; by
    blocks of the vocabulary, as the product of all of it is as large as the weight.
    """
    hidden_size = hidden.shape[1]
    scaled = (hidden * row_weight).to(hidden.dtype)
    if grad_bias is not None:
        ones = row_weight.new_zeros(len(row_weight), BIAS_COLUMNS)
        ones[:, :1] = row_weight
        scaled = torch.cat([scaled, ones.to(hidden.dtype)], dim=1)
    vocab_size = gradient.shape[1]
    block = max(1, BLOCK_BYTES // (4 * scaled.shape[1]))
    for start in range(0, vocab_size, block):
        rows = slice(start, min(start + block, vocab_size))
        product = _product(gradient[:, rows].t(), scaled)  # (block, hidden + 8), fp32
        if grad_weight is not None:
            if first:
                grad_weight[rows] = product[:, :hidden_size]
            else:
                grad_weight[rows] += product[:, :hidden_size]
        if grad_bias is not None:
            grad_bias[rows] += product[:, hidden_size]


def _product(a: Tensor, b: Tensor) -> Tensor:
    """Multiplies in the dtype of the inputs, fp32 out."""
    if a.dtype == torch.float32:
        return a @ b
    if a.device.type == "cuda":
        return torch.mm(a, b, out_dtype=torch.float32)
    return a.float() @ b.float()


def _fake(
    logits: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    vocab: int,
    label_smoothing: float,
    z_loss: float,
    wants_gradient: bool,
) -> tuple[Tensor, Tensor]:
    losses = logits.new_empty(logits.shape[0], dtype=torch.float32)
    return losses, torch.empty_like(losses)


@when_loaded
def _register() -> None:
    torch.library.register_fake("megaxlm::cross_entropy_", _fake)
