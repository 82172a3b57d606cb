"""Saving beside training, over gloo: two groups at once, defects, a peer that dies, free space."""

import errno
import os
import shutil
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from megaxlm.checkpoint import writer as writer_module
from megaxlm.checkpoint.fragments import Fragment
from megaxlm.checkpoint.reader import CheckpointReader
from megaxlm.checkpoint.retention import select_resume
from megaxlm.checkpoint.saver import CheckpointSaver
from megaxlm.checkpoint.space import check_space_before_training, required_bytes
from megaxlm.checkpoint.storage import StorageError
from megaxlm.distributed import reduce
from megaxlm.distributed.groups import new_rank_group
from megaxlm.errors import UserError
from megaxlm.testing.distributed import run_distributed
from megaxlm.testing.forked import ForkedRanks

pytestmark = pytest.mark.distributed

NUMEL = 50_000
WRITE_SECONDS = 0.8


class Training:
    """One tensor cut over the ranks; a step changes it in place, by a sum over all of them."""

    def __init__(self, rank):
        generator = torch.Generator().manual_seed(3)
        low, high = ((0, 20_001), (20_001, NUMEL))[rank]
        self.whole = torch.randn(NUMEL, generator=generator)
        self.low, self.own = low, self.whole[low:high].clone()
        self.moment = torch.zeros_like(self.own).bfloat16()

    def step(self):
        mean = reduce.all_sum(self.own.double().sum().reshape(1)).item() / NUMEL
        self.own.mul_(0.9).add_(mean)
        self.moment.mul_(0.5).add_(self.own)

    def fragments(self):
        yield Fragment("model/w", (NUMEL,), self.low, self.own)
        yield Fragment("exp_avg/w", (NUMEL,), self.low, self.moment)


def slow_write(path, fragments):
    """Writes after most of the time has gone by, so that training is well ahead by then."""
    time.sleep(WRITE_SECONDS)
    return ORIGINAL(path, fragments)


ORIGINAL = writer_module.write_safetensors


def train_and_save(folder: Path):
    """All cases on one rank; returns what the test looks at."""
    dist.init_process_group("gloo")
    rank, world_size = dist.get_rank(), dist.get_world_size()
    group = new_rank_group("checkpoint", timeout_seconds=120)
    found = {"groups": (group.total(rank + 1), group.all_ok(rank == 0), group.all_ok(True))}

    def saver_in(name, **settings):
        said = []
        saver = CheckpointSaver(
            folder / name,
            rank,
            world_size,
            group.barrier,
            group.all_ok,
            say=said.append,
            **{"retry_seconds": 60.0, **settings},
        )
        return saver, said

    # The same three boundaries, saved with and without a thread, in an order of collectives that
    # would mix up if both used one group.
    for name in ("still", "moving"):
        training = Training(rank)
        saver, said = saver_in(name, asynchronous=name == "moving", keep_last=2)
        writer_module.write_safetensors = slow_write if name == "moving" else ORIGINAL
        ahead = []
        for step in range(1, 31):
            training.step()
            if step % 10 == 0:
                saver.save(step, training.fragments(), {"step": step}, {"position": [step]})
                ahead.append(0)
            elif saver.in_flight:
                ahead[-1] += 1
                time.sleep(0.01)
        saver.close()
        found[name] = (saver.saved_step, ahead, training.own.sum().item(), said)
    writer_module.write_safetensors = ORIGINAL

    # Errors of one rank alone: a full disk, which is survived, and a gap, which is a defect.
    saver, said = saver_in("errors")

    def no_room(path, fragments):
        if rank == 1:
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT), str(path))
        return ORIGINAL(path, fragments)

    writer_module.write_safetensors = no_room
    saver.save(1, training.fragments(), {}, {})
    saver.wait()
    failure = saver.last_failure
    writer_module.write_safetensors = ORIGINAL
    saver.save(2, training.fragments() if rank == 0 else [], {}, {})
    try:
        saver.save(3, training.fragments(), {}, {})
    except (ValueError, UserError) as error:
        found["errors"] = (failure, type(error), str(error), said)
    saver.save_now(4, training.fragments(), {}, {})
    found["after errors"] = saver.saved_step

    # Free space, summed over what each rank holds.
    size = sum(fragment.num_bytes for fragment in training.fragments())
    disk = type("Usage", (), {"free": required_bytes(group.total(size), world_size)})
    shutil.disk_usage = lambda path: disk
    check = (folder / "new" / "run", list(training.fragments()), world_size, group.total)
    check_space_before_training(*check)
    disk.free -= 1
    try:
        check_space_before_training(*check)
    except StorageError as error:
        found["space"] = str(error)
    dist.barrier()
    return found


