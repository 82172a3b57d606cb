"""`megaxlm supervise` around a launch command that crashes, lies, hangs or leaves things behind."""

import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

if TYPE_CHECKING:
    from .conftest import Supervise

# A rank that saves on SIGTERM; its command line has the word by which ranks are told.
RANK = """
import os, signal, sys, time
from pathlib import Path
run = Path(sys.argv[1])
def save(number, frame):
    time.sleep(0.3)
    (run / "STOPPED").write_text('{"step": 1, "cause": "signal"}')
    os._exit(75)
signal.signal(signal.SIGTERM, save)
(run / "rank").write_text(str(os.getpid()))
while True:
    time.sleep(0.05)
"""
# A launcher that, as DeepSpeed's, would not survive a signal and leave its rank behind.
WITH_RANK = f"rank = child({RANK!r}, 'pretrain'); sys.exit(rank.wait())"


def test_a_crash_is_followed_by_a_restart_and_the_end_is_that_of_the_run(
    supervise: "Supervise",
) -> None:
    run = supervise(
        "checkpoint(5); sys.exit(3)",
        "os.kill(os.getpid(), signal.SIGKILL)",
        "checkpoint(7); sys.exit(247)",
        "mark('COMPLETED')",
    )
    code, said = run.finish()
    assert code == 0, said
    assert run.starts() == 4
    ends = run.events("end")
    assert [end["checkpoint_step"] for end in ends] == [5, 5, 7, 7]
    assert [end.get("code") for end in ends] == [3, None, 247, 0]
    assert ends[1]["signal"] == "SIGKILL" and ends[3]["completed"]
    assert [event["delay"] for event in run.events("restart")] == [0.02, 0.04, 0.02]
    assert ends[3]["seconds_lost"] == 0 <= ends[0]["seconds_lost"] <= ends[0]["seconds"]
    assert [event["exit_code"] for event in run.events("exit")] == [0]
    assert len([line for line in said.splitlines() if "megaxlm supervise: 2" in line]) == 12


def test_exit_0_counts_only_with_a_completion_marker_of_this_start(
    supervise: "Supervise", tmp_path: Path
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "COMPLETED").write_text("of an earlier, shorter run")
    (tmp_path / "run" / "STOPPED").write_text("of an earlier run")
    run = supervise("pass")
    code, said = run.finish()
    assert code == 1 and run.starts() == 3
    assert "without being complete" in said and "no new checkpoint" in said


def test_wrong_usage_is_not_tried_again(supervise: "Supervise") -> None:
    run = supervise("sys.exit(2)")
    assert run.finish()[0] == 2 and run.starts() == 1


def test_the_budget_ends_a_run_that_crashes_too_often(supervise: "Supervise") -> None:
    run = supervise("checkpoint(start); sys.exit(1)", options=("--max-restarts", "2"))
    code, said = run.finish()
    assert code == 1 and run.starts() == 3 and "--max-restarts" in said


@pytest.mark.parametrize("code", [0, 1])
def test_a_stop_that_the_ranks_agreed_on_is_final_whatever_the_launcher_says(
    supervise: "Supervise", code: int
) -> None:
    run = supervise(f"stop('signal'); sys.exit({code})")
    assert run.finish()[0] == 75 and run.starts() == 1


@pytest.mark.parametrize("end", ["sys.exit(0)", "os.kill(os.getpid(), signal.SIGKILL)"])
@pytest.mark.parametrize("how", ["stop('launcher')", "mark('STOPPED')"])
def test_a_stop_for_want_of_a_launcher_is_a_crash(
    supervise: "Supervise", how: str, end: str
) -> None:
    run = supervise(f"{how}; {end}", "mark('COMPLETED')")
    code, said = run.finish()
    assert code == 0 and run.starts() == 2, said


def test_75_is_not_said_of_a_run_whose_last_save_failed(supervise: "Supervise") -> None:
    run = supervise(
        "checkpoint(5); (run / 'metrics.jsonl').write_text('{\"step\": 7}\\n')\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))\n"
        "mark('environment.json'); mark('ready'); time.sleep(1000)"
    )
    run.wait_for("ready")
    run.process.send_signal(signal.SIGTERM)
    code, said = run.finish()
    assert code == 1 and run.starts() == 1, said
    assert "step 7 was not saved; the newest checkpoint is of step 5" in said


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1", "SIGINT", "SIGHUP"])
def test_a_signal_reaches_the_rank_and_not_the_launcher(supervise: "Supervise", name: str) -> None:
    run = supervise(WITH_RANK)
    rank = int(run.wait_for("rank"))
    run.process.send_signal(getattr(signal, name))
    code, said = run.finish()
    assert code == 75, said
    assert not psutil.pid_exists(rank)
    assert run.events("stop")[0]["signal"] == name
    # A signal to the launcher would have been its end, before the rank's.
    assert run.events("end")[0]["code"] == 75 and run.events("end")[0]["stopped"]


