"""`megaxlm pretrain` on two processes: killed, stopped, resumed, contradicted."""

import json
import re
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from megaxlm.data.shards import Shard, read_index
from megaxlm.testing.datasets import write_dataset
from megaxlm.testing.distributed import Ranks
from megaxlm.testing.launchers import start_forked

pytestmark = pytest.mark.distributed

STEPS = 14  # enough that a kill after the fifth comes well before the end
START_SECONDS = 120
CONFIG = """\
run_dir: {run_dir}
seed: 3
data:
  path: {data}
  seq_len: 32
  packing: documents
  sampling_alpha: 0.5
objectives: [{{name: mlm, weight: 1}}, {{name: tlm, weight: 1}}]
model:
  hidden_size: 16
  num_hidden_layers: 2
  num_attention_heads: 2
  intermediate_size: 32
  hidden_dropout_prob: 0.1
  attention_probs_dropout_prob: 0.1
optimizer: {{lr: 1e-3}}
schedule: {{name: cosine, warmup_steps: 3}}
training:
  max_steps: {steps}
  global_batch_size: 8
  micro_batch_size: 2
  precision: fp32
  zero_stage: {stage}
checkpoint: {{every_steps: 3, keep_last: 2}}
logging: {{every_steps: 1, tensorboard: false}}
evaluation: {{max_rows_per_language: 4}}
"""


def make_dataset(directory: Path) -> None:
    random = np.random.default_rng(0)

    def documents(count: int) -> list[list[int]]:
        return [
            list(map(int, random.integers(4, 60, random.integers(5, 40)))) for _ in range(count)
        ]

    pairs = [(a[:12], b[:12]) for a, b in zip(documents(60), documents(60), strict=True)]
    write_dataset(
        directory,
        {"en": documents(80), "fr": documents(40)},
        {("en", "fr"): pairs},
        vocab_size=64,
        validation={"en": documents(6), "fr": documents(6)},
    )


def write_config(folder: Path, name: str, stage: int, extra: str = "") -> Path:
    path = folder / f"{name}.yaml"
    text = CONFIG.format(run_dir=folder / name, data=folder / "data", stage=stage, steps=STEPS)
    path.write_text(text + extra)
    return path


def start(config: Path, *arguments: str) -> Ranks:
    return start_forked(2, "pretrain", str(config), *arguments)


def run(config: Path, *arguments: str) -> tuple[list[int], str]:
    """Returns exit codes and everything that was said."""
    with start(config, *arguments) as ranks:
        return ranks.finish(START_SECONDS)


def metrics(run_dir: Path) -> list[dict[str, Any]]:
    path = run_dir / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    found = []
    for line in lines:
        try:
            found.append(json.loads(line))
        except ValueError:  # being written right now
            break
    return [line for line in found if "loss" in line]


def wait_for(condition: Callable[[], bool], ranks: Ranks) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not condition():
        assert set(ranks.codes()) == {None}, ranks.finish(START_SECONDS)
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.005)


def exact(lines: list[dict[str, Any]]) -> list[tuple[int, float, float, dict[str, float]]]:
    keys = ("step", "loss", "grad_norm", "loss_by_language")
    return [tuple(line[key] for key in keys) for line in lines]  # type: ignore[misc]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pretrain")
    make_dataset(path / "data")
    return path


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_killed_and_resumed_is_digit_for_digit_the_unbroken_run(folder: Path, stage: int) -> None:
    unbroken = write_config(folder, f"unbroken-{stage}", stage)
    codes, said = run(unbroken)
    assert codes == [0, 0], said
    expected = metrics(folder / f"unbroken-{stage}")
    assert [line["step"] for line in expected] == list(range(1, STEPS + 1))
    assert (folder / f"unbroken-{stage}" / "COMPLETED").exists()

    broken = write_config(folder, f"broken-{stage}", stage)
    run_dir = folder / f"broken-{stage}"
    with start(broken) as ranks:
        wait_for(lambda: len(metrics(run_dir)) >= 5, ranks)
        for rank in (0, 1):
            ranks.send_signal(rank, signal.SIGKILL)
        codes, said = ranks.finish(START_SECONDS)
    assert codes == [-signal.SIGKILL] * 2, said
    assert not (run_dir / "COMPLETED").exists()

    codes, said = run(broken)
    assert codes == [0, 0], said
    assert re.search(r"resumed .*step-000000(03|06|09|12) at step", said), said
    assert exact(metrics(run_dir)) == exact(expected)

    final = [
        json.loads((folder / name / "evaluation.json").read_text())
        for name in (f"unbroken-{stage}", f"broken-{stage}")
    ]
    for entry in final[0] + final[1]:
        entry.pop("model")  # the folder's name
    assert final[0] == final[1]
    assert [entry["step"] for entry in final[0]] == [0, STEPS]
    assert set(final[0][0]["perplexity"]) == {"en", "fr"}

    codes, said = run(broken)
    assert codes == [0, 0], said
    assert "nothing to do" in said


def test_a_signal_saves_and_exits_75_and_the_same_command_goes_on(folder: Path) -> None:
    config = write_config(folder, "stopped", 1)
    run_dir = folder / "stopped"
    with start(config, "--set", "training.max_steps=5000") as ranks:
        wait_for(lambda: len(metrics(run_dir)) >= 4, ranks)
        ranks.send_signal(1, signal.SIGTERM)
        codes, said = ranks.finish(START_SECONDS)
    assert codes == [75, 75], said
    stopped_at = metrics(run_dir)[-1]["step"]
    assert f"stopped on request at step {stopped_at}" in said
    assert (run_dir / "checkpoints" / f"step-{stopped_at:08d}" / "COMPLETE").exists()

    last = stopped_at + 2
    codes, said = run(config, "--set", f"training.max_steps={last}")
    assert codes == [0, 0], said
    assert f"at step {stopped_at} of {last}" in said
    assert [line["step"] for line in metrics(run_dir)] == list(range(1, last + 1))