def test_two_ranks_save_while_they_train(tmp_path):
    first, second = run_distributed(train_and_save, 2, tmp_path)
    assert first["groups"] == second["groups"] == (3, False, True)
    for found in (first, second):
        saved, ahead, _, said = found["moving"]
        assert saved == 30 and sum(ahead[:2]) >= 10  # steps done while a write was going on
        assert found["still"][2] == found["moving"][2]  # saving does not change training
        assert all("still being written" in line for line in said)
    assert second["moving"][3] == []
    for step in (20, 30):
        still, moving = (
            tmp_path / name / "checkpoints" / f"step-{step:08d}" for name in ("still", "moving")
        )
        names = sorted(os.listdir(still))
        assert names == sorted(os.listdir(moving)) and len(names) == 7
        for name in names:
            assert (still / name).read_bytes() == (moving / name).read_bytes(), (step, name)
    assert not (tmp_path / "moving" / "checkpoints" / "step-00000010").exists()

    failure, kind, message, said = first["errors"]
    assert failure == second["errors"][0] and os.strerror(errno.EDQUOT) in failure
    assert kind is ValueError and second["errors"][1] is UserError
    assert "elements [20001, 50000) are in no fragment" in message
    assert said[0] == f"no checkpoint of step 1, training goes on: {failure}"
    assert second["errors"][3] == []
    assert first["after errors"] == second["after errors"] == 4
    chosen = select_resume(tmp_path / "errors", retry_seconds=0)
    assert CheckpointReader(chosen.path).step == 4
    assert first["space"] == second["space"] and "a checkpoint needs" in first["space"]


def test_a_peer_that_dies_while_saving_is_heard_of_at_once(tmp_path):
    """Rank 1 is killed while both write; rank 0 hears of it instead of waiting for it."""

    def work(place):
        dist.init_process_group(
            "gloo", f"file://{tmp_path / 'store'}", rank=place.rank, world_size=2
        )
        group = new_rank_group("checkpoint", timeout_seconds=600)
        saver = CheckpointSaver(tmp_path, place.rank, 2, group.barrier, group.all_ok)
        training = Training(place.rank)
        saver.save_now(1, training.fragments(), {}, {})
        writer_module.write_safetensors = slow_write
        saver.save(2, training.fragments(), {}, {})
        (tmp_path / f"writing-{place.rank}").touch()
        try:
            saver.wait()
        except UserError as error:
            (tmp_path / "heard.tmp").write_text(f"{error.known_to} {error}")
            os.rename(tmp_path / "heard.tmp", tmp_path / "heard")

    ranks = ForkedRanks(work, 2)
    try:
        wait_for(tmp_path / "writing-0", tmp_path / "writing-1")
        ranks.kill(1)
        wait_for(tmp_path / "heard")
    finally:
        ranks.end()
    known_to, message = (tmp_path / "heard").read_text().split(" ", 1)
    assert known_to == "rank"
    assert message.startswith("checkpoint: another rank is gone") and "\n" not in message
    assert CheckpointReader(select_resume(tmp_path, retry_seconds=0).path).step == 1


def wait_for(*paths):
    deadline = time.monotonic() + 90  # far less than the group's own limit
    while not all(path.exists() for path in paths):
        assert time.monotonic() < deadline, paths
        time.sleep(0.01)
