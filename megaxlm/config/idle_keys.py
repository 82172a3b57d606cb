"""Keys that nothing reads, given what other keys say: each is refused, for it would pass unseen.

A switch that is off (`overlap_comm: false` where nothing is reduced) says what is so, and passes.
So does a key of the run at its default: `RUN_DIR/config.yaml` holds every key and can be trained.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from megaxlm.config.deepspeed_keys import (
    BF16_OPTIMIZER_READS,
    DISK_OFFLOAD_KEYS,
    OFF_WHEN_TRUE,
    READ_AT,
    ZERO_DEFAULTS,
)
from megaxlm.config.layout import one_of
from megaxlm.config.pretrain import PretrainConfig
from megaxlm.errors import UserError

ZERO = "zero_optimization"


def refuse_idle_deepspeed_keys(config: Mapping[str, Any], run: PretrainConfig, source: str) -> None:
    """Refuses what DeepSpeed would not read with this stage, precision and offload.

    Args:
        config: The DeepSpeed config, its stage filled in and every `"auto"` gone.
        run: The run's config.
        source: Name of the DeepSpeed config, for messages.

    Raises:
        UserError: The first such key.
    """
    zero = config[ZERO]
    stage: int = zero["stage"]
    by_bf16_optimizer = _has_bf16_optimizer(config, run)
    for key, value in zero.items():
        short = key.removeprefix("stage3_")
        off = short in OFF_WHEN_TRUE
        if short not in READ_AT or value is None or value is off:
            continue
        if stage not in READ_AT[short]:
            raise UserError(
                f"{source}: `{ZERO}.{key}` {_shown(value)} does nothing at stage {stage}: "
                f"DeepSpeed reads it at stage {one_of(READ_AT[short])} alone; "
                + _mended(READ_AT[short], run)
            )
        pinned = ZERO_DEFAULTS.get(key, ZERO_DEFAULTS.get(f"stage3_{key}", ((), None)))[1]
        if by_bf16_optimizer and short not in BF16_OPTIMIZER_READS and value != pinned:
            raise UserError(
                f"{source}: `{ZERO}.{key}` {_shown(value)} does nothing at stage 1 in bf16: "
                "DeepSpeed reduces there once a step, by a path of its own; "
                + _mended(READ_AT[short], run, but=1)
            )
    for section, keys in DISK_OFFLOAD_KEYS.items():
        for key in keys:
            if (zero.get(section) or {}).get(key) not in (None, False):
                raise UserError(
                    f"{source}: `{ZERO}.{section}.{key}` is for offload to a disk, and the device "
                    "is cpu; delete it"
                )
    cores = (zero.get("offload_optimizer") or {}).get("cpuadam_cores_perc")
    if cores is not None:
        raise UserError(
            f"{source}: `{ZERO}.offload_optimizer.cpuadam_cores_perc` {cores} is for "
            "super_offload, which cannot be checkpointed; delete it"
        )
    if config.get("zero_force_ds_cpu_optimizer") and not zero.get("offload_optimizer"):
        raise UserError(
            f"{source}: `zero_force_ds_cpu_optimizer` is true, which does nothing without "
            f"{ZERO}.offload_optimizer; use false, or add that"
        )
    if config.get("bf16", {}).get("immediate_grad_update") and not by_bf16_optimizer:
        raise UserError(
            f"{source}: `bf16.immediate_grad_update` is true, which does nothing at stage {stage} "
            f"in {run.training.precision}: DeepSpeed reads it at stage 1 in bf16 with fp32 "
            "accumulation and no offload alone; use false"
        )


def refuse_idle_run_keys(run: PretrainConfig, run_source: str = "the run's config") -> None:
    """Refuses settings of a run that do nothing beside its other settings.

    Args:
        run: The run's config.
        run_source: Name of its file, for messages.

    Raises:
        UserError: The first such key.
    """
    for key, why, instead in _idle_of_run(run):
        section, name = key.split(".")
        settings: BaseModel = getattr(run, section)
        value, default = getattr(settings, name), type(settings).model_fields[name].default
        if value != default:
            raise UserError(
                f"{run_source}: {key} {_shown(value)} does nothing {why}; delete it (or give "
                f"--set {key}={_shown(default)}), or use {instead}"
            )


def _idle_of_run(run: PretrainConfig) -> Iterator[tuple[str, str, str]]:
    """Yields the keys that this run does not look at: key, why, and what would look at it."""
    if run.optimizer.name != "muon":
        why = f"with optimizer.name {run.optimizer.name}"
        yield "optimizer.muon_momentum", why, "optimizer.name muon"
    if run.schedule.name != "wsd":
        why = f"with schedule.name {run.schedule.name}"
        yield "schedule.decay_steps", why, "schedule.name wsd"
    if run.schedule.name == "constant":
        why = "with schedule.name constant, whose rate does not fall"
        yield "schedule.min_lr_ratio", why, "another schedule.name"
    if run.faults.spike_sigma is None:
        why = "with faults.spike_sigma null, which takes no loss for a spike"
        yield "faults.spike_window", why, "a faults.spike_sigma such as 6"
    if run.evaluation.retrieval is None:
        why = "without evaluation.retrieval"
        yield "evaluation.retrieval_pairs", why, "evaluation.retrieval with the folder of pairs"
    mixtures = [run.objectives, *(phase.objectives or [] for phase in run.data.curriculum)]
    if run.data.attend_across_documents and not any(
        objective.name == "tlm" for mixture in mixtures for objective in mixture
    ):
        why = "with data.attend_across_documents true, where a row is one segment"
        yield "data.max_segments_per_row", why, "data.attend_across_documents false"


def _has_bf16_optimizer(config: Mapping[str, Any], run: PretrainConfig) -> bool:
    """Whether DeepSpeed wraps the optimizer in its BF16 optimizer in place of that of ZeRO."""
    return (
        run.training.precision == "bf16"
        and config[ZERO]["stage"] == 1
        and config.get("data_types", {}).get("grad_accum_dtype", "fp32") == "fp32"
        and not config[ZERO].get("offload_optimizer")
    )


def _mended(stages: tuple[int, ...], run: PretrainConfig, but: int | None = None) -> str:
    """Returns what to do about a key that is read at `stages`; a pipeline has stage 1 alone."""
    others = [
        stage
        for stage in stages
        if stage != but and (stage == 1 or run.training.pipeline_stages == 1)
    ]
    if not others:
        return "delete it"
    key = f"{ZERO}.stage" if run.training.zero_stage is None else "training.zero_stage"
    return f"delete it, or use {key} {one_of(others)}"


def _shown(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
