"""Reads a checkpoint for any layout: flat ranges of named tensors, verified, O(range) each."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections import OrderedDict
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from megaxlm.checkpoint import state_json
from megaxlm.checkpoint.fragments import (
    DTYPES,
    WEIGHTS_PREFIX,
    fragment_key,
)
from megaxlm.checkpoint.manifest import (
    MANIFEST_NAME,
    SHARED_NAME,
    STEP_FOLDER,
    TensorEntry,
    check_regular,
    data_name,
    read_manifest,
    sha256_of,
    state_name,
)
from megaxlm.checkpoint.storage import RETRY_SECONDS, Patience, unreadable
from megaxlm.checkpoint.stored import StoredFragment
from megaxlm.checkpoint.tensor_file import TensorFile
from megaxlm.errors import CorruptDataError, UserError

_MAX_OPEN_FILES = 64  # a checkpoint of a thousand ranks must not meet the limit of open files


class CheckpointReader:
    """A finished checkpoint folder.

    Opening checks the marker and the manifest. JSON state is hashed whenever it is read. All
    files are hashed by `verify_files`, at once (`verify=True`) or shared among ranks:
    `CheckpointReader(path, verify=False).verify_files(rank, world_size)`; a rank that then reads
    its own part opens no more files than hold it.

    Args:
        path: The checkpoint folder, `RUN_DIR/checkpoints/step-00000500`.
        verify: Hash every file now.
        retry_seconds: How long, over all calls, a file system that is away is waited for.

    Raises:
        UserError: No such folder, or another format version.
        CorruptDataError: The checkpoint is unfinished or damaged; the message names the file.
        StorageError: The file system was away for longer than `retry_seconds`. So do all methods
            that read.
    """

    def __init__(
        self, path: Path, verify: bool = True, retry_seconds: float = RETRY_SECONDS
    ) -> None:
        self.path = path
        self._patience = Patience(retry_seconds)
        self._manifest = self._patience(lambda: read_manifest(path))
        named = STEP_FOLDER.fullmatch(path.name)
        if named and int(named[1]) != self._manifest.step:
            raise self._damaged(MANIFEST_NAME, f"it is of step {self._manifest.step}")
        self._open: OrderedDict[int, TensorFile] = OrderedDict()
        if verify:
            self.verify_files()

    @property
    def step(self) -> int:
        """Optimizer updates done when it was saved."""
        return self._manifest.step

    @property
    def world_size(self) -> int:
        """Ranks that wrote it."""
        return self._manifest.world_size

    @property
    def weights_only(self) -> bool:
        """Whether it holds no optimizer state: an imported model, good for `init_from`."""
        return all(name.startswith(WEIGHTS_PREFIX) for name in self._manifest.tensors)

    @property
    def shared(self) -> dict[str, Any]:
        """The state that is one for all ranks: position, cursors, config, callbacks.

        Raises:
            CorruptDataError: The file is damaged.
        """
        return self._read_state(SHARED_NAME)

    def rank_state(self, rank: int) -> dict[str, Any] | None:
        """Returns what `rank` saved of its own, or None if fewer ranks wrote this checkpoint.

        Raises:
            CorruptDataError: The file is damaged.
        """
        if state_name(rank) not in self._manifest.files:
            return None
        return self._read_state(state_name(rank))

    def names(self, prefix: str = "") -> list[str]:
        """Returns the names of the tensors that start with `prefix`, sorted."""
        return sorted(name for name in self._manifest.tensors if name.startswith(prefix))

    def shape(self, name: str) -> tuple[int, ...]:
        """Returns the whole shape of a tensor.

        Raises:
            UserError: The checkpoint holds no such tensor.
        """
        return self._entry(name).shape

    def dtype(self, name: str) -> torch.dtype:
        """Returns the dtype a tensor is stored in.

        Raises:
            UserError: The checkpoint holds no such tensor.
        """
        return DTYPES[self._entry(name).dtype]

    def read(self, name: str, start: int = 0, numel: int | None = None) -> Tensor:
        """Returns the range [start, start + numel) of a flattened tensor, in memory of its own.

        Args:
            name: `model/...`, `exp_avg/...` or `exp_avg_sq/...`.
            start: First element, row-major.
            numel: Elements; None: to the end.

        Returns:
            Tensor of shape (numel,) on the CPU, in the stored dtype.

        Raises:
            UserError: The checkpoint holds no such tensor.
            ValueError: The range leaves the tensor.
            CorruptDataError: A file does not hold what the manifest says.
        """
        entry = self._entry(name)
        total = prod(entry.shape)
        numel = total - start if numel is None else numel
        end = start + numel
        if start < 0 or numel < 0 or end > total:
            raise ValueError(f"{name}: [{start}, {end}) leaves its {total} elements")
        out = torch.empty(numel, dtype=DTYPES[entry.dtype])  # (numel,)
        if numel == 0:
            return out
        index = bisect_right(entry.fragments, start, key=lambda piece: piece.start) - 1
        for stored in entry.fragments[index:]:
            if stored.start >= end:
                break
            first = max(0, (start - stored.start) // stored.numel)
            for i in range(first, min(stored.count, -(-(end - stored.start) // stored.numel))):
                piece_start = stored.start + i * stored.numel
                low, high = max(start, piece_start), min(end, piece_start + stored.numel)
                piece = StoredFragment(stored.rank + i, piece_start, stored.numel)
                self._fill(out[low - start : high - start], name, entry, piece, low - piece_start)
        return out

    def full(self, name: str) -> Tensor:
        """Returns a whole tensor in its shape; raises as `read` does."""
        return self.read(name).reshape(self.shape(name))

    def verify_files(self, rank: int = 0, world_size: int = 1) -> None:
        """Hashes this rank's share of the files: all of them over all ranks, evenly by size.

        Raises:
            CorruptDataError: A file differs from the manifest; the message names it.
        """
        by_size = sorted(self._manifest.files.items(), key=lambda item: (-item[1].size, item[0]))
        for name, entry in by_size[rank::world_size]:
            digest = self._patience(partial(self._digest, name))
            if digest != entry.sha256:
                raise self._damaged(name, "its SHA-256 is not the one in the manifest")

    def close(self) -> None:
        """Lets go of the files."""
        while self._open:
            self._open.popitem()[1].close()

    def __enter__(self) -> CheckpointReader:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _damaged(self, name: str, problem: str) -> CorruptDataError:
        return CorruptDataError(f"{self.path / name}: {problem}; use another checkpoint")

    def _digest(self, name: str) -> str:
        self._check_size(name)
        try:
            return sha256_of(self.path / name)
        except OSError as error:
            raise unreadable(self.path / name, error) from None

    def _check_size(self, name: str) -> None:
        size, expected = check_regular(self.path / name).st_size, self._manifest.files[name].size
        if size != expected:
            raise self._damaged(name, f"{size} bytes where the manifest says {expected}")

    def _entry(self, name: str) -> TensorEntry:
        try:
            return self._manifest.tensors[name]
        except KeyError:
            raise UserError(
                f"{self.path}: holds no tensor {name}; is it a checkpoint of another model?"
            ) from None

    def _read_state(self, name: str) -> dict[str, Any]:
        if name not in self._manifest.files:
            raise self._damaged(name, "not in the manifest")
        content = self._patience(partial(self._content, name))
        if hashlib.sha256(content).hexdigest() != self._manifest.files[name].sha256:
            raise self._damaged(name, "its SHA-256 is not the one in the manifest")
        try:
            state = state_json.loads(content)
        except ValueError as error:
            raise self._damaged(name, f"unreadable state ({error})") from None
        if not isinstance(state, dict):
            raise self._damaged(name, "not a JSON object")
        return state

    def _content(self, name: str) -> bytes:
        self._check_size(name)
        try:
            return (self.path / name).read_bytes()
        except OSError as error:
            raise unreadable(self.path / name, error) from None

    def _fill(
        self, out: Tensor, name: str, entry: TensorEntry, piece: StoredFragment, low: int
    ) -> None:
        """Reads `out.numel()` elements of one stored fragment, from its element `low` on."""
        key = fragment_key(name, piece.start)

        def attempt() -> None:
            try:
                self._file(piece.rank).read_into(out, key, entry.dtype, piece.numel, low)
            except OSError as error:
                self._drop(piece.rank)  # its handle may be stale for good
                raise unreadable(self.path / data_name(piece.rank), error) from None

        try:
            self._patience(attempt)
        except ValueError as error:
            raise self._damaged(data_name(piece.rank), str(error)) from None

    def _file(self, rank: int) -> TensorFile:
        if rank in self._open:
            self._open.move_to_end(rank)
            return self._open[rank]
        self._check_size(data_name(rank))
        opened = TensorFile(self.path / data_name(rank))
        self._open[rank] = opened
        if len(self._open) > _MAX_OPEN_FILES:
            self._open.popitem(last=False)[1].close()
        return opened

    def _drop(self, rank: int) -> None:
        opened = self._open.pop(rank, None)
        if opened is not None:
            opened.close()
