"""One safetensors file, read by explicit reads of the ranges asked for.

The library maps the file into memory. On a file system that goes away, or when the file is cut
short meanwhile, touching such a map kills the process with SIGBUS; a read gives an error that can
be waited for or told. On a network file system a large read is also faster than page faults.
The format: https://github.com/huggingface/safetensors#format.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

_MAX_HEADER_BYTES = 100 << 20  # what the library allows


@dataclass(frozen=True)
class _Entry:
    dtype: str
    shape: list[int]
    begin: int  # bytes from the start of the file
    end: int


class TensorFile:
    """An open safetensors file.

    Args:
        path: Of the file; a link is not followed.

    Raises:
        OSError: It cannot be opened or read.
        ValueError: It is no safetensors file.
    """

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            self._entries = self._header(os.fstat(self._fd).st_size)
        except BaseException:
            self.close()
            raise

    def read_into(self, out: Tensor, key: str, dtype: str, numel: int, low: int) -> None:
        """Fills `out` with elements [low, low + out.numel()) of a flat tensor.

        Args:
            out: Contiguous, shape (n,), on the CPU, of the dtype that `dtype` names.
            key: Of the tensor in the file.
            dtype: Its safetensors name.
            numel: Of the tensor in the file.
            low: First element.

        Raises:
            OSError: It cannot be read.
            ValueError: The file holds no such tensor of that dtype and size, or ends early.
        """
        entry = self._entries.get(key)
        if entry is None:
            raise ValueError(f"holds no {key}")
        size = out.element_size()
        stored = (entry.dtype, entry.shape, entry.end - entry.begin)
        if stored != (dtype, [numel], numel * size):
            raise ValueError(f"{key} has another shape or dtype")
        if not 0 <= low <= low + out.numel() <= numel:
            raise ValueError(f"{key}: [{low}, {low + out.numel()}) leaves its {numel} elements")
        self._fill(out.view(torch.uint8).numpy().data, entry.begin + low * size)

    def close(self) -> None:
        """Closes the file; may be called twice."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __del__(self) -> None:
        if getattr(self, "_fd", -1) >= 0:
            self.close()

    def _fill(self, view: memoryview, offset: int) -> None:
        while view:
            count = os.preadv(self._fd, [view], offset)
            if count == 0:
                raise ValueError("it ends early")
            view, offset = view[count:], offset + count

    def _header(self, file_size: int) -> dict[str, _Entry]:
        prefix = bytearray(8)
        self._fill(memoryview(prefix), 0)
        length = int.from_bytes(prefix, "little")
        if length > min(file_size - 8, _MAX_HEADER_BYTES):
            raise ValueError("not a safetensors file")
        content = bytearray(length)
        self._fill(memoryview(content), 8)
        try:
            parsed = json.loads(content)
            entries = {
                str(key): _Entry(
                    str(value["dtype"]),
                    list(value["shape"]),
                    8 + length + int(value["data_offsets"][0]),
                    8 + length + int(value["data_offsets"][1]),
                )
                for key, value in parsed.items()
                if key != "__metadata__"
            }
        except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
            raise ValueError("not a safetensors file") from None
        if any(not 8 + length <= e.begin <= e.end <= file_size for e in entries.values()):
            raise ValueError("not a safetensors file: a tensor lies outside it")
        return entries
