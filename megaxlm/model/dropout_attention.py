"""Attention with dropout on the CPU, a cache-sized block of scores at a time.

`scaled_dot_product_attention` has a fused CPU kernel for attention without dropout alone; with it,
torch falls back to whole matrices of scores, keeps several of them for backward in every layer, and
draws Bernoulli numbers at 4 ns each. Here blocks of segments and heads are taken whose scores fit
in cache, backward computes the scores again, and the random bits are drawn 64 at a time for four
scores from a stream of each segment's own, so that backward can draw them again as well and a
segment's do not depend on what it is batched with.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from megaxlm.model.dropout_key import PER_WORD, RandomBits, SegmentStreams, keep_factors

BLOCK_SCORES = 1 << 19  # 2 MiB in fp32, and two or three of them are in use


def dropout_attention(
    query: Tensor,  # (segments, heads, length, head_dim)
    key: Tensor,  # (segments, heads, length, head_dim)
    value: Tensor,  # (segments, heads, length, value_dim)
    mask: Tensor | None,  # (segments, 1, 1, length) bool, False at padding
    dropout_prob: float,
    streams: SegmentStreams,  # of as many segments
    stride: int,  # at least length, a multiple of 2: a score's place in its stream
) -> Tensor:  # (segments, heads, length, value_dim)
    """Computes softmax(query @ key.T / sqrt(head_dim)), drops out, and weighs the values.

    Same arguments and meaning as `scaled_dot_product_attention` with `dropout_p`; the scores are
    fp32, or fp64 for fp64 inputs.
    """
    output: Tensor = _DropoutAttention.apply(  # type: ignore[no-untyped-call]
        query, key, value, mask, _Draws(dropout_prob, streams, stride, query.shape[1])
    )
    return output


@dataclass(frozen=True)
class _Draws:
    """The dropout factors of a group of segments, block by block."""

    prob: float
    streams: SegmentStreams
    stride: int
    heads: int

    def factors(self, blocks: list[slice], length: int, dtype: torch.dtype) -> Iterator[Tensor]:
        """Yields (block, length, length) for blocks that follow one another from the first."""
        bits = RandomBits(self.streams.seed, self.streams.place)
        of_one_head = self.stride * self.stride // PER_WORD
        for block in blocks:
            words = np.empty((block.stop - block.start, of_one_head), dtype=np.uint64)
            place = block.start
            while place < block.stop:
                segment, head = divmod(place, self.heads)
                if head == 0:
                    bits.begin(self.streams.row_ids[segment], self.streams.offsets[segment])
                taken = min(self.heads - head, block.stop - place)
                drawn = bits.draw(taken * of_one_head).reshape(taken, of_one_head)
                words[place - block.start : place - block.start + taken] = drawn
                place += taken
            levels = torch.from_numpy(words.view(np.int16))
            levels = levels.view(-1, self.stride, self.stride)[:, :length, :length]
            yield keep_factors(levels, self.prob, dtype)


class _DropoutAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, draws: _Draws
    ) -> Tensor:
        segments, heads, length, _ = query.shape
        scores_dtype = torch.float64 if query.dtype == torch.float64 else torch.float32
        q, k, v = (part.to(scores_dtype).flatten(0, 1) for part in (query, key, value))
        if mask is None:
            bias = q.new_zeros(1, 1, 1).expand(q.shape[0], 1, length)
        else:
            bias = q.new_zeros(mask.shape).masked_fill_(~mask, float("-inf"))
            bias = bias.expand(-1, heads, -1, -1).reshape(-1, 1, length)
        output = torch.empty_like(v, memory_format=torch.contiguous_format)
        for block, weights, factors in _blocks(q, k, bias, draws):
            torch.bmm(weights.mul_(factors), v[block], out=output[block])
        ctx.save_for_backward(q, k, v, bias)
        ctx.draws, ctx.dtype = draws, query.dtype
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
        for block, weights, factors in _blocks(q, k, bias, ctx.draws):
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
    draws: _Draws,
) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Yields slices of segments x heads, their weights and their dropout factors.

    Weights and factors are (block, length, length); a factor is 0 or 1 / (1 - dropout_prob).
    """
    length = q.shape[1]
    size = max(1, BLOCK_SCORES // (length * length))
    scale = q.shape[-1] ** -0.5
    starts = range(0, q.shape[0], size)
    blocks = [slice(start, min(start + size, q.shape[0])) for start in starts]
    for block, factors in zip(blocks, draws.factors(blocks, length, q.dtype), strict=True):
        scores = torch.baddbmm(bias[block], q[block], k[block].transpose(1, 2), alpha=scale)
        weights = scores.softmax(-1)
        yield block, weights, factors
