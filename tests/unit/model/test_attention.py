"""Every way to attend equals the definition, values and gradients, for any segments."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from megaxlm.model.attention import attend, attend_reference
from megaxlm.model.segments import Segments, block_mask


def cumulative(lengths: list[int], tail: int = 0) -> torch.Tensor:
    bounds = [0]
    for length in lengths:
        bounds.append(bounds[-1] + length)
    return torch.tensor(bounds + bounds[-1:] * tail, dtype=torch.int32)


def assert_equals_reference(segments: Segments, num_tokens: int) -> None:
    generator = torch.Generator().manual_seed(num_tokens)
    qkv = torch.randn(num_tokens, 3, 2, 4, generator=generator, dtype=torch.float64)
    qkv.requires_grad_()
    weights = torch.randn(num_tokens, 2, 4, generator=generator, dtype=torch.float64)
    found = attend(qkv, segments)
    expected = attend_reference(qkv, segments.cu_seqlens)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(
        torch.autograd.grad(found, qkv, weights),
        torch.autograd.grad(expected, qkv, weights),
        rtol=1e-9,
        atol=1e-9,
    )


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 40), min_size=1, max_size=12).filter(any),
    tail=st.integers(0, 3),
)
def test_groups_equal_the_definition(lengths: list[int], tail: int) -> None:
    num_tokens = sum(lengths)
    segments = Segments.plan(cumulative(lengths, tail), num_tokens, 64, torch.float64)
    assert segments.implementation == "grouped"
    assert_equals_reference(segments, num_tokens)


def test_segments_of_one_length_are_not_moved() -> None:
    segments = Segments.plan(cumulative([16] * 4, tail=2), 64, 16, torch.float64)
    assert segments.gather is None and len(segments.groups) == 1
    assert_equals_reference(segments, 64)


def test_padding_of_groups_is_small() -> None:
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(16, 512, (400,), generator=generator).tolist()
    segments = Segments.plan(cumulative(lengths), sum(lengths), 512, torch.float32)
    assert segments.gather is not None
    assert segments.gather.numel() < 1.15 * sum(lengths)
    assert len(segments.groups) <= 24


def test_row_masks_equal_the_definition() -> None:
    cu_seqlens = cumulative([3, 13, 16, 1, 2, 13], tail=2)  # three rows of 16
    mask = block_mask(cu_seqlens, 48, 16)
    assert mask.shape == (3, 1, 16, 16)
    assert mask[0, 0, 2, :].sum() == 3 and mask[1].all()
    segments = Segments(cu_seqlens, 16, "masked", row_mask=mask)
    assert_equals_reference(segments, 48)


def test_dropout_falls_on_attention_probabilities() -> None:
    segments = Segments.plan(cumulative([40, 24]), 64, 64, torch.float32)
    qkv = torch.zeros(64, 3, 2, 4)
    qkv[:, 2] = 1.0  # uniform attention over values of one: what is kept, scaled up
    torch.manual_seed(0)
    kept = attend(qkv, segments, 0.5)
    assert kept.std() > 0.05
    assert abs(float(kept.mean()) - 1) < 0.1
    torch.testing.assert_close(attend(qkv, segments, 0.0), torch.ones(64, 2, 4))


@pytest.mark.parametrize(
    ("cu_seqlens", "message"),
    [
        (torch.tensor([0, 4, 8], dtype=torch.int32), "must rise from 0 to the 9 packed tokens"),
        (torch.tensor([1, 4, 9], dtype=torch.int32), "got 1 to 9"),
        (torch.tensor([0, 6, 4, 9], dtype=torch.int32), "must rise"),
        (torch.tensor([0, 9]), "must be 1-D int32"),
    ],
)
def test_wrong_segments_are_refused(cu_seqlens: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Segments.plan(cu_seqlens, 9, 16, torch.float32)


def test_the_way_to_attend_follows_device_and_dtype() -> None:
    """On another device nothing reads `cu_seqlens` on the host; meta tensors would refuse it."""
    cu_seqlens = torch.empty(5, dtype=torch.int32, device="meta")
    for dtype in (torch.bfloat16, torch.float16):
        assert Segments.plan(cu_seqlens, 32, 16, dtype).implementation == "varlen"
    masked = Segments.plan(cu_seqlens, 32, 16, torch.float32)
    assert masked.implementation == "masked"
    assert masked.row_mask is not None and masked.row_mask.shape == (2, 1, 16, 16)


def test_varlen_calls_flash_attention_with_dropout_and_a_gradient() -> None:
    """The shapes pass the kernel's fake implementation; the kernel itself needs a GPU."""
    cu_seqlens = torch.empty(5, dtype=torch.int32, device="meta")
    segments = Segments.plan(cu_seqlens, 32, 16, torch.bfloat16)
    qkv = torch.empty(32, 3, 2, 8, dtype=torch.bfloat16, device="meta", requires_grad=True)
    attended = attend(qkv, segments, 0.1)
    assert attended.shape == (32, 2, 8)
    (gradient,) = torch.autograd.grad(attended.sum(), qkv)
    assert gradient.shape == qkv.shape
