"""Events of a supervised run: a line each on the terminal, and JSON lines in the run folder."""

from __future__ import annotations

import contextlib
import sys
import time
from pathlib import Path
from typing import Any

from megaxlm.train.line_file import LineFile

JOURNAL_NAME = "supervise.jsonl"


class Journal:
    """Writes events; neither a full disk nor a closed terminal ends the supervisor."""

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._file = LineFile(run_dir / JOURNAL_NAME, sync=True)
        self._early: list[dict[str, Any]] = []  # before the run has made its folder

    def write(self, event: str, message: str, **details: Any) -> None:
        """Notes one event.

        Args:
            event: Its kind: start, stop, kill, end, unsaved, restart or exit.
            message: The line for people.
            details: What else goes into the JSON line; `None` is left out.
        """
        now = time.time()
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now))
        with contextlib.suppress(OSError, ValueError):
            print(f"megaxlm supervise: {stamp}: {message}", file=sys.stderr, flush=True)
        known = {key: value for key, value in details.items() if value is not None}
        self._early.append({"time": round(now, 3), "event": event, **known})
        if self._run_dir.is_dir():
            for line in self._early:
                self._file.append(line)
            self._early.clear()
