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

from megaxlm.errors import EXIT_FOUND_WRONG, UserError


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


def all_gather(value: Any) -> list[Any]:
    """Returns every rank's value on every rank, by rank (pickled by torch, as `broadcast`)."""
    if not is_distributed():
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


@contextmanager
def together() -> Iterator[None]:
    """Makes a `UserError` on one rank the same `UserError` on all, so that none waits for it.

    So is an `OSError`. Any other goes on as it is on its own rank alone. What is
    inside must not wait for other ranks after a point where it can fail on this one alone.
    """
    failure: Exception | None = None
    try:
        yield
    except Exception as error:  # whatever it is: the others must not wait for this rank
        failure = error
    if not is_distributed():
        if failure is not None:
            raise failure
        return
    everyone: list[tuple[str, int] | None] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, _told(failure))
    for rank, theirs in enumerate(everyone):
        if theirs is not None:
            if failure is not None and not isinstance(failure, UserError | OSError):
                raise failure
            message, exit_code = theirs
            prefix = f"rank {rank}: " if everyone[0] is None else ""
            raise UserError(prefix + message, exit_code, known_to="run")


def _told(failure: Exception | None) -> tuple[str, int] | None:
    if failure is None:
        return None
    if isinstance(failure, UserError):
        return str(failure), failure.exit_code
    if isinstance(failure, OSError) and failure.filename:
        return f"{failure.filename}: {failure.strerror}", EXIT_FOUND_WRONG
    said = " ".join(str(failure).split())
    return f"{type(failure).__name__}: {said}", EXIT_FOUND_WRONG


def _device() -> torch.device:
    backend = dist.get_backend()
    return (
        torch.device("cuda", torch.cuda.current_device())
        if backend == "nccl"
        else (torch.device("cpu"))
    )
