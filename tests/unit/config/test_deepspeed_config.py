"""The DeepSpeed JSON: "auto" is filled from the run; contradictions are one line naming both."""

import json
from pathlib import Path
from typing import Any

import pytest

from megaxlm.config.deepspeed import (
    builtin_deepspeed_config,
    deepspeed_config_of,
    load_deepspeed_config,
    resolve_deepspeed_config,
)
from megaxlm.config.pretrain import PretrainConfig
from megaxlm.errors import EXIT_BAD_USAGE, UserError

FILES = Path(__file__).resolve().parents[3] / "configs" / "deepspeed"


def run(**training: Any) -> PretrainConfig:
    settings = {"max_steps": 10, "global_batch_size": 64, "micro_batch_size": 4, **training}
    return PretrainConfig.model_validate(
        {"run_dir": "r", "data": {"path": "d"}, "training": settings}
    )


def resolve(raw: dict[str, Any], world_size: int = 2, **training: Any) -> dict[str, Any]:
    return resolve_deepspeed_config(
        raw, run(**training), world_size, source="ds.json", run_source="run.yaml"
    )


def refusal(raw: dict[str, Any], **training: Any) -> str:
    with pytest.raises(UserError) as caught:
        resolve(raw, **training)
    message = str(caught.value)
    assert "\n" not in message
    assert caught.value.exit_code == EXIT_BAD_USAGE
    return message


