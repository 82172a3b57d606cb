"""What saving does to training while the file system is away."""

import os
import threading
import time

import torch

from megaxlm.checkpoint import storage
from megaxlm.checkpoint.fragments import Fragment
from megaxlm.checkpoint.reader import CheckpointReader
from megaxlm.checkpoint.saver import CheckpointSaver


def halves(step, rank):
    """The two ranges of one tensor; its values name the step."""
    flat = torch.arange(24.0) + 100 * step
    low, high = ((0, 10), (10, 24))[rank]
    return [Fragment("model/w", (4, 6), low, flat[low:high])]


def values(run_dir, step):
    return CheckpointReader(run_dir / "checkpoints" / f"step-{step:08d}").read("model/w")


def test_training_goes_on_past_a_file_system_that_is_away(make_saver, tmp_path, monkeypatch):
    """The next checkpoint takes the place of the one that waits, and so does the last."""
    monkeypatch.setattr(storage, "FIRST_PAUSE_SECONDS", 300.0)  # it is woken, or this takes ages
    monkeypatch.setattr(storage, "LONGEST_PAUSE_SECONDS", 300.0)
    folder, hidden = tmp_path / "checkpoints", tmp_path / "hidden"
    together = threading.Barrier(2, timeout=60)  # that of the saver is in use while it waits

    def until_it_waits(saver):
        deadline = time.monotonic() + 60
        while not saver._retrying:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        together.wait()

    def work(rank, saver):
        saver.save_now(1, halves(1, rank), {}, {})
        together.wait()
        if rank == 0:
            os.rename(folder, hidden)
        together.wait()
        failures = []
        for step in (2, 3, 4):
            saver.save(step, halves(step, rank), {}, {})
            until_it_waits(saver)
            failures.append(saver.last_failure)
        if rank == 0:
            os.rename(hidden, folder)
        together.wait()
        saver.save_now(5, halves(5, rank), {}, {})  # wakes step 4, which is written now
        return failures, saver.saved_step, saver.last_failure

    started = time.monotonic()
    results, said = make_saver(work, retry_seconds=600)
    assert time.monotonic() - started < 120
    for failures, saved_step, last_failure in results:
        assert (saved_step, last_failure) == (5, None)
        assert failures[0] is None  # it waits still
        assert "checkpoint of step 2" in failures[1] and "checkpoint of step 3" in failures[2]
    assert sorted(os.listdir(folder)) == ["saved.json"] + [
        f"step-0000000{step}" for step in (1, 4, 5)
    ]
    assert [values(tmp_path, step)[0] for step in (1, 4, 5)] == [100, 400, 500]
    lines = [line for _, line in said]
    for step in (2, 3):
        assert any(f"no checkpoint of step {step}, training goes on" in line for line in lines)
    assert not any("larger checkpoint.every_steps" in line for line in lines)


def test_a_try_that_takes_long_after_one_that_failed_is_the_file_system_s_fault(
    tmp_path, monkeypatch
):
    """Not that of checkpoints that come too often."""
    monkeypatch.setattr(storage, "FIRST_PAUSE_SECONDS", 0.01)
    tries, second, released, said = [], threading.Event(), threading.Event(), []
    saver = CheckpointSaver(tmp_path, retry_seconds=60, say=said.append)

    def write(step, *_):
        tries.append(step)
        if len(tries) == 1:
            raise storage.StorageError("the file system is away", transient=True)
        if len(tries) == 2:
            second.set()
            assert released.wait(60)

    monkeypatch.setattr(saver._writer, "save", write)
    saver.save(2, [], {}, {})
    assert second.wait(60)
    threading.Timer(0.2, released.set).start()
    saver.save(3, [], {}, {})
    saver.close()
    assert tries == [2, 2, 3] and saver.saved_step == 3
    assert said[0].startswith("the file system is away; trying again")
    assert said[1:] == ["the checkpoint of step 2 could be written now"]