def test_ranks_whose_launcher_died_may_save_before_the_restart(supervise: "Supervise") -> None:
    run = supervise(
        f"child({RANK!r}, 'pretrain', start_new_session=True); wait_for('rank'); sys.exit(1)",
        "mark('COMPLETED' if (run / 'STOPPED').exists() else 'LOST')",
    )
    code, said = run.finish()
    assert code == 0, said


def test_nothing_is_left_when_the_command_is_started_again(supervise: "Supervise") -> None:
    stubborn = (
        "import os, signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "open(sys.argv[1] + '/' + sys.argv[2], 'w').write(str(os.getpid()));"
        "os.kill(os.getpid(), signal.SIGSTOP) if sys.argv[3:] else None; time.sleep(1000)"
    )
    run = supervise(
        # A helper that left the session, and a rank that is stopped.
        f"child({stubborn!r}, 'a', start_new_session=True); child({stubborn!r}, 'b', 'pretrain');"
        "wait_for('a'); wait_for('b'); time.sleep(0.2); sys.exit(1)",
        "pids = [int((run / name).read_text()) for name in 'ab'];"
        "mark('COMPLETED') if not any(Path(f'/proc/{pid}').exists() for pid in pids) else 0",
    )
    code, said = run.finish()
    assert code == 0, said
    assert run.starts() == 2


def test_ranks_that_do_not_stop_are_killed_after_the_grace(supervise: "Supervise") -> None:
    run = supervise(
        "signal.signal(signal.SIGTERM, signal.SIG_IGN); mark('ready'); time.sleep(1000)",
        options=("--grace", "1"),
    )
    run.wait_for("ready")
    run.process.send_signal(signal.SIGTERM)
    code, said = run.finish()
    assert code == 75 and "not ended 1 s later" in said
    assert run.events("end")[0]["signal"] == "SIGKILL"


def test_a_second_ctrl_c_ends_everything_at_once(supervise: "Supervise") -> None:
    run = supervise(
        "signal.signal(signal.SIGTERM, lambda *_: mark('asked')); mark('ready')\n"
        "while True: time.sleep(0.05)"
    )
    run.wait_for("ready")
    run.process.send_signal(signal.SIGINT)
    run.wait_for("asked")
    run.process.send_signal(signal.SIGINT)
    assert run.finish()[0] == 75


def test_a_stop_during_the_pause_before_a_restart(supervise: "Supervise") -> None:
    run = supervise("sys.exit(1)", options=("--backoff", "1000"))
    while "restart" not in run.wait_for("supervise.jsonl"):
        assert run.process.poll() is None
    run.process.send_signal(signal.SIGTERM)
    assert run.finish()[0] == 75 and run.starts() == 1


def test_a_run_in_which_nothing_moves_is_started_again(supervise: "Supervise") -> None:
    run = supervise(
        # It moves for longer than the limit, first in one way and then in the other.
        "for i in range(20): time.sleep(0.2); (run / 'metrics.jsonl').write_text('x' * i)\n"
        "for i in range(20): time.sleep(0.2); (run / 'evaluation.json').write_text('x' * i)\n"
        "mark('moved'); time.sleep(1000)",
        "mark('COMPLETED')",
        options=("--stall", "2.5"),
    )
    code, said = run.finish()
    assert code == 0, said
    assert run.starts() == 2 and (run.run_dir / "moved").exists()
    assert run.events("end")[0]["stalled"] and "has moved for 2.5 s" in said


def test_the_command_ends_when_its_supervisor_is_killed(supervise: "Supervise") -> None:
    run = supervise(
        "signal.signal(signal.SIGTERM, lambda *_: (mark('asked'), os._exit(0)));"
        "mark('ready')\nwhile True: time.sleep(0.05)"
    )
    run.wait_for("ready")
    run.process.kill()
    run.process.wait()
    deadline = time.monotonic() + 60
    while not (run.run_dir / "asked").exists():
        assert time.monotonic() < deadline


def test_a_journal_that_cannot_be_written_does_not_end_it(
    supervise: "Supervise", tmp_path: Path
) -> None:
    os.makedirs(tmp_path / "run" / "supervise.jsonl")
    run = supervise("sys.exit(1)", "mark('COMPLETED')")
    code, said = run.finish()
    assert code == 0 and "cannot be written" in said
