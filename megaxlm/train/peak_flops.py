"""The denominator of MFU: the dense matrix rate of one device, FLOP/s.

Datacentre GPUs have a published dense rate (no sparsity); anything else is measured with a
matrix product, so that MFU on a CPU means "share of what this machine's GEMM reaches".
"""

from __future__ import annotations

import re
import time

import torch

# Dense bf16 tensor-core rates as NVIDIA's data sheets give them.
PUBLISHED_BF16 = {
    "A100": 312e12,
    "A800": 312e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "H200": 989e12,
    "GH200": 989e12,
    "H800": 989e12,
    "B200": 2250e12,
    "L40S": 362e12,
    "L40": 181e12,
    "L4": 121e12,
    "A10": 125e12,
}


def peak_flops(device: torch.device, dtype: torch.dtype) -> float:
    """Returns the peak FLOP/s of one device for matrix products of `dtype`."""
    if device.type == "cuda" and dtype == torch.bfloat16:
        published = published_bf16(torch.cuda.get_device_name(device))
        if published is not None:
            return published
    return _measured(device, dtype)


def published_bf16(device_name: str) -> float | None:
    """Returns the published rate of a GPU by the name its driver gives, or None.

    The longest name wins (`H100 PCIe` before `H100`), and only whole words count: an `L40` is no
    `L4` and an `RTX A1000` no `A100`.
    """
    for key in sorted(PUBLISHED_BF16, key=len, reverse=True):
        if re.search(rf"(?<![A-Za-z0-9]){re.escape(key)}(?![A-Za-z0-9])", device_name):
            return PUBLISHED_BF16[key]
    return None


def _measured(device: torch.device, dtype: torch.dtype, repeats: int = 20) -> float:
    size = 4096 if device.type == "cuda" else 1024
    left = torch.ones(size, size, device=device, dtype=dtype)
    right = torch.ones(size, size, device=device, dtype=dtype)
    torch.mm(left, right)
    seconds = []
    for _ in range(repeats):
        _synchronize(device)
        start = time.perf_counter()
        torch.mm(left, right)
        _synchronize(device)
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds)  # a peak: what disturbs a repeat only makes it slower


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
