"""JSON lines on a disk that may be full or away: kept in memory meanwhile and written later."""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from megaxlm.data.shards import write_atomically

MAX_PENDING = 10_000  # lines; of what waits longer than that the oldest are lost


class LineFile:
    """Appends lines to a file. A failure is said once and costs nothing until it has passed.

    The file is opened for each write: a handle does not survive a file system that was away.
    """

    def __init__(self, path: Path, sync: bool = False) -> None:
        """Touches nothing yet.

        Args:
            path: The file; its folder must exist.
            sync: Whether a line must be on the disk before `append` returns.
        """
        self.path = path
        self._sync = sync
        self._pending: deque[bytes] = deque(maxlen=MAX_PENDING)
        self._lost = 0
        self._keep_until: int | None = None
        self._torn = False  # the file may end inside a line
        self._failing = False

    def append(self, line: dict[str, Any]) -> bool:
        """Writes a line and all that waits; returns whether they are in the file now."""
        content = json.dumps(finite(line), ensure_ascii=False, allow_nan=False) + "\n"
        self._lost += len(self._pending) == MAX_PENDING
        self._pending.append(content.encode())
        return self.flush()

    def keep_until(self, step: int) -> bool:
        """Takes back what a run wrote past a step; returns whether that is done."""
        self._keep_until = step if self._keep_until is None else min(step, self._keep_until)
        kept = [line for line in self._pending if _step_of(line) <= step]
        self._pending = deque(kept, maxlen=MAX_PENDING)
        return self.flush()

    def flush(self) -> bool:
        """Tries to write what waits; returns whether nothing does any more."""
        try:
            if self._keep_until is not None:
                os.stat(self.path.parent)  # a folder that is away is not a file that is not there
                keep_until(self.path, self._keep_until)
                self._keep_until = None
            if self._pending:
                self._write(b"".join(self._pending))
        except OSError as error:
            if not self._failing:
                self._failing = True
                _say(
                    f"{self.path}: cannot be written now ({error.strerror or error}); its lines "
                    "are kept and training goes on"
                )
            return False
        self._pending.clear()
        if self._failing:
            lost = f"; the oldest {self._lost} lines are lost" if self._lost else ""
            _say(f"{self.path}: is written again{lost}")
            self._failing, self._lost = False, 0
        return True

    def _write(self, content: bytes) -> None:
        with open(self.path, "ab", buffering=0) as file:
            begin = file.tell()
            rest = memoryview(b"\n" + content if self._torn else content)
            try:
                while rest:
                    rest = rest[file.write(rest) :]
                if self._sync:
                    os.fsync(file.fileno())
            except OSError:
                self._torn = True
                with contextlib.suppress(OSError):
                    file.truncate(begin)
                    self._torn = False
                raise
        self._torn = False


def keep_until(path: Path, step: int) -> None:
    """Drops lines past a step from a file, and a line that a kill cut in half."""
    if path.exists():
        kept = [line + b"\n" for line in _whole_lines(path) if _step_of(line) <= step]
        write_atomically(path, b"".join(kept))


def last_step(path: Path) -> int:
    """Returns the highest step that a file of lines tells of; 0 if there is none."""
    if not path.exists():
        return 0
    return max((int(_step_of(line)) for line in _whole_lines(path)), default=0)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Returns every whole line that tells of a step; none if there is no such file."""
    return [json.loads(line) for line in _whole_lines(path)] if path.exists() else []


def finite(value: Any) -> Any:
    """Returns a value with null for NaN and infinities, which JSON does not have."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _whole_lines(path: Path) -> Iterator[bytes]:
    # As bytes: a cut line may end inside a character.
    for line in path.read_bytes().split(b"\n"):
        if _step_of(line) < math.inf:
            yield line


def _step_of(line: bytes) -> float:
    """Returns the step that a line tells of; infinity for what is no line of ours."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf


def _say(message: str) -> None:
    print(f"megaxlm: {message}", file=sys.stderr, flush=True)
