"""Analytic floating-point operations of a training step, for model FLOPs utilisation (MFU).

Matrix products alone, a multiply and an add counting as two, the backward pass as twice the
forward (Kaplan et al. 2020, section 2.1; Chowdhery et al. 2022, appendix B). What activation
checkpointing computes again is not counted: MFU asks what the model needs, not what was spent.
The head is shown apart, because with a vocabulary of 250,000 it can outweigh the layers.
"""

from __future__ import annotations

from dataclasses import dataclass

from megaxlm.config.pretrain import ModelConfig

FORWARD_AND_BACKWARD = 3


@dataclass(frozen=True)
class TrainingFlops:
    """Floating-point operations, forward and backward, of some tokens and targets."""

    layers: int  # the linear maps of all layers
    attention: int  # queries with keys, and weights with values
    head: int  # on the targets alone

    @property
    def total(self) -> int:
        """All three."""
        return self.layers + self.attention + self.head


def training_flops(
    config: ModelConfig,
    num_tokens: int,
    num_targets: int,
    seq_len: int,
    attention_pairs: int | None = None,
) -> TrainingFlops:
    """Counts a forward and backward pass.

    Args:
        config: With `vocab_size` resolved.
        num_tokens: Packed tokens, of a micro-batch or of a whole step.
        num_targets: Predicted positions among them.
        seq_len: Row length.
        attention_pairs: The sum of squared segment lengths; None takes the upper bound that every
            segment fills its row.
    """
    assert config.vocab_size is not None
    hidden, inner = config.hidden_size, config.intermediate_size
    if attention_pairs is None:
        attention_pairs = num_tokens * seq_len
    projections = 2 * 3 * hidden * hidden  # a token's query, key and value
    rest = 2 * (hidden * hidden + 2 * hidden * inner)  # what follows its attention
    # After its attention, the last layer runs on the targets alone.
    last_layer = num_tokens * projections + num_targets * rest
    layers = (config.num_hidden_layers - 1) * num_tokens * (projections + rest) + last_layer
    attention = 2 * 2 * attention_pairs * hidden
    head = 2 * num_targets * (hidden * hidden + hidden * config.vocab_size)
    return TrainingFlops(
        layers=FORWARD_AND_BACKWARD * layers,
        attention=FORWARD_AND_BACKWARD * config.num_hidden_layers * attention,
        head=FORWARD_AND_BACKWARD * head,
    )
