"""What DeepSpeed 0.19.8 reads, what it dropped, and what a run of ours cannot hand to it.

DeepSpeed ignores an unknown top-level key in silence: a misspelt `gradient_cliping` would train
without clipping. The lists below were read off its config classes and make it an error instead.
"""

from __future__ import annotations

from typing import Any

TOP_LEVEL_KEYS = frozenset(
    """
    activation_checkpointing aio autotuning bf16 bfloat16 checkpoint comet comms_logger
    communication_data_type compile csv_monitor data_types dataloader_drop_last disable_allgather
    disable_python_gc dump_state flops_profiler fp16 gradient_accumulation_steps
    gradient_allreduce_op gradient_clipping gradient_predivide_factor log_level
    managed_gradient_accumulation memory_breakdown pipeline prescale_gradients
    seq_parallel_communication_data_type steps_per_print tensorboard timers train_batch_size
    train_micro_batch_size_per_gpu vocabulary_size wall_clock_breakdown wandb
    zero_allow_untested_optimizer zero_force_ds_cpu_optimizer zero_optimization
    """.split()
)

# DeepSpeed takes each of these with and without the prefix `stage3_`.
_STAGE3_KEYS = """
    prefetch_bucket_size param_persistence_threshold model_persistence_threshold
    max_live_parameters max_reuse_distance gather_16bit_weights_on_model_save
    module_granularity_threshold use_all_reduce_for_fetch_params allgather_sequential
    """.split()

ZERO_KEYS = frozenset(
    """
    stage contiguous_gradients reduce_scatter reduce_bucket_size use_multi_rank_bucket_allreduce
    allgather_partitions allgather_bucket_size overlap_comm compute_grad_norm
    load_from_fp32_weights elastic_checkpoint offload_param offload_optimizer zenflow
    sub_group_size ignore_unused_parameters legacy_stage1 round_robin_gradients
    parameter_alignment zero_hpz_partition_size zero_quantized_weights
    zero_quantized_nontrainable_weights zero_quantized_gradients memory_efficient_linear
    pipeline_loading_checkpoint override_module_apply log_trace_cache_warnings
    enable_sanity_checks save_muon_momentum_buffer_in_memory leaf_module cpu_offload
    cpu_offload_param cpu_offload_use_pin_memory stage3_gather_fp16_weights_on_model_save
    """.split()
    + _STAGE3_KEYS
    + [f"stage3_{key}" for key in _STAGE3_KEYS]
)

# Pinned values by key: the stages that take it, and the value.
ZERO_DEFAULTS: dict[str, tuple[tuple[int, ...], Any]] = {
    "reduce_bucket_size": ((1, 2, 3), 50_000_000),
    "allgather_bucket_size": ((1, 2), 500_000_000),
    "contiguous_gradients": ((1, 2, 3), True),
    "reduce_scatter": ((1, 2, 3), True),
    "overlap_comm": ((1, 2), False),  # stage 3: DeepSpeed overlaps by default
    "round_robin_gradients": ((1, 2), False),
    "stage3_prefetch_bucket_size": ((3,), 50_000_000),
    "stage3_param_persistence_threshold": ((3,), 100_000),
    "stage3_max_live_parameters": ((3,), 1_000_000_000),
    "stage3_max_reuse_distance": ((3,), 1_000_000_000),
    "sub_group_size": ((3,), 1_000_000_000),
}

# The stages at which DeepSpeed reads each key, without the prefix `stage3_`: at others it passes
# over it in silence. Offload, hpZ and ZeRO++ have rules of their own.
READ_AT: dict[str, tuple[int, ...]] = {
    **{key.removeprefix("stage3_"): stages for key, (stages, _) in ZERO_DEFAULTS.items()},
    "overlap_comm": (1, 2, 3),
    "use_multi_rank_bucket_allreduce": (1, 2),
    "ignore_unused_parameters": (1, 2),
    "parameter_alignment": (1, 2),
    "model_persistence_threshold": (3,),
    "use_all_reduce_for_fetch_params": (3,),
    "allgather_sequential": (3,),
    "memory_efficient_linear": (3,),
    "override_module_apply": (3,),
    "log_trace_cache_warnings": (3,),
    "enable_sanity_checks": (3,),
}

# The one key of those that DeepSpeed's BF16 optimizer (stage 1 in bf16) reads: it reduces gradients
# once a step, by a path of its own.
BF16_OPTIMIZER_READS = ("allgather_bucket_size",)

# Switches whose `true` leaves everything as it is without them; of all others it is `false`.
OFF_WHEN_TRUE = ("ignore_unused_parameters",)

# Keys of the two offload sections that count where the device is a disk.
DISK_OFFLOAD_KEYS: dict[str, tuple[str, ...]] = {
    "offload_optimizer": (
        "nvme_path",
        "buffer_count",
        "pipeline_read",
        "pipeline_write",
        "fast_init",
    ),
    "offload_param": ("nvme_path", "buffer_count", "buffer_size", "max_in_cpu"),
}

_GONE = "was removed from DeepSpeed; delete it"
_OWN_CHECKPOINTS = "is for DeepSpeed's own checkpoints, and megaxlm writes its own"
_EXPORTED = "is for DeepSpeed's own saving of weights; use false, and `megaxlm export`"

