"""Checkpoints under faults that happen to real processes: kills, full and lost disks, bad files."""

import errno
import os
import random
import shutil
import subprocess
import threading
import time
from pathlib import Path

import pytest
import torch

from megaxlm.checkpoint import writer as writer_module
from megaxlm.checkpoint.catalog import find_latest, list_checkpoints
from megaxlm.checkpoint.fragments import Fragment
from megaxlm.checkpoint.manifest import MARKER_NAME, check_complete
from megaxlm.checkpoint.reader import CheckpointReader
from megaxlm.checkpoint.retention import select_resume
from megaxlm.checkpoint.saver import CheckpointSaver
from megaxlm.checkpoint.space import check_space_before_training
from megaxlm.checkpoint.storage import StorageError
from megaxlm.errors import EXIT_FOUND_WRONG, CorruptDataError, UserError
from megaxlm.testing.forked import ForkedRanks, run_forked

pytestmark = pytest.mark.distributed

NUMEL = 6_000
KILLS = 200


def owned(rank, step, numel=NUMEL):
    """Half of every tensor; the values name the step, and each half differs from the other."""
    low, high = (0, numel // 3) if rank == 0 else (numel // 3, numel)
    return [
        Fragment(name, (numel,), low, torch.full((high - low,), float(step) + rank / 4))
        for name in ("model/w", "exp_avg/w")
    ]


def saver_of(place, run_dir, **settings):
    settings = {"retry_seconds": 60.0, "keep_last": 2, "say": lambda line: None} | settings
    return CheckpointSaver(
        run_dir, place.rank, place.world_size, place.barrier, place.all_ok, **settings
    )


def save_step(saver, place, step):
    state = {"rank": place.rank, "step": step}
    saver.save(step, owned(place.rank, step), state, {"position": step})


def begin(run_dir, steps=(1,)):
    """Checkpoints that two processes wrote."""

    def work(place):
        saver = saver_of(place, run_dir)
        for step in steps:
            save_step(saver, place, step)
        saver.close()
        return saver.saved_step

    assert run_forked(work, 2) == [steps[-1]] * 2
    return [run_dir / "checkpoints" / f"step-{step:08d}" for step in steps]


def check_whole(path):
    with CheckpointReader(path) as reader:  # hashes every file
        for name in ("model/w", "exp_avg/w"):
            expected = torch.cat([owned(rank, reader.step)[0].tensor for rank in (0, 1)])
            assert torch.equal(reader.full(name), expected)
        assert reader.shared["position"] == reader.step
        assert [reader.rank_state(rank)["step"] for rank in (0, 1)] == [reader.step] * 2
        return reader.step


def check_after_kill(run_dir, at_least):
    """Whatever bears a marker is whole; the newest that counts is no older than before."""
    for path in (run_dir / "checkpoints").iterdir():
        if (path / MARKER_NAME).exists():  # also while it is made, replaced or removed
            check_complete(path)
            check_whole(path)
    for folder in list_checkpoints(run_dir):
        assert folder.complete, folder.problem
    chosen = select_resume(run_dir, retry_seconds=0)
    assert chosen.notice is None and chosen.path == find_latest(run_dir)
    newest = check_whole(chosen.path)
    assert newest >= at_least
    return newest


def test_sigkill_of_any_rank_at_200_random_moments_of_saving(tmp_path):
    """Half of them while a thread saves; half of them saving a step that is there already."""
    choose = random.Random(5)
    run_dir = tmp_path / "run"
    begin(run_dir, (1, 2))
    newest, seen, ended, one_save = 2, set(), 0, 0.02
    for kill in range(KILLS):
        asynchronous, again = bool(kill & 1), bool(kill & 2)

        def work(place, first=newest + (not again), asynchronous=asynchronous):
            saver = saver_of(place, run_dir, asynchronous=asynchronous)
            for step in range(first, first + 3):
                save_step(saver, place, step)
            saver.close()

        ranks = ForkedRanks(work, 2)
        time.sleep(choose.uniform(0, 4) * one_save)
        if ranks.ended():
            ranks.results()
            ended += 1
            one_save *= 0.8  # too late: what a save takes here is learnt as the machine goes
        else:
            ranks.kill(choose.randrange(2))
            time.sleep(choose.choice([0, 0.002, 0.01]))  # what the other still gets done
            ranks.end()
        seen.update(path.suffix for path in (run_dir / "checkpoints").iterdir())
        before, newest = newest, check_after_kill(run_dir, newest)
        if newest == before:
            one_save *= 1.1
    assert newest > 12 and ended < KILLS // 3
    assert seen >= {"", ".staging"}


DAMAGE = {
    "a flipped bit": lambda new, old: flip(new / "rank-00001.safetensors"),
    "a flipped bit of rank 0": lambda new, old: flip(new / "rank-00000.safetensors"),
    "a truncated file": lambda new, old: os.truncate(new / "rank-00001.safetensors", 4_000),
    "a missing file": lambda new, old: (new / "rank-00001.safetensors").unlink(),
    "missing state": lambda new, old: (new / "rank-00000.json").unlink(),
    "two ranks' files swapped": lambda new, old: swap(new, "safetensors"),
    "two ranks' states swapped": lambda new, old: swap(new, "json"),
    "a file of another checkpoint": lambda new, old: shutil.copy(
        old / "rank-00001.safetensors", new / "rank-00001.safetensors"
    ),
    "another checkpoint's shared state": lambda new, old: shutil.copy(
        old / "shared.json", new / "shared.json"
    ),
    "another checkpoint's manifest and marker": lambda new, old: [
        shutil.copy(old / name, new / name) for name in ("manifest.json", "COMPLETE")
    ],
    "no marker": lambda new, old: (new / "COMPLETE").unlink(),
    "an empty marker": lambda new, old: os.truncate(new / "COMPLETE", 0),
}


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 8
    path.write_bytes(content)


def swap(folder, suffix):
    first, second = folder / f"rank-00000.{suffix}", folder / f"rank-00001.{suffix}"
    os.rename(first, folder / "x")
    os.rename(second, first)
    os.rename(folder / "x", second)


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_refused_on_all_ranks_and_the_one_before_is_taken(tmp_path, kind):
    good, bad = begin(tmp_path, (1, 2))
    DAMAGE[kind](bad, good)

    def work(place):
        chosen = select_resume(tmp_path, place.rank, 2, place.all_ok, retry_seconds=0)
        with CheckpointReader(chosen.path, verify=False) as reader:
            own = owned(place.rank, 1)[0]
            own_part = reader.read("model/w", own.start, own.numel)
            return chosen.path, chosen.notice, own_part.unique().tolist()

    for rank, (path, notice, values) in enumerate(run_forked(work, 2)):
        assert path == good and values == [1 + rank / 4]
        assert f"{good} is the newest whole checkpoint; passed over: {bad}" in notice
        assert "\n" not in notice
    flip(good / "shared.json")

    def resume(place):
        return select_resume(tmp_path, place.rank, 2, place.all_ok, retry_seconds=0)

    errors = run_forked(resume, 2)  # not a restart from nothing
    assert all(isinstance(error, CorruptDataError) for error in errors), errors
    assert "none of 2 checkpoints is whole" in str(errors[0])


def can_mount(folder):
    """Whether this process may mount, which takes root."""
    folder.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True).returncode:
        return False
    subprocess.run(["umount", str(folder)], check=True)
    return True


