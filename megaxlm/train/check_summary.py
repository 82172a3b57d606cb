"""The one screen that `megaxlm pretrain --check` prints of a run that can be launched."""

from __future__ import annotations

import shutil
from pathlib import Path

from megaxlm.config.layout import one_of, working_processes
from megaxlm.config.pretrain import PretrainConfig
from megaxlm.model.pipeline import StageSpan
from megaxlm.train.check import CheckedRun, Start

_GIB = 2**30


def summary(checked: CheckedRun, start: Start) -> str:
    """Returns what a run is and how it is laid out, a fact a line."""
    config = checked.run.config
    model, training = config.model, config.training
    lines = [
        (
            "model",
            f"{model.model_type}, {model.num_hidden_layers} layers x {model.hidden_size}, "
            f"vocabulary {model.vocab_size:,}: {checked.num_parameters:,} parameters",
        ),
        ("layout", _layout(checked)),
    ]
    if len(checked.stages) > 1:
        lines += [
            (f"stage {number}", _held(stage, model.tie_word_embeddings))
            for number, stage in enumerate(checked.stages)
        ]
    accumulation = checked.deepspeed_config["gradient_accumulation_steps"]
    tokens_per_step = training.global_batch_size * config.data.seq_len
    lines.append(
        (
            "batch",
            f"{training.global_batch_size:,} rows x {config.data.seq_len} = {tokens_per_step:,} "
            f"tokens a step: {_many(checked.replicas, 'replica')} x {accumulation} accumulated x "
            f"{training.micro_batch_size} rows",
        )
    )
    warmup = " -> ".join(
        f"{phase.global_batch_size:,} rows until {phase.until_tokens:,} tokens"
        for phase in training.batch_size_warmup
    )
    if warmup:
        lines.append(("batch warmup", warmup))
    lines.append(("length", f"{training.max_steps:,} steps, {total_tokens(config):,} tokens"))
    lines.append(("optimizer", f"{config.optimizer.name}, {config.schedule.name} schedule"))
    lines.append(("checkpoint", _checkpoint(checked)))
    lines.append(("start", _start(checked, start)))
    lines.append(("processes", f"{one_of(working_processes(config))} would work"))
    width = max(len(name) for name, _ in lines) + 1
    return "\n".join(f"{name + ':':<{width}} {text}" for name, text in lines)


def total_tokens(config: PretrainConfig) -> int:
    """Returns the tokens of all `max_steps` steps, those of smaller first batches among them."""
    training, seq_len = config.training, config.data.seq_len
    steps, rows = training.max_steps, 0
    for phase in training.batch_size_warmup:
        missing = max(0, -(-phase.until_tokens // seq_len) - rows)
        taken = min(steps, -(-missing // phase.global_batch_size))
        steps, rows = steps - taken, rows + taken * phase.global_batch_size
    return (rows + steps * training.global_batch_size) * seq_len


def _layout(checked: CheckedRun) -> str:
    training = checked.run.config.training
    zero = checked.deepspeed_config["zero_optimization"]
    text = _many(checked.processes, "process", "processes")
    if training.pipeline_stages > 1:
        text += f" = {training.pipeline_stages} stages x {_many(checked.replicas, 'replica')}"
    text += f", ZeRO stage {zero['stage']}, {training.precision}"
    offloaded = [key.removeprefix("offload_") for key in zero if key.startswith("offload_")]
    if offloaded:
        text += f", on the CPU: {' and '.join(offloaded)}"
    if training.pipeline_stages > 1:
        accumulation = checked.deepspeed_config["gradient_accumulation_steps"]
        idle = (training.pipeline_stages - 1) / (accumulation + training.pipeline_stages - 1)
        text += f"; pipeline idle {idle:.0%} of a step"  # 1F1B: Narayanan et al. 2021, section 2.2
    return text


def _held(stage: StageSpan, tied: bool) -> str:
    parts = ["embeddings"] if stage.has_embeddings else []
    if len(stage.layers) > 1:
        parts.append(f"layers {stage.layers[0]} to {stage.layers[-1]}")
    elif stage.layers:
        parts.append(f"layer {stage.layers[0]}")
    if stage.has_head:
        parts.append("head with a copy of the embedding" if tied else "head")
    return ", ".join(parts)


def _checkpoint(checked: CheckedRun) -> str:
    config = checked.run.config
    folder: Path = config.run_dir.absolute()
    while not folder.is_dir():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    return (
        f"{checked.checkpoint_bytes / _GIB:,.2f} GiB every {config.checkpoint.every_steps:,} "
        f"steps, {config.checkpoint.keep_last} kept; {free / _GIB:,.1f} GiB free"
    )


def _start(checked: CheckedRun, start: Start) -> str:
    run_dir, steps = checked.run.config.run_dir, checked.run.config.training.max_steps
    if start.completed:
        return f"{run_dir} is complete at step {start.step}; nothing to do"
    if start.step is None:
        given = checked.run.config.init_from
        return f"a new run in {run_dir}" + (f" from {given}" if given else "")
    text = f"resumes {run_dir} at step {start.step:,} of {steps:,}"
    if start.changed:
        text += "; changed since then: " + ", ".join(start.changed)
    return text


def _many(count: int, one: str, more: str | None = None) -> str:
    return f"{count:,} {one if count == 1 else more or one + 's'}"
