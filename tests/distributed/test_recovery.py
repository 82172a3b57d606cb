"""Steps that are not finite, losses that jump, kills and other layouts: which rows train the model.

Faults are put into the rows of real runs of `megaxlm pretrain`, whose ranks are forked processes.
"""

import json
import math
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from megaxlm.checkpoint.reader import CheckpointReader
from megaxlm.testing.datasets import write_dataset
from megaxlm.testing.faults import Plan, start_with_faults

pytestmark = pytest.mark.distributed

STEPS = 14
ROWS = 8  # of a global batch: rank 1 computes rows 2, 3, 6, 7
SECONDS = 300
NAN = math.nan
CONFIG = """\
run_dir: {run_dir}
seed: 5
data: {{path: {data}, seq_len: 32, packing: documents}}
objectives: [{{name: mlm}}, {{name: tlm}}]
model: {{hidden_size: 16, num_hidden_layers: 2, num_attention_heads: 2, intermediate_size: 32}}
optimizer: {{lr: 1e-3}}
schedule: {{name: cosine, warmup_steps: 3}}
training: {{max_steps: {steps}, global_batch_size: 8, micro_batch_size: 2, precision: fp32}}
checkpoint: {{every_steps: 3, keep_last: 9}}
faults: {{spike_window: 8}}
logging: {{every_steps: 1, tensorboard: false}}
evaluation: {{max_rows_per_language: 2}}
"""


def pretrain(
    folder: Path, name: str, *overrides: str, world_size: int = 2, **plan: Any
) -> tuple[list[int], str]:
    """Runs `megaxlm pretrain` on real processes; returns exit codes and all that was said."""
    config = folder / f"{name}.yaml"
    config.write_text(CONFIG.format(run_dir=folder / name, data=folder / "data", steps=STEPS))
    settings = ("--set", *overrides) if overrides else ()
    with start_with_faults(Plan(**plan), world_size, "pretrain", str(config), *settings) as ranks:
        codes, said = ranks.finish(SECONDS)
    assert "Traceback" not in said, said
    return codes, said


def weights(run_dir: Path, step: int = STEPS) -> dict[str, torch.Tensor]:
    reader = CheckpointReader(run_dir / "checkpoints" / f"step-{step:08d}")
    return {name: reader.read(name) for name in reader.names()}


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    assert left.keys() == right.keys() and len(left) > 30
    return all(torch.equal(value, right[name]) for name, value in left.items())


def losses(run_dir: Path) -> list[tuple[int, float | None, int]]:
    lines = map(json.loads, (run_dir / "metrics.jsonl").read_text().splitlines())
    return [(of["step"], of["loss"], of["skipped_steps"]) for of in lines if "loss" in of]


def incidents(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(of) for of in (run_dir / "incidents.jsonl").read_text().splitlines()]


def of_step(step: int) -> list[int]:
    """Rows of a step's global batch where none were left out before it."""
    return list(range((step - 1) * ROWS, step * ROWS))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recovery")
    random = np.random.default_rng(0)

    def documents(count: int) -> list[list[int]]:
        return [random.integers(4, 60, random.integers(5, 40)).tolist() for _ in range(count)]

    pairs = [(a[:12], b[:12]) for a, b in zip(documents(60), documents(60), strict=True)]
    write_dataset(
        path / "data",
        {"en": documents(80), "fr": documents(40)},
        {("en", "fr"): pairs},
        vocab_size=64,
        validation={"en": documents(6)},
    )
    codes, said = pretrain(path, "clean")
    assert codes == [0, 0], said
    assert not (path / "clean" / "incidents.jsonl").exists()
    return path


def test_a_fault_that_passes_leaves_no_trace_but_a_line(folder: Path) -> None:
    codes, said = pretrain(folder, "transient", calls=[4], factors={of_step(4)[2]: NAN})
    assert codes == [0, 0], said
    assert same(weights(folder / "transient"), weights(folder / "clean"))
    assert losses(folder / "transient") == losses(folder / "clean")
    (incident,) = incidents(folder / "transient")
    assert incident["step"] == 4 and incident["kind"] == "not_finite"
    assert incident["action"] == "computed_again" and incident["loss"] is None
    assert incident["row_ids"] == of_step(4) and incident["rows"] == [24, 32]
    assert said.count("was not finite") == 1


