"""Metrics of a run: `metrics.jsonl`, TensorBoard, and the numbers that both show.

A line covers the steps since the line before. Throughput counts real tokens (padding is none).
MFU is the model's analytic FLOPs over the peak of the device; the head is shown apart, because
with 250k words it can be half of all FLOPs and is computed on the targets alone.
"""

from __future__ import annotations

import json
import math
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import torch

from megaxlm.data.shards import write_atomically
from megaxlm.distributed import reduce
from megaxlm.train.callbacks.base import Callback, StepRecord

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
        self._writer: Any = None
        self._file: Any = None

    def on_train_begin(self, trainer: Trainer) -> None:
        """Opens the files; what a killed run wrote after its last checkpoint is taken back."""
        with reduce.together():
            if trainer.rank == 0:
                self._open(trainer.run_dir, trainer.step)

    def _open(self, run_dir: Path, step: int) -> None:
        path = run_dir / METRICS_NAME
        keep_until(path, step if step else -1)  # from the beginning, step 0 is measured again
        self._file = open(path, "a", encoding="utf-8")
        if self.tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            purge_step = step + 1 if step else 0
            self._writer = SummaryWriter(str(run_dir / "tensorboard"), purge_step=purge_step)

    def on_step_end(self, trainer: Trainer, record: StepRecord) -> None:
        """Adds a step to the window and writes the line when it is due."""
        window = self.window
        for key, value in (
            ("steps", 1.0),
            ("loss", record.loss),
            ("grad_norm", record.grad_norm),
            ("skipped_steps", float(record.skipped)),
            ("real_tokens", float(record.real_tokens)),
            ("attention_pairs", float(record.attention_pairs)),
            ("seconds", record.seconds),
            ("data_wait_seconds", record.data_wait_seconds),
        ):
            window[key] = window.get(key, 0.0) + value
        for language, (loss_sum, targets) in record.language_loss.items():
            sums = self.language_loss.setdefault(language, [0.0, 0.0])
            sums[0] += loss_sum
            sums[1] += targets
        if record.step % self.every_steps == 0 or record.step == trainer.max_steps:
            self._write(trainer, self._line(trainer, record))
            self.window, self.language_loss = {}, {}

    def on_evaluation(self, trainer: Trainer, results: dict[str, Any]) -> None:
        """Writes validation results as a line of their own."""
        line = {"step": trainer.step, "tokens": trainer.tokens_seen, "validation": results}
        self._write(trainer, line)

    def on_train_end(self, trainer: Trainer) -> None:
        """Closes the files."""
        if self._file is not None:
            self._file.close()
        if self._writer is not None:
            self._writer.close()

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
        flops = trainer.flops(int(steps), int(window["attention_pairs"]))
        peak = self.peak_flops * trainer.world_size * seconds
        return {
            "step": record.step,
            "tokens": trainer.tokens_seen,
            "loss": window["loss"] / steps,
            "grad_norm": window["grad_norm"] / steps,
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

    def _write(self, trainer: Trainer, line: dict[str, Any]) -> None:
        if self._file is None:
            return
        self._file.write(json.dumps(_finite(line), ensure_ascii=False, allow_nan=False) + "\n")
        self._file.flush()
        if self._writer is not None:
            for key, value in _flat(line):
                if key not in ("step",):
                    self._writer.add_scalar(key, value, trainer.step)
            self._writer.flush()  # what a kill would lose comes before the next start's purge


def keep_until(path: Path, step: int) -> None:
    """Drops the lines of `metrics.jsonl` past a step, and a line that a kill cut in half."""
    if path.exists():
        kept = [line + b"\n" for line, its_step in _lines(path) if its_step <= step]
        write_atomically(path, b"".join(kept))


def last_step(path: Path) -> int:
    """Returns the highest step that `metrics.jsonl` tells of; 0 if there is none."""
    return max((step for _, step in _lines(path)), default=0) if path.exists() else 0


def _lines(path: Path) -> Iterator[tuple[bytes, int]]:
    # As bytes: a cut line may end inside a character.
    for line in path.read_bytes().split(b"\n"):
        try:
            yield line, int(json.loads(line)["step"])
        except (ValueError, KeyError, TypeError):
            continue


def _finite(value: Any) -> Any:
    """Returns a line without NaN and infinities, which JSON does not have: null stands for them."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


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
