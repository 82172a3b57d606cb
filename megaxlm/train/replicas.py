"""Whether ranks that must hold the same weights hold the same bits.

Data-parallel ranks apply the same update to the same weights and never compare them again. A bit
that flips in one rank's memory, a collective that delivered something else to one of them, or a
kernel that is not deterministic then makes them train different models, which no loss shows.

Compared are the weights that are whole on several ranks: all at ZeRO stages 0 to 2, at stage 3 the
small ones that every rank keeps; in a pipeline among the ranks of a stage, and the tied embedding
also between the first and the last stage. At stage 0 the fp32 masters of bf16 weights are copies
on every rank as well, and are compared.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor

from megaxlm.distributed import reduce
from megaxlm.distributed.environment import Grid
from megaxlm.errors import EXIT_FOUND_WRONG, UserError
from megaxlm.model.pipeline import TIED_PARAMETER

if TYPE_CHECKING:
    from megaxlm.train.engine import TrainingEngine

CHUNK = 1 << 18  # elements at a time: what a checksum needs besides stays in the caches
MASTER_PREFIX = "fp32 master of "
MULTIPLIER = 6364136223846793005  # Knuth's, of a linear congruential generator modulo 2**64
INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def checksum(tensor: Tensor) -> Tensor:  # () int64
    """Returns a checksum of a tensor's bits, computed on its device.

    A polynomial hash by chunks of sums that weigh each element by an odd number of its place,
    modulo 2**64: any one changed element changes it, whatever its position, and it does not depend
    on the order in which a device adds.
    """
    bits = tensor.detach().contiguous().view(-1).view(INTEGERS[tensor.element_size()])
    places = torch.arange(min(CHUNK, bits.numel()), device=bits.device)
    weights = places.mul_(MULTIPLIER).bitwise_or_(1)  # (chunk,) int64
    total = torch.zeros((), dtype=torch.int64, device=bits.device)
    for chunk in torch.split(bits, CHUNK):
        total = total * MULTIPLIER + (chunk.to(torch.int64) * weights[: len(chunk)]).sum()
    return total


def check_replicas(engine: TrainingEngine, step: int) -> None:
    """Compares the weights of ranks that must be equal; all ranks call it between two steps.

    One pass over the weights on the device and one sum of two numbers a rank.

    Args:
        engine: Whose weights.
        step: For the message.

    Raises:
        UserError: They differ (exit code 1); the same error on every rank.
    """
    grid = engine.grid
    if grid.world_size == 1:
        return
    sums = {name: checksum(tensor) for name, tensor in replicated_tensors(engine)}
    mine = torch.zeros(grid.world_size, 2, dtype=torch.int64, device=engine.device)
    if sums:
        parts = torch.stack([value.to(engine.device) for value in sums.values()])
        mine[grid.rank, 0] = checksum(parts)
    tied = grid.num_stages > 1 and engine.config.model.tie_word_embeddings
    if tied and TIED_PARAMETER in sums:
        mine[grid.rank, 1] = sums[TIED_PARAMETER].to(engine.device)
    totals = reduce.all_sum(mine).tolist()
    if any(_differ([totals[rank][0] for rank in ranks]) for ranks in _stages(grid)) or (
        tied and _differ([totals[rank][1] for rank in _tied_ranks(grid)])
    ):
        _tell(grid, {name: int(value) for name, value in sums.items()}, step)


def replicated_tensors(engine: TrainingEngine) -> Iterator[tuple[str, Tensor]]:
    """Yields what this rank holds whole, by name, in an order that is the same on equal ranks."""
    deepspeed_engine = engine._engine
    module = getattr(deepspeed_engine.module, "stage", deepspeed_engine.module)
    names = {}
    for name, parameter in module.named_parameters():
        names[parameter] = name
        # At stage 3 what is partitioned is not there between steps.
        if not hasattr(parameter, "ds_status") or parameter.ds_status.name == "AVAILABLE":
            yield name, parameter
    for name, buffer in module.named_buffers():
        yield name, buffer
    optimizer = deepspeed_engine.optimizer
    if deepspeed_engine.zero_optimization_stage() == 0 and hasattr(optimizer, "fp32_groups"):
        for parameters, masters in zip(optimizer.fp16_groups, optimizer.fp32_groups, strict=True):
            for parameter, master in zip(parameters, masters, strict=True):
                yield MASTER_PREFIX + names[parameter], master


def _stages(grid: Grid) -> list[range]:
    size = grid.data_world_size
    return [range(stage * size, (stage + 1) * size) for stage in range(grid.num_stages)]


def _tied_ranks(grid: Grid) -> list[int]:
    """Returns the ranks of the first and the last stage, none without a pipeline."""
    return [*_stages(grid)[0], *_stages(grid)[-1]] if grid.num_stages > 1 else []


def _differ(values: Sequence[int]) -> bool:
    return len(set(values)) > 1


def _tell(grid: Grid, mine: Mapping[str, int], step: int) -> None:
    """Finds the first tensor that differs and raises; every rank comes here together."""
    everyone: list[dict[str, int]] = [{} for _ in range(grid.world_size)]
    dist.all_gather_object(everyone, dict(mine))
    for ranks in [*_stages(grid), _tied_ranks(grid)]:
        for name in everyone[ranks[0]] if ranks else ():
            values = {rank: everyone[rank][name] for rank in ranks if name in everyone[rank]}
            if _differ(list(values.values())):
                raise UserError(
                    f"the weights of ranks that must be equal differ at step {step}, first in "
                    f"{name}: {_who(values)}; a memory or network fault is likely: replace that "
                    "hardware, and the same command resumes from the last checkpoint",
                    exit_code=EXIT_FOUND_WRONG,
                    known_to="run",
                )
    raise AssertionError("checksums differ as a whole, but none of them does")


def _who(values: Mapping[int, int]) -> str:
    """Returns `rank 1 differs from ranks 0, 2 and 3`, as far as a majority says who is right."""
    (common, count), *_ = Counter(values.values()).most_common()
    odd = [rank for rank, value in values.items() if value != common]
    if 2 * count <= len(values):
        return "ranks " + _listed(list(values)) + " do not agree"
    most = [rank for rank, value in values.items() if value == common]
    verb = "rank {} differs from" if len(odd) == 1 else "ranks {} differ from"
    return f"{verb.format(_listed(odd))} {'rank' if len(most) == 1 else 'ranks'} {_listed(most)}"


def _listed(ranks: Sequence[int]) -> str:
    said = [str(rank) for rank in ranks[:8]]
    more = len(ranks) - len(said)
    if more:
        return f"{', '.join(said)} and {more} more"
    return said[0] if len(said) == 1 else f"{', '.join(said[:-1])} and {said[-1]}"
