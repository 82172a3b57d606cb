import gc
import threading
import time
from collections.abc import Iterator
from itertools import count, islice

import pytest

from megaxlm.data.prefetch import Prefetcher


def threads() -> int:
    return sum(thread.name == "prefetch" for thread in threading.enumerate())


def wait_until_no_thread() -> None:
    until = time.monotonic() + 10
    while threads() and time.monotonic() < until:
        time.sleep(0.01)
    assert threads() == 0


def test_same_items_in_order_then_the_end() -> None:
    prefetcher = Prefetcher(iter(range(100)), depth=3)
    assert list(prefetcher) == list(range(100))
    with pytest.raises(StopIteration):
        next(prefetcher)
    wait_until_no_thread()


def test_runs_ahead_by_depth_alone() -> None:
    made: list[int] = []

    def source() -> Iterator[int]:
        for number in count():
            made.append(number)
            yield number

    prefetcher = Prefetcher(source(), depth=3)
    assert next(prefetcher) == 0
    until = time.monotonic() + 10
    while len(made) < 5 and time.monotonic() < until:
        time.sleep(0.01)
    time.sleep(0.05)
    assert len(made) == 5  # one taken, three held, one waiting for room
    prefetcher.close()


def test_an_error_comes_where_its_item_would_have() -> None:
    def source() -> Iterator[int]:
        yield 1
        raise OSError("disk gone")

    prefetcher = Prefetcher(source(), depth=2)
    assert next(prefetcher) == 1
    for _ in range(2):  # and again, should the consumer ask again
        with pytest.raises(OSError, match="disk gone"):
            next(prefetcher)
    wait_until_no_thread()


def test_close_ends_the_thread_while_the_queue_is_full() -> None:
    prefetcher = Prefetcher(count(), depth=2)
    assert list(islice(prefetcher, 3)) == [0, 1, 2]
    prefetcher.close()
    assert threads() == 0
    prefetcher.close()
    with pytest.raises(StopIteration):
        next(prefetcher)


def test_thread_ends_with_a_forgotten_object() -> None:
    prefetcher = Prefetcher(count(), depth=1)
    next(prefetcher)
    del prefetcher
    gc.collect()
    wait_until_no_thread()
