"""SIGKILL of a saving process at any moment: what counts as complete is complete."""

import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest
import torch

from megaxlm.checkpoint.catalog import find_latest, list_checkpoints
from megaxlm.checkpoint.fragments import whole
from megaxlm.checkpoint.reader import CheckpointReader
from megaxlm.checkpoint.retention import apply_retention, select_resume
from megaxlm.checkpoint.writer import CheckpointWriter

FILE_EVENTS = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree")


def save(run_dir: Path, step: int) -> None:
    values = torch.full((3_000,), float(step))
    fragments = [whole("model/w", values), whole("exp_avg/w", values)]
    CheckpointWriter(run_dir).save(step, fragments, {"step": step}, {"position": step})
    apply_retention(run_dir, keep_last=2, saved_step=step)


def check(run_dir: Path, at_least: int) -> int:
    """Verifies all that counts as complete; returns the newest step."""
    for folder in list_checkpoints(run_dir):
        assert folder.complete, folder.problem  # nothing half-made bears a final name
        reader = CheckpointReader(folder.path)
        assert reader.step == folder.step
        assert torch.equal(reader.full("model/w"), torch.full((3_000,), float(folder.step)))
        assert reader.shared["position"] == folder.step == reader.rank_state(0)["step"]
    newest = CheckpointReader(find_latest(run_dir)).step
    assert newest >= at_least
    assert select_resume(run_dir).notice is None
    return newest


def in_child(work, kill_after_seconds=None) -> bool:
    """Runs `work` in a forked process; returns whether it ended by itself, and well."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    if kill_after_seconds is not None:
        time.sleep(kill_after_seconds)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return False
    assert os.WEXITSTATUS(status) == 0
    return True


def test_sigkill_at_random_moments(tmp_path):
    choose = random.Random(11)
    save(tmp_path, 1)
    started = time.monotonic()
    save(tmp_path, 2)
    one_save = time.monotonic() - started  # moments are drawn from some three saves' time
    newest = 2
    reached = set()
    for _ in range(40):

        def keep_saving(first=newest + 1):
            for step in range(first, first + 1_000):
                save(tmp_path, step)

        assert not in_child(keep_saving, kill_after_seconds=choose.uniform(0, 3) * one_save)
        reached.add(tuple(sorted(os.listdir(tmp_path / "checkpoints"))))
        newest = check(tmp_path, at_least=newest)
    assert newest > 2  # the kills came while it was at work
    assert any(name.endswith(".staging") for names in reached for name in names)


@pytest.mark.parametrize("same_step", [False, True])
def test_sigkill_at_every_file_operation_of_a_save(tmp_path, same_step):
    """Kills before the k-th open, rename or removal, for every k until the save gets through."""
    survived, killed_at = False, 0
    for step in (1, 2, 3):
        save(tmp_path / "begun", step)
    while not survived:
        run_dir = tmp_path / f"kill-{killed_at}"
        shutil.copytree(tmp_path / "begun", run_dir)
        left = [killed_at]

        def fuse(event, arguments, left=left, run_dir=run_dir):
            if event in FILE_EVENTS and str(run_dir) in str(arguments[0]):
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                left[0] -= 1

        def save_under_fuse(fuse=fuse, run_dir=run_dir):
            sys.addaudithook(fuse)
            save(run_dir, 3 if same_step else 4)

        survived = in_child(save_under_fuse)
        newest = check(run_dir, at_least=3)
        # whatever was left behind, the next save succeeds and clears it
        save(run_dir, newest + 1)
        assert sorted(os.listdir(run_dir / "checkpoints")) == [
            "saved.json",
            f"step-{newest:08d}",
            f"step-{newest + 1:08d}",
        ]
        killed_at += 1
    assert killed_at > 20
    assert newest == (3 if same_step else 4)
