"""A vocabulary shared out over ranks gives the loss and the gradients of the whole one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
from megaxlm_kernels.linear_cross_entropy import linear_cross_entropy_reference
from megaxlm_kernels.sharded_cross_entropy import sharded_linear_cross_entropy
from megaxlm_kernels.vocabulary_shard import VocabularyShard

from megaxlm.testing.distributed import run_distributed

pytestmark = pytest.mark.distributed

VOCAB_SIZE, HIDDEN_SIZE, TARGETS = 61, 16, 23
CUTS = (0, 7, 8, VOCAB_SIZE)  # unequal slices, one of a single word
OPTIONS = [{}, {"label_smoothing": 0.1, "z_loss": 1e-2}]
DTYPES = (torch.float64, torch.float32, torch.bfloat16)


def whole_inputs(dtype: torch.dtype) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((TARGETS, HIDDEN_SIZE), (VOCAB_SIZE, HIDDEN_SIZE), (VOCAB_SIZE,))
    made = [torch.randn(*s, generator=generator, dtype=torch.float64).to(dtype) for s in shapes]
    targets = torch.randint(0, VOCAB_SIZE, (TARGETS,), generator=generator)
    targets[:3] = torch.tensor([0, 7, VOCAB_SIZE - 1])
    weight = torch.randint(0, 3, (TARGETS,), generator=generator)
    statistics = torch.float64 if dtype == torch.float64 else torch.float32
    return [*made, targets, weight.to(statistics)]


def run_shards(chunk_size: int | None) -> dict[Any, list[torch.Tensor]]:
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    start, stop = CUTS[rank : rank + 2]
    shard = VocabularyShard(start, VOCAB_SIZE, dist.group.WORLD)
    found: dict[Any, list[torch.Tensor]] = {}
    for dtype in DTYPES:
        for number, options in enumerate(OPTIONS):
            hidden, weight, bias, targets, target_weight = whole_inputs(dtype)
            leaves = [hidden, weight[start:stop].clone(), bias[start:stop].clone()]
            leaves = [leaf.requires_grad_() for leaf in leaves]
            loss, losses = sharded_linear_cross_entropy(
                *leaves, targets, target_weight, shard, chunk_size, **options
            )
            gradients = torch.autograd.grad(loss * 0.37, leaves)
            found[dtype, number] = [loss.detach(), losses, *gradients]
    targets[0] = VOCAB_SIZE
    with pytest.raises(ValueError, match="targets holds 61, outside the vocabulary of 61"):
        sharded_linear_cross_entropy(*leaves, targets, target_weight, shard)
    dist.destroy_process_group()
    return found


@pytest.mark.parametrize("chunk_size", [None, 5])
def test_slices_give_what_the_whole_gives(chunk_size: int | None) -> None:
    ranks = run_distributed(run_shards, len(CUTS) - 1, chunk_size, timeout_seconds=120)
    for dtype in DTYPES:
        for number, options in enumerate(OPTIONS):
            inputs = whole_inputs(dtype)
            leaves = [leaf.double().requires_grad_() for leaf in inputs[:3]]
            loss, losses = linear_cross_entropy_reference(
                *leaves, inputs[3], inputs[4].double(), **options
            )
            d_hidden, d_weight, d_bias = torch.autograd.grad(loss * 0.37, leaves)
            tolerance = {torch.float64: 1e-10, torch.float32: 1e-5, torch.bfloat16: 3e-2}[dtype]
            for rank, found in enumerate(ranks):
                rows = slice(*CUTS[rank : rank + 2])
                expected = [loss.detach(), losses, d_hidden, d_weight[rows], d_bias[rows]]
                for one, other in zip(found[dtype, number], expected, strict=True):
                    scale = float(other.abs().max())
                    difference = float((one.double() - other).abs().max())
                    assert difference <= tolerance * scale, (dtype, number, rank)
                assert torch.equal(found[dtype, number][2], ranks[0][dtype, number][2])


def test_one_slice_needs_no_ranks_and_a_slice_beyond_the_end_is_refused() -> None:
    hidden, weight, bias, targets, target_weight = whole_inputs(torch.float64)
    shard = VocabularyShard(0, VOCAB_SIZE, None)
    loss, _ = sharded_linear_cross_entropy(hidden, weight, bias, targets, target_weight, shard)
    expected, _ = linear_cross_entropy_reference(hidden, weight, bias, targets, target_weight)
    torch.testing.assert_close(loss, expected)
    with pytest.raises(ValueError, match="weight has 61 words from 1, beyond the 61 there are"):
        sharded_linear_cross_entropy(
            hidden, weight, bias, targets, target_weight, VocabularyShard(1, VOCAB_SIZE, None)
        )
