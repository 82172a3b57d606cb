"""Which words of the vocabulary a rank decodes, and what the ranks tell one another about the rest.

A softmax over words that lie on several ranks needs of each row three numbers from every rank: its
highest logit, its sum of exponentials, and the target's logit from the rank that has it (Shoeybi et
al. 2019, "Megatron-LM", section 3). Logits themselves never travel.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class VocabularyShard:
    """The words [first, first + words of this rank) of `vocab_size`; without a group, all."""

    first: int
    vocab_size: int  # of all ranks together
    group: dist.ProcessGroup | None

    def local(
        self,
        ids: Tensor,  # int64, any shape, of the whole vocabulary
        words: int,  # of this rank
    ) -> tuple[Tensor, Tensor | int]:
        """Returns ids of this rank, 0 for those of others, and which are its own (1 for all)."""
        if self.group is None:
            return ids, 1
        ids = ids - self.first
        here = (ids >= 0) & (ids < words)
        return torch.where(here, ids, 0), here

    def all_max(self, values: Tensor) -> Tensor:
        """Returns the largest over the ranks, in place."""
        if self.group is not None:
            dist.all_reduce(values, dist.ReduceOp.MAX, self.group)
        return values

    def all_sum(self, values: Tensor) -> Tensor:
        """Returns the sum over the ranks, in place."""
        if self.group is not None:
            dist.all_reduce(values, dist.ReduceOp.SUM, self.group)
        return values

    def all_sums(
        self, one: Tensor, two: Tensor, three: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Returns the sums of tensors of one shape, by one message."""
        if self.group is None:
            return one, two, three
        summed = self.all_sum(torch.stack([one, two] if three is None else [one, two, three]))
        return summed[0], summed[1], None if three is None else summed[2]
