import errno
import multiprocessing
import os
import threading
import time

import pytest
import torch

from megaxlm.checkpoint import snapshot as snapshot_module
from megaxlm.checkpoint import storage
from megaxlm.checkpoint import writer as writer_module
from megaxlm.checkpoint.catalog import list_checkpoints
from megaxlm.checkpoint.fragments import Fragment, whole
from megaxlm.checkpoint.reader import CheckpointReader
from megaxlm.checkpoint.saver import CheckpointSaver
from megaxlm.checkpoint.snapshot import HostSnapshot
from megaxlm.checkpoint.storage import StorageError
from megaxlm.errors import UserError


def halves(step, rank):
    """The two ranges of one tensor, the second of 14 elements; its values name the step."""
    flat = torch.arange(24.0) + 100 * step
    low, high = ((0, 10), (10, 24))[rank]
    return [Fragment("model/w", (4, 6), low, flat[low:high])]


def values(run_dir, step):
    return CheckpointReader(run_dir / "checkpoints" / f"step-{step:08d}").read("model/w")


class Gate:
    """Holds the background thread before its first byte until it is opened."""

    def __init__(self, monkeypatch):
        self.reached, self.open = threading.Event(), threading.Event()
        original = writer_module.write_safetensors

        def gated(*arguments):
            self.reached.set()
            assert self.open.wait(60)
            return original(*arguments)

        monkeypatch.setattr(writer_module, "write_safetensors", gated)


@pytest.fixture
def gate(monkeypatch):
    return Gate(monkeypatch)


def test_what_is_written_is_the_step_boundary_though_training_goes_on(gate, tmp_path):
    """Byte by byte the checkpoint that a save without a thread writes."""
    weight, moment = torch.randn(50, 70), torch.randn(50, 70).bfloat16()
    state, shared = {"cursor": [1, 2], "random": torch.arange(4)}, {"position": {"rows": 8}}
    live = [whole("model/w", weight), whole("exp_avg/w", moment)]
    parts = [
        Fragment("exp_avg_sq/w", (50, 70), start, weight.reshape(-1).clone()[start:end])
        for start, end in ((0, 5), (5, 3500))
    ]
    still = CheckpointSaver(tmp_path / "still", asynchronous=False)
    gate.open.set()
    still.save(7, [*live, *parts], state, shared)
    gate.open.clear()
    gate.reached.clear()
    saver = CheckpointSaver(tmp_path / "moving")
    saver.save(7, (fragment for fragment in [*live, *parts]), state, shared)
    assert saver.in_flight and saver.saved_step is None
    for _ in range(20):  # training, while not a byte of it is written yet
        weight.add_(1)
        moment.mul_(2)
        for part in parts:
            part.tensor.zero_()
        state["cursor"].append(3)
        state["random"].add_(1)
        shared["position"]["rows"] += 8
    assert gate.reached.wait(60)
    gate.open.set()
    saver.wait()
    assert saver.saved_step == 7 and not saver.in_flight
    first, second = (tmp_path / name / "checkpoints/step-00000007" for name in ("still", "moving"))
    assert sorted(os.listdir(first)) == sorted(os.listdir(second))
    for name in os.listdir(first):
        assert (first / name).read_bytes() == (second / name).read_bytes(), name
    saver.close()


def test_host_memory_is_reused_and_grows(tmp_path):
    saver = CheckpointSaver(tmp_path)
    addresses = []
    for step, size in ((1, 1000), (2, 1000), (3, 500), (4, 9000)):
        saver.save(step, [whole("model/w", torch.full((size,), float(step)))], {}, {})
        saver.wait()
        addresses.append(saver._snapshot._block.data_ptr())
        assert values(tmp_path, step).tolist() == [step] * size
    assert len(set(addresses[:3])) == 1
    saver.close()


@pytest.mark.parametrize("asynchronous", [False, True])
def test_retention_and_the_callback_are_done_when_it_is_waited_for(
    make_saver, tmp_path, asynchronous
):
    told = []

    def work(rank, saver):
        for step in range(1, 6):
            saver.save(step, halves(step, rank), {"rank": rank}, {})
        saver.wait()
        return saver.saved_step, [folder.step for folder in list_checkpoints(tmp_path)]

    results, said = make_saver(
        work, asynchronous=asynchronous, keep_last=1, keep_every_steps=2, on_saved=told.append
    )
    assert results == [(5, [2, 4, 5])] * 2
    assert sorted(told) == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert all("still being written" in line for _, line in said) and len(said) <= 1


