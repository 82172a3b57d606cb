"""A rank or a launcher is killed under `megaxlm supervise`; the run ends as if it was not."""

import json
import signal
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from megaxlm.testing.faults import run_program
from megaxlm.testing.launchers import (
    START_SECONDS,
    launch_command,
    running,
    start_forked,
    write_small_config,
    write_small_dataset,
)

pytestmark = pytest.mark.distributed

STEPS = 40


def final_state(run_dir: Path) -> tuple[dict[str, bytes], list[dict[str, Any]]]:
    """Every tensor file of the last checkpoint, byte for byte, and the losses of every step."""
    folder = run_dir / "checkpoints" / f"step-{STEPS:08d}"
    tensors = {path.name: path.read_bytes() for path in folder.glob("rank-*.safetensors")}
    lines = map(json.loads, (run_dir / "metrics.jsonl").read_text().splitlines())
    kept = ("step", "loss", "grad_norm", "lr", "tokens")
    return tensors, [{key: line[key] for key in kept} for line in lines if "loss" in line]


def test_a_killed_rank_changes_nothing_in_the_end(tmp_path: Path) -> None:
    write_small_dataset(tmp_path / "data")
    run_dirs = {}
    for name in ("undisturbed", "disturbed"):
        config = tmp_path / f"{name}.yaml"
        data = tmp_path / "data"
        run_dirs[name] = write_small_config(config, data, STEPS, every_steps=5, rows=32)
    with start_forked(2, "pretrain", str(tmp_path / "undisturbed.yaml")) as ranks:
        codes, said = ranks.finish(START_SECONDS)
        assert codes == [0, 0], said
    launch = launch_command("deepspeed", "pretrain", str(tmp_path / "disturbed.yaml"))
    supervise = [sys.executable, "-m", "megaxlm", "supervise", "--backoff", "0", "--"]
    with running([*supervise, *launch], run_dirs["disturbed"]) as run:
        run.wait_for(lambda: run.step() >= 12)
        run.ranks()[1].send_signal(signal.SIGKILL)
        assert run.wait() == 0, run.said()
        run.wait_for_none_left(1.0)
    states = {name: final_state(run_dir) for name, run_dir in run_dirs.items()}
    assert all((run_dir / "COMPLETED").exists() for run_dir in run_dirs.values())

    lines = (tmp_path / "disturbed" / "supervise.jsonl").read_text().splitlines()
    ends = [event for event in map(json.loads, lines) if event["event"] == "end"]
    assert [end["completed"] for end in ends] == [False, True]
    assert 10 <= ends[0]["checkpoint_step"] < STEPS, "killed too late to tell"
    assert ends[0]["checkpoint_step"] <= ends[0]["step"] <= ends[0]["checkpoint_step"] + 6

    assert len(states["disturbed"][0]) == 2
    assert states["disturbed"] == states["undisturbed"]
    steps = [line["step"] for line in states["undisturbed"][1]]
    assert steps == list(range(1, STEPS + 1))


@pytest.mark.parametrize("launcher", ["deepspeed", "torchrun"])
def test_a_killed_launcher_is_a_crash_although_its_ranks_save_and_stop(
    tmp_path: Path, launcher: str
) -> None:
    write_small_dataset(tmp_path / "data")
    config = tmp_path / "run.yaml"
    # More rows than a step needs, so that the run is not over before the kill.
    run_dir = write_small_config(config, tmp_path / "data", STEPS, every_steps=STEPS, rows=64)
    launch = launch_command(launcher, "pretrain", str(config))
    supervise = [sys.executable, "-m", "megaxlm", "supervise", "--backoff", "0", "--"]
    with running([*supervise, *launch], run_dir) as run:
        run.wait_for(lambda: run.step() >= 5)
        victim = run.ranks()[0].parent()  # torchrun itself; of deepspeed its `launch.py`
        assert victim is not None
        command = psutil.Process(run.process.pid).children()[0]
        assert (victim == command) == (launcher == "torchrun")
        victim.kill()
        assert run.wait() == 0, run.said()
        run.wait_for_none_left(1.0)
    lines = map(json.loads, (run_dir / "supervise.jsonl").read_text().splitlines())
    ends = [event for event in lines if event["event"] == "end"]
    assert [end["completed"] for end in ends] == [False, True]
    assert 5 <= ends[0]["checkpoint_step"] < STEPS, "the ranks did not save when it was gone"
    assert not ends[0]["stopped"] and (run_dir / "COMPLETED").exists()


def test_a_stop_whose_save_fails_is_not_called_resumable(tmp_path: Path) -> None:
    write_small_dataset(tmp_path / "data")
    config = tmp_path / "run.yaml"
    run_dir = write_small_config(config, tmp_path / "data", 100_000, every_steps=50_000, rows=32)
    launch = launch_command("torchrun", "pretrain", str(config))
    more = ["--set", "checkpoint.retry_seconds=0"]
    supervise = [sys.executable, "-m", "megaxlm", "supervise", "--"]
    with running([*supervise, *launch, *more], run_dir) as run:
        run.wait_for(lambda: run.step() >= 3)
        (run_dir / "checkpoints").rmdir()
        (run_dir / "checkpoints").write_text("where no folder can be")
        run.process.send_signal(signal.SIGTERM)
        assert run.wait() == 1, run.said()
        run.wait_for_none_left(1.0)
        step = run.step()
    assert f"step {step} was not saved; the newest checkpoint is of step 0" in run.said()
    assert not (run_dir / "STOPPED").exists() and "stopped on request" not in run.said()


def test_a_rank_that_is_stopped_and_cannot_save_has_crashed(tmp_path: Path) -> None:
    """SIGTERM to a rank, not to the supervisor, and a disk that is full just then."""
    write_small_dataset(tmp_path / "data")
    config = tmp_path / "run.yaml"
    run_dir = write_small_config(config, tmp_path / "data", 9, every_steps=4)
    # Rank 0 looks for room. Its disk is full whenever this step is to be saved in the first start.
    faults = {"stop_at": 6, "full": {6: 99}, "rank": 0, "until": str(tmp_path / "first")}
    arguments = [json.dumps(faults), "pretrain", str(config)]
    launch = launch_command("torchrun", *arguments, program=__file__)
    supervise = [sys.executable, "-m", "megaxlm", "supervise", "--backoff", "0", "--"]
    with running([*supervise, *launch], run_dir) as run:
        assert run.wait() == 0, run.said()
        run.wait_for_none_left(1.0)
    said = run.said()
    assert "a checkpoint needs" in said and "stopped on request" not in said
    lines = list(map(json.loads, (run_dir / "supervise.jsonl").read_text().splitlines()))
    ends = [event for event in lines if event["event"] == "end"]
    assert [(end["code"], end["stopped"], end["completed"]) for end in ends] == [
        (1, False, False),
        (0, False, True),
    ]
    assert ends[0]["checkpoint_step"] == 4 and "step-00000004 at step 4 of 9" in said
    assert [event["exit_code"] for event in lines if event["event"] == "exit"] == [0]
    assert not (run_dir / "STOPPED").exists() and (run_dir / "COMPLETED").exists()


if __name__ == "__main__":
    run_program()
