"""Runs a function on several real ranks: a process each, gloo on 127.0.0.1.

DeepSpeed keeps state in modules, so ranks that live in one process, or engines of two kinds in one
process, do not tell what a run would do. A failing rank fails the test with its traceback, and no
process outlives the test: each is killed when another fails, when time is up, and when the test
process itself is gone.
"""

from __future__ import annotations

import contextlib
import faulthandler
import importlib.util
import inspect
import multiprocessing
import os
import pickle
import signal
import socket
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

Result = TypeVar("Result")
POLL_SECONDS = 0.02
# Imported once for all ranks of a test run. Nothing of it starts a thread or reads a rank. The last
# two are what DeepSpeed imports at its first use; with TorchDynamo it takes as long as the others.
PRELOADED = (
    "megaxlm.cli",
    "megaxlm.train.pretrain",
    "megaxlm.train.pipeline_engine",
    "deepspeed.runtime.zero.muon.muon_optimizer",
    "setuptools",
)


class RankFailedError(AssertionError):
    """A rank raised, died or ran out of time; the message holds its traceback and output."""


def run_distributed(
    function: Callable[..., Result],
    world_size: int,
    *arguments: Any,
    timeout_seconds: float = 120.0,
    env: Mapping[str, str] | None = None,
) -> list[Result]:
    """Calls `function(*arguments)` on every rank and returns the results in order of rank.

    Ranks find their place in RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT.

    Args:
        function: A function at the top level of a module.
        world_size: Number of processes.
        *arguments: Picklable; the same for every rank.
        timeout_seconds: For all ranks together, start-up included.
        env: Variables to add or change.

    Raises:
        RankFailedError: A rank failed; all others were killed.
    """
    with Ranks(function, world_size, *arguments, env=env) as ranks:
        ranks.wait_for_success(timeout_seconds)
        return ranks.results()


