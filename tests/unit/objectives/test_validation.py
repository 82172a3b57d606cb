from pathlib import Path
from typing import Any

import numpy as np
import pytest

from megaxlm.config.pretrain import CurriculumPhase, DataConfig, MaskingConfig
from megaxlm.data.batch import MicroBatch
from megaxlm.data.special_tokens import PAD
from megaxlm.objectives.validation import validation_batches
from megaxlm.testing.datasets import write_dataset

SEQ_LEN = 24
EN = [[100 + i] * (3 + i % 9) for i in range(60)]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("dataset")
    write_dataset(
        directory,
        {"en": [[5]], "fr": [[5]], "de": [[5]]},
        validation={"en": EN, "fr": [[7] * 30]},
        validation_bitext={("en", "fr"): [([8, 9], [10, 11, 12])] * 4},
        rows_per_shard=25,
    )
    return directory


def batches(directory: Path, rows: int = 100, micro: int = 4, **more: Any) -> list:
    data = {name: more.pop(name) for name in ("languages", "curriculum") if name in more}
    config = DataConfig(path=directory, seq_len=SEQ_LEN, **data)
    return list(
        validation_batches(
            directory, config, MaskingConfig(), more.pop("seed", 0), rows, micro, **more
        )
    )


def rows_of(found: list[tuple[str, MicroBatch]]) -> dict[tuple[str, int], tuple[Any, ...]]:
    rows = {}
    for name, batch in found:
        count = len(batch.row_ids)
        shape = (count, -1)
        for number, row_id in enumerate(batch.row_ids.tolist()):
            if row_id >= 0:
                assert (name, row_id) not in rows
                rows[name, row_id] = (
                    batch.tokens.reshape(shape)[number].tolist(),
                    batch.targets.reshape(shape)[number].tolist(),
                    batch.target_weight.reshape(shape)[number].tolist(),
                )
    return rows


def test_every_document_once_in_whole(dataset: Path) -> None:
    found = [batch for name, batch in batches(dataset) if name == "en"]
    texts: list[int] = []
    for batch in found:
        tokens = batch.tokens.clone()
        tokens[batch.target_index] = batch.targets
        texts += tokens[tokens >= 4].tolist()
    assert sorted(texts) == sorted(token for document in EN for token in document)


def test_rows_and_masks_do_not_depend_on_ranks_or_micro_batches(dataset: Path) -> None:
    expected = rows_of(batches(dataset))
    assert {name for name, _ in expected} == {"en", "fr"}
    assert rows_of(batches(dataset, micro=3)) == expected
    for world in (2, 4):
        dealt = [batches(dataset, micro=2, rank=rank, world_size=world) for rank in range(world)]
        assert len({tuple(name for name, _ in found) for found in dealt}) == 1  # in step
        merged: dict[Any, Any] = {}
        for found in dealt:
            assert not merged.keys() & rows_of(found).keys()
            merged |= rows_of(found)
        assert merged == expected
    assert rows_of(batches(dataset, seed=1)) != expected


def test_missing_rows_are_padding_of_weight_zero(dataset: Path) -> None:
    name, batch = batches(dataset)[-1]
    assert name == "fr" and batch.row_ids.tolist() == [0, 1, -1, -1]
    assert (batch.tokens.reshape(4, SEQ_LEN)[2:] == PAD).all()
    weights = batch.target_weight.reshape(4, -1)
    assert (weights[:1] == 1).all() and (weights[2:] == 0).all()
    ends = batch.cu_seqlens.numpy()
    assert {2 * SEQ_LEN, 3 * SEQ_LEN, 4 * SEQ_LEN} <= set(ends.tolist())
    shapes = {tuple(b.cu_seqlens.shape) + tuple(b.targets.shape) for _, b in batches(dataset)}
    assert len(shapes) == 1


def test_number_of_rows_is_limited(dataset: Path) -> None:
    some, everything = rows_of(batches(dataset, rows=5)), rows_of(batches(dataset))
    assert sum(name == "en" for name, _ in some) == 5
    assert all(everything[key] == row for key, row in some.items())


def test_languages_of_the_config_and_its_phases(dataset: Path) -> None:
    assert {name for name, _ in batches(dataset, languages=["fr"])} == {"fr"}
    phase = CurriculumPhase(from_tokens=9, languages=["en"])
    later = batches(dataset, languages=["fr"], curriculum=[phase])
    assert {name for name, _ in later} == {"fr", "en"}
    assert batches(dataset, languages=["de"]) == []


def test_pairs(dataset: Path) -> None:
    ((name, batch),) = batches(dataset, objective="tlm")
    assert name == "en-fr"
    assert batch.row_ids.tolist() == [0, 1, -1, -1]
    assert np.count_nonzero(batch.tokens.numpy() != PAD) == 4 * 9
