"""SIGTERM or SIGUSR1 to launcher, batch shell or rank: an agreed save, and nobody is left.

What the command that was started exits with:

                        to itself                   to a rank       to a part of it
    deepspeed           dies of the signal          75              1 (SIGTERM), 0 (SIGUSR1)
    torchrun            1 (SIGTERM), or dies        1               -
    mpiexec             75                          75              -
    bash around them    dies of the signal          the launcher's  the launcher's
    megaxlm supervise   75                          75              75 (SIGTERM)

The ranks save and end in each of these cases; only the supervisor makes one code of it. It starts
the run again if SIGUSR1 ends a part of the deepspeed command: that looks like a kill.
"""

import json
import shlex
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from megaxlm.testing.launchers import (
    Running,
    launch_command,
    running,
    write_small_config,
    write_small_dataset,
)

pytestmark = pytest.mark.distributed

LEFT_SECONDS = 10.0
Victim = Callable[[Running], psutil.Process]


def itself(run: Running) -> psutil.Process:
    return psutil.Process(run.process.pid)


def child(run: Running) -> psutil.Process:
    return itself(run).children()[0]


def first_rank(run: Running) -> psutil.Process:
    return run.ranks()[0]


def last_rank(run: Running) -> psutil.Process:
    return run.ranks()[1]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("signals") / "data"
    write_small_dataset(path)
    return path


@pytest.mark.parametrize(
    ("launcher", "around", "victim", "number", "expected"),
    [
        ("deepspeed", "", itself, signal.SIGTERM, -signal.SIGTERM),
        ("deepspeed", "bash", itself, signal.SIGUSR1, -signal.SIGUSR1),
        ("torchrun", "", itself, signal.SIGUSR1, -signal.SIGUSR1),
        ("mpiexec", "bash", itself, signal.SIGTERM, -signal.SIGTERM),
        ("mpiexec", "", itself, signal.SIGUSR1, 75),
        ("deepspeed", "", first_rank, signal.SIGUSR1, 75),
        ("deepspeed", "supervise", itself, signal.SIGUSR1, 75),
        ("deepspeed", "supervise", child, signal.SIGTERM, 75),
        ("torchrun", "supervise", last_rank, signal.SIGTERM, 75),
    ],
)
def test_a_signal_anywhere_is_an_agreed_save_and_leaves_no_orphan(
    data: Path,
    launcher: str,
    around: str,
    victim: Victim,
    number: signal.Signals,
    expected: int,
) -> None:
    name = f"{launcher}-{around}-{victim.__name__}-{number.name}"
    config = data.with_name(f"{name}.yaml")
    # More rows than a step needs, so that steps are slow beside a signal's way.
    run_dir = write_small_config(config, data, steps=100_000, every_steps=50_000, rows=64)
    command = launch_command(launcher, "pretrain", str(config))
    if around == "bash":
        command = ["bash", "-c", shlex.join(command) + "; exit $?"]
    elif around == "supervise":
        command = [sys.executable, "-m", "megaxlm", "supervise", "--", *command]
    with running(command, run_dir) as run:
        run.wait_for(lambda: run.step() >= 3)
        target = victim(run)
        target.send_signal(number)
        step = run.step()
        assert run.wait() == expected, run.said()
        run.wait_for_none_left(LEFT_SECONDS)
        # One line may have been under way, and one step.
        saved = run.step()
        assert step <= saved <= step + 2, run.said()
        assert (run_dir / "checkpoints" / f"step-{saved:08d}" / "COMPLETE").exists()
        assert f"stopped on request at step {saved}" in run.said()
        assert (run_dir / "STOPPED").exists() and not (run_dir / "COMPLETED").exists()
        if around == "supervise":
            assert f"checkpoint {saved}" in run.said() and "exit code 75" in run.said()


def test_a_signal_during_start_up_kills_no_rank_and_ends_the_run_before_its_first_step(
    data: Path,
) -> None:
    config = data.with_name("start-up.yaml")
    run_dir = write_small_config(config, data, steps=100_000, every_steps=50_000)
    command = launch_command("torchrun", "pretrain", str(config))
    with running([sys.executable, "-m", "megaxlm", "supervise", "--", *command], run_dir) as run:
        run.wait_for(lambda: len(run.ranks()) == 2)
        target = last_rank(run)
        maps = Path(f"/proc/{target.pid}/maps")
        run.wait_for(lambda: "libtorch" in maps.read_text())  # the slow imports have begun
        target.send_signal(signal.SIGUSR1)
        assert not (run_dir / "metrics.jsonl").exists(), "signalled too late to tell"
        assert run.wait() == 75, run.said()
        run.wait_for_none_left(LEFT_SECONDS)
        assert run.step() == 0 and "stopped on request at step 0" in run.said()
        assert json.loads((run_dir / "STOPPED").read_text()) == {"step": 0, "cause": "signal"}
        assert "start 2" not in run.said()
