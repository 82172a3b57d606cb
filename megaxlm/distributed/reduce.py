"""Agreement between ranks: sums, barriers, and errors that all ranks raise together.

With one process (no process group) every call is the identity.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from megaxlm.errors import UserError


def is_distributed() -> bool:
    """Whether a process group of more than one rank is up."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def barrier() -> None:
    """Waits for all ranks."""
    if is_distributed():
        dist.barrier()


def all_sum(values: Tensor) -> Tensor:
    """Sums a tensor over all ranks, in place, and returns it."""
    if is_distributed():
        dist.all_reduce(values)
    return values


def all_ok(ok: bool) -> bool:
    """Returns whether every rank said True."""
    if not is_distributed():
        return ok
    flag = torch.tensor([0 if ok else 1], dtype=torch.int32, device=_device())
    dist.all_reduce(flag)
    return int(flag.item()) == 0


def any_true(flag: bool) -> bool:
    """Returns whether any rank said True."""
    return not all_ok(not flag)


def broadcast(value: Any) -> Any:
    """Returns rank 0's value on every rank (pickled by torch: our own processes alone)."""
    if not is_distributed():
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0, device=_device())
    return box[0]


@contextmanager
def together() -> Iterator[None]:
    """Makes a `UserError` on one rank the same `UserError` on all, so that none waits for it."""
    failure: UserError | None = None
    try:
        yield
    except UserError as error:
        failure = error
    if not is_distributed():
        if failure is not None:
            raise failure
        return
    mine = None if failure is None else (str(failure), failure.exit_code)
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, mine)
    for rank, theirs in enumerate(everyone):
        if theirs is not None:
            message, exit_code = theirs
            prefix = f"rank {rank}: " if everyone[0] is None else ""
            raise UserError(prefix + message, exit_code)


def _device() -> torch.device:
    backend = dist.get_backend()
    return (
        torch.device("cuda", torch.cuda.current_device())
        if backend == "nccl"
        else (torch.device("cpu"))
    )
