"""Faults of the file system, at every single operation of saving and of reading."""

import builtins
import errno
import io
import os
import shutil

import pytest
import torch

from megaxlm.checkpoint import storage
from megaxlm.checkpoint.catalog import find_latest, list_checkpoints, record_saved, recorded_step
from megaxlm.checkpoint.fragments import whole
from megaxlm.checkpoint.reader import CheckpointReader
from megaxlm.checkpoint.retention import select_resume
from megaxlm.checkpoint.saver import CheckpointSaver
from megaxlm.checkpoint.storage import TRANSIENT_ERRNOS, Patience, StorageError, is_transient
from megaxlm.config.pretrain import CheckpointConfig
from megaxlm.errors import CorruptDataError, UserError

PATH_CALLS = ("open", "mkdir", "rename", "replace", "unlink", "rmdir", "listdir", "stat", "lstat")
READ_CALLS = ("listdir", "stat", "lstat", "read", "preadv")
FAILS_WRITES_ALONE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
NOT_TRANSIENT = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS)


class FaultyDisk:
    """Lets the `at`-th operation below a folder fail with an errno, `times` times in a row."""

    def __init__(self, monkeypatch, folder):
        self._folder = str(folder)
        self.at, self.code, self.times, self.count, self.hits = -1, 0, 0, 0, []
        self._reads_fail = True
        for name in PATH_CALLS:
            monkeypatch.setattr(os, name, self._guarded(getattr(os, name), name))
        monkeypatch.setattr(os, "preadv", self._guarded(os.preadv, "preadv", path=False))
        # Nothing here loses power, and a thousand real ones would take a minute.
        monkeypatch.setattr(os, "fsync", lambda descriptor: self._touch("fsync", descriptor))
        opened = builtins.open

        def open_file(path, mode="r", *arguments, **keywords):
            if self._mine(path):
                self._touch("read" if "r" in mode else "open", path)
            return self._watched(opened(path, mode, *arguments, **keywords), path)

        monkeypatch.setattr(builtins, "open", open_file)
        monkeypatch.setattr(io, "open", open_file)

    def arm(self, at, code, times=1):
        self.at, self.code, self.times, self.count, self.hits = at, code, times, 0, []
        self._reads_fail = code not in FAILS_WRITES_ALONE

    def disarm(self):
        self.at = -1

    def _touch(self, what, path):
        if self.at < 0 or (what in READ_CALLS and not self._reads_fail):
            return
        if self.count >= self.at and len(self.hits) < self.times:
            self.hits.append(what)
            named = (str(path),) if isinstance(path, str | os.PathLike) else ()
            raise OSError(self.code, os.strerror(self.code), *named)
        self.count += 1

    def _mine(self, path):
        return str(path).startswith(self._folder)

    def _guarded(self, function, name, path=True):
        def call(first, *arguments, **keywords):
            if not path or self._mine(first):
                self._touch(name, first)
            return function(first, *arguments, **keywords)

        return call

    def _watched(self, file, path):
        if not self._mine(path):
            return file
        disk = self

        class Watched:
            def __getattr__(self, name):
                return getattr(file, name)

            def __enter__(self):
                return self

            def __exit__(self, *error):
                file.close()

            def read(self, *size):
                disk._touch("read", path)
                return file.read(*size)

            def write(self, content):
                disk._touch("write", path)
                return file.write(content)

        return Watched()


@pytest.fixture
def disk(monkeypatch, tmp_path):
    monkeypatch.setattr(storage, "FIRST_PAUSE_SECONDS", 0.0)
    return FaultyDisk(monkeypatch, tmp_path)


def fragments(step):
    return [whole("model/w", torch.full((300,), float(step))), whole("model/b", torch.zeros(3))]


def check(run_dir, step):
    """The newest complete checkpoint, whole in every byte, is that of `step`."""
    for folder in list_checkpoints(run_dir):
        assert folder.complete, folder.problem
    chosen = select_resume(run_dir, retry_seconds=0)
    with CheckpointReader(chosen.path) as reader:
        assert reader.step == step and torch.equal(
            reader.full("model/w"), fragments(step)[0].tensor
        )


