"""The stream of micro-batches of one rank.

The stream of rows is a pure function of (seed, data set, curriculum, position). Its state is the
position and a cursor per source, a few numbers. A global batch holds the next G rows; every rank
draws the sources of all of them and moves all cursors, which is cheap, and writes the tokens of
its own rows alone. World size and micro-batch size therefore only decide who writes which row.
"Ranks" are data-parallel ones here: all stages of a pipeline replica read the same rows.

Rows may be left out (`Stream.skip`, `data.skip_rows`): they are drawn like any other, which moves
their cursors, and thrown away unread. What comes after them is what would have come anyway, at the
same positions, so the state at a position does not depend on what was left out before it.

G may grow (`training.batch_size_warmup`). It follows from the position at which a batch begins and
from nothing else. Rows left out count as seen there, as they do for a curriculum: both go by
position, and a position has the same meaning in every run of the same data.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from megaxlm.data.assembly import BatchAssembler
from megaxlm.data.batch import MicroBatch
from megaxlm.data.batch_layout import BatchLayout, BatchSchedule
from megaxlm.data.order import Int64Array
from megaxlm.data.prefetch import Prefetcher
from megaxlm.data.row_ranges import (
    RowRange,
    from_row,
    merge_ranges,
    rows_outside,
    runs_outside,
)
from megaxlm.data.rows import Cursor, Row
from megaxlm.data.sampling import Mixture, SourceDraw
from megaxlm.errors import UserError

StreamState: TypeAlias = dict[str, Any]  # JSON-able
BoolArray: TypeAlias = NDArray[np.bool_]

STATE_VERSION = 1
_SKIP_CHUNK = 1 << 16  # rows that are drawn at a time to be thrown away


@dataclass(frozen=True)
class LoadedBatch:
    """A micro-batch and, at the end of a global batch, where to resume."""

    batch: MicroBatch
    state_after: StreamState | None


class Stream:
    """Iterates, without end, over the micro-batches of one rank."""

    def __init__(
        self,
        mixture: Mixture,
        assembler: BatchAssembler,
        schedule: BatchSchedule,
        seed: int,
        seq_len: int,
        prefetch_batches: int = 0,
        state: StreamState | None = None,
        skip_rows: Iterable[Sequence[int]] = (),
    ) -> None:
        """Stands at the start, or at `state`; `megaxlm.objectives.mixture` opens one by config.

        Args:
            mixture: Sources and their shares.
            assembler: Makes micro-batches of rows.
            schedule: How many rows a global batch has and which are this rank's.
            seed: The seed of the run.
            seq_len: Tokens a row.
            prefetch_batches: Micro-batches made in advance by a thread; 0: no thread.
            state: A `state_after` to resume from.
            skip_rows: Ranges [begin, end) of positions to leave out.

        Raises:
            UserError: The state belongs to another seed, row length or data set.
        """
        self._mixture = mixture
        self._assembler = assembler
        self._schedule = schedule
        self._configured_skips = merge_ranges(skip_rows)
        self._seed = seed
        self._seq_len = seq_len
        self._prefetch = prefetch_batches
        self._draw = SourceDraw(mixture.phases, seed)
        self._batches: Iterator[LoadedBatch] | None = None
        self._state = self._initial_state()
        self._closed = False
        self.waited_seconds = 0.0  # by the consumer, for batches that were not made in time
        if state is not None:
            self.load_state(state)

    @property
    def grad_accum_steps(self) -> int:
        """Micro-batches of each rank in the next global batch, or in the one that has begun."""
        return self._schedule.at(self._state["position"]).grad_accum_steps

    @property
    def state(self) -> StreamState:
        """Where the next global batch starts, as far as the consumer has come."""
        return self._state

    @property
    def skipped(self) -> list[RowRange]:
        """Ranges that were left out or will be; sorted, and no two touch."""
        return merge_ranges(self._state["skip_rows"])

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> LoadedBatch:
        if self._closed:
            raise StopIteration
        if self._batches is None:
            batches = self._generate(self._state)
            self._batches = Prefetcher(batches, self._prefetch) if self._prefetch else batches
        began = time.perf_counter()
        loaded = next(self._batches)
        self.waited_seconds += time.perf_counter() - began
        if loaded.state_after is not None:
            self._state = loaded.state_after
        return loaded

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the prefetch thread; iteration is over. May be repeated."""
        self._rewind()
        self._closed = True

    def skip(self, begin: int, end: int) -> None:
        """Leaves out rows [begin, end), as far as they lie ahead, from the next global batch on.

        A global batch of which some micro-batches are out already begins anew: call this between
        two of them. It costs nothing now, and O(rows) when their turn comes.

        Raises:
            ValueError: The range is empty or negative.
        """
        if not 0 <= begin < end:
            raise ValueError(f"[{begin}, {end}) is not a range of rows")
        self._rewind()  # the thread may have made batches with these rows in them
        ahead = from_row([(begin, end)], self._state["position"])
        self._state = _with_skips(self._state, ahead)

    def rows_between(self, begin: int, end: int) -> list[int]:
        """Returns the ids of the rows in [begin, end) that are not left out."""
        return rows_outside(self.skipped, begin, end)

    def start_over(self) -> None:
        """Moves back to the first row; only what the config leaves out is left out."""
        self.load_state(self._initial_state())

    def load_state(self, state: StreamState) -> None:
        """Moves to a saved place; O(1), nothing is replayed.

        Sources that the state does not know start afresh; cursors of sources that this run does
        not use are kept, so that a language may leave the mixture and come back. Ranges that the
        state leaves out and those of the config, as far as they still lie ahead, add up.

        Raises:
            UserError: The state belongs to another seed, row length or data set.
        """
        if state.get("version") != STATE_VERSION:
            raise UserError(
                f"the checkpoint's stream state has version {state.get('version')}, this megaxlm "
                f"reads {STATE_VERSION}; resume with the release that wrote it"
            )
        for key, value, name in (
            ("seed", self._seed, "seed"),
            ("seq_len", self._seq_len, "data.seq_len"),
        ):
            if state[key] != value:
                raise UserError(
                    f"the checkpoint was written with {name} {state[key]}, this run has {value}: "
                    "rows would repeat or be left out; restore the value or start a new run"
                )
        merged = self._initial_state()
        merged["position"] = state["position"]
        merged["skip_rows"] = state.get("skip_rows", [])
        for name, saved in state["sources"].items():
            fresh = merged["sources"].get(name)
            if fresh is not None and fresh["fingerprint"] != saved["fingerprint"]:
                raise UserError(
                    f"the checkpoint's place in {name} does not fit this run: its shards, "
                    "data.packing, data.max_segments_per_row or data.attend_across_documents "
                    "have changed; restore them or start a new run"
                )
            merged["sources"][name] = saved
        self._rewind()
        ahead = from_row(self._configured_skips, merged["position"])
        self._state = _with_skips(merged, ahead)
        self._closed = False

    def _rewind(self) -> None:
        if isinstance(self._batches, Prefetcher):
            self._batches.close()
        self._batches = None

    def _initial_state(self) -> StreamState:
        return {
            "version": STATE_VERSION,
            "seed": self._seed,
            "seq_len": self._seq_len,
            "position": 0,
            "skip_rows": [list(of) for of in self._configured_skips],
            "sources": {
                source.name: {"cursor": list(source.start), "fingerprint": source.fingerprint}
                for source in self._mixture.sources
            },
        }

    def _generate(self, state: StreamState) -> Iterator[LoadedBatch]:
        """Yields micro-batches from a state on; holds no reference that outlives the stream."""
        return _generate(self._mixture, self._draw, self._assembler, self._schedule, state)


