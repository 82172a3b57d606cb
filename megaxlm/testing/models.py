"""Small models and micro-batches for tests, of the shapes that real ones have."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from megaxlm.config.pretrain import ModelConfig
from megaxlm.data.batch import MicroBatch
from megaxlm.model.heads import Decoder


def tiny_model_config(
    *,
    vocab_size: int = 203,
    hidden_size: int = 24,
    num_hidden_layers: int = 2,
    num_attention_heads: int = 2,
    seq_len: int = 16,
    dropout: float = 0.0,
    pre_norm: bool = False,
) -> ModelConfig:
    """Returns an encoder whose parameter sizes divide by no number of ranks."""
    return ModelConfig(
        model_type="xlm-roberta-xl" if pre_norm else "xlm-roberta",
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        num_hidden_layers=num_hidden_layers,
        num_attention_heads=num_attention_heads,
        intermediate_size=2 * hidden_size + 1,
        max_position_embeddings=seq_len + 2,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )


def random_micro_batch(
    seed: int,
    *,
    vocab_size: int = 203,
    rows: int = 2,
    seq_len: int = 16,
    num_languages: int = 3,
    mlm_probability: float = 0.25,
) -> MicroBatch:
    """Returns a micro-batch of random ids, two segments a row, some targets of weight 0."""
    generator = torch.Generator().manual_seed(seed)
    tokens = rows * seq_len
    ids = torch.randint(5, vocab_size - 1, (tokens,), generator=generator)
    num_targets = round(mlm_probability * tokens)
    index = torch.randperm(tokens, generator=generator)[:num_targets].sort().values
    masked = ids.clone()
    masked[index] = vocab_size - 1
    cuts, positions = [0], []
    for row in range(rows):
        first = int(torch.randint(1, seq_len, (1,), generator=generator))
        cuts += [row * seq_len + first, (row + 1) * seq_len]
        positions += [*range(first), *range(seq_len - first)]
    weight = torch.ones(num_targets)
    weight[-1] = 0.0
    languages = torch.randint(0, num_languages, (rows,), generator=generator)
    return MicroBatch(
        tokens=masked,
        positions=torch.tensor(positions),
        languages=languages.repeat_interleave(seq_len),
        cu_seqlens=torch.tensor([*cuts, tokens], dtype=torch.int32),  # the tail is repeated
        target_index=index,
        targets=ids[index],
        target_weight=weight,
        row_ids=torch.arange(seed * rows, (seed + 1) * rows),
        seq_len=seq_len,
    )


def join_micro_batches(batches: Sequence[MicroBatch]) -> MicroBatch:
    """Returns one micro-batch of the rows of several."""
    first = batches[0]
    starts = [0]
    for batch in batches:
        starts.append(starts[-1] + len(batch.tokens))
    shifted = list(zip(batches, starts[:-1], strict=True))
    # Repeated cuts are empty segments, wherever they stand.
    cuts = [batch.cu_seqlens + start for batch, start in shifted]
    return MicroBatch(
        tokens=torch.cat([batch.tokens for batch in batches]),
        positions=torch.cat([batch.positions for batch in batches]),
        languages=torch.cat([batch.languages for batch in batches]),
        cu_seqlens=torch.cat([cuts[0], *(later[1:] for later in cuts[1:])]),
        target_index=torch.cat([batch.target_index + start for batch, start in shifted]),
        targets=torch.cat([batch.targets for batch in batches]),
        target_weight=torch.cat([batch.target_weight for batch in batches]),
        row_ids=torch.cat([batch.row_ids for batch in batches]),
        seq_len=first.seq_len,
    )


@contextmanager
def nan_weights() -> Iterator[None]:
    """Has a NaN weight of a target, which the loss refuses, stand for a NaN in its hidden state.

    So a test breaks a step by its batch alone, and loss and gradients are NaN as they are after an
    overflow in the model.
    """
    forward = Decoder.forward

    def with_nan(
        decoder: Decoder,
        hidden: Tensor,
        targets: Tensor | None = None,
        target_weight: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        if target_weight is not None and (broken := target_weight.isnan()).any():
            hidden = hidden * torch.where(broken, math.nan, 1.0).to(hidden.dtype)[:, None]
            target_weight = target_weight.masked_fill(broken, 1.0)
        return forward(decoder, hidden, targets, target_weight)

    Decoder.forward = with_nan  # type: ignore[method-assign]
    try:
        yield
    finally:
        Decoder.forward = forward  # type: ignore[method-assign]
