"""A launch command in place of a real one: what it does at each start is a line of Python."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

# Run as `python fake.py RUN_DIR pretrain LINE LINE ...`, a line for each start, the last for more.
FAKE = """
import hashlib, json, os, signal, subprocess, sys, time
from pathlib import Path

run, lines = Path(sys.argv[1]), sys.argv[3:]
run.mkdir(exist_ok=True)
with open(run / "starts", "a") as file:
    file.write(".")
start = (run / "starts").stat().st_size


def checkpoint(step):
    folder = run / "checkpoints" / f"step-{step:08d}"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("content")
    (folder / "COMPLETE").write_text(hashlib.sha256(b"content").hexdigest())


def mark(name):
    (run / f"{name}.new").write_text(str(time.time_ns()))
    os.rename(run / f"{name}.new", run / name)


def stop(cause):
    (run / "STOPPED").write_text(json.dumps({"step": start, "cause": cause}))


def child(code, *more, **options):
    return subprocess.Popen([sys.executable, "-c", code, str(run), *more], **options)


def wait_for(name):
    while not (run / name).exists():
        time.sleep(0.01)


exec(lines[min(start, len(lines)) - 1])
"""


class Supervised:
    """A supervisor that runs the fake command."""

    def __init__(self, process: subprocess.Popen[str], run_dir: Path) -> None:
        self.process, self.run_dir = process, run_dir

    def wait_for(self, name: str) -> str:
        """Returns the content of a file of the run folder once it is there and not empty."""
        path = self.run_dir / name
        while not path.exists() or not path.read_text():
            assert self.process.poll() is None, self.process.communicate()
        return path.read_text()

    def finish(self) -> tuple[int, str]:
        """Returns exit code and what was said."""
        said, _ = self.process.communicate(timeout=120)
        return self.process.returncode, said

    def starts(self) -> int:
        """Returns how often the command was started."""
        return len((self.run_dir / "starts").read_text())

    def events(self, kind: str) -> list[dict[str, Any]]:
        """Returns the journal's events of a kind."""
        lines = (self.run_dir / "supervise.jsonl").read_text().splitlines()
        return [event for event in map(json.loads, lines) if event["event"] == kind]


Supervise = Callable[..., Supervised]


@pytest.fixture
def supervise(tmp_path: Path) -> Iterator[Supervise]:
    """Starts `megaxlm supervise OPTIONS -- FAKE LINES`."""
    started: list[subprocess.Popen[str]] = []
    (tmp_path / "fake.py").write_text(FAKE)
    run_dir = tmp_path / "run"

    def start(*lines: str, options: tuple[str, ...] = ()) -> Supervised:
        fake = [sys.executable, str(tmp_path / "fake.py"), str(run_dir), "pretrain", *lines]
        own = [sys.executable, "-m", "megaxlm", "supervise", "--backoff", "0.02"]
        process = subprocess.Popen(
            [*own, "--run-dir", str(run_dir), *options, "--", *fake],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        started.append(process)
        return Supervised(process, run_dir)

    yield start
    for process in started:
        process.kill()
        process.wait()
