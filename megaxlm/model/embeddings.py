"""From ids to the first hidden state: words plus positions, normalised in the post-LN family.

Hugging Face's `token_type_embeddings` has one row that every token gets; it is folded into the
position table on import and exported as zeros, so there is no parameter for it here.
"""

from __future__ import annotations

from megaxlm_kernels.embedding import embedding_layer_norm
from torch import Tensor, nn

from megaxlm.config.pretrain import ModelConfig
from megaxlm.model.dropout_key import (
    AFTER_EMBEDDINGS,
    EMBEDDINGS,
    DropoutKey,
    drop_out,
    kernel_seed,
)
from megaxlm.model.fused import UsesKernels

# fairseq numbers positions from pad_token_id + 1, so the first two rows of the table stay unused.
POSITION_OFFSET = 2


class Embeddings(UsesKernels):
    """Word and position embeddings, LayerNorm (post-LN family only) and dropout."""

    def __init__(self, config: ModelConfig) -> None:
        """Builds the tables; `vocab_size` and `max_position_embeddings` must be resolved."""
        super().__init__()
        if config.vocab_size is None or config.max_position_embeddings is None:
            raise ValueError("vocab_size and max_position_embeddings must be resolved")
        self.word = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.norm = (
            nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
            if config.model_type == "xlm-roberta"
            else None
        )
        self.dropout_prob = config.hidden_dropout_prob

    def forward(
        self,
        tokens: Tensor,  # (tokens,) int64
        positions: Tensor,  # (tokens,) int64, from 0 inside a segment
        dropout_key: DropoutKey | None = None,
    ) -> Tensor:  # (tokens, hidden)
        """Looks up and sums; `dropout_key` is that of `megaxlm.model.dropout_key`."""
        positions = positions + POSITION_OFFSET
        # ZeRO-3 gathers a table for the module that holds it, and for its forward alone.
        if self.fused and not hasattr(self.word.weight, "ds_id"):
            return self._fused(tokens, positions, dropout_key)
        hidden = self.word(tokens) + self.position(positions)
        if self.norm is not None:
            hidden = self.norm(hidden)
        if not self.training:
            return hidden  # type: ignore[no-any-return]
        drawn = None if dropout_key is None else dropout_key.layer(EMBEDDINGS, hidden)
        return drop_out(hidden, self.dropout_prob, drawn, AFTER_EMBEDDINGS)

    def _fused(
        self, tokens: Tensor, positions: Tensor, dropout_key: DropoutKey | None
    ) -> Tensor:  # (tokens, hidden)
        prob, seed, places = self.dropout_prob if self.training else 0.0, 0, None
        if prob:
            seed = kernel_seed(dropout_key, EMBEDDINGS, AFTER_EMBEDDINGS)
            places = None if dropout_key is None else dropout_key.places(tokens.device)
        norm = self.norm
        return embedding_layer_norm(
            tokens,
            self.word.weight,
            positions,
            self.position.weight,
            None if norm is None else norm.weight,
            None if norm is None else norm.bias,
            0.0 if norm is None else norm.eps,
            prob,
            seed,
            places,
            implementation=self.kernels,
        )
