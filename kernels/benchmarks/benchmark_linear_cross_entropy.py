"""Memory and time of output projection and loss, forward and backward, against eager torch.

    python kernels/benchmarks/benchmark_linear_cross_entropy.py

Memory is what the allocator of torch held at the peak, above the inputs and the outputs. The
outputs (loss, losses and the gradients of hidden, weight and bias) are the same either way and so
are not counted on either side. It is set against two things: the eager head,
`F.cross_entropy(F.linear(hidden, weight, bias), targets)`, measured the same way in the same run;
and one fp32 matrix of logits, the least that any head holding full logits takes.

Both sides run in one process with the same number of threads, interleaved; medians are shown.

Seen at 2,458 targets, hidden 768, vocabulary 250,002, fp32, on the CPU: eager 6,598 MB, chunked
191 MB: 0.029 of eager, 0.078 of one matrix of logits. At 308 targets on one core of a shared AMD
EPYC: eager 4.6 CPU seconds, chunked 4.2.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from megaxlm_kernels.linear_cross_entropy import (
    default_chunk_size,
    linear_cross_entropy,
    linear_cross_entropy_reference,
)
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

Run = Callable[[], tuple[Tensor, ...]]


def peak_bytes(run: Run) -> int:
    """Returns the most bytes live at once during `run`, beyond those that it returns."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        outputs = run()
        torch.cuda.synchronize()
        peak = torch.cuda.max_memory_allocated() - before
    else:
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            outputs = run()
        assert profiler.profiler is not None and profiler.profiler.kineto_results is not None
        events = [
            event
            for event in profiler.profiler.kineto_results.events()
            if event.name() == "[memory]"
        ]
        live = peak = 0
        for event in sorted(events, key=lambda event: event.start_ns()):
            live += event.nbytes()
            peak = max(peak, live)
    return peak - sum(output.untyped_storage().nbytes() for output in outputs)


def seconds(run: Run) -> float:
    """Returns the wall time of one call."""
    start = time.perf_counter()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    """Measures and prints one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--targets", type=int, default=2458)
    parser.add_argument("--vocab-size", type=int, default=250_002)
    parser.add_argument("--hidden-size", type=int, default=768)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--chunk-size", type=int, default=None)
    parser.add_argument("--repeats", type=int, default=3, help="0: memory alone")
    arguments = parser.parse_args()

    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = getattr(torch, arguments.dtype)
    torch.manual_seed(0)
    shape = (arguments.vocab_size, arguments.hidden_size)
    weight = (torch.randn(shape, device=device) * 0.02).to(dtype).requires_grad_()
    bias = torch.zeros(shape[0], device=device, dtype=dtype, requires_grad=True)
    hidden = torch.randn(arguments.targets, shape[1], device=device).to(dtype).requires_grad_()
    targets = torch.randint(0, shape[0], (arguments.targets,), device=device)
    target_weight = torch.ones(arguments.targets, device=device)

    def step(head: Callable[[], tuple[Tensor, Tensor]]) -> Run:
        def run() -> tuple[Tensor, ...]:
            loss, losses = head()
            gradients = torch.autograd.grad(loss / arguments.targets, (hidden, weight, bias))
            return loss.detach(), losses, *gradients

        return run

    inputs = (hidden, weight, bias, targets, target_weight)
    runs = {
        "eager": step(lambda: linear_cross_entropy_reference(*inputs)),
        "chunked": step(lambda: linear_cross_entropy(*inputs, arguments.chunk_size)),
    }
    peaks = {name: peak_bytes(run) for name, run in runs.items()}
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(arguments.repeats):
        for name, run in runs.items():
            times[name].append(seconds(run))

    chunk_size = arguments.chunk_size or default_chunk_size(weight)
    print(
        f"{device}, {torch.get_num_threads()} threads, {arguments.dtype}, "
        f"{arguments.targets} targets, hidden {shape[1]}, vocabulary {shape[0]}, "
        f"chunks of {chunk_size}"
    )
    logits_bytes = arguments.targets * shape[0] * 4
    print(f"one fp32 matrix of logits  {logits_bytes / 1e6:8.0f} MB")
    flops = 6 * arguments.targets * shape[0] * shape[1]
    for name in runs:
        line = f"{name:8} extra memory      {peaks[name] / 1e6:8.0f} MB"
        if times[name]:
            median = statistics.median(times[name])
            line += f"   {median:7.2f} s   {flops / median / 1e9:7.0f} GFLOP/s"
        print(line)
    print(f"chunked / eager memory     {peaks['chunked'] / peaks['eager']:8.4f}")
    print(f"chunked / one logits       {peaks['chunked'] / logits_bytes:8.4f}   target < 0.1")
    if arguments.repeats:
        ratios = [e / c for e, c in zip(times["eager"], times["chunked"], strict=True)]
        print(f"eager / chunked time       {statistics.median(ratios):8.2f}")


if __name__ == "__main__":
    main()
