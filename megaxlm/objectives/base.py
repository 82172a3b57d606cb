"""What an objective decides: which text it reads, and how that becomes rows.

The stream knows sources of rows and their shares; masking, loss and model are the same for every
objective that predicts masked tokens. So an objective is the answer to two questions, and the
mixture is a table of probabilities.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

from megaxlm.data.rows import RowFormat, RowSource
from megaxlm.data.shards import DatasetIndex, Split, Subset
from megaxlm.data.store import ShardStore


@dataclass(frozen=True)
class RowSettings:
    """How a run makes rows, whatever the objective."""

    row_format: RowFormat
    packing: Literal["stream", "documents"]
    seed: int
    announce: bool = False  # log what does not fit well; one process of a run should


class Objective(ABC):
    """One training objective."""

    name: ClassVar[str]  # as in the config
    needs: ClassVar[str]  # the kind of text, for error messages

    @abstractmethod
    def subsets(self, index: DatasetIndex, split: Split) -> tuple[Subset, ...]:
        """Returns the subsets of a split that it can learn from."""

    @abstractmethod
    def open(self, store: ShardStore, subset: Subset, settings: RowSettings) -> RowSource:
        """Returns the rows of one of these subsets."""

    def source_name(self, subset: Subset) -> str:
        """Returns the name of a subset's rows in the stream and its saved state."""
        return f"{self.name}/{subset.name}"


def language_ids(index: DatasetIndex, subset: Subset) -> tuple[int, ...]:
    """Returns the ids of a subset's languages: their places in the index."""
    return tuple(index.languages.index(lang) for lang in subset.langs)