def test_one_bad_step_counts_and_updates_nothing(folder: Path) -> None:
    codes, said = pretrain(
        folder, "single", "training.max_steps=3", factors={of_step(2)[3]: math.inf}
    )
    assert codes == [0, 0], said
    (incident,) = incidents(folder / "single")
    assert incident["action"] == "not_updated" and incident["row_ids"] == of_step(2)
    first, second, third = losses(folder / "single")
    assert first[1:] == (losses(folder / "clean")[0][1], 0) and second == (2, None, 1)
    assert third[0] == 3 and third[1] is not None and third[2] == 0
    shared = CheckpointReader(folder / "single" / "checkpoints" / "step-00000003").shared
    assert shared["step"] == 3 and shared["optimizer_step"] == 2
    assert shared["stream"]["position"] == 3 * ROWS and shared["stream"]["skip_rows"] == []
    rates = [
        json.loads(line)["lr"]
        for line in (folder / "single" / "metrics.jsonl").read_text().splitlines()
        if "lr" in line
    ]
    assert rates == pytest.approx([1e-3 / 3, 2e-3 / 3, 1e-3])  # the schedule goes by the step
    assert said.count("nothing was updated") == 1


def test_rollbacks_a_kill_and_the_replay_of_the_log(folder: Path) -> None:
    """Three steps that are not finite, a kill right after the rollback, and a spike at the end."""
    # After the first rollback rows 24 to 55 are left out: step 12 has rows 120 to 127.
    faults = {of_step(5)[2]: NAN, of_step(6)[3]: math.inf, of_step(7)[6]: NAN, 122: 1000.0}
    run_dir = folder / "faulty"
    codes, said = pretrain(folder, "faulty", factors=faults, die_on_rollback="dropping")
    assert codes[0] == -signal.SIGKILL and codes[1] != 0, said
    assert said.count("nothing was updated") == 2
    assert [line["action"] for line in incidents(run_dir)] == ["not_updated"] * 2

    codes, said = pretrain(folder, "faulty", factors=faults, die_on_rollback="after")
    assert codes == [-signal.SIGKILL] * 2, said
    assert "at step 6 of 14" in said and "nothing was updated" not in said
    assert "not finite in 3 steps in a row; back to step 3" in said
    assert [line["step"] for line in incidents(run_dir)] == [5, 6, 7]
    # What was saved at step 6 holds the suspect update of step 4: no start may go on from it.
    assert sorted(of.name for of in (run_dir / "checkpoints").glob("step-*")) == ["step-00000003"]

    codes, said = pretrain(folder, "faulty", factors=faults)
    assert codes == [0, 0], said
    assert "at step 3 of 14" in said and "rows 24 to 55 are left out, as incidents" in said
    assert "is far above those before it; back to step 9" in said
    found = incidents(run_dir)
    assert [(of["step"], of["action"]) for of in found] == [
        (5, "not_updated"),
        (6, "not_updated"),
        (7, "rolled_back"),
        (12, "rolled_back"),
    ]
    assert found[3]["kind"] == "loss_spike" and found[3]["row_ids"] == list(range(120, 128))
    # The batch whose loss showed it and the one before, whose update may have caused it.
    skipped = [of for line in found for of in line.get("skip_rows", [])]
    assert skipped == [[24, 56], [112, 128]]
    stream = CheckpointReader(run_dir / "checkpoints" / "step-00000014").shared["stream"]
    assert stream["skip_rows"] == skipped and stream["position"] == STEPS * ROWS + 32 + 16
    assert [of[0] for of in losses(run_dir)] == list(range(1, STEPS + 1))

    codes, said = pretrain(folder, "replay", f"data.skip_rows={json.dumps(skipped)}")
    assert codes == [0, 0], said
    assert not (folder / "replay" / "incidents.jsonl").exists()
    assert same(weights(folder / "replay"), weights(run_dir))
    assert losses(folder / "replay") == losses(run_dir)
    assert not same(weights(folder / "replay"), weights(folder / "clean"))
    panels = [
        json.loads((folder / of / "evaluation.json").read_text()) for of in ("replay", "faulty")
    ]
    assert panels[0][-1]["perplexity"] == panels[1][-1]["perplexity"]


