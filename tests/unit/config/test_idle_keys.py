"""Keys that nothing reads beside the others: each is refused, what would read it is named."""

from pathlib import Path
from typing import Any

import pytest

from megaxlm.config.deepspeed import builtin_deepspeed_config, resolve_deepspeed_config
from megaxlm.config.deepspeed_keys import CONTRADICTS, READ_AT, REFUSED, ZERO_DEFAULTS, ZERO_KEYS
from megaxlm.config.idle_keys import refuse_idle_run_keys
from megaxlm.config.load import dump_config, load_config
from megaxlm.config.pretrain import PretrainConfig
from megaxlm.config.zero_rules import LOSSY
from megaxlm.errors import EXIT_BAD_USAGE, UserError

CPU = {"device": "cpu"}
# Keys with rules of their own in `megaxlm.config.zero_rules` or `deepspeed`.
RULED = {"stage", "offload_param", "offload_optimizer", "zero_hpz_partition_size", *LOSSY}


def run(settings: dict[str, Any] | None = None, **training: Any) -> PretrainConfig:
    content: dict[str, Any] = {"run_dir": "r", "data": {"path": "d"}, **(settings or {})}
    content["data"] = {"path": "d", **content["data"]}
    given = {"max_steps": 10, "global_batch_size": 64, "micro_batch_size": 4, **training}
    return PretrainConfig.model_validate({**content, "training": given})


def refusal(raw: dict[str, Any], **training: Any) -> str:
    with pytest.raises(UserError) as caught:
        resolve_deepspeed_config(raw, run(**training), 4, source="ds.json")
    message = str(caught.value)
    assert "\n" not in message and message.startswith("ds.json: ")
    assert caught.value.exit_code == EXIT_BAD_USAGE
    return message


def test_of_every_key_of_zero_it_is_known_when_it_counts() -> None:
    given = [*REFUSED, *CONTRADICTS]
    named = {key.removeprefix("zero_optimization.") for key in given if key.startswith("zero_opt")}
    classed = named | RULED | set(READ_AT) | {f"stage3_{key}" for key in READ_AT}
    classed |= {f"stage3_{key}" for key in named}
    assert ZERO_KEYS - classed == set()


@pytest.mark.parametrize("key", READ_AT)
@pytest.mark.parametrize("stage", range(4))
def test_a_key_is_taken_where_deepspeed_reads_it_and_nowhere_else(key: str, stage: int) -> None:
    switch = key in ("contiguous_gradients", "reduce_scatter", "overlap_comm")
    switch = switch or not key.endswith(("size", "threshold", "parameters", "distance"))
    value = (key != "ignore_unused_parameters") if switch else 5_000
    raw = {"zero_optimization": {"stage": stage, key: value}}
    if stage in READ_AT[key]:
        config = resolve_deepspeed_config(raw, run(precision="fp32"), 4)
        assert config["zero_optimization"][key] == value
        return
    said = refusal(raw, precision="fp32")
    assert f"`zero_optimization.{key}` " in said and f"does nothing at stage {stage}" in said
    assert "delete it, or use zero_optimization.stage " in said
    # A switch that is off says what is so.
    if switch:
        raw["zero_optimization"][key] = not value
        resolve_deepspeed_config(raw, run(precision="fp32"), 4)


@pytest.mark.parametrize(
    ("raw", "training", "parts"),
    [
        (
            {"zero_optimization": {"stage": 1, "overlap_comm": True}},
            {},
            ["`zero_optimization.overlap_comm` true does nothing at stage 1 in bf16", "2 or 3"],
        ),
        (
            {"zero_optimization": {"reduce_bucket_size": 5}},
            {"pipeline_stages": 2},
            ["`zero_optimization.reduce_bucket_size` 5", "stage 1 in bf16", "; delete it"],
        ),
        (
            {"zero_optimization": {"stage": "auto", "stage3_prefetch_bucket_size": 7}},
            {"zero_stage": 2},
            ["`zero_optimization.stage3_prefetch_bucket_size` 7", "use training.zero_stage 3"],
        ),
        (
            {"zero_optimization": {"prefetch_bucket_size": 7}},
            {},
            ["`zero_optimization.prefetch_bucket_size` 7", "use zero_optimization.stage 3"],
        ),
        (
            {"zero_optimization": {"stage": 3, "round_robin_gradients": True}},
            {},
            ["`zero_optimization.round_robin_gradients` true", "at stage 1 or 2 alone"],
        ),
        (
            {"zero_optimization": {"stage": 3, "offload_param": {**CPU, "nvme_path": "/disk"}}},
            {},
            ["`zero_optimization.offload_param.nvme_path`", "device is cpu; delete it"],
        ),
        (
            {"zero_optimization": {"stage": 2, "offload_optimizer": {**CPU, "fast_init": True}}},
            {},
            ["`zero_optimization.offload_optimizer.fast_init`", "delete it"],
        ),
        (
            {
                "zero_optimization": {
                    "stage": 3,
                    "offload_optimizer": {**CPU, "cpuadam_cores_perc": 0.5},
                }
            },
            {},
            ["`zero_optimization.offload_optimizer.cpuadam_cores_perc` 0.5", "delete it"],
        ),
        (
            {"zero_force_ds_cpu_optimizer": True},
            {},
            ["`zero_force_ds_cpu_optimizer` is true", "use false"],
        ),
        (
            {"zero_optimization": {"stage": 2}, "bf16": {"immediate_grad_update": True}},
            {},
            ["`bf16.immediate_grad_update` is true", "at stage 2 in bf16", "use false"],
        ),
        (
            {"zero_optimization": {"stage3_gather_16bit_weights_on_model_save": True}},
            {},
            ["stage3_gather_16bit_weights_on_model_save` is true", "megaxlm export"],
        ),
        ({"vocabulary_size": 64}, {}, ["`vocabulary_size`", "set model.vocab_size"]),
        ({"aio": {"thread_count": 2}}, {}, ["`aio`", "delete it"]),
        ({"dataloader_drop_last": True}, {}, ["`dataloader_drop_last` is true", "use false"]),
        ({"disable_allgather": True}, {}, ["`disable_allgather` is true", "use false"]),
        ({"pipeline": {"use_reentrant": False}}, {}, ["`pipeline.use_reentrant`", "delete it"]),
    ],
)
def test_what_would_do_nothing_is_refused(
    raw: dict[str, Any], training: dict[str, Any], parts: list[str]
) -> None:
    said = refusal(raw, **training)
    for part in parts:
        assert part in said, said


