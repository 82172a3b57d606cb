"""A pipeline trained by the command itself, and the same run continued in other layouts."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from megaxlm.checkpoint.catalog import record_saved
from megaxlm.checkpoint.reader import CheckpointReader
from megaxlm.testing.datasets import write_dataset
from megaxlm.testing.faults import Plan, run_program, start_with_faults
from megaxlm.testing.launchers import launch_command, running

pytestmark = pytest.mark.distributed

STEPS, ROWS, SECONDS = 8, 8, 200
CONFIG = """\
run_dir: {run_dir}
seed: 5
data: {{path: {data}, seq_len: 32}}
model:
  {{hidden_size: 16, num_hidden_layers: 2, num_attention_heads: 2, intermediate_size: 32,
    hidden_dropout_prob: 0.1, attention_probs_dropout_prob: 0.1, tie_word_embeddings: {tied}}}
optimizer: {{lr: 1e-2, layer_lr_decay: 0.8}}
schedule: {{name: cosine, warmup_steps: 2}}
training:
  {{max_steps: {steps}, global_batch_size: {rows}, micro_batch_size: 2, precision: fp32,
    pipeline_stages: 2}}
checkpoint: {{every_steps: 3, keep_last: 9}}
logging: {{every_steps: 1, tensorboard: false}}
evaluation: {{max_rows_per_language: 2}}
"""
ONE_PROCESS = ["training.pipeline_stages=1", "training.zero_stage=2"]


def write_config(path: Path, data: Path, tied: bool) -> Path:
    tie = str(tied).lower()
    text = CONFIG.format(run_dir=path.with_suffix(""), data=data, tied=tie, steps=STEPS, rows=ROWS)
    path.write_text(text)
    return path


def metrics(run_dir: Path) -> list[dict[str, Any]]:
    lines = map(json.loads, (run_dir / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if "loss" in line]


def rows(run_dir: Path, world_size: int, rank: int) -> list[tuple[int, list[int]]]:
    """Each step with its rows, in the order in which a rank took them."""
    path = run_dir / f"rows-{world_size}-{rank}.jsonl"
    return [tuple(json.loads(line)) for line in path.read_text().splitlines()]


def back_to(run_dir: Path, path: Path, step: int) -> None:
    """Copies a run as it stood at an earlier checkpoint."""
    shutil.copytree(run_dir, path)
    for folder in (path / "checkpoints").glob("step-*"):
        if int(folder.name.removeprefix("step-")) > step:
            shutil.rmtree(folder)
    record_saved(path / "checkpoints", step)
    for old in [path / "COMPLETED", path / "evaluation.json", *path.glob("rows-*")]:
        old.unlink()


def state(run_dir: Path) -> Iterator[tuple[str, torch.Tensor]]:
    with CheckpointReader(run_dir / "checkpoints" / f"step-{STEPS:08d}") as reader:
        for name in reader.names():
            yield name, reader.full(name)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pipeline") / "data"
    random = np.random.default_rng(0)
    documents = [list(map(int, random.integers(4, 60, 30))) for _ in range(300)]
    write_dataset(path, {"en": documents}, vocab_size=64, validation={"en": documents[:6]})
    return path


@pytest.mark.parametrize(("launcher", "tied"), [("torchrun", True), ("deepspeed", False)])
def test_a_pipeline_is_trained_and_goes_on_in_other_layouts(
    data: Path, launcher: str, tied: bool
) -> None:
    """Two stages to the end; from their first checkpoint one process with ZeRO-2; stages again."""
    config = write_config(data.parent / f"{launcher}.yaml", data, tied)
    whole = config.with_suffix("")
    arguments = ["{}", "pretrain", str(config)]
    with running(launch_command(launcher, *arguments, program=__file__), whole) as run:
        assert run.wait(SECONDS) == 0, run.said()
    assert (whole / "COMPLETED").exists()
    saved = sorted(path.name for path in (whole / "checkpoints").glob("step-*"))
    assert saved == [f"step-{step:08d}" for step in (3, 6, STEPS)]
    expected = metrics(whole)
    assert [line["step"] for line in expected] == list(range(1, STEPS + 1))
    # Both stages take all rows of the one replica, each step the next ones.
    every = [(step, list(range((step - 1) * ROWS, step * ROWS))) for step in range(1, STEPS + 1)]
    assert rows(whole, 2, 0) == rows(whole, 2, 1) == every

    other = write_config(data.parent / f"{launcher}-other.yaml", data, tied)
    broken = other.with_suffix("")
    back_to(whole, broken, 3)
    command = ("pretrain", str(other))
    with start_with_faults(Plan(stop_at=5), 1, *command, "--set", *ONE_PROCESS) as ranks:
        codes, said = ranks.finish(SECONDS)
    assert codes == [75] and "at step 3 of 8" in said, said
    assert "training.pipeline_stages: 2 -> 1" in said
    with start_with_faults(Plan(), 2, *command) as ranks:
        codes, said = ranks.finish(SECONDS)
    assert codes == [0, 0] and "at step 5 of 8" in said, said

    assert rows(broken, 1, 0) == every[3:5]
    assert rows(broken, 2, 0) == rows(broken, 2, 1) == every[5:]
    found = metrics(broken)
    for key in ("step", "lr", "tokens", "skipped_steps"):
        assert [line[key] for line in found] == [line[key] for line in expected]
    losses = [line["loss"] for line in found]
    assert losses == pytest.approx([line["loss"] for line in expected], rel=1e-6)
    assert losses[:3] == [line["loss"] for line in expected[:3]]
    assert len(set(losses)) == STEPS
    norms = [line["grad_norm"] for line in found]
    assert norms == pytest.approx([line["grad_norm"] for line in expected], rel=1e-5)
    names = set()
    for (name, value), (same, wanted) in zip(state(broken), state(whole), strict=True):
        assert name == same
        torch.testing.assert_close(value, wanted, rtol=1e-4, atol=1e-6, msg=name)
        names.add(name)
    assert ("model/head.decoder.weight" in names) == (not tied)
    panels = [json.loads((of / "evaluation.json").read_text())[-1] for of in (whole, broken)]
    assert panels[0]["step"] == panels[1]["step"] == STEPS
    assert panels[0]["perplexity"]["en"] == pytest.approx(panels[1]["perplexity"]["en"], rel=1e-5)


if __name__ == "__main__":
    run_program()
