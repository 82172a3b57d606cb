"""The gate: every .cu compiles for sm_80 and sm_90a, spills nothing and stays in its registers."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from megaxlm_kernels.build import SOURCES, Built, build
from megaxlm_kernels.ptxas import KernelResources, read_resources
from megaxlm_kernels.toolchain import BuildError, find_nvcc

ARCHITECTURES = ("80", "90a")
# By a part of the kernel's name, the first that fits: the most registers a thread may take. With
# 65,536 an SM, 128 leave 16 warps, which at 16 to 64 bytes a thread keep its memory busy.
CAPS = {
    "add_layer_norm_forwardIfLi5": 168,  # fp32, 1280 and 2560: 40 values and 40 loaded a thread
    "add_layer_norm_forward": 128,
    "add_layer_norm_backward_any": 80,
    "finish_column_sums": 40,
    "add_layer_norm_backwardIf": 128,  # fp32: at most 512 threads a block
    "cross_entropy": 64,  # 1024 threads a block leave no more
    "embedding_": 80,  # 6 blocks of 128 threads an SM
    "row_dropout": 48,
    "bias_gelu_forward": 80,  # 6 blocks of 128 threads an SM; 10 in bf16, not gated
    "bias_gelu_backwardIf": 128,
    "bias_gelu_backward": 96,
    "add_layer_norm_backward": 120,  # at most 640 threads a block leave 102, 512 leave 128
}


def nvcc_is_missing() -> str:
    try:
        find_nvcc()
    except BuildError as error:
        return str(error)
    return ""


pytestmark = pytest.mark.skipif(
    bool(nvcc_is_missing()), reason=nvcc_is_missing() or "nvcc is there"
)


@pytest.fixture(scope="module")
def built(builds: Path) -> Built:
    return build(ARCHITECTURES, builds)


@pytest.fixture(scope="module")
def kernels(built: Built) -> list[KernelResources]:
    return read_resources(built.path.parent / "build.log")


def test_every_kernel_is_there_for_every_architecture(
    built: Built, kernels: list[KernelResources]
) -> None:
    assert built.architectures == ARCHITECTURES
    count = Counter(kernel.architecture for kernel in kernels)
    assert count["80"] == count["90a"] >= 75 and set(count) == set(ARCHITECTURES)
    log = (built.path.parent / "build.log").read_text(encoding="utf-8")
    assert log.count("Compiling entry function") == len(kernels)  # none was overlooked
    assert all(path.name in log for path in SOURCES.glob("*.cu"))


def test_nothing_spills(kernels: list[KernelResources]) -> None:
    assert [k for k in kernels if k.spilled_bytes or k.stack_bytes] == []


def test_registers_stay_below_their_caps(kernels: list[KernelResources]) -> None:
    over, unknown = [], []
    for kernel in kernels:
        cap = next((cap for part, cap in CAPS.items() if part in kernel.name), None)
        if cap is None:
            unknown.append(kernel.name)
        elif kernel.registers > cap:
            over.append((kernel, cap))
    assert over == [] and unknown == []


def test_one_library_holds_both_and_serves_either(built: Built, builds: Path) -> None:
    assert build(ARCHITECTURES, builds) == built or built.fresh
    assert built.path.stat().st_size > 100_000


def test_the_gpu_library_loads_without_a_gpu(built: Built) -> None:
    """In a process of its own, as ops can be registered once: torch may be one without CUDA."""
    code = (
        "import sys, torch; torch.ops.load_library(sys.argv[1]); x = torch.ones(2, 16); "
        "of = torch.ops.megaxlm.add_layer_norm; "
        "y = of(x, x, None, x[0], None, 1e-5, 0.0, 0, None, True)[1]; "
        "assert torch.equal(y, 2 * x)"
    )
    subprocess.run([sys.executable, "-c", code, str(built.path)], check=True)
