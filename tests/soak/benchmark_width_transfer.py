"""Does the best learning rate of a narrow model stay the best one when the model gets wider?

    python tests/soak/benchmark_width_transfer.py

Trains encoders of three widths on the sample corpus at a row of learning rates, once as they come
and once with `model.mup_base_hidden_size` (muP), each run through `megaxlm pretrain` itself. The
score of a run is the mean training loss of its last steps. What counts is the regret: how much
loss a wider model gives away by training at the rate that was best for the narrowest.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rich.console import Console
from rich.table import Table

from megaxlm.testing.launchers import clean_environment

HEAD_DIM = 32
LAST_STEPS = 20
CONFIG = """\
run_dir: {run_dir}
data: {{path: {data}, seq_len: 64, sampling_alpha: 0.5}}
model:
  {{model_type: xlm-roberta-xl, hidden_size: {width}, num_hidden_layers: 3,
    num_attention_heads: {heads}, intermediate_size: {intermediate}, hidden_dropout_prob: 0.0,
    attention_probs_dropout_prob: 0.0, mup_base_hidden_size: {base}}}
optimizer: {{lr: {lr}, weight_decay: 0.01}}
schedule: {{name: constant, warmup_steps: {warmup}}}
masking: {{mlm_probability: 0.3}}
training: {{max_steps: {steps}, global_batch_size: 32, micro_batch_size: 32, precision: fp32}}
checkpoint: {{every_steps: 100000}}
logging: {{every_steps: 1, tensorboard: false}}
evaluation: {{max_rows_per_language: 4}}
"""


def megaxlm(*arguments: str) -> None:
    command = [sys.executable, "-m", "megaxlm", *arguments]
    ended = subprocess.run(command, env=clean_environment(), capture_output=True, text=True)
    if ended.returncode:
        raise SystemExit(f"{' '.join(command)}: {ended.stderr[-2000:]}")


def train(folder: Path, width: int, base: int | None, lr: float, steps: int) -> float:
    """Returns the mean loss of the last steps; infinity if the run did not stay finite."""
    run_dir = folder / f"{width}-{'mup' if base else 'plain'}-{lr:.2e}"
    config = run_dir.with_suffix(".yaml")
    config.write_text(
        CONFIG.format(
            run_dir=run_dir,
            data=folder / "data",
            width=width,
            heads=width // HEAD_DIM,
            intermediate=4 * width,
            base="null" if base is None else base,
            lr=lr,
            warmup=steps // 10,
            steps=steps,
        )
    )
    megaxlm("pretrain", str(config))
    lines = map(json.loads, (run_dir / "metrics.jsonl").read_text().splitlines())
    losses = [line["loss"] for line in lines if "loss" in line]
    return statistics.fmean(losses[-LAST_STEPS:]) if len(losses) == steps else float("inf")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--widths", type=int, nargs="+", default=[64, 128, 256])
    parser.add_argument("--log2-rates", type=int, nargs="+", default=[-11, -10, -9, -8, -7, -6])
    parser.add_argument("--steps", type=int, default=250)
    arguments = parser.parse_args()
    rates = [2.0**power for power in arguments.log2_rates]
    base = arguments.widths[0]
    losses: dict[tuple[bool, int, float], float] = {}
    with tempfile.TemporaryDirectory(prefix="megaxlm-width-") as name:
        folder = Path(name)
        sample = ("--languages", "en,es,ru,hi,sw", "--lexicon", "small", "--documents", "2000")
        megaxlm("data", "sample", str(folder / "corpus"), *sample)
        recipe = Path(__file__).resolve().parents[2] / "configs/data/sample.yaml"
        text = recipe.read_text().replace("runs/quickstart", str(folder))
        (folder / "recipe.yaml").write_text(text)
        megaxlm("data", "build", str(folder / "recipe.yaml"))
        jobs = {
            (mup, width, lr): (folder, width, base if mup else None, lr, arguments.steps)
            for width in arguments.widths
            for mup in (False, True)
            for lr in rates
        }
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            running = {job: pool.submit(train, *call) for job, call in jobs.items()}
            for (mup, width, lr), future in running.items():
                losses[mup, width, lr] = future.result()
                how = "muP" if mup else "plain"
                print(f"{how} {width} {lr:.2e} {losses[mup, width, lr]:.4f}", file=sys.stderr)
    show(arguments.widths, rates, losses)


def show(
    widths: list[int], rates: list[float], losses: dict[tuple[bool, int, float], float]
) -> None:
    for mup in (False, True):
        table = Table(
            "hidden_size", *(f"{lr:.1e}" for lr in rates), "best lr", "regret",
            title="muP" if mup else "plain",
        )  # fmt: skip
        narrow = min(rates, key=lambda lr: losses[mup, widths[0], lr])
        for width in widths:
            row = [losses[mup, width, lr] for lr in rates]
            best = min(row)
            regret = losses[mup, width, narrow] - best
            numbers = [f"{loss:.3f}" for loss in row]
            table.add_row(str(width), *numbers, f"{rates[row.index(best)]:.1e}", f"{regret:.3f}")
        Console().print(table)


if __name__ == "__main__":
    main()
