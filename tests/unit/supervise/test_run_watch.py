"""What a run folder tells from outside, also when files are torn, missing or not of this start."""

import hashlib
import json
import os
from pathlib import Path

from megaxlm.supervise.journal import JOURNAL_NAME, Journal
from megaxlm.supervise.run_watch import RunWatch


def save(run_dir: Path, step: int, marker: str | None = None) -> Path:
    """Makes a folder that the catalog takes for a checkpoint, unless the marker is wrong."""
    folder = run_dir / "checkpoints" / f"step-{step:08d}"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("content")
    (folder / "COMPLETE").write_text(marker or hashlib.sha256(b"content").hexdigest())
    return folder


def test_a_run_that_has_not_begun_tells_nothing(tmp_path: Path) -> None:
    watch = RunWatch(tmp_path / "run")
    assert (watch.checkpoint_step, watch.step_reached()) == (0, None)
    assert not watch.completed and not watch.stopped
    assert not (tmp_path / "run").exists()


def test_only_a_complete_checkpoint_counts_and_it_gives_its_time(tmp_path: Path) -> None:
    folder = save(tmp_path, 10)
    os.utime(folder / "COMPLETE", (1000.0, 1000.0))
    save(tmp_path, 20, marker="of another manifest")
    save(tmp_path, 30).rename(tmp_path / "checkpoints" / "step-00000030.staging")
    watch = RunWatch(tmp_path)
    assert (watch.checkpoint_step, watch.checkpoint_time) == (10, 1000.0)


def test_the_last_answer_stands_while_the_checkpoints_are_away(tmp_path: Path) -> None:
    save(tmp_path, 10)
    watch = RunWatch(tmp_path)
    (tmp_path / "checkpoints").rename(tmp_path / "away")
    assert watch.look_for_checkpoint() == 10


def test_a_marker_counts_once_it_is_another_than_before(tmp_path: Path) -> None:
    (tmp_path / "COMPLETED").write_text("x")
    watch = RunWatch(tmp_path)
    assert not watch.completed
    (tmp_path / "new").write_text("x")  # the same content, as a run that had nothing to do
    (tmp_path / "new").replace(tmp_path / "COMPLETED")
    assert watch.completed and not watch.stopped
    watch.begin()
    assert not watch.completed
    (tmp_path / "COMPLETED").unlink()
    assert not watch.completed


def test_the_step_is_that_of_the_last_whole_line(tmp_path: Path) -> None:
    watch = RunWatch(tmp_path)
    lines = [json.dumps({"step": step, "filler": "x" * 900}) for step in range(200)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + '\n{"step": 9999, "lo')
    assert watch.step_reached() == 199
    (tmp_path / "metrics.jsonl").write_text("no line of ours\n[]\n")
    assert watch.step_reached() is None


def test_a_checkpoint_that_grows_is_movement(tmp_path: Path) -> None:
    staging = tmp_path / "checkpoints" / "step-00000010.staging"
    staging.mkdir(parents=True)
    watch = RunWatch(tmp_path)
    watch._moved -= 100  # long ago
    assert watch.seconds_still() >= 100
    (staging / "rank-00000.safetensors").write_bytes(b"more")
    assert watch.seconds_still() < 100


def test_the_journal_waits_for_the_run_to_make_its_folder(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    journal = Journal(run_dir)
    journal.write("start", "first", attempt=1, signal=None)
    assert not run_dir.exists()
    run_dir.mkdir()
    journal.write("end", "second", code=3)
    events = [json.loads(line) for line in (run_dir / JOURNAL_NAME).read_text().splitlines()]
    assert [event["event"] for event in events] == ["start", "end"]
    assert events[0]["attempt"] == 1 and "signal" not in events[0] and events[1]["code"] == 3