@pytest.mark.parametrize(("code", "asynchronous"), [(errno.EIO, True), (errno.ESTALE, False)])
def test_a_save_gets_over_a_lost_file_system_at_any_operation(disk, tmp_path, code, asynchronous):
    at, kinds, tried_again = 0, set(), 0
    while True:
        run_dir, said = tmp_path / f"{at}", []
        saver = CheckpointSaver(run_dir, asynchronous=asynchronous, keep_last=1, say=said.append)
        saver.save_now(1, fragments(1), {}, {})
        disk.arm(at, code, times=2)
        saver.save(2, fragments(2), {}, {})
        saver.wait()
        hits = disk.hits
        disk.disarm()
        assert saver.saved_step == 2 and saver.last_failure is None, (at, hits, said)
        check(run_dir, 2)
        tried_again += any("trying again for 120 s" in line for line in said)
        saver.save_now(3, fragments(3), {}, {})  # whatever was left behind
        saver.close()
        assert sorted(os.listdir(run_dir / "checkpoints")) == ["saved.json", "step-00000003"]
        if not hits:
            break
        kinds.update(hits)
        at += 1
    assert at > 30 and tried_again > 20
    assert kinds >= {"open", "write", "fsync", "mkdir", "rename", "listdir", "rmdir"}


def lost_for(seconds, monkeypatch, folder, saver=None):
    """A file system that is away from now on, on a clock that sleeping alone moves.

    With a saver, its own waits, which a later checkpoint may end, are such sleep as well.
    """
    disk, clock = FaultyDisk(monkeypatch, folder), [0.0]

    def sleep(pause):
        clock[0] += pause
        if clock[0] >= seconds:
            disk.disarm()

    monkeypatch.setattr(storage.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(storage.time, "sleep", sleep)
    if saver is not None:
        monkeypatch.setattr(saver._superseded, "wait", sleep)
    return disk, clock


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE])
@pytest.mark.parametrize(("seconds", "waited_for"), [(60, True), (119, True), (121, False)])
def test_the_default_patience_outlasts_a_minute(monkeypatch, tmp_path, seconds, waited_for, code):
    settings = CheckpointConfig()
    saver = CheckpointSaver(tmp_path, retry_seconds=settings.retry_seconds, keep_last=9)
    saver.save_now(1, fragments(1), {}, {})
    for step, asynchronous in ((2, True), (3, False)):
        saver._asynchronous = asynchronous
        with monkeypatch.context() as patches:
            disk, clock = lost_for(seconds, patches, tmp_path, saver)
            disk.arm(3, code, times=10**6)
            saver.save(step, fragments(step), {}, {})
            saver.wait()
            assert disk.hits and clock[0] == pytest.approx(min(seconds, 120), abs=10)
        assert (saver.saved_step == step) == (saver.last_failure is None) == waited_for
    with monkeypatch.context() as patches:
        disk, clock = lost_for(seconds, patches, tmp_path)
        disk.arm(1, code, times=10**6)
        if waited_for:
            chosen = select_resume(tmp_path, retry_seconds=settings.retry_seconds)
            assert chosen.notice is None and chosen.path.name == "step-00000003"
        else:
            with pytest.raises(UserError, match=os.strerror(code)):
                select_resume(tmp_path, retry_seconds=settings.retry_seconds)
        assert disk.hits and clock[0] == pytest.approx(min(seconds, 120), abs=10)
    saver.close()


@pytest.mark.parametrize("code", NOT_TRANSIENT)
def test_a_full_disk_at_any_operation_leaves_a_whole_checkpoint(disk, tmp_path, code):
    """ENOSPC in a tensor file, a manifest, a marker, a rename or saved.json."""
    at, failed = 0, 0
    while True:
        run_dir, said = tmp_path / f"{at}", []
        saver = CheckpointSaver(run_dir, asynchronous=False, keep_last=1, say=said.append)
        saver.save(1, fragments(1), {}, {})
        disk.arm(at, code, times=10**6)  # and it stays full
        saver.save(2, fragments(2), {}, {})
        hits = disk.hits
        disk.disarm()
        assert not any("trying again" in line for line in said)
        if saver.saved_step == 1:
            failed += 1
            assert saver.last_failure and len([line for line in said if "step 2" in line]) == 1
            assert str(run_dir) in saver.last_failure and "\n" not in saver.last_failure
        newest = CheckpointReader(find_latest(run_dir)).step  # the last fsync may be what failed
        assert newest in (saver.saved_step, 2)
        check(run_dir, newest)
        saver.save_now(3, fragments(3), {}, {})
        assert sorted(os.listdir(run_dir / "checkpoints")) == ["saved.json", "step-00000003"]
        check(run_dir, 3)
        if not hits:
            break
        at += 1
    assert failed > 20


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOTCONN])
def test_a_read_error_that_passes_is_no_damage(disk, tmp_path, code):
    saver = CheckpointSaver(tmp_path)
    for step in (1, 2):
        saver.save_now(step, fragments(step), {"mine": step}, {"all": step})
    at, kinds = 0, set()
    while True:
        disk.arm(at, code, times=2)
        chosen = select_resume(tmp_path)
        assert chosen.notice is None and chosen.path.name == "step-00000002", (at, disk.hits)
        with CheckpointReader(chosen.path, verify=False) as reader:
            assert reader.read("model/w", 7, 100).tolist() == [2.0] * 100
            assert reader.shared["all"] == 2 and reader.rank_state(0) == {"mine": 2}
        assert find_latest(tmp_path) == chosen.path
        hits = disk.hits
        disk.disarm()
        if not hits:
            break
        kinds.update(hits)
        at += 1
    assert kinds >= {"open", "read", "preadv", "listdir"} and at > 20


