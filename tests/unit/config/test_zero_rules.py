"""Stages, offload, hpZ and pipelines: what cannot be together, and the value that can."""

import copy
from typing import Any

import pytest

from megaxlm.config.deepspeed import builtin_deepspeed_config, resolve_deepspeed_config
from megaxlm.config.pretrain import PretrainConfig
from megaxlm.errors import EXIT_BAD_USAGE, UserError

CPU = {"device": "cpu", "pin_memory": True}


def run(**training: Any) -> PretrainConfig:
    optimizer = {"name": training.pop("optimizer", "adamw")}
    settings = {"max_steps": 10, "global_batch_size": 64, "micro_batch_size": 4, **training}
    return PretrainConfig.model_validate(
        {
            "run_dir": "r",
            "data": {"path": "d"},
            "training": settings,
            "optimizer": optimizer,
        }
    )


def with_values(raw: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """A copy with dotted keys set; None takes the key out."""
    raw = copy.deepcopy(raw)
    for path, value in values.items():
        *sections, key = path.split(".")
        target = raw
        for section in sections:
            target = target.setdefault(section, {})
        if value is None:
            target.pop(key, None)
        else:
            target[key] = value
    return raw


# What is given, the run's training settings, processes; what is said; what mends the file or run.
CASES: dict[str, tuple[dict[str, Any], dict[str, Any], int, list[str], dict[str, Any]]] = {
    "pipeline, stage 2 of the file": (
        {"zero_optimization.stage": 2},
        {"pipeline_stages": 2},
        4,
        ["ds.json: `zero_optimization.stage` is 2", "training.pipeline_stages is 2", "stage 1"],
        {"zero_optimization.stage": 1},
    ),
    "pipeline, stage 3 of the run": (
        {"zero_optimization.stage": "auto"},
        {"pipeline_stages": 2, "zero_stage": 3},
        4,
        ["run.yaml: training.zero_stage is 3", "whole gradients", "use training.zero_stage 1"],
        {"training": {"zero_stage": 1}},
    ),
    "pipeline, stage 0": (
        {"zero_optimization.stage": 0},
        {"pipeline_stages": 2},
        2,
        ["`zero_optimization.stage` is 0", "norm of one pipeline stage", "pipeline_stages 1"],
        {"training": {"pipeline_stages": 1}},
    ),
    "pipeline, offload": (
        {"zero_optimization.stage": 1, "zero_optimization.offload_optimizer": CPU},
        {"pipeline_stages": 2},
        2,
        ["`zero_optimization.offload_optimizer`", "tied embedding", "delete it"],
        {"zero_optimization.offload_optimizer": None},
    ),
    "pipeline, overlap": (
        {"zero_optimization.stage": 1, "zero_optimization.overlap_comm": True},
        {"pipeline_stages": 2},
        2,
        ["`zero_optimization.overlap_comm` is true", "use false"],
        {"zero_optimization.overlap_comm": False},
    ),
    "pipeline, its own layout": (
        {"pipeline.stages": 2},
        {"pipeline_stages": 2},
        2,
        ["`pipeline.stages` is set by training.pipeline_stages", "delete it"],
        {"pipeline.stages": None},
    ),
    "a pipeline's layout without a pipeline": (
        {"pipeline.stages": 2},
        {},
        2,
        ["`pipeline.stages` is set by training.pipeline_stages", "delete it"],
        {"pipeline.stages": None},
    ),
    "what no pipeline knows": (
        {"pipeline.bogus": 1},
        {},
        2,
        ["`pipeline.bogus` is a key that DeepSpeed does not know", "delete it"],
        {"pipeline.bogus": None},
    ),
    "parameters offloaded below stage 3": (
        {"zero_optimization.stage": 2, "zero_optimization.offload_param": CPU},
        {},
        2,
        ["`zero_optimization.offload_param` does nothing at stage 2", "stage 3"],
        {"zero_optimization.stage": 3},
    ),
    "offload at stage 0": (
        {"zero_optimization.stage": 0, "zero_optimization.offload_optimizer": CPU},
        {},
        2,
        ["`zero_optimization.offload_optimizer` does nothing at stage 0", "stage 1, 2 or 3"],
        {"zero_optimization.stage": 2},
    ),
    "offload is no object": (
        {"zero_optimization.stage": 3, "zero_optimization.offload_param": True},
        {},
        2,
        ['must be an object, e.g. {"device": "cpu"}'],
        {"zero_optimization.offload_param": {"device": "cpu"}},
    ),
    "partial offload": (
        {
            "zero_optimization.stage": 3,
            "zero_optimization.offload_optimizer": {"device": "cpu", "ratio": 0.5},
        },
        {},
        2,
        ["`zero_optimization.offload_optimizer.ratio` 0.5", "use 1.0"],
        {"zero_optimization.offload_optimizer.ratio": 1.0},
    ),
    "superoffload": (
        {
            "zero_optimization.stage": 3,
            "zero_optimization.offload_optimizer": {"device": "cpu", "super_offload": True},
        },
        {},
        2,
        ["super_offload", "use false"],
        {"zero_optimization.offload_optimizer.super_offload": False},
    ),
    "DeepSpeed's CPU optimizer with another name": (
        {
            "zero_optimization.stage": 2,
            "zero_optimization.offload_optimizer": CPU,
            "zero_force_ds_cpu_optimizer": True,
        },
        {},
        2,
        ["`zero_force_ds_cpu_optimizer` is true", "optimizer.name is adamw", "use false"],
        {"zero_force_ds_cpu_optimizer": False},
    ),
    "hpZ that does not divide": (
        {"zero_optimization.stage": 3, "zero_optimization.zero_hpz_partition_size": 3},
        {},
        8,
        ["`zero_optimization.zero_hpz_partition_size` 3", "8 processes", "use 1, 2 or 4"],
        {"zero_optimization.zero_hpz_partition_size": 4},
    ),
    "hpZ below stage 3": (
        {"zero_optimization.stage": 2, "zero_optimization.zero_hpz_partition_size": 2},
        {},
        4,
        ["zero_hpz_partition_size` 2 does nothing at stage 2", "stage 3, or 1"],
        {"zero_optimization.zero_hpz_partition_size": 1},
    ),
    "hpZ of nothing": (
        {"zero_optimization.stage": 3, "zero_optimization.zero_hpz_partition_size": 0},
        {},
        4,
        ["zero_hpz_partition_size` is 0", "processes of a node"],
        {"zero_optimization.zero_hpz_partition_size": 2},
    ),
    "quantized below stage 3": (
        {"zero_optimization.stage": 1, "zero_optimization.zero_quantized_weights": True},
        {},
        2,
        ["`zero_optimization.zero_quantized_weights` does nothing at stage 1", "false"],
        {"zero_optimization.zero_quantized_weights": False},
    ),
    "odd bucket": (
        {"zero_optimization.stage": 1, "zero_optimization.allgather_bucket_size": 99},
        {},
        2,
        ["`zero_optimization.allgather_bucket_size` 99 must be even", "use 100"],
        {"zero_optimization.allgather_bucket_size": 100},
    ),
    "bf16 gradients of an fp32 run": (
        {"data_types.grad_accum_dtype": "bf16"},
        {"precision": "fp32"},
        2,
        ["`data_types.grad_accum_dtype` is 'bf16'", "training.precision fp32", "use fp32"],
        {"data_types.grad_accum_dtype": "fp32"},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_refused_with_a_value_that_works(name: str) -> None:
    given, training, processes, said, mended = CASES[name]
    raw = with_values({}, given)

    def resolve(raw: dict[str, Any], training: dict[str, Any]) -> dict[str, Any]:
        return resolve_deepspeed_config(
            raw, run(**training), processes, source="ds.json", run_source="run.yaml"
        )

    with pytest.raises(UserError) as caught:
        resolve(raw, training)
    message = str(caught.value)
    assert caught.value.exit_code == EXIT_BAD_USAGE and "\n" not in message
    for part in said:
        assert part in message, message
    mended = dict(mended)
    training = {**training, **mended.pop("training", {})}
    assert resolve(with_values(raw, mended), training)["train_batch_size"] == 64


@pytest.mark.parametrize("tied", [True, False])
def test_why_a_pipeline_takes_no_offload_is_said_of_this_model(tied: bool) -> None:
    raw = {"zero_optimization": {"stage": 1, "offload_optimizer": CPU}}
    config = run(pipeline_stages=2)
    model = config.model.model_copy(update={"tie_word_embeddings": tied})
    with pytest.raises(UserError) as caught:
        resolve_deepspeed_config(raw, config.model_copy(update={"model": model}), 2)
    assert "`zero_optimization.offload_optimizer` with training.pipeline_stages 2" in str(
        caught.value
    )
    assert ("tied" in str(caught.value)) is tied
    assert ("gradient norm of all stages" in str(caught.value)) is not tied


def test_a_pipeline_takes_stage_1_by_itself() -> None:
    config = resolve_deepspeed_config({}, run(pipeline_stages=4), 8)
    assert config["zero_optimization"]["stage"] == 1
    assert config["gradient_accumulation_steps"] == 8  # 64 rows over 4 rows x 2 replicas
    assert config["train_batch_size"] == 64


def test_a_group_of_hpz_larger_than_the_run_is_the_run() -> None:
    raw = with_values(builtin_deepspeed_config(3), {"zero_optimization.zero_hpz_partition_size": 8})
    assert resolve_deepspeed_config(raw, run(), 2)["zero_optimization"]["stage"] == 3


@pytest.mark.parametrize("section", [{"device": "none"}, {}])
def test_offload_that_is_switched_off_is_none(section: dict[str, Any]) -> None:
    raw = {"zero_optimization": {"stage": 0, "offload_optimizer": section}}
    assert "offload_optimizer" not in resolve_deepspeed_config(raw, run(), 2)["zero_optimization"]


def test_deepspeeds_own_cpu_optimizer_may_be_asked_for() -> None:
    raw = {
        "zero_optimization": {"stage": 2, "offload_optimizer": CPU},
        "zero_force_ds_cpu_optimizer": True,
    }
    config = resolve_deepspeed_config(raw, run(optimizer="deepspeed_adam"), 2)
    assert config["zero_force_ds_cpu_optimizer"] is True
