"""What an optimizer keeps for a master tensor: moments by name, and a count of its own steps.

DeepSpeed trades an optimizer's parameters for flat masters and leaves their state unmade, or made
by a step that should not count. Saving, loading and resuming therefore go through these functions,
which treat every optimizer of `megaxlm.optim.optimizers` alike: its moments are the tensors that
its param group names, its step count stands beside them under `"step"`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

MOMENTS = "moments"  # key of a param group: the names of its state tensors
STACKED = "stacked"  # key of a param group: matrices in each parameter, one above the other
STEP = "step"
EMA = "ema"  # the averaged weights, kept as one moment more
ADAM_MOMENTS = ("exp_avg", "exp_avg_sq")
MUON_MOMENTS = ("momentum_buffer",)


def moment_names(group: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the names of the state tensors, each of the master's shape, of a group's masters."""
    return tuple(group.get(MOMENTS, ("exp_avg", "exp_avg_sq")))


@torch.no_grad()
def reset_state(optimizer: Optimizer, group: Mapping[str, Any], master: Tensor, step: int) -> None:
    """Gives a master zero moments and a step count; tensors that are there are kept and zeroed.

    Args:
        optimizer: The inner optimizer, not DeepSpeed's around it.
        group: The param group of the master; its `params` are not looked at.
        master: The key of the state.
        step: Updates applied so far.
    """
    state = optimizer.state[master]
    for name in moment_names(group):
        if name in state:
            state[name].zero_()
        else:
            state[name] = torch.zeros_like(master, memory_format=torch.preserve_format)
    if isinstance(optimizer, torch.optim.AdamW):
        # torch's fused kernel reads the count where the parameter is, its loop on the CPU.
        device = master.device if group.get("fused") else torch.device("cpu")
        state[STEP] = torch.tensor(float(step), dtype=torch.float32, device=device)
    else:
        state[STEP] = step


def step_count(optimizer: Optimizer, group: Mapping[str, Any], master: Tensor) -> int:
    """Returns how many updates a master has seen; 0 before its state is made."""
    return int(optimizer.state[master].get(STEP, 0)) if master in optimizer.state else 0
