"""The output projection and its cross entropy in one op that never holds all logits.

With a vocabulary of 250,002 the logits of 2,458 targets take 2.5 GB in fp32, and eager torch keeps
them three times over (logits, log-probabilities, gradient). Here targets are taken a chunk at a
time: one GEMM makes the chunk's logits, the softmax statistics and the gradient are computed in
that same buffer, and two GEMMs turn it into the gradients of `hidden` and `weight` before the next
chunk overwrites it. All of it happens in forward, so nothing but finished gradients is kept for
backward, and `weight` itself need not exist there (ZeRO-3 frees it after the module's forward).

The same three GEMMs as the eager form, no recomputation, no gradient filtering.

    nll_i = lse_i - logit of target_i,  lse_i = log(sum(exp(logits_i)))
    loss_i = (1 - s) nll_i + s (lse_i - mean(logits_i)) + z lse_i^2

with s = `label_smoothing` (Szegedy et al. 2016) and z = `z_loss` (Chowdhery et al. 2022, "PaLM",
section 5), which keeps the softmax's normaliser from drifting away in low precision. The "cuda"
implementation is in fused_cross_entropy.py.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from megaxlm_kernels.checks import (
    check_implementation,
    check_probability,
    check_range,
    reads_values,
)
from megaxlm_kernels.fused_cross_entropy import fused_linear_cross_entropy, taken_gradients
from megaxlm_kernels.library import Implementation, ensure_loaded
from megaxlm_kernels.vocabulary_shard import VocabularyShard

# Bytes of logits alive at once when `chunk_size` is not given. 192 MiB are 201 rows of 250,002 in
# fp32, below the 246 MB that a tenth of 2,458 targets' logits is. A GPU needs thousands of rows.
CPU_CHUNK_BYTES = 192 << 20
DEVICE_CHUNK_BYTES = 1 << 30


def linear_cross_entropy(
    hidden: Tensor,  # (targets, hidden), floating
    weight: Tensor,  # (vocab, hidden), same dtype
    bias: Tensor | None,  # (vocab,), same dtype
    targets: Tensor,  # (targets,) int64, in [0, vocab)
    target_weight: Tensor,  # (targets,) float32, or float64 with float64 `hidden`
    chunk_size: int | None = None,
    *,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    implementation: Implementation = "torch",
) -> tuple[Tensor, Tensor]:
    """Computes the weighted sum of losses of `hidden @ weight.T + bias`.

    Args:
        hidden: Hidden states at the predicted positions; fp64 ("torch" alone), fp32, bf16 or fp16.
        weight: Output embeddings. Its gradient is accumulated in fp32 (fp64 for fp64 inputs).
        bias: Output bias, or None.
        targets: The true ids. A target of weight 0 adds nothing to loss or gradients, but its id
            must be valid all the same.
        target_weight: The weight of each target in the sum; not differentiated.
        chunk_size: Targets whose logits are alive at once; None takes what fits in 192 MiB on the
            CPU and 1 GiB elsewhere. Chunks are made equally large.
        label_smoothing: The share of each target that is spread over the vocabulary; in [0, 1).
        z_loss: The factor of the squared log-normaliser; 0 or more.
        implementation: As `megaxlm_kernels.library.choose_implementation` gave it.

    Returns:
        `loss_sum`, a scalar, and `target_losses`, (targets,), each target's unweighted cross
        entropy without smoothing and z-loss, detached. Both are fp32 (fp64 for fp64 inputs),
        whatever the dtype of `hidden`.

    Raises:
        ValueError: An argument has the wrong shape, dtype or device, a target lies outside the
            vocabulary, or a target's weight is NaN (the last two on the CPU, or where
            MEGAXLM_KERNELS_CHECK=1: looking stalls a GPU; there "torch" fails with a device-side
            assertion and "cuda" makes the loss NaN).
        RuntimeError: "cuda" without a library (see `choose_implementation`).
    """
    check_implementation(implementation)
    fused = implementation == "cuda"
    if fused and hidden.dtype == torch.float64:
        raise ValueError("hidden must be float32, bfloat16 or float16, got torch.float64")
    check_arguments(hidden, weight, bias, targets, target_weight, chunk_size)
    check_probability("label_smoothing", label_smoothing)
    if not z_loss >= 0:
        raise ValueError(f"z_loss must not be negative, got {z_loss}")
    if chunk_size is None:
        chunk_size = default_chunk_size(weight, fused)
    options = (chunk_size, label_smoothing, z_loss, torch.is_grad_enabled())
    if fused:
        ensure_loaded(hidden.device.type)
        return fused_linear_cross_entropy(hidden, weight, bias, targets, target_weight, *options)
    whole = VocabularyShard(0, weight.shape[0], None)
    loss_sum: Tensor
    loss_sum, target_losses = LinearCrossEntropy.apply(  # type: ignore[no-untyped-call]
        hidden, weight, bias, targets, target_weight, *options, whole
    )
    return loss_sum, target_losses


def linear_cross_entropy_reference(
    hidden: Tensor,  # (targets, hidden)
    weight: Tensor,  # (vocab, hidden)
    bias: Tensor | None,  # (vocab,)
    targets: Tensor,  # (targets,)
    target_weight: Tensor,  # (targets,)
    *,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """The same in eager torch with all logits held: what the op must equal."""
    logits = F.linear(hidden, weight, bias)
    logits = logits.to(statistics_dtype(hidden.dtype))
    nll = F.cross_entropy(logits, targets, reduction="none").detach()
    losses = F.cross_entropy(logits, targets, reduction="none", label_smoothing=label_smoothing)
    if z_loss:
        losses = losses + z_loss * logits.logsumexp(1).square()
    return (losses * target_weight).sum(), nll


def default_chunk_size(weight: Tensor, fused: bool = False) -> int:
    """Returns how many targets' logits fit in the budget of the weight's device."""
    budget = CPU_CHUNK_BYTES if weight.device.type == "cpu" else DEVICE_CHUNK_BYTES
    bytes_per_logit = weight.element_size()
    if bytes_per_logit < 4 and not fused:
        bytes_per_logit += 4  # held twice: as the GEMM takes and gives them, and in fp32
    return max(1, budget // (weight.shape[0] * bytes_per_logit))


def statistics_dtype(dtype: torch.dtype) -> torch.dtype:
    """Returns what losses and gradients of these inputs are summed in."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def check_arguments(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    target_weight: Tensor,
    chunk_size: int | None,
    vocab_size: int | None = None,  # of all ranks, if weight is a slice
) -> None:
    """Refuses what `linear_cross_entropy` cannot take, by a ValueError that names it."""
    if hidden.dim() != 2 or not hidden.is_floating_point():
        raise ValueError(f"hidden must be floating (targets, hidden), got {_describe(hidden)}")
    if weight.dim() != 2 or weight.shape[1] != hidden.shape[1] or weight.shape[0] == 0:
        raise ValueError(
            f"weight must be (vocab, {hidden.shape[1]}) as hidden asks, got {_describe(weight)}"
        )
    if weight.dtype != hidden.dtype:
        raise ValueError(f"weight must have the dtype of hidden ({hidden.dtype}): {weight.dtype}")
    words = weight.shape[0]
    vocab_size = words if vocab_size is None else vocab_size
    if bias is not None and (bias.shape != (words,) or bias.dtype != hidden.dtype):
        raise ValueError(f"bias must be ({words},) {hidden.dtype}, got {_describe(bias)}")
    num_targets = hidden.shape[0]
    if targets.shape != (num_targets,) or targets.dtype != torch.int64:
        raise ValueError(f"targets must be ({num_targets},) int64, got {_describe(targets)}")
    wanted = statistics_dtype(hidden.dtype)
    if target_weight.shape != (num_targets,) or target_weight.dtype != wanted:
        raise ValueError(
            f"target_weight must be ({num_targets},) {wanted}, got {_describe(target_weight)}"
        )
    named = (("weight", weight), ("targets", targets), ("target_weight", target_weight))
    for name, tensor in named if bias is None else (*named, ("bias", bias)):
        if tensor.device != hidden.device:
            raise ValueError(f"{name} is on {tensor.device}, hidden on {hidden.device}")
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1, got {chunk_size}")
    check_range("targets", targets, vocab_size, "the vocabulary")
    if reads_values(target_weight) and bool(target_weight.isnan().any()):
        raise ValueError("target_weight holds NaN")


