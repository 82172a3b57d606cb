"""Metrics survive a kill and speak valid JSON; the window and the bar go on where a run resumes."""

import errno
import io
import json
import subprocess
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from megaxlm.model.flops import TrainingFlops
from megaxlm.train.callbacks.base import StepRecord
from megaxlm.train.callbacks.checkpoints import Checkpoints
from megaxlm.train.callbacks.evaluation import PANEL_NAME, Evaluation, StopAskedFor
from megaxlm.train.callbacks.metrics import METRICS_NAME, Metrics
from megaxlm.train.callbacks.progress import Progress
from megaxlm.train.callbacks.tensorboard import TensorBoard
from megaxlm.train.trainer import Trainer


def trainer_of(run_dir: Path, step: int = 0, rank: int = 0, max_steps: int = 100) -> Trainer:
    """A stand-in with what callbacks look at."""

    def flops(rows: int, attention_pairs: int) -> TrainingFlops:
        return TrainingFlops(layers=3 * 10**9 * rows, attention=0, head=10**9 * rows)

    stand_in = SimpleNamespace(
        run_dir=run_dir,
        step=step,
        rank=rank,
        world_size=2,
        max_steps=max_steps,
        tokens_seen=step * 64,
        device=torch.device("cpu"),
        flops=flops,
        stopping=None,
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
        "rows": 1,
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


def test_a_step_that_updated_nothing_leaves_the_means_alone(tmp_path: Path) -> None:
    metrics = Metrics(3, tensorboard=False, peak_flops=1e12)
    metrics.on_train_begin(trainer_of(tmp_path))
    metrics.on_step_end(trainer_of(tmp_path, 1), record_of(1, 2.0))
    nan = float("nan")
    broken = record_of(2, nan, nan, skipped=True, language_loss={"en": (nan, 2.0)})
    metrics.on_step_end(trainer_of(tmp_path, 2), broken)
    metrics.on_step_end(trainer_of(tmp_path, 3), record_of(3, 4.0))
    metrics.on_train_end(trainer_of(tmp_path, 3))
    (line,) = lines_of(tmp_path)
    assert line["loss"] == 3.0 and line["grad_norm"] == 1.0 and line["skipped_steps"] == 1
    assert line["loss_by_language"] == {"en": 2.0, "fr": 3.0}


@pytest.mark.parametrize("step", [0, 2])
def test_a_rollback_takes_lines_and_events_back(tmp_path: Path, step: int) -> None:
    metrics = Metrics(1, tensorboard=True, peak_flops=1e12)
    metrics.on_train_begin(trainer_of(tmp_path))
    metrics.on_evaluation(trainer_of(tmp_path), {"perplexity": {}})
    for number in (1, 2, 3):
        metrics.on_step_end(trainer_of(tmp_path, number), record_of(number, 9.0))
    metrics.on_rollback(trainer_of(tmp_path, step))
    if step == 0:
        metrics.on_evaluation(trainer_of(tmp_path), {"perplexity": {}})
    for number in range(step + 1, 4):
        metrics.on_step_end(trainer_of(tmp_path, number), record_of(number, 1.0))
    metrics.on_train_end(trainer_of(tmp_path, 3))
    lines = lines_of(tmp_path)
    assert [line["step"] for line in lines] == [0, 1, 2, 3]
    assert [line["loss"] for line in lines[1:]] == [9.0] * step + [1.0] * (3 - step)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    shown = [(event.step, event.value) for event in events.Scalars("loss")]
    assert shown == [(line["step"], line["loss"]) for line in lines[1:]]


def test_a_full_disk_costs_no_line_no_event_and_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    metrics = Metrics(1, tensorboard=True, peak_flops=1e12)
    metrics.on_train_begin(trainer_of(tmp_path))
    metrics.on_step_end(trainer_of(tmp_path, 1), record_of(1))
    (tmp_path / METRICS_NAME).rename(tmp_path / "elsewhere")
    (tmp_path / METRICS_NAME).mkdir()  # no line can be written here now
    for step in (2, 3):
        metrics.on_step_end(trainer_of(tmp_path, step), record_of(step))
    (tmp_path / METRICS_NAME).rmdir()
    (tmp_path / "elsewhere").rename(tmp_path / METRICS_NAME)
    metrics.on_step_end(trainer_of(tmp_path, 4), record_of(4))
    metrics.on_train_end(trainer_of(tmp_path, 4))
    assert [line["step"] for line in lines_of(tmp_path)] == [1, 2, 3, 4]
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == [1, 2, 3, 4]
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2 and "cannot be written now" in said[0] and "again" in said[1]


def test_events_on_a_full_disk_are_kept_and_nothing_is_said_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(threading, "excepthook", lambda of: pytest.fail(f"a thread died: {of}"))
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting needs root")
    try:
        board = TensorBoard(disk / "tensorboard", 0)
        board.add(1, [("loss", 1.0)])
        with open(disk / "other", "wb", buffering=0) as other:
            while other.write(bytes(1 << 16)) == 1 << 16:
                pass
        many = [(f"loss/{number}", 1.0) for number in range(500)]  # more than a page
        for step in (2, 3, 4):
            board.add(step, [("loss", float(step)), *many])
        full = TensorBoard(disk / "new" / "tensorboard", 0)
        full.add(1, [("loss", 1.0)])  # not even its folder is there
        full.close()
        (disk / "other").unlink()
        board.add(5, [("loss", 5.0)])
        board.close()
        (path,) = (disk / "tensorboard").iterdir()
        events = EventAccumulator(str(path))
        events.Reload()
        assert [event.step for event in events.Scalars("loss")] == [1, 2, 3, 4, 5]
        assert [event.step for event in events.Scalars("loss/7")] == [2, 3, 4]
    finally:
        subprocess.run(["umount", str(disk)], check=True)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 3 and "No space left on device" in said[0] and "again" in said[2]


def test_a_torn_event_that_cannot_be_taken_back_hides_no_later_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    board = TensorBoard(tmp_path / "tensorboard", 0)
    board.add(1, [("loss", 1.0)])

    class Torn(io.FileIO):
        def write(self, content: Any) -> int:
            super().write(bytes(content)[:20])
            raise OSError(errno.EIO, "gone")

        def truncate(self, size: int | None = None) -> int:
            raise OSError(errno.EIO, "gone")

    with monkeypatch.context() as patch:
        patch.setattr(
            "megaxlm.train.callbacks.tensorboard.open",
            lambda path, mode, buffering: Torn(path, mode),
            raising=False,
        )
        board.add(2, [("loss", 2.0)])
    board.add(3, [("loss", 3.0)])
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == [1, 2, 3]
    assert len(capsys.readouterr().err.splitlines()) == 2


def test_an_evaluation_that_cannot_be_written_is_written_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        "megaxlm.train.callbacks.evaluation.measure", lambda trainer: {"at": trainer.step}
    )
    evaluation = Evaluation(2)
    trainer = trainer_of(tmp_path)
    trainer.callbacks = [evaluation]
    (tmp_path / PANEL_NAME).mkdir()
    evaluation.on_train_begin(trainer)
    trainer.step = 2
    evaluation.on_step_end(trainer, record_of(2))
    assert capsys.readouterr().err.count("cannot be written now") == 2
    (tmp_path / PANEL_NAME).rmdir()
    evaluation.on_train_end(trainer)
    panel = json.loads((tmp_path / PANEL_NAME).read_text())
    assert panel == [{"step": 0, "at": 0}, {"step": 2, "at": 2}]


