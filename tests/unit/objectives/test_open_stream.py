import gc
import hashlib
import json
import threading
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megaxlm.config.pretrain import CurriculumPhase, DataConfig, MaskingConfig, ObjectiveConfig
from megaxlm.data.batch import MicroBatch
from megaxlm.data.loader import LoadedBatch, Stream
from megaxlm.data.shards import read_index
from megaxlm.data.special_tokens import BOS, EOS, PAD
from megaxlm.errors import CorruptDataError, UserError
from megaxlm.objectives.mixture import open_stream
from megaxlm.testing.datasets import write_dataset

SEQ_LEN = 32
VOCAB_SIZE = 1000
GLOBAL = 16
BOTH = [ObjectiveConfig(name="mlm", weight=3), ObjectiveConfig(name="tlm")]
PACKINGS = [
    {"packing": "stream"},
    {"packing": "stream", "attend_across_documents": True},
    {"packing": "documents"},
    {"packing": "documents", "attend_across_documents": True, "max_segments_per_row": 3},
]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("dataset")
    rng = np.random.default_rng(0)

    def texts(count: int, median: float) -> list[np.ndarray]:
        lengths = rng.lognormal(np.log(median), 0.8, count).astype(int) + 1
        return [rng.integers(4, VOCAB_SIZE - 1, length) for length in lengths]

    write_dataset(
        directory,
        {"en": texts(200, 20), "fr": texts(60, 30), "sw": texts(2, 4)},
        {
            ("en", "fr"): list(zip(texts(50, 5), texts(50, 5), strict=True)),
            ("en", "sw"): list(zip(texts(9, 5), texts(9, 5), strict=True)),
        },
        VOCAB_SIZE,
        rows_per_shard=40,
    )
    return directory


def stream(
    directory: Path,
    *,
    objectives: list[ObjectiveConfig] = BOTH,
    micro: int = 4,
    rank: int = 0,
    world: int = 1,
    global_batch: int = GLOBAL,
    seed: int = 7,
    state: dict[str, Any] | None = None,
    **data: Any,
) -> Stream:
    config = DataConfig(path=directory, **{"seq_len": SEQ_LEN, "prefetch_batches": 0, **data})
    return open_stream(
        directory,
        config,
        objectives,
        MaskingConfig(),
        seed,
        global_batch,
        micro,
        rank,
        world,
        state,
    )


def rows_of(batch: MicroBatch) -> Iterator[tuple[int, tuple[Any, ...]]]:
    """Yields (row id, everything about the row), independent of the micro-batch around it."""
    seq_len = batch.seq_len
    ends = batch.cu_seqlens.numpy()
    targets = len(batch.targets) // len(batch.row_ids)
    for number, row_id in enumerate(batch.row_ids.tolist()):
        row = slice(number * seq_len, (number + 1) * seq_len)
        chosen = slice(number * targets, (number + 1) * targets)
        inside = np.unique(ends[(ends > row.start) & (ends <= row.stop)]) - row.start
        yield (
            row_id,
            (
                batch.tokens[row].tolist(),
                batch.positions[row].tolist(),
                batch.languages[row].tolist(),
                inside.tolist(),
                (batch.target_index[chosen] - row.start).tolist(),
                batch.targets[chosen].tolist(),
                batch.target_weight[chosen].tolist(),
            ),
        )


def global_rows(
    directory: Path, steps: int, micro: int, world: int, **settings: Any
) -> tuple[dict[int, tuple[Any, ...]], dict[str, Any]]:
    """All rows of the first global batches, from every rank, and the state after them."""
    rows: dict[int, tuple[Any, ...]] = {}
    states = []
    for rank in range(world):
        with stream(directory, micro=micro, rank=rank, world=world, **settings) as batches:
            loaded = list(islice(batches, steps * batches.grad_accum_steps))
        for item in loaded:
            for row_id, row in rows_of(item.batch):
                assert row_id not in rows
                rows[row_id] = row
        states.append(loaded[-1].state_after)
    assert all(state == states[0] for state in states)
    return rows, states[0]


@pytest.mark.parametrize("packing", PACKINGS, ids=str)
def test_world_size_and_micro_batch_size_do_not_change_the_global_batches(
    dataset: Path, packing: dict[str, Any]
) -> None:
    expected, state = global_rows(dataset, 12, GLOBAL, 1, **packing)
    assert sorted(expected) == list(range(12 * GLOBAL))
    for world, micro in ((1, 1), (1, 4), (2, 8), (2, 2), (4, 1), (4, 4), (8, 2)):
        assert global_rows(dataset, 12, micro, world, **packing) == (expected, state)


