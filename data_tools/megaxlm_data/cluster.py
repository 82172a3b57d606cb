"""The worker pool of a Dask cluster, for builds that one machine is too small for.

`megaxlm data build CONFIG --dask ADDRESS` hands the tasks of every stage, those of the near
duplicates' shuffle among them, to a cluster that runs already; scheduling, lost workers and tasks
that move to another one are Dask's. Tasks read and write files that all its workers see at the same
path, and are pure functions of these: one that runs twice leaves the same bytes.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, Executor
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TypeVar

import megaxlm
from megaxlm.errors import EXIT_FOUND_WRONG, UserError
from megaxlm_data import workers
from megaxlm_data.workers import WorkerPool
from megaxlm_data.writers.cleaned import open_cleaned

TaskT = TypeVar("TaskT")
ResultT = TypeVar("ResultT")
CONNECT_SECONDS = 30  # to reach the scheduler, and for a first worker to be there
_CONTINUE = "run the same command again to continue, finished work is kept"
_START = "`dask worker {} --nworkers CORES --nthreads 1`"

_build_of_worker = ""  # whose files this worker process has open


class DaskPool(WorkerPool):
    """Runs tasks on the workers of a Dask cluster.

    Args:
        count: CPUs of this host that may be used, for what is not done in tasks.
        where: Address of the scheduler (tcp://host:8786), or its `--scheduler-file`.
        output: A folder that is there; every worker must see it.

    Raises:
        UserError: Dask is not installed, the scheduler does not answer, or a worker cannot take
            part: it does not see `output`, has several threads, or another version of this.
    """

    def __init__(self, count: int, where: str, output: Path) -> None:
        super().__init__(count)
        self._build, self._folder, self._output = uuid.uuid4().hex, os.getcwd(), output.absolute()
        self._checked: set[str] = set()
        self._client = _connect(where)
        self._executor: Executor | None = None
        try:
            self._look_at_workers()
        except BaseException:
            self._client.close()
            raise

    @property
    def width(self) -> int:
        """How many tasks run at once, by the workers that are there now."""
        return max(1, len(self._checked))

    @property
    def in_this_process(self) -> bool:
        """Never."""
        return False

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # What runs on when the build ends by an error is finished there and found by the next one.
        # Where the scheduler is gone, both may fail too; what ended the build is the error to show.
        with contextlib.suppress(Exception, asyncio.CancelledError):
            if self._executor is not None:
                self._executor.shutdown(wait=False)
        with contextlib.suppress(Exception, asyncio.CancelledError):
            self._client.close()

    def map(
        self,
        function: Callable[[TaskT], ResultT],
        tasks: Iterable[TaskT],
        order: Literal["tasks", "finished"],
        report: Callable[[int], object] = lambda amount: None,
    ) -> Iterator[tuple[TaskT, ResultT]]:
        """Runs a function of a module on every task, as `WorkerPool.map` does.

        Raises:
            UserError: What a task raised; the scheduler is gone; or a task was tried on several
                workers that all died.
        """
        from distributed import KilledWorker
        from distributed.comm.core import CommClosedError

        run = _Run(function, self._build, self._folder)
        try:
            self._look_at_workers()
            for task, (result, amount) in super().map(run, tasks, order):
                report(amount)
                yield task, result
        except KilledWorker as error:
            raise UserError(
                f"{error.allowed_failures + 1} Dask workers died one after the other at the same "
                f"work, the last at {error.last_worker.address}, perhaps for want of memory; see "
                f"their logs, mend that, then {_CONTINUE}",
                EXIT_FOUND_WRONG,
            ) from None
        except (CancelledError, asyncio.CancelledError, CommClosedError, TimeoutError):
            raise UserError(
                f"the Dask scheduler is gone; start it, then {_CONTINUE}", EXIT_FOUND_WRONG
            ) from None

    def _start(self) -> Executor:
        if self._executor is None:
            # a task is never shared with an equal one: its files may be gone since
            self._executor = self._client.get_executor(pure=False)
        return self._executor

    def _look_at_workers(self) -> None:
        """Asks the workers that came since the last time whether they can take part."""
        try:
            self._client.wait_for_workers(1, timeout=CONNECT_SECONDS)
        except TimeoutError:
            raise UserError(
                f"the Dask scheduler has no worker; start some: {_start_of(self._client)}"
            ) from None
        there = self._client.nthreads()
        new = [address for address in there if address not in self._checked]
        for address, threads in there.items():
            if threads != 1:
                raise UserError(
                    f"Dask worker {address} has {threads} threads, and tasks need a process each; "
                    f"start it as {_start_of(self._client)}"
                )
        said = self._client.run(_describe, str(self._output), self._folder, workers=new)
        for address, (version, sees_output) in said.items():
            if version != megaxlm.__version__:
                raise UserError(
                    f"Dask worker {address} has megaxlm {version}, this is "
                    f"{megaxlm.__version__}; install the same everywhere"
                )
            if not sees_output:
                raise UserError(
                    f"Dask worker {address} does not see {self._output}; `output` and the input "
                    "must lie where all workers see them at the same path"
                )
        self._checked = set(there)


def _connect(where: str) -> Any:
    try:
        from distributed import Client
    except ImportError:
        raise UserError("--dask: Dask is not installed: pip install 'megaxlm[dask]'") from None
    address = where
    if "://" not in where:
        try:
            address = json.loads(Path(where).read_text(encoding="utf-8"))["address"]
        except (OSError, ValueError, KeyError, TypeError):
            raise UserError(
                f"--dask {where}: is neither an address such as tcp://HOST:8786 nor the file that "
                "`dask scheduler --scheduler-file` writes"
            ) from None
    for name in list(logging.root.manager.loggerDict):
        if name.startswith("distributed"):  # with tracebacks; what matters comes as an error here
            logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        return Client(address, timeout=CONNECT_SECONDS, set_as_default=False)  # type: ignore[no-untyped-call]
    except (OSError, ValueError) as error:  # TimeoutError is one, too
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"--dask {where}: no scheduler answers ({said}); start one: `dask scheduler`"
        ) from None


def _start_of(client: Any) -> str:
    return _START.format(client.scheduler.address)


def _describe(output: str, folder: str) -> tuple[str, bool]:
    """Returns the version of this package there, and whether that process sees the folders."""
    return megaxlm.__version__, os.path.isdir(output) and os.path.isdir(folder)


class _Run:
    """A function of tasks, with what a worker that outlives the build has to do before."""

    def __init__(self, function: Callable[[Any], Any], build: str, folder: str) -> None:
        self._function, self._build, self._folder = function, build, folder

    def __call__(self, task: Any) -> tuple[Any, int]:
        """Returns the result, and the work that `advance` was told of."""
        global _build_of_worker
        if _build_of_worker != self._build:
            open_cleaned.cache_clear()  # another build may have had other files under these names
            _build_of_worker = self._build
        before = os.getcwd()
        os.chdir(self._folder)  # paths of a recipe may be relative
        try:
            workers.taken()
            return self._function(task), workers.taken()
        finally:
            os.chdir(before)
