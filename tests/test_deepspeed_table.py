"""What DeepSpeed 0.19.8 does wrong or refuses, line by line, and where it is held off.

What a config can bring about is tried here. What shows in training, saving or launching has its
test elsewhere, named in `ELSEWHERE`; a name that is not there fails.
"""

import ast
from pathlib import Path
from typing import Any

import pytest
import torch
from deepspeed.runtime import config as deepspeed_config
from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

from megaxlm.config.deepspeed import builtin_deepspeed_config, resolve_deepspeed_config
from megaxlm.config.deepspeed_keys import REFUSED, ZERO_KEYS
from megaxlm.config.pretrain import PretrainConfig
from megaxlm.errors import UserError
from megaxlm.model.pipeline import PipelineStage, balance_stages
from megaxlm.testing.models import tiny_model_config

ROOT = Path(__file__).resolve().parent
ELSEWHERE: dict[str, list[str]] = {
    "another stage or number of ranks, several param groups": [
        "distributed/test_engine_resume.py::test_another_layout_goes_on_with_dropout",
        "distributed/test_engine_resume.py::test_another_stage_goes_on_in_bf16",
        "distributed/test_engine_resume.py::test_optimizer_groups_are_the_same_field_by_field",
    ],
    "a rank dies while saving": [
        "distributed/test_checkpoint_faults.py::test_sigkill_of_any_rank_at_200_random_moments_of_saving",
    ],
    "a flipped byte in a shard": [
        "unit/checkpoint/test_checkpoint_reader.py::test_every_single_flipped_bit_of_a_tensor_file_is_found",
        "distributed/test_pretrain_run.py::test_damaged_checkpoints_are_passed_over_and_never_a_silent_restart",
    ],
    "no checkpoint is found, and training starts from scratch": [
        "distributed/test_pretrain_run.py::test_vanished_checkpoints_are_not_a_reason_to_start_afresh",
    ],
    "data position is not saved": [
        "distributed/test_pretrain_run.py::test_killed_and_resumed_is_digit_for_digit_the_unbroken_run",
    ],
    "pickle is loaded": [
        "unit/checkpoint/test_hostile_files.py::test_a_pickle_in_a_checkpoint_is_never_executed",
    ],
    "NaN on one rank": [
        "distributed/test_engine_skips.py::test_every_rank_skips_and_leaves_everything_as_it_was",
    ],
    "gradients at stage 0 add up in bf16": [
        "distributed/test_engine_parity.py::test_stage_0_accumulates_bf16_gradients_in_fp32",
    ],
    "bucket sizes": [
        "distributed/test_engine_parity.py::test_fp32_equals_plain_torch",
    ],
    "timeout of process groups": [
        "distributed/test_engine_create.py::test_start_without_a_launcher",
        "distributed/test_engine_create.py::test_every_group_of_a_pipeline_has_our_timeout",
    ],
    "a signal to the launcher leaves orphans": [
        "launch/test_signals.py::test_a_signal_anywhere_is_an_agreed_save_and_leaves_no_orphan",
    ],
    "a worker is killed": [
        "distributed/test_watchdog.py::test_a_killed_rank_is_named_and_all_end",
    ],
    "a worker is stopped": [
        "distributed/test_watchdog.py::test_a_stopped_rank_0_is_named_and_all_end",
        "distributed/test_roll_call.py::test_a_rank_stopped_at_the_start_is_named_and_nothing_is_left",
        "distributed/test_pretrain_stops.py::test_a_stopped_rank_is_named_and_nothing_is_left",
    ],
    "parameters partitioned at construction": [
        "distributed/test_zero_at_scale.py::test_no_rank_ever_holds_the_whole_model",
    ],
    "tied copies of a pipeline": [
        "distributed/test_pipeline_parity.py::test_tied_copies_stay_equal_bit_for_bit",
    ],
    "a missing hostfile starts this machine alone": [
        "unit/test_cli_check.py::test_fewer_processes_than_meant_do_not_train_alone",
    ],
    "PDSH exports unquoted, and the first host alone is tried": [
        "unit/supervise/test_exported_words.py::test_what_passes_arrives_as_it_was",
        "unit/supervise/test_exported_words.py::test_the_files_of_variables_are_read",
        "unit/supervise/test_preflight.py::test_all_that_are_away_are_named_in_one_line_and_nothing_is_started",
    ],
    "Slurm without DeepSpeed's launcher": [
        "unit/distributed/test_environment.py::test_slurm_step",
        "unit/distributed/test_environment.py::test_first_host",
    ],
    "two kinds of engine in one process": [
        "unit/testing/test_run_distributed.py::test_each_rank_is_a_process_of_its_own_and_answers_in_order",
    ],
}


def run(**training: Any) -> PretrainConfig:
    settings = {"max_steps": 10, "global_batch_size": 64, "micro_batch_size": 4, **training}
    return PretrainConfig.model_validate(
        {"run_dir": "r", "data": {"path": "d"}, "training": settings}
    )