def test_rows_are_dealt_out_as_documented(dataset: Path) -> None:
    for rank in range(2):
        batches = list(islice(stream(dataset, micro=4, rank=rank, world=2), 4))
        for number, item in enumerate(batches):
            step, micro_step = divmod(number, 2)
            first = step * GLOBAL + (micro_step * 2 + rank) * 4
            assert item.batch.row_ids.tolist() == list(range(first, first + 4))
            assert (item.state_after is not None) == (micro_step == 1)


@given(
    st.integers(0, 25),
    st.sampled_from([(1, 16), (1, 4), (2, 4), (4, 2)]),
    st.sampled_from(PACKINGS),
    st.integers(0, 2),
)
@settings(max_examples=25, deadline=None)
def test_resuming_is_continuing(
    dataset: Path,
    steps: int,
    layout: tuple[int, int],
    packing: dict[str, Any],
    prefetch: int,
) -> None:
    whole, _ = global_rows(dataset, 28, 8, 1, **packing)
    state = stream(dataset, **packing).state
    if steps:
        _, state = global_rows(dataset, steps, 8, 1, prefetch_batches=prefetch, **packing)
    state = json.loads(json.dumps(state))
    world, micro = layout
    rest, _ = global_rows(
        dataset, 28 - steps, micro, world, state=state, prefetch_batches=prefetch, **packing
    )
    assert sorted(rest) == list(range(steps * GLOBAL, 28 * GLOBAL))
    assert all(whole[row_id] == row for row_id, row in rest.items())


def test_state_is_a_few_numbers_a_source(dataset: Path) -> None:
    _, state = global_rows(dataset, 20, 8, 1, packing="documents")
    assert state["position"] == 20 * GLOBAL
    assert set(state["sources"]) == {"mlm/en", "mlm/fr", "mlm/sw", "tlm/en-fr", "tlm/en-sw"}
    assert len(json.dumps(state)) < 600
    assert all(len(source["cursor"]) == 3 for source in state["sources"].values())


def test_load_state_goes_back_and_drops_what_was_made_in_advance(dataset: Path) -> None:
    batches = stream(dataset, prefetch_batches=3)
    first = list(islice(batches, 4))
    state = first[-1].state_after
    assert state is not None
    then = [dict(rows_of(item.batch)) for item in islice(batches, 7)]
    batches.load_state(state)
    assert batches.state["position"] == GLOBAL
    assert [dict(rows_of(item.batch)) for item in islice(batches, 7)] == then
    batches.close()


