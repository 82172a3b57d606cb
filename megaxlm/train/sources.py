"""Where ranges of named tensors come from: a checkpoint, weights in memory, the initial values."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from megaxlm.checkpoint.fragments import WEIGHTS_PREFIX


class TensorSource(Protocol):
    """Where ranges of named tensors are read from: a checkpoint, or weights in memory."""

    def shape(self, name: str) -> tuple[int, ...]:
        """Returns the whole shape; raises UserError for an unknown name."""

    def read(self, name: str, start: int, numel: int) -> Tensor:
        """Returns the flat range [start, start + numel) as a (numel,) tensor."""


class InMemoryWeights:
    """Weights of a full model as a source, named as in a checkpoint."""

    def __init__(self, parameters: dict[str, Tensor]) -> None:
        self._parameters = parameters

    def shape(self, name: str) -> tuple[int, ...]:
        """Returns the whole shape of `model/<parameter>`."""
        return tuple(self._parameters[name.removeprefix(WEIGHTS_PREFIX)].shape)

    def read(self, name: str, start: int, numel: int) -> Tensor:
        """Returns a flat range as a (numel,) view."""
        flat = self._parameters[name.removeprefix(WEIGHTS_PREFIX)].reshape(-1)
        return flat[start : start + numel]
