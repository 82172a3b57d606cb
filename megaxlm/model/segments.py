"""What may attend to what: segments of packed tokens, planned once a micro-batch for all layers.

Three ways to attend, chosen by device and dtype:

- `grouped`, on the CPU: segments of like length are gathered into padded groups, so that a row of
  512 tokens made of 20 sentences costs 20 small attentions, not one of 512 x 512 with a mask. One
  core, 2,048 tokens, 12 heads of 64, forward and backward, dropout on, in CPU milliseconds against
  the masked rows: segments of 25 in rows of 128, 42 : 73; in rows of 512, 38 : 377; segments of
  150 in rows of 512, 89 : 353; whole rows, the same work, 352 : 362. The plan takes 0.15 ms.
- `varlen`, on CUDA in bf16 or fp16: FlashAttention takes `cu_seqlens` as it is; nothing is
  planned and the host never waits for the device. It has been run on fake tensors alone, never on
  a GPU; where the kernel is missing, torch raises.
- `masked`, on CUDA in fp32 (FlashAttention has no fp32): rows of `seq_len` with a block-diagonal
  mask, made on the device. Tested on the CPU.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

AttentionImplementation = Literal["grouped", "varlen", "masked"]


@dataclass(frozen=True)
class SegmentGroup:
    """Segments of like length, padded to the longest of them; groups follow one another."""

    num_segments: int
    length: int  # slots of each segment
    stride: int  # what a segment of this length is padded to at most, whatever the others are
    starts: np.ndarray  # (segments,) int64, the first token of each
    mask: Tensor | None  # (segments, 1, 1, length) bool, False at padding; None: no padding


@dataclass(frozen=True)
class Segments:
    """The attention segments of one micro-batch and how the layers attend within them."""

    cu_seqlens: Tensor  # (max_segments + 1,) int32, tail repeated
    seq_len: int  # no segment is longer
    implementation: AttentionImplementation
    groups: tuple[SegmentGroup, ...] = ()  # `grouped`
    gather: Tensor | None = None  # (slots,) int64, the token of each slot; None: slots are tokens
    scatter: Tensor | None = None  # (tokens,) int64, the slot of each token
    row_mask: Tensor | None = None  # `masked`: (rows, 1, seq_len, seq_len) bool

    @classmethod
    def plan(
        cls, cu_seqlens: Tensor, num_tokens: int, seq_len: int, dtype: torch.dtype
    ) -> Segments:
        """Plans the attention of one micro-batch.

        Args:
            cu_seqlens: (max_segments + 1,) int32 on the device of the hidden states; from 0 to
                `num_tokens`, tail repeated.
            num_tokens: Packed tokens.
            seq_len: Row length. On CUDA no segment may be longer, and in fp32 none may cross a row.
            dtype: Of the hidden states.

        Raises:
            ValueError: On the CPU, `cu_seqlens` does not run from 0 up to `num_tokens`.
        """
        if cu_seqlens.dim() != 1 or cu_seqlens.dtype != torch.int32:
            raise ValueError(
                f"cu_seqlens must be 1-D int32, got {tuple(cu_seqlens.shape)} {cu_seqlens.dtype}"
            )
        if cu_seqlens.device.type == "cpu":
            return cls._plan_groups(cu_seqlens, num_tokens, seq_len)
        if dtype in (torch.bfloat16, torch.float16):
            return cls(cu_seqlens, seq_len, "varlen")
        return cls(
            cu_seqlens, seq_len, "masked", row_mask=block_mask(cu_seqlens, num_tokens, seq_len)
        )

    @classmethod
    def _plan_groups(cls, cu_seqlens: Tensor, num_tokens: int, seq_len: int) -> Segments:
        bounds = cu_seqlens.numpy().astype(np.int64)
        lengths = np.diff(bounds)  # (max_segments,)
        if bounds[0] != 0 or bounds[-1] != num_tokens or (lengths < 0).any():
            raise ValueError(
                f"cu_seqlens must rise from 0 to the {num_tokens} packed tokens, "
                f"got {bounds[0]} to {bounds[-1]}"
            )
        used = lengths > 0  # the repeated tail is empty segments
        starts, lengths = bounds[:-1][used], lengths[used]
        if lengths.size and (lengths == lengths[0]).all():
            group = SegmentGroup(
                lengths.size, int(lengths[0]), int(_padded_lengths(lengths[:1])[0]), starts, None
            )
            return cls(cu_seqlens, seq_len, "grouped", (group,))

        padded = _padded_lengths(lengths)
        groups: list[SegmentGroup] = []
        gathers: list[np.ndarray] = []
        scatter = np.empty(num_tokens, dtype=np.int64)
        first_slot = 0
        for size in np.unique(padded):
            members = padded == size
            length = int(lengths[members].max())
            offsets = np.arange(length)
            valid = offsets < lengths[members][:, None]  # (segments, length)
            # A padding slot reads its segment's first token: any valid one does, it is masked.
            index = starts[members][:, None] + np.where(valid, offsets, 0)
            slots = first_slot + np.arange(index.size).reshape(index.shape)
            scatter[index[valid]] = slots[valid]
            mask = None if valid.all() else torch.from_numpy(valid)[:, None, None, :]
            groups.append(SegmentGroup(index.shape[0], length, int(size), starts[members], mask))
            gathers.append(index.reshape(-1))
            first_slot += index.size
        return cls(
            cu_seqlens,
            seq_len,
            "grouped",
            tuple(groups),
            torch.from_numpy(np.concatenate(gathers)),
            torch.from_numpy(scatter),
        )


def block_mask(
    cu_seqlens: Tensor,  # (max_segments + 1,) int32
    num_tokens: int,
    seq_len: int,
) -> Tensor:  # (rows, 1, seq_len, seq_len) bool
    """Returns which tokens of a row share a segment, without a word from the device to the host."""
    tokens = torch.arange(num_tokens, dtype=torch.int32, device=cu_seqlens.device)
    segment = torch.searchsorted(cu_seqlens, tokens, right=True).view(-1, seq_len)
    return (segment.unsqueeze(1) == segment.unsqueeze(2)).unsqueeze(1)


def _padded_lengths(
    lengths: np.ndarray,  # (segments,)
) -> np.ndarray:  # (segments,)
    """Rounds up to steps of a quarter of the length, at least 8: few groups, little padding."""
    step = 2 ** np.maximum(3, np.floor(np.log2(lengths)).astype(np.int64) - 2)
    padded: np.ndarray = (lengths + step - 1) // step * step
    return padded
