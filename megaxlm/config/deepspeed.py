"""Fills the `"auto"` values of a DeepSpeed JSON from the run's config and refuses contradictions.

The JSON stays a real DeepSpeed file: whatever DeepSpeed 0.19.8 knows passes through. What the run
already says (batch, precision, clipping, stage) is `"auto"` there or equal to it; what we own
(optimizer, schedule, data order) is refused, and so is what would make a run silently wrong.
Sections are checked field by field by DeepSpeed itself when the engine is built.
"""

from __future__ import annotations

import copy
import difflib
import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from megaxlm.config.deepspeed_keys import (
    CONTRADICTS,
    REFUSED,
    TOP_LEVEL_KEYS,
    ZERO_DEFAULTS,
    ZERO_KEYS,
)
from megaxlm.config.layout import grad_accum_steps, replicas_of
from megaxlm.config.pretrain import PretrainConfig
from megaxlm.config.zero_rules import refuse_impossible
from megaxlm.errors import UserError

AUTO = "auto"
STAGES = (0, 1, 2, 3)
DEFAULT_STAGE = 1
MONITORS = {"wandb": "wandb", "comet": "comet_ml"}  # sections and the packages they import


def builtin_deepspeed_config(stage: int) -> dict[str, Any]:
    """Returns what `configs/deepspeed/zero<stage>.json` holds (a test keeps them equal)."""
    zero: dict[str, Any] = {"stage": stage}
    if stage > 0:
        zero |= {key: value for key, (stages, value) in ZERO_DEFAULTS.items() if stage in stages}
    return {
        "train_batch_size": AUTO,
        "train_micro_batch_size_per_gpu": AUTO,
        "gradient_accumulation_steps": AUTO,
        "gradient_clipping": AUTO,
        "steps_per_print": AUTO,
        "bf16": {"enabled": AUTO, "check_grad_overflow": True},
        "data_types": {"grad_accum_dtype": AUTO},
        "communication_data_type": AUTO,
        "zero_optimization": zero,
        "timers": {"throughput": {"enabled": False}},
    }


