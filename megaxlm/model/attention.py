"""Bidirectional self-attention over packed tokens; a token sees its own segment alone."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from megaxlm.config.pretrain import ModelConfig
from megaxlm.model.dropout_attention import dropout_attention
from megaxlm.model.dropout_key import (
    ATTENTION,
    LayerDropout,
    RowStreams,
    SeededRows,
    SegmentStreams,
)
from megaxlm.model.fused import Linear
from megaxlm.model.segments import Segments


class AttentionCore(nn.Module):
    """`attend` as a module without parameters, for hooks that measure it apart from the rest."""

    def forward(
        self,
        qkv: Tensor,  # (tokens, 3, heads, head_dim)
        segments: Segments,
        dropout_prob: float,
        drawn: LayerDropout | None,
    ) -> Tensor:  # (tokens, heads, head_dim)
        """Attends within segments."""
        return attend(qkv, segments, dropout_prob, drawn)


class SelfAttention(nn.Module):
    """Projects to queries, keys and values, attends inside segments, projects back."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.num_heads = config.num_attention_heads
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.dropout_prob = config.attention_probs_dropout_prob
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)  # queries, keys, values
        self.core = AttentionCore()
        self.output = Linear(config.hidden_size, config.hidden_size)

    def forward(
        self,
        hidden: Tensor,  # (tokens, hidden)
        segments: Segments,
        keep: Tensor | None = None,  # (kept,) int64, into tokens
        drawn: LayerDropout | None = None,
        bias_apart: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:  # (tokens, hidden), or (kept, hidden)
        """Attends, without residual, norm or dropout of the result.

        With `keep`, the result at those tokens alone is projected back. `drawn` says which
        probabilities are dropped in training; without it torch's generator does. With `bias_apart`
        the last bias is not added but returned beside.
        """
        qkv = self.qkv(hidden).view(-1, 3, self.num_heads, self.head_dim)
        attended = self.core(qkv, segments, self.dropout_prob if self.training else 0.0, drawn)
        attended = attended.flatten(1)  # (tokens, hidden)
        if keep is not None:
            attended = attended[keep]
        return self.output(attended, bias_apart)  # type: ignore[no-any-return]


def attend(
    qkv: Tensor,  # (tokens, 3, heads, head_dim)
    segments: Segments,
    dropout_prob: float = 0.0,
    drawn: LayerDropout | None = None,
) -> Tensor:  # (tokens, heads, head_dim)
    """Attends within segments by the way that `segments` was planned for."""
    if segments.implementation == "grouped":
        return _attend_grouped(qkv, segments, dropout_prob, drawn)
    if segments.implementation == "varlen":
        return _attend_varlen(qkv, segments, dropout_prob)
    return _attend_masked(qkv, segments, dropout_prob, drawn)


def attend_reference(
    qkv: Tensor,  # (tokens, 3, heads, head_dim)
    cu_seqlens: Tensor,  # (max_segments + 1,) int32
) -> Tensor:  # (tokens, heads, head_dim)
    """The definition, one segment at a time: right for any `cu_seqlens`, and slow."""
    outputs = []
    bounds = cu_seqlens.tolist()
    for start, end in zip(bounds[:-1], bounds[1:], strict=True):
        q, k, v = qkv[start:end].permute(1, 2, 0, 3)  # (heads, length, head_dim) each
        scores = q @ k.transpose(1, 2) * q.shape[-1] ** -0.5  # (heads, length, length)
        outputs.append((scores.softmax(-1) @ v).transpose(0, 1))
    return torch.cat(outputs)


def _attend_grouped(
    qkv: Tensor, segments: Segments, dropout_prob: float, drawn: LayerDropout | None
) -> Tensor:
    slots = qkv  # (slots, 3, heads, head_dim)
    if segments.gather is not None:
        slots = _ToSlots.apply(qkv, segments.gather, segments.scatter)  # type: ignore[no-untyped-call]
    outputs = []
    # One split, not slices: its backward joins the groups' gradients in one pass.
    sizes = [group.num_segments * group.length for group in segments.groups]
    parts = torch.split_with_sizes(slots, sizes)
    for group, part in zip(segments.groups, parts, strict=True):
        members = part.view(group.num_segments, group.length, *qkv.shape[1:])
        q, k, v = members.permute(2, 0, 3, 1, 4)  # (segments, heads, length, head_dim) each
        if dropout_prob:
            if isinstance(drawn, RowStreams):
                streams = drawn.segments(group.starts)
            else:
                streams = SegmentStreams.from_generator(group.num_segments)
            output = dropout_attention(q, k, v, group.mask, dropout_prob, streams, group.stride)
        else:
            output = F.scaled_dot_product_attention(q, k, v, group.mask)
        outputs.append(output.transpose(1, 2).reshape(part.shape[0], *qkv.shape[2:]))
    attended = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
    if segments.scatter is not None:
        attended = _ToTokens.apply(attended, segments.scatter)  # type: ignore[no-untyped-call]
    return attended


def _attend_varlen(qkv: Tensor, segments: Segments, dropout_prob: float) -> Tensor:
    q, k, v = qkv.unbind(1)  # (tokens, heads, head_dim) each
    # torch.nn.attention.varlen.varlen_attn is this call with dropout fixed at 0.
    output: Tensor = torch.ops.aten._flash_attention_forward(
        q,
        k,
        v,
        segments.cu_seqlens,
        segments.cu_seqlens,
        segments.seq_len,
        segments.seq_len,
        dropout_prob,
        False,  # is_causal
        False,  # return_debug_mask
    )[0]
    return output


def _attend_masked(
    qkv: Tensor, segments: Segments, dropout_prob: float, drawn: LayerDropout | None
) -> Tensor:
    rows = qkv.view(-1, segments.seq_len, *qkv.shape[1:])
    q, k, v = rows.permute(2, 0, 3, 1, 4)  # (rows, heads, seq_len, head_dim) each
    mask = segments.row_mask
    if dropout_prob and isinstance(drawn, SeededRows) and mask is not None:
        attended = [
            F.scaled_dot_product_attention(
                q[row, None], k[row, None], v[row, None], mask[row, None], dropout_prob
            )
            for row in drawn.each_row(ATTENTION)
        ]
        output = torch.cat(attended)
    else:
        output = F.scaled_dot_product_attention(q, k, v, mask, dropout_prob)
    return output.transpose(1, 2).reshape(qkv.shape[0], *qkv.shape[2:])


class _ToSlots(torch.autograd.Function):
    """Gathers tokens into padded slots; backward gathers too, instead of adding row by row.

    Every token has one slot, and padding slots carry no gradient: as keys and values they are
    masked, and `_ToTokens` gives them zeros as queries.
    """

    @staticmethod
    def forward(ctx: Any, tokens: Tensor, gather: Tensor, scatter: Tensor) -> Tensor:
        ctx.save_for_backward(scatter)
        return tokens.index_select(0, gather)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (scatter,) = ctx.saved_tensors
        return grad.index_select(0, scatter), None, None


class _ToTokens(torch.autograd.Function):
    """Takes each token's slot and drops the padding slots, whose gradient is zero."""

    @staticmethod
    def forward(ctx: Any, slots: Tensor, scatter: Tensor) -> Tensor:
        ctx.save_for_backward(scatter)
        ctx.num_slots = slots.shape[0]
        return slots.index_select(0, scatter)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (scatter,) = ctx.saved_tensors
        grad_slots = grad.new_zeros(ctx.num_slots, *grad.shape[1:])
        grad_slots[scatter] = grad
        return grad_slots, None
