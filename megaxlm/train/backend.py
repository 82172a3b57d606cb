"""Starts and ends DeepSpeed and the process groups, quietly and without its start-up costs."""

from __future__ import annotations

import logging
import os
import warnings
from datetime import timedelta
from typing import Any

import deepspeed
import pydantic
import torch
import torch.distributed as dist
from deepspeed.runtime.config import DeepSpeedConfig, DeepSpeedConfigError
from deepspeed.runtime.engine import DeepSpeedEngine
from torch import nn
from torch.optim import Optimizer

from megaxlm.distributed import reduce
from megaxlm.distributed.environment import Environment
from megaxlm.errors import UserError

# Long enough for a checkpoint of a large model to a slow file system between two collectives.
TIMEOUT = timedelta(minutes=30)
# One-node all-reduce in shared memory, which DeepSpeed uses for inference alone, yet compiles for
# minutes when a CPU run starts.
SHARED_MEMORY_OP = "deepspeed_shm_comm"


def device_of(place: Environment) -> torch.device:
    """Returns this rank's device: its GPU, or the CPU on a machine without one."""
    if not torch.cuda.is_available() or os.environ.get("DS_ACCELERATOR") == "cpu":
        return torch.device("cpu")
    count = torch.cuda.device_count()
    if place.local_rank >= count:
        raise UserError(
            f"local rank {place.local_rank} has no GPU: this machine shows {count}; start at most "
            f"{count} processes on it",
            known_to="rank",
        )
    return torch.device("cuda", place.local_rank)


def connect(place: Environment, device: torch.device, *, debug: bool = False) -> None:
    """Brings up the process groups, also for a single process.

    Args:
        place: This rank; torch's environment variables must be exported.
        device: Its device.
        debug: Lets DeepSpeed's own log through.

    Raises:
        UserError: The ranks did not find one another.
    """
    logging.getLogger("DeepSpeed").setLevel(logging.INFO if debug else logging.ERROR)
    if not debug:
        # DeepSpeed calls collectives by names that torch 2.13 deprecates.
        warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    else:
        deepspeed.ops.__compatible_ops__[SHARED_MEMORY_OP] = False
    try:
        deepspeed.init_distributed(
            dist_backend="nccl" if device.type == "cuda" else "gloo",
            auto_mpi_discovery=False,
            timeout=TIMEOUT,
            verbose=debug,
        )
    except (dist.DistError, ValueError, RuntimeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"rank {place.rank} of {place.world_size} could not reach the others at "
            f"{place.master_addr}:{place.master_port} ({reason}); check that address, the network "
            "and that every process was started",
            known_to="rank",
        ) from None


def initialize(
    model: nn.Module, optimizer: Optimizer, deepspeed_config: dict[str, Any], source: str
) -> DeepSpeedEngine:
    """Returns DeepSpeed's engine.

    Args:
        model: A full model, initialised.
        optimizer: Over its parameters.
        deepspeed_config: Without `"auto"`.
        source: Where the config comes from, for messages.

    Raises:
        UserError: DeepSpeed refuses the config; the same error on every rank.
    """
    read_config(deepspeed_config, source)
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=deepspeed_config)
    limit_waits()
    return engine


def read_config(deepspeed_config: dict[str, Any], source: str, mpu: Any = None) -> DeepSpeedConfig:
    """Returns DeepSpeed's reading of a config.

    Args:
        deepspeed_config: Without `"auto"`.
        source: Where the config comes from, for messages.
        mpu: DeepSpeed's grid of a pipeline; None: every rank is a replica.

    Raises:
        UserError: DeepSpeed refuses the config; the same error on every rank.
    """
    with reduce.together():
        try:
            return DeepSpeedConfig(deepspeed_config, mpu)
        except pydantic.ValidationError as error:
            problem = error.errors()[0]
            key = ".".join(str(part) for part in problem["loc"])
            raise UserError(
                f"{source}: DeepSpeed refuses `{key}` ({error.title}): {problem['msg']}; correct it"
            ) from None
        except (DeepSpeedConfigError, AssertionError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise UserError(f"{source}: DeepSpeed refuses it: {reason}") from None


def limit_waits() -> None:
    """Gives every process group the timeout that DeepSpeed hands to the first one alone."""
    for group in list(dist.distributed_c10d._world.pg_map):
        dist.distributed_c10d._set_pg_timeout(TIMEOUT, group)


def disconnect() -> None:
    """Takes the process groups down."""
    if dist.is_initialized():
        dist.destroy_process_group()
