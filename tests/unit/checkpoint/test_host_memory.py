"""Copies for asynchronous saving are compared with the memory of each node before training."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from megaxlm.checkpoint import host_memory
from megaxlm.checkpoint.fragments import whole
from megaxlm.checkpoint.host_memory import (
    SnapshotMemory,
    available_bytes,
    memory_shortage,
    snapshot_memory,
)
from megaxlm.train.callbacks.checkpoints import Checkpoints
from megaxlm.train.trainer import Trainer

GIB = 2**30


def test_the_ranks_of_a_node_are_summed() -> None:
    ranks = [SnapshotMemory(host, 3 * GIB, 8 * GIB) for host in ("a", "a", "b", "b")]
    assert memory_shortage(ranks) is None
    said = memory_shortage([*ranks, SnapshotMemory("b", 3 * GIB, 7 * GIB)])
    assert said is not None and "\n" not in said
    assert said.startswith("b: ") and "9.00 GiB" in said and "7.00 GiB" in said
    assert "checkpoint.asynchronous: false" in said


def test_the_limit_of_a_container_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        host_memory.psutil, "virtual_memory", lambda: SimpleNamespace(available=8 * GIB)
    )
    monkeypatch.setattr(host_memory, "_CGROUPS", tmp_path)
    monkeypatch.setattr(host_memory, "_OWN_CGROUP", tmp_path / "own")
    assert available_bytes() == 8 * GIB  # no cgroups at all
    (tmp_path / "own").write_text("0::/job/step\n")
    (tmp_path / "job" / "step").mkdir(parents=True)
    (tmp_path / "job" / "step" / "memory.max").write_text("max\n")
    assert available_bytes() == 8 * GIB
    for name, content in {
        "memory.max": f"{4 * GIB}\n",
        "memory.current": f"{3 * GIB}\n",
        "memory.stat": f"anon {GIB}\nactive_file {GIB}\ninactive_file {GIB}\n",
    }.items():
        (tmp_path / "job" / name).write_text(content)
    assert available_bytes() == 3 * GIB


@pytest.mark.parametrize("asynchronous", [True, False])
def test_a_run_is_warned_before_its_first_step(
    monkeypatch: pytest.MonkeyPatch, asynchronous: bool
) -> None:
    fragments = [whole("model/a", torch.zeros(1000)), whole("exp_avg/a", torch.zeros(1000))]
    assert snapshot_memory(fragments).needed == 8000
    said: list[str] = []
    trainer: Any = SimpleNamespace(
        config=SimpleNamespace(checkpoint=SimpleNamespace(asynchronous=asynchronous)),
        engine=SimpleNamespace(fragments=lambda: iter(fragments)),
        say=said.append,
    )
    Checkpoints(3).on_train_begin(cast(Trainer, trainer))
    assert said == []
    monkeypatch.setattr(host_memory, "available_bytes", lambda: 7999)
    Checkpoints(3).on_train_begin(cast(Trainer, trainer))
    assert len(said) == asynchronous