@pytest.mark.parametrize("packing", PACKINGS, ids=str)
def test_shapes_are_static_and_borders_in_order(dataset: Path, packing: dict[str, Any]) -> None:
    most = packing.get("max_segments_per_row", 32)
    tokens = 4 * SEQ_LEN
    for item in islice(stream(dataset, **packing), 40):
        batch = item.batch
        assert batch.seq_len == SEQ_LEN
        for name in ("tokens", "positions", "languages"):
            assert getattr(batch, name).shape == (tokens,)
        assert batch.cu_seqlens.shape == (4 * (most + 1) + 1,)
        for name in ("target_index", "targets", "target_weight"):
            assert getattr(batch, name).shape == (4 * round(0.15 * SEQ_LEN),)
        ends = batch.cu_seqlens.numpy()
        assert ends[0] == 0 and ends[-1] == tokens and (np.diff(ends) >= 0).all()
        assert set(range(0, tokens + 1, SEQ_LEN)) <= set(ends.tolist())  # none crosses a row
        positions = batch.positions.numpy()
        assert (positions[ends[ends < tokens]] == 0).all()
        steps = np.diff(positions)
        assert ((steps == 1) | (positions[1:] == 0)).all()
        assert positions.max() < SEQ_LEN
        index = batch.target_index.numpy()
        assert (np.diff(index) > 0).all()
        assert (index.reshape(4, -1) // SEQ_LEN == np.arange(4)[:, None]).all()


def unmasked(batch: MicroBatch) -> np.ndarray:
    tokens = batch.tokens.clone()
    tokens[batch.target_index] = batch.targets
    return tokens.numpy()


def test_tlm_pairs_are_segments_whose_second_side_starts_at_position_zero(dataset: Path) -> None:
    pairs = 0
    for item in islice(stream(dataset, objectives=[ObjectiveConfig(name="tlm")]), 20):
        batch = item.batch
        tokens, positions = unmasked(batch), batch.positions.numpy()
        languages, ends = batch.languages.numpy(), np.unique(batch.cu_seqlens.numpy())
        for start, end in zip(ends[:-1], ends[1:], strict=True):
            if tokens[start] == PAD:
                assert (tokens[start:end] == PAD).all()
                continue
            pairs += 1
            (closing,) = np.flatnonzero(tokens[start:end] == EOS)[:1]
            second = start + closing + 1
            assert tokens[start] == BOS and tokens[second] == EOS and tokens[end - 1] == EOS
            assert positions[second] == 0
            assert (positions[start:second] == np.arange(second - start)).all()
            assert (positions[second:end] == np.arange(end - second)).all()
            assert len(set(languages[start:second])) == len(set(languages[second:end])) == 1
            assert languages[start] != languages[second]
    assert pairs > 100


def languages_seen(directory: Path, rows: int, **settings: Any) -> dict[int, set[int]]:
    found, _ = global_rows(directory, rows // GLOBAL, GLOBAL, 1, **settings)
    return {row_id: set(row[2]) for row_id, row in found.items()}


def test_shares_of_objectives_and_languages(dataset: Path) -> None:
    """4,096 rows are one stratified block: every share is exact to two rows."""
    seen = languages_seen(dataset, 4096, global_batch=GLOBAL, sampling_alpha=0.5)
    pairs = [langs for langs in seen.values() if len(langs) == 2]
    assert abs(len(pairs) - 1024) <= 4
    tokens = {s.name: s.tokens for s in read_index(dataset).subsets}
    roots = {name: tokens[name] ** 0.5 for name in ("en", "fr", "sw")}
    for lang_id, name in enumerate(("en", "fr", "sw")):
        share = roots[name] / sum(roots.values())
        assert abs(sum(langs == {lang_id} for langs in seen.values()) - 3072 * share) <= 2


def test_curriculum_switches_at_its_token_and_keeps_cursors(dataset: Path) -> None:
    phases = [
        CurriculumPhase(from_tokens=64 * SEQ_LEN, languages=["en", "sw"]),
        CurriculumPhase(from_tokens=128 * SEQ_LEN, objectives=[ObjectiveConfig(name="tlm")]),
        CurriculumPhase(
            from_tokens=192 * SEQ_LEN - 5,
            objectives=[ObjectiveConfig(name="mlm")],
            languages=["fr"],
        ),
    ]
    mlm = [ObjectiveConfig(name="mlm")]
    seen = languages_seen(dataset, 256, objectives=mlm, curriculum=phases, sampling_alpha=0.0)
    en, fr, sw = {0}, {1}, {2}

    def between(start: int, stop: int) -> list[set[int]]:
        return [seen[row] for row in range(start, stop)]

    assert all(langs in between(0, 64) for langs in (en, fr, sw))
    assert all(langs in (en, sw) for langs in between(64, 128))
    assert all(langs == en | sw for langs in between(128, 192))
    assert all(langs == fr for langs in between(192, 256))
    plain, _ = global_rows(dataset, 16, GLOBAL, 1, objectives=mlm, languages=["fr"])
    mixed, _ = global_rows(
        dataset, 16, GLOBAL, 1, objectives=mlm, curriculum=phases, sampling_alpha=0.0
    )

    def french(rows: dict[int, tuple[Any, ...]]) -> list[tuple[int, ...]]:
        return [text_of(rows[row]) for row in sorted(rows) if set(rows[row][2]) == fr]

    with_pause = french(mixed)
    assert with_pause == french(plain)[: len(with_pause)]  # no row is repeated or left out


def text_of(row: tuple[Any, ...]) -> tuple[int, ...]:
    tokens = list(row[0])
    for place, original in zip(row[4], row[5], strict=True):
        tokens[place] = original
    return tuple(tokens)


def test_a_language_that_leaves_the_mixture_keeps_its_place(dataset: Path) -> None:
    _, state = global_rows(dataset, 5, GLOBAL, 1)
    _, without = global_rows(dataset, 5, GLOBAL, 1, state=state, languages=["en", "sw"])
    assert without["sources"]["mlm/fr"] == state["sources"]["mlm/fr"]
    _, back = global_rows(dataset, 1, GLOBAL, 1, state=without)
    assert back["position"] == 11 * GLOBAL


@pytest.mark.parametrize(
    ("packing", "digest"), [("stream", "a5ca18e11cd17ae9"), ("documents", "c7f674d42e414b14")]
)
def test_bytes_are_the_same_on_every_platform(tmp_path: Path, packing: str, digest: str) -> None:
    """A change of these digests breaks the exact resume of every run that is under way."""
    texts = [[4 + (i * j * j) % 995 for j in range(1 + i * 7 % 60)] for i in range(90)]
    pairs = [(text[:9], text[-7:]) for text in texts]
    write_dataset(tmp_path, {"en": texts, "fr": texts[::3]}, {("en", "fr"): pairs}, VOCAB_SIZE)
    found = hashlib.sha256()
    for item in islice(stream(tmp_path, packing=packing), 40):
        for name in ("tokens", "positions", "languages", "cu_seqlens", "target_index", "targets"):
            found.update(getattr(item.batch, name).numpy().astype("<i8").tobytes())
    assert found.hexdigest()[:16] == digest


def test_another_seed_is_another_stream(dataset: Path) -> None:
    first, _ = global_rows(dataset, 1, GLOBAL, 1, seed=1)
    second, _ = global_rows(dataset, 1, GLOBAL, 1, seed=2)
    assert first != second


def test_close_leaves_no_thread(dataset: Path) -> None:
    def alive() -> int:
        return sum(thread.name == "prefetch" for thread in threading.enumerate())

    batches = stream(dataset, prefetch_batches=2)
    next(batches)
    assert alive() == 1
    batches.close()
    assert alive() == 0
    with pytest.raises(StopIteration):
        next(batches)
    forgotten: Iterator[LoadedBatch] = stream(dataset, prefetch_batches=2)
    next(forgotten)
    del forgotten
    gc.collect()
    until = time.monotonic() + 10
    while alive() and time.monotonic() < until:
        time.sleep(0.01)
    assert alive() == 0


@pytest.mark.parametrize("prefetch", [0, 2])
def test_a_truncated_shard_surfaces_in_the_consumer(tmp_path: Path, prefetch: int) -> None:
    write_dataset(tmp_path, {"en": [[5] * 40] * 20}, rows_per_shard=5)
    path = tmp_path / "train/en/00002.arrow"
    path.write_bytes(path.read_bytes()[:-1])
    batches = stream(tmp_path, objectives=[ObjectiveConfig(name="mlm")], prefetch_batches=prefetch)
    with pytest.raises(CorruptDataError, match="00002.arrow"):
        list(islice(batches, 40))
    batches.close()


def test_ids_beyond_the_vocabulary_are_corrupt_data(tmp_path: Path) -> None:
    write_dataset(tmp_path, {"en": [[5, 2000] * 40] * 20}, vocab_size=1000)
    with pytest.raises(CorruptDataError, match="token id 2000 but the vocabulary ends at 999"):
        next(stream(tmp_path, objectives=[ObjectiveConfig(name="mlm")]))


def test_states_of_other_runs_are_refused(dataset: Path, tmp_path: Path) -> None:
    _, state = global_rows(dataset, 2, GLOBAL, 1)
    with pytest.raises(UserError, match="written with seed 7, this run has 8"):
        stream(dataset, seed=8, state=state)
    with pytest.raises(UserError, match="written with data.seq_len 32, this run has 64"):
        stream(dataset, seq_len=64, state=state)
    with pytest.raises(UserError, match="place in mlm/en does not fit.*data.packing"):
        stream(dataset, packing="documents", state=state)
    with pytest.raises(UserError, match="state has version 99"):
        stream(dataset, state={**state, "version": 99})
    pairs = [([7, 8], [9])] * 30
    write_dataset(tmp_path, {"en": [[5] * 40] * 20}, {("en", "fr"): pairs}, VOCAB_SIZE)
    with pytest.raises(UserError, match="its shards"):
        stream(tmp_path, state=state)


def test_the_wait_for_batches_that_are_late_is_counted(dataset: Path) -> None:
    opened = stream(dataset, prefetch_batches=0)
    assert opened.waited_seconds == 0
    began = time.perf_counter()
    list(islice(opened, 3))
    assert 0 < opened.waited_seconds <= time.perf_counter() - began
