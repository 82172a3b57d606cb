"""What a checkpoint of a run holds, told from its config alone."""

from __future__ import annotations

import torch

from megaxlm.config.pretrain import PretrainConfig
from megaxlm.model.encoder import MaskedLanguageModel
from megaxlm.optim.param_groups import parameter_groups
from megaxlm.optim.state import moment_names


def stored_state(config: PretrainConfig) -> dict[str, tuple[int, tuple[str, ...]]]:
    """Returns the elements of every parameter and the moments that a checkpoint has of it."""
    with torch.device("meta"):
        model = MaskedLanguageModel(config.model)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        names[id(parameter)]: (parameter.numel(), moment_names(group))
        for group in parameter_groups(model.named_parameters(), config.model, config.optimizer)
        for parameter in group["params"]
    }
