"""Which kernels a run trains with, decided once at its start."""

from __future__ import annotations

import torch
from megaxlm_kernels.library import Implementation, choose_implementation

from megaxlm.config.pretrain import PretrainConfig
from megaxlm.errors import UserError


def kernels_of(config: PretrainConfig, device: torch.device) -> Implementation:
    """Returns what `training.kernels` comes to on this rank; builds the library if need be.

    Raises:
        UserError: "cuda" was asked for and cannot be had.
    """
    try:
        return choose_implementation(config.training.kernels, device)
    except RuntimeError as error:
        said = str(error).replace("implementation: torch", "training.kernels: torch")
        raise UserError(f"training.kernels {config.training.kernels}: {said}") from error
