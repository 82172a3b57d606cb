"""Which parameters are decayed: matrices and embeddings are, norms and biases are not."""

from __future__ import annotations

from typing import Any

from torch import nn

DECAYED = "decayed"
UNDECAYED = "undecayed"


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Splits the trainable parameters into the optimizer's two groups.

    Every parameter of one dimension is a bias or the scale of a norm: none of them is decayed.
    A tied parameter stands once.

    Returns:
        Groups with `name`, `params` and `weight_decay`; an empty one is left out.
    """
    split: dict[str, list[nn.Parameter]] = {DECAYED: [], UNDECAYED: []}
    for parameter in model.parameters():
        if parameter.requires_grad:
            split[DECAYED if parameter.ndim >= 2 else UNDECAYED].append(parameter)
    return [
        {
            "name": group,
            "params": members,
            "weight_decay": weight_decay if group == DECAYED else 0.0,
        }
        for group, members in split.items()
        if members
    ]