def _with_skips(state: StreamState, more: Iterable[RowRange]) -> StreamState:
    ranges = merge_ranges([*state["skip_rows"], *more])
    return {**state, "skip_rows": [list(of) for of in ranges]}


def _generate(
    mixture: Mixture,
    draw: SourceDraw,
    assembler: BatchAssembler,
    schedule: BatchSchedule,
    state: StreamState,
) -> Iterator[LoadedBatch]:
    skipped = merge_ranges(state["skip_rows"])
    while True:
        layout = schedule.at(state["position"])
        own_rows = layout.own_rows()
        rows, row_ids, state = _global_batch(mixture, draw, layout, own_rows, skipped, state)
        for micro_step, numbers in enumerate(own_rows.tolist()):
            batch = assembler(
                [rows[number] for number in numbers], [row_ids[number] for number in numbers]
            )
            is_last = micro_step == len(own_rows) - 1
            yield LoadedBatch(batch, state if is_last else None)


def _global_batch(
    mixture: Mixture,
    draw: SourceDraw,
    layout: BatchLayout,
    own_rows: Int64Array,
    skipped: Sequence[RowRange],
    state: StreamState,
) -> tuple[dict[int, Row], list[int], StreamState]:
    """Draws a global batch.

    Returns:
        This rank's rows by number in the global batch, the ids of all rows, the state after them.
    """
    is_own = np.zeros(layout.global_batch_size, bool)
    is_own[own_rows.reshape(-1)] = True
    cursors: dict[str, Cursor] = {
        source.name: tuple(state["sources"][source.name]["cursor"]) for source in mixture.sources
    }
    rows: dict[int, Row] = {}
    row_ids: list[int] = []
    position: int = state["position"]
    for begin, end in runs_outside(skipped, position, layout.global_batch_size):
        for start in range(position, begin, _SKIP_CHUNK):
            count = min(_SKIP_CHUNK, begin - start)
            _take(mixture, draw, start, np.zeros(count, bool), cursors)
        first = len(row_ids)
        wanted = is_own[first : first + end - begin]
        taken = _take(mixture, draw, begin, wanted, cursors)
        rows.update((first + number, row) for number, row in taken.items())
        row_ids.extend(range(begin, end))
        position = end
    moved = {
        name: {"cursor": list(cursor), "fingerprint": state["sources"][name]["fingerprint"]}
        for name, cursor in cursors.items()
    }
    after = {**state, "position": position, "sources": {**state["sources"], **moved}}
    return rows, row_ids, after


def _take(
    mixture: Mixture,
    draw: SourceDraw,
    start: int,
    is_wanted: BoolArray,  # (rows,) which of the rows from `start` on to return
    cursors: dict[str, Cursor],  # moved in place
) -> dict[int, Row]:
    """Walks over rows that follow one another and returns the wanted ones by number."""
    rows: dict[int, Row] = {}
    drawn = draw(start, len(is_wanted))
    order = np.argsort(drawn, kind="stable")
    numbers, firsts, counts = np.unique(drawn[order], return_index=True, return_counts=True)
    for number, first, count in zip(
        numbers.tolist(), firsts.tolist(), counts.tolist(), strict=True
    ):
        source = mixture.sources[number]
        places = order[first : first + count]  # ascending row numbers of this source
        wanted = np.flatnonzero(is_wanted[places])
        taken, cursors[source.name] = source.take(cursors[source.name], count, wanted.tolist())
        rows.update(zip(places[wanted].tolist(), taken, strict=True))
    return rows