@pytest.mark.parametrize("key", ["dataloader_drop_last", "disable_allgather", "prescale_gradients"])
def test_a_switch_of_what_is_not_done_may_be_off(key: str) -> None:
    assert resolve_deepspeed_config({key: False}, run(), 4)[key] is False


@pytest.mark.parametrize("stage", range(4))
def test_auto_passes_for_every_pinned_key_at_every_stage(stage: int) -> None:
    built_in = [builtin_deepspeed_config(number)["zero_optimization"] for number in (1, 3)]
    assert set(ZERO_DEFAULTS) | {"stage"} == set(built_in[0]) | set(built_in[1])
    raw = {"zero_optimization": {"stage": stage, **dict.fromkeys(ZERO_DEFAULTS, "auto")}}
    config = resolve_deepspeed_config(raw, run(), 4)
    assert "auto" not in config["zero_optimization"].values()


def test_stage_1_in_bf16_takes_what_another_optimizer_would_read() -> None:
    zero = {"stage": 1, "reduce_bucket_size": 5_000}
    for raw, training in (
        ({"zero_optimization": zero}, {"precision": "fp32"}),
        ({"zero_optimization": {**zero, "offload_optimizer": CPU}}, {}),
        ({"zero_optimization": zero, "data_types": {"grad_accum_dtype": "bf16"}}, {}),
        ({"zero_optimization": {"stage": 1, "allgather_bucket_size": 5_000}}, {}),
        ({"bf16": {"immediate_grad_update": True}}, {}),
    ):
        resolve_deepspeed_config(raw, run(**training), 4)


@pytest.mark.parametrize(
    ("settings", "key", "mended"),
    [
        (
            {"optimizer": {"muon_momentum": 0.9}},
            "optimizer.muon_momentum 0.9 does nothing with optimizer.name adamw",
            {"optimizer": {"muon_momentum": 0.9, "name": "muon"}},
        ),
        (
            {"schedule": {"name": "cosine", "decay_steps": 3}},
            "schedule.decay_steps 3 does nothing with schedule.name cosine",
            {"schedule": {"name": "wsd", "decay_steps": 3}},
        ),
        (
            {"schedule": {"name": "constant", "min_lr_ratio": 0.1}},
            "schedule.min_lr_ratio 0.1 does nothing with schedule.name constant",
            {"schedule": {"name": "linear", "min_lr_ratio": 0.1}},
        ),
        (
            {"faults": {"spike_sigma": None, "spike_window": 64}},
            "faults.spike_window 64 does nothing with faults.spike_sigma null",
            {"faults": {"spike_window": 64}},
        ),
        (
            {"evaluation": {"retrieval_pairs": ["en-de"]}},
            'evaluation.retrieval_pairs ["en-de"] does nothing without evaluation.retrieval',
            {"evaluation": {"retrieval_pairs": ["en-de"], "retrieval": "folder"}},
        ),
        (
            {"data": {"attend_across_documents": True, "max_segments_per_row": 9}},
            "data.max_segments_per_row 9 does nothing with data.attend_across_documents true",
            {"data": {"max_segments_per_row": 9}},
        ),
    ],
)
def test_settings_of_the_run_that_would_do_nothing(
    settings: dict[str, Any], key: str, mended: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(UserError) as caught:
        refuse_idle_run_keys(run(settings), "run.yaml")
    said = str(caught.value)
    assert said.startswith(f"run.yaml: {key}") and "; delete it (or give --set " in said
    assert "\n" not in said and caught.value.exit_code == EXIT_BAD_USAGE
    refuse_idle_run_keys(run(mended))
    # What a config file gives can be taken back on the command line as the message says.
    path = tmp_path / "run.yaml"
    path.write_text(dump_config(run(settings)))
    override = said.partition("--set ")[2].partition(")")[0]
    refuse_idle_run_keys(load_config(PretrainConfig, path, [override]))


def test_segments_count_where_pairs_are_attended_across() -> None:
    data = {"attend_across_documents": True, "max_segments_per_row": 9}
    later = [{"from_tokens": 9, "objectives": [{"name": "tlm"}]}]
    refuse_idle_run_keys(run({"data": data, "objectives": [{"name": "tlm"}]}))
    refuse_idle_run_keys(run({"data": {**data, "curriculum": later}}))


def test_the_complete_config_that_a_run_leaves_can_be_trained(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(dump_config(run()))
    refuse_idle_run_keys(load_config(PretrainConfig, path))