def autos(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [found for item in value.values() for found in autos(item)]
    return [value] if value == "auto" else []


@pytest.mark.parametrize("stage", range(4))
def test_built_in_configs_are_the_files(stage: int) -> None:
    assert load_deepspeed_config(FILES / f"zero{stage}.json") == builtin_deepspeed_config(stage)


@pytest.mark.parametrize("stage", range(4))
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_auto_is_filled_from_the_run(stage: int, precision: str) -> None:
    raw = builtin_deepspeed_config(stage)
    before = json.dumps(raw)
    config = resolve(raw, zero_stage=stage, precision=precision, gradient_clipping=0.7)
    assert json.dumps(raw) == before  # the caller's dict is not changed
    assert autos(config) == []
    assert config["train_batch_size"] == 64
    assert config["train_micro_batch_size_per_gpu"] == 4
    assert config["gradient_accumulation_steps"] == 8
    assert config["gradient_clipping"] == 0.7
    assert config["bf16"] == {"enabled": precision == "bf16", "check_grad_overflow": True}
    assert config["zero_optimization"]["stage"] == stage
    if stage:
        assert config["zero_optimization"]["reduce_bucket_size"] == 50_000_000


def test_an_empty_file_gets_every_pinned_value() -> None:
    config = resolve({}, precision="bf16")
    built_in = resolve(builtin_deepspeed_config(1), precision="bf16")
    built_in.pop("timers")
    assert config == built_in


def test_gradients_accumulate_in_fp32() -> None:
    for stage in (1, 2, 3):
        config = resolve({"zero_optimization": {"stage": stage}}, precision="bf16")
        assert config["data_types"] == {"grad_accum_dtype": "fp32"}
    # DeepSpeed refuses the mix at stage 0, where the engine asks torch for it.
    for given in ("auto", "fp32"):
        config = resolve(
            {"zero_optimization": {"stage": 0}, "data_types": {"grad_accum_dtype": given}},
            precision="bf16",
        )
        assert config["data_types"] == {}
    config = resolve({"data_types": {"grad_accum_dtype": "bf16"}}, precision="bf16")
    assert config["data_types"] == {"grad_accum_dtype": "bf16"}


def test_reductions_are_fp32_where_they_happen_once_a_step() -> None:
    for stage in range(4):
        config = resolve({"zero_optimization": {"stage": stage}}, precision="bf16")
        assert config.get("communication_data_type") == ("fp32" if stage < 2 else None)
    assert resolve({"communication_data_type": "bf16"})["communication_data_type"] == "bf16"


@pytest.mark.parametrize(
    ("raw", "training", "parts"),
    [
        (
            {"train_batch_size": 32},
            {},
            ["ds.json: `train_batch_size` is 32", "run.yaml has training.global_batch_size 64"],
        ),
        (
            {"train_micro_batch_size_per_gpu": 8},
            {},
            ["`train_micro_batch_size_per_gpu` is 8", "training.micro_batch_size 4"],
        ),
        (
            {"gradient_accumulation_steps": 4},
            {},
            ["`gradient_accumulation_steps` is 4", "x 2 replicas) 8"],
        ),
        (
            {"gradient_clipping": 0.5},
            {},
            ["`gradient_clipping` is 0.5", "training.gradient_clipping 1.0"],
        ),
        (
            {"bf16": {"enabled": True}},
            {"precision": "fp32"},
            ["`bf16.enabled` is true", "training.precision fp32"],
        ),
        (
            {"zero_optimization": {"stage": 3}},
            {"zero_stage": 2},
            ["`zero_optimization.stage` is 3", "training.zero_stage 2"],
        ),
        (
            {"zero_optimization": {"stage": True}},
            {"zero_stage": 1},
            ["`zero_optimization.stage` is true", "training.zero_stage 1"],
        ),
    ],
)
def test_contradictions_name_both_sides(
    raw: dict[str, Any], training: dict[str, Any], parts: list[str]
) -> None:
    message = refusal(raw, **training)
    for part in [*parts, 'make them equal or write "auto"']:
        assert part in message


def test_equal_values_are_no_contradiction() -> None:
    config = resolve(
        {
            "train_batch_size": 64,
            "gradient_clipping": 1,
            "bf16": {"enabled": True},
            "zero_optimization": {"stage": 2},
        },
        precision="bf16",
        zero_stage=2,
    )
    assert config["zero_optimization"]["stage"] == 2


def test_the_stage_of_the_file_counts_where_the_run_has_none() -> None:
    assert resolve({"zero_optimization": {"stage": 3}})["zero_optimization"]["stage"] == 3
    assert resolve({"zero_optimization": {"stage": "auto"}})["zero_optimization"]["stage"] == 1
    assert "use 0, 1, 2 or 3" in refusal({"zero_optimization": {"stage": 4}})


@pytest.mark.parametrize(
    ("raw", "parts"),
    [
        ({"optimizer": {"type": "AdamW"}}, ["`optimizer`", "run's config"]),
        ({"scheduler": {"type": "WarmupLR"}}, ["`scheduler`", "run's config"]),
        ({"elasticity": {"enabled": True}}, ["`elasticity`", "removed from DeepSpeed"]),
        ({"amp": {"enabled": True}}, ["`amp`", "training.precision: bf16"]),
        ({"nebula": {}}, ["`nebula`", "removed"]),
        ({"compression_training": {}}, ["`compression_training`", "removed"]),
        ({"curriculum_learning": {}}, ["`curriculum_learning`", "data.curriculum"]),
        ({"zero_optimization": {"mics_shard_size": 4}}, ["mics_shard_size", "removed"]),
        ({"gradient_cliping": 1.0}, ["unknown", "did you mean `gradient_clipping`?"]),
        (
            {"zero_optimization": {"reduce_bucket": 1}},
            ["unknown", "did you mean `zero_optimization.reduce_bucket_size`?"],
        ),
        ({"fp16": {"enabled": True}}, ["`fp16.enabled` is true", "training.precision: bf16"]),
        ({"zero_optimization": True}, ["`zero_optimization` must be an object"]),
        ({"bf16": {"check_grad_overflow": False}}, ["`bf16.check_grad_overflow` is false"]),
        ({"bf16": {"bf16_master_weights_and_grads": True}}, ["resumed exactly"]),
        ({"prescale_gradients": True}, ["`prescale_gradients` is true", "use false"]),
        ({"gradient_predivide_factor": 2.0}, ["`gradient_predivide_factor`", "delete it"]),
        ({"zero_allow_untested_optimizer": False}, ["use true"]),
        ({"checkpoint": {"writer": {"type": "fast"}}}, ["`checkpoint`", "writes its own"]),
        ({"activation_checkpointing": {}}, ["set model.activation_checkpointing"]),
        ({"compile": {"deepcompile": True}}, ["`compile` is not looked at"]),
        (
            {"zero_optimization": {"cpu_offload": True}},
            ["`zero_optimization.cpu_offload` is the old name", "offload_optimizer"],
        ),
        ({"zero_optimization": {"zenflow": {"topk_ratio": 0.1}}}, ["`zero_optimization.zenflow`"]),
        ({"gradient_allreduce_op": "sum"}, ["multiplies the loss by the number of processes"]),
        ({"gradient_allreduce_op": "SUM"}, ["multiplies the loss by the number of processes"]),
        (
            {"zero_optimization": {"offload_optimizer": {"device": "nvme"}}},
            ["`zero_optimization.offload_optimizer.device` is nvme", "use cpu"],
        ),
        ({"wall_clock_breakdown": "auto"}, ['nothing fills `wall_clock_breakdown`: "auto"']),
        (
            {"zero_optimization": {"sub_group_size": "auto", "zero_hpz_partition_size": "auto"}},
            ["`zero_optimization.zero_hpz_partition_size`"],
        ),
    ],
)
def test_what_cannot_work_is_refused(raw: dict[str, Any], parts: list[str]) -> None:
    message = refusal(raw)
    for part in ["ds.json", *parts]:
        assert part in message


def test_fp16_switched_off_passes() -> None:
    for enabled in (False, "auto"):
        assert "fp16" not in resolve({"fp16": {"enabled": enabled}})


def test_deepspeed_keys_pass_through() -> None:
    raw = {
        "wall_clock_breakdown": True,
        "flops_profiler": {"enabled": True},
        "zero_optimization": {
            "stage": 3,
            "prefetch_bucket_size": 123,
            "stage3_max_live_parameters": "auto",
            "offload_optimizer": {"device": "cpu", "pin_memory": True},
            "zero_hpz_partition_size": 2,
        },
    }
    config = resolve(raw)
    assert config["flops_profiler"] == {"enabled": True}
    zero = config["zero_optimization"]
    assert zero["prefetch_bucket_size"] == 123 and "stage3_prefetch_bucket_size" not in zero
    assert zero["stage3_max_live_parameters"] == 1_000_000_000
    assert zero["offload_optimizer"] == {"device": "cpu", "pin_memory": True}
    assert config["zero_force_ds_cpu_optimizer"] is False


def test_config_of_a_run_reads_its_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text('{"zero_optimization": {"stage": 2, "reduce_bucket_size": 7}}')
    config = deepspeed_config_of(run(deepspeed_config=path), 2)
    assert config["zero_optimization"]["reduce_bucket_size"] == 7
    with pytest.raises(UserError, match=r"mine.json: `zero_optimization.stage` is 2, but run.yaml"):
        deepspeed_config_of(run(deepspeed_config=path, zero_stage=1), 2, "run.yaml")
    assert deepspeed_config_of(run(zero_stage=3), 2)["zero_optimization"]["stage"] == 3
    assert deepspeed_config_of(run(), 2)["zero_optimization"]["stage"] == 1


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{\n "a": 1,\n}', ":3: not valid JSON"),
        (b'{"bf16": {}, "bf16": {}}', "`bf16` is given twice"),
        (b"[1]", "expected a JSON object"),
        (b"\xff\xfe", "cannot read"),
    ],
)
def test_unreadable_files_are_one_line(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "bad.json"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        load_deepspeed_config(path)
    assert said in str(caught.value) and str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such DeepSpeed config"):
        load_deepspeed_config(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ({"steps_per_print": 0}, "`steps_per_print` is 0; use 1 or more"),
        ({"steps_per_print": "many"}, "use 1 or more"),
        ({"pipeline": None}, "`pipeline` must be an object"),
        ({"comet": {"enabled": True}}, "the package comet_ml is not installed"),
        ({"communication_data_type": "bf16"}, 'use "fp32"'),
        ({"communication_data_type": "fp16"}, 'use "fp32"'),
        ({"zero_optimization": {"leaf_module": {"classes": ["X"]}}}, "delete it"),
        ({"zero_optimization": {"module_granularity_threshold": 9}}, "delete it"),
    ],
)
def test_what_would_fail_in_the_first_step_is_refused(raw: dict[str, Any], said: str) -> None:
    run = PretrainConfig.model_validate(
        {
            "run_dir": "r",
            "data": {"path": "d"},
            "training": {
                "max_steps": 1,
                "global_batch_size": 4,
                "micro_batch_size": 1,
                "precision": "fp32",
            },
        }
    )
    with pytest.raises(UserError) as caught:
        resolve_deepspeed_config(raw, run, 1, source="ds.json")
    assert said in str(caught.value) and "\n" not in str(caught.value)