def test_a_kill_between_what_a_rollback_drops_and_its_line_lets_it_happen_again(
    folder: Path,
) -> None:
    faults = {of_step(5)[2]: NAN, of_step(6)[3]: math.inf, of_step(7)[6]: NAN}
    run_dir = folder / "dropped"
    codes, said = pretrain(folder, "dropped", factors=faults, die_on_rollback="dropped")
    assert codes[0] == -signal.SIGKILL and codes[1] != 0, said
    assert sorted(of.name for of in (run_dir / "checkpoints").glob("step-*")) == ["step-00000003"]
    assert [of["action"] for of in incidents(run_dir)] == ["not_updated"] * 2

    codes, said = pretrain(folder, "dropped", factors=faults)
    assert codes == [0, 0], said
    assert "is gone" not in said and "at step 3 of 14" in said and "back to step 3" in said
    found = incidents(run_dir)
    assert [of["action"] for of in found] == ["not_updated"] * 4 + ["rolled_back"]
    skipped = [of for line in found for of in line.get("skip_rows", [])]
    assert skipped == [[24, 56]]

    codes, said = pretrain(folder, "dropped-replay", f"data.skip_rows={json.dumps(skipped)}")
    assert codes == [0, 0], said
    assert same(weights(folder / "dropped-replay"), weights(run_dir))
    assert losses(folder / "dropped-replay") == losses(run_dir)


def test_a_run_that_cannot_recover_ends_with_one_line(folder: Path) -> None:
    """On two pipeline stages, of which only the last sees that something is wrong."""
    every = {row: NAN for row in range(1000)}
    overrides = ("training.pipeline_stages=2", "faults.max_rollbacks=1")
    codes, said = pretrain(folder, "hopeless", *overrides, factors=every)
    assert codes == [1, 1], said
    assert "back to step 0 (the initial weights)" in said
    errors = [line for line in said.splitlines() if "error:" in line]
    assert len(errors) == 1 and ", after 1 rollback" in errors[0] and "optimizer.lr" in errors[0]
    actions = [of["action"] for of in incidents(folder / "hopeless")]
    assert actions == ["not_updated"] * 2 + ["rolled_back"] + ["not_updated"] * 2 + ["gave_up"]
    assert incidents(folder / "hopeless")[2]["skip_rows"] == [[0, 24]]
    assert not (folder / "hopeless" / "COMPLETED").exists()


def test_no_row_is_repeated_or_lost_where_layout_and_batch_change(folder: Path) -> None:
    """Two processes, killed; then one with another micro-batch; a global batch that grows."""
    warmup = "training.batch_size_warmup=[{until_tokens: 640, global_batch_size: 4}]"  # 20 rows
    run_dir = folder / "elastic"
    codes, said = pretrain(folder, "elastic", warmup, die_after=8)
    assert codes == [-signal.SIGKILL] * 2, said
    codes, said = pretrain(folder, "elastic", warmup, "training.micro_batch_size=4", world_size=1)
    assert codes == [0], said
    assert "resumed" in said and "at step 6 of 14" in said

    by_step: dict[int, list[int]] = {}
    for rank in (0, 1):
        for line in (run_dir / f"rows-2-{rank}.jsonl").read_text().splitlines():
            step, rows = json.loads(line)
            by_step.setdefault(step, []).extend(rows)
    assert sorted(by_step) == list(range(1, 9))
    after = [json.loads(line) for line in (run_dir / "rows-1-0.jsonl").read_text().splitlines()]
    assert [step for step, _ in after] == list(range(7, STEPS + 1))
    for step, rows in after:
        assert sorted(by_step.get(step, rows)) == rows  # steps 7 and 8 were lost with the kill
        by_step[step] = rows
    sizes = [len(by_step[step]) for step in range(1, STEPS + 1)]
    assert sizes == [4] * 5 + [8] * 9
    every = [row for step in range(1, STEPS + 1) for row in sorted(by_step[step])]
    assert every == list(range(5 * 4 + 9 * 8))
    tokens = [
        json.loads(line)["tokens"]
        for line in (run_dir / "metrics.jsonl").read_text().splitlines()
        if "loss" in line
    ]
    assert tokens[-1] == len(every) * 32


def test_a_full_disk_costs_a_checkpoint_and_at_the_end_the_exit_code(folder: Path) -> None:
    overrides = ("training.max_steps=8", "checkpoint.every_steps=3")
    run_dir = folder / "full"
    codes, said = pretrain(folder, "full", *overrides, world_size=1, full={3: 1, 6: 1}, stop_at=6)
    # Step 3 is not tried again; step 6 is, because the run has to stop there.
    assert codes == [75], said
    assert said.count("training goes on") == 2 and "stopped on request at step 6" in said
    assert sorted(of.name for of in (run_dir / "checkpoints").glob("step-*")) == ["step-00000006"]

    codes, said = pretrain(folder, "full", *overrides, world_size=1, full={8: 9})
    assert codes == [1], said
    errors = [line for line in said.splitlines() if "error:" in line]
    assert len(errors) == 1 and "a checkpoint needs" in errors[0]
    assert not (run_dir / "COMPLETED").exists()
    assert [of[0] for of in losses(run_dir)] == list(range(1, 9))
