"""A training step of XLM-R base and large on one GPU, in real tokens/s, and where its time goes.

    python kernels/benchmarks/benchmark_step_gpu.py             # needs a GPU; builds the kernels
    python kernels/benchmarks/benchmark_step_gpu.py --small     # anywhere: that the script works

Forward, backward and AdamW (fused) in bf16 over 16,384 and 65,536 real tokens of lines whose
lengths are log-normal like those of real text (mean 30), dropout on. Five ways to spend a step:

- `hf grouped`: Hugging Face's XLM-R with SDPA under torch.compile, lines joined and cut into blocks
  of 512, as `run_mlm` does by default.
- `hf padded`: the same, a line a row, padded to the longest of its micro-batch.
- `torch`: our model, lines end to end in rows of 512, each attending to itself.
- `cuda`: the same with `training.kernels: cuda`.
- `cuda, rows`: as `cuda` with `attend_across_documents`: the attention of `hf grouped`.

Micro-batches of Hugging Face's hold 16,384 slots at the most: its head makes the logits of all of
them. Batches are made beforehand and lie on the device. MFU counts the model's own FLOPs
(`megaxlm.model.flops`, head on the predicted tokens alone, no padding) against the GEMM that this
device was seen to do in the same run; once with the head, once without. The shares of a step's time
come from torch's profiler.

The table is printed and written to `kernels/benchmarks/results/step-<device>.json`. Nothing has
been measured on a GPU yet.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from megaxlm_kernels.library import choose_implementation
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from megaxlm.config.pretrain import ModelConfig
from megaxlm.model.dropout_key import DropoutKey
from megaxlm.model.encoder import MaskedLanguageModel
from megaxlm.model.flops import training_flops
from megaxlm.model.fused import use_kernels
from megaxlm.model.hf import to_hf_config
from megaxlm.model.initialization import initialize

sys.path.insert(0, str(Path(__file__).parent))

from benchmark_step_cpu import (
    LINES_PER_BATCH,
    SEQ_LEN,
    hf_micro_batches,
    make_collator,
    make_lines,
    packed_micro_batch,
)
from gpu_timing import measure_ceilings

RESULTS = Path(__file__).parent / "results"
MOST_SLOTS = 16_384  # of a micro-batch of Hugging Face's
# What a kernel's name holds, and whose time it is; the first that fits.
SHARES = (
    ("attention", ("flash", "fmha", "attention", "sdpa")),
    ("loss", ("cross_entropy", "softmax", "nll")),
    ("optimizer", ("adam", "multi_tensor")),
    ("GEMM", ("gemm", "cutlass", "cublas", "nvjet", "wgmma", "mm_")),
    ("norms", ("norm",)),
    ("activations", ("gelu",)),
)
Step = Callable[[], None]


@dataclass(frozen=True)
class Row:
    """One way to take a step."""

    model: str
    tokens: int  # real ones, a step
    way: str
    seconds: float  # median
    tokens_per_second: float
    mfu: float
    mfu_without_head: float
    peak_bytes: int
    shares: dict[str, float]


def configs(small: bool) -> dict[str, ModelConfig]:
    """Returns the models by name."""
    if small:
        sizes = {"tiny": (64, 2, 4)}
    else:
        sizes = {"xlm-roberta-base": (768, 12, 12), "xlm-roberta-large": (1024, 24, 16)}
    return {
        name: ModelConfig(
            vocab_size=1003 if small else 250_002,
            hidden_size=hidden,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            intermediate_size=4 * hidden,
            max_position_embeddings=SEQ_LEN + 2,
        )
        for name, (hidden, layers, heads) in sizes.items()
    }


def our_step(
    config: ModelConfig, kernels: str, whole_rows: bool, tokens: int, device: torch.device
) -> Step:
    """Returns a step of our model over one packed micro-batch."""
    model = MaskedLanguageModel(config)
    initialize(model, config, seed=0)
    model.to(device, torch.bfloat16).train()
    use_kernels(model, "cuda" if kernels == "cuda" else "torch")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    lines = make_lines(tokens, config.vocab_size, 0)  # type: ignore[arg-type]
    batch = [
        part.to(device)
        for part in packed_micro_batch(lines, config.vocab_size, whole_rows)  # type: ignore[arg-type]
    ]
    key = DropoutKey(0, tuple(range(tokens // SEQ_LEN)), SEQ_LEN)

    def step() -> None:
        model(*batch, SEQ_LEN, key)[0].backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def hf_step(
    config: ModelConfig, padded: bool, tokens: int, device: torch.device, small: bool
) -> Step:
    """Returns a step of Hugging Face's model over as many micro-batches as it takes."""
    settings = {k: v for k, v in to_hf_config(config).items() if k != "architectures"}
    hf_config = transformers.XLMRobertaConfig(**settings, attn_implementation="sdpa")
    model: Any = transformers.XLMRobertaForMaskedLM(hf_config)
    model.to(device, torch.bfloat16).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    called = model if small else torch.compile(model)
    lines = make_lines(tokens, config.vocab_size, 0)  # type: ignore[arg-type]
    if padded:
        rows, rows_per_batch = lines, LINES_PER_BATCH * (1 if small else 16)
    else:
        joined: list[int] = sum(lines, [])
        rows = [joined[start : start + SEQ_LEN] for start in range(0, tokens, SEQ_LEN)]
        rows_per_batch = max(1, MOST_SLOTS // SEQ_LEN)
    collator = make_collator(config.vocab_size)  # type: ignore[arg-type]
    batches = [
        {name: part.to(device) for name, part in _even(batch, padded).items()}
        for batch in hf_micro_batches(rows, rows_per_batch, collator)
    ]

    def step() -> None:
        for batch in batches:
            (called(**batch).loss / len(batches)).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def _even(batch: dict[str, Tensor], padded: bool) -> dict[str, Tensor]:
    """Pads to multiples of 64, so that torch.compile meets few shapes."""
    length = batch["input_ids"].shape[1]
    more = -length % 64 if padded else 0
    fill = {"input_ids": 1, "attention_mask": 0, "labels": -100}
    return {
        name: torch.nn.functional.pad(part, (0, more), value=fill[name])
        for name, part in batch.items()
    }


def ways(
    config: ModelConfig, tokens: int, device: torch.device, small: bool
) -> Iterator[tuple[str, Callable[[], Step]]]:
    """Yields every way to take a step; each is built when its turn comes, for memory's sake."""
    yield "hf grouped", lambda: hf_step(config, False, tokens, device, small)
    yield "hf padded", lambda: hf_step(config, True, tokens, device, small)
    yield "torch", lambda: our_step(config, "torch", False, tokens, device)
    yield "cuda", lambda: our_step(config, "cuda", False, tokens, device)
    yield "cuda, rows", lambda: our_step(config, "cuda", True, tokens, device)


def measure(step: Step, device: torch.device, repeats: int) -> tuple[float, int]:
    """Returns the median seconds of a step and the most bytes alive at once."""
    on_gpu = device.type == "cuda"
    for _ in range(1 if repeats == 1 else 3):
        step()
    if on_gpu:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        step()
        if on_gpu:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds), torch.cuda.max_memory_allocated() if on_gpu else 0


