"""Builds on a real Dask cluster of this machine: the same bytes, and a line for each error."""

import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
from megaxlm_data import cluster
from megaxlm_data.cluster import DaskPool
from megaxlm_data.pipeline import build
from megaxlm_data.workers import advance

from megaxlm.config.data_build import DataBuildConfig
from megaxlm.errors import UserError

SECONDS = 60
SCRIPT = """
import sys, time
from pathlib import Path
from megaxlm.errors import UserError
from megaxlm_data.cluster import DaskPool
try:
    with DaskPool(1, sys.argv[1], Path(sys.argv[2])) as pool:
        list(pool.map(print, [], "tasks"))
        print("begun", flush=True)
        list(pool.map(time.sleep, [60], "tasks"))
except UserError as error:
    sys.exit(str(error))
"""


def wait_until(is_so):
    end = time.monotonic() + SECONDS
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.05)


class Cluster:
    """A scheduler and workers, each a process started as a user would."""

    def __init__(self, folder):
        self.folder, self.file, self._processes = folder, folder / "scheduler.json", []
        self.log = open(folder / "dask.log", "w")

    def _start(self, *arguments):
        process = subprocess.Popen(
            [sys.executable, "-m", "dask", *map(str, arguments)],
            stdout=self.log,
            stderr=self.log,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            cwd=self.folder,
            start_new_session=True,
        )
        self._processes.append(process)
        return process

    def schedule(self):
        process = self._start(
            "scheduler",
            *("--host", "127.0.0.1", "--port", "0", "--no-dashboard"),
            *("--scheduler-file", self.file),
        )
        wait_until(self.file.exists)
        return process

    def work(self, *options):
        return self._start(
            "worker",
            *("--scheduler-file", self.file, "--host", "127.0.0.1", "--no-dashboard"),
            *("--local-directory", self.folder, *options),
        )

    def end(self):
        for process in self._processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self.log.close()


@pytest.fixture
def dask(tmp_path):
    folder = tmp_path / "dask"
    folder.mkdir()
    started = Cluster(folder)
    yield started
    started.end()


@pytest.fixture
def two_workers(dask):
    dask.schedule()
    dask.work("--nworkers", "2", "--nthreads", "1")
    return dask


def square(number):
    advance(number)
    if number < 0:
        raise UserError(f"bad number {number}")
    return number * number


def die(path):
    """Ends its worker; only the first time if `path` is one."""
    if path is None or not path.exists():
        if path is not None:
            path.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return os.getpid()


def test_results_progress_and_errors(two_workers, tmp_path):
    reported = []
    with DaskPool(1, str(two_workers.file), tmp_path) as pool:
        results = list(pool.map(square, range(30), "tasks", reported.append))
        assert results == [(n, n * n) for n in range(30)]
        assert sum(reported) == sum(range(30))
        assert sorted(pool.map(square, range(30), "finished")) == results
        with pytest.raises(UserError, match="bad number -1") as caught:
            list(pool.map(square, [1, -1, 2], "finished"))
        assert caught.value.exit_code == 2


def test_a_lost_worker_is_replaced_and_one_that_ends_each_time_is_a_line(two_workers, tmp_path):
    with DaskPool(1, str(two_workers.file), tmp_path) as pool:
        ((_, pid),) = pool.map(die, [tmp_path / "died"], "tasks")
        assert pid > 0
        with pytest.raises(UserError, match=r"4 Dask workers died .* continue") as caught:
            list(pool.map(die, [None], "tasks"))
    assert caught.value.exit_code == 1


def test_a_lost_scheduler_is_a_line(dask, tmp_path):
    scheduler = dask.schedule()
    dask.work("--nthreads", "1")
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, dask.file, tmp_path],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as build:
        assert build.stdout.readline() == "begun\n"
        scheduler.kill()
        said = build.communicate(timeout=SECONDS)[1]
    assert said.splitlines() == [
        "the Dask scheduler is gone; start it, then run the same command again to continue, "
        "finished work is kept"
    ]
    assert build.returncode == 1


