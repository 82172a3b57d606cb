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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megaxlm.checkpoint.fragments import DTYPES, StoredFragment, ordered_cover
from megaxlm.errors import CorruptDataError, UserError

FORMAT = "megaxlm-checkpoint"
FORMAT_VERSION = 1
CHECKPOINTS_DIR = "checkpoints"
MANIFEST_NAME = "manifest.json"
SHARED_NAME = "shared.json"
MARKER_NAME = "COMPLETE"
RECORD_NAME = "saved.json"
STAGING, REPLACED, DELETING = ".staging", ".replaced", ".deleting"

STEP_FOLDER = re.compile(r"step-(\d{8,})(\.staging|\.replaced|\.deleting)?")
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
                "fragments": [[piece.rank, piece.start, piece.numel] for piece in entry.fragments],
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
    """
    if not folder.is_dir():
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
    """
    content = check_complete(folder)
    try:
        parsed = json.loads(content)
        if parsed["format"] != FORMAT or parsed["format_version"] != FORMAT_VERSION:
            raise UserError(
                f"{folder / MANIFEST_NAME}: format {parsed['format']!r} version "
                f"{parsed['format_version']!r}, this megaxlm reads {FORMAT} {FORMAT_VERSION}"
            )
        return _parse(parsed)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
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
    for name, entry in parsed["tensors"].items():
        shape = tuple(_count(size) for size in entry["shape"])
        pieces = [StoredFragment(*(_count(n) for n in piece)) for piece in entry["fragments"]]
        if entry["dtype"] not in DTYPES:
            raise ValueError(f"{name}: unknown dtype {entry['dtype']!r}")
        for rank in {piece.rank for piece in pieces}:
            if data_name(rank) not in files:
                raise ValueError(f"{name}: {data_name(rank)} is not among the files")
        tensors[name] = TensorEntry(shape, entry["dtype"], ordered_cover(name, shape, pieces))
    return Manifest(_count(parsed["step"]), _count(parsed["world_size"]), tensors, files)


def _count(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} where a count should be")
    return value


def _read_small(path: Path) -> bytes:
    check_regular(path)
    try:
        return path.read_bytes()
    except OSError as error:
        raise CorruptDataError(f"{path}: {error.strerror}; use another checkpoint") from None


def check_regular(path: Path) -> os.stat_result:
    """Returns the status of a file of a checkpoint, refusing links and special files.

    Raises:
        CorruptDataError: The file is missing, or is not a plain file of this folder.
    """
    try:
        status = path.lstat()
    except FileNotFoundError:
        raise CorruptDataError(f"{path}: missing; use another checkpoint") from None
    except OSError as error:
        raise CorruptDataError(f"{path}: {error.strerror}; use another checkpoint") from None
    if not stat.S_ISREG(status.st_mode):
        raise CorruptDataError(f"{path}: not a plain file (a link?); use another checkpoint")
    return status
