"""Initial values: one table, each parameter drawn from a generator of its own.

The generator is seeded by a hash of (seed, parameter name), so that a value depends on neither the
order of modules, nor the number of ranks, nor how parameters are partitioned. `initial_value` is a
pure function for code that fills parameters as they are built (`deepspeed.zero.Init`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from megaxlm.config.pretrain import ModelConfig

# (suffix of the parameter's name, law); the first that fits. BERT's and RoBERTa's initialisation.
TABLE = (
    ("norm.weight", "ones"),
    (".bias", "zeros"),
    (".weight", "normal"),  # mean 0, standard deviation initializer_range
)


def initial_value(name: str, shape: Sequence[int], config: ModelConfig, seed: int) -> Tensor:
    """Returns the initial fp32 value of one parameter, on the CPU.

    Args:
        name: As `named_parameters()` of `MaskedLanguageModel` has it.
        shape: The full shape.
        config: Gives `initializer_range`.
        seed: The run's seed.

    Raises:
        ValueError: The table has no law for this name.
    """
    law = next((law for suffix, law in TABLE if name.endswith(suffix)), None)
    if law == "ones":
        return torch.ones(*shape)
    if law == "zeros":
        return torch.zeros(*shape)
    if law == "normal":
        digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
        return torch.empty(*shape).normal_(0.0, config.initializer_range, generator=generator)
    raise ValueError(f"no initial value for a parameter named {name!r}")


@torch.no_grad()
def initialize(model: nn.Module, config: ModelConfig, seed: int) -> None:
    """Fills every parameter of an unpartitioned model."""
    for name, parameter in model.named_parameters():
        parameter.copy_(initial_value(name, parameter.shape, config, seed))
