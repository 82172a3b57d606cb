"""How well a model predicts masked tokens of each language it has not trained on.

The loss is the mean cross entropy (nats) over the masked tokens of fixed validation rows. It is a
pseudo-likelihood: each token is predicted from both sides, so it compares masked models with each
other at the same masking, not with left-to-right models. As a loss a token depends on how long
the tokenizer's tokens are, it is also given as

    bits per byte = loss / ln 2 x tokens / text bytes

with the tokens and UTF-8 bytes of the whole validation text of the language: the bits that all
its tokens would cost at this rate, over its bytes. That number compares between tokenizers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from megaxlm.config.pretrain import DataConfig, MaskingConfig
from megaxlm.data.batch import MicroBatch
from megaxlm.data.shards import Subset, read_index
from megaxlm.objectives.mixture import OBJECTIVES
from megaxlm.objectives.validation import validation_batches


@dataclass(frozen=True)
class LanguagePerplexity:
    """The validation result of one language, or of one pair."""

    loss_nats_per_token: float
    bits_per_byte: float
    targets: int  # masked tokens that the loss is the mean of

    @property
    def perplexity(self) -> float:
        """exp(loss); infinite where that overflows."""
        try:
            return math.exp(self.loss_nats_per_token)
        except OverflowError:
            return math.inf

    def to_json(self) -> dict[str, Any]:
        """Returns plain values; a number that is not finite is None, for JSON has none such."""
        values = asdict(self) | {"perplexity": self.perplexity}
        return {key: value if math.isfinite(value) else None for key, value in values.items()}


def evaluate_perplexity(
    model: nn.Module,
    dataset_dir: Path,
    data: DataConfig,
    masking: MaskingConfig,
    seed: int,
    max_rows_per_language: int,
    micro_batch_size: int,
    device: torch.device | str = "cpu",
    reduce: Callable[[Tensor], Tensor] | None = None,
    rank: int = 0,
    world_size: int = 1,
    objective: str = "mlm",
    together: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> dict[str, LanguagePerplexity]:
    """Measures every language of the validation split.

    Rows and masks depend on the seed alone. The result is the same on any number of ranks, bit
    for bit: losses are summed a micro-batch, micro-batches are made of the same rows whichever
    rank takes them, and their sums are added exactly. Every rank makes the same number of forward
    passes, as a model partitioned by ZeRO-3 needs.

    Args:
        model: A `MaskedLanguageModel`, or a wrapper that is called the same way. Dropout is off
            meanwhile; the model is left in the mode it came in.
        dataset_dir: The data set.
        data: Row length and languages.
        masking: What is predicted.
        seed: Keys rows and masks.
        max_rows_per_language: Rows of each language; fewer where it has fewer.
        micro_batch_size: Rows of one forward pass.
        device: Where the model is.
        reduce: Sums a float64 tensor on `device` over all ranks; None with one rank.
        rank: This process.
        world_size: All processes.
        objective: `mlm` measures languages, `tlm` pairs with both sides in view.
        together: Raises one rank's error on all of them: a damaged shard shows where it is read,
            and the others must not wait for that rank in a forward pass.

    Returns:
        By language (or pair), in the order of the data set, the same on every rank. Empty where
        the validation split holds no such text.

    Raises:
        UserError: There is no data set here, or its tokenizer has changed.
        CorruptDataError: A shard does not hold what the index says.
    """
    if world_size > 1 and reduce is None:
        raise ValueError(f"{world_size} ranks need `reduce`")
    sums: dict[str, list[Tensor]] = {}  # this rank's micro-batches: (loss sum, targets)
    was_training = model.training
    model.eval()
    try:
        languages = groupby(
            validation_batches(
                dataset_dir,
                data,
                masking,
                seed,
                max_rows_per_language,
                micro_batch_size,
                objective,
                rank,
                world_size,
            ),
            key=itemgetter(0),
        )
        while True:
            with together():  # one language is held at a time
                batches = list(next(languages, ("", iter(())))[1])
            if not batches:
                break
            for name, batch in batches:
                sums.setdefault(name, []).append(_loss_sum(model, batch, device))
    finally:
        model.train(was_training)
    totals = _over_ranks(sums, device, reduce, rank, world_size)
    subsets = OBJECTIVES[objective].subsets(read_index(dataset_dir), "validation")
    return {
        subset.name: _result(*totals[subset.name], subset)
        for subset in subsets
        if subset.name in totals
    }


@torch.no_grad()
def _loss_sum(
    model: nn.Module, batch: MicroBatch, device: torch.device | str
) -> Tensor:  # (2,) float64 on the CPU: the sum of losses and the number of targets
    moved = batch.to(device)
    _, target_losses = model(
        moved.tokens,
        moved.positions,
        moved.cu_seqlens,
        moved.target_index,
        moved.targets,
        moved.target_weight,
        moved.seq_len,
    )
    # Targets of weight 0 only fill the shape: their loss means nothing.
    real = target_losses.cpu()[batch.target_weight > 0].double()
    return torch.stack([real.sum(), torch.tensor(float(len(real)), dtype=torch.float64)])


def _over_ranks(
    sums: dict[str, list[Tensor]],
    device: torch.device | str,
    reduce: Callable[[Tensor], Tensor] | None,
    rank: int,
    world_size: int,
) -> dict[str, tuple[float, int]]:
    """Returns loss sum and targets of each language over all ranks.

    Each micro-batch has a place of its own in the tensor that is summed over ranks, where all
    other ranks hold zero: so that sum is exact, and `fsum` adds the places without rounding. What
    comes out does not depend on which rank held what.
    """
    if not sums:
        return {}
    own = torch.cat([torch.stack(parts) for parts in sums.values()])  # (rounds, 2)
    places = torch.zeros(len(own), world_size, 2, dtype=torch.float64)
    places[:, rank] = own
    if reduce is not None:
        places = reduce(places.to(device)).cpu()
    by_language = torch.split(places, [len(parts) for parts in sums.values()])
    return {
        name: (math.fsum(part[..., 0].flatten().tolist()), round(part[..., 1].sum().item()))
        for name, part in zip(sums, by_language, strict=True)
    }


def _result(loss_sum: float, targets: int, subset: Subset) -> LanguagePerplexity:
    loss = loss_sum / targets if targets else math.nan
    tokens_per_byte = subset.tokens / subset.text_bytes if subset.text_bytes else math.nan
    return LanguagePerplexity(loss, loss / math.log(2) * tokens_per_byte, targets)
