"""What a run may resume from: the same model, tokenizer and place in the data, or an error.

Settings that may change between two starts (a rate, a mixture, the number of steps) are named, so
that no change passes in silence.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from megaxlm.checkpoint.manifest import CHECKPOINTS_DIR
from megaxlm.checkpoint.reader import CheckpointReader
from megaxlm.config.deepspeed import zero_stage_of
from megaxlm.config.pretrain import PretrainConfig, ScheduleConfig
from megaxlm.errors import EXIT_FOUND_WRONG, UserError
from megaxlm.optim.schedules import resolved_decay_steps
from megaxlm.optim.state import EMA
from megaxlm.train.callbacks.metrics import METRICS_NAME
from megaxlm.train.line_file import last_step
from megaxlm.train.run_folder import COMPLETED_NAME
from megaxlm.train.stored_state import stored_state

# Settings of the model that change how it is computed or regularised, not what its tensors are.
_FREE_TO_CHANGE = frozenset(
    {
        "hidden_dropout_prob",
        "attention_probs_dropout_prob",
        "activation_checkpointing",
        "initializer_range",
    }
)
# Sections that decide what is learnt; the others say where, how often and how fast.
_NAMED_WHEN_CHANGED = (
    "data",
    "objectives",
    "masking",
    "model",
    "optimizer",
    "schedule",
    "training",
)
_NOT_NAMED = frozenset({"data.path", "data.prefetch_batches", "training.deepspeed_config"})


def check_compatible(
    reader: CheckpointReader, config: PretrainConfig, tokenizer_sha256: str
) -> None:
    """Refuses a checkpoint that this run cannot go on from.

    Raises:
        UserError: It holds weights alone, another model or tokenizer, or no moments for this
            optimizer.
        CorruptDataError: Its state cannot be read.
    """
    if reader.weights_only:
        raise UserError(
            f"{reader.path}: an imported model, which no run can resume; name it as init_from and "
            "give another run_dir"
        )
    saved = reader.shared
    for key, value in config.model.model_dump(mode="json").items():
        # A version that did not know the key trained as its default does.
        there = saved["model"].get(key, type(config.model).model_fields[key].default)
        if there != value and key not in _FREE_TO_CHANGE:
            raise UserError(
                f"{reader.path}: saved with model.{key}={there}, the config says "
                f"{value}; restore it or choose a new run_dir"
            )
    if saved["tokenizer_sha256"] != tokenizer_sha256:
        raise UserError(
            f"{reader.path}: saved with another tokenizer than {config.data.path} has; "
            "use the data set it was trained on, or a new run_dir"
        )
    _check_moments(reader, config)


def _check_moments(reader: CheckpointReader, config: PretrainConfig) -> None:
    """Finds moments that another optimizer did not keep; averaged weights may begin anew."""
    there = set(reader.names())
    for name, (_, moments) in stored_state(config).items():
        for moment in moments:
            if moment != EMA and f"{moment}/{name}" not in there:
                saved = reader.shared["config"]["optimizer"].get("name", "adamw")
                raise UserError(
                    f"{reader.path}: saved by optimizer.name {saved}, which keeps no {moment} of "
                    f"{name} as {config.optimizer.name} needs; use optimizer.name {saved}, or "
                    "give another run_dir and this run as init_from"
                )


def settings_in_force(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings of a run with what they leave open filled in as it counts.

    A checkpoint holds them so: the DeepSpeed file that the config names may be another by the next
    start.

    Args:
        settings: Of `PretrainConfig`, as JSON holds them.
    """
    filled = dict(settings)
    training = filled.get("training")
    if training is not None:
        path = training.get("deepspeed_config")
        stage = zero_stage_of(training.get("zero_stage"), None if path is None else Path(path))
        filled["training"] = {**training, "zero_stage": stage}
    schedule = filled.get("schedule")
    if training is not None and schedule is not None and schedule.get("name") == "wsd":
        given = ScheduleConfig(name="wsd", decay_steps=schedule.get("decay_steps"))
        decay_steps = resolved_decay_steps(given, training["max_steps"])
        filled["schedule"] = {**schedule, "decay_steps": decay_steps}
    return filled


def changed_settings(saved: Mapping[str, Any], config: PretrainConfig) -> list[str]:
    """Returns `key: old -> new` of each setting that decides what is learnt and has changed."""
    before = _flat(settings_in_force(saved))
    now = _flat(settings_in_force(config.model_dump(mode="json")))
    return [
        f"{key}: {_shown(before[key])} -> {_shown(now[key])}"
        for key in now
        if key.split(".")[0] in _NAMED_WHEN_CHANGED
        and key not in _NOT_NAMED
        and key in before
        and before[key] != now[key]
        # Of a DeepSpeed file that cannot be read: nobody knows whether it has changed.
        and not (key == "training.zero_stage" and None in (before[key], now[key]))
    ]


def refuse_silent_restart(run_dir: Path, every_steps: int) -> None:
    """Refuses to begin anew where a run has been and its checkpoints are gone.

    Args:
        run_dir: A run folder without checkpoints.
        every_steps: How often one is saved: a run that was killed before may begin anew.

    Raises:
        UserError: The folder tells of steps past the first checkpoint, or of a finished run.
    """
    completed = (run_dir / COMPLETED_NAME).exists()
    reached = last_step(run_dir / METRICS_NAME)
    if completed or reached > every_steps:
        witness = COMPLETED_NAME if completed else f"step {reached} in {METRICS_NAME}"
        raise UserError(
            f"{run_dir / CHECKPOINTS_DIR}: no checkpoint, yet there is {witness}; restore the "
            "checkpoints from a copy, or give another run_dir to start afresh",
            exit_code=EXIT_FOUND_WRONG,
        )


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found |= (
            _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
        )
    return found


def _shown(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
