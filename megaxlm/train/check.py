"""Everything about a run that can be known before it is launched.

`check_run` is what `pretrain` calls on every rank before its engine is built: it opens no
process group, touches no device and writes nothing. `check_before_launch` does the same on one
process, without GPUs, and looks at what the start itself would look at later: the rows, the first
weights, the run folder and its disk.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from megaxlm.checkpoint.catalog import find_latest, list_checkpoints, recorded_step
from megaxlm.checkpoint.manifest import CHECKPOINTS_DIR
from megaxlm.checkpoint.reader import CheckpointReader
from megaxlm.checkpoint.space import require_free_space, required_bytes
from megaxlm.config.deepspeed import deepspeed_config_of, deepspeed_source
from megaxlm.config.idle_keys import refuse_idle_run_keys
from megaxlm.config.pretrain import PretrainConfig
from megaxlm.config.zero_rules import LOSSY
from megaxlm.data.loader import Stream
from megaxlm.data.masking import targets_per_row
from megaxlm.data.shards import TOKENIZER_DIR, file_xxh3, tokenizer_path
from megaxlm.distributed import environment
from megaxlm.errors import CorruptDataError, UserError
from megaxlm.model.pipeline import StageSpan, balance_stages
from megaxlm.objectives.mixture import open_stream
from megaxlm.train.backend import read_config
from megaxlm.train.initial_weights import check_initial_weights
from megaxlm.train.optimizer import check_optimizer
from megaxlm.train.prepare import ResolvedRun, resolve_run
from megaxlm.train.resume import changed_settings, check_compatible, refuse_silent_restart
from megaxlm.train.run_folder import NO_LOCKS
from megaxlm.train.stored_state import stored_state

FP32_BYTES = 4  # of a master weight and of each moment


@dataclass(frozen=True)
class CheckedRun:
    """A run that can be launched on a number of processes."""

    run: ResolvedRun
    processes: int
    deepspeed_config: dict[str, Any]
    stages: tuple[StageSpan, ...]  # of the pipeline; one that holds everything without it
    num_parameters: int
    checkpoint_bytes: int  # weights and moments, without our own small state

    @property
    def replicas(self) -> int:
        """Data-parallel copies of the model."""
        return self.processes // self.run.config.training.pipeline_stages


@dataclass(frozen=True)
class Start:
    """What the run folder says about the next start."""

    step: int | None  # of the checkpoint that it goes on from; None: a new run
    completed: bool  # at that step
    changed: tuple[str, ...]  # settings that differ from the checkpoint's


def check_run(
    config: PretrainConfig,
    processes: int,
    run_source: str = "the run's config",
    *,
    trains_here: bool = True,
) -> CheckedRun:
    """Checks a run against its data set, its layout and this machine's libraries.

    Args:
        config: The run.
        processes: All of them, pipeline stages times data-parallel replicas.
        run_source: Name of its file, for messages.
        trains_here: Whether the run is about to train on this machine; else a machine without a
            GPU may be a login node.

    Raises:
        UserError: The first thing that would go wrong, with the key and a value that works.
    """
    run = resolve_run(config)
    refuse_idle_run_keys(run.config, run_source)
    deepspeed_config = deepspeed_config_of(run.config, processes, run_source)
    stages = _stages(run.config)
    _check_activation_checkpointing(run.config, stages)
    zero = deepspeed_config["zero_optimization"]
    offload = "offload_optimizer" in zero
    device_type = _device_type() or ("cpu" if trains_here else None)
    check_optimizer(run.config, zero["stage"], device_type, offload=offload)
    _check_device(run.config, zero, device_type, deepspeed_source(run.config))
    validate_by_deepspeed(deepspeed_config, deepspeed_source(run.config))
    stored = stored_state(run.config)
    return CheckedRun(
        run,
        processes,
        deepspeed_config,
        stages,
        num_parameters=sum(numel for numel, _ in stored.values()),
        checkpoint_bytes=sum(
            FP32_BYTES * numel * (1 + len(moments)) for numel, moments in stored.values()
        ),
    )


def check_before_launch(
    config: PretrainConfig, processes: int | None = None, run_source: str = "the run's config"
) -> tuple[CheckedRun, Start]:
    """Checks all that one process can know of a run; writes nothing.

    Args:
        config: The run.
        processes: How many will be launched; None: as many as were now, or one per pipeline stage
            where no launcher started this process.
        run_source: Name of the run's file, for messages.

    Raises:
        UserError: As `check_run`; and the objectives or languages have no data, `init_from` does
            not fit, another process trains in the run folder, what lies there cannot be resumed,
            or there is no room for a checkpoint.
        CorruptDataError: A file of the data set or the newest checkpoint is damaged.
    """
    if processes is None:
        started = environment.discover().world_size
        processes = started if started > 1 else config.training.pipeline_stages
    checked = check_run(config, processes, run_source, trains_here=False)
    run = checked.run
    with _open_stream(run.config, checked.replicas) as stream:
        start = _check_run_folder(run, stream)
    if start.step is None:
        check_initial_weights(run.config, run.index.tokenizer_sha256)
    if not start.completed:
        needed = required_bytes(checked.checkpoint_bytes, processes)
        require_free_space(run.config.run_dir.absolute(), needed)
    return checked, start


def require_processes(expected: int) -> None:
    """Makes sure that the launcher has started as many processes as were meant.

    A hostfile that is missing or misread is a warning to DeepSpeed's launcher, which then trains
    on this machine alone.

    Raises:
        UserError: It has started another number.
    """
    place = environment.discover()
    if place.world_size != expected:
        started = f"{place.world_size} process{'es were' if place.world_size > 1 else ' was'}"
        raise UserError(
            f"--processes {expected}, but {started} started: see the launcher's messages (a "
            f"missing hostfile starts this machine alone), or give --processes {place.world_size}",
            known_to="run",
        )


def validate_by_deepspeed(deepspeed_config: dict[str, Any], source: str) -> None:
    """Lets DeepSpeed's own config classes read a resolved config.

    Args:
        deepspeed_config: As `deepspeed_config_of` returns it.
        source: What messages call it.

    Raises:
        UserError: DeepSpeed refuses it.
    """
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    # DeepSpeed divides the batch by the processes it sees, here mostly this one; the batch itself
    # has been checked.
    accumulation = deepspeed_config["gradient_accumulation_steps"]
    rows = deepspeed_config["train_micro_batch_size_per_gpu"] * accumulation
    seen = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
    try:
        read_config({**deepspeed_config, "train_batch_size": rows * seen}, source)
    except (TypeError, KeyError, AttributeError) as error:  # a value of another type than expected
        reason = " ".join(str(error).split())
        raise UserError(f"{source}: DeepSpeed cannot read it: {reason}") from None


def _stages(config: PretrainConfig) -> tuple[StageSpan, ...]:
    layers, count = config.model.num_hidden_layers, config.training.pipeline_stages
    if count == 1:
        return (StageSpan(0, layers + 2, layers),)
    rows, seq_len = config.training.micro_batch_size, config.data.seq_len
    targets = rows * targets_per_row(config.masking, seq_len)
    return tuple(balance_stages(config.model, count, rows * seq_len, targets, seq_len))


def _check_activation_checkpointing(config: PretrainConfig, stages: tuple[StageSpan, ...]) -> None:
    setting = config.model.activation_checkpointing
    most = max(len(stage.layers) for stage in stages)
    if not isinstance(setting, bool) and setting > most:
        where = "the model has" if len(stages) == 1 else "no pipeline stage has more than"
        raise UserError(
            f"model.activation_checkpointing {setting}: {where} {most} layers; use at most {most}, "
            "or true for all of them"
        )


def _device_type() -> str | None:
    """Returns `cuda` where there is a GPU, `cpu` where DS_ACCELERATOR asks for it, else None."""
    if os.environ.get("DS_ACCELERATOR") == "cpu":
        return "cpu"
    return "cuda" if torch.cuda.is_available() else None


def _check_device(
    config: PretrainConfig, zero: dict[str, Any], device_type: str | None, source: str
) -> None:
    if device_type == "cuda" and config.training.precision == "bf16":
        if not torch.cuda.is_bf16_supported(including_emulation=False):
            raise UserError(
                f"training.precision bf16: {torch.cuda.get_device_name()} has no bf16; use "
                "training.precision fp32",
                known_to="rank",
            )
    for key in LOSSY:
        if device_type == "cpu" and zero.get(key, False):
            raise UserError(
                f"{source}: `zero_optimization.{key}` needs a GPU, and this run is on the CPU; use "
                "false"
            )


def _open_stream(config: PretrainConfig, replicas: int) -> Stream:
    return open_stream(
        config.data.path,
        config.data,
        config.objectives,
        config.masking,
        seed=config.seed,
        global_batch_size=config.training.global_batch_size,
        micro_batch_size=config.training.micro_batch_size,
        world_size=replicas,
        batch_size_warmup=config.training.batch_size_warmup,
        announce=False,
    )


def _check_run_folder(run: ResolvedRun, stream: Stream) -> Start:
    config = run.config
    _check_writable(config.run_dir)
    _check_unlocked(config.run_dir)
    _check_tokenizer_copy(config)
    latest = find_latest(config.run_dir)
    if latest is None:
        folders = list_checkpoints(config.run_dir)
        if folders or recorded_step(config.run_dir) is not None:
            problem = folders[-1].problem if folders else "the last one saved is gone"
            raise CorruptDataError(
                f"{config.run_dir / CHECKPOINTS_DIR}: no whole checkpoint ({problem}); restore "
                "one from a copy, or give another run_dir to start afresh"
            )
        refuse_silent_restart(config.run_dir, config.checkpoint.every_steps)
        return Start(None, False, ())
    with CheckpointReader(latest, verify=False) as reader:
        check_compatible(reader, config, run.index.tokenizer_sha256)
        shared = reader.shared
    stream.load_state(shared["stream"])
    step = int(shared["step"])
    completed = step >= config.training.max_steps
    return Start(step, completed, tuple(changed_settings(shared["config"], config)))


def _check_writable(run_dir: Path) -> None:
    folder = run_dir.absolute()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        reason = "may not be written to" if folder.is_dir() else "is not a folder"
        raise UserError(f"run_dir {run_dir}: {folder} {reason}; choose another run_dir")


def _check_unlocked(run_dir: Path) -> None:
    """Looks whether a run holds the folder, without holding it (see `run_folder`)."""
    try:
        with open(run_dir / ".lock") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return
    except BlockingIOError:
        raise UserError(
            f"{run_dir}: another process trains in this run_dir; wait for it or change run_dir"
        ) from None
    except OSError as error:
        if error.errno not in (*NO_LOCKS, errno.EACCES):
            raise


def _check_tokenizer_copy(config: PretrainConfig) -> None:
    copy, source = tokenizer_path(config.run_dir), tokenizer_path(config.data.path)
    if copy.is_file() and file_xxh3(copy) != file_xxh3(source):
        raise UserError(
            f"{config.run_dir / TOKENIZER_DIR}: this run was begun with another tokenizer than "
            f"{config.data.path} has; use the data set it was begun with, or a new run_dir"
        )