def load_deepspeed_config(path: Path) -> dict[str, Any]:
    """Reads a DeepSpeed JSON file.

    Raises:
        UserError: The file is missing, not JSON, not an object, or gives a key twice.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in pairs]
        for key in keys:
            if keys.count(key) > 1:
                raise UserError(f"{path}: `{key}` is given twice; keep one")
        return dict(pairs)

    try:
        content = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=once)
    except FileNotFoundError:
        raise UserError(f"{path}: no such DeepSpeed config; give a JSON file") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno}: not valid JSON: {error.msg}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot read the DeepSpeed config: {error}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a JSON object at the top level")
    return content


def deepspeed_config_of(
    run: PretrainConfig, processes: int, run_source: str = "the run's config"
) -> dict[str, Any]:
    """Returns the resolved DeepSpeed config of a run: its file's, or the built-in of its stage.

    Args:
        run: The run's config.
        processes: All of them, pipeline stages times data-parallel replicas.
        run_source: Name of the run's config file, for messages.

    Raises:
        UserError: As `load_deepspeed_config` and `resolve_deepspeed_config`.
    """
    path, source = run.training.deepspeed_config, deepspeed_source(run)
    if path is not None:
        raw = load_deepspeed_config(path)
    else:
        stage = run.training.zero_stage
        raw = builtin_deepspeed_config(DEFAULT_STAGE if stage is None else stage)
    return resolve_deepspeed_config(raw, run, processes, source=source, run_source=run_source)


def deepspeed_source(run: PretrainConfig) -> str:
    """Returns what messages call the DeepSpeed config of a run."""
    return str(run.training.deepspeed_config or "the built-in DeepSpeed config")


def zero_stage_of(zero_stage: int | None, deepspeed_config: Path | None) -> int | None:
    """Returns the ZeRO stage that counts, or None if the file that says it cannot be read.

    Args:
        zero_stage: `training.zero_stage`; None: what the file says.
        deepspeed_config: `training.deepspeed_config`; None: the built-in config.
    """
    stage: Any = zero_stage
    if stage is None and deepspeed_config is not None:
        try:
            stage = _get(load_deepspeed_config(deepspeed_config), "zero_optimization.stage")
        except UserError:
            return None
    if stage is None or stage == AUTO:
        stage = DEFAULT_STAGE
    return stage if type(stage) is int and stage in STAGES else None


def resolve_deepspeed_config(
    raw: Mapping[str, Any],
    run: PretrainConfig,
    processes: int,
    *,
    source: str = "the DeepSpeed config",
    run_source: str = "the run's config",
) -> dict[str, Any]:
    """Returns a DeepSpeed config without `"auto"`, in agreement with the run.

    Args:
        raw: Content of a DeepSpeed JSON file; not changed.
        run: The run's config.
        processes: All of them, pipeline stages times data-parallel replicas.
        source: Name of the JSON file, for messages.
        run_source: Name of the run's config file, for messages.

    Raises:
        UserError: A key that is unknown, removed from DeepSpeed, ours, or contradicts the run;
            an `"auto"` that nothing fills; a batch that does not divide; what ZeRO, offload and
            pipelines cannot have together (`megaxlm.config.zero_rules`).
    """
    config: dict[str, Any] = copy.deepcopy(dict(raw))
    _check_keys(config, source)
    accumulation = grad_accum_steps(run, processes, run_source)
    replicas = replicas_of(run, processes, run_source)
    training = run.training
    bf16 = training.precision == "bf16"
    zero = config.setdefault("zero_optimization", {})
    facts: list[tuple[str, Any, str]] = [
        ("train_batch_size", training.global_batch_size, "training.global_batch_size"),
        ("train_micro_batch_size_per_gpu", training.micro_batch_size, "training.micro_batch_size"),
        (
            "gradient_accumulation_steps",
            accumulation,
            f"training.global_batch_size / (training.micro_batch_size x {replicas} replicas)",
        ),
        ("gradient_clipping", training.gradient_clipping, "training.gradient_clipping"),
        ("bf16.enabled", bf16, f"training.precision {training.precision}, that is bf16.enabled"),
    ]
    if training.zero_stage is not None:
        facts.append(("zero_optimization.stage", training.zero_stage, "training.zero_stage"))
    elif zero.get("stage", AUTO) == AUTO:
        zero["stage"] = DEFAULT_STAGE
    for key, value, run_key in facts:
        _agree(config, key, value, f"{run_source} has {run_key} {_shown(value)}", source)
    stage = zero["stage"]
    if type(stage) is not int or stage not in STAGES:
        raise UserError(f"{source}: zero_optimization.stage is {_shown(stage)}; use 0, 1, 2 or 3")
    _fill(config, "steps_per_print", run.logging.every_steps)
    _fill(config, "bf16.check_grad_overflow", True)
    _drop_offload_to_nowhere(zero)
    _fill_dtypes(config, stage, bf16, source)
    for key, (stages, default) in ZERO_DEFAULTS.items():
        short = key.removeprefix("stage3_")
        spelled = short if short in zero else key
        if stage in stages:
            # Pinned: DeepSpeed's own defaults move, and bucket sizes have changed results.
            _fill(config, f"zero_optimization.{spelled}", default)
        elif zero.get(spelled) == AUTO:
            del zero[spelled]
    config.setdefault("zero_allow_untested_optimizer", True)
    if zero.get("offload_optimizer"):
        # Torch's fused AdamW runs on CPU tensors too, and needs no minutes of compiling.
        config.setdefault("zero_force_ds_cpu_optimizer", False)
    _refuse_leftover_auto(config, source)
    refuse_impossible(config, run, processes, source, run_source)
    return config


def _drop_offload_to_nowhere(zero: dict[str, Any]) -> None:
    """Takes out offload that is switched off, so that a section here always means offload."""
    for key in ("offload_optimizer", "offload_param"):
        section = zero.get(key)
        if isinstance(section, dict) and section.get("device", "none") == "none":
            del zero[key]


def _check_keys(config: dict[str, Any], source: str) -> None:
    for path, reason in REFUSED.items():
        if _get(config, path) is not None:
            raise UserError(f"{source}: `{path}` {reason}")
    for path, (wrong, reason) in CONTRADICTS.items():
        value = _get(config, path)
        # DeepSpeed reads words in any case.
        if (value.lower() if isinstance(value, str) else value) == wrong:
            raise UserError(f"{source}: `{path}` is {_shown(value)}, which {reason}")
    zero = config.get("zero_optimization", {})
    for section in ("zero_optimization", "bf16", "data_types", "fp16", "pipeline", *MONITORS):
        if not isinstance(config.get(section, {}), dict):
            raise UserError(f"{source}: `{section}` must be an object, e.g. {{...}}")
    every = config.get("steps_per_print", AUTO)
    if every != AUTO and (type(every) is not int or every < 1):
        raise UserError(f"{source}: `steps_per_print` is {_shown(every)}; use 1 or more steps")
    for section, library in MONITORS.items():
        if config.get(section, {}).get("enabled") and importlib.util.find_spec(library) is None:
            raise UserError(
                f"{source}: `{section}.enabled` is true, but the package {library} is not "
                f"installed; run `pip install {library}`, or use false"
            )
    for prefix, given, valid in (
        ("", config, TOP_LEVEL_KEYS),
        ("zero_optimization.", zero, ZERO_KEYS),
    ):
        for key in given:
            if key not in valid:
                near = difflib.get_close_matches(key, valid, n=1, cutoff=0.6)
                hint = f"did you mean `{prefix}{near[0]}`?" if near else "remove it"
                raise UserError(f"{source}: unknown DeepSpeed key `{prefix}{key}`; {hint}")
    fp16 = config.pop("fp16", {}).get("enabled", False)
    if fp16 not in (False, AUTO):
        raise UserError(
            f"{source}: `fp16.enabled` is {_shown(fp16)}, but training.precision is fp32 or bf16; "
            "remove `fp16` and set training.precision: bf16"
        )
    for device_key in ("offload_optimizer", "offload_param"):
        offload = zero.get(device_key)
        if isinstance(offload, dict) and offload.get("device") == "nvme":
            raise UserError(
                f"{source}: `zero_optimization.{device_key}.device` is nvme, whose state cannot be "
                "checkpointed by name; use cpu"
            )


def _fill_dtypes(config: dict[str, Any], stage: int, bf16: bool, source: str) -> None:
    data_types = config.setdefault("data_types", {})
    if stage == 0 and bf16:
        # DeepSpeed refuses fp32 accumulation at stage 0; the engine asks torch for it instead.
        if data_types.get("grad_accum_dtype", AUTO) in (AUTO, "fp32"):
            data_types.pop("grad_accum_dtype", None)
    else:
        _fill(config, "data_types.grad_accum_dtype", "fp32")
    if config.get("communication_data_type", AUTO) == AUTO:
        # Stages 0 and 1 reduce once a step, so fp32 costs little there; stages 2 and 3 reduce every
        # micro-batch and keep the precision of the model.
        config.pop("communication_data_type", None)
        if stage <= 1:
            config["communication_data_type"] = "fp32"
        return
    precision = "bf16" if bf16 else "fp32"
    allowed = dict.fromkeys(("fp32", precision))
    if config["communication_data_type"] not in allowed:
        raise UserError(
            f"{source}: `communication_data_type` is {_shown(config['communication_data_type'])}, "
            f"which rounds the gradients of a run with training.precision {precision}; "
            f"use {' or '.join(_shown(one) for one in allowed)}"
        )


def _agree(config: dict[str, Any], key: str, value: Any, said: str, source: str) -> None:
    given = _get(config, key)
    # `==` alone would let true pass for 1.
    same = given == value and isinstance(given, bool) == isinstance(value, bool)
    if given is None or given == AUTO:
        _set(config, key, value)
    elif not same:
        raise UserError(
            f'{source}: `{key}` is {_shown(given)}, but {said}; make them equal or write "auto"'
        )


def _fill(config: dict[str, Any], key: str, value: Any) -> None:
    if _get(config, key) in (None, AUTO):
        _set(config, key, value)


def _refuse_leftover_auto(config: dict[str, Any], source: str) -> None:
    def search(value: Any, path: str) -> None:
        if isinstance(value, dict):
            for key, item in value.items():
                search(item, f"{path}.{key}" if path else key)
        elif value == AUTO and path != "data_types.keep_in_fp32_modules":
            raise UserError(f'{source}: nothing fills `{path}`: "auto"; give a value')

    search(config, "")


def _get(config: Mapping[str, Any], path: str) -> Any:
    value: Any = config
    for key in path.split("."):
        if not isinstance(value, Mapping) or key not in value:
            return None
        value = value[key]
    return value


def _set(config: dict[str, Any], path: str, value: Any) -> None:
    *sections, key = path.split(".")
    for section in sections:
        config = config.setdefault(section, {})
    config[key] = value


def _shown(value: Any) -> str:
    return json.dumps(value) if isinstance(value, bool | str) or value is None else str(value)
