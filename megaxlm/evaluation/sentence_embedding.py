"""One vector a sentence: the mean of a hidden state over the sentence's tokens.

Sentences are packed end to end, as in training: no padding is computed. `<s>` and `</s>` are added
and count in the mean, as in XTREME's retrieval baselines (Hu et al. 2020), which average every
token that is not padding; so an empty line has an embedding too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from megaxlm.data.special_tokens import BOS, EOS, PAD
from megaxlm.errors import UserError
from megaxlm.model.encoder import MaskedLanguageModel


class SentenceTokenizer(Protocol):
    """What embedding asks of a tokenizer: ids without special tokens."""

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Encodes many texts."""


def embed_sentences(
    model: MaskedLanguageModel,
    tokenizer: SentenceTokenizer,
    sentences: Sequence[str],
    layer: int = -1,
    batch_tokens: int = 4_096,
    device: torch.device | str = "cpu",
    max_len: int | None = None,
    reduce: Callable[[Tensor], Tensor] | None = None,
    rank: int = 0,
    world_size: int = 1,
) -> np.ndarray:  # (sentences, hidden) float32
    """Embeds sentences; dropout is off meanwhile, the model's mode is restored.

    Sentences of like length go through together, which is what attention on packed tokens likes
    best; the order of the result is that of the input. Equal sentences get equal embeddings, bit
    for bit. Several ranks share the batches out and all get the whole result, the same as one
    rank would; every rank makes the same number of forward passes, as a model partitioned by
    ZeRO-3 needs.

    Args:
        model: An encoder whose parameters are on `device`, or a wrapper that passes `config` and
            `hidden_states` on.
        tokenizer: The tokenizer it was trained with.
        sentences: Text without line breaks; may be empty strings.
        layer: Which hidden state; 0 is the output of the embeddings, negative counts from the end.
        batch_tokens: Tokens in one forward pass; a longer sentence makes a pass of its own.
        device: Where the model is.
        max_len: A longer sentence (in tokens, special tokens included) is cut; None is the most
            that the model has positions for, which is also the upper limit.
        reduce: Sums a float32 tensor on `device` over all ranks; None with one rank.
        rank: This process.
        world_size: All processes.

    Raises:
        UserError: The model has no such layer.
    """
    if world_size > 1 and reduce is None:
        raise ValueError(f"{world_size} ranks need `reduce`")
    _check_layer(layer, model.config.num_hidden_layers)
    limit = _max_positions(model)
    max_len = limit if max_len is None else min(max_len, limit)
    if max_len < 3:
        raise UserError(f"max_len {max_len}: a sentence needs room for <s>, a token and </s>")
    number = {text: i for i, text in enumerate(dict.fromkeys(sentences))}
    sequences = [
        [BOS, *tokens[: max_len - 2], EOS] for tokens in tokenizer.encode_batch(list(number))
    ]
    embeddings = torch.zeros(len(sequences), model.config.hidden_size, device=device)
    batches = list(_batches_by_length(sequences, batch_tokens))
    was_training = model.training
    model.eval()
    try:
        for start in range(0, len(batches), world_size):
            # A rank that is left over joins in with the round's first batch and keeps nothing.
            is_own = start + rank < len(batches)
            batch = batches[start + rank if is_own else start]
            pooled = _pooled(model, [sequences[i] for i in batch], layer, device)
            if is_own:
                embeddings[batch] = pooled
    finally:
        model.train(was_training)
    if reduce is not None:
        embeddings = reduce(embeddings)  # exact: all ranks but one hold zero
    whole: np.ndarray = embeddings.cpu().numpy()
    return whole[[number[text] for text in sentences]]


def _check_layer(layer: int, num_hidden_layers: int) -> None:
    states = num_hidden_layers + 1
    if not -states <= layer < states:
        raise UserError(
            f"layer {layer}: the model has {num_hidden_layers} layers, so its hidden states are "
            f"0 (embeddings) to {num_hidden_layers}, or -1 for the last"
        )


def _max_positions(model: MaskedLanguageModel) -> int:
    positions = model.config.max_position_embeddings
    assert positions is not None, "a built model has its positions resolved"
    return positions - (PAD + 1)  # XLM-R counts positions from PAD + 1


def _batches_by_length(
    sequences: Sequence[Sequence[int]], batch_tokens: int
) -> Iterator[list[int]]:
    """Yields indices of sequences, longest first, at most `batch_tokens` tokens a batch."""
    batch: list[int] = []
    tokens = 0
    for i in sorted(range(len(sequences)), key=lambda i: -len(sequences[i])):
        if batch and tokens + len(sequences[i]) > batch_tokens:
            yield batch
            batch, tokens = [], 0
        batch.append(i)
        tokens += len(sequences[i])
    if batch:
        yield batch


@torch.no_grad()
def _pooled(
    model: MaskedLanguageModel,
    sequences: Sequence[Sequence[int]],
    layer: int,
    device: torch.device | str,
) -> Tensor:  # (sequences, hidden) float32
    lengths = torch.tensor([len(sequence) for sequence in sequences])
    tokens = torch.tensor([token for sequence in sequences for token in sequence])
    positions = torch.cat([torch.arange(len(sequence)) for sequence in sequences])
    cu_seqlens = torch.nn.functional.pad(lengths.cumsum(0), (1, 0)).to(torch.int32)
    states = model.hidden_states(
        tokens.to(device),
        positions.to(device),
        cu_seqlens.to(device),
        len(tokens),  # the batch as one row: so no segment crosses a row, whatever the lengths
    )
    hidden = states[layer].float()  # (tokens, hidden)
    segment = torch.repeat_interleave(torch.arange(len(sequences)), lengths).to(device)
    sums = hidden.new_zeros(len(sequences), hidden.shape[1]).index_add_(0, segment, hidden)
    return sums / lengths.to(device)[:, None]
