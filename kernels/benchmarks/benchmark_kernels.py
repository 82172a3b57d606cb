"""Every op of megaxlm_kernels on this device: right or wrong, how fast, and against whom.

    python kernels/benchmarks/benchmark_kernels.py              # needs a GPU and nvcc
    python kernels/benchmarks/benchmark_kernels.py --small      # anywhere: that the script works

It builds the library, measures what the device can do (a copy, a GEMM), holds every op to its
float64 reference in bf16 (no further off than eager torch, plus 1e-5), and times forward alone and
forward with backward against eager torch, torch.compile and, where they are installed, Liger, apex
and cut-cross-entropy. `floor` is the time that the op's bytes take at the copy's rate, or its FLOPs
at the GEMM's, whichever is longer; `of floor` is what of it is reached.

The table is printed and written to `kernels/benchmarks/results/<device>.json`. Nothing has been
measured on a GPU yet.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from megaxlm_kernels.library import choose_implementation
from megaxlm_kernels.testing import assert_no_worse_than_eager
from rich.console import Console
from rich.table import Table
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))

from gpu_timing import Ceilings, Timing, measure, measure_ceilings, rotation
from kernel_cases import (
    Case,
    Inputs,
    Op,
    elementwise_cases,
    embedding_case,
    loss_case,
    make_inputs,
)

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    case: str
    contender: str
    direction: str
    seconds: float
    of_floor: float
    peak_bytes: int
    captured: bool


def outputs_of(op: Op, inputs: Inputs) -> tuple[Tensor, ...]:
    """Returns the op's results that gradients flow from."""
    found = op(**inputs)
    return tuple(found) if isinstance(found, (tuple, list)) else (found,)


def forward_and_backward(op: Op) -> Op:
    """Returns a function from inputs to all gradients."""

    def run(inputs: Inputs) -> tuple[Tensor, ...]:
        outputs = outputs_of(op, inputs)
        leaves = list(inputs.values())
        return torch.autograd.grad(outputs, leaves, [torch.ones_like(one) for one in outputs])

    return run


def poison(device: torch.device) -> None:
    """Fills free memory with NaN, so that what an op leaves unwritten shows."""
    count = (1 << 30) // 4 if device.type == "cuda" else 1 << 20
    torch.full((count,), float("nan"), device=device)


def check(case: Case, device: torch.device) -> str:
    """Holds the op to its reference, forward and backward, twice; returns what was found."""
    inputs = make_inputs(case, device, 5)
    wide = {name: one.detach().double().requires_grad_() for name, one in inputs.items()}
    exact = (*outputs_of(case.reference, wide), *forward_and_backward(case.reference)(wide))
    torch_op = case.same_dropout or case.eager
    eager = (*outputs_of(torch_op, inputs), *forward_and_backward(torch_op)(inputs))
    runs = []
    for _ in range(2):
        poison(device)
        runs.append((*outputs_of(case.ours, inputs), *forward_and_backward(case.ours)(inputs)))
    for number, (found, theirs, truth) in enumerate(zip(runs[0], eager, exact, strict=True)):
        try:
            assert_no_worse_than_eager(f"result {number}", found, theirs, truth)
        except AssertionError as error:
            return str(error)
        if not torch.equal(found, runs[1][number]):
            return f"result {number}: two runs differ"
    return "right"


def run_case(case: Case, ceilings: Ceilings, device: torch.device, small: bool) -> list[Row]:
    """Times all contenders, forward and forward with backward."""
    sets = rotation(functools.partial(make_inputs, case, device), small)
    contenders = {"megaxlm": case.ours, "eager": case.eager}
    if not small:
        contenders["torch.compile"] = torch.compile(case.eager)
    contenders |= dict(case.others)
    found = []
    for direction, wrap, count, flops in (
        ("forward", _forward, case.forward_bytes, case.forward_flops),
        ("both", forward_and_backward, case.both_bytes, case.both_flops),
    ):
        floor = max(count / ceilings.copy_bytes_per_second, flops / ceilings.gemm_flops_per_second)
        for name, op in contenders.items():
            timing: Timing = measure(wrap(op), sets, device)
            found.append(
                Row(
                    case.name,
                    name,
                    direction,
                    timing.seconds,
                    floor / timing.seconds,
                    timing.peak_bytes,
                    timing.captured,
                )
            )
    return found


def _forward(op: Op) -> Op:
    return lambda inputs: op(**inputs)


def show(rows: list[Row], verdicts: dict[str, str], ceilings: Ceilings, device: str) -> None:
    """Prints the table."""
    table = Table("op", "contender", "direction", "us", "of floor", "peak MB", title=device)
    for row in rows:
        mark = "" if row.captured else " *"
        table.add_row(
            row.case,
            row.contender,
            row.direction,
            f"{row.seconds * 1e6:,.1f}{mark}",
            f"{row.of_floor:.0%}",
            f"{row.peak_bytes / 1e6:,.0f}",
        )
    console = Console(width=140)
    console.print(table)
    console.print(
        f"copy {ceilings.copy_bytes_per_second / 1e12:.2f} TB/s, "
        f"GEMM {ceilings.gemm_flops_per_second / 1e12:.0f} TFLOP/s; * without a CUDA graph"
    )
    for name, verdict in verdicts.items():
        console.print(f"{name}: {verdict}")


def main() -> int:
    """Builds, checks, times, prints and writes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--small", action="store_true", help="tiny shapes, on any device")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR")
    arguments = parser.parse_args()
    if not torch.cuda.is_available() and not arguments.small:
        parser.error("torch sees no GPU; use --small to try the script without one")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    choose_implementation("cuda", device)
    ceilings = measure_ceilings(device, arguments.small)
    if arguments.small:
        cases = [
            *elementwise_cases(24, 64, 128),
            embedding_case(200, 64, 1003),
            loss_case(16, 32, 1003),
        ]
    else:
        cases = [
            *elementwise_cases(16_384, 1024, 4096),
            *elementwise_cases(65_536, 1024, 4096),
            *elementwise_cases(65_536, 768, 3072),
            embedding_case(65_536, 1024, 250_002),
            loss_case(2458, 1024, 250_002),
            loss_case(9830, 1024, 250_002),
        ]
    checked = {case.name: case for case in cases}
    if not arguments.small:  # in float64 the logits of all targets would fill the device
        fewer = loss_case(300, 1024, 250_002)
        checked |= {case.name: fewer for case in cases if case.forward_flops}
    rows: list[Row] = []
    verdicts: dict[str, str] = {}
    for case in cases:
        verdicts[case.name] = check(checked[case.name], device)
        rows += run_case(case, ceilings, device, arguments.small)
        if device.type == "cuda":
            torch.cuda.empty_cache()
    show(rows, verdicts, ceilings, name)
    arguments.results.mkdir(parents=True, exist_ok=True)
    path = arguments.results / f"{name.lower().replace(' ', '-')}.json"
    found = {
        "device": name,
        "torch": torch.__version__,
        "ceilings": asdict(ceilings),
        "verdicts": verdicts,
        "rows": [asdict(row) for row in rows],
    }
    path.write_text(json.dumps(found, indent=1) + "\n")
    print(path)
    return 0 if set(verdicts.values()) == {"right"} else 1


if __name__ == "__main__":
    sys.exit(main())
