"""For tests: a small run to train under a real launcher, and looks at its processes and steps."""

from __future__ import annotations

import importlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from megaxlm.testing.datasets import write_dataset
from megaxlm.testing.distributed import Ranks

START_SECONDS = 240.0  # for a launcher and its ranks to begin to train on a busy machine
BIN = Path(sys.executable).parent
# Dropout is on: a resumed run must draw the same masks.
_CONFIG = """\
run_dir: {run_dir}
seed: 5
data: {{path: {data}, seq_len: 16}}
model:
  {{hidden_size: 8, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 16,
    hidden_dropout_prob: 0.1, attention_probs_dropout_prob: 0.1}}
training:
  {{max_steps: {steps}, global_batch_size: {rows}, micro_batch_size: 1, precision: fp32,
    zero_stage: 1}}
checkpoint: {{every_steps: {every_steps}, keep_last: 3}}
logging: {{every_steps: 1, tensorboard: false}}
evaluation: {{max_rows_per_language: 4}}
"""


def launch_command(launcher: str, *arguments: str, program: str | None = None) -> list[str]:
    """Returns the command that starts two ranks of `megaxlm ARGUMENTS` under a launcher.

    Args:
        launcher: `deepspeed`, `torchrun` or `mpiexec`.
        arguments: Of megaxlm.
        program: A Python file to start in its place.
    """
    module = ["--module" if launcher == "deepspeed" else "-m", "megaxlm"]
    options = {
        "deepspeed": ["--num_gpus", "2", "--master_port", str(free_port())],
        "torchrun": ["--nproc-per-node", "2", "--master-port", str(free_port())],
        "mpiexec": ["-n", "2", sys.executable],
    }[launcher]
    started = module if program is None else [program]
    return [str(BIN / launcher), *options, *started, *arguments]


def start_forked(world_size: int, *arguments: str) -> Ranks:
    """Starts ranks of `megaxlm ARGUMENTS` without a launcher, forked where torch is imported."""
    return Ranks(run_megaxlm, world_size, *arguments)


def run_megaxlm(*arguments: str) -> None:
    """Is `megaxlm ARGUMENTS`; ends this process."""
    sys.argv = ["megaxlm", *arguments]
    importlib.import_module("megaxlm.cli").run()


def free_port() -> int:
    """Returns a TCP port of this machine that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def write_small_dataset(path: Path) -> None:
    """Writes a data set of one language with random tokens."""
    random = np.random.default_rng(0)
    documents = [list(map(int, random.integers(4, 40, 30))) for _ in range(400)]
    write_dataset(path, {"en": documents}, vocab_size=48)


def write_small_config(path: Path, data: Path, steps: int, every_steps: int, rows: int = 4) -> Path:
    """Writes the config of a run beside its folder and returns the folder."""
    run_dir = path.with_suffix("")
    path.write_text(
        _CONFIG.format(run_dir=run_dir, data=data, steps=steps, every_steps=every_steps, rows=rows)
    )
    return run_dir


def clean_environment() -> dict[str, str]:
    """Returns the environment for two CPU ranks that no launcher has started yet."""
    env = {key: value for key, value in os.environ.items() if not key.startswith("SLURM")}
    env = {key: value for key, value in env.items() if not key.endswith("RANK")}
    env |= {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    return env | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


class Running:
    """A launch command that runs, and the processes of its run."""

    def __init__(self, process: subprocess.Popen[bytes], run_dir: Path, output: Path) -> None:
        self.process, self.run_dir, self._output = process, run_dir, output

    def said(self) -> str:
        """Returns all output so far."""
        return self._output.read_text(errors="replace")

    def members(self) -> list[psutil.Process]:
        """Returns every living process that names the run's config: launchers, shells, ranks."""
        config = str(self.run_dir.with_suffix(".yaml"))
        found = []
        for process in psutil.process_iter():
            try:
                line = process.cmdline()
                if any(config in word for word in line) and process.status() != "zombie":
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def ranks(self) -> list[psutil.Process]:
        """Returns the two training processes in order of their ranks."""
        found = {}
        for process in self.members():  # from parents to children, as a rule
            env = process.environ()
            for name in ("RANK", "PMI_RANK"):
                if name in env:
                    found[int(env[name])] = process
        return [found[rank] for rank in sorted(found)]

    def has_stopped_rank(self) -> bool:
        """Whether one of its processes is stopped by a signal."""
        states = []
        for process in self.members():
            with suppress(psutil.Error):  # ended meanwhile
                states.append(process.status())
        return psutil.STATUS_STOPPED in states

    def metrics(self) -> list[dict[str, Any]]:
        """Returns the lines of the steps done."""
        path = self.run_dir / "metrics.jsonl"
        found = []
        for line in path.read_text().splitlines() if path.exists() else []:
            try:
                found.append(json.loads(line))
            except ValueError:  # being written right now
                break
        return [line for line in found if "loss" in line]

    def step(self) -> int:
        """Returns the last step of the metrics, 0 if there is none."""
        return max((line["step"] for line in self.metrics()), default=0)

    def wait_for(self, condition: Callable[[], bool], seconds: float = START_SECONDS) -> None:
        """Returns when the condition holds.

        Raises:
            AssertionError: The command has ended before, or it takes too long.
        """
        deadline = time.monotonic() + seconds
        while not condition():
            assert self.process.poll() is None, f"ended early: {self.said()}"
            assert time.monotonic() < deadline, f"nothing happened: {self.said()}"
            time.sleep(0.02)

    def wait_for_line(self, text: str, seconds: float) -> float:
        """Returns after how many seconds the output held a text, ended or not.

        Raises:
            AssertionError: It takes too long.
        """
        began = time.monotonic()
        while text not in self.said():
            assert time.monotonic() - began < seconds, f"not said in {seconds} s: {self.said()}"
            time.sleep(0.02)
        return time.monotonic() - began

    def wait(self, seconds: float = START_SECONDS) -> int:
        """Returns the exit code of the command."""
        return self.process.wait(seconds)

    def wait_for_none_left(self, seconds: float) -> float:
        """Returns after how many seconds no process of the run was left.

        Raises:
            AssertionError: Some are left.
        """
        began = time.monotonic()
        while left := self.members():
            if time.monotonic() - began > seconds:
                raise AssertionError(f"left: {left}; {self.said()}")
            time.sleep(0.05)
        return time.monotonic() - began


@contextmanager
def running(command: Sequence[str], run_dir: Path) -> Iterator[Running]:
    """Runs a command in a process group of its own; none of its run is left afterwards."""
    output = run_dir.with_suffix(".out")
    with open(output, "ab") as file:
        process = subprocess.Popen(
            command,
            env=clean_environment(),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            process_group=0,
        )
    run = Running(process, run_dir, output)
    try:
        yield run
    finally:
        process.kill()
        process.wait()
        for left in run.members():
            left.kill()
