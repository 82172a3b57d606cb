"""Any bit of any tensor changes its checksum, wherever it is; ranks are named by majority."""

import pytest
import torch

from megaxlm.train import replicas
from megaxlm.train.replicas import checksum


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.uint8])
def test_any_flipped_bit_changes_the_checksum(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    tensor = (torch.rand(300, generator=generator) * 200).to(dtype)
    integers = replicas.INTEGERS[tensor.element_size()]
    before = int(checksum(tensor))
    assert before == int(checksum(tensor.clone()))
    for bit in range(8 * tensor.element_size()):
        for place in (0, 1, 150, 299):
            flipped = tensor.clone()
            sign = bit == 8 * tensor.element_size() - 1 and integers != torch.uint8
            flipped.view(integers)[place] ^= -(1 << bit) if sign else 1 << bit
            assert int(checksum(flipped)) != before, (bit, place)


def test_places_and_chunks_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replicas, "CHUNK", 16)
    tensor = torch.arange(100, dtype=torch.float32)
    swapped = tensor.clone()
    swapped[[3, 4]] = swapped[[4, 3]]
    moved = tensor.roll(16)  # by a whole chunk
    zeros = [checksum(torch.zeros(size)) for size in (0, 1, 100)]
    assert len({int(checksum(value)) for value in (tensor, swapped, moved)}) == 3
    assert [int(zero) for zero in zeros] == [0, 0, 0]
    assert int(checksum(tensor.view(10, 10).t().contiguous())) != int(checksum(tensor))
    assert int(checksum(tensor.view(10, 10).t())) == int(
        checksum(tensor.view(10, 10).t().contiguous())
    )
    assert int(checksum(torch.tensor(-0.0))) != int(checksum(torch.tensor(0.0)))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({0: 7, 1: 8}, "ranks 0 and 1 do not agree"),
        ({0: 7, 1: 8, 2: 7}, "rank 1 differs from ranks 0 and 2"),
        ({0: 7, 1: 8, 2: 7, 3: 9, 4: 7}, "ranks 1 and 3 differ from ranks 0, 2 and 4"),
        ({4: 1, 5: 2, 6: 1, 7: 2}, "ranks 4, 5, 6 and 7 do not agree"),
        ({rank: rank == 11 for rank in range(12)}, "rank 11 differs from ranks 0, 1, 2, 3, 4"),
    ],
)
def test_ranks_are_named_by_majority(values: dict[int, int], expected: str) -> None:
    assert replicas._who(values).startswith(expected)
