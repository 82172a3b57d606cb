"""Threads for work that runs outside the interpreter's lock: hashing, NumPy over mapped files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from megaxlm_data.workers import available_cpus

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


def map_threads(
    function: Callable[[ItemT], ResultT], items: Sequence[ItemT], threads: int | None = None
) -> Iterator[ResultT]:
    """Yields the result for every item, in order.

    Args:
        function: Called in any of the threads.
        items: Its arguments.
        threads: How many at once; None for one a CPU that this process may use.
    """
    executor = ThreadPoolExecutor(threads or available_cpus())
    try:
        yield from executor.map(function, items)
    finally:
        # without it a Ctrl-C would wait for all items
        executor.shutdown(wait=True, cancel_futures=True)
