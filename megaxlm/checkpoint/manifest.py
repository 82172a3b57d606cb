"""The folder of one checkpoint: its file names, its manifest and its completion marker.

    RUN_DIR/checkpoints/step-00000500/
        rank-00000.safetensors    flat fragments, written by rank 0 of the world that saved
        rank-00000.json           that rank's own state: its random states
        shared.json               what is one for all ranks: position, cursors, config, callbacks
        manifest.json             every tensor's fragments, every file's size and SHA-256
        COMPLETE                  the SHA-256 of manifest.json, written last

A folder is a checkpoint if COMPLETE matches manifest.json. It is written as `step-N.staging` and
renamed when whole; `step-N.replaced` is a former checkpoint of the same step, still whole, until
its successor has its name; `step-N.deleting` is on its way out. Beside the steps, `saved.json`
names the step saved last, so that checkpoints which someone removed are missed.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from bisect import bisect_left
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megaxlm.checkpoint.storage import unreadable
from megaxlm.checkpoint.stored import ELEMENT_BYTES, StoredFragment, ordered_cover
from megaxlm.errors import CorruptDataError, UserError

FORMAT = "megaxlm-checkpoint"
FORMAT_VERSION = 2  # 1: without counts of fragments
READABLE_VERSIONS = (1, 2)
CHECKPOINTS_DIR = "checkpoints"
MANIFEST_NAME = "manifest.json"
SHARED_NAME = "shared.json"
MARKER_NAME = "COMPLETE"
RECORD_NAME = "saved.json"
STAGING, REPLACED, DELETING = ".staging", ".replaced", ".deleting"

STEP_FOLDER = re.compile(r"step-(\d{8,})(\.staging|\.replaced|\.deleting)?", re.ASCII)
_LISTED_FILE = re.compile(r"rank-\d{5,}\.(safetensors|json)|shared\.json", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}")
_BLOCK_BYTES = 4 << 20


def step_name(step: int) -> str:
    """Returns the folder name of a step."""
    return f"step-{step:08d}"


def data_name(rank: int) -> str:
    """Returns the name of a rank's tensor file."""
    return f"rank-{rank:05d}.safetensors"


def state_name(rank: int) -> str:
    """Returns the name of a rank's state file."""
    return f"rank-{rank:05d}.json"


@dataclass(frozen=True)
class FileEntry:
    """What the manifest says of one file."""

    size: int  # bytes
    sha256: str


@dataclass(frozen=True)
class TensorEntry:
    """What the manifest says of one tensor; the fragments tile it, in order."""

    shape: tuple[int, ...]
    dtype: str  # safetensors name
    fragments: tuple[StoredFragment, ...]


@dataclass(frozen=True)
class Manifest:
    """The content of `manifest.json`."""

    step: int
    world_size: int  # ranks that wrote it
    tensors: dict[str, TensorEntry]
    files: dict[str, FileEntry]

    def to_bytes(self) -> bytes:
        """Returns the manifest as JSON, one line a tensor and a file."""
        lines = [
            "{",
            f' "format": "{FORMAT}",',
            f' "format_version": {FORMAT_VERSION},',
            f' "step": {self.step},',
            f' "world_size": {self.world_size},',
        ]
        tensors = {
            name: {
                "shape": list(entry.shape),
                "dtype": entry.dtype,
                "fragments": [_numbers(piece) for piece in entry.fragments],
            }
            for name, entry in sorted(self.tensors.items())
        }
        files = {
            name: {"size": entry.size, "sha256": entry.sha256}
            for name, entry in sorted(self.files.items())
        }
        lines.append(f' "tensors": {_one_line_each(tensors)},')
        lines.append(f' "files": {_one_line_each(files)}')
        return ("\n".join(lines) + "\n}\n").encode()


def _numbers(piece: StoredFragment) -> list[int]:
    numbers = [piece.rank, piece.start, piece.numel]
    return numbers if piece.count == 1 else [*numbers, piece.count]


def _one_line_each(items: dict[str, Any]) -> str:
    inner = ",\n".join(f"  {json.dumps(name)}: {json.dumps(item)}" for name, item in items.items())
    return "{\n" + inner + "\n }"


