"""The micro-batch: what one forward pass takes, always in the same shapes."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from megaxlm.data.special_tokens import PAD


@dataclass(frozen=True)
class MicroBatch:
    """`micro_batch_size` rows of `seq_len` tokens, flattened; tokens = rows x seq_len.

    Positions count from 0 inside an attention segment (the embedding adds XLM-R's offset).
    A row that could not be filled to the end closes with `<pad>` tokens in a segment of their
    own; targets that could not be placed carry weight 0, so every shape is static.
    """

    tokens: Tensor  # (tokens,) int64, already masked
    positions: Tensor  # (tokens,) int64
    languages: Tensor  # (tokens,) int64, index into DatasetIndex.languages
    cu_seqlens: Tensor  # (max_segments + 1,) int32, attention segments, tail repeated
    target_index: Tensor  # (targets,) int64, into the flattened tokens, ascending
    targets: Tensor  # (targets,) int64, the original ids
    target_weight: Tensor  # (targets,) float32, 1 or 0
    row_ids: Tensor  # (rows,) int64, position of each row in the global stream
    seq_len: int  # rows are (tokens / seq_len); no segment crosses a row

    def to(self, device: torch.device | str) -> MicroBatch:
        """Returns a copy with every tensor on `device`."""
        moved = {f.name: getattr(self, f.name) for f in fields(self)}
        for name, value in moved.items():
            if isinstance(value, Tensor):
                moved[name] = value.to(device, non_blocking=True)
        return MicroBatch(**moved)

    @property
    def num_real_tokens(self) -> int:
        """Tokens that are not padding."""
        return int(np.count_nonzero(self.tokens.cpu().numpy() != PAD))