def test_what_cannot_take_part_is_refused(dask, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="neither an address"):
        DaskPool(1, str(tmp_path / "none.json"), tmp_path)
    (tmp_path / "wrong.json").write_text("[]")
    with pytest.raises(UserError, match="neither an address"):
        DaskPool(1, str(tmp_path / "wrong.json"), tmp_path)
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 1)
    for nowhere in ("tcp://127.0.0.1:9", "nothing://127.0.0.1:9"):
        with pytest.raises(UserError, match="no scheduler answers .*; start one"):
            DaskPool(1, nowhere, tmp_path)
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(UserError, match=r"pip install 'megaxlm\[dask\]'"):
        DaskPool(1, "tcp://127.0.0.1:9", tmp_path)
    monkeypatch.undo()
    dask.schedule()
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 5)
    with pytest.raises(UserError, match="has no worker; start some: `dask worker tcp://"):
        DaskPool(1, str(dask.file), tmp_path)
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", SECONDS)
    first = dask.work("--nthreads", "1")
    with pytest.raises(UserError, match="does not see .*none"):
        DaskPool(1, str(dask.file), tmp_path / "none")
    monkeypatch.setattr(cluster.megaxlm, "__version__", "7.0")
    with pytest.raises(UserError, match=r"has megaxlm .*, this is 7\.0"):
        DaskPool(1, str(dask.file), tmp_path)
    monkeypatch.undo()
    with DaskPool(1, str(dask.file), tmp_path) as pool:
        dask.work("--nthreads", "2")
        wait_until(lambda: len(pool._client.nthreads()) == 2)
        with pytest.raises(UserError, match="has 2 threads, and tasks need a process each"):
            list(pool.map(square, [1], "tasks"))
    assert first.poll() is None


def test_a_build_has_the_bytes_of_one_without_a_cluster(
    two_workers, tmp_path, make_corpus, monkeypatch
):
    for lang in ("en", "ru"):
        for number in range(2):
            (tmp_path / f"{lang}{number}.txt").write_text(make_corpus(lang, 60, seed=number))
    monkeypatch.chdir(tmp_path)  # paths may be relative

    def make(output, **changes):
        return DataBuildConfig(
            output=output,
            corpora=[{"lang": lang, "paths": [f"{lang}?.txt"]} for lang in ("en", "ru")],
            deduplication={"lines": {}, "near": {}},
            tokenizer={"vocab_size": 400, "character_coverage": 1.0},
            shard_tokens=1_000,
            workers=1,
            **changes,
        )

    def content(folder):
        return {
            path.relative_to(folder): path.read_bytes()
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }

    build(make("alone"), False)
    build(make("together"), False, dask=str(two_workers.file))
    expected = content(tmp_path / "alone")
    assert content(tmp_path / "together") == expected
    # Workers outlive a build: of another one in the same place they must not keep files open.
    (tmp_path / "together").rename(tmp_path / "first")
    text = (tmp_path / "ru0.txt").read_text()
    (tmp_path / "ru0.txt").write_text((tmp_path / "ru1.txt").read_text())
    (tmp_path / "ru1.txt").write_text(text)
    (tmp_path / "alone").rename(tmp_path / "before")
    build(make("alone", seed=5), False)
    build(make("together", seed=5), False, dask=str(two_workers.file))
    assert content(tmp_path / "together") == content(tmp_path / "alone") != expected


def test_what_fails_in_closing_does_not_hide_why_the_build_ended():
    def fails(*arguments, **named):
        raise TimeoutError("no answer")

    pool = DaskPool.__new__(DaskPool)
    pool._executor, pool._client = SimpleNamespace(shutdown=fails), SimpleNamespace(close=fails)
    with pytest.raises(UserError, match="the first error"), pool:
        raise UserError("the first error")
