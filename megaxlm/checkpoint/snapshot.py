"""A copy of this rank's fragments in host memory, taken between two training steps."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from megaxlm.checkpoint.fragments import Fragment

logger = logging.getLogger(__name__)

_ALIGNMENT = 64  # bytes: whole cache lines, and a multiple of every element size


class HostSnapshot:
    """Host memory for one copy of the fragments; the next copy reuses it.

    It is one block, as large as the rank's fragments (12 bytes a parameter with AdamW, over the
    ranks that share them). If a fragment lies on a CUDA device, the block is page-locked: the
    copies then run at the full speed of the bus, side by side, and are waited for once.
    `pin_memory=True` is not used for that, as its allocator rounds up to a power of two.
    """

    def __init__(self) -> None:
        self._block = torch.empty(0, dtype=torch.uint8)
        self._locked = False

    def take(self, fragments: Iterable[Fragment]) -> list[Fragment]:
        """Returns the fragments with their tensors copied; the former copy is overwritten.

        Args:
            fragments: Views of the engine's memory, on any device. All copies are finished when
                this returns, so the engine may go on changing its memory.
        """
        live = list(fragments)
        sizes = [-(-fragment.num_bytes // _ALIGNMENT) * _ALIGNMENT for fragment in live]
        on_cuda = any(fragment.tensor.is_cuda for fragment in live)
        self._make_room(sum(sizes), on_cuda)
        copies, offset = [], 0
        with torch.no_grad():
            for fragment, size in zip(live, sizes, strict=True):
                target = self._block[offset : offset + fragment.num_bytes]
                target = target.view(fragment.tensor.dtype)  # (numel,)
                target.copy_(fragment.tensor, non_blocking=True)
                copies.append(replace(fragment, tensor=target))
                offset += size
        if on_cuda:
            for device in {fragment.tensor.device for fragment in live if fragment.tensor.is_cuda}:
                torch.cuda.current_stream(device).synchronize()
        return copies

    def close(self) -> None:
        """Gives the memory back; copies taken must not be used any more."""
        self._unlock()
        self._block = torch.empty(0, dtype=torch.uint8)

    def _make_room(self, size: int, lock: bool) -> None:
        if self._block.numel() < size:
            self.close()
            self._block = torch.empty(size, dtype=torch.uint8)
        if lock and not self._locked and size:
            self._locked = _page_lock(self._block)

    def _unlock(self) -> None:
        if self._locked:
            _cuda_runtime().cudaHostUnregister(self._block.data_ptr())
            self._locked = False


def _cuda_runtime() -> Any:
    return torch.cuda.cudart()  # type: ignore[no-untyped-call]


def _page_lock(block: Tensor) -> bool:
    """Page-locks memory; where the system does not allow it, copies are slower but the same."""
    code = _cuda_runtime().cudaHostRegister(block.data_ptr(), block.numel(), 0)
    if int(code) != 0:
        logger.warning(
            "%.1f GiB of host memory could not be page-locked (CUDA error %d): saving stalls "
            "training a little longer",
            block.numel() / 2**30,
            int(code),
        )
    return int(code) == 0
