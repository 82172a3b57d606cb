"""TensorBoard events of a run; like its lines, they must not end it where a disk is full."""

from __future__ import annotations

import contextlib
from collections import deque
from pathlib import Path
from typing import Any

from megaxlm.train.line_file import MAX_PENDING


class TensorBoard:
    """Writes scalars by step. What fails is tried again with the next step, in a new file."""

    def __init__(self, folder: Path, first_step: int) -> None:
        """Touches nothing yet.

        Args:
            folder: Where the event files go.
            first_step: What earlier files show from this step on is taken back.
        """
        self._folder = folder
        self._first_step = first_step
        self._pending: deque[tuple[int, list[tuple[str, float]]]] = deque(maxlen=MAX_PENDING)
        self._writer: Any = None

    def add(self, step: int, scalars: list[tuple[str, float]], now: bool = True) -> None:
        """Takes the scalars of a step, and writes all that waits if `now`."""
        self._pending.append((step, scalars))
        if now:
            # The lines beside the events have said already if the disk is full.
            with contextlib.suppress(OSError):
                self._write()

    def close(self) -> None:
        """Closes the file; what could not be written is lost."""
        writer, self._writer = self._writer, None
        with contextlib.suppress(OSError):
            if writer is not None:
                writer.close()

    def _write(self) -> None:
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(self._folder), purge_step=self._first_step)
        try:
            for step, scalars in self._pending:
                for key, value in scalars:
                    self._writer.add_scalar(key, value, step)
            self._writer.flush()  # what a kill would lose comes before the next start's purge
        except OSError:
            self.close()
            raise
        self._first_step = self._pending[-1][0] + 1
        self._pending.clear()
