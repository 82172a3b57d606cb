"""Every optimizer by name, DeepSpeed's own among them, and what each cannot be combined with."""

from __future__ import annotations

import os
import shutil
from typing import Any

import deepspeed
import torch
from torch.optim import Optimizer

from megaxlm.config.pretrain import OptimizerConfig, PretrainConfig
from megaxlm.errors import UserError
from megaxlm.optim.apex import CLASSES as APEX
from megaxlm.optim.apex import INSTEAD, apex_class
from megaxlm.optim.ema import average_weights
from megaxlm.optim.optimizers import build_torch_optimizer
from megaxlm.optim.state import STEP

DEEPSPEED_ADAM = "deepspeed_adam"


def build_optimizer(
    config: OptimizerConfig, groups: list[dict[str, Any]], device: torch.device
) -> Optimizer:
    """Returns the optimizer of a run, before DeepSpeed takes its parameters.

    DeepSpeed's Adam is compiled at its first use, for a minute or more; the result stays in
    `TORCH_EXTENSIONS_DIR` (default `~/.cache/torch_extensions`), which should be a folder of each
    node. To compile ahead, build any model's optimizer once on one process, or install DeepSpeed
    with `DS_BUILD_CPU_ADAM=1` (`DS_BUILD_FUSED_ADAM=1` for GPUs).

    Args:
        config: Name, betas, eps and averaging; weight decay stands in the groups.
        groups: As `megaxlm.optim.param_groups.parameter_groups` returns them.
        device: Where its state will live: the CPU when it is offloaded.

    Raises:
        UserError: What the name needs is not installed or cannot be compiled.
    """
    if config.name == DEEPSPEED_ADAM:
        optimizer = _deepspeed_adam(config, groups, device)
    else:
        optimizer = build_torch_optimizer(config, groups, device)
    if config.ema_decay is not None:
        average_weights(optimizer, config.ema_decay)  # after hooks that correct the step count
    return optimizer


def check_optimizer(
    config: PretrainConfig, zero_stage: int, device_type: str | None, *, offload: bool
) -> None:
    """Refuses an optimizer that would be wrong with a layout, or that this machine cannot build.

    Args:
        config: The run.
        zero_stage: 0 to 3.
        device_type: Where the model trains, `cuda` or `cpu`; None: not known on this machine.
        offload: Whether the optimizer's state is kept in the CPU's memory.

    Raises:
        UserError: What is wrong and which setting would work.
    """
    name = config.optimizer.name
    on_cpu = offload or device_type == "cpu"
    if name == "apex_lamb" and zero_stage > 0:
        raise UserError(
            f"optimizer.name apex_lamb with ZeRO stage {zero_stage}: it would take norms of flat "
            "partitions instead of parameters; set optimizer.name: lamb"
            + ("" if config.training.pipeline_stages > 1 else ", or training.zero_stage: 0")
        )
    if name in APEX and on_cpu:
        raise UserError(
            f"optimizer.name {name} runs on GPUs alone, but the optimizer's state would be on the "
            f"CPU; set optimizer.name: {INSTEAD[name]}"
        )
    fused = name == "apex_adam" or (name == DEEPSPEED_ADAM and not on_cpu)
    if fused and zero_stage == 0 and config.training.precision == "bf16":
        raise UserError(
            f"optimizer.name {name} with ZeRO stage 0 in bf16: DeepSpeed then keeps masters that "
            "cannot be checkpointed by name; set training.zero_stage: 1, or optimizer.name: adamw"
        )
    if name in APEX:
        apex_class(name)
    if name == DEEPSPEED_ADAM:
        _check_compiler(_builder(on_cpu), _where(on_cpu))


def _deepspeed_adam(
    config: OptimizerConfig, groups: list[dict[str, Any]], device: torch.device
) -> Optimizer:
    on_cpu = device.type == "cpu"
    build = deepspeed.ops.adam.DeepSpeedCPUAdam if on_cpu else deepspeed.ops.adam.FusedAdam
    builder, where = _builder(on_cpu), _where(on_cpu)
    _check_compiler(builder, where)
    try:
        optimizer: Optimizer = build(
            groups,
            lr=0.0,
            betas=config.betas,
            eps=config.eps,
            weight_decay=config.weight_decay,
        )
    except Exception as error:  # whatever a compiler or linker comes up with
        reason = " ".join(str(error.__cause__ or error).split())[:300]
        raise UserError(
            f"optimizer.name {DEEPSPEED_ADAM}: DeepSpeed's {where} cannot be built ({reason}); "
            "check it with `ds_report`, or set optimizer.name: adamw"
        ) from None
    if on_cpu:
        optimizer.register_step_pre_hook(forget_powers)
    else:
        optimizer.register_step_post_hook(share_step)
    return optimizer


def forget_powers(stepping: Optimizer, args: Any, kwargs: Any) -> None:
    """Makes DeepSpeedCPUAdam compute the powers of its betas anew in this step.

    It would multiply those of the step before by the betas, while the first step after a resume
    takes powers: they round differently, and a resumed run would not be the unbroken one.
    """
    kernel: Any = stepping
    nothing = [torch.zeros(1) for _ in range(4)]  # parameter, gradient and both moments
    # Step 1 with a rate, betas and a decay of zero: that other betas were the last is all it does.
    kernel.ds_opt_adam.adam_update(kernel.opt_id, 1, 0.0, 0.0, 0.0, 1.0, 0.0, True, *nothing)


def share_step(stepped: Optimizer, args: Any, kwargs: Any) -> None:
    """Gives all masters of a group the count that FusedAdam keeps with the last one alone."""
    for group in stepped.param_groups:
        states = [stepped.state[p] for p in group["params"] if STEP in stepped.state.get(p, {})]
        newest = max((state[STEP] for state in states), default=0)
        for state in states:
            state[STEP] = newest


def _where(on_cpu: bool) -> str:
    return "Adam for the CPU" if on_cpu else "fused Adam"


def _builder(on_cpu: bool) -> Any:
    op_builder = deepspeed.ops.op_builder
    return op_builder.CPUAdamBuilder() if on_cpu else op_builder.FusedAdamBuilder()


def _check_compiler(builder: Any, where: str) -> None:
    """Refuses an op that is neither installed nor can be compiled here."""
    if deepspeed.git_version_info.installed_ops.get(builder.name, False):
        return
    needed = (os.environ.get("CXX", "c++"), "ninja")  # as torch looks them up
    missing = [program for program in needed if shutil.which(program) is None]
    if missing:
        raise UserError(
            f"optimizer.name {DEEPSPEED_ADAM}: DeepSpeed's {where} must be compiled first, but "
            f"{' and '.join(missing)} cannot be found on PATH; install it, or set optimizer.name: "
            "adamw",
        )
