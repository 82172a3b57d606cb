"""The script that measures the kernels on a GPU runs, tiny, where there is none."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[3] / "kernels" / "benchmarks" / "benchmark_kernels.py"


def test_it_checks_times_and_writes(builds: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--small", "--results", str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr[-2000:]
    (path,) = tmp_path.glob("*.json")
    found = json.loads(path.read_text())
    assert len(found["verdicts"]) == 5 and set(found["verdicts"].values()) == {"right"}
    timed = {(row["case"], row["contender"], row["direction"]) for row in found["rows"]}
    for case in found["verdicts"]:
        for direction in ("forward", "both"):
            assert {(case, "megaxlm", direction), (case, "eager", direction)} <= timed
    assert all(row["seconds"] > 0 for row in found["rows"])
    assert "linear_cross_entropy" in ended.stdout and str(path) in ended.stdout
