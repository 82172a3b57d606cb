"""The quickstart script, with few steps: every stage of it runs and says what it should."""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.distributed

ROOT = Path(__file__).resolve().parents[2]
FEW_STEPS = (
    "training.max_steps=12",
    "schedule.warmup_steps=2",
    "schedule.decay_steps=4",
    "evaluation.every_steps=null",
    "evaluation.max_rows_per_language=4",
)


def quickstart(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "launch/quickstart.sh", *arguments],
        cwd=ROOT,
        env={**os.environ, "DS_ACCELERATOR": "cpu"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=600,
    )


def test_the_whole_path(tmp_path: Path) -> None:
    out = tmp_path / "quick"
    done = quickstart(str(out), *FEW_STEPS)
    assert done.returncode == 0, done.stdout + done.stderr
    said = done.stdout
    for lang in ("en", "es", "ru", "hi", "sw"):
        assert re.search(rf"│ {lang} +│ +\d\.\d+ │ +\d\.\d+ │", said), said
    assert re.search(r"│ mean +│ +\d+\.\d% │ +\d+\.\d% │", said), said
    assert said.count("<mask>") == 3 and said.count("->") >= 3
    assert f"{out}/run/tensorboard" in said and f"{out}/export" in said
    assert list((out / "run" / "tensorboard").glob("events.*"))
    assert json.loads((out / "export" / "config.json").read_text())["model_type"]
    assert (out / "run" / "COMPLETED").exists()
    assert "Traceback" not in done.stdout + done.stderr


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious")
    done = quickstart(str(tmp_path))
    assert done.returncode == 2 and str(tmp_path) in done.stderr
    assert (tmp_path / "mine").read_text() == "precious"
