"""How many rows a global batch has, and which rank writes which of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from megaxlm.data.order import Int64Array
from megaxlm.errors import UserError


@dataclass(frozen=True)
class BatchLayout:
    """Who writes which rows of a global batch."""

    global_batch_size: int
    micro_batch_size: int
    rank: int = 0  # among the data-parallel ranks
    world_size: int = 1  # data-parallel ranks
    key: str = field(default="training.global_batch_size", compare=False)  # for messages

    def __post_init__(self) -> None:
        rows = self.micro_batch_size * self.world_size
        if self.global_batch_size % rows:
            below = self.global_batch_size // rows * rows
            nearest = f"{below} or {below + rows}" if below else f"{rows}"
            raise UserError(
                f"{self.key} {self.global_batch_size} does not divide into "
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
class BatchSchedule:
    """The layout of the global batch that begins at a position."""

    final: BatchLayout
    warmup: tuple[tuple[int, BatchLayout], ...] = ()  # (first position past the phase, layout)

    @classmethod
    def of(
        cls,
        seq_len: int,
        final: BatchLayout,
        warmup: Iterable[tuple[int, int]] = (),
    ) -> BatchSchedule:
        """Makes a schedule of token counts.

        Args:
            seq_len: Tokens a row.
            final: The layout after the last phase.
            warmup: (until_tokens, global_batch_size) by increasing until_tokens: a batch that
                begins before `until_tokens` tokens of the stream has this size.

        Raises:
            UserError: A phase's batch does not divide into micro-batches on all ranks.
        """
        phases = []
        for number, (until_tokens, global_batch_size) in enumerate(warmup):
            layout = BatchLayout(
                global_batch_size,
                final.micro_batch_size,
                final.rank,
                final.world_size,
                key=f"training.batch_size_warmup.{number}.global_batch_size",
            )
            phases.append((-(-until_tokens // seq_len), layout))
        return cls(final, tuple(phases))

    def at(self, position: int) -> BatchLayout:
        """Returns the layout of the batch that begins at `position`, skipped rows counted."""
        for until, layout in self.warmup:
            if position < until:
                return layout
        return self.final
