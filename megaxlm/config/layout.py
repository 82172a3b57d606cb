"""How processes are laid out: pipeline stages x data-parallel replicas, and the batch over them.

What does not come out is refused with the values nearest to it that do.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import gcd

from megaxlm.config.pretrain import PretrainConfig
from megaxlm.errors import UserError

_NAMED = 8  # how many working values a message lists


def replicas_of(run: PretrainConfig, processes: int, run_source: str = "the run's config") -> int:
    """Returns the data-parallel replicas of a number of processes.

    Raises:
        UserError: There are more stages than layers, or the processes are not a multiple of
            `training.pipeline_stages`.
    """
    stages, layers = run.training.pipeline_stages, run.model.num_hidden_layers
    if stages > layers:
        raise UserError(
            f"{run_source}: training.pipeline_stages {stages} exceeds model.num_hidden_layers "
            f"{layers}: a stage would have no layer; use at most {layers}"
        )
    if processes % stages == 0:
        return processes // stages
    fitting = [
        count
        for count in divisors(processes)
        if count <= layers and _divides(run, run.training.micro_batch_size * (processes // count))
    ]
    below = processes // stages * stages
    starts = one_of([count for count in (below, below + stages) if count])
    working = f"start {starts} processes"
    if fitting:
        working = f"use training.pipeline_stages {one_of(fitting)}, or {working}"
    raise UserError(
        f"{run_source}: training.pipeline_stages {stages} does not divide {processes} "
        f"process{'es' if processes > 1 else ''}; {working}"
    )


def grad_accum_steps(
    run: PretrainConfig, processes: int, run_source: str = "the run's config"
) -> int:
    """Returns the micro-batches of one replica in one optimizer step of the full batch.

    Raises:
        UserError: The processes are not a multiple of the pipeline stages, or the global batch,
            in some phase of `training.batch_size_warmup` or after it, is not a multiple of
            micro-batch x replicas.
    """
    replicas = replicas_of(run, processes, run_source)
    micro = run.training.micro_batch_size
    together = micro * replicas
    sizes = batch_sizes(run)
    for number, (key, rows) in enumerate(sizes):
        if rows % together:
            below = sizes[number - 1][1] if number else 0
            above = sizes[number + 1][1] if number + 1 < len(sizes) else None
            working = _working(run, rows, below, above, processes, replicas)
            spread = f"{replicas} processes"
            if run.training.pipeline_stages > 1:
                spread = (
                    f"{replicas} replicas ({processes} processes / training.pipeline_stages "
                    f"{run.training.pipeline_stages})"
                )
            raise UserError(
                f"{run_source}: {key} {rows} is not a multiple of "
                f"training.micro_batch_size {micro} x {spread} = {together}; use "
                + ", or ".join(working)
            )
    return run.training.global_batch_size // together


def batch_sizes(run: PretrainConfig) -> list[tuple[str, int]]:
    """Returns key and rows of every global batch size of a run, in order; the last is the full."""
    training = run.training
    phases = [
        (f"training.batch_size_warmup.{number}.global_batch_size", phase.global_batch_size)
        for number, phase in enumerate(training.batch_size_warmup)
    ]
    return [*phases, ("training.global_batch_size", training.global_batch_size)]


def working_processes(run: PretrainConfig) -> list[int]:
    """Returns every number of processes that the batch and the pipeline of a run divide into."""
    shared = gcd(*(rows for _, rows in batch_sizes(run)))
    micro = run.training.micro_batch_size
    if shared % micro:
        return []
    return [run.training.pipeline_stages * replicas for replicas in divisors(shared // micro)]


def divisors(number: int) -> list[int]:
    """Returns the divisors of a positive number in order."""
    small = [value for value in range(1, int(number**0.5) + 1) if number % value == 0]
    return small + [number // value for value in reversed(small) if value * value != number]


def one_of(values: Iterable[object]) -> str:
    """Returns `1, 2 or 4`; the first few of a long list."""
    shown = [str(value) for value in values][:_NAMED]
    return " or ".join(part for part in (", ".join(shown[:-1]), shown[-1]) if part)


def _working(
    run: PretrainConfig, rows: int, below: int, above: int | None, processes: int, replicas: int
) -> list[str]:
    """Names what would come out: other rows, another micro-batch, other processes."""
    micro = run.training.micro_batch_size
    together = micro * replicas
    near = rows // together * together
    fits = [
        value
        for value in (near, near + together)
        if value > below and (above is None or value < above)
    ]
    working = []
    if fits:
        key = "training.global_batch_size" if above is None else "for it"
        working.append(f"{key} {one_of(fits)}")
    shared = gcd(*(size for _, size in batch_sizes(run)))
    if shared % replicas == 0:
        each = [value for value in divisors(shared // replicas) if value <= micro]
        working.append(f"training.micro_batch_size {each[-1]}")
    counts = working_processes(run)
    if counts:
        nearest = sorted(sorted(counts, key=lambda count: abs(count - processes))[:2])
        working.append(f"{one_of(nearest)} process{'' if nearest == [1] else 'es'}")
    return working or [f"sizes that are all multiples of {together}"]


def _divides(run: PretrainConfig, together: int) -> bool:
    return all(rows % together == 0 for _, rows in batch_sizes(run))
