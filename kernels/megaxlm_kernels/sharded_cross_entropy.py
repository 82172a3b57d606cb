"""linear_cross_entropy with the vocabulary shared out over ranks: each holds a slice of the words.

A 250k vocabulary of a wide model is the largest matrix there is. With a slice on each rank none
holds all of it, nor its gradient, nor its logits.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from megaxlm_kernels.checks import check_probability
from megaxlm_kernels.linear_cross_entropy import (
    LinearCrossEntropy,
    check_arguments,
    default_chunk_size,
)
from megaxlm_kernels.vocabulary_shard import VocabularyShard


def sharded_linear_cross_entropy(
    hidden: Tensor,  # (targets, hidden), floating; the same on every rank
    weight: Tensor,  # (words, hidden), same dtype: this rank's slice
    bias: Tensor | None,  # (words,), same dtype
    targets: Tensor,  # (targets,) int64, in [0, vocab_size); the same on every rank
    target_weight: Tensor,  # (targets,) float32, or float64 with float64 `hidden`; likewise
    shard: VocabularyShard,
    chunk_size: int | None = None,
    *,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Computes `linear_cross_entropy` of the slices put one above the other.

    All ranks of the group call it together with the same `chunk_size`; None takes what fits on the
    rank with the most words. Two messages a chunk, of a few numbers a target, and one of the size
    of `hidden` for its gradient. `shard` says where the slice begins, how many words there are in
    all, and on which ranks. The other arguments, and what is raised, are those of
    `linear_cross_entropy`.

    Returns:
        `loss_sum` and `target_losses` as there, the same on every rank. Backward gives the whole
        gradient of `hidden` on every rank, and of weight and bias that of the slice: neither is to
        be summed over the group again.
    """
    words = weight.shape[0] if weight.dim() else 0
    if not 0 <= shard.first <= shard.first + words <= shard.vocab_size:
        raise ValueError(
            f"weight has {words} words from {shard.first}, beyond the {shard.vocab_size} there are"
        )
    check_arguments(hidden, weight, bias, targets, target_weight, chunk_size, shard.vocab_size)
    check_probability("label_smoothing", label_smoothing)
    if not z_loss >= 0:
        raise ValueError(f"z_loss must not be negative, got {z_loss}")
    if chunk_size is None:
        chunk_size = default_chunk_size(weight)
        if shard.group is not None:
            smallest = torch.tensor([chunk_size], device=hidden.device)
            dist.all_reduce(smallest, dist.ReduceOp.MIN, shard.group)
            chunk_size = int(smallest)
    loss_sum: Tensor
    loss_sum, target_losses = LinearCrossEntropy.apply(  # type: ignore[no-untyped-call]
        hidden,
        weight,
        bias,
        targets,
        target_weight,
        chunk_size,
        label_smoothing,
        z_loss,
        torch.is_grad_enabled(),
        shard,
    )
    return loss_sum, target_losses
