"""Processes for the stages that need the CPU, over `concurrent.futures`.

What is added to it: results in the order of the tasks with a bounded number under way, progress
from inside a task, a stop that reaches running tasks, and workers that end when their parent is
killed. The results do not depend on the number of workers; with one, no process is started.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.connection import wait as wait_for_handles
from types import TracebackType
from typing import Any, Literal, TypeVar

from megaxlm.errors import EXIT_FOUND_WRONG, UserError

TaskT = TypeVar("TaskT")
ResultT = TypeVar("ResultT")
_POLL_SECONDS = 0.2


class StoppedError(Exception):
    """Another task failed; this one gives up."""


class _Control:
    """Shared by the parent and its workers: work done, and whether to stop."""

    def __init__(self, done: Any, stop: Any) -> None:
        self.done, self.stop = done, stop


class _Local:
    """A number of this process alone, in the place of a shared one."""

    def __init__(self) -> None:
        self.value = 0

    def get_lock(self) -> threading.Lock:
        return threading.Lock()


_control = _Control(_Local(), _Local())


def advance(amount: int) -> None:
    """Called by a task: reports work done.

    Raises:
        StoppedError: The build is being stopped.
    """
    with _control.done.get_lock():
        _control.done.value += amount
    if _control.stop.value:
        raise StoppedError


def taken() -> int:
    """Returns the work that was reported in this process since the last call."""
    return _take(_control)


def _take(control: _Control) -> int:
    with control.done.get_lock():
        amount = int(control.done.value)
        control.done.value = 0
    return amount


def available_cpus() -> int:
    """Returns the number of CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _start_worker(done: Any, stop: Any) -> None:
    global _control
    _control = _Control(done, stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    threading.Thread(target=_end_with_parent, daemon=True).start()


@contextmanager
def _children_without_interrupt() -> Iterator[None]:
    """Keeps Ctrl-C from processes started here, also while they start and could only print."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)  # one that came meanwhile arrives now


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait_for_handles([parent.sentinel])
    os._exit(1)  # the parent was killed: nobody waits for the result


class WorkerPool:
    """Runs tasks in `count` processes; in this one if `count` is 1."""

    def __init__(self, count: int) -> None:
        self.count = count  # CPUs of this host that may be used
        self._pool: ProcessPoolExecutor | None = None
        self._control = _control

    @property
    def width(self) -> int:
        """How many tasks run at once."""
        return self.count

    @property
    def in_this_process(self) -> bool:
        """Whether no other process is needed."""
        return self.count == 1

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._pool is not None:
            self._control.stop.value = int(error is not None)
            self._pool.shutdown(wait=True, cancel_futures=True)

    def map(
        self,
        function: Callable[[TaskT], ResultT],
        tasks: Iterable[TaskT],
        order: Literal["tasks", "finished"],
        report: Callable[[int], object] = lambda amount: None,
    ) -> Iterator[tuple[TaskT, ResultT]]:
        """Runs a function of a module on every task.

        Args:
            function: Takes a task, returns a result; both are pickled.
            tasks: Taken one by one, a few per worker ahead of what is consumed.
            order: Whether results come in the order of the tasks or as they are finished.
            report: Called with the work that `advance` was told of since the last call.

        Raises:
            UserError: What a task raised, or a worker was killed.
        """
        if self.in_this_process:
            for task in tasks:
                result = function(task)
                report(self._taken())
                yield task, result
            return
        pool = self._start()
        waiting = iter(tasks)
        under_way: deque[tuple[TaskT, Future[ResultT]]] = deque()
        try:
            while True:
                while len(under_way) < 4 * self.width:
                    try:
                        task = next(waiting)
                    except StopIteration:
                        break
                    with _children_without_interrupt():
                        under_way.append((task, pool.submit(function, task)))
                if not under_way:
                    break
                candidates = [under_way[0][1]] if order == "tasks" else [f for _, f in under_way]
                done, _ = wait(candidates, timeout=_POLL_SECONDS, return_when=FIRST_COMPLETED)
                report(self._taken())
                for entry in [entry for entry in under_way if entry[1] in done]:
                    under_way.remove(entry)
                    yield entry[0], entry[1].result()
        except BrokenProcessPool:
            raise UserError(
                "a worker process was killed, perhaps for want of memory; run the same command "
                "again to continue, with fewer `workers`",
                EXIT_FOUND_WRONG,
            ) from None
        report(self._taken())

    def _start(self) -> Executor:
        if self._pool is None:
            # spawn: a fork of a process with threads (Arrow, the bars) can deadlock
            context = multiprocessing.get_context("spawn")
            self._control = _Control(context.Value("q", 0), context.Value("b", 0))
            self._pool = ProcessPoolExecutor(
                self.count,
                mp_context=context,
                initializer=_start_worker,
                initargs=(self._control.done, self._control.stop),
            )
        return self._pool

    def _taken(self) -> int:
        return _take(self._control)
