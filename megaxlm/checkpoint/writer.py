"""Writes a checkpoint from all ranks so that a kill or a full disk never costs a finished one.

Each rank streams its own fragments into one safetensors file of a staging folder, hashing on the
way; rank 0 then checks that all fragments together tile every tensor, writes manifest and marker,
and renames the folder. Nothing here knows torch.distributed: a barrier and an agreement
(`all_ok`, true if it was true on every rank) come in as callables, and what ranks must tell each
other goes through small files in the staging folder, which lies on a file system they share.

torch.distributed.checkpoint was weighed: its metadata is a pickle, and it neither hashes nor
stages a whole checkpoint, so the parts that matter here would be ours all the same.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import megaxlm
from megaxlm.checkpoint import state_json
from megaxlm.checkpoint.catalog import record_saved, remove_folder, remove_leftovers
from megaxlm.checkpoint.fragments import DTYPE_NAMES, Fragment
from megaxlm.checkpoint.manifest import (
    CHECKPOINTS_DIR,
    MANIFEST_NAME,
    MARKER_NAME,
    REPLACED,
    SHARED_NAME,
    STAGING,
    FileEntry,
    Manifest,
    TensorEntry,
    data_name,
    state_name,
    step_name,
)
from megaxlm.checkpoint.space import require_free_space, required_bytes
from megaxlm.checkpoint.storage import StorageError, is_transient
from megaxlm.checkpoint.stored import joined, ordered_cover
from megaxlm.data.shards import sync_directory, write_atomically
from megaxlm.errors import EXIT_FOUND_WRONG, UserError

_CHUNK_BYTES = 32 << 20  # what is copied from a device at a time


class CheckpointWriter:
    """Saves checkpoints of one run; every rank holds one and calls `save` together.

    Args:
        run_dir: The run folder, on a file system that all ranks share.
        rank: This rank.
        world_size: Ranks that save together.
        barrier: Returns once every rank has called it.
        all_ok: Returns on every rank whether every rank passed True.
    """

    def __init__(
        self,
        run_dir: Path,
        rank: int = 0,
        world_size: int = 1,
        barrier: Callable[[], None] = lambda: None,
        all_ok: Callable[[bool], bool] = lambda ok: ok,
    ) -> None:
        self._parent = run_dir / CHECKPOINTS_DIR
        self._rank = rank
        self._world_size = world_size
        self._barrier = barrier
        self._all_ok = all_ok
        self._has_folder = False

    def make_folder(self) -> None:
        """Makes the folder of the checkpoints; every rank calls it. The first `save` does too.

        Later saves expect it: where the file system of the run is away, making the folder anew
        would put a checkpoint on the disk below the mount point, where nobody finds it.

        Raises:
            StorageError: It cannot be made; on every rank.
        """
        error: OSError | None = None
        try:
            if self._rank == 0:
                self._parent.mkdir(parents=True, exist_ok=True)
        except OSError as caught:
            error = caught
        if not self._all_ok(error is None):
            reason = (error.strerror or str(error)) if error else "see the output of rank 0"
            raise StorageError(
                f"{self._parent}: the folder of the checkpoints cannot be made: {reason}; "
                "choose another run_dir or mend its file system",
                said_here=self._rank == 0,
            ) from error
        self._has_folder = True

    def save(
        self,
        step: int,
        fragments: Iterable[Fragment],
        rank_state: Mapping[str, Any],
        shared: Mapping[str, Any],
    ) -> Path:
        """Writes the checkpoint of `step`; an earlier one of the same step is replaced.

        Args:
            step: Optimizer updates done.
            fragments: The ranges that this rank owns; over all ranks they tile every tensor.
            rank_state: This rank's own state, as `state_json` can hold it.
            shared: What is one for all ranks (rank 0's is written); `model` (the resolved
                ModelConfig as a dict) and `tokenizer_sha256` are what `load_model` looks for.

        Returns:
            The finished folder.

        Raises:
            StorageError: Some rank could not write (disk full, no permission, file system
                away). Every rank raises it, with the same `transient`; nothing is left of this
                checkpoint, and earlier ones are intact.
            ValueError: The fragments overlap or leave a gap; other ranks raise UserError.
        """
        if not self._has_folder:
            self.make_folder()
        staging = self._parent / (step_name(step) + STAGING)
        owned: list[Fragment] = []

        def prepare() -> None:
            if self._rank == 0:
                remove_leftovers(self._parent)
                staging.mkdir()

        def plan() -> None:
            owned.extend(fragment for fragment in fragments)
            size = sum(fragment.num_bytes for fragment in owned)
            _write_synced(self._side_file(staging, "bytes"), json.dumps(size).encode())

        def check_space() -> None:
            if self._rank == 0:
                ranks = range(self._world_size)
                size = sum(_read_json(self._side_file(staging, "bytes", rank)) for rank in ranks)
                require_free_space(staging, required_bytes(size, self._world_size))

        self._together(step, staging, prepare)
        self._together(step, staging, plan)
        self._together(step, staging, check_space)
        self._together(step, staging, lambda: self._write_own(staging, owned, rank_state))
        self._together(step, staging, lambda: self._publish(step, staging, shared))
        return self._parent / step_name(step)

    def _side_file(self, staging: Path, kind: str, rank: int | None = None) -> Path:
        return staging / f"rank-{self._rank if rank is None else rank:05d}.{kind}.tmp"

    def _together(self, step: int, staging: Path, action: Callable[[], None]) -> None:
        """Runs one phase on every rank; if it fails on one, cleans up and raises on all."""
        error: Exception | None = None
        told = True
        try:
            action()
        except Exception as caught:  # every rank must hear of it, or the others wait forever
            error = caught
            told = self._tell(step, staging, caught)
        if self._all_ok(error is None):  # no rank returns before every rank has come here
            return
        # How it failed is agreed too, so that all ranks do the same about it.
        storage = self._all_ok(error is None or isinstance(error, OSError | UserError))
        transient = self._all_ok(error is None or is_transient(error, vanished=True))
        rank_0_knows = not self._all_ok(self._rank != 0 or error is None)
        message = self._heard(step, staging, error)
        self._barrier()  # every rank has read what the failing one wrote
        if self._rank == 0:
            _remove_quietly(staging)
        self._barrier()
        if storage:
            said_here = self._rank == 0 or not (told or rank_0_knows)
            raise StorageError(message, transient, said_here) from error
        if error is None or isinstance(error, OSError | UserError):
            raise UserError(message, exit_code=EXIT_FOUND_WRONG) from error
        raise error

    def _tell(self, step: int, staging: Path, error: Exception) -> bool:
        """Writes down why this rank failed; returns whether the others can read it."""
        # What this rank has written is of no more use; its space lets the message be written.
        for name in (data_name(self._rank), state_name(self._rank)):
            _unlink_quietly(staging / name)
        try:
            content = json.dumps(_describe(step, staging, error)).encode()
            self._side_file(staging, "failure").write_bytes(content)
        except OSError:  # the others then say that some rank failed; this one says why
            return False
        return True

    def _heard(self, step: int, staging: Path, error: Exception | None) -> str:
        """Returns what the first failing rank wrote; the same on every rank if it could write."""
        try:
            names = sorted(os.listdir(staging))
        except OSError:  # the file system is away
            names = []
        for name in names:  # one listing: of a thousand ranks, few fail
            if not name.endswith(".failure.tmp"):
                continue
            try:
                message = str(_read_json(staging / name))
            except (OSError, ValueError):  # no room for a message
                continue
            rank = int(name.removeprefix("rank-").partition(".")[0])
            return message + (f" (rank {rank})" if self._world_size > 1 else "")
        if error is not None:
            return _describe(step, staging, error)
        return f"{staging}: checkpoint of step {step} failed on another rank; see its output"

    def _write_own(
        self, staging: Path, owned: list[Fragment], rank_state: Mapping[str, Any]
    ) -> None:
        files: dict[str, FileEntry] = {}
        tensors: dict[str, list[Any]] = {}  # dtype, shape, start, numel, start, numel, ...
        for fragment in owned:
            dtype, shape = DTYPE_NAMES[fragment.tensor.dtype], list(fragment.shape)
            entry = tensors.setdefault(fragment.name, [dtype, shape])
            if entry[:2] != [dtype, shape]:
                raise ValueError(f"{fragment.name}: fragments of two kinds on one rank")
            if fragment.numel:
                entry += (fragment.start, fragment.numel)
        stored = [fragment for fragment in owned if fragment.numel]
        if stored:
            name = data_name(self._rank)
            files[name] = write_safetensors(staging / name, stored)
        name = state_name(self._rank)
        files[name] = _write_synced(staging / name, state_json.dumps(rank_state))
        content = {
            "tensors": tensors,
            "files": {name: [entry.size, entry.sha256] for name, entry in files.items()},
        }
        _write_synced(self._side_file(staging, "entry"), json.dumps(content).encode())

    def _publish(self, step: int, staging: Path, shared: Mapping[str, Any]) -> None:
        if self._rank != 0:
            return
        tensors, files = self._merge(staging)
        versions = {
            "megaxlm": megaxlm.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        }
        content = {"versions": versions, **shared, "step": step}
        files[SHARED_NAME] = _write_synced(staging / SHARED_NAME, state_json.dumps(content))
        manifest = Manifest(step, self._world_size, tensors, files).to_bytes()
        _write_synced(staging / MANIFEST_NAME, manifest)
        for side_file in staging.glob("*.tmp"):
            side_file.unlink()
        sync_directory(staging)
        marker = hashlib.sha256(manifest).hexdigest() + "\n"
        write_atomically(staging / MARKER_NAME, marker.encode())  # never an empty or half a marker
        final = self._parent / step_name(step)
        replaced = final.with_name(final.name + REPLACED)
        if final.exists():
            os.rename(final, replaced)
        os.rename(staging, final)
        sync_directory(self._parent)
        record_saved(self._parent, step)
        _remove_quietly(replaced)

    def _merge(self, staging: Path) -> tuple[dict[str, TensorEntry], dict[str, FileEntry]]:
        """Returns what all ranks wrote, having checked that every tensor is tiled exactly."""
        kinds: dict[str, list[Any]] = {}  # dtype, shape
        pieces: dict[str, list[tuple[int, int, int]]] = {}  # (start, rank, numel)
        files: dict[str, FileEntry] = {}
        # A million turns for a thousand ranks and a thousand tensors: the inner loop is kept bare.
        for rank in range(self._world_size):
            entry = _read_json(self._side_file(staging, "entry", rank))
            files.update({name: FileEntry(*of) for name, of in entry["files"].items()})
            for name, (dtype, shape, *ranges) in entry["tensors"].items():
                kind = kinds.get(name)
                if kind is None:
                    kinds[name] = [dtype, shape]
                    pieces[name] = []
                elif kind[0] != dtype or kind[1] != shape:
                    raise ValueError(
                        f"{name}: rank {rank} has {dtype} of shape {shape}, others {kind[0]} of "
                        f"shape {kind[1]}"
                    )
                found = pieces[name]
                for i in range(0, len(ranges), 2):
                    found.append((ranges[i], rank, ranges[i + 1]))
        tensors = {
            name: TensorEntry(
                tuple(shape), dtype, ordered_cover(name, shape, joined(pieces.pop(name)))
            )
            for name, (dtype, shape) in kinds.items()
        }
        return tensors, files


def write_safetensors(path: Path, fragments: list[Fragment]) -> FileEntry:
    """Streams fragments into one safetensors file in a single pass, hashing and syncing it.

    The library's own writer takes the whole file as host memory and leaves the hash to a second
    pass over the disk; here a device's tensors cross in chunks of 32 MiB.

    Raises:
        ValueError: A rank gives the same range of a tensor twice.
        OSError: The file cannot be written.
    """
    # Widest elements first: every offset is then a multiple of its element size.
    ordered = sorted(fragments, key=lambda fragment: -fragment.tensor.element_size())
    header: dict[str, Any] = {}
    offset = 0
    for fragment in ordered:
        if fragment.key in header:
            raise ValueError(f"{fragment.name}: two fragments start at {fragment.start}")
        header[fragment.key] = {
            "dtype": DTYPE_NAMES[fragment.tensor.dtype],
            "shape": [fragment.numel],
            "data_offsets": [offset, offset + fragment.num_bytes],
        }
        offset += fragment.num_bytes
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    digest = hashlib.sha256()
    with open(path, "wb", buffering=0) as file:

        def put(content: bytes | memoryview) -> None:
            digest.update(content)
            view = memoryview(content)
            while view:
                view = view[file.write(view) :]

        put(len(encoded).to_bytes(8, "little") + encoded)
        for fragment in ordered:
            for chunk in _host_chunks(fragment.tensor):
                put(chunk)
        os.fsync(file.fileno())
    return FileEntry(8 + len(encoded) + offset, digest.hexdigest())


def _host_chunks(tensor: Tensor) -> Iterable[memoryview]:
    for part in torch.split(tensor.detach(), max(1, _CHUNK_BYTES // tensor.element_size())):
        yield part.cpu().contiguous().view(torch.uint8).numpy().data


def _write_synced(path: Path, content: bytes) -> FileEntry:
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return FileEntry(len(content), hashlib.sha256(content).hexdigest())


def _read_json(path: Path) -> Any:
    return json.loads(path.read_bytes())


def _remove_quietly(folder: Path) -> None:
    try:
        remove_folder(folder)
    except OSError:  # not there, or the file system is away: the next save clears it
        return


def _unlink_quietly(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:  # rank 0 removes the whole folder next
        return


def _describe(step: int, staging: Path, error: Exception) -> str:
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError):
        where = error.filename or staging
        away = is_transient(error, vanished=True)
        mend = "mend its file system" if away else "make room or mend its rights"
        return (
            f"{where}: checkpoint of step {step} could not be written: "
            f"{error.strerror or error}; {mend}, earlier checkpoints are intact"
        )
    return f"{staging}: checkpoint of step {step} failed: {type(error).__name__}: {error}"
