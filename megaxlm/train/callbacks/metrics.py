"""Metrics of a run: `metrics.jsonl`, TensorBoard, and the numbers that both show.

A line covers the steps since the line before. Throughput counts real tokens (padding is none).
MFU is the model's analytic FLOPs over the peak of the device; the head is shown apart, because
with 250k words it can be half of all FLOPs and is computed on the targets alone.

Losses and norms are means over the steps that were applied; `skipped_steps` counts the others.
"""

from __future__ import annotations

import math
import resource
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import torch

from megaxlm.train.callbacks.base import Callback, StepRecord
from megaxlm.train.callbacks.tensorboard import TensorBoard
from megaxlm.train.line_file import LineFile

if TYPE_CHECKING:
    from megaxlm.train.trainer import Trainer

METRICS_NAME = "metrics.jsonl"
GIB = 1024**3


class Metrics(Callback):
    """Averages over `every_steps` steps and writes one line, on rank 0."""

    name = "metrics"

    def __init__(self, every_steps: int, tensorboard: bool, peak_flops: float) -> None:
        self.every_steps = every_steps
        self.tensorboard = tensorboard
        self.peak_flops = peak_flops  # per device, FLOP/s
        self.window: dict[str, float] = {}
        self.language_loss: dict[str, list[float]] = {}
        self._file: LineFile | None = None
        self._board: TensorBoard | None = None

    def on_train_begin(self, trainer: Trainer) -> None:
        """Opens the files; what a killed run wrote after its last checkpoint is taken back."""
        if trainer.rank == 0:
            self._open(trainer.run_dir, trainer.step)

    def on_rollback(self, trainer: Trainer) -> None:
        """Takes back what was written of the steps that are done again."""
        if trainer.rank == 0:
            self._open(trainer.run_dir, trainer.step)

    def _open(self, run_dir: Path, step: int) -> None:
        first_step = step + 1 if step else 0  # from the beginning, step 0 is measured again
        if self._file is None:
            self._file = LineFile(run_dir / METRICS_NAME)
        self._file.keep_until(first_step - 1)
        if self.tensorboard:
            if self._board is not None:
                self._board.close()
            self._board = TensorBoard(run_dir / "tensorboard", first_step)

    def on_step_end(self, trainer: Trainer, record: StepRecord) -> None:
        """Adds a step to the window and writes the line when it is due."""
        self._add(record)
        if record.step % self.every_steps == 0 or record.step == trainer.max_steps:
            self.write(trainer, self._line(trainer, record))
            self.window, self.language_loss = {}, {}

    def _add(self, record: StepRecord) -> None:
        window = self.window
        values = {
            "steps": 1.0,
            "skipped_steps": float(record.skipped),
            "rows": float(record.rows),
            "real_tokens": float(record.real_tokens),
            "attention_pairs": float(record.attention_pairs),
            "seconds": record.seconds,
            "data_wait_seconds": record.data_wait_seconds,
        }
        if not record.skipped:
            values |= {"loss": record.loss, "grad_norm": record.grad_norm}
        for key, value in values.items():
            window[key] = window.get(key, 0.0) + value
        if record.skipped:
            return
        for language, (loss_sum, targets) in record.language_loss.items():
            sums = self.language_loss.setdefault(language, [0.0, 0.0])
            sums[0] += loss_sum
            sums[1] += targets

    def on_evaluation(self, trainer: Trainer, results: dict[str, Any]) -> None:
        """Writes validation results as a line of their own."""
        line = {"step": trainer.step, "tokens": trainer.tokens_seen, "validation": results}
        self.write(trainer, line)

    def on_train_end(self, trainer: Trainer) -> None:
        """Closes the files."""
        if self._file is not None:
            self._file.flush()
        if self._board is not None:
            self._board.close()

    def state_dict(self) -> dict[str, Any]:
        """Returns the window that is being filled."""
        return {"window": self.window, "language_loss": self.language_loss}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back the window that was being filled."""
        self.window = dict(state["window"])
        self.language_loss = {key: list(sums) for key, sums in state["language_loss"].items()}

    def _line(self, trainer: Trainer, record: StepRecord) -> dict[str, Any]:
        window = self.window
        steps, seconds = window["steps"], max(window["seconds"], 1e-9)
        applied = steps - window["skipped_steps"]
        flops = trainer.flops(int(window["rows"]), int(window["attention_pairs"]))
        peak = self.peak_flops * trainer.world_size * seconds
        return {
            "step": record.step,
            "tokens": trainer.tokens_seen,
            "loss": window["loss"] / applied if applied else math.nan,
            "grad_norm": window["grad_norm"] / applied if applied else math.nan,
            "lr": record.lr,
            "skipped_steps": int(window["skipped_steps"]),
            "loss_by_language": {
                language: loss_sum / targets
                for language, (loss_sum, targets) in sorted(self.language_loss.items())
                if targets > 0
            },
            "targets_by_language": {
                language: int(targets)
                for language, (_, targets) in sorted(self.language_loss.items())
            },
            "tokens_per_second": window["real_tokens"] / seconds,
            "seconds_per_step": seconds / steps,
            "data_wait_share": window["data_wait_seconds"] / seconds,
            "mfu": flops.total / peak,
            "mfu_without_head": (flops.total - flops.head) / peak,
            "memory_gib": _memory_gib(trainer.device),
        }

    def write(self, trainer: Trainer, line: dict[str, Any]) -> None:
        """Writes a line with its `step`, on rank 0 while the run lasts."""
        if self._file is None:
            return
        written = self._file.append(line)
        if self._board is not None:
            scalars = [(key, value) for key, value in _flat(line) if key != "step"]
            self._board.add(trainer.step, scalars, now=written)


def _flat(line: dict[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    found: list[tuple[str, float]] = []
    for key, value in line.items():
        if isinstance(value, dict):
            found += _flat(value, f"{prefix}{key}/")
        elif isinstance(value, int | float):
            found.append((prefix + key, float(value)))
    return found


def _memory_gib(device: torch.device) -> dict[str, float]:
    """Peak memory of this rank in GiB: of the device, and resident on the host."""
    # ru_maxrss counts KiB on Linux.
    host_peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB
    memory = {"host_peak": host_peak, "host_now": psutil.Process().memory_info().rss / GIB}
    if device.type == "cuda":
        memory["device_peak"] = torch.cuda.max_memory_allocated(device) / GIB
    return memory
