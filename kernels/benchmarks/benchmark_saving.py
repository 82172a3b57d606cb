"""How long saving a checkpoint holds up training: in a thread, without one, and by `torch.save`.

    python kernels/benchmarks/benchmark_saving.py --folder /a/disk

Two processes over gloo, each with its half of the fp32 weights and both AdamW moments of a model
(ZeRO's share), on CPU tensors. A step updates every element of that in place and multiplies
matrices for the rest of its time, which is a real step's use of processor and memory but a far
shorter time than the forward and backward pass of such a model takes on a CPU. Three ways to save:

- `thread`: `CheckpointSaver`, the default of a run. The stall is the time inside `save`: copying
  to host memory, and waiting for the former checkpoint, of which there is none here.
- `no thread`: `CheckpointSaver(asynchronous=False)`: the same files, written before `save` returns.
- `torch.save`: each rank pickles a dict of its tensors to one file and waits for the others: no
  hashes, no fsync, no marker, no rename. Less than any of the others does.

The stall is the slowest rank's, and shown as a part of the steps between two checkpoints at the
default interval (`checkpoint.every_steps: 1000`), at the step time measured here and at the
shortest one that keeps it below 1%. `first` is the first save of a run, whose host memory is new.
The steps during a write share the processors with it (SHA-256 of every byte): that is shown too.

Seen on two cores of a shared AMD EPYC, torch 2.13.0, 100 million parameters (1.13 GiB a
checkpoint), `--step-seconds 1 --repeats 3`, while others kept ten processes a core busy: read the
ratios rather than the seconds.

                    first   median    worst   of training   below 1% from
    thread          5.26s    0.23s    1.31s        0.023%    23.3 ms/step     target 1%
    no thread      10.15s   11.76s   26.74s        1.152%  1175.8 ms/step
    torch.save      9.45s   13.60s   23.64s        1.333%  1359.7 ms/step
    no thread / thread 50x, torch.save / thread 58x

The first save holds up 5.26 s of its 1,000 steps of 1.02 s: 0.5%. A checkpoint was written after
36 s, during which an update of all elements took 841 ms instead of 636 ms.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from megaxlm.checkpoint.fragments import Fragment
from megaxlm.checkpoint.saver import CheckpointSaver
from megaxlm.config.pretrain import CheckpointConfig
from megaxlm.distributed.groups import new_rank_group
from megaxlm.testing.forked import ForkedRank, run_forked

WORLD_SIZE = 2
KINDS = ("model", "exp_avg", "exp_avg_sq")
TENSOR_NUMEL = 3 * 768 * 768  # a projection of XLM-R base
WARM_UP_STEPS = 3


def share_of(rank: int, parameters: int) -> list[Fragment]:
    """A rank's half of every tensor."""
    fragments = []
    for index in range(-(-parameters // TENSOR_NUMEL)):
        low, high = TENSOR_NUMEL * rank // WORLD_SIZE, TENSOR_NUMEL * (rank + 1) // WORLD_SIZE
        for kind in KINDS:
            values = torch.full((high - low,), 1.0 + index)
            fragments.append(Fragment(f"{kind}/{index}", (TENSOR_NUMEL,), low, values))
    return fragments


def step(fragments: list[Fragment], matrix: torch.Tensor, seconds: float) -> float:
    """One step of at least `seconds`; returns how long it took."""
    began = time.perf_counter()
    for fragment in fragments:
        fragment.tensor.mul_(0.999)
    while time.perf_counter() - began < seconds:
        torch.mm(matrix, matrix)
    return time.perf_counter() - began


def measure(place: ForkedRank, arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Saves in each way in turn; returns this rank's times."""
    dist.init_process_group(
        "gloo", f"file://{folder / 'store'}", rank=place.rank, world_size=WORLD_SIZE
    )
    group = new_rank_group("checkpoint")
    fragments = share_of(place.rank, arguments.parameters)
    matrix = torch.full((512, 512), 1e-3)
    state, shared = {"rank": place.rank}, {"position": list(range(1_000))}

    def saver(name: str, asynchronous: bool) -> CheckpointSaver:
        return CheckpointSaver(
            folder / name,
            place.rank,
            WORLD_SIZE,
            group.barrier,
            group.all_ok,
            asynchronous=asynchronous,
            keep_last=1,
        )

    threaded, direct = saver("thread", True), saver("direct", False)

    def torch_save(number: int) -> None:
        path = folder / f"rank-{place.rank}.pt"
        torch.save({fragment.key: fragment.tensor for fragment in fragments}, path)
        dist.barrier()

    ways: dict[str, Callable[[int], None]] = {
        "thread": lambda number: threaded.save(number, fragments, state, shared),
        "no thread": lambda number: direct.save(number, fragments, state, shared),
        "torch.save": torch_save,
    }
    times: dict[str, list[float]] = {way: [] for way in ways}
    alone: list[float] = []
    meanwhile: list[float] = []
    write_seconds: list[float] = []
    for number in range(arguments.repeats + 1):  # the first one is told apart
        for way, save in ways.items():
            alone += [step(fragments, matrix, arguments.step_seconds) for _ in range(WARM_UP_STEPS)]
            dist.barrier()
            began = time.perf_counter()
            save(number)
            times[way].append(time.perf_counter() - began)
            while threaded.in_flight:
                meanwhile.append(step(fragments, matrix, 0))
            threaded.wait()
            if way == "thread":
                write_seconds.append(time.perf_counter() - began)
            dist.barrier()
            for name in ("thread", "direct"):  # one at a time on the disk
                if place.rank == 0:
                    shutil.rmtree(folder / name / "checkpoints", ignore_errors=True)
                    (folder / name / "checkpoints").mkdir(parents=True)
            dist.barrier()
    bare = [step(fragments, matrix, 0) for _ in range(20)]
    threaded.close()
    direct.close()
    return {
        "times": times,
        "alone": alone,
        "bare": bare,
        "meanwhile": meanwhile,
        "write": write_seconds,
        "bytes": sum(fragment.num_bytes for fragment in fragments),
    }


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=None, help="where to write (default: /tmp)")
    parser.add_argument("--parameters", type=int, default=100_000_000)
    parser.add_argument("--step-seconds", type=float, default=0.5)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        ranks = run_forked(
            lambda place: measure(place, arguments, Path(folder)), WORLD_SIZE, timeout_seconds=3600
        )
    for rank in ranks:
        if isinstance(rank, BaseException):
            raise rank
    report(ranks)


def report(ranks: list[dict[str, Any]]) -> None:
    """Prints the slowest rank's times."""
    every_steps = CheckpointConfig().every_steps
    step_seconds = statistics.median(ranks[0]["alone"])
    size = sum(rank["bytes"] for rank in ranks)
    print(f"a checkpoint of {size / 2**30:.2f} GiB, {WORLD_SIZE} processes")
    print(f"a step takes {step_seconds:.3f} s; a checkpoint every {every_steps} steps")
    stalls = {}
    print(f"{'':12}{'first':>9}{'median':>9}{'worst':>9}{'of training':>14}{'below 1% from':>16}")
    for way in ranks[0]["times"]:
        slowest = [
            max(times) for times in zip(*(rank["times"][way] for rank in ranks), strict=True)
        ]
        first, later = slowest[0], slowest[1:]
        stalls[way] = statistics.median(later)
        part = stalls[way] / (every_steps * step_seconds)
        shortest = 1e3 * stalls[way] / (0.01 * every_steps)
        print(
            f"{way:12}{first:8.2f}s{stalls[way]:8.2f}s{max(later):8.2f}s{part:13.3%}"
            f"{shortest:10.1f} ms/step"
        )
    for way in ("no thread", "torch.save"):
        print(f"{way} / thread: {stalls[way] / stalls['thread']:.1f}x")
    bare, meanwhile = (statistics.median(ranks[0][name]) for name in ("bare", "meanwhile"))
    written = statistics.median(ranks[0]["write"])
    print(f"written after {written:.2f} s; an update of all elements takes", end=" ")
    print(f"{1e3 * bare:.0f} ms alone, {1e3 * meanwhile:.0f} ms meanwhile")


if __name__ == "__main__":
    main()
