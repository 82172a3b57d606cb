"""An exponential moving average of the weights, kept beside an optimizer's moments.

It is one more state tensor of every master, under `"ema"`: wherever the moments go, into a
checkpoint, to another number of ranks or another ZeRO stage, the average goes too.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.optim import Optimizer

from megaxlm.optim.state import EMA, step_count


def average_weights(optimizer: Optimizer, decay: float) -> None:
    """Makes an optimizer keep `ema = decay * ema + (1 - decay) * weights` after each of its steps.

    The average starts from the weights after the first step. A step that DeepSpeed skips does not
    reach the optimizer and changes nothing.

    Args:
        optimizer: Its groups must name `"ema"` among their moments.
        decay: In (0, 1); about 1 / (1 - decay) steps are averaged.
    """

    @torch.no_grad()
    def average(stepped: Optimizer, args: Any, kwargs: Any) -> None:
        # DeepSpeed lets an optimizer see only the masters that it has just updated.
        for group in stepped.param_groups:
            averages, weights = [], []
            for master in group["params"]:
                if master.grad is None:
                    continue
                state = stepped.state[master]
                if EMA not in state:
                    state[EMA] = torch.empty_like(master, memory_format=torch.preserve_format)
                    state[EMA].copy_(master)
                elif step_count(stepped, group, master) == 1:
                    state[EMA].copy_(master)
                else:
                    averages.append(state[EMA])
                    weights.append(master)
            if averages:
                torch._foreach_lerp_(averages, weights, 1 - decay)

    optimizer.register_step_post_hook(average)
