"""The scripts that measure kernels and steps on a GPU run, tiny, where there is none."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

SCRIPTS = Path(__file__).resolve().parents[3] / "kernels" / "benchmarks"


def run_small(script: str, results: Path) -> tuple[dict[str, Any], str]:
    command = [sys.executable, str(SCRIPTS / script), "--small", "--results", str(results)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr[-2000:]
    (path,) = results.glob("*.json")
    assert str(path) in ended.stdout
    return json.loads(path.read_text()), ended.stdout


def test_every_op_is_checked_and_timed(builds: Path, tmp_path: Path) -> None:
    found, said = run_small("benchmark_kernels.py", tmp_path)
    assert len(found["verdicts"]) == 6 and set(found["verdicts"].values()) == {"right"}
    timed = {(row["case"], row["contender"], row["direction"]) for row in found["rows"]}
    for case in found["verdicts"]:
        for direction in ("forward", "both"):
            assert {(case, "megaxlm", direction), (case, "eager", direction)} <= timed
    assert all(row["seconds"] > 0 for row in found["rows"])
    assert "linear_cross_entropy" in said


def test_a_step_is_taken_every_way(builds: Path, tmp_path: Path) -> None:
    found, said = run_small("benchmark_step_gpu.py", tmp_path)
    ways = [row["way"] for row in found["rows"]]
    assert ways == ["hf grouped", "hf padded", "torch", "cuda", "cuda, rows"]
    for row in found["rows"]:
        assert row["seconds"] > 0 and row["mfu"] > row["mfu_without_head"] > 0
        assert abs(sum(row["shares"].values()) - 1) < 1e-6
    assert "cuda / hf grouped" in said and "cuda / torch" in said
