"""Several processes, on hosts that share a file system, build one data set together.

Nothing but files is between them. A stage's tasks are dealt out by size, the same way on every
rank; each leaves a marker when it is done; a rank that has done its own waits for the markers of
the others. So a rank that died can be started again by itself, and what comes out does not depend
on how many there were. A rank writes a beat now and then: one that gives no more of them while
others wait for it ends the waiting, with its number.
"""

from __future__ import annotations

import contextlib
import heapq
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from megaxlm.data.shards import write_atomically
from megaxlm.errors import EXIT_FOUND_WRONG, UserError
from megaxlm_data.progress import Progress

ResultT = TypeVar("ResultT")
BEAT_SECONDS = 10.0
PATIENCE_SECONDS = 300.0  # without a beat of a rank that has begun
_POLL_SECONDS = (0.05, 2.0)  # at first, and at most
_TELL_SECONDS = 60.0
_MOST_NAMED = 10  # ranks in a line


class FinishedError(Exception):
    """The data set was finished by the others; this rank was not needed any more."""


class Crew:
    """This process among the ranks that build one data set.

    Args:
        rank: Of this process, from 0.
        world_size: How many there are; 1 for a build by itself, where nothing is ever waited for.
        folder: Where beats are written; made here.
        digest: Of the plan, which all must share.
        progress: Where waiting is told.
        finished: Whether the data set is there, and what the ranks share may be gone.
        patience: Seconds without a beat after which a rank counts as dead.

    Raises:
        UserError: The rank is none of the world's.
    """

    def __init__(
        self,
        rank: int,
        world_size: int,
        folder: Path,
        digest: str,
        progress: Progress,
        finished: Callable[[], bool] = lambda: False,
        patience: float = PATIENCE_SECONDS,
    ) -> None:
        self.rank, self.world_size = rank, world_size
        self._folder, self._digest, self._progress = folder, digest, progress
        self._finished, self._patience = finished, patience
        self._stage = "plan"
        self._before: dict[int, int] = {}  # rank: its last beat before this process began
        self._seen: dict[int, tuple[int, float]] = {}  # rank: its last beat, when we saw it change
        self._alone_since: float | None = None  # all others have done their part
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @classmethod
    def alone(cls) -> Crew:
        """Returns the crew of a process that builds by itself."""
        return cls(0, 1, Path(), "", Progress(False))

    @property
    def leads(self) -> bool:
        """Whether this rank does what is done once."""
        return self.rank == 0

    def __enter__(self) -> Crew:
        if self.world_size > 1:
            self._folder.mkdir(parents=True, exist_ok=True)
            if self.leads:
                self._remove_stale()
            for rank in range(self.world_size):
                if (content := self._read(rank)) is not None:
                    self._before[rank] = content["beat"]
            self._beat("running")
            self._thread = threading.Thread(target=self._keep_beating, daemon=True)
            self._thread.start()
        return self

    def _remove_stale(self) -> None:
        """Removes what says that something is done for another config, which is undone by this."""
        for path in self._folder.glob("*.done"):
            if not self._is_done(path):
                path.unlink()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._thread is None:
            return
        self._stop.set()
        self._thread.join()
        if self._folder.exists():  # else the data set is finished and its work folder gone
            with contextlib.suppress(OSError):  # on a full disk the first error is the one to show
                self._beat("done" if error is None else "failed")

    def mine(self, sizes: Sequence[int]) -> list[bool]:
        """Deals tasks out, the largest first, each to the rank with the least so far.

        Args:
            sizes: Of the tasks in the order of the plan, such as bytes.

        Returns:
            For each task whether this rank does it.
        """
        owners = deal(sizes, self.world_size)
        return [owner == self.rank for owner in owners]

    def lead(self, stage: str, function: Callable[[], ResultT]) -> ResultT:
        """Runs what one rank does for all: rank 0 first, and the others when it is done.

        Args:
            stage: What it is, one word.
            function: Leaves its work on the disk; called again, it finds that and changes nothing.
        """
        done = self._folder / f"{stage}.done"
        if self.leads:
            result = function()
            if self.world_size > 1:
                write_atomically(done, self._digest.encode())
            return result
        self.wait(stage, lambda: [] if self._is_done(done) else [stage])
        return function()

    def _is_done(self, path: Path) -> bool:
        try:
            return path.read_bytes() == self._digest.encode()
        except FileNotFoundError:
            return False

    def wait(self, stage: str, missing: Callable[[], Sequence[object]]) -> None:
        """Returns when nothing is missing any more.

        Args:
            stage: What the others are at, for the line that tells of it.
            missing: Gives what is not there yet.

        Raises:
            UserError: Another rank failed, gives no more beats, or builds something else.
            FinishedError: The data set was finished meanwhile.
        """
        self._stage = stage
        if self.world_size == 1:
            return
        for rank, content in self._begun():  # also where there is nothing to wait for
            self._check_same(rank, content)
        pause, told = _POLL_SECONDS[0], time.monotonic()
        while left := len(missing()):
            if self._finished():
                raise FinishedError
            self._look_at_others(stage)
            if time.monotonic() - told > _TELL_SECONDS:
                told = time.monotonic()
                self._progress.say(f"{stage}: waits for {left} tasks of {self._who_is_missing()}")
            time.sleep(pause)
            pause = min(_POLL_SECONDS[1], 1.5 * pause)

    def _begun(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yields the others that have begun, and what each says of itself."""
        for rank in range(self.world_size):
            content = None if rank == self.rank else self._read(rank)
            if content is not None and content["beat"] != self._before.get(rank):
                yield rank, content  # else not begun, or not again: it may stand in a queue

    def _who_is_missing(self) -> str:
        """Says for whom one waits: by number where a rank has not begun."""
        here = {self.rank, *(rank for rank, _ in self._begun())}
        absent = [str(rank) for rank in range(self.world_size) if rank not in here]
        if not absent:
            return "other ranks"
        more = f" and {len(absent) - _MOST_NAMED} more" if len(absent) > _MOST_NAMED else ""
        named = ", ".join(absent[:_MOST_NAMED])
        return f"other ranks; not started yet, or not seen in this `output`: rank {named}{more}"

    def _check_same(self, rank: int, content: dict[str, Any]) -> None:
        if (content["world_size"], content["digest"]) != (self.world_size, self._digest):
            raise UserError(
                f"rank {rank} builds another config, input or --world-size; start all ranks "
                "with the same"
            )

    def _look_at_others(self, stage: str) -> None:
        now, done = time.monotonic(), 0
        for rank, content in self._begun():
            self._check_same(rank, content)
            if content["state"] == "failed":
                raise UserError(
                    f"{stage}: rank {rank} failed, its own output says why; start the ranks again "
                    "when that is mended, finished work is kept",
                    EXIT_FOUND_WRONG,
                )
            done += content["state"] == "done"
            beat, since = self._seen.get(rank, (-1, now))
            if beat != content["beat"] or content["state"] == "done":
                self._seen[rank] = (content["beat"], now)
            elif now - since > self._patience:
                raise UserError(
                    f"{stage}: rank {rank} on {content['host']} gave no sign for "
                    f"{self._patience:.0f} s; start it and this one again, finished work is kept",
                    EXIT_FOUND_WRONG,
                )
        if done < self.world_size - 1:
            return
        self._alone_since = now if self._alone_since is None else self._alone_since
        if now - self._alone_since > self._patience:  # more than a network file system may lag
            raise UserError(
                f"{stage}: all other ranks are done, but what they made is lost or altered; start "
                "all ranks again, what is whole is kept",
                EXIT_FOUND_WRONG,
            )

    def _read(self, rank: int) -> dict[str, Any] | None:
        try:
            content: dict[str, Any] = json.loads(self._path(rank).read_text(encoding="utf-8"))
        except (OSError, json.JSONDecodeError):  # also of a network file system, at a replaced file
            return None
        return content

    def _path(self, rank: int) -> Path:
        return self._folder / f"{rank:05d}.json"

    def _beat(self, state: str) -> None:
        content = {
            "beat": time.time_ns(),
            "state": state,
            "stage": self._stage,
            "host": os.uname().nodename,
            "world_size": self.world_size,
            "digest": self._digest,
        }
        path, text = self._path(self.rank), json.dumps(content).encode()
        try:
            write_atomically(path, text)
        except OSError:
            # A full disk must not make this rank look dead, or a failed one alive: the beat before
            # has its place there. Half a beat that another rank reads is none, and read again.
            if not path.exists():
                raise
            with open(path, "r+b") as file:
                file.write(text)
                file.truncate()

    def _keep_beating(self) -> None:
        while not self._stop.wait(BEAT_SECONDS):
            with contextlib.suppress(OSError):  # a full disk: the work itself will say so
                self._beat("running")


def deal(sizes: Sequence[int], hands: int) -> list[int]:
    """Returns who of `hands` does each task: the largest first, to the one with the least yet."""
    if hands == 1:
        return [0] * len(sizes)
    owners = [0] * len(sizes)
    heap = [(0, hand) for hand in range(hands)]
    for task in sorted(range(len(sizes)), key=lambda task: (-sizes[task], task)):
        load, hand = heapq.heappop(heap)
        owners[task] = hand
        heapq.heappush(heap, (load + sizes[task], hand))
    return owners
