"""How long a rank computes in a step, without the time in which it waits for others.

In a synchronous run every rank takes as long as the slowest one: the others wait in collectives.
What tells them apart is the time in regions that hold none. That is the forward pass of an encoder
layer or of the head. At ZeRO-3, where modules gather their parameters before they run, it is that
of every module without children (linear layers, norms, the core of the attention), between the end
of its own gathering and the beginning of the next one. The backward pass is left alone: hooks there
would change the graph, and collectives overlap with it; it counts as twice the forward pass. The
update is timed where the optimizer is one that computes by itself.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from megaxlm.model.heads import MaskedLanguageModelHead
from megaxlm.model.layer import EncoderLayer

FORWARD_AND_BACKWARD = 3.0  # times the forward pass, in multiplications
# Optimizers whose step holds no collective, as those of `megaxlm.optim` do.
LOCAL_OPTIMIZERS = ("torch.optim.", "deepspeed.ops.", "apex.optimizers.fused_adam")
MAX_REGIONS = 256  # timed in one step: reading an event costs microseconds


class ComputeClock:
    """Estimates how long a step computes: forward, backward and update, from when it is made.

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
        self._regions = self._timed = 0  # in this step: all of them, and those with a time
        self._update = 0.0
        self._update_began = 0.0
        self._update_pair: tuple[Any, Any] | None = None
        self._updates: list[tuple[Any, Any]] = []
        self._open, self._began = False, 0.0  # the region that runs
        self._pair: tuple[Any, Any] | None = None
        self._free: list[tuple[Any, Any]] = []  # pairs of events, to be used again
        self._pending: list[tuple[Any, Any]] = []
        self._handles: list[Any] = []
        # Of all optimizers: DeepSpeed may wrap this one, and there is one in a run.
        self._handles += [
            register_optimizer_step_pre_hook(self._begin_update),
            register_optimizer_step_post_hook(self._end_update),
        ]
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
        seconds = self._seconds + self._elapsed(self._pending)
        update = self._update + self._elapsed(self._updates)
        forward = seconds * self._regions / max(self._timed, 1)  # a step may have more than that
        self._seconds = self._update = 0.0
        self._regions = self._timed = 0
        return FORWARD_AND_BACKWARD * forward + update

    def close(self) -> None:
        """Takes the hooks away."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _elapsed(self, pairs: list[tuple[Any, Any]]) -> float:
        seconds = 0.0
        for begin, end in pairs:
            end.synchronize()
            seconds += begin.elapsed_time(end) / 1000
        self._free += pairs
        pairs.clear()
        return seconds

    def _begin_update(self, optimizer: Optimizer, *_: object) -> None:
        if not _computes_alone(optimizer):
            return
        if self._on_gpu:
            self._update_pair = self._free.pop() if self._free else (_event(), _event())
            self._update_pair[0].record()
        self._update_began = time.perf_counter()

    def _end_update(self, optimizer: Optimizer, *_: object) -> None:
        if not _computes_alone(optimizer):
            return
        if self._on_gpu:
            assert self._update_pair is not None
            self._update_pair[1].record()
            self._updates.append(self._update_pair)
        else:
            self._update += time.perf_counter() - self._update_began

    def _begin(self, region: nn.Module, arguments: object) -> None:
        # A region that has begun may not end: recomputed layers are left in the middle.
        self._regions += region.training
        self._open = region.training and self._timed < MAX_REGIONS
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
        self._timed += 1


def _computes_alone(optimizer: Optimizer) -> bool:
    return type(optimizer).__module__.startswith(LOCAL_OPTIMIZERS)


def _event() -> Any:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
