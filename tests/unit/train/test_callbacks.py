"""Metrics survive a kill and speak valid JSON; the window and the bar go on where a run resumes."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from megaxlm.model.flops import TrainingFlops
from megaxlm.train.callbacks.base import StepRecord
from megaxlm.train.callbacks.checkpoints import Checkpoints
from megaxlm.train.callbacks.metrics import METRICS_NAME, Metrics, keep_until, last_step
from megaxlm.train.callbacks.progress import Progress
from megaxlm.train.trainer import Trainer


def trainer_of(run_dir: Path, step: int = 0, rank: int = 0, max_steps: int = 100) -> Trainer:
    """A stand-in with what callbacks look at."""

    def flops(steps: int, attention_pairs: int) -> TrainingFlops:
        return TrainingFlops(layers=3 * 10**9 * steps, attention=0, head=10**9 * steps)

    stand_in = SimpleNamespace(
        run_dir=run_dir,
        step=step,
        rank=rank,
        world_size=2,
        max_steps=max_steps,
        tokens_seen=step * 64,
        device=torch.device("cpu"),
        flops=flops,
    )
    return cast(Trainer, stand_in)


def record_of(step: int, loss: float = 2.0, grad_norm: float = 1.0, **fields: Any) -> StepRecord:
    values: dict[str, Any] = {
        "lr": 1e-3,
        "skipped": False,
        "real_tokens": 60,
        "attention_pairs": 100,
        "seconds": 0.5,
        "data_wait_seconds": 0.1,
        "language_loss": {"en": (4.0, 2.0), "fr": (9.0, 3.0)},
        **fields,
    }
    return StepRecord(step=step, loss=loss, grad_norm=grad_norm, **values)


def feed(metrics: Metrics, run_dir: Path, steps: range, resumed_at: int = 0) -> None:
    metrics.on_train_begin(trainer_of(run_dir, resumed_at))
    for step in steps:
        metrics.on_step_end(trainer_of(run_dir, step), record_of(step, loss=float(step)))
    metrics.on_train_end(trainer_of(run_dir, steps.stop - 1))


def lines_of(run_dir: Path) -> list[dict[str, Any]]:
    text = (run_dir / METRICS_NAME).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def test_lines_past_the_checkpoint_and_a_torn_one_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / METRICS_NAME
    whole = [json.dumps({"step": step, "of": "été"}, ensure_ascii=False) for step in (1, 2, 3)]
    torn = whole[2].encode()[: whole[2].encode().index("é".encode()) + 1]  # half a character
    path.write_bytes("\n".join(whole).encode() + b"\n" + torn)
    assert last_step(path) == 3
    keep_until(path, 2)
    assert path.read_bytes() == ("\n".join(whole[:2]) + "\n").encode()
    path.write_bytes(b'[1]\n"step"\n{"loss": 1}\n{"step": null}\n' + whole[0].encode())
    keep_until(path, 2)  # what is not ours goes; a whole line without its end stays
    assert path.read_bytes() == whole[0].encode() + b"\n"
    keep_until(tmp_path / "none.jsonl", 2)
    assert last_step(tmp_path / "none.jsonl") == 0 and not (tmp_path / "none.jsonl").exists()


def test_a_window_cut_by_a_kill_yields_the_line_of_the_unbroken_run(tmp_path: Path) -> None:
    unbroken, broken = tmp_path / "a", tmp_path / "b"
    unbroken.mkdir()
    broken.mkdir()
    feed(Metrics(4, tensorboard=False, peak_flops=1e12), unbroken, range(1, 9))
    first = Metrics(4, tensorboard=False, peak_flops=1e12)
    feed(first, broken, range(1, 7))
    saved = json.loads(json.dumps(first.state_dict()))
    feed(first, broken, range(7, 9), resumed_at=6)  # after the checkpoint; lost with the kill
    second = Metrics(4, tensorboard=False, peak_flops=1e12)
    second.load_state_dict(saved)
    feed(second, broken, range(7, 9), resumed_at=6)

    def comparable(run_dir: Path) -> list[dict[str, Any]]:
        return [{**line, "memory_gib": None} for line in lines_of(run_dir)]

    assert comparable(broken) == comparable(unbroken)
    line = comparable(unbroken)[1]
    assert (line["step"], line["loss"]) == (8, (5 + 6 + 7 + 8) / 4)
    assert line["loss_by_language"] == {"en": 2.0, "fr": 3.0}
    assert line["tokens_per_second"] == pytest.approx(4 * 60 / 2.0)
    assert line["data_wait_share"] == pytest.approx(0.2)
    assert line["mfu"] == pytest.approx(4 * 4e9 / (1e12 * 2 * 2.0))
    assert line["mfu_without_head"] == pytest.approx(4 * 3e9 / (1e12 * 2 * 2.0))


def test_a_run_begun_anew_does_not_keep_the_first_evaluation_twice(tmp_path: Path) -> None:
    for _ in range(2):  # killed before its first checkpoint
        metrics = Metrics(1, tensorboard=False, peak_flops=1e12)
        metrics.on_train_begin(trainer_of(tmp_path))
        metrics.on_evaluation(trainer_of(tmp_path), {"perplexity": {}})
        metrics.on_step_end(trainer_of(tmp_path, 1), record_of(1))
        metrics.on_train_end(trainer_of(tmp_path, 1))
    assert [line["step"] for line in lines_of(tmp_path)] == [0, 1]


def test_numbers_that_are_not_finite_are_null(tmp_path: Path) -> None:
    metrics = Metrics(1, tensorboard=True, peak_flops=1e12)
    metrics.on_train_begin(trainer_of(tmp_path))
    broken = record_of(1, float("nan"), float("inf"), skipped=True)
    metrics.on_step_end(trainer_of(tmp_path, 1), broken)
    metrics.on_train_end(trainer_of(tmp_path, 1))
    assert "NaN" not in (tmp_path / METRICS_NAME).read_text()
    (line,) = lines_of(tmp_path)
    assert line["loss"] is None and line["grad_norm"] is None and line["skipped_steps"] == 1
    assert list((tmp_path / "tensorboard").iterdir())


def test_other_ranks_write_nothing(tmp_path: Path) -> None:
    metrics = Metrics(1, tensorboard=True, peak_flops=1e12)
    metrics.on_train_begin(trainer_of(tmp_path, rank=1))
    metrics.on_step_end(trainer_of(tmp_path, 1, rank=1), record_of(1))
    metrics.on_train_end(trainer_of(tmp_path, 1, rank=1))
    assert not list(tmp_path.iterdir())


def test_progress_goes_on_from_the_resumed_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    progress = Progress()
    progress.on_train_begin(trainer_of(tmp_path, step=98))
    for step in (99, 100):
        progress.on_step_end(trainer_of(tmp_path, step), record_of(step))
    progress.on_train_end(trainer_of(tmp_path, 100))
    said = capsys.readouterr().err
    assert "100/100" in said and "loss 2.000" in said and "120 tokens/s" in said

    silent = Progress()
    silent.on_train_begin(trainer_of(tmp_path, rank=1))
    silent.on_step_end(trainer_of(tmp_path, 1, rank=1), record_of(1))
    silent.on_train_end(trainer_of(tmp_path, 1, rank=1))
    assert capsys.readouterr().err == ""


def test_checkpoints_are_due_at_multiples_and_at_the_end() -> None:
    saved: list[int] = []
    for step in range(1, 9):
        trainer = SimpleNamespace(max_steps=8, save=lambda step=step: saved.append(step))
        Checkpoints(3).on_step_end(cast(Trainer, trainer), record_of(step))
    assert saved == [3, 6, 8]
