import os
import signal
import subprocess
import sys
import time

import pytest
from megaxlm_data.workers import WorkerPool, advance

from megaxlm.errors import UserError


def square(number):
    advance(number)
    if number < 0:
        raise UserError(f"bad number {number}")
    if number == 13:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.002 * (number % 3))
    return number * number


@pytest.mark.parametrize("workers", [1, 2])
def test_results_progress_and_errors(workers):
    reported = []
    with WorkerPool(workers) as pool:
        numbers = [n for n in range(30) if n != 13]
        results = list(pool.map(square, numbers, "tasks", reported.append))
        assert results == [(n, n * n) for n in numbers]
        assert sum(reported) == sum(numbers)
        assert sorted(pool.map(square, numbers, "finished")) == results
        with pytest.raises(UserError, match="bad number -1"):
            list(pool.map(square, [1, -1, 2], "finished"))


def test_tasks_are_taken_as_they_are_needed():
    taken = []

    def tasks():
        for number in range(14, 1000):
            taken.append(number)
            yield number

    with WorkerPool(2) as pool:
        next(pool.map(square, tasks(), "tasks"))
        assert len(taken) <= 10


def test_a_killed_worker_is_one_clear_line():
    with (
        pytest.raises(UserError, match="worker process was killed") as caught,
        WorkerPool(2) as pool,
    ):
        list(pool.map(square, [1, 13, 2], "tasks"))
    assert caught.value.exit_code == 1


def is_blocked(_):
    return signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_a_worker_never_sees_an_interrupt_and_the_parent_does():
    with WorkerPool(2) as pool:
        assert [blocked for _, blocked in pool.map(is_blocked, range(4), "tasks")] == [True] * 4
    assert not is_blocked(None)


PARENT = """
import os, time
from megaxlm_data.workers import WorkerPool
if __name__ == "__main__":
    pool = WorkerPool(2)
    for _, pid in pool.map(PID, [None] * 8, "finished"):
        print(pid, flush=True)
    print("ready", flush=True)
    time.sleep(600)
""".replace("PID", "get_pid")


def test_workers_end_with_a_killed_parent(tmp_path):
    (tmp_path / "getpid.py").write_text("import os\ndef get_pid(_):\n    return os.getpid()\n")
    script = tmp_path / "parent.py"
    script.write_text("from getpid import get_pid\n" + PARENT)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path, str(tmp_path)])}
    parent = subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env=environment
    )
    pids = set()
    while (line := parent.stdout.readline().strip()) != "ready":
        assert line, "the parent ended early"
        pids.add(int(line))
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 60
    while any(_alive(pid) for pid in pids):
        assert time.monotonic() < deadline, "a worker outlived its parent"
        time.sleep(0.05)


def _alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
