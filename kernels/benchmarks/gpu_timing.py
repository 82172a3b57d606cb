"""How a kernel is timed: on fresh memory, without the host, and against what the device can do.

A timed call works on inputs that no cache holds: so many sets of them are made that together they
exceed the last-level cache several times over, and the calls take turns. On a GPU all of them are
one CUDA graph, replayed; what cannot be captured is timed call by call, and said to be.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

BEYOND_CACHES = 256 << 20  # bytes; several times the 50 MB of an H100
SECONDS_A_CASE = 0.3

Call = Callable[[Any], Any]


@dataclass(frozen=True)
class Timing:
    """Of one call, with everything it was called on elsewhere than in cache."""

    seconds: float  # median
    peak_bytes: int  # at the most alive beyond the inputs
    captured: bool  # by a CUDA graph


def nbytes(values: Any) -> int:
    """Returns the bytes of all tensors in nested lists, tuples and dicts."""
    if isinstance(values, Tensor):
        return values.numel() * values.element_size()
    if isinstance(values, dict):
        values = list(values.values())
    return sum(map(nbytes, values)) if isinstance(values, (list, tuple)) else 0


def rotation(make: Callable[[int], Any], small: bool) -> list[Any]:
    """Returns as many sets of inputs as it takes to leave the caches, at least two."""
    first = make(0)
    wanted = 2 if small else max(2, -(-BEYOND_CACHES // max(nbytes(first), 1)))
    return [first, *(make(number) for number in range(1, min(wanted, 64)))]


def measure(call: Call, sets: Sequence[Any], device: torch.device) -> Timing:
    """Times one call over sets of inputs in turn."""
    for one in (*sets[:2], *sets[:2]):  # compilations, handles, workspaces
        call(one)
    if device.type != "cuda":
        return Timing(_by_clock(lambda: [call(one) for one in sets]) / len(sets), 0, False)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    call(sets[0])
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated() - before
    graph, captured = torch.cuda.CUDAGraph(), True
    try:
        with torch.cuda.graph(graph):
            for one in sets:
                call(one)
        run: Callable[[], Any] = graph.replay
    except RuntimeError:
        torch.cuda.synchronize()
        captured = False

        def run() -> None:
            for one in sets:
                call(one)

    return Timing(_by_events(run) / len(sets), peak, captured)


def _by_events(run: Callable[[], Any]) -> float:
    run()
    torch.cuda.synchronize()
    seconds: list[float] = []
    began = time.perf_counter()
    while len(seconds) < 5 or time.perf_counter() - began < SECONDS_A_CASE:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        end.record()
        end.synchronize()
        seconds.append(start.elapsed_time(end) / 1e3)
    return statistics.median(seconds)


def _by_clock(run: Callable[[], Any]) -> float:
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


@dataclass(frozen=True)
class Ceilings:
    """What this device has been seen to do."""

    copy_bytes_per_second: float
    gemm_flops_per_second: float  # bf16 in, fp32 sums


def measure_ceilings(device: torch.device, small: bool) -> Ceilings:
    """Measures a large copy and a large square GEMM."""
    count, size = (1 << 20, 256) if small else (1 << 29, 8192)

    def buffers(_: int) -> tuple[Tensor, Tensor]:
        source = torch.empty(count, dtype=torch.uint8, device=device)
        return source, torch.empty_like(source)

    copied = measure(lambda pair: pair[1].copy_(pair[0]), rotation(buffers, True), device)
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16

    def factors(number: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator(device).manual_seed(number)
        a, b = (
            torch.randn(size, size, device=device, generator=generator).to(dtype) for _ in range(2)
        )
        return a, b

    multiplied = measure(lambda pair: pair[0] @ pair[1], rotation(factors, True), device)
    return Ceilings(2 * count / copied.seconds, 2 * size**3 / multiplied.seconds)
