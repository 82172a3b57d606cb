"""TensorBoard events of a run; like its lines, they must not end it where a disk is full.

torch's SummaryWriter writes in a thread of its own. On a full disk that thread dies with a
traceback on standard error, and so does the file object when it is collected with bytes it could
not write. Here records are made in memory and appended in one go, unbuffered, by the caller.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import socket
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any

from megaxlm.train.line_file import MAX_PENDING

_file_numbers = itertools.count()  # two files of one second must not share a name


class TensorBoard:
    """Writes scalars by step. What fails is said once and tried again with the next step."""

    def __init__(self, folder: Path, first_step: int) -> None:
        """Touches nothing yet.

        Args:
            folder: Where the event files go; made when needed, its parent must exist.
            first_step: What earlier files show from this step on is taken back.
        """
        self._folder = folder
        self._first_step = first_step
        self._pending: deque[tuple[int, float, list[tuple[str, float]]]] = deque(maxlen=MAX_PENDING)
        self._path: Path | None = None
        self._failing = False

    def add(self, step: int, scalars: list[tuple[str, float]], now: bool = True) -> None:
        """Takes the scalars of a step, and writes all that waits if `now`."""
        self._pending.append((step, time.time(), scalars))
        if now:
            self._flush()

    def close(self) -> None:
        """Tries once more to write what waits; what cannot be written is lost."""
        if self._pending:
            self._flush()

    def _flush(self) -> None:
        try:
            self._write()
        except OSError as error:
            if not self._failing:
                self._failing = True
                _say(
                    f"{self._folder}: cannot be written now ({error.strerror or error}); its "
                    "events are kept and training goes on"
                )
            return
        if self._failing:
            self._failing = False
            _say(f"{self._folder}: is written again")

    def _write(self) -> None:
        if self._path is None:
            self._folder.mkdir(exist_ok=True)
            name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}"
            self._path = self._folder / f"{name}.{os.getpid()}.{next(_file_numbers)}"
        # Opened for each write: a handle does not survive a file system that was away.
        with open(self._path, "ab", buffering=0) as file:
            begin = file.tell()
            content = _records([*(() if begin else self._beginning()), *self._events()])
            rest = memoryview(content)
            try:
                while rest:
                    rest = rest[file.write(rest) :]
            except OSError:
                # Readers see nothing behind a torn record: if it stays, another file follows.
                path, self._path = self._path, None
                with contextlib.suppress(OSError):
                    file.truncate(begin)
                    self._path = path
                raise
        self._first_step = self._pending[-1][0] + 1
        self._pending.clear()

    def _beginning(self) -> list[Any]:
        """Returns what a file begins with: its version, and where it makes earlier files void."""
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog

        now = {"wall_time": time.time(), "step": self._first_step}
        start = SessionLog(status=SessionLog.START)
        return [Event(file_version="brain.Event:2", **now), Event(session_log=start, **now)]

    def _events(self) -> list[Any]:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        return [
            Event(
                wall_time=seconds,
                step=step,
                summary=Summary(
                    value=[Summary.Value(tag=key, simple_value=value) for key, value in scalars]
                ),
            )
            for step, seconds, scalars in self._pending
        ]


def _records(events: list[Any]) -> bytes:
    """Returns events as TensorBoard's records, with their lengths and checksums."""
    from tensorboard.summary.writer.record_writer import RecordWriter

    content = io.BytesIO()
    writer = RecordWriter(content)
    for event in events:
        writer.write(event.SerializeToString())
    return content.getvalue()


def _say(message: str) -> None:
    print(f"megaxlm: {message}", file=sys.stderr, flush=True)
