"""A file that is written under a temporary name, synced and renamed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import xxhash

from megaxlm.data.shards import sync_directory, temporary_of


class CheckedFile:
    """A binary file to write to, which keeps the XXH3-64 and the size of what went through."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._digest = xxhash.xxh3_64()
        self.size = 0
        self.closed = False

    def write(self, data: bytes | memoryview) -> int:
        """Writes a part."""
        view = memoryview(data)
        self._digest.update(view)
        self.size += view.nbytes
        self._file.write(view)
        return view.nbytes

    def flush(self) -> None:
        """Hands buffered bytes to the system."""
        self._file.flush()

    @property
    def xxh3(self) -> str:
        """The checksum of all parts until now, 16 hex digits."""
        return str(self._digest.hexdigest())


@contextmanager
def atomic_file(path: Path) -> Iterator[CheckedFile]:
    """Opens a file for writing that gets its name only when all of it is on the disk.

    After an error (a full disk) the temporary file is gone and the old content, if any, is there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_of(path)
    try:
        with open(temporary, "wb") as file:
            yield CheckedFile(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_directory(path.parent)
