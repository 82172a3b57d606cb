"""What starts ranks: results, failures, time bound, and nothing left behind."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from megaxlm.testing.distributed import RankFailedError, Ranks, run_distributed

pytestmark = pytest.mark.distributed


@dataclass
class Pair:
    left: int
    right: str


def place(pair: Pair) -> tuple[int, int, int, Pair]:
    return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), os.getpid(), pair


def fail_on_rank_one(folder: Path) -> None:
    (folder / os.environ["RANK"]).write_text(str(os.getpid()))
    if os.environ["RANK"] == "1":
        while not (folder / "0").exists():
            time.sleep(0.01)
        raise ValueError("no such luck")
    time.sleep(60)


def child_that_sleeps(folder: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    (folder / "child").write_text(str(child.pid))
    time.sleep(60)


def start_and_wait(folder: Path) -> None:
    run_distributed(child_that_sleeps, 1, folder, timeout_seconds=60)


def end_with_own_code(folder: Path) -> None:
    print("rank", os.environ["RANK"], "was here", flush=True)
    (folder / os.environ["RANK"]).touch()
    if os.environ["RANK"] == "2":
        time.sleep(60)
    sys.exit({"0": 75, "1": "in words"}[os.environ["RANK"]])


def variable(name: str) -> str | None:
    return os.environ.get(name)


def is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_until_gone(pid: int) -> bool:
    deadline = time.monotonic() + 10
    while is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not is_running(pid)


def test_each_rank_is_a_process_of_its_own_and_answers_in_order() -> None:
    results = run_distributed(place, 3, Pair(1, "x"))
    assert [rank for rank, *_ in results] == [0, 1, 2]
    assert {world for _, world, *_ in results} == {3}
    pids = {pid for *_, pid, _ in results}
    assert len(pids) == 3 and os.getpid() not in pids
    assert all(pair == Pair(1, "x") for *_, pair in results)


def test_variables_are_handed_on() -> None:
    assert run_distributed(variable, 1, "OMP_NUM_THREADS") == ["1"]
    assert run_distributed(variable, 1, "FLAVOUR", env={"FLAVOUR": "mint"}) == ["mint"]


def test_a_failing_rank_shows_its_traceback_and_ends_the_others(tmp_path: Path) -> None:
    started = time.monotonic()
    with pytest.raises(RankFailedError) as caught:
        run_distributed(fail_on_rank_one, 2, tmp_path)
    assert "rank 1" in str(caught.value) and "no such luck" in str(caught.value)
    assert time.monotonic() - started < 30
    assert wait_until_gone(int((tmp_path / "0").read_text()))


def test_ranks_may_end_as_they_like_and_be_signalled(tmp_path: Path) -> None:
    with Ranks(end_with_own_code, 3, tmp_path) as ranks:
        deadline = time.monotonic() + 30
        while len(list(tmp_path.iterdir())) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        ranks.send_signal(2, signal.SIGTERM)
        codes, said = ranks.finish(30)
        assert codes == [75, 1, -signal.SIGTERM]
        assert [said.count(f"rank {rank} was here") for rank in range(3)] == [1, 1, 1]
        ranks.send_signal(2, signal.SIGTERM)  # it has ended


def test_time_runs_out_and_grandchildren_go_too(tmp_path: Path) -> None:
    with pytest.raises(RankFailedError, match="not done after 8"):
        run_distributed(child_that_sleeps, 1, tmp_path, timeout_seconds=8)
    assert wait_until_gone(int((tmp_path / "child").read_text()))


def test_ranks_end_with_the_process_that_started_them(tmp_path: Path) -> None:
    code = (
        "import sys, importlib.util as u; from pathlib import Path\n"
        f"spec = u.spec_from_file_location('ranks', {__file__!r})\n"
        "module = u.module_from_spec(spec); sys.modules['ranks'] = module\n"
        "spec.loader.exec_module(module)\n"
        f"module.start_and_wait(Path({str(tmp_path)!r}))\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    starter = subprocess.Popen([sys.executable, "-c", code], env=environment)
    try:
        deadline = time.monotonic() + 30
        written = tmp_path / "child"
        while not (written.exists() and written.read_text()) and time.monotonic() < deadline:
            time.sleep(0.05)
        child = psutil.Process(int(written.read_text()))
        rank = child.parent()
        assert rank is not None
    finally:
        starter.kill()
        starter.wait()
    assert wait_until_gone(rank.pid) and wait_until_gone(child.pid)


def test_functions_inside_functions_are_refused() -> None:
    def local() -> None:
        return None

    with pytest.raises(AssertionError):
        run_distributed(local, 1)
