"""CPU attention with dropout: the definition, its gradient, and the law of what is dropped."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from megaxlm.model import dropout_attention as module
from megaxlm.model.dropout_attention import dropout_attention


def inputs(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn(3, 2, 7, 4, generator=generator, dtype=torch.float64).to(dtype)
        for _ in range(3)
    )
    lengths = torch.tensor([7, 4, 1])
    mask = (torch.arange(7) < lengths[:, None])[:, None, None, :]
    return q, k, v, mask


@pytest.mark.parametrize("block_scores", [1, 100, 1 << 19])
def test_values_and_gradients(block_scores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With values of unit vectors the output shows the dropped weights, hence what was kept."""
    monkeypatch.setattr(module, "BLOCK_SCORES", block_scores)
    q, k, v, mask = inputs()

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        torch.manual_seed(4)
        return dropout_attention(q, k, v, mask, 0.25)

    unit = torch.eye(7, dtype=torch.float64).expand(3, 2, 7, 7)
    exact = (q @ k.transpose(2, 3) / 2).masked_fill(~mask, float("-inf")).softmax(-1)
    factors = attend(q, k, unit) / exact.clamp_min(1e-300)
    on_mask = factors[mask.expand_as(factors)]
    assert set(on_mask.mul(1e6).round().tolist()) == {0.0, round(1e6 / 0.75)}
    torch.testing.assert_close(attend(q, k, v), (exact * factors) @ v)
    leaves = tuple(part.clone().requires_grad_() for part in (q, k, v))
    assert torch.autograd.gradcheck(attend, leaves)


def test_draws_follow_the_seed_and_differ_between_calls() -> None:
    q, k, v, mask = inputs()
    torch.manual_seed(1)
    first, second = (dropout_attention(q, k, v, mask, 0.5) for _ in range(2))
    torch.manual_seed(1)
    again = dropout_attention(q, k, v, mask, 0.5)
    assert torch.equal(first, again) and not torch.equal(first, second)


def test_the_share_dropped_is_the_probability() -> None:
    q = torch.zeros(4, 2, 64, 1)
    torch.manual_seed(0)
    kept = dropout_attention(q, q, torch.eye(64).expand(4, 2, 64, 64), None, 0.1)
    assert abs(float((kept == 0).double().mean()) - 0.1) < 0.01
    assert abs(float(kept.sum(-1).mean()) - 1) < 0.01


def test_without_dropout_it_is_scaled_dot_product_attention() -> None:
    q, k, v, mask = inputs(torch.float32)
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, mask)
    torch.testing.assert_close(dropout_attention(q, k, v, mask, 0.0), expected)


def test_low_precision_is_computed_in_fp32() -> None:
    q, k, v, mask = inputs(torch.bfloat16)
    torch.manual_seed(2)
    output = dropout_attention(q, k, v, mask, 0.2)
    torch.manual_seed(2)
    exact = dropout_attention(q.float(), k.float(), v.float(), mask, 0.2)
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output, exact.bfloat16())
