"""Rows left out and batches that grow: the same rows on any layout, and after any resume."""

import json
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megaxlm.config.pretrain import BatchSizePhase, DataConfig, MaskingConfig, ObjectiveConfig
from megaxlm.data.loader import Stream
from megaxlm.data.row_ranges import merge_ranges
from megaxlm.errors import UserError
from megaxlm.objectives.mixture import open_stream
from megaxlm.testing.datasets import write_dataset

SEQ_LEN = 16
GLOBAL = 8
ROWS = 400  # how far the plain stream is read, to compare with
WARMUP = [(10 * SEQ_LEN, 4), (37 * SEQ_LEN, 8)]  # then 16
RANGES = st.lists(
    st.tuples(st.integers(0, 90), st.integers(1, 30)).map(lambda of: (of[0], of[0] + of[1])),
    max_size=4,
)
LAYOUTS = [(1, 4), (1, 1), (2, 2), (4, 1)]  # ranks, micro-batch size
Rows = dict[int, tuple[list[int], list[int]]]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("dataset")
    rng = np.random.default_rng(0)

    def texts(count: int) -> list[np.ndarray]:
        return [rng.integers(4, 900, rng.integers(2, 40)) for _ in range(count)]

    pairs = [(a[:4], b[:4]) for a, b in zip(texts(40), texts(40), strict=True)]
    write_dataset(directory, {"en": texts(60), "fr": texts(9)}, {("en", "fr"): pairs}, 1000)
    return directory


def stream(
    directory: Path,
    rank: int = 0,
    world: int = 1,
    micro: int = 4,
    warmup: list[tuple[int, int]] | None = None,
    skip: list[tuple[int, int]] | None = None,
    state: dict[str, Any] | None = None,
    packing: str = "documents",
    prefetch: int = 0,
) -> Stream:
    return open_stream(
        directory,
        DataConfig(
            path=directory,
            seq_len=SEQ_LEN,
            packing=packing,  # type: ignore[arg-type]
            prefetch_batches=prefetch,
            skip_rows=skip or [],
        ),
        [ObjectiveConfig(name="mlm"), ObjectiveConfig(name="tlm")],
        MaskingConfig(),
        7,
        16 if warmup else GLOBAL,
        micro,
        rank,
        world,
        state,
        [
            BatchSizePhase(until_tokens=until, global_batch_size=size)
            for until, size in warmup or []
        ],
    )


def take_step(batches: Stream) -> Rows:
    """This rank's rows of the next global batch by id, as text and targets."""
    rows: Rows = {}
    count = batches.grad_accum_steps
    for number, item in enumerate(islice(batches, count)):
        batch = item.batch
        assert (item.state_after is not None) == (number == count - 1)
        targets = batch.targets.view(len(batch.row_ids), -1).tolist()
        for row, row_id in enumerate(batch.row_ids.tolist()):
            assert row_id not in rows
            text = batch.tokens[row * SEQ_LEN : (row + 1) * SEQ_LEN].tolist()
            rows[row_id] = (text, targets[row])
    return rows


def steps_of(
    directory: Path, steps: int, world: int = 1, micro: int = 4, **of: Any
) -> tuple[list[Rows], dict[str, Any]]:
    """The rows of each global batch over all ranks, and the state after the last."""
    batches: list[Rows] = [{} for _ in range(steps)]
    states = []
    for rank in range(world):
        with stream(directory, rank, world, micro, **of) as own:
            for step in range(steps):
                rows = take_step(own)
                assert not rows.keys() & batches[step].keys()
                batches[step] |= rows
            states.append(json.loads(json.dumps(own.state)))
    assert all(state == states[0] for state in states)
    return batches, states[0]


