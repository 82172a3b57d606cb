"""What ZeRO stages, offload, hpZ and pipelines cannot have together in DeepSpeed 0.19.8.

Each rule names the key, why it cannot be, and a value that works. Those marked "silently" train
on without a word in DeepSpeed: they were found by running it, or by reading its engine.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from megaxlm.config.idle_keys import refuse_idle_deepspeed_keys
from megaxlm.config.layout import divisors, one_of
from megaxlm.config.pretrain import PretrainConfig
from megaxlm.errors import UserError

ZERO = "zero_optimization"
# Everything that DeepSpeed reads in `pipeline`: our own layout of the layers decides it.
_PIPELINE_KEYS = {
    "stages": "is set by training.pipeline_stages; delete it here",
    "partition": "is not used: layers are spread over the stages by their cost; delete it here",
    "seed_layers": "would set other first weights on each layout; delete it here",
    "activation_checkpoint_interval": "is set by model.activation_checkpointing; delete it here",
    "pipe_partitioned": "is for tensor parallelism, which this model has not; delete it here",
    "grad_partitioned": "is for tensor parallelism, which this model has not; delete it here",
    "use_reentrant": "is not looked at; set model.activation_checkpointing and delete it here",
}
# ZeRO++ (Wang et al. 2023): weights or gradients travel in 8 or 4 bits, by kernels for GPUs.
LOSSY = (
    "zero_quantized_weights",
    "zero_quantized_gradients",
    "zero_quantized_nontrainable_weights",
)


def refuse_impossible(
    config: Mapping[str, Any],
    run: PretrainConfig,
    processes: int,
    source: str,
    run_source: str,
) -> None:
    """Refuses combinations that DeepSpeed asserts against, ignores or computes wrongly.

    Args:
        config: The DeepSpeed config, its stage and batch filled in.
        run: The run's config.
        processes: All of them, pipeline stages times replicas.
        source: Name of the DeepSpeed config, for messages.
        run_source: Name of the run's config, for messages.

    Raises:
        UserError: The first rule that is broken.
    """
    zero = config[ZERO]
    stage: int = zero["stage"]
    _check_offload(zero, stage, config, run, source)
    _check_partitioning(zero, stage, processes, source)
    _check_dtypes(config, run, source, run_source)
    if run.training.pipeline_stages > 1:
        _check_pipeline(config, stage, run, source, run_source)
    for key in config.get("pipeline", {}):
        reason = _PIPELINE_KEYS.get(key, "is a key that DeepSpeed does not know; delete it")
        raise UserError(f"{source}: `pipeline.{key}` {reason}")
    refuse_idle_deepspeed_keys(config, run, source)


def _check_offload(
    zero: Mapping[str, Any],
    stage: int,
    config: Mapping[str, Any],
    run: PretrainConfig,
    source: str,
) -> None:
    param, optimizer = zero.get("offload_param"), zero.get("offload_optimizer")
    for name, given in (("offload_param", param), ("offload_optimizer", optimizer)):
        if given is not None and not isinstance(given, dict):
            raise UserError(
                f'{source}: `{ZERO}.{name}` must be an object, e.g. {{"device": "cpu"}}'
            )
    if param and stage != 3:  # silently
        raise UserError(
            f"{source}: `{ZERO}.offload_param` does nothing at stage {stage}: parameters are "
            f"partitioned at stage 3 alone; use {ZERO}.stage 3, or delete it"
        )
    if not optimizer:
        return
    if stage == 0:  # silently
        raise UserError(
            f"{source}: `{ZERO}.offload_optimizer` does nothing at stage 0: it partitions nothing; "
            f"use {ZERO}.stage 1, 2 or 3, or delete it"
        )
    if optimizer.get("ratio", 1.0) != 1.0:
        raise UserError(
            f"{source}: `{ZERO}.offload_optimizer.ratio` {optimizer['ratio']} splits the state "
            "over two optimizers, where it cannot be checkpointed by name; use 1.0"
        )
    if optimizer.get("super_offload", False):
        raise UserError(
            f"{source}: `{ZERO}.offload_optimizer.super_offload` keeps the state in another "
            "process, where it cannot be checkpointed; use false"
        )
    if config.get("zero_force_ds_cpu_optimizer") and run.optimizer.name != "deepspeed_adam":
        raise UserError(
            f"{source}: `zero_force_ds_cpu_optimizer` is true, but optimizer.name is "
            f"{run.optimizer.name}; use false (torch's fused optimizers run on the CPU too), or "
            "optimizer.name deepspeed_adam"
        )


def _check_partitioning(zero: Mapping[str, Any], stage: int, processes: int, source: str) -> None:
    group = zero.get("zero_hpz_partition_size", 1)
    if type(group) is not int or group < 1:
        raise UserError(
            f"{source}: `{ZERO}.zero_hpz_partition_size` is {group!r}; use the number of "
            "processes of a node, or 1 for none"
        )
    if group > 1 and stage != 3:  # silently
        raise UserError(
            f"{source}: `{ZERO}.zero_hpz_partition_size` {group} does nothing at stage {stage}; "
            f"use {ZERO}.stage 3, or 1"
        )
    # DeepSpeed takes a group larger than the run as the whole run.
    if group < processes and processes % group:
        fits = [count for count in divisors(processes) if count < processes]
        raise UserError(
            f"{source}: `{ZERO}.zero_hpz_partition_size` {group} does not divide {processes} "
            f"processes; use {one_of(fits)}"
        )
    for key in LOSSY:
        if zero.get(key, False) and stage != 3:  # silently
            raise UserError(
                f"{source}: `{ZERO}.{key}` does nothing at stage {stage}; use {ZERO}.stage 3, or "
                "false"
            )
    bucket = zero.get("allgather_bucket_size", 0)
    if stage in (1, 2) and isinstance(bucket, int) and bucket % 2:
        raise UserError(
            f"{source}: `{ZERO}.allgather_bucket_size` {bucket} must be even; use {bucket + 1}"
        )


def _check_dtypes(
    config: Mapping[str, Any], run: PretrainConfig, source: str, run_source: str
) -> None:
    precision = run.training.precision
    given = config.get("data_types", {}).get("grad_accum_dtype", "fp32")
    valid = ("fp32",) if precision == "fp32" else ("fp32", "bf16")
    if given not in valid:
        raise UserError(
            f"{source}: `data_types.grad_accum_dtype` is {given!r}, but {run_source} has "
            f"training.precision {precision}; use {one_of(valid)}"
        )


def _check_pipeline(
    config: Mapping[str, Any], stage: int, run: PretrainConfig, source: str, run_source: str
) -> None:
    zero, stages = config[ZERO], run.training.pipeline_stages
    if stage != 1:
        said = (
            f"{source}: `{ZERO}.stage` is"
            if run.training.zero_stage is None
            else f"{run_source}: training.zero_stage is"
        )
        reason = (
            "at stage 0 DeepSpeed counts the gradient norm of one pipeline stage alone"
            if stage == 0
            else "DeepSpeed's pipeline needs whole gradients and parameters on its stages"
        )
        key = f"{ZERO}.stage" if run.training.zero_stage is None else "training.zero_stage"
        raise UserError(
            f"{said} {stage}, but training.pipeline_stages is {stages}: {reason}; use {key} 1, "
            "or training.pipeline_stages 1"
        )
    if zero.get("offload_optimizer"):
        # Silently: in bf16 its gradients leave the buffer that DeepSpeed sums over the stages
        # (2 stages, tied: norm 0.92 instead of 1.05).
        reason = (
            "DeepSpeed does not add up the gradients of the tied embedding over the stages then"
            if run.model.tie_word_embeddings
            else "the gradient norm of all stages is not to be had of gradients on the CPU"
        )
        raise UserError(
            f"{source}: `{ZERO}.offload_optimizer` with training.pipeline_stages {stages}: "
            f"{reason}; delete it, or use training.pipeline_stages 1"
        )
    if zero.get("overlap_comm", False):
        raise UserError(
            f"{source}: `{ZERO}.overlap_comm` is true, which DeepSpeed's pipeline does not do; "
            "use false"
        )
