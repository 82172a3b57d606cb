"""Initial values: one table, and for each parameter blocks drawn from generators of their own.

A block's generator is seeded by a hash of (seed, parameter name, block), so that a value depends on
neither the order of modules, nor the number of ranks, nor how parameters are partitioned, and a
rank that holds a range of a parameter draws the blocks of that range alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor, nn

from megaxlm.config.pretrain import ModelConfig

# (suffix of the parameter's name, law); the first that fits. BERT's and RoBERTa's initialisation.
TABLE = (
    ("norm.weight", "ones"),
    (".bias", "zeros"),
    (".weight", "normal"),  # mean 0, standard deviation initializer_range
)
BLOCK = 1 << 20  # elements drawn from one generator


def initial_range(
    name: str, shape: Sequence[int], start: int, numel: int, config: ModelConfig, seed: int
) -> Tensor:  # (numel,) fp32
    """Returns the initial values of [start, start + numel) of a flattened parameter, on the CPU.

    Args:
        name: As `named_parameters()` of `MaskedLanguageModel` has it.
        shape: The full shape.
        start: First element, row-major.
        numel: Elements.
        config: Gives `initializer_range`.
        seed: The run's seed.

    Raises:
        ValueError: The table has no law for this name.
    """
    law = next((law for suffix, law in TABLE if name.endswith(suffix)), None)
    if law == "ones":
        return torch.ones(numel)
    if law == "zeros":
        return torch.zeros(numel)
    if law != "normal":
        raise ValueError(f"no initial value for a parameter named {name!r}")
    total, end = prod(shape), start + numel
    out = torch.empty(numel)
    for block in range(start // BLOCK, -(-end // BLOCK)):
        first, last = block * BLOCK, min((block + 1) * BLOCK, total)
        digest = hashlib.blake2b(f"{seed}/{name}/{block}".encode(), digest_size=8).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest, "little"))
        # Always the whole block: a shorter draw would not have the same numbers.
        values = torch.empty(last - first).normal_(
            0.0, config.initializer_range, generator=generator
        )
        low, high = max(first, start), min(last, end)
        out[low - start : high - start] = values[low - first : high - first]
    return out


def initial_value(name: str, shape: Sequence[int], config: ModelConfig, seed: int) -> Tensor:
    """Returns the initial fp32 value of a whole parameter; raises as `initial_range` does."""
    return initial_range(name, shape, 0, prod(shape), config, seed).reshape(tuple(shape))


@torch.no_grad()
def initialize(model: nn.Module, config: ModelConfig, seed: int) -> None:
    """Fills every parameter of an unpartitioned model."""
    for name, parameter in model.named_parameters():
        parameter.copy_(initial_value(name, parameter.shape, config, seed))
