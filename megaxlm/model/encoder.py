"""The XLM-R encoder on packed tokens, with its masked-language-model head.

Hidden states are (tokens, hidden): nothing is padded, segments are told apart by `cu_seqlens`. The
head runs on the predicted positions alone, and so does the last layer from its attention on.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from megaxlm.config.pretrain import ModelConfig
from megaxlm.model.dropout_key import DropoutKey
from megaxlm.model.embeddings import Embeddings
from megaxlm.model.heads import MaskedLanguageModelHead
from megaxlm.model.layer import EncoderLayer, FinalNorm, LayerState
from megaxlm.model.segments import Segments


class MaskedLanguageModel(nn.Module):
    """Embeddings, encoder layers and head of the XLM-R family (post-LN and pre-LN)."""

    def __init__(self, config: ModelConfig) -> None:
        """Builds the module; call `initialization.initialize` or `load_parameters` before use.

        Args:
            config: With `vocab_size` and `max_position_embeddings` resolved.

        Raises:
            ValueError: One of the two is None.
        """
        super().__init__()
        self.config = config
        self.embeddings = Embeddings(config)
        self.layers = nn.ModuleList(
            EncoderLayer(config, index) for index in range(config.num_hidden_layers)
        )
        self.final_norm = FinalNorm(config) if config.model_type == "xlm-roberta-xl" else None
        self.head = MaskedLanguageModelHead(
            config, self.embeddings.word if config.tie_word_embeddings else None
        )

    def forward(
        self,
        tokens: Tensor,  # (tokens,) int64
        positions: Tensor,  # (tokens,) int64, from 0 inside a segment
        cu_seqlens: Tensor,  # (max_segments + 1,) int32, tail repeated
        target_index: Tensor,  # (targets,) int64, into tokens
        targets: Tensor,  # (targets,) int64
        target_weight: Tensor,  # (targets,) float32
        seq_len: int,
        dropout_key: DropoutKey | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Computes the loss of one micro-batch.

        In training, `dropout_key` (see `megaxlm.model.dropout_key`) says what is dropped out;
        without it torch's generator goes on from where it stands.

        Returns:
            `loss`, an fp32 scalar: the weighted sum of cross entropies (nats) over the number of
            targets; and the (targets,) unweighted cross entropies, fp32, detached.

        Raises:
            ValueError: A shape or dtype is wrong.
        """
        hidden = self._encode(tokens, positions, cu_seqlens, target_index, seq_len, dropout_key)
        loss, target_losses = self.head(hidden, targets, target_weight)
        return loss, target_losses

    def logits(
        self,
        tokens: Tensor,  # (tokens,) int64
        positions: Tensor,  # (tokens,) int64
        cu_seqlens: Tensor,  # (max_segments + 1,) int32
        target_index: Tensor,  # (targets,) int64, into tokens
        seq_len: int,
    ) -> Tensor:  # (targets, vocab)
        """Returns the logits at some positions."""
        hidden = self._encode(tokens, positions, cu_seqlens, target_index, seq_len)
        return self.head.logits(hidden)

    def hidden_states(
        self,
        tokens: Tensor,  # (tokens,) int64
        positions: Tensor,  # (tokens,) int64
        cu_seqlens: Tensor,  # (max_segments + 1,) int32
        seq_len: int,
    ) -> list[Tensor]:  # num_hidden_layers + 1 of (tokens, hidden)
        """Returns the output of the embeddings and of every layer.

        The last one is normalised by the final norm of the pre-LN family, the others are not, as
        in Transformers.
        """
        states = [self.embeddings(tokens, positions)]
        segments = self._segments(states[0], cu_seqlens, seq_len)
        for layer in self.layers:
            states.append(layer((states[-1], segments))[0])
        if self.final_norm is not None:
            states[-1] = self.final_norm((states[-1], segments))[0]
        return states

    @torch.no_grad()
    def load_parameters(self, state: Mapping[str, Tensor]) -> None:
        """Copies a full set of parameters into an unpartitioned model.

        Args:
            state: Every name of `named_parameters()`, and no other.

        Raises:
            ValueError: Names or shapes differ.
        """
        parameters = dict(self.named_parameters())
        if different := parameters.keys() ^ state.keys():
            raise ValueError(f"parameters missing or unknown: {', '.join(sorted(different))}")
        for name, parameter in parameters.items():
            if parameter.shape != state[name].shape:
                raise ValueError(
                    f"{name} is {tuple(parameter.shape)}, the given one {tuple(state[name].shape)}"
                )
            parameter.copy_(state[name])

    def _encode(
        self,
        tokens: Tensor,
        positions: Tensor,
        cu_seqlens: Tensor,
        target_index: Tensor,
        seq_len: int,
        dropout_key: DropoutKey | None = None,
    ) -> Tensor:  # (targets, hidden)
        hidden = self.embeddings(tokens, positions, dropout_key)
        state: LayerState = (hidden, self._segments(hidden, cu_seqlens, seq_len))
        last = len(self.layers) - 1
        recomputed = recomputed_layers(self.config, len(self.layers))
        for number, layer in enumerate(self.layers):
            keep = target_index if number == last else None
            state = run_layer(layer, state, keep, dropout_key, recompute=number < recomputed)
        if self.final_norm is not None:
            state = self.final_norm(state)
        return state[0]

    @staticmethod
    def _segments(hidden: Tensor, cu_seqlens: Tensor, seq_len: int) -> Segments:
        return Segments.plan(cu_seqlens, hidden.shape[0], seq_len, hidden.dtype)


def recomputed_layers(config: ModelConfig, num_layers: int) -> int:
    """Returns how many of `num_layers` layers, the first ones, keep no activations for backward."""
    setting = config.activation_checkpointing
    if isinstance(setting, bool):
        return num_layers if setting else 0
    return min(setting, num_layers)


def run_layer(
    layer: nn.Module,
    state: LayerState,
    keep: Tensor | None,
    dropout_key: DropoutKey | None,
    recompute: bool,
) -> LayerState:
    """Runs an encoder layer, computing it again in the backward pass if asked to."""
    if not (recompute and layer.training and torch.is_grad_enabled()):
        return layer(state, keep, dropout_key)  # type: ignore[no-any-return]
    return checkpoint(  # type: ignore[no-any-return]
        layer,
        state,
        keep,
        dropout_key,
        use_reentrant=False,
        # A keyed layer draws the same again by itself.
        preserve_rng_state=dropout_key is None,
    )
