"""What `pretrain --check` sees of the machine, the run folder, its disk and the first weights."""

import copy
import fcntl
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from megaxlm.checkpoint.fragments import whole
from megaxlm.checkpoint.writer import CheckpointWriter
from megaxlm.config.pretrain import PretrainConfig
from megaxlm.data.shards import TOKENIZER_DIR
from megaxlm.errors import EXIT_BAD_USAGE, EXIT_FOUND_WRONG, UserError
from megaxlm.model.encoder import MaskedLanguageModel
from megaxlm.model.hf import to_hf_config
from megaxlm.model.initialization import initialize
from megaxlm.objectives.mixture import open_stream
from megaxlm.testing.datasets import write_dataset
from megaxlm.train.check import check_before_launch, check_run, require_processes
from megaxlm.train.check_summary import summary, total_tokens
from megaxlm.train.prepare import resolve_run

HOLD = """
import fcntl, sys
file = open(sys.argv[1], "a")
fcntl.flock(file, fcntl.LOCK_EX)
print(1, flush=True)
input()
"""


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    for name in ("RANK", "WORLD_SIZE", "SLURM_PROCID", "PMI_RANK", "PMIX_RANK"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    documents = [list(range(5, 25))] * 40
    write_dataset(tmp_path / "data", {"en": documents, "fr": documents}, vocab_size=64)
    return tmp_path


def config_of(folder: Path, **settings: Any) -> PretrainConfig:
    content: dict[str, Any] = {
        "run_dir": folder / "run",
        "data": {"path": folder / "data", "seq_len": 32, "packing": "documents"},
        "model": {
            "hidden_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 32,
        },
        "training": {
            "max_steps": 10,
            "global_batch_size": 16,
            "micro_batch_size": 2,
            "precision": "fp32",
        },
    }
    content = copy.deepcopy(content)
    for section, values in settings.items():
        if isinstance(values, dict):
            content[section] = {**content.get(section, {}), **values}
        else:
            content[section] = values
    return PretrainConfig.model_validate(content)


def refusal(config: PretrainConfig, exit_code: int = EXIT_BAD_USAGE) -> str:
    with pytest.raises(UserError) as caught:
        check_before_launch(config, 1)
    message = str(caught.value)
    assert "\n" not in message
    assert caught.value.exit_code == exit_code, message
    return message


def save_checkpoint(config: PretrainConfig, step: int, run_dir: Path | None = None) -> Path:
    """Writes what a run of this config has after some steps, its moments being its weights."""
    run = resolve_run(config)
    config = run.config
    model = MaskedLanguageModel(config.model)
    initialize(model, config.model, seed=1)
    with open_stream(
        config.data.path,
        config.data,
        config.objectives,
        config.masking,
        seed=config.seed,
        global_batch_size=config.training.global_batch_size,
        micro_batch_size=config.training.micro_batch_size,
    ) as stream:
        state = stream.state
    fragments = [
        whole(prefix + name, value)
        for name, value in model.named_parameters()
        for prefix in ("model/", "exp_avg/", "exp_avg_sq/")
    ]
    shared = {
        "step": step,
        "stream": state,
        "model": config.model.model_dump(mode="json"),
        "config": config.model_dump(mode="json"),
        "tokenizer_sha256": run.index.tokenizer_sha256,
    }
    return CheckpointWriter(run_dir or config.run_dir).save(step, fragments, {}, shared)


def test_parameters_and_bytes_are_those_of_the_model(folder: Path) -> None:
    checked = check_run(config_of(folder), 2)
    model = MaskedLanguageModel(checked.run.config.model)
    numbers = sum(parameter.numel() for parameter in model.parameters())
    assert checked.num_parameters == numbers
    assert checked.checkpoint_bytes == 12 * numbers  # fp32 master and two moments
    averaged = check_run(config_of(folder, optimizer={"ema_decay": 0.99}), 2)
    assert averaged.checkpoint_bytes == 16 * numbers
    assert checked.replicas == 2 and len(checked.stages) == 1


def test_tokens_of_a_growing_batch(folder: Path) -> None:
    phases = [
        {"until_tokens": 100, "global_batch_size": 2},  # 2 steps of 64 tokens
        {"until_tokens": 300, "global_batch_size": 4},  # 2 steps of 128
    ]
    settings = {"batch_size_warmup": phases, "max_steps": 7}
    assert total_tokens(config_of(folder, training=settings)) == 2 * 64 + 2 * 128 + 3 * 512
    settings["max_steps"] = 3
    assert total_tokens(config_of(folder, training=settings)) == 2 * 64 + 128


class FakeUsage(NamedTuple):
    total: int
    used: int
    free: int


def test_a_disk_without_room_for_a_checkpoint(folder: Path, monkeypatch: Any) -> None:
    config = config_of(folder)
    needed = check_run(config, 1).checkpoint_bytes * 1.2
    free = int(needed)  # the room for our own small state is missing
    monkeypatch.setattr(shutil, "disk_usage", lambda _: FakeUsage(2**40, 0, free))
    assert "a checkpoint needs" in refusal(config, EXIT_FOUND_WRONG)
    free = int(needed) + 2**20
    check_before_launch(config, 1)


def test_a_system_folder_is_not_called_a_full_disk(folder: Path) -> None:
    said = refusal(config_of(folder, run_dir="/proc/x"), EXIT_FOUND_WRONG)
    assert said.startswith("/proc: no file system that keeps data") and "another run_dir" in said
    assert "make room" not in said


def test_a_run_folder_that_cannot_be(folder: Path) -> None:
    (folder / "file").write_text("")
    said = refusal(config_of(folder, run_dir=folder / "file" / "run"))
    assert f"{folder / 'file'} is not a folder" in said and "choose another run_dir" in said


@pytest.fixture
def holder(folder: Path) -> Iterator[None]:
    """Another process that holds the run folder's lock."""
    (folder / "run").mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder / "run" / ".lock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "1\n"
    yield
    process.kill()
    process.communicate()


def test_a_run_that_trains_now(folder: Path, holder: None) -> None:
    assert "another process trains in this run_dir" in refusal(config_of(folder))


def test_looking_at_the_lock_does_not_take_it(folder: Path) -> None:
    (folder / "run").mkdir()
    (folder / "run" / ".lock").touch()
    check_before_launch(config_of(folder), 1)
    with open(folder / "run" / ".lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_run_is_resumed_and_what_changed_is_named(folder: Path) -> None:
    config = config_of(folder)
    save_checkpoint(config, 4)
    changed = config_of(folder, optimizer={"lr": 0.1}, training={"max_steps": 12})
    checked, start = check_before_launch(changed, 4)
    assert (start.step, start.completed) == (4, False)
    assert start.changed == ("optimizer.lr: 0.0005 -> 0.1", "training.max_steps: 10 -> 12")
    text = summary(checked, start)
    assert "at step 4 of 12; changed since then: optimizer.lr: 0.0005 -> 0.1" in text


def test_a_finished_run_is_said_to_be(folder: Path, monkeypatch: Any) -> None:
    config = config_of(folder)
    save_checkpoint(config, 10)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: FakeUsage(1, 1, 0))  # needs no room
    checked, start = check_before_launch(config, 1)
    assert start.completed and "is complete at step 10; nothing to do" in summary(checked, start)


def test_another_model_in_the_run_folder(folder: Path) -> None:
    save_checkpoint(config_of(folder), 4)
    said = refusal(config_of(folder, model={"num_hidden_layers": 3}))
    assert "saved with model.num_hidden_layers=2, the config says 3" in said


def test_an_optimizer_with_other_moments(folder: Path) -> None:
    save_checkpoint(config_of(folder), 4)
    said = refusal(config_of(folder, optimizer={"name": "muon"}))
    assert "saved by optimizer.name adamw" in said and "use optimizer.name adamw" in said
    settings = {"name": "lamb", "ema_decay": 0.9}  # the same moments; the average begins anew
    _, start = check_before_launch(config_of(folder, optimizer=settings), 1)
    assert 'optimizer.name: "adamw" -> "lamb"' in start.changed


def test_rows_that_another_seed_would_repeat(folder: Path) -> None:
    save_checkpoint(config_of(folder), 4)
    assert "written with seed 0, this run has 5" in refusal(config_of(folder, seed=5))


def test_another_tokenizer_in_the_run_folder(folder: Path) -> None:
    copied = folder / "run" / TOKENIZER_DIR
    shutil.copytree(folder / "data" / TOKENIZER_DIR, copied)
    check_before_launch(config_of(folder), 1)
    next(copied.iterdir()).write_bytes(b"another")
    assert "begun with another tokenizer" in refusal(config_of(folder))


def test_checkpoints_that_are_gone_or_torn(folder: Path) -> None:
    config = config_of(folder)
    saved = save_checkpoint(config, 4)
    (saved / "COMPLETE").unlink(missing_ok=True)
    for marker in saved.iterdir():
        if marker.suffix not in (".safetensors", ".json"):
            marker.unlink()
    assert "no whole checkpoint" in refusal(config, EXIT_FOUND_WRONG)
    shutil.rmtree(saved)
    assert "the last one saved is gone" in refusal(config, EXIT_FOUND_WRONG)


def test_first_weights_of_another_model_or_tokenizer(folder: Path) -> None:
    given = folder / "given"
    save_checkpoint(config_of(folder), 4, run_dir=given)
    config = config_of(folder, init_from=given)
    check_before_launch(config, 1)
    said = refusal(config_of(folder, init_from=given, model={"intermediate_size": 33}))
    assert "init_from" in said and "33" in said and "32" in said
    write_dataset(folder / "data", {"en": [[5, 6]] * 40}, vocab_size=64, tokenizer=b"another")
    assert "trained with another tokenizer" in refusal(config)
    assert "no such folder" in refusal(config_of(folder, init_from=folder / "nowhere"))


def test_first_weights_of_a_hugging_face_folder(folder: Path) -> None:
    given = folder / "hf"
    given.mkdir()
    model = resolve_run(config_of(folder)).config.model
    (given / "config.json").write_text(json.dumps(to_hf_config(model)))
    assert "no model.safetensors here" in refusal(config_of(folder, init_from=given))
    (given / "model.safetensors").touch()  # its tensors are read by the run, not by the check
    check_before_launch(config_of(folder, init_from=given), 1)
    said = refusal(config_of(folder, init_from=given, model={"hidden_size": 24}))
    assert "init_from" in said and "is 16 there and 24 in the model of this config" in said


def test_a_gpu_without_bf16(folder: Path, monkeypatch: Any) -> None:
    monkeypatch.delenv("DS_ACCELERATOR")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla V100")
    said = refusal(config_of(folder, training={"precision": "bf16"}))
    assert said == ("training.precision bf16: Tesla V100 has no bf16; use training.precision fp32")
    check_before_launch(config_of(folder), 1)


def test_offload_whose_optimizer_cannot_be_compiled(folder: Path, monkeypatch: Any) -> None:
    preset = Path(__file__).resolve().parents[3] / "configs" / "deepspeed" / "zero2-offload.json"
    settings = {"training": {"deepspeed_config": preset}}
    monkeypatch.setenv("PATH", "/nowhere")
    check_before_launch(config_of(folder, **settings), 1)  # torch's own needs no compiler
    said = refusal(config_of(folder, optimizer={"name": "deepspeed_adam"}, **settings))
    assert "ninja cannot be found" in said and "optimizer.name: adamw" in said


def test_processes_are_counted(monkeypatch: Any) -> None:
    require_processes(1)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    require_processes(2)
    with pytest.raises(UserError, match="--processes 16, but 2 processes were started.*hostfile"):
        require_processes(16)