def _describe(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {tensor.dtype}"


class LinearCrossEntropy(torch.autograd.Function):
    """The torch implementation, of a whole vocabulary or of one rank's share of it."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,  # (targets, hidden)
        weight: Tensor,  # (vocab, hidden)
        bias: Tensor | None,  # (vocab,)
        targets: Tensor,  # (targets,)
        target_weight: Tensor,  # (targets,)
        chunk_size: int,
        label_smoothing: float,
        z_loss: float,
        grad_enabled: bool,
        shard: VocabularyShard,
    ) -> tuple[Tensor, Tensor]:
        """Returns what `linear_cross_entropy` does; all ranks of the shard's group together."""
        num_targets = hidden.shape[0]
        vocab_size = weight.shape[0]  # of this rank
        statistics = statistics_dtype(hidden.dtype)
        contiguous = torch.contiguous_format
        low_precision = statistics != hidden.dtype
        wants_hidden, wants_weight, wants_bias = (
            grad_enabled and wanted for wanted in ctx.needs_input_grad[:3]
        )
        # Gradients stay in the statistics' dtype until the loss's own gradient has scaled them.
        grad_hidden = (
            torch.empty_like(hidden, dtype=statistics, memory_format=contiguous)
            if wants_hidden
            else None
        )
        # The first chunk writes it: filling as many bytes with zeros first takes time on a CPU.
        make_weight = torch.empty_like if num_targets else torch.zeros_like
        grad_weight = (
            make_weight(weight, dtype=statistics, memory_format=contiguous)
            if wants_weight
            else None
        )
        grad_bias = (
            torch.zeros(vocab_size, dtype=statistics, device=hidden.device) if wants_bias else None
        )
        target_losses = torch.empty(num_targets, dtype=statistics, device=hidden.device)
        spread = torch.zeros_like(target_losses) if label_smoothing or z_loss else None
        num_chunks = -(-num_targets // chunk_size)
        rows = -(-num_targets // max(1, num_chunks))  # as many in each chunk, but for the last
        buffer = torch.empty(rows, vocab_size, dtype=statistics, device=hidden.device)
        low_buffer = torch.empty_like(buffer, dtype=hidden.dtype) if low_precision else None

        for start in range(0, num_targets, max(1, rows)):
            chunk = slice(start, min(start + rows, num_targets))
            beta = 1 if start else 0
            h = hidden[chunk]  # (chunk, hidden)
            ids, here = shard.local(targets[chunk].unsqueeze(1), vocab_size)  # (chunk, 1) each
            logits = buffer[: h.shape[0]]  # (chunk, vocab)
            product = logits if low_buffer is None else low_buffer[: h.shape[0]]
            if bias is None:
                torch.mm(h, weight.t(), out=product)
            else:
                torch.addmm(bias, h, weight.t(), out=product)
            if low_buffer is not None:
                logits.copy_(product)
            of_target = logits.gather(1, ids)  # (chunk, 1)
            highest = shard.all_max(logits.amax(1, keepdim=True))  # (chunk, 1)
            mean = logits.sum(1, keepdim=True) if label_smoothing else None  # (chunk, 1)
            exponentials = logits.sub_(highest).exp_()  # (chunk, vocab)
            total = exponentials.sum(1, keepdim=True)  # (chunk, 1)
            total, of_target, mean = shard.all_sums(total, of_target * here, mean)
            normaliser = total.log() + highest  # (chunk, 1)
            target_losses[chunk] = (normaliser - of_target).squeeze(1)
            if spread is not None:
                spread[chunk] = (z_loss * normaliser.square()).squeeze(1)
                if mean is not None:
                    mean = mean / shard.vocab_size
                    spread[chunk] += (label_smoothing * (normaliser - mean)).squeeze(1)
            if not (wants_hidden or wants_weight or wants_bias):
                continue

            # The gradient of a row's logits is w * (e / total - onehot). The row's factor w / total
            # is taken out, so that the (chunk, vocab) buffer needs no further pass: subtracting
            # the total at the target leaves the gradient up to that factor.
            row_weight = target_weight[chunk].unsqueeze(1)  # (chunk, 1)
            factor = row_weight / total  # (chunk, 1)
            if z_loss:
                exponentials.mul_(1 + 2 * z_loss * normaliser)
            if label_smoothing:
                exponentials.sub_(total * (label_smoothing / shard.vocab_size))
            of_ids = total * here * (label_smoothing - 1)
            gradient = exponentials.scatter_add_(1, ids, of_ids)
            if grad_bias is not None:
                torch.addmv(grad_bias, gradient.t(), factor.squeeze(1), out=grad_bias)
            if low_buffer is None:
                if grad_hidden is not None:
                    torch.mm(gradient, weight, out=grad_hidden[chunk])
                    grad_hidden[chunk].mul_(factor)
                if grad_weight is not None:
                    grad_weight.addmm_(gradient.t(), h * factor, beta=beta)
            else:
                # fp16 holds no total of 250,002: here the rows are normalised as they are rounded.
                torch.mul(gradient, total.reciprocal(), out=product)
                if grad_hidden is not None:
                    torch.mul(product @ weight, row_weight, out=grad_hidden[chunk])
                if grad_weight is not None and hidden.device.type == "cpu":
                    grad_weight.addmm_(gradient.t(), h.to(statistics) * factor, beta=beta)
                elif grad_weight is not None:
                    _add_product(grad_weight, product, (h * row_weight).to(h.dtype), beta)

        if grad_hidden is not None:
            grad_hidden = shard.all_sum(grad_hidden)
        ctx.gradients = (grad_hidden, grad_weight, grad_bias)
        ctx.dtype = hidden.dtype
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(target_losses)
        losses = target_losses
        if spread is not None:
            losses = (1 - label_smoothing) * target_losses + spread
        loss_sum = torch.dot(losses, target_weight)
        return loss_sum, target_losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
        """Scales the gradients that forward has made."""
        gradients = taken_gradients(ctx)
        scaled: list[Tensor | None] = [None] * 3
        if grad_loss is not None:
            # Reading a scalar stalls a GPU; on the CPU it saves a pass over the gradients.
            unscaled = grad_loss.device.type == "cpu" and grad_loss.item() == 1.0
            for position, gradient in enumerate(gradients):
                if gradient is not None:
                    gradient = gradient if unscaled else gradient.mul_(grad_loss)
                    scaled[position] = gradient.to(ctx.dtype)
        return (*scaled, *[None] * 7)


def _add_product(
    total: Tensor,  # (vocab, hidden), fp32
    gradient: Tensor,  # (chunk, vocab), bf16 or fp16
    scaled: Tensor,  # (chunk, hidden), bf16 or fp16
    beta: int,  # 0 overwrites `total`, 1 adds to it
) -> None:
    """Adds `gradient.T @ scaled` to `total` in fp32: tensor cores of a GPU take low precision in.

    By blocks of the vocabulary, as the product of all of it is as large as the weight.
    """
    block = max(1, (64 << 20) // (4 * scaled.shape[1]))
    for start in range(0, total.shape[0], block):
        rows = slice(start, min(start + block, total.shape[0]))
        product = torch.mm(gradient[:, rows].t(), scaled, out_dtype=total.dtype)
        if beta:
            total[rows] += product
        else:
            total[rows] = product
