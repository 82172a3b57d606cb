import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from megaxlm_data.dedup.exact import first_occurrences
from megaxlm_data.dedup.kept import Kept
from megaxlm_data.stages import select as stage
from megaxlm_data.stages.select import Block, Selection, is_validation

from megaxlm.config.data_build import DataBuildConfig


class FakeFile:
    def __init__(self, blocks):
        self.blocks = blocks

    def numbers(self, number):
        ids = self.blocks[number]
        return ids, np.ones(len(ids), np.uint32), [np.full(len(ids), 10, np.uint32)]


def split(monkeypatch, tmp_path, blocks, **settings):
    arrays = [np.array(block, np.uint64) for block in blocks]
    monkeypatch.setattr(stage, "open_cleaned", lambda path, with_text: FakeFile(arrays))
    starts = np.cumsum([0, *map(len, arrays)])
    places = [
        Block(tmp_path, i, int(a), int(b))
        for i, (a, b) in enumerate(zip(starts[:-1], starts[1:], strict=True))
    ]
    config = DataBuildConfig(output=tmp_path, corpora=[{"lang": "en", "paths": ["x"]}], **settings)
    rows = int(starts[-1])
    bits = np.full((rows + 7) // 8, 0xFF, np.uint8)
    if config.deduplication.documents:
        bits = first_occurrences(arrays, rows, tmp_path / "buckets")
    selection = stage._select_group(places, config, Kept("digest", bits, 3, 2))
    assert (selection.duplicates, selection.near_duplicates) == (3, 2)
    kept = np.concatenate([a[selection.rows(p)] for a, p in zip(arrays, places, strict=True)])
    return selection, kept, kept[is_validation(kept, selection.validation_below)]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=40), min_size=1, max_size=5),
    st.sampled_from([0.0, 1e-9, 0.1, 0.5, 0.99]),
    st.integers(0, 12),
    st.booleans(),
)
def test_validation_is_the_lowest_ids_within_the_cap(
    tmp_path_factory, blocks, fraction, cap, deduplicate
):
    with pytest.MonkeyPatch.context() as patch:
        selection, kept, validation = split(
            patch,
            tmp_path_factory.mktemp("select"),
            blocks,
            validation_fraction=fraction,
            max_validation_documents=cap,
            deduplication={"documents": deduplicate},
        )
    everything = np.concatenate([np.array(b, np.uint64) for b in blocks])
    assert len(kept) == (len(np.unique(everything)) if deduplicate else len(everything))
    assert selection.documents == len(kept)
    assert selection.text_bytes == [10 * (len(kept) - len(validation))]
    assert selection.lines == len(kept) - len(validation)
    if fraction == 0 or cap == 0 or len(kept) < 20:
        assert not len(validation)
        return
    assert len(validation) >= 1
    assert len(np.unique(validation)) <= max(1, min(cap, len(kept) // 2))
    if len(validation) > 1:
        assert (validation < np.uint64(int(fraction * 2**64))).all()
    assert not np.intersect1d(validation, kept[kept >= np.uint64(selection.validation_below)]).size


def test_without_a_cap_in_the_way_the_fraction_alone_decides(monkeypatch, tmp_path):
    ids = np.random.default_rng(0).integers(0, 2**64 - 1, 20_000, dtype=np.uint64)
    selection, _, validation = split(monkeypatch, tmp_path, [ids], validation_fraction=0.01)
    assert selection.validation_below == int(0.01 * 2**64)
    assert len(validation) == pytest.approx(200, abs=60)


def test_selection_is_read_back(tmp_path):
    keep = np.packbits(np.arange(30) % 2 == 0, bitorder="little")
    selection = Selection(15, 15, 2**63 + 1, [7, 8], 20, "abc", keep)
    stage._save(tmp_path, selection)
    again = stage._finished(tmp_path, "abc")
    assert again.validation_below == 2**63 + 1
    assert np.array_equal(again.keep, keep)
    assert stage._finished(tmp_path, "other") is None