def test_a_second_save_waits_for_the_first_and_says_so_once(make_saver, gate, tmp_path):
    def work(rank, saver):
        if rank == 0:
            threading.Timer(0.3, gate.open.set).start()
        for step in (1, 2):
            saver.save(step, halves(step, rank), {}, {})
        assert saver.saved_step == 1
        gate.open.clear()
        if rank == 0:
            threading.Timer(0.3, gate.open.set).start()
        saver.save(3, halves(3, rank), {}, {})
        saver.wait()
        return saver.saved_step

    results, said = make_saver(work)
    assert results == [3, 3]
    assert len(said) == 1 and said[0][0] == 0
    assert "step 2: the checkpoint of step 1 is still being written" in said[0][1]
    assert [values(tmp_path, step)[0] for step in (1, 2, 3)] == [100, 200, 300]


def test_the_last_checkpoint_takes_the_one_in_flight_for_its_own(make_saver, gate, tmp_path):
    def work(rank, saver):
        saver.save(4, halves(4, rank), {}, {})
        gate.open.set()
        saver.save_now(4, halves(0, rank), {}, {})
        mine = values(tmp_path, 4)[0].item()
        saver.save_now(5, halves(5, rank), {}, {})
        saver.resumed(4)  # rolled back; step 5 comes again and may differ
        saver.save_now(5, halves(6, rank), {}, {})
        return mine, values(tmp_path, 5)[0].item(), saver.saved_step

    assert make_saver(work)[0] == [(400.0, 600.0, 5)] * 2


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_full_disk_costs_one_checkpoint_and_training_goes_on(
    make_saver, tmp_path, monkeypatch, asynchronous
):
    full = threading.Event()
    original = writer_module.write_safetensors

    def write(path, fragments):
        if full.is_set() and path.name == "rank-00001.safetensors":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return original(path, fragments)

    monkeypatch.setattr(writer_module, "write_safetensors", write)

    def work(rank, saver):
        outcomes = []
        for step, is_full in ((1, False), (2, True), (3, False)):
            saver.wait()
            saver._barrier()
            (full.set if is_full else full.clear)()
            saver._barrier()
            saver.save(step, halves(step, rank), {}, {})
            saver.wait()
            outcomes.append((saver.saved_step, saver.last_failure))
        full.set()
        with pytest.raises(StorageError) as raised:
            saver.save_now(4, halves(4, rank), {}, {})
        return outcomes, str(raised.value)

    started = time.monotonic()
    results, said = make_saver(work, asynchronous=asynchronous, retry_seconds=600)
    assert time.monotonic() - started < 300  # a full disk is not waited for
    assert results[0] == results[1]
    ((first, second, third), last_error) = results[0]
    assert first == (1, None) and third == (3, None)
    assert second[0] == 1 and os.strerror(errno.ENOSPC) in second[1] and "(rank 1)" in second[1]
    assert os.strerror(errno.ENOSPC) in last_error
    assert [rank for rank, _ in said] == [0]
    assert said[0][1].startswith("no checkpoint of step 2, training goes on: ")
    assert sorted(os.listdir(tmp_path / "checkpoints")) == [
        "saved.json",
        "step-00000001",
        "step-00000003",
    ]


@pytest.mark.parametrize("fault", ["gap", "state", "device"])
@pytest.mark.parametrize("surface", ["save", "wait", "save_now"])
def test_a_defect_is_raised_by_the_next_call_on_every_rank(make_saver, tmp_path, fault, surface):
    def broken(rank):
        if fault == "gap" and rank == 1:
            return [], {}
        if fault == "state" and rank == 1:
            return halves(2, rank), {"lock": threading.Lock()}  # can neither be copied nor saved
        if fault == "device" and rank == 1:
            return (_ for _ in [1 / 0]), {}
        return halves(2, rank), {}

    def work(rank, saver):
        saver.save(1, halves(1, rank), {}, {})
        try:
            fragments, state = broken(rank)
        except ZeroDivisionError:
            fragments, state = _raising(), {}
        saver.save(2, fragments, state, {})
        with pytest.raises(Exception) as raised:
            if surface == "wait":
                saver.wait()
            else:
                getattr(saver, surface)(3, halves(3, rank), {}, {})
        saver.save_now(4, halves(4, rank), {}, {})
        return type(raised.value)

    def _raising():
        raise RuntimeError("the device is gone")
        yield

    results, said = make_saver(work)
    expected = {
        "gap": [ValueError, UserError],
        "state": [UserError, TypeError],
        "device": [UserError, RuntimeError],
    }[fault]
    assert results == expected and not [line for _, line in said if "training goes on" in line]
    assert values(tmp_path, 4)[0] == 400
    assert "step-00000003" not in os.listdir(tmp_path / "checkpoints")