def test_damaged_checkpoints_are_passed_over_and_never_a_silent_restart(folder: Path) -> None:
    config = write_config(folder, "damaged", 0)
    run_dir = folder / "damaged"
    assert run(config)[0] == [0, 0]
    newest, older = sorted((run_dir / "checkpoints").glob("step-*"), reverse=True)
    _flip(newest / "rank-00001.safetensors")
    more = ("--set", f"training.max_steps={STEPS + 1}")
    codes, said = run(config, *more)
    assert codes == [0, 0], said
    assert newest.name in said and f"resumed {older}" in said

    for path in (run_dir / "checkpoints").glob("step-*"):
        _flip(path / "rank-00000.safetensors")
    codes, said = run(config, "--set", f"training.max_steps={STEPS + 2}")
    assert codes == [1, 1], said
    errors = [line for line in said.splitlines() if "error:" in line]
    assert len(errors) == 1 and "none of" in errors[0] and "run_dir" in errors[0]
    assert "Traceback" not in said


def test_a_shard_damaged_for_one_rank_ends_all_ranks_with_one_line(tmp_path: Path) -> None:
    make_dataset(tmp_path / "data")
    (shard,) = (tmp_path / "data" / "train" / "en").glob("*.arrow")
    index = read_index(tmp_path / "data")
    subset = index.subset("train", "en")
    assert subset is not None
    values, offsets = Shard(tmp_path / "data", subset.shards[0], is_bitext=False).sides[0]
    document = values[offsets[40] : offsets[41]].tobytes()
    content = shard.read_bytes()
    assert content.count(document) == 1
    shard.write_bytes(content.replace(document, b"\xff" * len(document)))  # no such tokens

    config = write_config(tmp_path, "run", 1)
    codes, said = run(config, "--set", "training.max_steps=200", "checkpoint.every_steps=200")
    assert codes == [1, 1], said
    errors = [line for line in said.splitlines() if "error:" in line]
    assert len(errors) == 1 and "megaxlm data verify" in errors[0], said
    assert "Traceback" not in said
    done = metrics(tmp_path / "run")
    if done:  # the steps before are kept
        name = f"step-{done[-1]['step']:08d}"
        assert (tmp_path / "run" / "checkpoints" / name / "COMPLETE").exists()


def test_vanished_checkpoints_are_not_a_reason_to_start_afresh(folder: Path) -> None:
    config = write_config(folder, "vanished", 0)
    run_dir = folder / "vanished"
    assert run(config)[0] == [0, 0]
    before = (run_dir / "metrics.jsonl").read_bytes()
    shutil.rmtree(run_dir / "checkpoints")
    codes, said = run(config)
    assert codes == [1, 1], said
    errors = [line for line in said.splitlines() if "error:" in line]
    assert len(errors) == 1 and "COMPLETED" in errors[0]
    assert (run_dir / "metrics.jsonl").read_bytes() == before


def test_a_changed_setting_is_named_and_the_marker_follows(folder: Path) -> None:
    config = write_config(folder, "longer", 0)
    run_dir = folder / "longer"
    assert run(config)[0] == [0, 0]
    (run_dir / "COMPLETED").unlink()  # killed between the last checkpoint and the marker
    codes, said = run(config)
    assert codes == [0, 0] and "nothing to do" in said
    assert (run_dir / "COMPLETED").exists()
    codes, said = run(
        config, "--set", f"training.max_steps={STEPS + 1}", "training.global_batch_size=16"
    )
    assert codes == [0, 0], said
    assert "training.global_batch_size: 8 -> 16" in said
    line = metrics(run_dir)[-1]
    assert line["tokens"] == (STEPS * 8 + 16) * 32


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("override", "said_words"),
    [
        ("training.global_batch_size=6", ["training.global_batch_size", "6", "micro_batch_size"]),
        ("data.languages=[en, xx]", ["xx", "en", "fr"]),
        ("data.path=/nowhere/data", ["/nowhere/data", "megaxlm data build"]),
        ("model.max_position_embeddings=20", ["max_position_embeddings", "34"]),
        ("schedule.warmup_steps=999", ["warmup_steps", "max_steps"]),
        ("training.deepspeed_config=/nowhere/ds.json", ["/nowhere/ds.json"]),
    ],
)
def test_wrong_settings_end_with_one_line(
    folder: Path, override: str, said_words: list[str]
) -> None:
    config = write_config(folder, "wrong", 1)
    codes, said = run(config, "--set", override)
    assert codes == [2, 2], said
    errors = [line for line in said.splitlines() if "error:" in line]
    assert len(errors) == 1, said
    assert "Traceback" not in said
    for word in said_words:
        assert word in errors[0]
    assert not (folder / "wrong" / "checkpoints").exists()


def test_a_changed_tokenizer_or_model_is_refused_on_resume(folder: Path) -> None:
    config = write_config(folder, "changed", 0)
    assert run(config)[0] == [0, 0]
    more = ("--set", f"training.max_steps={STEPS + 1}")
    codes, said = run(config, *more, "model.hidden_size=32")
    assert codes == [2, 2] and "model.hidden_size=16" in said and "32" in said, said

    index = folder / "data" / "dataset.json"
    model = folder / "data" / "tokenizer" / "sentencepiece.bpe.model"
    before, tokenizer = index.read_text(), model.read_bytes()
    try:
        model.write_bytes(b"another tokenizer")
        codes, said = run(config, *more)
        assert codes == [2, 2] and "tokenizer" in said and "Traceback" not in said, said
    finally:
        index.write_text(before)
        model.write_bytes(tokenizer)