def test_a_file_that_stays_unreadable_is_passed_over_in_the_end(disk, tmp_path, monkeypatch):
    """A bad sector, not a lost server."""
    saver = CheckpointSaver(tmp_path)
    for step in (1, 2):
        saver.save_now(step, fragments(step), {}, {})
    bad = str(tmp_path / "checkpoints" / "step-00000002" / "rank-00000.safetensors")
    opened = builtins.open

    def open_file(path, *arguments, **keywords):
        if str(path) == bad:
            raise OSError(errno.EIO, os.strerror(errno.EIO), bad)
        return opened(path, *arguments, **keywords)

    monkeypatch.setattr(builtins, "open", open_file)
    chosen = select_resume(tmp_path, retry_seconds=0.2)
    assert chosen.path.name == "step-00000001"
    assert f"{bad}: cannot be read: {os.strerror(errno.EIO)}" in chosen.notice


def test_a_folder_that_cannot_be_listed_is_an_error_on_every_rank(
    thread_ranks, tmp_path, monkeypatch
):
    """Before, the rank that failed left the others waiting."""
    CheckpointSaver(tmp_path).save_now(1, fragments(1), {}, {})
    ranks = thread_ranks(2)
    listed = os.listdir

    def listdir(path):
        if barred.rank == 1:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return listed(path)

    import threading

    barred = threading.local()

    def work(rank):
        barred.rank = rank
        return select_resume(tmp_path, rank, 2, ranks.all_ok(rank), retry_seconds=0)

    monkeypatch.setattr(os, "listdir", listdir)
    errors = ranks.run(work)
    assert all(isinstance(error, StorageError) for error in errors), errors
    assert "another rank cannot read it" in str(errors[0]) and not errors[0].said_here
    assert os.strerror(errno.EACCES) in str(errors[1])


def test_a_missing_file_is_damage_and_a_missing_folder_is_a_lost_file_system(tmp_path):
    CheckpointSaver(tmp_path).save_now(1, fragments(1), {}, {})
    path = tmp_path / "checkpoints" / "step-00000001"
    reader = CheckpointReader(path, retry_seconds=0)
    os.rename(path / "shared.json", tmp_path / "taken")
    with pytest.raises(CorruptDataError, match="shared.json: missing"):
        _ = reader.shared
    os.rename(tmp_path / "checkpoints", tmp_path / "away")
    for read in (lambda: reader.shared, lambda: reader.read("model/w"), reader.verify_files):
        with pytest.raises(StorageError, match="mend its file system"):
            read()
    os.rename(tmp_path / "away", tmp_path / "checkpoints")
    assert reader.read("model/w", 0, 2).tolist() == [1, 1]


def test_an_unreadable_record_is_not_the_record_of_a_new_run(disk, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    record_saved(tmp_path / "checkpoints", 7)
    assert recorded_step(tmp_path) == 7
    disk.arm(0, errno.EIO)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        recorded_step(tmp_path)
    disk.arm(0, errno.EIO)
    with pytest.raises(CorruptDataError, match="step 7 was finished here and is gone"):
        select_resume(tmp_path)
    shutil.rmtree(tmp_path / "checkpoints")
    assert recorded_step(tmp_path) is None


def test_what_is_transient_and_what_is_not():
    for code in TRANSIENT_ERRNOS:
        assert is_transient(OSError(code, ""))
    for code in (*NOT_TRANSIENT, errno.EFBIG, errno.EPERM):
        assert not is_transient(OSError(code, ""), vanished=True)
    missing = FileNotFoundError(errno.ENOENT, "")
    assert is_transient(missing, vanished=True) and not is_transient(missing)
    assert not is_transient(UserError("x")) and is_transient(StorageError("x", transient=True))


def test_patience_is_one_budget_for_all_calls(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(storage.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(storage.time, "sleep", lambda s: clock.__setitem__(0, clock[0] + s))
    patience, calls = Patience(10), []

    def fail():
        calls.append(clock[0])
        raise OSError(errno.EIO, "away")

    with pytest.raises(OSError, match="away"):
        patience(fail)
    assert calls == [0, 0.5, 1.5, 3.5, 7.5, 10] and patience.left == 0
    with pytest.raises(OSError, match="away"):
        patience(fail)
    assert len(calls) == 7  # nothing is left to wait
    assert patience(lambda: 5) == 5
