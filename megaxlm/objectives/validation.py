"""The fixed rows on which a model is measured, language by language."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from megaxlm.config.pretrain import DataConfig, MaskingConfig
from megaxlm.data.assembly import BatchAssembler
from megaxlm.data.batch import MicroBatch
from megaxlm.data.masking import Masker
from megaxlm.data.order import derive_key
from megaxlm.data.packed_rows import PackedRows
from megaxlm.data.store import ShardStore
from megaxlm.objectives.base import RowSettings
from megaxlm.objectives.mixture import OBJECTIVES, row_format_of


def validation_batches(
    dataset_dir: Path,
    data: DataConfig,
    masking: MaskingConfig,
    seed: int,
    max_rows_per_language: int,
    micro_batch_size: int,
    objective: str = "mlm",
    rank: int = 0,
    world_size: int = 1,
) -> Iterator[tuple[str, MicroBatch]]:
    """Yields the validation split, one language (or pair) after another.

    Rows are packed from whole documents whatever `data.packing` says, so that each text is seen
    from its beginning; rows and masks are the same at every call, on any number of ranks. Shapes
    are those of training: what lacks in a language's last micro-batch is rows of padding, whose
    `row_ids` are -1 and whose targets weigh 0.

    Args:
        dataset_dir: The data set.
        data: Rows and languages; the languages of every curriculum phase are measured.
        masking: What is predicted.
        seed: Keys the choice of rows and the masks.
        max_rows_per_language: Rows a language or pair; fewer where the split has fewer.
        micro_batch_size: Rows a micro-batch.
        objective: `mlm` for monolingual text, `tlm` for pairs.
        rank: This process; micro-batches are dealt out in turn.
        world_size: All processes; each gets the same number of micro-batches, some of them all
            padding, because a partitioned model needs every rank in every forward pass.

    Yields:
        (`en` or `en-fr`, micro-batch).

    Raises:
        UserError: There is no data set here, or its tokenizer has changed.
        CorruptDataError: A shard does not hold what the index says.
    """
    store = ShardStore(dataset_dir)
    row_format = row_format_of(data)
    settings = RowSettings(row_format, "documents", derive_key(seed, "validation"))
    chosen = OBJECTIVES[objective]
    languages = _languages(data)
    for subset in chosen.subsets(store.index, "validation"):
        if languages is not None and not set(subset.langs) <= languages:
            continue
        source = chosen.open(store, subset, settings)
        assert isinstance(source, PackedRows)
        masker = Masker(
            masking,
            data.seq_len,
            store.index.vocab_size,
            derive_key(seed, "validation", source.name),
        )
        assemble = BatchAssembler(
            dataset_dir, row_format, micro_batch_size, store.index.vocab_size, masker
        )
        rows = list(islice(source.one_epoch(), max_rows_per_language))
        per_round = micro_batch_size * world_size
        for start in range(0, len(rows), per_round):
            first = start + rank * micro_batch_size
            own = rows[first : first + micro_batch_size]
            yield subset.name, assemble(own, range(first, first + len(own)))


def _languages(data: DataConfig) -> set[str] | None:
    if data.languages is None:
        return None
    return set(data.languages).union(*(phase.languages or () for phase in data.curriculum))