# Keys that may not be given at all, with what to do instead.
REFUSED: dict[str, str] = {
    "optimizer": (
        "is set in the run's config (`optimizer`), because the checkpoint holds its state by name; "
        "delete it here"
    ),
    "scheduler": (
        "is set in the run's config (`schedule`), whose rate is a function of the step alone and "
        "so survives a resume; delete it here"
    ),
    "amp": f"{_GONE} and set training.precision: bf16",
    "bfloat16": "is the old name of `bf16`, which alone counts; rename it",
    "torch_autocast": "is not used; set training.precision: bf16 and delete it here",
    "elasticity": f"{_GONE}: checkpoints resume at any number of processes without it",
    "curriculum_learning": f"{_GONE} and use data.curriculum in the run's config",
    "data_efficiency": "would reorder the data; use data.curriculum in the run's config",
    "nebula": f"{_GONE}: checkpoints are written by megaxlm",
    "compression_training": _GONE,
    "quantize_training": _GONE,
    "sparse_gradients": _GONE,
    "sparse_attention": _GONE,
    "eigenvalue": _GONE,
    "graph_harvesting": _GONE,
    "progressive_layer_drop": _GONE,
    "zero_optimization.leaf_module": "breaks the backward pass of packed batches; delete it",
    "zero_optimization.module_granularity_threshold": (
        "breaks the backward pass of packed batches; delete it"
    ),
    "zero_optimization.mics_shard_size": f"{_GONE} and use zero_hpz_partition_size",
    "zero_optimization.mics_hierarchical_params_gather": _GONE,
    "zero_optimization.zeropp_loco_param": _GONE,
    "tensor_parallel": "is not supported by this model; delete it",
    "expert_parallel": "is not supported by this model; delete it",
    "use_data_before_expert_parallelism": "is not supported by this model; delete it",
    "hybrid_engine": "is for text generation; delete it",
    "weight_quantization": "is for inference; delete it",
    "datastates": "is a checkpoint writer of DeepSpeed, and megaxlm writes its own; delete it",
    "sequence_parallel_size": "is not supported by this model; delete it",
    "checkpoint": f"{_OWN_CHECKPOINTS}; delete it",
    "activation_checkpointing": (
        "is not looked at by this model; set model.activation_checkpointing and delete it here"
    ),
    "compile": "is not looked at here; delete it",
    "gradient_predivide_factor": "changes how gradients are rounded; delete it",
    "aio": "is for offload to a disk, whose state cannot be checkpointed by name; delete it",
    "autotuning": "is for `deepspeed --autotuning`, which cannot start this run; delete it",
    "seq_parallel_communication_data_type": (
        "is for sequence parallelism, which this model has not; delete it"
    ),
    "vocabulary_size": "is not looked at; set model.vocab_size and delete it here",
    "zero_optimization.zenflow": (
        "updates weights late, by an optimizer that cannot be checkpointed by name; delete it"
    ),
    "zero_optimization.cpu_offload": (
        'is the old name of `offload_optimizer`; write {"offload_optimizer": {"device": "cpu"}}'
    ),
    "zero_optimization.cpu_offload_param": (
        'is the old name of `offload_param`; write {"offload_param": {"device": "cpu"}}'
    ),
    "zero_optimization.cpu_offload_use_pin_memory": (
        "is the old name of `pin_memory` in `offload_optimizer` and `offload_param`; write it there"
    ),
}

# Values that would be silently wrong: (value, what it does).
CONTRADICTS: dict[str, tuple[Any, str]] = {
    "gradient_allreduce_op": (
        "sum",
        'multiplies the loss by the number of processes; use "mean"',
    ),
    "managed_gradient_accumulation": (
        False,
        "leaves accumulation to the caller; use true",
    ),
    "prescale_gradients": (
        True,
        "is refused by stages 2 and 3 and changes how gradients are rounded; use false",
    ),
    "dataloader_drop_last": (
        True,
        "is for DeepSpeed's own loader, which is not used; use false",
    ),
    "disable_allgather": (
        True,
        "nothing in DeepSpeed reads; use false",
    ),
    "zero_allow_untested_optimizer": (
        False,
        "refuses optimizers that are not DeepSpeed's own; use true",
    ),
    "bf16.check_grad_overflow": (
        False,
        "lets one NaN poison every weight at stage 1; use true",
    ),
    "bf16.bf16_master_weights_and_grads": (
        True,
        "loses small updates and cannot be resumed exactly; use false",
    ),
    "bf16.bf16_optimizer_states": (
        True,
        "cannot be resumed exactly; use false",
    ),
    "zero_optimization.compute_grad_norm": (
        False,
        "leaves no gradient norm to report or clip by; use true",
    ),
    "zero_optimization.legacy_stage1": (
        True,
        "was removed from DeepSpeed; use false",
    ),
    "zero_optimization.allgather_partitions": (
        False,
        "is read by nothing in DeepSpeed; delete it",
    ),
    "zero_optimization.elastic_checkpoint": (True, f"{_OWN_CHECKPOINTS}; use false"),
    "zero_optimization.load_from_fp32_weights": (False, f"{_OWN_CHECKPOINTS}; use true"),
    "zero_optimization.pipeline_loading_checkpoint": (True, f"{_OWN_CHECKPOINTS}; use false"),
    "zero_optimization.gather_16bit_weights_on_model_save": (True, _EXPORTED),
    "zero_optimization.stage3_gather_16bit_weights_on_model_save": (True, _EXPORTED),
    "zero_optimization.stage3_gather_fp16_weights_on_model_save": (True, _EXPORTED),
    "zero_optimization.save_muon_momentum_buffer_in_memory": (
        True,
        "is for DeepSpeed's own Muon with its state on a disk; use false",
    ),
}
