"""Attention with dropout on the CPU, a cache-sized block of scores at a time.

`scaled_dot_product_attention` has a fused CPU kernel for attention without dropout alone; with it,
torch falls back to whole matrices of scores, keeps several of them for backward in every layer, and
draws Bernoulli numbers at 4 ns each. Here blocks of segments and heads are taken whose scores fit
in cache, backward computes the scores again, and the random bits are drawn 64 at a time for four
scores from a generator seeded by torch's, so that backward can draw them again as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

BLOCK_SCORES = 1 << 19  # 2 MiB in fp32, and two or three of them are in use
LEVELS = 1 << 16  # of a random int16, so dropout_prob is rounded to a multiple of 1 / 65,536


def dropout_attention(
    query: Tensor,  # (segments, heads, length, head_dim)
    key: Tensor,  # (segments, heads, length, head_dim)
    value: Tensor,  # (segments, heads, length, value_dim)
    mask: Tensor | None,  # (segments, 1, 1, length) bool, False at padding
    dropout_prob: float,
) -> Tensor:  # (segments, heads, length, value_dim)
    """Computes softmax(query @ key.T / sqrt(head_dim)), drops out, and weighs the values.

    Same arguments and meaning as `scaled_dot_product_attention` with `dropout_p`; the scores are
    fp32, or fp64 for fp64 inputs.
    """
    output: Tensor = _DropoutAttention.apply(  # type: ignore[no-untyped-call]
        query, key, value, mask, dropout_prob
    )
    return output


class _DropoutAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, prob: float
    ) -> Tensor:
        segments, heads, length, _ = query.shape
        scores_dtype = torch.float64 if query.dtype == torch.float64 else torch.float32
        q, k, v = (part.to(scores_dtype).flatten(0, 1) for part in (query, key, value))
        if mask is None:
            bias = q.new_zeros(1, 1, 1).expand(q.shape[0], 1, length)
        else:
            bias = q.new_zeros(mask.shape).masked_fill_(~mask, float("-inf"))
            bias = bias.expand(-1, heads, -1, -1).reshape(-1, 1, length)
        seed = int(torch.empty((), dtype=torch.int64).random_())
        output = torch.empty_like(v, memory_format=torch.contiguous_format)
        for block, weights, factors in _blocks(q, k, bias, prob, seed):
            torch.bmm(weights.mul_(factors), v[block], out=output[block])
        ctx.save_for_backward(q, k, v, bias)
        ctx.prob, ctx.seed, ctx.dtype = prob, seed, query.dtype
        return output.view(segments, heads, length, -1).to(query.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, bias = ctx.saved_tensors
        segments, heads, length, _ = grad.shape
        grad_output = grad.to(q.dtype).flatten(0, 1)
        contiguous = torch.contiguous_format
        grads = [torch.empty_like(part, memory_format=contiguous) for part in (q, k, v)]
        grad_q, grad_k, grad_v = grads
        scale = q.shape[-1] ** -0.5
        for block, weights, factors in _blocks(q, k, bias, ctx.prob, ctx.seed):
            g = grad_output[block]
            torch.bmm((weights * factors).transpose(1, 2), g, out=grad_v[block])
            grad_weights = torch.bmm(g, v[block].transpose(1, 2)).mul_(factors)
            grad_scores = torch._softmax_backward_data(grad_weights, weights, -1, q.dtype)
            torch.bmm(grad_scores, k[block], out=grad_q[block])
            torch.bmm(grad_scores.transpose(1, 2), q[block], out=grad_k[block])
        grad_q.mul_(scale)
        grad_k.mul_(scale)
        return (
            *(part.view(segments, heads, length, -1).to(ctx.dtype) for part in grads),
            None,
            None,
        )


def _blocks(
    q: Tensor,  # (segments x heads, length, head_dim)
    k: Tensor,  # (segments x heads, length, head_dim)
    bias: Tensor,  # (segments x heads, 1, length), 0 or -inf
    dropout_prob: float,
    seed: int,
) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Yields slices of segments x heads, their weights and their dropout factors.

    Weights and factors are (block, length, length); a factor is 0 or 1 / (1 - dropout_prob).
    """
    length = q.shape[1]
    size = max(1, BLOCK_SCORES // (length * length))
    scale = q.shape[-1] ** -0.5
    dropped = round(dropout_prob * LEVELS)
    generator = torch.Generator().manual_seed(seed)
    for start in range(0, q.shape[0], size):
        block = slice(start, min(start + size, q.shape[0]))
        scores = torch.baddbmm(bias[block], q[block], k[block].transpose(1, 2), alpha=scale)
        weights = scores.softmax(-1)
        words = torch.empty((scores.numel() + 3) // 4, dtype=torch.int64)
        words.random_(-(1 << 63), None, generator=generator)
        levels = words.view(torch.int16)[: scores.numel()].view_as(scores)
        keep = levels >= dropped - LEVELS // 2
        yield block, weights, keep.to(q.dtype).mul_(LEVELS / (LEVELS - dropped))
