"""Translation language modelling (Conneau and Lample, 2019, section 3.3).

A sentence and its translation stand side by side and tokens of both are masked, so that the
model may look into the other language for what it cannot see in this one.
"""

from __future__ import annotations

from megaxlm.data.packed_rows import PairRows
from megaxlm.data.rows import RowSource
from megaxlm.data.shards import DatasetIndex, Split, Subset
from megaxlm.data.store import ShardStore, SubsetReader
from megaxlm.objectives.base import Objective, RowSettings, language_ids


class TranslationLanguageModeling(Objective):
    """Rows of whole sentence pairs, whatever `data.packing` says."""

    name = "tlm"
    needs = "bitext"

    def subsets(self, index: DatasetIndex, split: Split) -> tuple[Subset, ...]:
        """Returns the language pairs that have text."""
        return tuple(subset for subset in index.bitext(split) if subset.tokens)

    def open(self, store: ShardStore, subset: Subset, settings: RowSettings) -> RowSource:
        """Returns the rows of a pair of languages."""
        return PairRows(
            self.source_name(subset),
            SubsetReader(store, subset),
            language_ids(store.index, subset),
            settings.row_format,
            settings.seed,
            settings.announce,
        )