def sha256_of(path: Path) -> str:
    """Returns the SHA-256 of a file, reading 4 MiB at a time."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def check_complete(folder: Path) -> bytes:
    """Returns the bytes of the manifest if the marker vouches for them.

    Raises:
        UserError: There is no folder.
        CorruptDataError: Marker or manifest is missing, or they differ.
        StorageError: The file system is away.
    """
    try:
        is_folder = folder.is_dir()
    except OSError as error:
        raise unreadable(folder, error) from None
    if not is_folder:
        raise UserError(f"{folder}: no such checkpoint folder")
    marker = _read_small(folder / MARKER_NAME).strip()
    content = _read_small(folder / MANIFEST_NAME)
    if marker != hashlib.sha256(content).hexdigest().encode():
        raise CorruptDataError(
            f"{folder / MANIFEST_NAME}: {MARKER_NAME} does not vouch for it (one of the two was "
            "altered); use another checkpoint"
        )
    return content


def read_manifest(folder: Path) -> Manifest:
    """Reads and checks the manifest of a checkpoint folder.

    Raises:
        UserError: There is no folder, or it is of another format version.
        CorruptDataError: The marker is missing or differs, or the manifest is damaged.
        StorageError: The file system is away.
    """
    content = check_complete(folder)
    try:
        parsed = json.loads(content)
        if parsed["format"] != FORMAT or parsed["format_version"] not in READABLE_VERSIONS:
            raise UserError(
                f"{folder / MANIFEST_NAME}: format {parsed['format']!r} version "
                f"{parsed['format_version']!r}, this megaxlm reads {FORMAT} {FORMAT_VERSION}"
            )
        return _parse(parsed)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise CorruptDataError(
            f"{folder / MANIFEST_NAME}: damaged manifest ({error}); use another checkpoint"
        ) from None


def _parse(parsed: dict[str, Any]) -> Manifest:
    files = {}
    for name, entry in parsed["files"].items():
        # The name goes into a path: nothing but our own names, so nothing outside the folder.
        if not _LISTED_FILE.fullmatch(name):
            raise ValueError(f"file name {name!r} is not one of a checkpoint")
        if not _SHA256.fullmatch(entry["sha256"]):
            raise ValueError(f"{name}: not a SHA-256")
        files[name] = FileEntry(_count(entry["size"]), entry["sha256"])
    tensors = {}
    bytes_of = _BytesByRank(files)
    for name, entry in parsed["tensors"].items():
        shape = tuple(_count(size) for size in entry["shape"])
        pieces = [StoredFragment(*(_count(n) for n in piece)) for piece in entry["fragments"]]
        if entry["dtype"] not in ELEMENT_BYTES:
            raise ValueError(f"{name}: unknown dtype {entry['dtype']!r}")
        cover = ordered_cover(name, shape, pieces)
        for piece in cover:
            bytes_of.add(name, piece, ELEMENT_BYTES[entry["dtype"]])
        tensors[name] = TensorEntry(shape, entry["dtype"], cover)
    bytes_of.check()
    return Manifest(_count(parsed["step"]), _count(parsed["world_size"]), tensors, files)


class _BytesByRank:
    """Checks that the files can hold what the tensors say of them.

    A manifest of few lines could otherwise ask for any amount of memory. The work grows with the
    lines of the manifest: a row of a thousand ranks is one addition.
    """

    def __init__(self, files: dict[str, FileEntry]) -> None:
        sizes = {name: entry.size for name, entry in files.items() if name.endswith(".safetensors")}
        self._size = {int(name[5:].partition(".")[0]): size for name, size in sizes.items()}
        self._ranks = sorted(self._size)
        self._change: defaultdict[int, int] = defaultdict(int)

    def add(self, name: str, piece: StoredFragment, element_size: int) -> None:
        first = bisect_left(self._ranks, piece.rank)
        if bisect_left(self._ranks, piece.rank + piece.count) - first != piece.count:
            raise ValueError(f"{name}: {_names(piece)} is not among the files")
        self._change[piece.rank] += piece.numel * element_size
        self._change[piece.rank + piece.count] -= piece.numel * element_size

    def check(self) -> None:
        held = 0
        for rank in sorted({*self._change, *self._ranks}):
            held += self._change.get(rank, 0)
            if held > self._size.get(rank, 0):
                raise ValueError(f"{data_name(rank)}: too small for {held} bytes of tensors")


def _names(piece: StoredFragment) -> str:
    last = data_name(piece.rank + piece.count - 1)
    return last if piece.count == 1 else f"one of {data_name(piece.rank)} to {last}"


def _count(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} where a count should be")
    return value


def _read_small(path: Path) -> bytes:
    check_regular(path)
    try:
        return path.read_bytes()
    except OSError as error:
        raise unreadable(path, error) from None


def check_regular(path: Path) -> os.stat_result:
    """Returns the status of a file of a checkpoint, refusing links and special files.

    Raises:
        CorruptDataError: The file is missing, or is not a plain file of this folder.
        StorageError: Its file system is away.
    """
    try:
        status = path.lstat()
    except OSError as error:
        raise unreadable(path, error) from None
    if not stat.S_ISREG(status.st_mode):
        raise CorruptDataError(f"{path}: not a plain file (a link?); use another checkpoint")
    return status
