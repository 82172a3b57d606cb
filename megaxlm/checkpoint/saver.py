"""Saves checkpoints beside training: a copy at the step boundary, written by a background thread.

The training loop waits for the copy alone. What is written then is the state of that boundary,
however long the disk takes; it becomes a checkpoint by the same rules as any other (see
`megaxlm.checkpoint.writer`). A file system that is away for a while is waited for, beside training
too: when the next checkpoint is due, that one takes the place of the one that waits. A file system
that is full costs this checkpoint and no other. What training does wait for is a write that neither
ends nor fails: there is one copy in memory, and ranks that gave it up would not agree on it.
"""

from __future__ import annotations

import copy
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from megaxlm.checkpoint.fragments import Fragment
from megaxlm.checkpoint.retention import apply_retention
from megaxlm.checkpoint.snapshot import HostSnapshot
from megaxlm.checkpoint.storage import StorageError, pauses
from megaxlm.checkpoint.writer import CheckpointWriter
from megaxlm.errors import UserError


def _to_stderr(message: str) -> None:
    print(f"megaxlm: {message}", file=sys.stderr, flush=True)


class CheckpointSaver:
    """Saves the checkpoints of one run; every rank holds one and makes the same calls in order.

        group = new_rank_group("checkpoint")        # megaxlm.distributed.groups; every rank
        saver = CheckpointSaver(run_dir, rank, world_size, group.barrier, group.all_ok,
                                asynchronous=True, retry_seconds=120, keep_last=2)
        saver.save(step, engine.fragments(), rank_state, shared)      # every N steps
        saver.wait()                                                  # before a rollback
        saver.resumed(step)                                           # after a resume or rollback
        saver.save_now(step, engine.fragments(), rank_state, shared)  # the last one, or on SIGTERM
        saver.close()                                                 # before the groups go

    `save` copies and returns; `save_now` returns when the checkpoint is finished. A checkpoint
    that `save` could not write (disk full, file system away for longer than `retry_seconds` or
    until the next save) is said in one line and kept in `last_failure`; training goes on and the
    next `save` tries anew. `save_now` raises instead. No thread of the saver keeps the process from
    ending.

    Args:
        run_dir: The run folder, on a file system that all ranks share; `checkpoints/` is made in
            it now and expected to be there from now on.
        rank: This rank.
        world_size: Ranks that save together.
        barrier: Returns once every rank has called it. Called from the background thread: it
            and `all_ok` must belong to a process group that nothing else uses.
        all_ok: Returns on every rank whether every rank passed True.
        asynchronous: Write in a background thread; else `save` returns when all is written.
        retry_seconds: How long a file system that is away is waited for.
        keep_last: How many of the newest stay (see `apply_retention`); None: all.
        keep_every_steps: Checkpoints at multiples of this stay for ever.
        on_saved: Called with the step on every rank when a checkpoint is finished, in the thread
            that wrote it.
        say: Takes one line for the user, from any thread. Only the rank that has something to
            say calls it: rank 0, or one whose failure the others could not read.

    Raises:
        UserError: The folder cannot be made; on every rank.
    """

    def __init__(
        self,
        run_dir: Path,
        rank: int = 0,
        world_size: int = 1,
        barrier: Callable[[], None] = lambda: None,
        all_ok: Callable[[bool], bool] = lambda ok: ok,
        *,
        asynchronous: bool = True,
        retry_seconds: float = 120.0,
        keep_last: int | None = None,
        keep_every_steps: int | None = None,
        on_saved: Callable[[int], None] | None = None,
        say: Callable[[str], None] = _to_stderr,
    ) -> None:
        self._run_dir, self._rank = run_dir, rank
        self._barrier, self._all_ok = barrier, all_ok
        self._asynchronous, self._retry_seconds = asynchronous, retry_seconds
        self._keep_last, self._keep_every_steps = keep_last, keep_every_steps
        self._on_saved, self._say = on_saved, say
        self._writer = CheckpointWriter(run_dir, rank, world_size, barrier, all_ok)
        self._writer.make_folder()
        self._snapshot = HostSnapshot()
        self._thread: threading.Thread | None = None
        self._writing_step = 0
        self._defect: BaseException | None = None  # of the background thread, not yet raised
        self._superseded = threading.Event()  # a later step is to be saved: try but once more
        self._retrying = False  # what is written was held up by a file system that was away
        self._said_waiting = False
        self._saved_step: int | None = None
        self._last_failure: str | None = None

    @property
    def saved_step(self) -> int | None:
        """The step of the checkpoint finished last (or resumed); None: none yet.

        Ranks learn it at slightly different times, so act on it only after `wait` or `save_now`:
        then it is the same on all of them.
        """
        return self._saved_step

    @property
    def last_failure(self) -> str | None:
        """Why the newest checkpoint was not written, in one line; None: it was."""
        return self._last_failure

    @property
    def in_flight(self) -> bool:
        """Whether a checkpoint is being written in the background."""
        return self._thread is not None and self._thread.is_alive()

    def resumed(self, step: int) -> None:
        """Notes that training stands at the finished checkpoint of `step`; nothing is in flight."""
        self._saved_step, self._last_failure = step, None

    def save(
        self,
        step: int,
        fragments: Iterable[Fragment],
        rank_state: Mapping[str, Any],
        shared: Mapping[str, Any],
    ) -> None:
        """Saves the state of this step boundary; training may go on when this returns.

        If the former checkpoint is still being written, it is waited for; if it waits for a file
        system that is away, it is tried once more and then given up. Arguments are those of
        `CheckpointWriter.save`; everything is copied.

        Raises:
            ValueError: The fragments of this or, if asynchronous, of the former checkpoint
                overlap or leave a gap, or its state holds what cannot be saved. Other ranks then
                raise UserError.
            UserError: Another rank is gone.
        """
        self._settle(step)
        if not self._asynchronous:
            self._finish(step, list(fragments), rank_state, shared)
            return
        taken: Iterable[Fragment]
        try:
            taken = self._snapshot.take(fragments)
            rank_state = copy.deepcopy(rank_state)
            shared = copy.deepcopy(shared) if self._rank == 0 else {}
        except Exception as error:  # raised where the writer lets every rank know
            taken = _Failing(error)
        self._writing_step = step
        self._thread = threading.Thread(
            target=self._finish_in_background,
            args=(step, taken, rank_state, shared),
            name="checkpoint",
            daemon=True,
        )
        self._thread.start()

    def save_now(
        self,
        step: int,
        fragments: Iterable[Fragment],
        rank_state: Mapping[str, Any],
        shared: Mapping[str, Any],
    ) -> None:
        """Saves this step boundary and returns when that is finished; nothing is copied.

        If the step's checkpoint is finished already, or is just being written, that one counts. One
        of an earlier step that waits for a file system is given up as by `save`.

        Raises:
            UserError: It could not be written; the same on every rank.
            ValueError: As `save`.
        """
        if self._writing_step != step:
            self._superseded.set()
        self.wait()
        if self._saved_step == step:
            return
        failure = self._write(step, list(fragments), rank_state, shared)
        if failure is not None:
            raise failure

    def wait(self) -> None:
        """Returns when nothing is being written.

        Raises:
            ValueError: As `save`; of the checkpoint that was being written.
            UserError: Another rank is gone, or found such an error.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self._superseded.clear()
        defect, self._defect = self._defect, None
        if defect is not None:
            raise defect

    def close(self) -> None:
        """Waits for what is being written and lets go of the memory; raises nothing of it."""
        try:
            self.wait()
        except Exception as error:  # the run is ending, often for a reason of its own
            self._say(f"checkpoint of step {self._writing_step}: {_one_line(error)}")
        self._snapshot.close()

    def _settle(self, step: int) -> None:
        busy = self.in_flight and not self._retrying  # before the thread is woken, and may end
        self._superseded.set()
        if busy and self._rank == 0 and not self._said_waiting:
            self._said_waiting = True
            self._say(
                f"step {step}: the checkpoint of step {self._writing_step} is still being written "
                "and training waits for it; a larger checkpoint.every_steps avoids that"
            )
        self.wait()

    def _finish_in_background(
        self,
        step: int,
        fragments: Iterable[Fragment],
        rank_state: Mapping[str, Any],
        shared: Mapping[str, Any],
    ) -> None:
        try:
            self._finish(step, fragments, rank_state, shared)
        except BaseException as error:  # for the main thread, which comes by sooner or later
            self._defect = error

    def _finish(
        self,
        step: int,
        fragments: Iterable[Fragment],
        rank_state: Mapping[str, Any],
        shared: Mapping[str, Any],
    ) -> None:
        failure = self._write(step, fragments, rank_state, shared)
        if failure is not None and failure.said_here:
            self._say(f"no checkpoint of step {step}, training goes on: {failure}")

    def _write(
        self,
        step: int,
        fragments: Iterable[Fragment],
        rank_state: Mapping[str, Any],
        shared: Mapping[str, Any],
    ) -> StorageError | None:
        """Writes, waiting for a file system that is away; returns why it failed, on all ranks."""
        try:
            return self._write_patiently(step, fragments, rank_state, shared)
        finally:
            self._retrying = False

    def _write_patiently(
        self,
        step: int,
        fragments: Iterable[Fragment],
        rank_state: Mapping[str, Any],
        shared: Mapping[str, Any],
    ) -> StorageError | None:
        deadline = time.monotonic() + self._retry_seconds
        sleep, waiting = pauses(self._superseded.wait), False
        while True:
            try:
                self._writer.save(step, fragments, rank_state, shared)
                break
            except StorageError as failure:
                self._retrying = self._retrying or failure.transient
                left = deadline - time.monotonic()
                again = failure.transient and left > 0 and not self._superseded.is_set()
                if not self._all_ok(again):  # clocks differ, and ranks come to the next save
                    self._last_failure = str(failure)
                    return failure
                if failure.said_here and not waiting:
                    self._say(f"{failure}; trying again for {self._retry_seconds:g} s")
                waiting = True
                sleep(left)
        if self._rank == 0:
            if waiting:
                self._say(f"the checkpoint of step {step} could be written now")
            self._remove_old(step)
        self._barrier()  # what `wait` promises: every rank sees the same checkpoints
        self._saved_step, self._last_failure = step, None
        if self._on_saved is not None:
            self._on_saved(step)
        return None

    def _remove_old(self, step: int) -> None:
        if self._keep_last is None:
            return
        try:
            apply_retention(self._run_dir, self._keep_last, self._keep_every_steps, step)
        except (OSError, UserError) as error:  # they go after the next checkpoint
            self._say(f"old checkpoints stay for now: {_one_line(error)}")


class _Failing(Iterable[Fragment]):
    """Fragments that could not be copied: raises when the writer asks for them."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def __iter__(self) -> Iterator[Fragment]:
        raise self._error


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
