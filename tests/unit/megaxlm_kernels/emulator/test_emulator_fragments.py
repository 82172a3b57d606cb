"""mma.sync and ldmatrix give each lane what the PTX manual says, as written down here once more.

PTX ISA 8.x, 9.7.14.5.8 (mma.m16n8k16), 9.7.14.5.6 (m16n8k8), 9.7.14.5.15 (ldmatrix), with the
manual's own names: groupID = lane >> 2, threadID_in_group = lane % 4, elements a0.., b0.., c0...
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from emulator.emulate import Module, compile_for_emulator
from torch import Tensor

SOURCE = Path(__file__).with_name("fragments.cu")


@pytest.fixture(scope="module")
def module(builds: Path) -> Module:
    return compile_for_emulator([SOURCE], builds / "emulator")


def a_position(lane: int, i: int, k: int) -> tuple[int, int]:
    """Row and column of element ai of A, (16, k)."""
    group_id, thread = lane >> 2, lane % 4
    if k == 8:
        return (group_id if i < 2 else group_id + 8), thread * 2 + (i & 1)
    row = group_id if i in (0, 1, 4, 5) else group_id + 8
    column = thread * 2 + (i & 1) if i < 4 else thread * 2 + (i & 1) + 8
    return row, column


def b_position(lane: int, i: int) -> tuple[int, int]:
    """Row and column of element bi of B, (k, 8)."""
    group_id, thread = lane >> 2, lane % 4
    return thread * 2 + (i & 1) + (8 if i >= 2 else 0), group_id


def c_position(lane: int, i: int) -> tuple[int, int]:
    """Row and column of element ci of C and D, (16, 8)."""
    group_id, thread = lane >> 2, lane % 4
    return (group_id if i < 2 else group_id + 8), thread * 2 + (i & 1)


@pytest.mark.parametrize("k", [16, 8])
@pytest.mark.parametrize(("name", "dtype"), [("bf16", torch.bfloat16), ("f16", torch.float16)])
def test_mma(module: Module, name: str, dtype: torch.dtype, k: int) -> None:
    generator = torch.Generator().manual_seed(k)
    a, b, c = (
        torch.randn(*shape, generator=generator).to(kind)
        for shape, kind in (((16, k), dtype), ((k, 8), dtype), ((16, 8), torch.float32))
    )
    count = k // 2  # elements of A that a lane holds
    fragment_a = torch.stack([a[a_position(ln, i, k)] for ln in range(32) for i in range(count)])
    fragment_b = torch.stack([b[b_position(ln, i)] for ln in range(32) for i in range(count // 2)])
    fragment_c = torch.stack([c[c_position(ln, i)] for ln in range(32) for i in range(4)])
    with module.call() as call:
        d = call.write("d", 32 * 4, dtype=torch.float32)
        d.copy_(fragment_c)
        addresses = (call.address("a", fragment_a), call.address("b", fragment_b))
        module.launch(f"multiply_{name}_{k}", *addresses, call.address_of(d))
    found = torch.empty(16, 8)
    for lane in range(32):
        for i in range(4):
            found[c_position(lane, i)] = d[lane * 4 + i]
    exact = a.double() @ b.double() + c.double()
    torch.testing.assert_close(found.double(), exact, rtol=1e-6, atol=1e-6)


def expected_loads(matrices: Tensor, transposed: bool) -> Tensor:
    """Of each matrix lane `4 * row + pair` gets elements 2 * pair and 2 * pair + 1 of the row."""
    of_lane = torch.empty(32, len(matrices), 2, dtype=torch.int16)
    for number, matrix in enumerate(matrices):
        source = matrix.t() if transposed else matrix
        for lane in range(32):
            row, pair = divmod(lane, 4)
            of_lane[lane, number] = source[row, 2 * pair : 2 * pair + 2]
    return of_lane.view(torch.int32).flatten()


def test_ldmatrix(module: Module) -> None:
    matrices = torch.arange(4 * 64, dtype=torch.int16).view(4, 8, 8)
    with module.call() as call:
        sizes = {"plain4": 128, "turned4": 128, "plain2": 64, "turned2": 64}
        outputs = [call.write(name, size, dtype=torch.int32) for name, size in sizes.items()]
        module.launch(
            "load_matrices",
            call.address("matrices", matrices),
            *(call.address_of(output) for output in outputs),
        )
    expected = [expected_loads(matrices[:n], turned) for n in (4, 2) for turned in (False, True)]
    for found, wanted in zip(outputs, expected, strict=True):
        assert torch.equal(found, wanted)
