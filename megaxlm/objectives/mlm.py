"""Masked language modelling on running text of one language (Devlin et al., 2019)."""

from __future__ import annotations

from megaxlm.data.packed_rows import DocumentRows
from megaxlm.data.rows import RowSource
from megaxlm.data.shards import DatasetIndex, Split, Subset
from megaxlm.data.store import ShardStore, SubsetReader
from megaxlm.data.stream_rows import StreamRows
from megaxlm.objectives.base import Objective, RowSettings, language_ids


class MaskedLanguageModeling(Objective):
    """Rows of one language, cut or packed as `data.packing` says."""

    name = "mlm"
    needs = "monolingual text"

    def subsets(self, index: DatasetIndex, split: Split) -> tuple[Subset, ...]:
        """Returns the languages that have text."""
        return tuple(subset for subset in index.monolingual(split) if subset.tokens)

    def open(self, store: ShardStore, subset: Subset, settings: RowSettings) -> RowSource:
        """Returns the rows of a language."""
        name = self.source_name(subset)
        reader = SubsetReader(store, subset)
        languages = language_ids(store.index, subset)
        if settings.packing == "documents":
            return DocumentRows(
                name, reader, languages, settings.row_format, settings.seed, settings.announce
            )
        return StreamRows(name, reader, languages[0], settings.row_format, settings.seed)
