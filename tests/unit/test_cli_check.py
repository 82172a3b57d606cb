"""`megaxlm pretrain --check`: one process, no GPU; what is wrong is a line with a value that works.

Each case is a run that cannot be, what is said about it, and the change that the line offers: with
it the same command passes.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from megaxlm import cli
from megaxlm.testing.datasets import write_dataset

Check = Callable[..., tuple[int, list[str], str]]
LAUNCHERS = ("WORLD_SIZE", "SLURM_PROCID", "PMI_RANK", "PMIX_RANK", "OMPI_COMM_WORLD_RANK")
CONFIG = """\
run_dir: {folder}/run
data: {{path: {folder}/data, seq_len: 32, packing: documents}}
model: {{hidden_size: 16, num_hidden_layers: 4, num_attention_heads: 2, intermediate_size: 32}}
training:
  max_steps: 10
  global_batch_size: 16
  micro_batch_size: 2
  precision: fp32
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    documents = [list(range(5, 25))] * 40
    write_dataset(
        tmp_path / "data",
        {"en": documents, "fr": documents},
        {("en", "fr"): [([5, 6, 7], [8, 9])] * 40},
        vocab_size=64,
    )
    path = tmp_path / "run.yaml"
    path.write_text(CONFIG.format(folder=tmp_path))
    return path