def resolve(raw: dict[str, Any], **training: Any) -> dict[str, Any]:
    return resolve_deepspeed_config(raw, run(**training), 4, source="ds.json")


def refusal(raw: dict[str, Any], **training: Any) -> str:
    with pytest.raises(UserError) as caught:
        resolve(raw, **training)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("stage", [2, 3])
def test_pipeline_with_partitioned_gradients(stage: int) -> None:
    said = refusal({"zero_optimization": {"stage": stage}}, pipeline_stages=2)
    assert f"stage` is {stage}" in said and "whole gradients and parameters" in said


def test_pipeline_that_clips_by_the_norm_of_one_stage() -> None:
    for clipping in (0.0, 1.0):  # the norm that is reported is wrong without clipping too
        said = refusal(
            {"zero_optimization": {"stage": 0}}, pipeline_stages=2, gradient_clipping=clipping
        )
        assert "the gradient norm of one pipeline stage" in said and "stage 1" in said


def test_universal_checkpoints_and_other_writers_are_not_asked_for() -> None:
    for section in ({"load_universal": True}, {"writer": {"type": "python"}}):
        assert "megaxlm writes its own" in refusal({"checkpoint": section})
    assert "megaxlm" in refusal({"datastates": {}})


def test_overflow_is_always_looked_for() -> None:
    assert "use true" in refusal({"bf16": {"check_grad_overflow": False}})
    for stage in range(4):
        assert resolve({"zero_optimization": {"stage": stage}})["bf16"]["check_grad_overflow"]


@pytest.mark.parametrize("clipping", [0.0, 0.25, 5.0])
def test_clipping_is_always_explicit(clipping: float) -> None:
    assert resolve({}, gradient_clipping=clipping)["gradient_clipping"] == clipping


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_bf16_gradients_add_up_in_fp32(stage: int) -> None:
    config = resolve({"zero_optimization": {"stage": stage}}, precision="bf16")
    assert config["data_types"]["grad_accum_dtype"] == "fp32"


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_buckets_are_pinned(stage: int) -> None:
    for raw in ({}, builtin_deepspeed_config(stage)):
        zero = resolve({**raw, "zero_optimization": {"stage": stage}})["zero_optimization"]
        assert zero["reduce_bucket_size"] == 50_000_000
        # A size that DeepSpeed chose itself would be another one.
        assert DeepSpeedZeroConfig(stage=stage).reduce_bucket_size != zero["reduce_bucket_size"]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("layers", [1, 2, 5])
def test_every_stage_of_a_pipeline_has_parameters(tied: bool, layers: int) -> None:
    """Several stages without any hang at stage 1."""
    model = tiny_model_config(num_hidden_layers=layers)
    model = model.model_copy(update={"tie_word_embeddings": tied})
    for stages in range(2, layers + 1):
        spans = balance_stages(model, stages, num_tokens=32, num_targets=5, seq_len=16)
        assert [span.start for span in spans] == [0, *(span.stop for span in spans[:-1])]
        with torch.device("meta"):
            for span in spans:
                assert sum(p.numel() for p in PipelineStage(model, span).parameters()) > 0
    with pytest.raises(UserError, match=f"use .* at most {layers}|1 to {layers}"):
        balance_stages(model, layers + 1, num_tokens=32, num_targets=5, seq_len=16)


def test_everything_that_was_removed_is_refused_with_what_to_do() -> None:
    gone = [
        *deepspeed_config._REMOVED_TOP_LEVEL_CONFIG_KEYS,
        *(f"zero_optimization.{key}" for key in deepspeed_config._REMOVED_ZERO_CONFIG_KEYS),
    ]
    assert len(gone) > 8
    assert [key for key in gone if key not in REFUSED] == []
    for path in gone:
        section, _, key = path.rpartition(".")
        said = refusal({section: {key: {}}} if section else {key: {}})
        assert f"`{path}`" in said and any(word in said for word in ("delete", "use "))


def test_every_key_of_zero_is_known_or_refused() -> None:
    fields = DeepSpeedZeroConfig.model_fields
    known = set(fields) | {field.alias for field in fields.values() if field.alias}
    assert known - ZERO_KEYS == set()
    refused = {key.partition(".")[2] for key in REFUSED if key.startswith("zero_optimization.")}
    # What we know and DeepSpeed does not would be ignored in silence.
    assert ZERO_KEYS - known - refused == set()


def test_what_the_launcher_needs_before_any_code_of_ours_runs_is_told() -> None:
    assert "`--bind_cores_to_rank` needs `numactl`" in (ROOT.parent / "README.md").read_text()


@pytest.mark.parametrize("line", ELSEWHERE)
def test_the_other_lines_have_their_tests(line: str) -> None:
    for name in ELSEWHERE[line]:
        path, _, function = name.partition("::")
        tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
        defined = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        assert function in defined, f"{line}: {name} is gone; name what tests it now"