def test_an_evaluation_that_a_stop_leaves_out_or_cuts_off_is_the_first_thing_of_the_resumed_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut = [4]

    def measure(trainer: Trainer) -> dict[str, Any]:
        if trainer.step in cut:
            raise StopAskedFor
        return {"at": trainer.step}

    monkeypatch.setattr("megaxlm.train.callbacks.evaluation.measure", measure)

    def stopped_at(step: int, stopping: str | None, max_steps: int = 100) -> list[dict[str, Any]]:
        """Goes on from the step before; returns the panel that the resumed run has."""
        nonlocal state
        trainer = trainer_of(tmp_path, step - 1, max_steps=max_steps)
        evaluation = Evaluation(2)
        evaluation.load_state_dict(state)
        trainer.callbacks = [evaluation]
        evaluation.on_train_begin(trainer)
        trainer.step, trainer.stopping = step, stopping  # type: ignore[assignment]
        evaluation.on_step_end(trainer, record_of(step))
        evaluation.on_train_end(trainer)
        state = json.loads(json.dumps(evaluation.state_dict()))
        return list(state["panel"])

    state: dict[str, Any] = {"panel": []}  # as an older checkpoint has it
    assert stopped_at(1, "signal") == [{"step": 0, "at": 0}]
    assert stopped_at(2, "signal") == [{"step": 0, "at": 0}]
    assert stopped_at(3, None)[1:] == [{"step": 2, "at": 2}]
    assert stopped_at(4, None)[2:] == [] and cut.pop()
    assert stopped_at(5, None)[2:] == [{"step": 4, "at": 4}]
    # With the last step the run is done; a stop changes nothing of that.
    assert stopped_at(6, "signal", max_steps=6)[3:] == [{"step": 6, "at": 6}]


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

    progress = Progress()
    progress.on_train_begin(trainer_of(tmp_path, step=0))
    progress.on_step_end(trainer_of(tmp_path, 1), record_of(1, float("nan"), skipped=True))
    progress.on_rollback(trainer_of(tmp_path, 0))
    for step in range(1, 101):
        progress.on_step_end(trainer_of(tmp_path, step), record_of(step))
    progress.on_train_end(trainer_of(tmp_path, 100))
    said = capsys.readouterr().err
    assert "100/100" in said and "101/100" not in said and "nan" not in said

    silent = Progress()
    silent.on_train_begin(trainer_of(tmp_path, rank=1))
    silent.on_step_end(trainer_of(tmp_path, 1, rank=1), record_of(1))
    silent.on_train_end(trainer_of(tmp_path, 1, rank=1))
    assert capsys.readouterr().err == ""


def test_checkpoints_are_due_at_multiples() -> None:
    saved: list[int] = []
    for step in range(1, 9):
        trainer = SimpleNamespace(max_steps=8, save=lambda step=step: saved.append(step))
        Checkpoints(3).on_step_end(cast(Trainer, trainer), record_of(step))
    assert saved == [3, 6]  # and the last step is the trainer's concern