@pytest.fixture
def check(
    config: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Check:
    """Runs the command in this process; returns exit code, error lines and what was printed."""
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    for name in LAUNCHERS:
        monkeypatch.delenv(name, raising=False)

    def call(*settings: str, processes: int | None = None) -> tuple[int, list[str], str]:
        arguments = ["pretrain", str(config), "--check"]
        arguments += ["--processes", str(processes)] if processes else []
        arguments += ["--set", *settings] if settings else []
        code = cli.main(arguments)
        out, err = capfd.readouterr()
        assert "Traceback" not in err
        return code, [line for line in err.splitlines() if line.strip()], out

    return call


def json_file(folder: Path, content: dict[str, Any]) -> str:
    path = folder / f"{abs(hash(json.dumps(content)))}.json"
    path.write_text(json.dumps(content))
    return f"training.deepspeed_config={path}"


# Settings, DeepSpeed JSON, processes; what is said; settings, JSON and processes that mend it.
Part = tuple[list[str], dict[str, Any] | None, int | None]
CASES: dict[str, tuple[Part, list[str], Part]] = {
    "pipeline with stage 2": (
        (["training.pipeline_stages=2", "training.zero_stage=2"], None, None),
        ["training.zero_stage is 2", "training.pipeline_stages is 2", "use training.zero_stage 1"],
        (["training.pipeline_stages=2", "training.zero_stage=1"], None, None),
    ),
    "pipeline with stage 3": (
        (["training.pipeline_stages=2"], {"zero_optimization": {"stage": 3}}, None),
        ["`zero_optimization.stage` is 3", "use zero_optimization.stage 1"],
        (["training.pipeline_stages=2"], {"zero_optimization": {"stage": 1}}, None),
    ),
    "pipeline with stage 0": (
        (["training.pipeline_stages=2", "training.zero_stage=0"], None, None),
        ["training.zero_stage is 0", "norm of one pipeline stage", "training.pipeline_stages 1"],
        (["training.pipeline_stages=1", "training.zero_stage=0"], None, None),
    ),
    "more stages than layers": (
        (["training.pipeline_stages=5"], None, None),
        ["training.pipeline_stages 5 exceeds model.num_hidden_layers 4", "use at most 4"],
        (["training.pipeline_stages=4"], None, None),
    ),
    "stages that do not divide the processes": (
        (["training.pipeline_stages=3"], None, 8),
        ["training.pipeline_stages 3 does not divide 8 processes", "pipeline_stages 1, 2 or 4"],
        (["training.pipeline_stages=4"], None, 8),
    ),
    "a batch that does not divide": (
        ([], None, 3),
        ["training.global_batch_size 16", "2 x 3 processes = 6", "global_batch_size 12 or 18"],
        (["training.global_batch_size=18"], None, 3),
    ),
    "a first batch that does not divide": (
        (["training.batch_size_warmup=[{until_tokens: 99, global_batch_size: 6}]"], None, 2),
        ["training.batch_size_warmup.0.global_batch_size 6", "2 x 2", "use for it 4 or 8"],
        (["training.batch_size_warmup=[{until_tokens: 99, global_batch_size: 8}]"], None, 2),
    ),
    "a first batch that is larger": (
        (["training.batch_size_warmup=[{until_tokens: 99, global_batch_size: 32}]"], None, None),
        ["batch_size_warmup", "smaller than training.global_batch_size 16"],
        (["training.batch_size_warmup=[{until_tokens: 99, global_batch_size: 8}]"], None, None),
    ),
    "checkpointing more layers than a stage has": (
        (["training.pipeline_stages=4", "model.activation_checkpointing=4"], None, None),
        ["model.activation_checkpointing 4", "no pipeline stage has more than 2", "at most 2"],
        (["training.pipeline_stages=4", "model.activation_checkpointing=2"], None, None),
    ),
    "checkpointing more layers than there are": (
        (["model.activation_checkpointing=5"], None, None),
        ["model.activation_checkpointing 5: the model has 4 layers", "at most 4, or true"],
        (["model.activation_checkpointing=true"], None, None),
    ),
    "hpZ that does not divide": (
        ([], {"zero_optimization": {"stage": 3, "zero_hpz_partition_size": 3}}, 8),
        ["`zero_optimization.zero_hpz_partition_size` 3", "8 processes; use 1, 2 or 4"],
        ([], {"zero_optimization": {"stage": 3, "zero_hpz_partition_size": 4}}, 8),
    ),
    "offload to a disk": (
        ([], {"zero_optimization": {"stage": 3, "offload_param": {"device": "nvme"}}}, None),
        ["`zero_optimization.offload_param.device` is nvme", "use cpu"],
        ([], {"zero_optimization": {"stage": 3, "offload_param": {"device": "cpu"}}}, None),
    ),
    "quantized weights without a GPU": (
        ([], {"zero_optimization": {"stage": 3, "zero_quantized_weights": True}}, None),
        ["`zero_optimization.zero_quantized_weights` needs a GPU", "use false"],
        ([], {"zero_optimization": {"stage": 3, "zero_quantized_weights": False}}, None),
    ),
    "what only DeepSpeed's own classes know": (
        ([], {"zero_optimization": {"stage": 3, "stage3_max_live_parameters": -1}}, None),
        ["DeepSpeed refuses", "max_live_parameters"],
        ([], {"zero_optimization": {"stage": 3, "stage3_max_live_parameters": 1}}, None),
    ),
    "decay_steps without the schedule that has them": (
        (["schedule.decay_steps=4"], None, None),
        ["run.yaml: schedule.decay_steps 4 does nothing with schedule.name linear", "wsd"],
        (["schedule.decay_steps=4", "schedule.name=wsd"], None, None),
    ),
    "another optimizer's momentum": (
        (["optimizer.muon_momentum=0.9"], None, None),
        ["optimizer.muon_momentum 0.9 does nothing with optimizer.name adamw", "delete it"],
        (["optimizer.muon_momentum=0.9", "optimizer.name=muon"], None, None),
    ),
    "a bucket where nothing is reduced": (
        ([], {"zero_optimization": {"stage": 0, "reduce_bucket_size": 5000}}, None),
        ["`zero_optimization.reduce_bucket_size` 5000 does nothing at stage 0", "stage 1, 2 or 3"],
        ([], {"zero_optimization": {"stage": 3, "reduce_bucket_size": 5000}}, None),
    ),
    "a key of another stage in a file for several": (
        (["training.zero_stage=1"], {"zero_optimization": {"stage3_max_live_parameters": 9}}, None),
        ["`zero_optimization.stage3_max_live_parameters` 9", "use training.zero_stage 3"],
        (["training.zero_stage=3"], {"zero_optimization": {"stage3_max_live_parameters": 9}}, None),
    ),
    "apex that is not there": (
        (["optimizer.name=apex_adam"], None, None),
        ["optimizer.name apex_adam", "optimizer.name: adamw"],
        (["optimizer.name=adamw"], None, None),
    ),
    "a schedule that does not fit": (
        (["schedule.warmup_steps=11"], None, None),
        ["schedule.warmup_steps 11 exceeds training.max_steps 10"],
        (["schedule.warmup_steps=10"], None, None),
    ),
    "a language without data": (
        (["data.languages=[en, de]"], None, None),
        ["data.languages: de has no training data", "there is: en, fr"],
        (["data.languages=[en, fr]"], None, None),
    ),
    "an objective without data": (
        (["objectives=[{name: tlm}]", "data.languages=[fr]"], None, None),
        ["data.languages: fr has no training data for tlm", "there is: en, fr"],
        (["objectives=[{name: tlm}]", "data.languages=[en, fr]"], None, None),
    ),
    "nothing to predict": (
        (["masking.mlm_probability=0.01"], None, None),
        ["masking.mlm_probability 0.01 of data.seq_len 32", "raise one of them"],
        (["masking.mlm_probability=0.02"], None, None),
    ),
    "positions that end before the row": (
        (["model.max_position_embeddings=33"], None, None),
        ["model.max_position_embeddings=33 is too small for data.seq_len=32", "34"],
        (["model.max_position_embeddings=34"], None, None),
    ),
    "a vocabulary smaller than the tokenizer's": (
        (["model.vocab_size=63"], None, None),
        ["model.vocab_size=63 is smaller than the 64"],
        (["model.vocab_size=64"], None, None),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_refused_in_one_line_and_mended_by_it(name: str, check: Check, tmp_path: Path) -> None:
    (settings, content, processes), said, (mended, mended_content, mended_processes) = CASES[name]
    given = [json_file(tmp_path, content)] if content else []
    code, lines, out = check(*settings, *given, processes=processes)
    assert code == 2 and len(lines) == 1 and out == "", lines
    for part in said:
        assert part in lines[0], lines[0]
    given = [json_file(tmp_path, mended_content)] if mended_content else []
    code, lines, out = check(*mended, *given, processes=mended_processes)
    assert (code, lines) == (0, []) and out.endswith("\nok\n")


def test_the_summary_is_one_screen_and_nothing_is_written(check: Check, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    code, lines, out = check(
        "training.pipeline_stages=2",
        "training.batch_size_warmup=[{until_tokens: 700, global_batch_size: 8}]",
        processes=4,
    )
    assert (code, lines) == (0, [])
    assert len(out.splitlines()) <= 24 and max(map(len, out.splitlines())) < 160
    for part in (
        "4 processes = 2 stages x 2 replicas, ZeRO stage 1, fp32; pipeline idle 20% of a step",
        "16 rows x 32 = 512 tokens a step: 2 replicas x 4 accumulated x 2 rows",
        "8 rows until 700 tokens",
        "10 steps, 4,352 tokens",  # three steps of 256 tokens, seven of 512
        "2, 4 or 8 would work",
        "embeddings",
        "head with a copy of the embedding",
        "a new run in",
    ):
        assert part in out, out
    assert sorted(tmp_path.rglob("*")) == before


def test_processes_are_whole(config: Path, check: Check, capfd: pytest.CaptureFixture[str]) -> None:
    for given in ("2.5", "0", "1e-3"):
        with pytest.raises(SystemExit) as ended:
            cli.main(["pretrain", str(config), "--check", "--processes", given])
        assert ended.value.code == 2
        assert f"--processes: {given} is not a positive whole number" in capfd.readouterr().err
    assert cli.main(["pretrain", str(config), "--check", "--processes", "2e0"]) == 0


def test_processes_are_the_pipelines_where_no_launcher_is(check: Check) -> None:
    assert "3 processes = 3 stages x 1 replica," in check("training.pipeline_stages=3")[2]


def test_processes_are_the_launchers_where_one_is(
    check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "8")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    assert "8 processes = 2 stages x 4 replicas," in check("training.pipeline_stages=2")[2]


def test_fewer_processes_than_meant_do_not_train_alone(config: Path, tmp_path: Path) -> None:
    """As after a missing hostfile, when DeepSpeed's launcher starts this machine alone."""
    environment = {key: value for key, value in os.environ.items() if key not in LAUNCHERS}
    environment |= {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(
        [sys.executable, "-m", "megaxlm", "pretrain", str(config), "--processes", "4"],
        env=environment | {"RANK": "0", "WORLD_SIZE": "1", "DS_ACCELERATOR": "cpu"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 2, done.stderr
    assert "--processes 4, but 1 process was started" in done.stderr
    assert "missing hostfile" in done.stderr and "--processes 1" in done.stderr
    assert not (tmp_path / "run").exists()