def time_shares(step: Step, device: torch.device) -> dict[str, float]:
    """Returns the share of the device's busy time by kind of work."""
    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * on_gpu
    with profile(activities=activities) as profiler:
        step()
        if on_gpu:
            torch.cuda.synchronize()
    totals: dict[str, float] = {}
    for event in profiler.key_averages():
        spent = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        name = event.key.lower()
        kind = next((kind for kind, parts in SHARES if any(p in name for p in parts)), "other")
        totals[kind] = totals.get(kind, 0.0) + spent
    whole = sum(totals.values()) or 1.0
    return {kind: spent / whole for kind, spent in sorted(totals.items())}


def show(rows: list[Row], gemm: float, device: str) -> None:
    """Prints the table, and the ratios that count."""
    table = Table(
        "model", "tokens", "way", "ms", "tokens/s", "MFU", "without head", "peak GB", title=device
    )
    for row in rows:
        table.add_row(
            row.model,
            f"{row.tokens:,}",
            row.way,
            f"{row.seconds * 1e3:,.1f}",
            f"{row.tokens_per_second:,.0f}",
            f"{row.mfu:.1%}",
            f"{row.mfu_without_head:.1%}",
            f"{row.peak_bytes / 1e9:.1f}",
        )
    console = Console(width=140)
    console.print(table)
    console.print(f"GEMM {gemm / 1e12:.0f} TFLOP/s in this run")
    by_way = {(row.model, row.tokens, row.way): row for row in rows}
    for (model, tokens, way), row in by_way.items():
        others = {"hf grouped": "x (target 1.9)", "torch": "x"} if way == "cuda" else {}
        for other, unit in others.items():
            if (model, tokens, other) in by_way:
                ratio = by_way[model, tokens, other].seconds / row.seconds
                console.print(f"{model}, {tokens:,} tokens: cuda / {other} {ratio:.2f}{unit}")
    for row in rows:
        shares = ", ".join(f"{kind} {share:.0%}" for kind, share in row.shares.items())
        console.print(f"{row.model}, {row.tokens:,}, {row.way}: {shares}")


def main() -> int:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--small", action="store_true", help="tiny shapes, on any device")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR")
    arguments = parser.parse_args()
    if not torch.cuda.is_available() and not arguments.small:
        parser.error("torch sees no GPU; use --small to try the script without one")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    choose_implementation("cuda", device)
    gemm = measure_ceilings(device, arguments.small).gemm_flops_per_second
    rows = []
    for model, config in configs(arguments.small).items():
        for tokens in (1024,) if arguments.small else (16_384, 65_536):
            flops = training_flops(config, tokens, round(0.15 * tokens), SEQ_LEN)
            for way, build in ways(config, tokens, device, arguments.small):
                repeats = 1 if arguments.small else arguments.repeats
                try:
                    step = build()
                    seconds, peak = measure(step, device, repeats)
                    shares = time_shares(step, device)
                except torch.OutOfMemoryError:
                    print(f"{model}, {tokens:,} tokens, {way}: does not fit", file=sys.stderr)
                    torch.cuda.empty_cache()
                    continue
                total, head = flops.total, flops.head
                rates = [count / seconds / gemm for count in (total, total - head)]
                rows.append(
                    Row(model, tokens, way, seconds, tokens / seconds, *rates, peak, shares)
                )
                del step
                if device.type == "cuda":
                    torch.cuda.empty_cache()
    show(rows, gemm, name)
    arguments.results.mkdir(parents=True, exist_ok=True)
    path = arguments.results / f"step-{name.lower().replace(' ', '-')}.json"
    found = {"device": name, "torch": torch.__version__, "gemm_flops_per_second": gemm}
    found["rows"] = [asdict(row) for row in rows]
    path.write_text(json.dumps(found, indent=1) + "\n")
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
