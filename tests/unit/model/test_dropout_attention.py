"""CPU attention with dropout: the definition, its gradient, and the law of what is dropped."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from megaxlm.model import dropout_attention as module
from megaxlm.model.dropout_attention import dropout_attention
from megaxlm.model.dropout_key import SegmentStreams

STREAMS = SegmentStreams(4, 0, [5, 5, 9], [0, 7, 0])
STRIDE = 8


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
        return dropout_attention(q, k, v, mask, 0.25, STREAMS, STRIDE)

    unit = torch.eye(7, dtype=torch.float64).expand(3, 2, 7, 7)
    exact = (q @ k.transpose(2, 3) / 2).masked_fill(~mask, float("-inf")).softmax(-1)
    factors = attend(q, k, unit) / exact.clamp_min(1e-300)
    on_mask = factors[mask.expand_as(factors)]
    assert set(on_mask.mul(1e6).round().tolist()) == {0.0, round(1e6 / 0.75)}
    torch.testing.assert_close(attend(q, k, v), (exact * factors) @ v)
    leaves = tuple(part.clone().requires_grad_() for part in (q, k, v))
    assert torch.autograd.gradcheck(attend, leaves)


def kept_weights(streams: SegmentStreams, length: int) -> Tensor:
    """Returns which weights of (segments, 2 heads, length, length) are kept at p = 0.5."""
    count = len(streams.row_ids)
    q = torch.zeros(count, 2, length, 1)
    unit = torch.eye(length).expand(count, 2, length, length)
    return dropout_attention(q, q, unit, None, 0.5, streams, 16) != 0


def test_what_is_dropped_belongs_to_the_segment() -> None:
    """Neither its neighbours nor what they are padded to change it; seed, place, row, start do."""
    whole = kept_weights(SegmentStreams(1, 2, [5, 6, 7], [0, 3, 0]), 12)
    alone = kept_weights(SegmentStreams(1, 2, [6], [3]), 10)
    assert torch.equal(alone[0], whole[1, :, :10, :10])
    others = [
        SegmentStreams(*where)
        for where in ((2, 2, [6], [3]), (1, 3, [6], [3]), (1, 2, [7], [3]), (1, 2, [6], [4]))
    ]
    for other in (kept_weights(streams, 10)[0] for streams in others):
        assert 0.3 < float((other == alone[0]).double().mean()) < 0.7  # as chance has it
    assert 0.3 < float((alone[0, 0] == alone[0, 1]).double().mean()) < 0.7  # heads differ


def test_without_a_key_torch_chooses() -> None:
    torch.manual_seed(1)
    first, second = (SegmentStreams.from_generator(3) for _ in range(2))
    torch.manual_seed(1)
    assert SegmentStreams.from_generator(3) == first != second


def test_the_share_dropped_is_the_probability() -> None:
    q = torch.zeros(4, 2, 64, 1)
    streams = SegmentStreams(0, 0, range(4), [0] * 4)
    kept = dropout_attention(q, q, torch.eye(64).expand(4, 2, 64, 64), None, 0.1, streams, 64)
    assert abs(float((kept == 0).double().mean()) - 0.1) < 0.01
    assert abs(float(kept.sum(-1).mean()) - 1) < 0.01


def test_without_dropout_it_is_scaled_dot_product_attention() -> None:
    q, k, v, mask = inputs(torch.float32)
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, mask)
    torch.testing.assert_close(dropout_attention(q, k, v, mask, 0.0, STREAMS, STRIDE), expected)


def test_low_precision_is_computed_in_fp32() -> None:
    q, k, v, mask = inputs(torch.bfloat16)
    output = dropout_attention(q, k, v, mask, 0.2, STREAMS, STRIDE)
    exact = dropout_attention(q.float(), k.float(), v.float(), mask, 0.2, STREAMS, STRIDE)
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output, exact.bfloat16())
