"""The mask is Philox4x32-10, the same in torch and in the library, and drops what it should."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from megaxlm_kernels.layer_norm import add_layer_norm
from megaxlm_kernels.philox import dropout_mask, keep_scale, philox4x32_10
from torch import Tensor

CPU = torch.device("cpu")
# kat_vectors of Random123 1.14, "philox4x32 10": counter, key, expected.
KNOWN_ANSWERS = [
    ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        [0xA4093822, 0x299F31D0],
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_ANSWERS)
def test_known_answers(counter: list[int], key: list[int], expected: list[int]) -> None:
    words = philox4x32_10(
        tuple(torch.tensor([word]) for word in counter),  # type: ignore[arg-type]
        tuple(torch.tensor(word) for word in key),  # type: ignore[arg-type]
    )
    assert [int(word) for word in words] == expected


def mask_of_the_library(
    rows: int, hidden: int, dropout_p: float, seed: int, places: Tensor | None = None
) -> Tensor:
    ones = torch.ones(rows, hidden)
    weights = torch.ones(hidden)
    _, total = add_layer_norm(
        ones, None, None, weights, None, 1e-5, dropout_p, seed, places, implementation="cuda"
    )
    assert set(total.unique().tolist()) <= {0.0, float(torch.tensor(keep_scale(dropout_p)))}
    return total != 0


@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(1, 9),
    groups=st.integers(1, 40),
    dropout_p=st.floats(0.001, 0.999),
    seed=st.integers(-(2**63), 2**63 - 1),
)
def test_library_and_torch_drop_the_same(
    rows: int, groups: int, dropout_p: float, seed: int
) -> None:
    expected = dropout_mask(rows, groups * 8, dropout_p, seed, CPU)
    assert torch.equal(mask_of_the_library(rows, groups * 8, dropout_p, seed), expected)


@pytest.mark.parametrize("dropout_p", [0.1, 0.5, 0.9])
def test_drops_at_the_asked_rate_and_independently(dropout_p: float) -> None:
    mask = dropout_mask(2048, 512, dropout_p, 7, CPU)
    deviation = (dropout_p * (1 - dropout_p) / mask.numel()) ** 0.5
    assert abs(float(1 - mask.double().mean()) - dropout_p) < 5 * deviation + 1 / 65536
    other = dropout_mask(2048, 512, dropout_p, 8, CPU)
    both = float((~mask & ~other).double().mean())
    assert both == pytest.approx(dropout_p**2, abs=0.003)
    neighbours = float((~mask[:, 1:] & ~mask[:, :-1]).double().mean())
    assert neighbours == pytest.approx(dropout_p**2, abs=0.003)


def test_mean_is_kept_exactly_although_the_probability_is_rounded() -> None:
    for dropout_p in (0.1, 1 / 3, 0.999999):
        dropped = 1 - 1 / keep_scale(dropout_p)
        assert dropped == pytest.approx(dropout_p, abs=1.6 / 65536)


def test_a_longer_tensor_starts_with_the_shorter_ones_mask() -> None:
    assert torch.equal(dropout_mask(9, 64, 0.3, 5, CPU)[:4], dropout_mask(4, 64, 0.3, 5, CPU))


def test_a_place_keeps_its_mask_in_any_batch() -> None:
    places = torch.tensor([7, 2**33 + 7, 0, 7])
    mask = dropout_mask(4, 64, 0.3, 5, CPU, places)
    assert torch.equal(mask_of_the_library(4, 64, 0.3, 5, places), mask)
    assert torch.equal(mask[0], mask[3]) and not torch.equal(mask[0], mask[1])
    assert torch.equal(mask[0], dropout_mask(8, 64, 0.3, 5, CPU)[7])