def test_a_defect_at_the_end_is_said_not_lost(tmp_path):
    said = []
    saver = CheckpointSaver(tmp_path, say=said.append)
    saver.save(1, halves(1, 0), {}, {})
    saver.close()
    assert len(said) == 1 and "elements [10, 24) are in no fragment" in said[0]


def test_a_folder_that_cannot_be_made_is_an_error_on_every_rank(make_saver, tmp_path):
    (tmp_path / "checkpoints").write_text("a file where the folder should be")
    results, _ = make_saver(lambda rank, saver: None)
    assert all(isinstance(error, StorageError) for error in results)
    assert "cannot be made" in str(results[0]) and results[0].said_here


def _exit_while_writing(run_dir):
    reached = threading.Event()

    def hang(*arguments):
        reached.set()
        time.sleep(3600)

    writer_module.write_safetensors = hang
    CheckpointSaver(run_dir).save(1, halves(1, 0), {}, {})
    assert reached.wait(60)


def test_a_write_that_hangs_does_not_keep_the_process_from_ending(tmp_path):
    process = multiprocessing.get_context("fork").Process(
        target=_exit_while_writing, args=(tmp_path,)
    )
    process.start()
    process.join(60)
    alive = process.is_alive()
    process.kill()
    assert not alive and process.exitcode == 0
    assert os.listdir(tmp_path / "checkpoints") == ["step-00000001.staging"]


def test_a_run_folder_that_vanishes_is_waited_for_and_not_made_anew(
    make_saver, tmp_path, monkeypatch
):
    """As when a mount goes away: the empty mount point stays, and comes back under the run."""
    monkeypatch.setattr(storage, "FIRST_PAUSE_SECONDS", 0.05)
    monkeypatch.setattr(storage, "LONGEST_PAUSE_SECONDS", 0.05)
    hidden = tmp_path / "hidden"

    def work(rank, saver):
        saver.save_now(1, halves(1, rank), {}, {})
        if rank == 0:
            os.rename(tmp_path / "checkpoints", hidden)
            threading.Timer(0.5, os.rename, (hidden, tmp_path / "checkpoints")).start()
        saver._barrier()
        saver.save(2, halves(2, rank), {}, {})
        saver.wait()
        return saver.saved_step

    results, said = make_saver(work, retry_seconds=60)
    assert results == [2, 2]
    assert [line.split(";")[-1] for _, line in said if "trying again" in line] == [
        " trying again for 60 s"
    ]
    assert "the checkpoint of step 2 could be written now" in said[-1][1]
    assert values(tmp_path, 1)[0] == 100 and values(tmp_path, 2)[0] == 200


class FakeRuntime:
    """CUDA's page-locking calls, which here only note their arguments."""

    def __init__(self, code):
        self.code, self.locked = code, {}

    def cudaHostRegister(self, address, size, flags):
        if self.code == 0:
            self.locked[address] = size
        return self.code

    def cudaHostUnregister(self, address):
        del self.locked[address]


def test_page_locked_memory_is_unlocked_before_it_goes(monkeypatch):
    runtime = FakeRuntime(0)
    monkeypatch.setattr(snapshot_module, "_cuda_runtime", lambda: runtime)
    snapshot = HostSnapshot()
    for size in (1000, 500, 9000):
        snapshot._make_room(size, True)
        assert runtime.locked == {snapshot._block.data_ptr(): snapshot._block.numel()}
    snapshot.close()
    assert runtime.locked == {}


def test_memory_that_cannot_be_page_locked_serves_all_the_same(monkeypatch, caplog):
    monkeypatch.setattr(snapshot_module, "_cuda_runtime", lambda: FakeRuntime(2))
    snapshot = HostSnapshot()
    snapshot._make_room(1000, True)
    assert "could not be page-locked (CUDA error 2)" in caplog.text
    assert snapshot.take([whole("model/w", torch.ones(9))])[0].tensor.tolist() == [1] * 9
    snapshot.close()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_copy_from_a_device_is_finished_when_it_is_taken():
    values = torch.randn(50_000_000, device="cuda")
    half = torch.randn(1_000_001, device="cuda").bfloat16()
    expected, expected_half = values.cpu(), half.cpu()
    snapshot = HostSnapshot()
    for _ in range(3):
        taken = snapshot.take([whole("model/w", values), whole("model/h", half)])
        values.zero_()  # queued behind the copy
        half.zero_()
        assert torch.equal(taken[0].tensor, expected) and torch.equal(
            taken[1].tensor, expected_half
        )
        values.copy_(expected)
        half.copy_(expected_half)
    assert snapshot._locked
    snapshot.close()
