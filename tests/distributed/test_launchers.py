"""The same entry under each launcher: deepspeed, torchrun, mpiexec, and no launcher at all."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from megaxlm.testing.datasets import write_dataset

pytestmark = pytest.mark.distributed

BIN = Path(sys.executable).parent
CONFIG = """\
run_dir: {run_dir}
data: {{path: {data}, seq_len: 16}}
model:
  {{hidden_size: 8, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 16,
    hidden_dropout_prob: 0.0, attention_probs_dropout_prob: 0.0}}
training:
  {{max_steps: 3, global_batch_size: 4, micro_batch_size: 1, precision: fp32, zero_stage: 1}}
logging: {{every_steps: 1, tensorboard: false}}
"""


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def launchers() -> dict[str, list[str]]:
    python = sys.executable
    port = free_port()
    return {
        "alone": [python, "-m", "megaxlm"],
        "deepspeed": [str(BIN / "deepspeed"), "--num_gpus", "2", "--master_port", port]
        + ["--module", "megaxlm"],
        "torchrun": [str(BIN / "torchrun"), "--nproc-per-node", "2", "--master-port", port]
        + ["-m", "megaxlm"],
        "mpiexec": [str(BIN / "mpiexec"), "-n", "2", python, "-m", "megaxlm"],
    }


@pytest.fixture(scope="module")
def losses(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[float]]:
    """Losses of three steps under each launcher."""
    folder = tmp_path_factory.mktemp("launchers")
    random = np.random.default_rng(0)
    documents = [list(map(int, random.integers(4, 40, 30))) for _ in range(40)]
    write_dataset(folder / "data", {"en": documents}, vocab_size=48)
    found = {}
    for name, command in launchers().items():
        if shutil.which(command[0]) is None:
            continue
        config = folder / f"{name}.yaml"
        config.write_text(CONFIG.format(run_dir=folder / name, data=folder / "data"))
        env = {key: value for key, value in os.environ.items() if not key.startswith("SLURM")}
        env |= {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
        env |= {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        done = subprocess.run(
            [*command, "pretrain", str(config)],
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=180,
        )
        assert done.returncode == 0, f"{name}: {done.stdout}{done.stderr}"
        lines = (folder / name / "metrics.jsonl").read_text().splitlines()
        found[name] = [line["loss"] for line in map(json.loads, lines) if "loss" in line]
        starts = json.loads((folder / name / "environment.json").read_text())
        assert starts[-1]["world_size"] == (1 if name == "alone" else 2)
    return found


def test_every_launcher_was_there(losses: dict[str, list[float]]) -> None:
    assert set(losses) == {"alone", "deepspeed", "torchrun", "mpiexec"}


def test_every_launcher_trains_the_same_run(losses: dict[str, list[float]]) -> None:
    for name, values in losses.items():
        assert values == pytest.approx(losses["alone"], rel=1e-5), name
        assert len(values) == 3
