"""What a run folder tells from outside: markers, checkpoints, and whether anything moves in it.

The folder's file system may be away or its disk full; then the last answer stands.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from megaxlm.checkpoint.catalog import find_latest
from megaxlm.checkpoint.manifest import CHECKPOINTS_DIR, MARKER_NAME, STEP_FOLDER
from megaxlm.errors import UserError
from megaxlm.train.run_folder import COMPLETED_NAME, STARTS_NAME, STOPPED_NAME

METRICS_NAME = "metrics.jsonl"
_TAIL_BYTES = 1 << 16

Signature = tuple[int, int, int]


class RunWatch:
    """Looks at one run folder, which need not exist yet."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.checkpoint_step = 0
        self.checkpoint_time: float | None = None  # seconds since the epoch
        self._markers: dict[str, Signature | None] = {}
        self._seen: tuple[object, ...] = ()
        self._moved = time.monotonic()
        self.begin()

    def begin(self) -> None:
        """Notes what there is before a start, so that old markers are not taken for new ones."""
        names = (COMPLETED_NAME, STOPPED_NAME, STARTS_NAME)
        self._markers = {name: _signature(self.run_dir / name) for name in names}
        self.look_for_checkpoint()
        self._seen, self._moved = self._state(), time.monotonic()

    @property
    def completed(self) -> bool:
        """Whether the run has written its completion marker since `begin`."""
        return self._is_new(COMPLETED_NAME)

    @property
    def begun(self) -> bool:
        """Whether the ranks were loaded since `begin`, so that there are steps to lose."""
        return self._is_new(STARTS_NAME)

    @property
    def saved(self) -> bool:
        """Whether the ranks have stopped early since `begin`, for any cause, and have saved."""
        return self._is_new(STOPPED_NAME)

    @property
    def stopped(self) -> bool:
        """Whether they have done so since somebody sent a signal, not since a launcher was gone."""
        if not self.saved:
            return False
        try:
            content = json.loads((self.run_dir / STOPPED_NAME).read_bytes())
        except (OSError, ValueError):
            return False
        return isinstance(content, dict) and content.get("cause") == "signal"

    def _is_new(self, name: str) -> bool:
        found = _signature(self.run_dir / name)
        return found is not None and found != self._markers[name]

    def look_for_checkpoint(self) -> int:
        """Returns the step of the newest complete checkpoint, 0 if there is none.

        A file system that is away is waited for; if it stays away the last answer stands.
        """
        try:
            latest = find_latest(self.run_dir)
            named = STEP_FOLDER.fullmatch(latest.name) if latest else None
            if latest is not None and named is not None:
                self.checkpoint_step = int(named[1])
                self.checkpoint_time = (latest / MARKER_NAME).stat().st_mtime
        except (UserError, OSError):
            pass
        return self.checkpoint_step

    def step_reached(self) -> int | None:
        """Returns the last step that the metrics tell of, or None."""
        try:
            with open(self.run_dir / METRICS_NAME, "rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
                lines = file.read().splitlines()
        except OSError:
            return None
        for line in reversed(lines):
            try:
                return int(json.loads(line)["step"])
            except (ValueError, KeyError, TypeError):  # cut by a kill or by the tail's beginning
                continue
        return None

    def seconds_still(self) -> float:
        """Returns for how long metrics, evaluations and checkpoints have not changed."""
        state, now = self._state(), time.monotonic()
        if state != self._seen:
            self._seen, self._moved = state, now
        return now - self._moved

    def _state(self) -> tuple[object, ...]:
        names = (METRICS_NAME, "evaluation.json", STARTS_NAME)
        found: list[object] = [_signature(self.run_dir / name) for name in names]
        try:
            # A checkpoint that is being written grows file by file in a folder of its own.
            folders = sorted((self.run_dir / CHECKPOINTS_DIR).iterdir())
            found += [(path.name, _signature(path)) for path in folders]
            for folder in folders:
                if folder.suffix:
                    found += [_signature(path) for path in sorted(folder.iterdir())]
        except OSError:  # none yet, renamed meanwhile, or away
            pass
        return tuple(found)


def _signature(path: Path) -> Signature | None:
    """Returns what tells one version of a file from the next; None if it cannot be seen."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size
