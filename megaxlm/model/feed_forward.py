"""The position-wise feed-forward block: up, exact GELU, down."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from megaxlm.config.pretrain import ModelConfig


class FeedForward(nn.Module):
    """Two linear maps with GELU between them."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.up = nn.Linear(config.hidden_size, config.intermediate_size)
        self.down = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(
        self,
        hidden: Tensor,  # (tokens, hidden)
    ) -> Tensor:  # (tokens, hidden)
        """Applies the block, without residual, norm or dropout."""
        return self.down(F.gelu(self.up(hidden)))  # type: ignore[no-any-return]
