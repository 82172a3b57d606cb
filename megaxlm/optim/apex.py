"""NVIDIA apex's fused optimizers, where apex is installed.

apex counts steps in the param group, once for every call of `step`, and some versions fail on a
group without parameters. Under ZeRO-3 a group is stepped in parts, with the other groups empty;
the count is therefore kept beside the moments, and empty groups are hidden during a step.
"""

from __future__ import annotations

import importlib
from typing import Any

from torch.optim import Optimizer

from megaxlm.errors import UserError
from megaxlm.optim.state import STEP

MODULE = "apex.optimizers"
CLASSES = {"apex_adam": "FusedAdam", "apex_lamb": "FusedLAMB"}
# What does the same without apex.
INSTEAD = {"apex_adam": "adamw", "apex_lamb": "lamb"}


def apex_class(name: str) -> type[Optimizer]:
    """Returns apex's class for an `optimizer.name`.

    Raises:
        UserError: apex is not installed, cannot be imported or lacks the class.
    """
    wanted, instead = CLASSES[name], INSTEAD[name]
    try:
        module = importlib.import_module(MODULE)
    except Exception as error:  # whatever its extensions raise while they load
        said = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"optimizer.name {name} needs NVIDIA apex, which cannot be imported ({said}); install "
            f"it with its CUDA extensions, or set optimizer.name: {instead}"
        ) from None
    found = getattr(module, wanted, None)
    if not (isinstance(found, type) and issubclass(found, Optimizer)):
        raise UserError(
            f"optimizer.name {name}: the installed apex has no {MODULE}.{wanted}; install NVIDIA's "
            f"apex with its CUDA extensions, or set optimizer.name: {instead}"
        )
    return found


def build_apex(name: str, groups: list[dict[str, Any]], settings: dict[str, Any]) -> Optimizer:
    """Returns `FusedAdam` in AdamW mode, or `FusedLAMB` without its own clipping.

    Args:
        name: `apex_adam` or `apex_lamb`.
        groups: With the settings of each.
        settings: lr, betas, eps and weight decay.

    Raises:
        UserError: apex or its CUDA extensions are missing.
    """
    build = apex_class(name)
    extra: dict[str, Any] = {"adam_w_mode": True}
    if name == "apex_lamb":
        extra["max_grad_norm"] = float("inf")  # gradients are clipped before; 0 would divide by 0
    try:
        optimizer = build(groups, **settings, **extra)
    except (RuntimeError, ImportError, TypeError, AttributeError) as error:
        said = " ".join(str(error).split())
        raise UserError(
            f"optimizer.name {name}: {MODULE}.{CLASSES[name]} cannot be built ({said}); install "
            f"apex with its CUDA extensions, or set optimizer.name: {INSTEAD[name]}"
        ) from None
    _count_by_master(optimizer)
    return optimizer


def _count_by_master(optimizer: Optimizer) -> None:
    """Makes the step count go by each master's own state."""
    hidden: list[list[dict[str, Any]]] = []

    def before(stepped: Optimizer, args: Any, kwargs: Any) -> None:
        hidden.append(stepped.param_groups)
        stepped.param_groups = [group for group in stepped.param_groups if group["params"]]
        for group in stepped.param_groups:
            counts = [stepped.state[p].get(STEP, 0) for p in group["params"] if p in stepped.state]
            group[STEP] = max(counts, default=0)

    def after(stepped: Optimizer, args: Any, kwargs: Any) -> None:
        for group in stepped.param_groups:
            for parameter in group["params"]:
                if parameter in stepped.state:
                    stepped.state[parameter][STEP] = int(group[STEP])
        stepped.param_groups = hidden.pop()

    optimizer.register_step_pre_hook(before)
    optimizer.register_step_post_hook(after)
