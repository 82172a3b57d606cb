"""One run a folder: guarded by a lock, tied to its tokenizer, and never begun anew in silence."""

import errno
import fcntl
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from megaxlm.config.pretrain import PretrainConfig
from megaxlm.errors import UserError
from megaxlm.testing.datasets import write_dataset
from megaxlm.train import run_folder
from megaxlm.train.callbacks.metrics import METRICS_NAME
from megaxlm.train.resume import changed_settings, refuse_silent_restart, settings_in_force

HOLD = """
import fcntl, sys
file = open(sys.argv[1], "a")
fcntl.flock(file, fcntl.LOCK_EX)
print(1, flush=True)
input()
"""


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    write_dataset(tmp_path / "data", {"en": [[5, 6, 7]] * 4}, vocab_size=64)
    return tmp_path / "data"


def config_of(run_dir: Path, **settings: Any) -> PretrainConfig:
    training = {"max_steps": 10, "global_batch_size": 8, "micro_batch_size": 4}
    training |= settings.pop("training", {})
    return PretrainConfig.model_validate(
        {"run_dir": run_dir, "data": {"path": "data"}, "training": training, **settings}
    )


def test_a_second_process_is_refused_while_the_first_lives(tmp_path: Path, dataset: Path) -> None:
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(run_dir / ".lock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "1\n"
        with pytest.raises(UserError, match="another process trains in this run_dir"):
            run_folder.open_run_folder(run_dir, dataset)
        assert not (run_dir / "tokenizer").exists()
    finally:
        holder.kill()
        holder.communicate()
    run_folder.open_run_folder(run_dir, dataset).close()
    run_folder.open_run_folder(run_dir, dataset).close()
    assert (run_dir / "tokenizer" / "sentencepiece.bpe.model").exists()


def test_a_file_system_without_locks_is_no_obstacle(
    tmp_path: Path, dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    run_folder.open_run_folder(tmp_path / "run", dataset).close()
    assert (tmp_path / "run" / "tokenizer").is_dir()


def test_another_or_a_missing_tokenizer_is_refused(tmp_path: Path, dataset: Path) -> None:
    run_folder.open_run_folder(tmp_path / "run", dataset).close()
    model = dataset / "tokenizer" / "sentencepiece.bpe.model"
    model.write_bytes(model.read_bytes() + b"x")
    with pytest.raises(UserError, match="another tokenizer"):
        run_folder.open_run_folder(tmp_path / "run", dataset)
    model.unlink()
    with pytest.raises(UserError, match="build the data set again"):
        run_folder.open_run_folder(tmp_path / "run", dataset)


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path, dataset: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file.*cannot write the run folder.*run_dir") as caught:
        run_folder.open_run_folder(tmp_path / "file" / "run", dataset)
    assert "\n" not in str(caught.value)


def test_each_start_is_recorded_and_ends_the_completion(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    run_folder.mark_completed(tmp_path, 10)
    run_folder.record_start(config, world_size=2)
    assert not (tmp_path / run_folder.COMPLETED_NAME).exists()
    run_folder.record_start(config, world_size=4)
    starts = json.loads((tmp_path / "environment.json").read_text())
    assert [start["world_size"] for start in starts] == [2, 4]
    assert (
        starts[0]["packages"]["torch"] and "max_steps: 10" in (tmp_path / "config.yaml").read_text()
    )
    (tmp_path / "environment.json").write_text("{")  # edited by hand: no reason not to train
    run_folder.record_start(config, world_size=1)
    assert len(json.loads((tmp_path / "environment.json").read_text())) == 1


def test_a_run_whose_checkpoints_are_gone_is_not_begun_anew(tmp_path: Path) -> None:
    refuse_silent_restart(tmp_path, 100)
    (tmp_path / METRICS_NAME).write_text('{"step": 0}\n{"step": 90}\n')
    refuse_silent_restart(tmp_path, 100)  # killed before the first checkpoint
    (tmp_path / METRICS_NAME).write_text('{"step": 90}\n{"step": 110}\n')
    with pytest.raises(UserError, match="step 110 in metrics.jsonl.*restore"):
        refuse_silent_restart(tmp_path, 100)
    (tmp_path / METRICS_NAME).unlink()
    run_folder.mark_completed(tmp_path, 10)
    with pytest.raises(UserError, match="COMPLETED"):
        refuse_silent_restart(tmp_path, 100)


def test_changed_settings_are_named_with_both_values(tmp_path: Path) -> None:
    saved = config_of(tmp_path).model_dump(mode="json")
    assert changed_settings(saved, config_of(tmp_path)) == []
    now = config_of(
        tmp_path / "elsewhere",
        data={"path": "other", "sampling_alpha": 0.7},
        objectives=[{"name": "mlm", "weight": 2}],
        logging={"every_steps": 3},
    )
    changed = changed_settings(saved, now)
    assert [line.split(":")[0] for line in changed] == ["data.sampling_alpha", "objectives"]
    assert changed[0] == "data.sampling_alpha: 0.3 -> 0.7"


def test_layouts_are_compared_as_they_count(tmp_path: Path) -> None:
    """Whether the stage stands in the config or in its DeepSpeed file, or is the built-in one."""
    file = tmp_path / "ds.json"
    file.write_text('{"zero_optimization": {"stage": 3}}')
    by_file = {"training": {"deepspeed_config": str(file)}}
    built_in = config_of(tmp_path).model_dump(mode="json")
    assert built_in["training"]["zero_stage"] is None
    assert changed_settings(built_in, config_of(tmp_path, training={"zero_stage": 1})) == []
    assert changed_settings(built_in, config_of(tmp_path, **by_file)) == [
        "training.zero_stage: 1 -> 3"
    ]
    saved = settings_in_force(config_of(tmp_path, **by_file).model_dump(mode="json"))
    file.write_text('{"zero_optimization": {"stage": "auto"}}')  # another by the next start
    assert changed_settings(saved, config_of(tmp_path, **by_file)) == [
        "training.zero_stage: 3 -> 1"
    ]
    assert changed_settings(saved, config_of(tmp_path, training={"zero_stage": 3})) == []
    unresolved = config_of(tmp_path, **by_file).model_dump(mode="json")
    file.unlink()
    assert changed_settings(unresolved, config_of(tmp_path, training={"zero_stage": 2})) == []


def test_a_decay_that_follows_the_length_is_named_when_it_changes(tmp_path: Path) -> None:
    saved = config_of(tmp_path, schedule={"name": "wsd"}).model_dump(mode="json")
    now = {"schedule": {"name": "wsd", "decay_steps": 1}}
    assert changed_settings(saved, config_of(tmp_path, **now)) == []  # a tenth of 10 steps
    now = {"schedule": {"name": "wsd"}, "training": {"max_steps": 40}}
    assert changed_settings(saved, config_of(tmp_path, **now)) == [
        "schedule.decay_steps: 1 -> 4",
        "training.max_steps: 10 -> 40",
    ]


def test_a_stop_leaves_a_marker_which_the_next_start_removes(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    run_folder.mark_stopped(tmp_path, 7, "launcher")
    assert json.loads((tmp_path / "STOPPED").read_text()) == {"step": 7, "cause": "launcher"}
    run_folder.record_start(config, world_size=2)
    assert not (tmp_path / "STOPPED").exists()


def test_a_stop_does_not_depend_on_its_marker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(run_folder, "write_atomically", full)
    run_folder.mark_stopped(tmp_path, 7, "signal")
    assert not (tmp_path / "STOPPED").exists()
