"""A process notices that the job which it belongs to has ended, and no other."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

RANK = """
import json, os, signal, sys, time
from pathlib import Path
from megaxlm.distributed.parent import follow_launcher, launching_processes
from megaxlm.distributed.stop_request import StopRequest
folder, request = Path(sys.argv[1]), StopRequest.listen()
note = signal.getsignal(signal.SIGTERM)
def told(*about):
    note(*about)
    (folder / "told.new").write_text(request.cause)
    os.rename(folder / "told.new", folder / "told")
signal.signal(signal.SIGTERM, told)
follow_launcher(request)
follow_launcher()
found = {"own": os.getpid(), "chain": [process.pid for process in launching_processes()]}
(folder / "new").write_text(json.dumps(found))
os.rename(folder / "new", folder / "found")
while not (folder / "told").exists():
    time.sleep(0.02)
"""
# Starts the rank as a launcher does, or as an interactive shell or `nohup` does.
LAUNCHER = """
import os, signal, subprocess, sys, time
apart, nohup = "apart" in sys.argv[2], "nohup" in sys.argv[2]
if nohup:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
subprocess.Popen([sys.executable, "-c", sys.argv[3], sys.argv[1]], start_new_session=apart)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
time.sleep(1000)
"""


class Tree:
    """A shell, the launcher that it started, and the rank that this started."""

    def __init__(self, folder: Path, way: str, env: dict[str, str]) -> None:
        self._folder = folder
        clean = {key: value for key, value in os.environ.items() if "SLURM" not in key}
        clean = {key: value for key, value in clean.items() if not key.endswith("RANK")}
        paths = os.pathsep.join(path for path in sys.path if path)
        words = [sys.executable, "-c", LAUNCHER, str(folder), way, RANK]
        self.shell = subprocess.Popen(
            ["sh", "-c", '"$@"; exit $?', "job", *words],
            env=clean | env | {"PYTHONPATH": paths},
            process_group=0,
            stderr=subprocess.DEVNULL,
        )
        while not (folder / "found").exists():
            assert self.shell.poll() is None
            time.sleep(0.02)
        found = json.loads((folder / "found").read_text())
        self.chain: list[int] = found["chain"]
        self.rank = psutil.Process(found["own"])
        launcher = self.rank.parent()
        assert launcher is not None
        self.launcher = launcher

    def told(self) -> None:
        deadline = time.monotonic() + 60
        while not (self._folder / "told").exists():
            assert time.monotonic() < deadline
        assert (self._folder / "told").read_text() == "launcher"

    def __enter__(self) -> "Tree":
        return self

    def __exit__(self, *_: object) -> None:
        for process in (self.rank, self.launcher):
            if process.is_running():
                process.kill()
        self.shell.kill()
        self.shell.wait()


@pytest.mark.parametrize(
    ("way", "env"),
    [
        ("", {}),  # deepspeed
        ("apart", {"RANK": "0"}),  # torchrun
        ("apart", {"PMI_RANK": "0"}),  # mpiexec
    ],
)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGKILL])
@pytest.mark.parametrize("victim", ["launcher", "shell"])
def test_the_end_of_launcher_or_batch_shell_is_a_request_to_stop(
    tmp_path: Path, way: str, env: dict[str, str], number: signal.Signals, victim: str
) -> None:
    with Tree(tmp_path, way, env) as tree:
        assert tree.chain[:2] == [tree.launcher.pid, tree.shell.pid]
        assert len(tree.chain) == 2  # pytest is another job
        if victim == "shell":
            tree.shell.send_signal(number)  # not reaped: a zombie has ended as well
        else:
            tree.launcher.send_signal(number)
        tree.told()


@pytest.mark.parametrize(
    ("way", "env"),
    [
        ("apart", {}),  # a job of an interactive shell, which may be closed
        ("nohup", {}),
        ("nohup", {"RANK": "0"}),
    ],
)
def test_a_process_may_outlive_the_shell_that_it_was_made_independent_of(
    tmp_path: Path, way: str, env: dict[str, str]
) -> None:
    with Tree(tmp_path, way, env) as tree:
        assert tree.chain == []
        tree.shell.kill()
        tree.launcher.kill()
        time.sleep(0.5)
        assert tree.rank.is_running() and not (tmp_path / "told").exists()