class LostFileSystem:
    """Takes the file system of a run away from all processes, and gives it back."""

    def __init__(self, mount: Path, how: str) -> None:
        self.mount, self.how = mount, how
        self.written_meanwhile: list[str] = []

    def take(self):
        if self.how == "renamed":
            os.rename(self.mount, self.mount.with_name("hidden"))
        else:  # the mount point is there and empty, as where a mount was lost
            subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(self.mount)], check=True)

    def give_back(self):
        self.written_meanwhile = os.listdir(self.mount) if self.mount.exists() else []
        if self.how == "renamed":
            os.rename(self.mount.with_name("hidden"), self.mount)
        else:
            subprocess.run(["umount", "-l", str(self.mount)], check=True)


@pytest.mark.parametrize("how", ["renamed", "unmounted"])
@pytest.mark.parametrize("when", ["before a save", "while it writes"])
def test_a_file_system_that_is_lost_for_a_while_costs_no_checkpoint(tmp_path, how, when):
    if how == "unmounted" and not can_mount(tmp_path / "try"):
        pytest.skip("mounting needs root")
    mount = tmp_path / "mount"
    run_dir = mount / "run"
    run_dir.mkdir(parents=True)
    lost = LostFileSystem(mount, how)

    def lose():
        lost.take()
        threading.Timer(1.2, lost.give_back).start()

    def work(place):
        said, trained = [], 0
        saver = saver_of(place, run_dir, say=said.append)
        save_step(saver, place, 1)
        saver.wait()
        place.barrier()
        if place.rank == 0 and when == "before a save":
            lose()
        elif place.rank == 0:
            original = writer_module.write_safetensors

            def write_on_a_lost_disk(*arguments):
                writer_module.write_safetensors = original
                lose()
                return original(*arguments)

            writer_module.write_safetensors = write_on_a_lost_disk
        place.barrier()
        save_step(saver, place, 2)
        while saver.in_flight:
            trained += 1  # the loop goes on
            time.sleep(0.01)
        saver.wait()
        return saver.saved_step, trained, said, lost.written_meanwhile

    results = run_forked(work, 2)
    assert [result[0] for result in results] == [2, 2]
    assert all(trained > 20 for _, trained, _, _ in results)
    (_, _, said, meanwhile), (_, _, also_said, _) = results
    assert "trying again for 60 s" in "".join((*said, *also_said))
    assert said[-1] == "the checkpoint of step 2 could be written now"
    assert meanwhile == []  # nothing went to the disk below the mount point
    assert check_after_kill(run_dir, 2) == 2
    assert check_whole(run_dir / "checkpoints" / "step-00000001") == 1


