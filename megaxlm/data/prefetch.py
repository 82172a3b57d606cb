"""Runs an iterator ahead of its consumer in a background thread."""

from __future__ import annotations

import queue
import threading
import weakref
from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")

_POLL_SECONDS = 0.1  # how soon a thread whose queue is full notices that it may end


class _Failure:
    def __init__(self, error: BaseException) -> None:
        self.error = error


class _End:
    pass


class Prefetcher(Generic[T]):
    """An iterator over the same items, of which up to `depth` are made in advance.

    An exception in the source is raised where its item would have come. The thread ends on
    `close`, when the source ends, and when this object is garbage.
    """

    def __init__(self, source: Iterator[T], depth: int) -> None:
        """Starts the thread.

        Args:
            source: What to run ahead; it is used by the thread alone from now on.
            depth: Items held in advance, at least 1.
        """
        self._queue: queue.Queue[T | _Failure | _End] = queue.Queue(depth)
        self._stop = threading.Event()
        self._last: _Failure | _End | None = None
        self._thread = threading.Thread(
            target=_run, args=(source, self._queue, self._stop), name="prefetch", daemon=True
        )
        weakref.finalize(self, self._stop.set)
        self._thread.start()

    def __iter__(self) -> Prefetcher[T]:
        return self

    def __next__(self) -> T:
        item = self._last if self._last is not None else self._queue.get()
        if isinstance(item, _Failure):
            self._last = item
            raise item.error
        if isinstance(item, _End):
            self._last = item
            raise StopIteration
        return item

    def close(self) -> None:
        """Ends the thread and waits for it; items made in advance are lost. May be repeated."""
        self._stop.set()
        self._last = _End()
        while self._thread.is_alive():
            try:
                self._queue.get_nowait()  # so that a thread that waits for room goes on at once
            except queue.Empty:
                self._thread.join(timeout=0.01)


def _run(source: Iterator[T], out: queue.Queue[T | _Failure | _End], stop: threading.Event) -> None:
    def put(item: T | _Failure | _End) -> None:
        while not stop.is_set():
            try:
                return out.put(item, timeout=_POLL_SECONDS)
            except queue.Full:
                continue

    try:
        while not stop.is_set():
            put(next(source))
    except StopIteration:
        put(_End())
    except BaseException as error:  # whatever it is, the consumer has to hear of it
        put(_Failure(error))
