"""A fragment: a flat range of a named tensor, the one currency between engine and checkpoint.

Data parallelism, ZeRO stages and pipelines all cut tensors differently; each can say which flat
ranges of which named tensors it holds. A checkpoint is a set of fragments that covers every
tensor exactly once, so it can be written by any layout and read by any other.

Names: `model/<parameter>` (fp32 master weights), `ema/<parameter>` (their moving average) and
`<moment>/<parameter>` as the optimizer names its moments, e.g. `exp_avg/<parameter>`.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

WEIGHTS_PREFIX = "model/"
AVERAGES_PREFIX = "ema/"  # the moving average of the weights, of runs that keep one

# The dtype names of the safetensors format.
DTYPE_NAMES: dict[torch.dtype, str] = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
DTYPES: dict[str, torch.dtype] = {name: dtype for dtype, name in DTYPE_NAMES.items()}


@dataclass(frozen=True)
class Fragment:
    """The range [start, start + tensor.numel()) of the flattened tensor `name`.

    The tensor may be a view of the engine's own memory on any device: the writer copies it to the
    host piece by piece and never changes it.

    Raises:
        ValueError: The tensor is not flat, has a dtype that is not stored, or leaves the shape.
    """

    name: str
    shape: tuple[int, ...]  # of the whole tensor
    start: int  # elements, row-major
    tensor: Tensor  # (numel,)

    def __post_init__(self) -> None:
        if self.tensor.dim() != 1:
            raise ValueError(f"fragment of {self.name}: tensor has {self.tensor.dim()} dims, not 1")
        if self.tensor.dtype not in DTYPE_NAMES:
            raise ValueError(f"fragment of {self.name}: dtype {self.tensor.dtype} is not stored")
        if self.start < 0 or self.start + self.numel > prod(self.shape):
            raise ValueError(
                f"fragment of {self.name}: [{self.start}, {self.start + self.numel}) leaves "
                f"the shape {self.shape} of {prod(self.shape)} elements"
            )

    @property
    def numel(self) -> int:
        """Elements in this fragment."""
        return self.tensor.numel()

    @property
    def num_bytes(self) -> int:
        """Bytes of this fragment on disk."""
        return self.tensor.numel() * self.tensor.element_size()

    @property
    def key(self) -> str:
        """The name of this fragment inside its rank's safetensors file."""
        return fragment_key(self.name, self.start)


def fragment_key(name: str, start: int) -> str:
    """Returns the key of a fragment in a safetensors file: `model/norm.weight@512`."""
    return f"{name}@{start}"


def whole(name: str, tensor: Tensor) -> Fragment:
    """Returns a whole tensor as one fragment."""
    return Fragment(name, tuple(tensor.shape), 0, tensor.detach().reshape(-1))
