"""How long a rank computes in a step, without the time in which it waits for others.

In a synchronous run every rank takes as long as the slowest one: the others wait in collectives.
What tells them apart is the time in regions that hold none. That is the forward pass of an encoder
layer or of the head. At ZeRO-3, where modules gather their parameters before they run, it is that
of every module without children (linear layers, norms, the core of the attention), between the end
of its own gathering and the beginning of the next one. The backward pass is left alone: hooks there
would change the graph, and collectives overlap with it.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import nn

from megaxlm.model.heads import MaskedLanguageModelHead
from megaxlm.model.layer import EncoderLayer

MAX_REGIONS = 256  # timed in one step: reading an event costs microseconds


class ComputeClock:
    """Sums the time that regions of a module take in training, from when it is made.

        clock = ComputeClock(engine.model, engine.device)
        ...                       # one step
        seconds = clock.take()
        clock.close()

    On a GPU the time is that between two events on the stream; they are read when the step's loss
    has been, so that nothing waits for them.
    """

    def __init__(self, module: nn.Module, device: torch.device) -> None:
        """Attaches hooks.

        Args:
            module: Holds encoder layers; at ZeRO-3 as DeepSpeed has set it up.
            device: Where they run.
        """
        self._on_gpu = device.type == "cuda"
        self._seconds = 0.0
        self._regions = 0
        self._open, self._began = False, 0.0  # the region that runs
        self._pair: tuple[Any, Any] | None = None
        self._free: list[tuple[Any, Any]] = []  # pairs of events, to be used again
        self._pending: list[tuple[Any, Any]] = []
        self._handles: list[Any] = []
        partitioned = any(hasattr(parameter, "ds_status") for parameter in module.parameters())
        for region in module.modules():
            if partitioned:
                chosen = not any(True for _ in region.children())
            else:
                chosen = isinstance(region, EncoderLayer | MaskedLanguageModelHead)
            if chosen:
                # Inside of DeepSpeed's own hooks, which wait for other ranks.
                self._handles += [
                    region.register_forward_pre_hook(self._begin),
                    region.register_forward_hook(self._end, prepend=True),
                ]

    def take(self) -> float:
        """Returns the seconds since the last call and starts again from 0."""
        seconds = self._seconds
        for begin, end in self._pending:
            end.synchronize()
            seconds += begin.elapsed_time(end) / 1000
        self._free += self._pending
        self._pending = []
        self._seconds, self._regions = 0.0, 0
        return seconds

    def close(self) -> None:
        """Takes the hooks away."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _begin(self, region: nn.Module, arguments: object) -> None:
        # A region that has begun may not end: recomputed layers are left in the middle.
        self._open = region.training and self._regions < MAX_REGIONS
        if not self._open:
            return
        if self._on_gpu:
            if self._pair is None:
                self._pair = self._free.pop() if self._free else (_event(), _event())
            self._pair[0].record()
        else:
            self._began = time.perf_counter()

    def _end(self, region: nn.Module, arguments: object, result: object) -> None:
        if not self._open:
            return
        if self._on_gpu:
            assert self._pair is not None
            self._pair[1].record()
            self._pending.append(self._pair)
            self._pair = None
        else:
            self._seconds += time.perf_counter() - self._began
        self._open = False
        self._regions += 1


def _event() -> Any:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
