"""The masked-language-model head: it runs on the predicted positions alone."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from megaxlm_kernels.gelu import bias_gelu
from megaxlm_kernels.linear_cross_entropy import linear_cross_entropy
from torch import Tensor, nn

from megaxlm.config.pretrain import ModelConfig
from megaxlm.model.fused import Addition, LayerNorm, Linear, UsesKernels


class Decoder(UsesKernels):
    """Output embeddings and bias, whose logits go straight into the loss.

    `weight` is the word embedding itself when the two are tied. It is registered here as well as
    there, because ZeRO-3 gathers a parameter for the module that holds it.
    """

    def __init__(self, config: ModelConfig, tied: nn.Embedding | None) -> None:
        super().__init__()
        assert config.vocab_size is not None
        self.weight = (
            nn.Parameter(torch.empty(config.vocab_size, config.hidden_size))
            if tied is None
            else tied.weight
        )
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def forward(
        self,
        hidden: Tensor,  # (targets, hidden)
        targets: Tensor | None = None,  # (targets,) int64
        target_weight: Tensor | None = None,  # (targets,) float32
    ) -> tuple[Tensor, Tensor]:
        """Returns the weighted sum of losses and each loss; without targets, the logits twice."""
        if targets is None or target_weight is None:
            logits = F.linear(hidden, self.weight, self.bias)  # (targets, vocab)
            return logits, logits
        return linear_cross_entropy(
            hidden,
            self.weight,
            self.bias,
            targets,
            target_weight,
            implementation=self.kernels,
        )


class MaskedLanguageModelHead(UsesKernels):
    """Dense, GELU, LayerNorm, decoder (RoBERTa)."""

    def __init__(self, config: ModelConfig, tied: nn.Embedding | None) -> None:
        """Builds the head; `tied` is the embedding to decode with, None for a weight of its own."""
        super().__init__()
        self.dense = Linear(config.hidden_size, config.hidden_size)
        self.norm = LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.decoder = Decoder(config, tied)

    def forward(
        self,
        hidden: Tensor,  # (targets, hidden)
        targets: Tensor,  # (targets,) int64
        target_weight: Tensor,  # (targets,) float32
    ) -> tuple[Tensor, Tensor]:
        """Returns the weighted mean loss, fp32, and the (targets,) unweighted losses, detached.

        The mean divides by the number of targets, a constant, so that micro-batches, ranks and
        layouts weigh the same whatever their zero weights.
        """
        # Dividing the weights, not the loss, saves a pass over the gradient of the embedding.
        mean_weight = target_weight / max(1, targets.shape[0])
        loss, target_losses = self.decoder(self._transform(hidden), targets, mean_weight)
        # A loss that is not finite makes every gradient so too. Then one rule, the norm of the
        # gradients, which all ranks and stages share, decides whether a step counts.
        sound = torch.where(loss.detach().isfinite(), 1.0, torch.nan)
        return loss * sound, target_losses

    def logits(
        self,
        hidden: Tensor,  # (targets, hidden)
    ) -> Tensor:  # (targets, vocab)
        """Returns the logits in the dtype of the weights."""
        return self.decoder(self._transform(hidden))[0]  # type: ignore[no-any-return]

    def _transform(self, hidden: Tensor) -> Tensor:
        if self.fused:
            hidden, bias = self.dense(hidden, bias_apart=True)
            hidden = bias_gelu(hidden, bias, implementation=self.kernels)
            return self.norm(hidden, Addition())[0]  # type: ignore[no-any-return]
        return self.norm(F.gelu(self.dense(hidden)))  # type: ignore[no-any-return]