class Ranks:
    """Ranks that run, for tests that have a part in how they end; `run_distributed` is the rule.

        with Ranks(function, 2, *arguments) as ranks:
            ranks.send_signal(1, signal.SIGTERM)
            codes, said = ranks.finish(120)

    Arguments are those of `run_distributed`. None of them outlives the `with`.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        world_size: int,
        *arguments: Any,
        env: Mapping[str, str] | None = None,
    ) -> None:
        source = inspect.getsourcefile(function)
        assert source is not None and "<locals>" not in function.__qualname__, function
        assert function.__module__ != "__main__", "ranks would run the starting script again"
        self._folder = tempfile.TemporaryDirectory(prefix="megaxlm-ranks-")
        self._home = Path(self._folder.name)
        target = (str(Path(source).resolve()), function.__module__, function.__qualname__)
        (self._home / "target.pkl").write_bytes(pickle.dumps(target))
        (self._home / "arguments.pkl").write_bytes(pickle.dumps(arguments))
        place = {"WORLD_SIZE": str(world_size), "MASTER_PORT": str(_free_port()), **(env or {})}
        self._ranks: list[_Rank] = []
        try:
            for rank in range(world_size):
                self._ranks.append(_Rank(self._home, rank, _environment(rank, place)))
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Ranks:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Kills every rank with all that it started."""
        for rank in self._ranks:
            rank.kill()
        self._folder.cleanup()

    def codes(self) -> list[int | None]:
        """Returns exit codes, or minus the signal; None of a rank that runs."""
        return [rank.poll() for rank in self._ranks]

    @property
    def pids(self) -> list[int]:
        """Process ids in order of rank."""
        return [rank.pid for rank in self._ranks]

    def send_signal(self, rank: int, number: int) -> None:
        """Sends a signal to one rank, unless it has ended."""
        self._ranks[rank].send_signal(number)

    def said(self, rank: int) -> str:
        """Returns what a rank has written on standard output and standard error."""
        path = self._home / f"output-{rank}.txt"
        return path.read_text(errors="replace") if path.exists() else ""

    def finish(self, timeout_seconds: float) -> tuple[list[int], str]:
        """Returns how each rank ended, and all that was said.

        Raises:
            RankFailedError: They take longer than that.
        """
        self._wait(timeout_seconds, one_is_enough=False)
        codes = [code for code in self.codes() if code is not None]
        return codes, "".join(self.said(rank) for rank in range(len(codes)))

    def wait_for_success(self, timeout_seconds: float) -> None:
        """Returns when all ranks are done.

        Raises:
            RankFailedError: One failed, or they take longer than that.
        """
        self._wait(timeout_seconds, one_is_enough=True)
        for rank, code in enumerate(self.codes()):
            if code not in (None, 0):
                raise RankFailedError(f"rank {rank} ended with {code}\n{self._last(rank)}")

    def results(self) -> list[Any]:
        """Returns what the function returned on each rank; all are done."""
        paths = [self._home / f"result-{rank}.pkl" for rank in range(len(self._ranks))]
        return [pickle.loads(path.read_bytes()) for path in paths]

    def _wait(self, timeout_seconds: float, one_is_enough: bool) -> None:
        """Returns when all have ended, or one has failed."""
        deadline = time.monotonic() + timeout_seconds
        while None in (codes := self.codes()):
            if one_is_enough and any(codes):
                return
            if time.monotonic() > deadline:
                slow = [rank for rank, code in enumerate(codes) if code is None]
                outputs = "\n".join(f"rank {rank}:\n{self._last(rank)}" for rank in slow)
                raise RankFailedError(f"ranks {slow} not done after {timeout_seconds} s\n{outputs}")
            time.sleep(POLL_SECONDS)

    def _last(self, rank: int) -> str:
        return self.said(rank)[-6000:]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class _Rank:
    """A rank's process, forked off one that has torch and DeepSpeed imported but nothing begun.

    Importing them takes seconds of a core for each rank; a fork takes none, and what it finds is
    what an import leaves behind.
    """

    def __init__(self, home: Path, rank: int, environment: dict[str, str]) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(list(PRELOADED))
        before = dict(os.environ)
        os.environ.update(environment)  # what imports look at, where the server starts just now
        try:
            # Not daemonic: a rank may start processes. It ends with this one by itself.
            self._process = context.Process(target=_rank_main, args=(str(home), rank, environment))
            self._process.start()
        finally:
            os.environ.clear()
            os.environ.update(before)

    def poll(self) -> int | None:
        """Returns the exit code; None while it runs."""
        return self._process.exitcode

    @property
    def pid(self) -> int:
        """The process id."""
        assert self._process.pid is not None
        return self._process.pid

    def send_signal(self, number: int) -> None:
        """Sends it a signal, unless it has ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):  # it has ended just now
                os.kill(self.pid, number)

    def kill(self) -> None:
        """Ends it with all that it started, by the session it leads."""
        for kill in (os.killpg, os.kill):  # it may not have come so far as to lead a session
            with contextlib.suppress(ProcessLookupError, PermissionError):
                kill(self.pid, signal.SIGKILL)
        self._process.join()


def _environment(rank: int, place: Mapping[str, str]) -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "OMP_NUM_THREADS": "1",
        "DS_ACCELERATOR": "cpu",
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "MASTER_ADDR": "127.0.0.1",
        **place,
    }


def _end_with_parent() -> None:
    """Ends this rank when the test process is gone."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os.killpg(os.getpid(), signal.SIGKILL)  # the session that this rank leads

    threading.Thread(target=watch, daemon=True).start()


def _rank_main(home: str, rank: int, environment: dict[str, str]) -> None:
    """What the forked process runs; never returns."""
    os.setsid()
    os.environ.clear()
    os.environ.update(environment)
    with open(Path(home) / f"output-{rank}.txt", "wb") as output, open(os.devnull, "rb") as nothing:
        for file, descriptor in ((nothing, 0), (output, 1), (output, 2)):
            os.dup2(file.fileno(), descriptor)
    faulthandler.enable()  # a crash in native code says where
    code = 1  # others may be gone, and leaving the process group would wait for them
    try:
        _run_rank(Path(home), rank)
        code = 0
    except SystemExit as ended:  # of a command
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _run_rank(home: Path, rank: int) -> None:
    _end_with_parent()
    path, module_name, qualified_name = pickle.loads((home / "target.pkl").read_bytes())
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None and spec.loader is not None, path
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # arguments may be instances of the module's own classes
    spec.loader.exec_module(module)
    function: Any = module
    for part in qualified_name.split("."):
        function = getattr(function, part)
    arguments = pickle.loads((home / "arguments.pkl").read_bytes())
    result = function(*arguments)
    (home / f"result-{rank}.pkl").write_bytes(pickle.dumps(result))
