"""A process group of one's own, for agreement beside the training step.

Collectives of one group must be issued in one order on every rank. A background thread cannot keep
the order of the training loop's, so what it agrees on goes over a group that nobody else uses.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from megaxlm.distributed.reduce import is_distributed
from megaxlm.errors import EXIT_FOUND_WRONG, UserError

# A rank that is gone is noticed at once, as its connections close. This bounds the wait for one
# that is silent, and must be longer than the slowest rank takes to write its part of a checkpoint.
TIMEOUT_SECONDS = 3600.0


@dataclass(frozen=True)
class RankGroup:
    """Collectives over host memory; each is to be called by every rank of the run.

    All raise UserError if another rank is gone or does not answer in time.
    """

    barrier: Callable[[], None]
    all_ok: Callable[[bool], bool]  # whether every rank said True
    total: Callable[[int], int]  # the sum over the ranks


def new_rank_group(purpose: str, timeout_seconds: float = TIMEOUT_SECONDS) -> RankGroup:
    """Makes a gloo group of all ranks; every rank calls this in the same order.

    With one process every collective is the identity and no group is made.

    Args:
        purpose: What the group is for, as a word in error messages: "checkpoint".
        timeout_seconds: How long one collective waits for a silent rank.
    """
    if not is_distributed():
        return RankGroup(lambda: None, lambda ok: ok, lambda value: value)
    group = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout_seconds))

    def total(value: int) -> int:
        box = torch.tensor([value], dtype=torch.int64)
        try:
            dist.all_reduce(box, group=group)
        except RuntimeError as error:  # gloo's: a connection was closed, or time is up
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
            raise UserError(
                f"{purpose}: another rank is gone or does not answer ({reason}); "
                "look at the other ranks' output and start the run again, it resumes",
                exit_code=EXIT_FOUND_WRONG,
                known_to="rank",
            ) from error
        return int(box.item())

    def barrier() -> None:
        total(0)

    def all_ok(ok: bool) -> bool:
        return total(0 if ok else 1) == 0

    return RankGroup(barrier, all_ok, total)