@pytest.fixture(scope="module")
def plain(dataset: Path) -> dict[str, Rows]:
    """Every row of the stream from which nothing is left out, by packing."""
    return {
        packing: {
            row_id: row
            for batch in steps_of(dataset, ROWS // GLOBAL, packing=packing)[0]
            for row_id, row in batch.items()
        }
        for packing in ("stream", "documents")
    }


def sizes_from(position: int, skipped: list[tuple[int, int]], warmed: bool) -> list[list[int]]:
    """The row ids of global batches as the documentation says them, row by row."""
    out = {row for begin, end in skipped for row in range(begin, end)}
    batches = []
    while position < ROWS - 200:
        size = next((n for until, n in WARMUP if position * SEQ_LEN < until), 16)
        batch: list[int] = []
        while len(batch) < (size if warmed else GLOBAL):
            if position not in out:
                batch.append(position)
            position += 1
        batches.append(batch)
    return batches


@given(RANGES, st.sampled_from(LAYOUTS), st.sampled_from(["stream", "documents"]), st.booleans())
@settings(max_examples=40, deadline=None)
def test_what_is_left_is_what_would_have_come_anyway(
    dataset: Path,
    plain: dict[str, Rows],
    skip: list[tuple[int, int]],
    layout: tuple[int, int],
    packing: str,
    warmed: bool,
) -> None:
    world, micro = layout
    expected = sizes_from(0, skip, warmed)[:8]
    batches, state = steps_of(
        dataset, 8, world, micro, skip=skip, packing=packing, warmup=WARMUP if warmed else None
    )
    assert [sorted(batch) for batch in batches] == expected
    for batch in batches:
        assert all(plain[packing][row_id] == row for row_id, row in batch.items())
    assert state["position"] == expected[-1][-1] + 1
    assert state["skip_rows"] == [list(of) for of in merge_ranges(skip)]


@given(RANGES, st.integers(0, 7), st.sampled_from(LAYOUTS), st.sampled_from(LAYOUTS), st.booleans())
@settings(max_examples=40, deadline=None)
def test_no_row_is_repeated_or_lost_over_a_resume_on_another_layout(
    dataset: Path,
    skip: list[tuple[int, int]],
    steps: int,
    before: tuple[int, int],
    after: tuple[int, int],
    prefetched: bool,
) -> None:
    of: dict[str, Any] = {"warmup": WARMUP, "prefetch": 2 if prefetched else 0}
    whole, end = steps_of(dataset, 10, 1, 4, skip=skip, **of)
    first, state = ([], None) if steps == 0 else steps_of(dataset, steps, *before, skip=skip, **of)
    rest, state = steps_of(dataset, 10 - steps, *after, state=state, skip=skip, **of)
    assert first + rest == whole
    assert state == end
    ids = [row_id for batch in first + rest for row_id in sorted(batch)]
    out = {row for begin, stop in skip for row in range(begin, stop)}
    assert ids == [row for row in range(ids[-1] + 1) if row not in out]


@pytest.mark.parametrize("prefetch", [0, 3])
@pytest.mark.parametrize("steps", [0, 1, 4])
def test_skipping_while_the_run_is_on_equals_skipping_by_config(
    dataset: Path, prefetch: int, steps: int
) -> None:
    begin, end = 40, 61
    expected, state = steps_of(dataset, 9, skip=[(2, 3), (begin, end)])
    with stream(dataset, skip=[(2, 3)], prefetch=prefetch) as batches:
        found = [take_step(batches) for _ in range(steps)]
        batches.skip(begin, end)  # with prefetching, some of these rows are made already
        found += [take_step(batches) for _ in range(9 - steps)]
        assert found == expected
        assert batches.state == state
        assert batches.skipped == [(2, 3), (begin, end)]
        assert batches.rows_between(36, 64) == [36, 37, 38, 39, 61, 62, 63]


def test_what_was_left_out_is_in_the_state_and_ranges_of_config_and_state_add_up(
    dataset: Path,
) -> None:
    with stream(dataset) as batches:
        batches.skip(12, 20)
        for _ in range(3):
            take_step(batches)
        state = json.loads(json.dumps(batches.state))
    assert state["position"] == 32 and state["skip_rows"] == [[12, 20]]
    with stream(dataset, skip=[(5, 7), (30, 35), (50, 60)], state=state) as resumed:
        # Rows 5, 6, 30 and 31 were used before: saying that they were left out would be untrue.
        assert resumed.skipped == [(12, 20), (32, 35), (50, 60)]
        assert min(take_step(resumed)) == 35
        resumed.start_over()
        assert resumed.skipped == [(5, 7), (30, 35), (50, 60)]
        assert sorted(take_step(resumed)) == [0, 1, 2, 3, 4, 7, 8, 9]


def test_only_what_lies_ahead_can_be_skipped(dataset: Path) -> None:
    with stream(dataset) as batches:
        take_step(batches)
        batches.skip(0, 10)
        assert batches.skipped == [(8, 10)]
        batches.skip(0, 8)
        assert batches.skipped == [(8, 10)]
        with pytest.raises(ValueError, match=r"\[9, 9\)"):
            batches.skip(9, 9)


def test_a_long_range_is_drawn_in_parts_and_moves_every_cursor(
    dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, walked = steps_of(dataset, 30)
    monkeypatch.setattr("megaxlm.data.loader._SKIP_CHUNK", 7)
    _, jumped = steps_of(dataset, 2, skip=[(8, 29 * GLOBAL)])
    assert jumped["position"] == walked["position"] == 30 * GLOBAL
    assert jumped["sources"] == walked["sources"]


def test_a_growing_batch_takes_as_many_micro_batches_as_it_needs(dataset: Path) -> None:
    with stream(dataset, world=2, micro=2, warmup=WARMUP) as batches:
        counts = []
        for _ in range(9):
            counts.append(batches.grad_accum_steps)
            take_step(batches)
    assert counts == [1, 1, 1, 2, 2, 2, 2, 4, 4]  # from rows 0, 4, 8 | 12, 20, 28, 36 | 44, 60


def test_a_phase_that_does_not_divide_is_refused(dataset: Path) -> None:
    with pytest.raises(UserError, match=r"batch_size_warmup\.0\.global_batch_size 4 .* of 8"):
        stream(dataset, world=2, micro=4, warmup=WARMUP)
