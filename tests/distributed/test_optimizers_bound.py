"""Optimizers on masters that are laid out by hand.

DeepSpeed leaves a rank with nothing but padding only where parameters are tiny or ranks are many,
so what happens then is tried here without it; likewise several groups of ranks.
"""

from math import prod
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from megaxlm.config.pretrain import OptimizerConfig
from megaxlm.optim.optimizers import build_torch_optimizer
from megaxlm.optim.state import ADAM_MOMENTS, MOMENTS, MUON_MOMENTS, STACKED
from megaxlm.testing.distributed import run_distributed

pytestmark = pytest.mark.distributed

NAMES = ("lamb", "stable_adamw", "muon")
RATES = (1e-3, 3e-3, 2e-3)
MATRICES = {"a": (5, 7), "tiny": (2, 2), "thin": (2, 1), "b": (6, 4), "c": (9, 4)}
VECTORS = {"d": (9,), "e": (2,)}
PARTS_OF_MATRICES = (("a",), ("tiny",), ("thin",), ("b", "c"))
PARTS_OF_VECTORS = (("d", "e"),)


def bare_groups(name: str, parameters: list[list[Tensor]]) -> list[dict[str, Any]]:
    """Groups of matrices and vectors, with what an optimizer asks of them."""
    moments = (MUON_MOMENTS if name == "muon" else ADAM_MOMENTS, ADAM_MOMENTS)
    return [
        {"name": kind, "params": params, "weight_decay": decay, MOMENTS: names, STACKED: stacked}
        for kind, params, decay, names, stacked in zip(
            ("matrices", "vectors"), parameters, (0.1, 0.0), moments, (1, 1), strict=True
        )
    ]


def whole_run(name: str) -> dict[str, Tensor]:
    """Steps whole parameters."""
    weights = {k: noise(k, -1).requires_grad_() for k in MATRICES | VECTORS}
    kinds = [[weights[k] for k in MATRICES], [weights[k] for k in VECTORS]]
    groups = bare_groups(name, kinds)
    optimizer = build_torch_optimizer(OptimizerConfig(name=name), groups, torch.device("cpu"))
    for step in range(3):
        for k, weight in weights.items():
            weight.grad = noise(k, step)
        for group in optimizer.param_groups:
            group["lr"] = RATES[step]
        optimizer.step()
    return {k: weight.detach() for k, weight in weights.items()}


