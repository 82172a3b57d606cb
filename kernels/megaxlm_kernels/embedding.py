"""From ids to the first hidden state: tables looked up and added, LayerNorm, dropout.

    sum = word[tokens] + position[positions] (+ language[languages])
    y = dropout(layer_norm(sum) * gamma + beta), or dropout(sum) without gamma

What matters is the gradient of the word table: tokens are sorted by word and added up in the order
of the stream, so that it is the same bits in every run, however uneven the words are.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from megaxlm_kernels.checks import (
    check_implementation,
    check_indices,
    check_probability,
    check_range,
    check_seed,
    check_tensor,
)
from megaxlm_kernels.layer_norm import add_layer_norm
from megaxlm_kernels.library import Implementation, ensure_loaded, when_loaded
from megaxlm_kernels.philox import drop_threshold, dropout_mask, keep_scale


def embedding_layer_norm(
    tokens: Tensor,  # (tokens,) int64
    word: Tensor,  # (vocab, hidden)
    positions: Tensor,  # (tokens,) int64
    position: Tensor,  # (most positions, hidden)
    gamma: Tensor | None,  # (hidden,)
    beta: Tensor | None,  # (hidden,)
    eps: float,
    dropout_p: float = 0.0,
    seed: int = 0,
    places: Tensor | None = None,  # (tokens,) int64
    *,
    languages: Tensor | None = None,  # (tokens,) int64
    language: Tensor | None = None,  # (languages, hidden)
    implementation: Implementation = "torch",
) -> Tensor:  # (tokens, hidden)
    """Embeds packed tokens; differentiable in the tables, gamma and beta.

    Args:
        tokens: Ids of words.
        word: Their embeddings; fp32, bf16 or fp16 ("torch" takes fp64 too), hidden a multiple of 8.
        positions: Row of `position` for each token.
        position: Position embeddings.
        gamma: Weight of the norm; None leaves the norm out (pre-LN encoders).
        beta: Bias of the norm, or None.
        eps: Added to the variance.
        dropout_p: As for `add_layer_norm`, after the norm.
        seed: Likewise.
        places: Likewise.
        languages: Row of `language` for each token, or None, as XLM has them.
        language: Language embeddings.
        implementation: As `megaxlm_kernels.library.choose_implementation` gave it.

    Returns:
        The hidden states, in the dtype of `word`. An id outside its table is refused on the CPU;
        on a GPU, where looking would stall it, "cuda" makes that token NaN (see `checks`).

    Raises:
        ValueError: An argument has the wrong dtype, device, shape or value; it is named.
        RuntimeError: "cuda" without a library (see `choose_implementation`).
    """
    check_implementation(implementation)
    fused = implementation == "cuda"
    _, hidden_size = check_tensor("word", word, None, rank=2, multiple_of=8, fused=fused)
    count = tokens.numel() if isinstance(tokens, Tensor) else 0
    lookups = [("tokens", tokens, "word", word), ("positions", positions, "position", position)]
    if (languages is None) != (language is None):
        raise ValueError("languages and language must both be given, or neither")
    if languages is not None and language is not None:
        lookups.append(("languages", languages, "language", language))
    for index_name, index, table_name, table in lookups:
        check_tensor(table_name, table, word, rank=2)
        check_tensor(table_name, table, word, shape=(table.shape[0], hidden_size))
        check_indices(index_name, index, word, count)
        check_range(index_name, index, table.shape[0], "its table")
    if beta is not None and gamma is None:
        raise ValueError("gamma must be given where beta is")
    for name, weight in (("gamma", gamma), ("beta", beta)):
        if weight is not None:
            check_tensor(name, weight, word, shape=(hidden_size,))
    check_probability("dropout_p", dropout_p)
    check_seed("seed", seed)
    if not eps >= 0:
        raise ValueError(f"eps must not be negative, got {eps}")
    if places is not None:
        check_indices("places", places, word, count)
    pairs = [(index, table) for _, index, _, table in lookups]
    if fused:
        ensure_loaded(word.device.type)
        hidden = _sum_fused(pairs)
    else:
        hidden = sum(F.embedding(index, table) for index, table in pairs)  # type: ignore[assignment]
    if gamma is not None:
        arguments = (hidden, None, None, gamma, beta, eps)
        hidden = add_layer_norm(*arguments, implementation=implementation)[0]
    if not drop_threshold(dropout_p):
        return hidden
    if fused:
        dropped: Tensor = _RowDropout.apply(  # type: ignore[no-untyped-call]
            hidden, dropout_p, seed, None if places is None else places.contiguous()
        )
        return dropped
    keep = dropout_mask(count, hidden_size, dropout_p, seed, hidden.device, places)
    return torch.where(keep, hidden * keep_scale(dropout_p), 0)


def embedding_layer_norm_reference(
    tokens: Tensor,
    word: Tensor,
    positions: Tensor,
    position: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    eps: float,
    dropout_p: float = 0.0,
    seed: int = 0,
    places: Tensor | None = None,
    *,
    languages: Tensor | None = None,
    language: Tensor | None = None,
) -> Tensor:
    """The same in float64, and float64 out: what every implementation is measured against."""
    hidden = word.double()[tokens] + position.double()[positions]
    if languages is not None and language is not None:
        hidden = hidden + language.double()[languages]
    if gamma is not None:
        centred = hidden - hidden.mean(1, keepdim=True)
        variance = centred.square().mean(1, keepdim=True)
        hidden = centred / (variance + eps).sqrt() * gamma.double()
        hidden = hidden if beta is None else hidden + beta.double()
    if dropout_p:
        keep = dropout_mask(
            hidden.shape[0], hidden.shape[1], dropout_p, seed, hidden.device, places
        )
        hidden = hidden * keep * keep_scale(dropout_p)
    return hidden


def _sum_fused(pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
    flat: list[Tensor | None] = [tensor.contiguous() for pair in pairs for tensor in pair]
    hidden: Tensor = _EmbeddingSum.apply(  # type: ignore[no-untyped-call]
        *flat, *[None] * (6 - len(flat))
    )
    return hidden


class _EmbeddingSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Tensor | None) -> Tensor:
        ctx.save_for_backward(*inputs[::2])
        # Not the tables themselves: ZeRO-3 has freed them by then.
        ctx.sizes = [None if table is None else table.shape[0] for table in inputs[1::2]]
        output: Tensor = torch.ops.megaxlm.embedding_sum.default(*inputs)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        grad_y = grad_y.contiguous()
        gradients: list[Tensor | None] = []
        for index, size, wanted in zip(
            ctx.saved_tensors, ctx.sizes, ctx.needs_input_grad[1::2], strict=True
        ):
            gradient = None
            if size is not None and wanted:
                ordered, order = torch.sort(index, stable=True)
                gradient = torch.ops.megaxlm.embedding_gradient.default(
                    grad_y, ordered, order, size
                )
            gradients += [None, gradient]
        return tuple(gradients)


class _RowDropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, dropout_p: float, seed: int, places: Tensor | None) -> Tensor:
        ctx.save_for_backward(places)
        ctx.dropout_p, ctx.seed = dropout_p, seed
        output: Tensor = torch.ops.megaxlm.row_dropout.default(
            x.contiguous(), dropout_p, seed, places
        )
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        (places,) = ctx.saved_tensors
        grad = torch.ops.megaxlm.row_dropout.default(
            grad_y.contiguous(), ctx.dropout_p, ctx.seed, places
        )
        return grad, None, None, None


@when_loaded
def _register() -> None:
    def fake_sum(index: Tensor, table: Tensor, *others: Tensor | None) -> Tensor:
        return table.new_empty(index.numel(), table.shape[1])

    def fake_gradient(grad_y: Tensor, ordered: Tensor, order: Tensor, size: int) -> Tensor:
        return grad_y.new_empty(size, grad_y.shape[1])

    def fake_dropout(x: Tensor, dropout_p: float, seed: int, places: Tensor | None) -> Tensor:
        return torch.empty_like(x)

    torch.library.register_fake("megaxlm::embedding_sum", fake_sum)
    torch.library.register_fake("megaxlm::embedding_gradient", fake_gradient)
    torch.library.register_fake("megaxlm::row_dropout", fake_dropout)
