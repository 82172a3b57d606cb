"""The denominator of MFU: the right row of the table, or a measurement."""

import pytest
import torch

from megaxlm.train.peak_flops import peak_flops, published_bf16


@pytest.mark.parametrize(
    ("name", "rate"),
    [
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H100 NVL", 835e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA GH200 480GB", 989e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA L40", 181e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA A10", 125e12),
        ("NVIDIA A10G", None),  # half an A10
        ("NVIDIA RTX A1000", None),
        ("NVIDIA H20", None),
        ("NVIDIA GeForce RTX 4090", None),
    ],
)
def test_names_match_as_whole_words(name: str, rate: float | None) -> None:
    assert published_bf16(name) == rate


def test_a_cpu_is_measured() -> None:
    assert 1e8 < peak_flops(torch.device("cpu"), torch.float32) < 1e14