def noise(name: str, step: int) -> Tensor:
    shape = (MATRICES | VECTORS)[name]
    seed = sorted(MATRICES | VECTORS).index(name) * 100 + step + 1
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def lay_out(names: tuple[str, ...], cut: bool, ranks: int, rank: int) -> tuple[int, list[Any]]:
    """Returns the size of one rank's master and (name, start, numel, offset) of what it holds."""
    sizes = {name: prod((MATRICES | VECTORS)[name]) for name in names}
    held, offset = [], 0
    if cut:  # every parameter is cut into as many parts as there are ranks, as at stage 3
        for name, size in sizes.items():
            each = -(-size // ranks)
            numel = min(each, max(0, size - rank * each))
            if numel:
                held.append((name, rank * each, numel, offset))
            offset += each
        return offset, held
    # The group is cut, as at stages 1 and 2; with so much padding that the last rank has no more.
    partition = -(-sum(sizes.values()) // max(1, ranks - 1))
    begin = rank * partition
    for name, size in sizes.items():
        low, high = max(offset, begin), min(offset + size, begin + partition)
        if low < high:
            held.append((name, low - offset, high - low, low - begin))
        offset += size
    return partition, held


def bound_run(name: str, cut: bool, process_group: Any) -> dict[str, Tensor]:
    """Steps parts of parameters, one master at a time as DeepSpeed does."""
    rank = torch.distributed.get_rank(process_group)
    ranks = torch.distributed.get_world_size(process_group)
    parts = (PARTS_OF_MATRICES, PARTS_OF_VECTORS)
    if not cut:
        parts = ((tuple(MATRICES),), (tuple(VECTORS),))
    masters: list[list[Tensor]] = [[], []]
    layouts: list[list[list[Any]]] = [[], []]
    for group in (0, 1):
        for names in parts[group]:
            size, held = lay_out(names, cut, ranks, rank)
            masters[group].append(torch.zeros(size, requires_grad=True))
            layouts[group].append(held)
    pieces = [
        SimpleNamespace(
            group=group,
            name=name,
            shape=(MATRICES | VECTORS)[name],
            start=start,
            numel=numel,
            master=master,
            offset=offset,
        )
        for group in (0, 1)
        for master, held in zip(masters[group], layouts[group], strict=True)
        for name, start, numel, offset in held
    ]

    def write(targets: Any, step: int) -> None:
        for piece in pieces:
            values = noise(piece.name, step).view(-1)[piece.start : piece.start + piece.numel]
            targets(piece.master)[piece.offset : piece.offset + piece.numel] = values

    write(lambda master: master.detach(), -1)
    groups = bare_groups(name, masters)
    optimizer: Any = build_torch_optimizer(OptimizerConfig(name=name), groups, torch.device("cpu"))
    optimizer.bind(pieces, process_group)
    for step in range(3):
        for master in (m for group in masters for m in group):
            master.grad = torch.zeros_like(master)
        write(lambda master: master.grad, step)
        for group in optimizer.param_groups:
            group["lr"] = RATES[step]
            group["params"] = []
        for group, members in zip(optimizer.param_groups, masters, strict=True):
            for master in members:
                group["params"] = [master]
                optimizer.step()
            group["params"] = []
    covered = {id(master): torch.zeros_like(master) for group in masters for master in group}
    mine = []
    for piece in pieces:
        inside = slice(piece.offset, piece.offset + piece.numel)
        covered[id(piece.master)][inside] = 1
        mine.append((piece.name, piece.start, piece.master.detach()[inside].clone()))
    for master in (m for group in masters for m in group):
        assert not (master.detach() * (1 - covered[id(master)])).any()  # padding stays zero
    everyone: list[Any] = [None] * ranks
    torch.distributed.all_gather_object(everyone, mine, group=process_group)
    whole = {k: torch.full(shape, float("nan")) for k, shape in (MATRICES | VECTORS).items()}
    for k, start, values in (entry for each in everyone for entry in each):
        whole[k].view(-1)[start : start + values.numel()] = values
    return whole


def bound_runs() -> tuple[dict[str, dict[str, Tensor]], int]:
    """Returns the weights by case, and how many matrices this rank orthogonalised."""
    from megaxlm.optim import muon_exchange

    torch.distributed.init_process_group("gloo")
    rank = torch.distributed.get_rank()
    groups = {"all": torch.distributed.group.WORLD}
    for name, members in {"ends": [0, 2], "middle": [1]}.items():
        made = torch.distributed.new_group(members)
        if rank in members:
            groups[name] = made
    muon_exchange.ROUND_ELEMENTS = 50  # of two matrices: several rounds
    count, original = 0, muon_exchange.orthogonalize

    def counted(matrix: Tensor) -> Tensor:
        nonlocal count
        count += 1
        return original(matrix)

    muon_exchange.orthogonalize = counted
    found, counts = {}, 0
    for name in NAMES:
        for group_name, process_group in groups.items():
            for cut in (False, True):
                count = 0
                found[f"{name}-{group_name}-{cut}"] = bound_run(name, cut, process_group)
                counts += count if group_name == "all" else 0
    torch.distributed.destroy_process_group()
    return found, counts


def test_masters_with_padding_alone_and_groups_of_ranks() -> None:
    expected = {name: whole_run(name) for name in NAMES}
    by_rank = run_distributed(bound_runs, 3)
    for found, _ in by_rank:
        assert len(found) == len(NAMES) * 2 * 2
        for case, weights in found.items():
            for k, value in expected[case.split("-")[0]].items():
                torch.testing.assert_close(weights[k], value, rtol=1e-5, atol=1e-6, msg=case)
    # Three steps, cut in two ways: no matrix is orthogonalised on two ranks.
    counts = [count for _, count in by_rank]
    assert sum(counts) == 3 * 2 * len(MATRICES) and min(counts) > 0
