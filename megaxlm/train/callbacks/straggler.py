"""Names ranks that need longer for their own part than others that do the same work.

Every step of a synchronous run takes as long as its slowest rank, so what is compared is the time
in which a rank waits for no other: pure computation (`megaxlm.train.compute_clock`) and the wait
for its own rows, among the ranks of one pipeline stage. What is not seen: a slow link, and the
update of optimizers that talk to other ranks themselves (Muon, LAMB, StableAdamW). Noise
comes in bursts and a slow device is slow all the time: a rank is named if it was slow in all of the
last `BLOCKS` blocks of steps but one, and at least half as much in that one. A rank whose clock,
cooling or host is worse than the others' then costs a line, and a pause on one of them does not.
"""

from __future__ import annotations

import socket
import statistics
import sys
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from megaxlm.distributed import reduce
from megaxlm.train.callbacks.base import Callback, StepRecord
from megaxlm.train.callbacks.metrics import Metrics
from megaxlm.train.compute_clock import ComputeClock

if TYPE_CHECKING:
    from megaxlm.train.trainer import Trainer

BLOCKS = 4  # of half a window each
WARMUP_STEPS = 2  # the first steps allocate, compile and fill caches


@dataclass
class Slowness:
    """What is known of one rank: its last blocks, and what was said of it."""

    ratios: deque[float] = field(default_factory=lambda: deque(maxlen=BLOCKS))
    named: bool = False


class StragglerJudge:
    """Decides from the times of all ranks who is slow.

    Args:
        groups: Ranks that do the same work, each group in order.
        ratio: A rank that takes so many times as long as the median of the others is slow.
    """

    def __init__(self, groups: Sequence[Sequence[int]], ratio: float) -> None:
        self._groups, self._ratio = groups, ratio
        self._ranks = {rank: Slowness() for group in groups for rank in group}

    def add(self, seconds: Sequence[float]) -> dict[int, float]:
        """Takes the mean time of a step of each rank, over a block of steps.

        Returns:
            Ranks of which something has changed: how many times as long they take as the others.
            At least `ratio`, and a rank has become slow; below, and it keeps up again.
        """
        changed = {}
        for group in self._groups:
            for rank in group:
                others = statistics.median(seconds[other] for other in group if other != rank)
                ratio = self._judge(self._ranks[rank], seconds[rank] / max(others, 1e-9))
                if ratio is not None:
                    changed[rank] = ratio
        return changed

    def _judge(self, rank: Slowness, ratio: float) -> float | None:
        rank.ratios.append(ratio)
        typical = statistics.median(rank.ratios)
        if len(rank.ratios) < BLOCKS:
            return None
        halfway = (1 + self._ratio) / 2
        lowest, second, *_ = sorted(rank.ratios)
        if not rank.named and lowest >= halfway and second >= self._ratio:
            rank.named = True
            return typical
        if rank.named and typical < halfway:
            rank.named = False
            return typical
        return None

    def forget(self) -> None:
        """Starts anew with blocks that have nothing to do with the last ones."""
        for rank in self._ranks.values():
            rank.ratios.clear()


class Straggler(Callback):
    """Measures each rank and, on rank 0, says who has become slow: once, and when that is over.

    Usage: `Straggler(faults.straggler_ratio, faults.straggler_window)` among the callbacks. It
    adds one sum of `window / 2` numbers a rank to every `window / 2` steps, and names a rank that
    is slow from one step to the next within 2.5 windows.

    Args:
        ratio: A rank that takes so many times as long as the others is slow.
        window: Steps; twice as many are looked at.
    """

    name = "straggler"

    def __init__(self, ratio: float, window: int) -> None:
        self._ratio, self._block = ratio, max(1, window // 2)
        self._clock: ComputeClock | None = None
        self._judge: StragglerJudge | None = None
        self._seconds: list[tuple[float, float]] = []  # computed, waited for rows
        self._waited = 0.0  # for rows, up to the last step
        self._hosts: list[str] = []
        self._steps_left_out = 0

    def on_train_begin(self, trainer: Trainer) -> None:
        """Attaches the clock, if there are ranks to compare."""
        grid = trainer.engine.grid
        size = grid.data_world_size
        if size == 1:
            return
        groups = [range(stage * size, (stage + 1) * size) for stage in range(grid.num_stages)]
        self._judge = StragglerJudge(groups, self._ratio)
        self._clock = ComputeClock(trainer.engine.model, trainer.device)
        self._hosts = [""] * trainer.world_size
        dist.all_gather_object(self._hosts, socket.gethostname())
        self._start()

    def on_step_end(self, trainer: Trainer, record: StepRecord) -> None:
        """Notes the step and compares when a block is full."""
        if self._clock is None or self._judge is None:
            return
        waited = trainer.stream.waited_seconds
        seconds = self._clock.take(), waited - self._waited
        self._waited = waited
        if self._steps_left_out < WARMUP_STEPS:
            self._steps_left_out += 1
            return
        self._seconds.append(seconds)
        if len(self._seconds) < self._block:
            return
        table = torch.zeros(trainer.world_size, 2, dtype=torch.float64, device=trainer.device)
        table[trainer.rank] = torch.tensor(self._seconds, dtype=torch.float64).mean(0)
        table = reduce.all_sum(table)  # (ranks, computed and waited)
        changed = self._judge.add(table.sum(1).tolist())
        self._seconds = []
        if changed and trainer.rank == 0:
            self._tell(trainer, record.step, changed, table[:, 1].tolist())

    def on_rollback(self, trainer: Trainer) -> None:
        """Leaves out the steps around it."""
        if self._clock is not None and self._judge is not None:
            self._clock.take()
            self._judge.forget()
            self._start()

    def on_train_end(self, trainer: Trainer) -> None:
        """Takes the clock away."""
        if self._clock is not None:
            self._clock.close()

    def _start(self) -> None:
        self._seconds, self._steps_left_out = [], 0

    def _tell(
        self, trainer: Trainer, step: int, changed: dict[int, float], waited: list[float]
    ) -> None:
        entries: list[dict[str, Any]] = []
        for rank, ratio in changed.items():
            host, slow = self._hosts[rank], ratio >= self._ratio
            entries.append(
                {
                    "rank": rank,
                    "host": host,
                    "times_the_others": ratio,
                    "data_wait_seconds": waited[rank],
                    "slow": slow,
                }
            )
            if slow:
                line = (
                    f"megaxlm: warning: rank {rank} ({host}) loads and computes {ratio:.2f} times "
                    f"as long as the others, over the {BLOCKS * self._block} steps up to step "
                    f"{step}, with {waited[rank]:.3f} s a step for its rows; all ranks wait for "
                    "it: look at its clock rates, temperature, disk and what else runs on that host"
                )
            else:
                line = f"megaxlm: rank {rank} ({host}) keeps up again at step {step}"
            print(line, file=sys.stderr, flush=True)
        for callback in trainer.callbacks:
            if isinstance(callback, Metrics):
                callback.write(trainer, {"step": step, "stragglers": entries})
