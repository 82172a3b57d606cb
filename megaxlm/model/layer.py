"""One encoder layer, post-LN or pre-LN, and the norm that closes a pre-LN encoder.

Both take and return the same tuple, so that one list of them serves the plain module and a
pipeline's stages.
"""

from __future__ import annotations

from torch import Tensor, nn

from megaxlm.config.pretrain import ModelConfig
from megaxlm.model.attention import SelfAttention
from megaxlm.model.dropout_key import (
    AFTER_ATTENTION,
    AFTER_FEED_FORWARD,
    DropoutKey,
    LayerDropout,
    drop_out,
    kernel_seed,
)
from megaxlm.model.feed_forward import FeedForward
from megaxlm.model.fused import Addition, LayerNorm, UsesKernels
from megaxlm.model.segments import Segments

LayerState = tuple[Tensor, Segments]  # hidden (tokens, hidden), and what may attend to what


class EncoderLayer(UsesKernels):
    """Attention and feed-forward, each with a residual.

    Post-LN (XLM-R base, large) normalises after each sum; pre-LN (XL, XXL) before each block, and
    drops out after attention alone, as XLM-R XL was trained.
    """

    def __init__(self, config: ModelConfig, index: int = 0) -> None:
        """Builds layer `index` of the encoder."""
        super().__init__()
        self.index = index
        self.post_norm = config.model_type == "xlm-roberta"
        self.attention = SelfAttention(config)
        self.attention_norm = LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.feed_forward = FeedForward(config)
        self.feed_forward_norm = LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout_prob = config.hidden_dropout_prob

    def forward(
        self,
        state: LayerState,
        keep: Tensor | None = None,  # (kept,) int64, into tokens
        dropout_key: DropoutKey | None = None,
    ) -> LayerState:
        """Returns the state with the layer's hidden states.

        With `keep`, which the last layer gets, these are (kept, hidden): all tokens are attended
        to, but what follows runs on the kept ones alone, since nothing reads the others.
        `dropout_key` (see `megaxlm.model.dropout_key`) says what is dropped out in training;
        without it torch's generator goes on from where it stands.
        """
        hidden, segments = state  # (tokens, hidden)
        drawn = None
        if dropout_key is not None and self.training:
            drawn = dropout_key.layer(self.index, hidden)
        residual = hidden if keep is None else hidden[keep]
        if self.fused:
            attended_to = hidden if self.post_norm else self.attention_norm(hidden)
            attended = self.attention(attended_to, segments, keep, drawn, bias_apart=True)
            return self._fused(attended, residual, dropout_key, keep), segments
        if self.post_norm:
            attended = self.attention(hidden, segments, keep, drawn)
            attended = self._drop_out(attended, drawn, AFTER_ATTENTION, keep)
            hidden = self.attention_norm(residual + attended)
            fed = self._drop_out(self.feed_forward(hidden), drawn, AFTER_FEED_FORWARD, keep)
            hidden = self.feed_forward_norm(hidden + fed)
        else:
            attended = self.attention(self.attention_norm(hidden), segments, keep, drawn)
            hidden = residual + self._drop_out(attended, drawn, AFTER_ATTENTION, keep)
            hidden = hidden + self.feed_forward(self.feed_forward_norm(hidden))
        return hidden, segments

    def _fused(
        self,
        attended: tuple[Tensor, Tensor],  # (kept, hidden), and the bias to come, (hidden,)
        residual: Tensor,  # (kept, hidden)
        dropout_key: DropoutKey | None,
        keep: Tensor | None,
    ) -> Tensor:  # (kept, hidden)
        """What follows attention, by kernels."""
        prob, places = self.dropout_prob if self.training else 0.0, None
        if dropout_key is not None and prob:
            places = dropout_key.places(residual.device)
            places = places if keep is None else places[keep]

        def addition(place: int, residual: Tensor, bias: Tensor) -> Addition:
            seed = kernel_seed(dropout_key, self.index, place) if prob else 0
            return Addition(residual, bias, prob, seed, places)

        hidden, bias = attended
        norm = self.attention_norm if self.post_norm else self.feed_forward_norm
        hidden, total = norm(hidden, addition(AFTER_ATTENTION, residual, bias))
        if not self.post_norm:
            return total + self.feed_forward(hidden)  # type: ignore[no-any-return]
        fed, bias = self.feed_forward(hidden, bias_apart=True)
        return self.feed_forward_norm(  # type: ignore[no-any-return]
            fed, addition(AFTER_FEED_FORWARD, hidden, bias)
        )[0]

    def _drop_out(
        self, hidden: Tensor, drawn: LayerDropout | None, place: int, keep: Tensor | None
    ) -> Tensor:
        if not self.training:
            return hidden
        return drop_out(hidden, self.dropout_prob, drawn, place, keep)


class FinalNorm(nn.LayerNorm):
    """The LayerNorm after the last pre-LN layer."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, state: LayerState) -> LayerState:  # type: ignore[override]
        """Normalises the hidden states."""
        hidden, segments = state
        return super().forward(hidden), segments