@pytest.mark.parametrize("seen_before", [True, False])
def test_a_full_disk_is_survived_and_the_end_is_honest(tmp_path, seen_before):
    """By the check of free space, or by ENOSPC in the middle, as another program fills it."""
    disk = tmp_path / "disk"
    if not can_mount(disk):
        pytest.skip("mounting needs root")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)], check=True)
    numel = 60_000  # two fp32 tensors: 480 KB a checkpoint

    def work(place):
        said = []
        saver = saver_of(place, disk / "run", say=said.append, keep_last=1)
        if not seen_before:
            writer_module.require_free_space = lambda folder, needed: None

        def save(step, full):
            place.barrier()
            if place.rank == 0 and full:
                with open(disk / "other", "wb") as file:
                    file.write(bytes(shutil.disk_usage(disk).free - 100_000))
            elif place.rank == 0:
                (disk / "other").unlink(missing_ok=True)
            place.barrier()
            saver.save(step, owned(place.rank, step, numel), {}, {})
            saver.wait()
            return saver.saved_step

        steps = [save(1, False), save(2, True), save(3, True), save(4, False), save(5, True)]
        failure = saver.last_failure
        try:
            saver.save_now(6, owned(place.rank, 6, numel), {}, {})
        except UserError as error:
            return steps, failure, said, error
        return steps, failure, said, None

    try:
        results = run_forked(work, 2)
        chosen = select_resume(disk / "run", retry_seconds=0)
        assert CheckpointReader(chosen.path).step == 4 and chosen.notice is None
        assert (disk / "run/checkpoints").is_dir()
        assert sorted(os.listdir(disk / "run/checkpoints"))[0] == "saved.json"
        with pytest.raises(StorageError, match="a checkpoint needs .* MiB, only .* MiB are free"):
            check_space_before_training(disk / "run", owned(0, 0, 10**6))
        (disk / "other").unlink()
        check_space_before_training(disk / "new/run", owned(0, 0, numel))
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)
    for steps, failure, _, error in results:
        assert steps == [1, 1, 1, 4, 4]
        assert isinstance(error, UserError) and error.exit_code == EXIT_FOUND_WRONG
        assert "\n" not in str(error)
        expected = "MiB are free; make room" if seen_before else os.strerror(errno.ENOSPC)
        assert expected in failure and expected in str(error)
    said = results[0][2]
    assert [line.split(":")[0] for line in said] == [
        f"no checkpoint of step {step}, training goes on" for step in (2, 3, 5)
    ]
    assert results[1][2] == []
