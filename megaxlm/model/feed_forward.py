"""The position-wise feed-forward block: up, exact GELU, down."""

from __future__ import annotations

import torch.nn.functional as F
from megaxlm_kernels.gelu import bias_gelu
from torch import Tensor

from megaxlm.config.pretrain import ModelConfig
from megaxlm.model.fused import Linear, UsesKernels


class FeedForward(UsesKernels):
    """Two linear maps with GELU between them."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.up = Linear(config.hidden_size, config.intermediate_size)
        self.down = Linear(config.intermediate_size, config.hidden_size)

    def forward(
        self,
        hidden: Tensor,  # (tokens, hidden)
        bias_apart: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:  # (tokens, hidden)
        """Applies the block, without residual, norm or dropout.

        With `bias_apart` the last bias is not added but returned beside.
        """
        if self.fused:
            hidden, bias = self.up(hidden, bias_apart=True)
            hidden = bias_gelu(hidden, bias, implementation=self.kernels)
        else:
            hidden = F.gelu(self.up(hidden))
        return self.down(hidden, bias_apart)  # type: ignore[no-any-return]
