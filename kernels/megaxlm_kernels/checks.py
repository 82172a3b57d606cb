"""Refusals that the public ops share: a `ValueError` of one line that names the argument.

Values are looked at on the CPU alone, since on a GPU the host would wait for them; with
MEGAXLM_KERNELS_CHECK=1 in the environment, for finding a mistake, there too.
"""

from __future__ import annotations

import os

import torch
from torch import Tensor

from megaxlm_kernels.library import IMPLEMENTATIONS

CHECK_VARIABLE = "MEGAXLM_KERNELS_CHECK"
FUSED_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def check_implementation(implementation: str) -> None:
    """Refuses what is not "cuda" or "torch"."""
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(
            f'implementation must be "cuda" or "torch", not {implementation!r}; '
            'choose_implementation turns "auto" into one of them'
        )


def check_tensor(
    name: str,
    tensor: Tensor,
    like: Tensor | None,
    *,
    rank: int | None = None,
    shape: tuple[int, ...] | None = None,
    multiple_of: int = 1,
    fused: bool = False,
) -> tuple[int, ...]:
    """Refuses a tensor of the wrong kind and returns its shape.

    Args:
        name: What the caller calls it.
        tensor: What came.
        like: Has the dtype and device that are asked for; None asks for a floating tensor.
        rank: How many dimensions it must have.
        shape: The shape that it must have.
        multiple_of: Must divide the last dimension, which must not be empty.
        fused: Whether a kernel is to read it, which narrows the dtypes.

    Raises:
        ValueError: It names the argument, what is asked for and what came.
    """
    if not isinstance(tensor, Tensor):
        raise ValueError(f"{name} must be a tensor, got {type(tensor).__name__}")
    found = tensor.shape
    if rank is not None and len(found) != rank:
        raise ValueError(f"{name} must have {rank} dimensions, got {tuple(found)}")
    if shape is not None and found != shape:
        raise ValueError(f"{name} must be {tuple(shape)}, got {tuple(found)}")
    if multiple_of > 1 and (found[-1] == 0 or found[-1] % multiple_of):
        raise ValueError(
            f"{name} must have a last dimension that is a positive multiple of {multiple_of}, "
            f"got {tuple(found)}"
        )
    if like is None:
        if fused and tensor.dtype not in FUSED_DTYPES:
            raise ValueError(f"{name} must be float32, bfloat16 or float16, got {tensor.dtype}")
        if not tensor.is_floating_point():
            raise ValueError(f"{name} must be floating, got {tensor.dtype}")
        if fused and tensor.device.type not in ("cuda", "cpu", "meta"):
            raise ValueError(f"{name} must be on a GPU or the CPU, is on {tensor.device}")
    else:
        if tensor.dtype != like.dtype:
            raise ValueError(f"{name} must be {like.dtype} as x is, got {tensor.dtype}")
        if tensor.device != like.device:
            raise ValueError(f"{name} must be on {like.device} as x is, is on {tensor.device}")
    return tuple(found)


def check_probability(name: str, value: float) -> None:
    """Refuses a dropout probability outside [0, 1), NaN included."""
    if not 0 <= value < 1:
        raise ValueError(f"{name} must be in [0, 1), got {value}")


def check_seed(name: str, value: int) -> None:
    """Refuses what is not a signed 64-bit integer."""
    if not isinstance(value, (int, torch.SymInt)) or not -(2**63) <= value < 2**63:
        raise ValueError(f"{name} must be a signed 64-bit integer, got {value}")


def check_indices(name: str, tensor: Tensor, like: Tensor, count: int) -> None:
    """Refuses what is not (count,) int64 on the device of `like`."""
    if not isinstance(tensor, Tensor):
        raise ValueError(f"{name} must be a tensor, got {type(tensor).__name__}")
    if tensor.dtype != torch.int64:
        raise ValueError(f"{name} must be int64, got {tensor.dtype}")
    if tensor.shape != (count,):
        raise ValueError(f"{name} must be ({count},), got {tuple(tensor.shape)}")
    if tensor.device != like.device:
        raise ValueError(f"{name} must be on {like.device} as x is, is on {tensor.device}")


def reads_values(tensor: Tensor) -> bool:
    """Returns whether the values of this argument are to be checked too."""
    if torch.compiler.is_compiling() or not tensor.numel():  # a graph holds no such decision
        return False
    return tensor.device.type == "cpu" or os.environ.get(CHECK_VARIABLE) == "1"


def check_range(name: str, index: Tensor, size: int, what: str) -> None:
    """Refuses indices outside [0, size), where values are read; `what` is what has that size."""
    if not reads_values(index):
        return
    lowest, highest = (int(bound) for bound in index.aminmax())
    if lowest < 0 or highest >= size:
        wrong = lowest if lowest < 0 else highest
        raise ValueError(f"{name} holds {wrong}, outside {what} of {size}")
