"""The stream of micro-batches of one rank.

The stream of rows is a pure function of (seed, data set, curriculum, position). Its state is the
position and a cursor per source, a few numbers. Global batch s holds rows [s*G, (s+1)*G); every
rank draws the sources of all G rows and moves all cursors, which is cheap, and writes the tokens
of its own rows alone. World size and micro-batch size therefore only decide who writes which row.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from megaxlm.data.assembly import BatchAssembler
from megaxlm.data.batch import MicroBatch
from megaxlm.data.order import Int64Array
from megaxlm.data.prefetch import Prefetcher
from megaxlm.data.rows import Cursor, Row
from megaxlm.data.sampling import Mixture, SourceDraw
from megaxlm.errors import UserError

StreamState: TypeAlias = dict[str, Any]  # JSON-able

STATE_VERSION = 1


@dataclass(frozen=True)
class BatchLayout:
    """Who writes which rows of a global batch."""

    global_batch_size: int
    micro_batch_size: int
    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        rows = self.micro_batch_size * self.world_size
        if self.global_batch_size % rows:
            below = self.global_batch_size // rows * rows
            nearest = f"{below} or {below + rows}" if below else f"{rows}"
            raise UserError(
                f"training.global_batch_size {self.global_batch_size} does not divide into "
                f"micro-batches of {self.micro_batch_size} rows on {self.world_size} ranks: take "
                f"a multiple of {rows} ({nearest}) or another training.micro_batch_size"
            )

    @property
    def grad_accum_steps(self) -> int:
        """Micro-batches of each rank in a global batch."""
        return self.global_batch_size // (self.micro_batch_size * self.world_size)

    def own_rows(self) -> Int64Array:
        """Returns (grad_accum_steps, micro_batch_size) row numbers inside the global batch."""
        micro_steps = np.arange(self.grad_accum_steps)[:, None]
        first = (micro_steps * self.world_size + self.rank) * self.micro_batch_size
        return first + np.arange(self.micro_batch_size)


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
        layout: BatchLayout,
        seed: int,
        seq_len: int,
        prefetch_batches: int = 0,
        state: StreamState | None = None,
    ) -> None:
        """Stands at the start, or at `state`; `megaxlm.objectives.mixture` opens one by config.

        Args:
            mixture: Sources and their shares.
            assembler: Makes micro-batches of rows.
            layout: Which rows are this rank's.
            seed: The seed of the run.
            seq_len: Tokens a row.
            prefetch_batches: Micro-batches made in advance by a thread; 0: no thread.
            state: A `state_after` to resume from.

        Raises:
            UserError: The state belongs to another seed, row length or data set.
        """
        self._mixture = mixture
        self._assembler = assembler
        self._layout = layout
        self._seed = seed
        self._seq_len = seq_len
        self._prefetch = prefetch_batches
        self._draw = SourceDraw(mixture.phases, seed)
        self._batches: Iterator[LoadedBatch] | None = None
        self._state = self._initial_state()
        self._closed = False
        if state is not None:
            self.load_state(state)

    @property
    def grad_accum_steps(self) -> int:
        """Micro-batches of each rank in a global batch."""
        return self._layout.grad_accum_steps

    @property
    def state(self) -> StreamState:
        """Where the next global batch starts, as far as the consumer has come."""
        return self._state

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> LoadedBatch:
        if self._closed:
            raise StopIteration
        if self._batches is None:
            batches = self._generate(self._state)
            self._batches = Prefetcher(batches, self._prefetch) if self._prefetch else batches
        loaded = next(self._batches)
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

    def load_state(self, state: StreamState) -> None:
        """Moves to a saved place; O(1), nothing is replayed.

        Sources that the state does not know start afresh; cursors of sources that this run does
        not use are kept, so that a language may leave the mixture and come back.

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
        self._state = merged
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
            "sources": {
                source.name: {"cursor": list(source.start), "fingerprint": source.fingerprint}
                for source in self._mixture.sources
            },
        }

    def _generate(self, state: StreamState) -> Iterator[LoadedBatch]:
        """Yields micro-batches from a state on; holds no reference that outlives the stream."""
        return _generate(self._mixture, self._draw, self._assembler, self._layout, state)


def _generate(
    mixture: Mixture,
    draw: SourceDraw,
    assembler: BatchAssembler,
    layout: BatchLayout,
    state: StreamState,
) -> Iterator[LoadedBatch]:
    own_rows = layout.own_rows()
    while True:
        position: int = state["position"]
        rows, cursors = _global_batch(mixture, draw, layout, own_rows, state)
        moved = {
            name: {"cursor": list(cursor), "fingerprint": state["sources"][name]["fingerprint"]}
            for name, cursor in cursors.items()
        }
        state = {
            **state,
            "position": position + layout.global_batch_size,
            "sources": {**state["sources"], **moved},
        }
        for micro_step, numbers in enumerate(own_rows.tolist()):
            batch = assembler(
                [rows[number] for number in numbers], [position + number for number in numbers]
            )
            is_last = micro_step == len(own_rows) - 1
            yield LoadedBatch(batch, state if is_last else None)


def _global_batch(
    mixture: Mixture,
    draw: SourceDraw,
    layout: BatchLayout,
    own_rows: Int64Array,
    state: StreamState,
) -> tuple[dict[int, Row], dict[str, Cursor]]:
    """Returns this rank's rows by number in the global batch, and the cursors that moved."""
    drawn = draw(state["position"], layout.global_batch_size)
    is_own = np.zeros(layout.global_batch_size, bool)
    is_own[own_rows.reshape(-1)] = True
    rows: dict[int, Row] = {}
    cursors: dict[str, Cursor] = {}
    order = np.argsort(drawn, kind="stable")
    numbers, firsts, counts = np.unique(drawn[order], return_index=True, return_counts=True)
    for number, first, count in zip(
        numbers.tolist(), firsts.tolist(), counts.tolist(), strict=True
    ):
        source = mixture.sources[number]
        places = order[first : first + count]  # ascending row numbers of this source
        wanted = np.flatnonzero(is_own[places])
        cursor = tuple(state["sources"][source.name]["cursor"])
        taken, cursors[source.name] = source.take(cursor, count, wanted.tolist())
        rows.update(zip(places[wanted].tolist(), taken, strict=True))
    return rows, cursors
