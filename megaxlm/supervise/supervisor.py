"""`megaxlm supervise -- COMMAND`: one launch command, started until the run is done.

It is meant to be the outermost process of a job: a signal to it reaches the ranks and not merely
their launcher, it ends when none of them is left, and its exit code is that of the run, whatever
the launcher makes of it. Each crash is followed by a restart, which resumes from the newest valid
checkpoint.

On several nodes there is one supervisor, where the launch command is started (`deepspeed
--hostfile`, `srun`, `mpiexec`). Its processes on the other nodes are not its descendants: a stop
reaches them because the ranks agree on it, a crash because the run's watchdog ends ranks that have
lost one, and `srun` clears its own step.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from megaxlm.errors import EXIT_RESUMABLE
from megaxlm.supervise.journal import Journal
from megaxlm.supervise.policy import (
    GAVE_UP,
    Limits,
    Outcome,
    RestartPolicy,
    exit_code,
    is_unsaved_stop,
)
from megaxlm.supervise.processes import POLL_SECONDS, SCAN_SECONDS, Launch
from megaxlm.supervise.run_watch import RunWatch

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP)
LOOK_SECONDS = 1.0  # between two looks at the run folder


def supervise(command: Sequence[str], run_dir: Path, limits: Limits) -> int:
    """Runs a launch command until its run is complete, stopped on request or beyond help.

    Args:
        command: The launch command and its arguments.
        run_dir: The folder of the run that it trains.
        limits: How often and how fast it is started again.

    Returns:
        0 when the run is complete, 75 when it was stopped and has saved, 2 when the command
        refuses its arguments or config, 1 when restarts do not help or a stopped run could not
        save.

    Raises:
        UserError: The command cannot be started at all.
    """
    return Supervisor(command, run_dir, limits).run()


class Supervisor:
    """Starts the command, watches over it, and decides what comes next."""

    def __init__(self, command: Sequence[str], run_dir: Path, limits: Limits) -> None:
        self._command, self._limits = list(command), limits
        self._run_dir = run_dir
        self._journal = Journal(run_dir)
        self._stop_signal: int | None = None
        self._hurry = False

    def run(self) -> int:
        """Runs starts and restarts; returns the exit code."""
        with self._listening():
            watch = RunWatch(self._run_dir)
            policy = RestartPolicy(self._limits, watch.checkpoint_step)
            attempt = 0
            while self._stop_signal is None:
                attempt += 1
                outcome = self._attempt(attempt, watch)
                code = exit_code(outcome)
                if code is None:
                    delay, problem = policy.after_crash(watch.checkpoint_step, time.monotonic())
                    if problem is not None:
                        self._journal.write("exit", f"giving up: {problem}", exit_code=GAVE_UP)
                        return GAVE_UP
                    self._pause(delay)
                    continue
                self._journal.write("exit", f"exit code {code}", exit_code=code)
                return code
            self._journal.write("exit", "stopped before a start", exit_code=EXIT_RESUMABLE)
            return EXIT_RESUMABLE

    def _attempt(self, attempt: int, watch: RunWatch) -> Outcome:
        watch.begin()
        begun = time.time()
        launch = Launch(self._command)
        self._journal.write(
            "start",
            f"start {attempt}, process {launch.pid}, from checkpoint {watch.checkpoint_step}",
            attempt=attempt,
            pid=launch.pid,
            checkpoint_step=watch.checkpoint_step,
            command=self._command,
        )
        stalled = self._wait(launch, watch)
        stopped = watch.stopped  # before the ranks that are left get a signal from here
        grace = 0.0 if stalled else self._limits.grace
        left = launch.clear(grace, hurry=lambda: self._hurry)
        if left:
            pids = ", ".join(str(process.pid) for process in left)
            self._journal.write("kill", f"SIGKILL does not end processes {pids}")
        outcome = Outcome(
            code=launch.code if launch.code is not None else -signal.SIGKILL,
            completed=watch.completed,
            stopped=stopped,
            saved=watch.saved or not watch.begun or launch.code == EXIT_RESUMABLE,
            asked=self._stop_signal is not None,
            stalled=stalled,
            cleared=not left,
        )
        self._report(attempt, outcome, watch, begun)
        return outcome

    def _wait(self, launch: Launch, watch: RunWatch) -> bool:
        """Returns when the command has ended or must be; whether it is for lack of progress."""
        deadline, next_look = None, 0.0
        while True:
            launch.reap()
            now = time.monotonic()
            if launch.code is not None or self._hurry:
                return False
            if self._stop_signal is not None:
                if deadline is None:
                    deadline = now + self._limits.grace
                    name = signal.Signals(self._stop_signal).name
                    self._journal.write("stop", f"{name}: asking the ranks to save", signal=name)
                if now >= deadline:
                    self._journal.write("kill", f"not ended {self._limits.grace:g} s later")
                    self._hurry = True
                    return False
                launch.ask_to_stop()
                time.sleep(SCAN_SECONDS)
            elif self._limits.stall is not None and now >= next_look:
                next_look = now + LOOK_SECONDS
                if watch.seconds_still() > self._limits.stall:
                    self._journal.write(
                        "kill", f"nothing in {self._run_dir} has moved for {self._limits.stall:g} s"
                    )
                    return True
            time.sleep(POLL_SECONDS)

    def _report(self, attempt: int, outcome: Outcome, watch: RunWatch, begun: float) -> None:
        before, now = watch.checkpoint_step, time.time()
        saved = watch.look_for_checkpoint()
        reached = watch.step_reached()
        since = begun
        if saved > before and watch.checkpoint_time is not None:
            since = max(begun, watch.checkpoint_time)
        code = outcome.code
        name = signal.Signals(-code).name if code < 0 else None
        how = f"ended by {name}" if name else f"ended with {code}"
        at = f"step {reached}" if reached is not None else "no step yet"
        if code == 0 and not outcome.completed:
            how += " without being complete"
        self._journal.write(
            "end",
            f"start {attempt} {how} after {now - begun:.0f} s; {at}, checkpoint {saved}",
            attempt=attempt,
            code=None if name else code,
            signal=name,
            seconds=round(now - begun, 3),
            step=reached,
            checkpoint_step=saved,
            seconds_lost=0.0 if outcome.completed else round(max(0.0, now - since), 3),
            completed=outcome.completed,
            stopped=outcome.stopped,
            stalled=outcome.stalled,
        )
        if is_unsaved_stop(outcome):
            self._journal.write(
                "unsaved", f"{at} was not saved; the newest checkpoint is of step {saved}"
            )

    def _pause(self, seconds: float) -> None:
        self._journal.write("restart", f"starting again in {seconds:g} s", delay=seconds)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and self._stop_signal is None:
            time.sleep(POLL_SECONDS)

    @contextmanager
    def _listening(self) -> Iterator[None]:
        """Turns signals into requests to stop; a second Ctrl-C ends everything at once."""

        def note(number: int, frame: FrameType | None) -> None:
            self._hurry = self._hurry or number == self._stop_signal == signal.SIGINT
            self._stop_signal = self._stop_signal or number

        former = {number: signal.getsignal(number) for number in STOP_SIGNALS}
        for number, handler in former.items():
            if handler != signal.SIG_IGN:  # `nohup` has had SIGHUP ignored
                signal.signal(number, note)
        try:
            yield
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)
