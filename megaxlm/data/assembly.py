"""From rows to a micro-batch: the one place where tensors of the static shapes are made."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from megaxlm.data.batch import MicroBatch
from megaxlm.data.masking import Masker
from megaxlm.data.rows import Row, RowFormat
from megaxlm.data.special_tokens import PAD
from megaxlm.errors import CorruptDataError


class BatchAssembler:
    """Writes, masks and flattens the rows of a micro-batch."""

    def __init__(
        self,
        dataset_dir: Path,
        row_format: RowFormat,
        micro_batch_size: int,
        vocab_size: int,
        masker: Masker,
    ) -> None:
        """Fixes the shapes.

        Args:
            dataset_dir: Where the rows come from, for messages.
            row_format: Shape of the rows.
            micro_batch_size: Rows a micro-batch.
            vocab_size: Size of the vocabulary.
            masker: Chooses the targets.
        """
        self._dataset_dir = dataset_dir
        self._format = row_format
        self._rows = micro_batch_size
        self._vocab_size = vocab_size
        self._masker = masker
        # One more a row than documents may take: the padding at its end is a segment too.
        self.max_segments = micro_batch_size * (row_format.max_segments_per_row + 1)

    def __call__(self, rows: Sequence[Row], row_ids: Sequence[int]) -> MicroBatch:
        """Makes a micro-batch of at most `micro_batch_size` rows; rows that lack are padding.

        Args:
            rows: The rows.
            row_ids: Their positions in the stream, which key the masks.

        Raises:
            CorruptDataError: A shard holds ids that the vocabulary does not have.
        """
        seq_len = self._format.seq_len
        tokens = np.full((self._rows, seq_len), PAD, np.int64)
        languages = np.zeros((self._rows, seq_len), np.int64)
        ids = np.full(self._rows, -1, np.int64)
        ids[: len(rows)] = row_ids
        segment_ends: list[int] = []
        position_starts: list[int] = []
        for number, row in enumerate(rows):
            borders = row.write(tokens[number], languages[number])
            base = number * seq_len
            segment_ends.extend(base + end for end in borders.segment_ends)
            position_starts.extend(base + start for start in borders.position_starts)
        for number in range(len(rows), self._rows):
            segment_ends.append((number + 1) * seq_len)
            position_starts.append(number * seq_len)
        self._check_vocabulary(tokens)
        total = self._rows * seq_len
        cu_seqlens = np.full(self.max_segments + 1, total, np.int32)
        cu_seqlens[0] = 0
        cu_seqlens[1 : len(segment_ends) + 1] = segment_ends
        starts = np.array(position_starts, np.int64)
        positions = np.arange(total) - np.repeat(starts, np.diff(starts, append=total))
        masked = self._masker(tokens, ids)
        return MicroBatch(
            tokens=torch.from_numpy(masked.tokens.reshape(-1)),
            positions=torch.from_numpy(positions),
            languages=torch.from_numpy(languages.reshape(-1)),
            cu_seqlens=torch.from_numpy(cu_seqlens),
            target_index=torch.from_numpy(masked.target_index),
            targets=torch.from_numpy(masked.targets),
            target_weight=torch.from_numpy(masked.target_weight),
            row_ids=torch.from_numpy(ids),
            seq_len=seq_len,
        )

    def _check_vocabulary(self, tokens: np.ndarray) -> None:
        largest = int(tokens.max())
        if largest >= self._vocab_size:
            raise CorruptDataError(
                f"{self._dataset_dir}: a shard holds token id {largest} but the vocabulary ends "
                f"at {self._vocab_size - 1}; `megaxlm data verify {self._dataset_dir}` finds it"
            )
