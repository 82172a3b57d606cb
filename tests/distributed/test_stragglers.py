"""A rank that is stopped for 23% of the time, so 1.3x slower, is named; one that is not is not.

So is one that waits long for its rows, however fast it computes.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from megaxlm.testing.models import random_micro_batch, tiny_model_config

pytestmark = pytest.mark.distributed

LOADING_SECONDS = 0.1  # longer than a step of this model computes
STOPPED_SECONDS, SHARE = 0.005, 0.23
WELL_STEPS, WITHIN_STEPS = 60, 50
ATTEMPTS = 3  # other work on the machine slows ranks as well, and is then rightly named
PATIENCE = 300.0


def rank_main(run_dir: Path, zero_stage: int) -> None:
    """Trains until the file `end` is there; rank 0 tells of every step and of what is said."""
    from megaxlm.config.deepspeed import builtin_deepspeed_config, resolve_deepspeed_config
    from megaxlm.config.pretrain import PretrainConfig
    from megaxlm.distributed import environment, reduce
    from megaxlm.train.backend import connect
    from megaxlm.train.callbacks.metrics import Metrics
    from megaxlm.train.callbacks.straggler import Straggler
    from megaxlm.train.engine import TrainingEngine
    from megaxlm.train.initial_weights import InitialWeights

    place = environment.discover()
    place.export()
    connect(place, torch.device("cpu"))
    rows, seq_len = 4, 64
    config = PretrainConfig.model_validate(
        {
            "run_dir": str(run_dir),
            "data": {"path": "unused", "seq_len": seq_len},
            "model": tiny_model_config(hidden_size=96, seq_len=seq_len).model_dump(),
            "training": {
                "max_steps": 10**6,
                "global_batch_size": rows * place.world_size,
                "micro_batch_size": rows,
                "precision": "fp32",
                "zero_stage": zero_stage,
            },
        }
    )
    resolved = resolve_deepspeed_config(
        builtin_deepspeed_config(zero_stage), config, place.world_size
    )
    initial = InitialWeights(config.model, config.seed)
    engine = TrainingEngine(config, 3, resolved, place, torch.device("cpu"), initial)
    engine.load_initial()
    metrics = Metrics(10**9, tensorboard=False, peak_flops=1.0)
    straggler = Straggler(config.faults.straggler_ratio, config.faults.straggler_window)
    trainer = cast(
        Any,
        SimpleNamespace(
            engine=engine,
            device=engine.device,
            rank=place.rank,
            world_size=place.world_size,
            run_dir=run_dir,
            step=0,
            callbacks=[metrics, straggler],
            stream=SimpleNamespace(waited_seconds=0.0),
        ),
    )
    metrics.on_train_begin(trainer)
    straggler.on_train_begin(trainer)
    batches = [
        random_micro_batch(2 * number + place.rank, rows=rows, seq_len=seq_len)
        for number in range(8)
    ]
    while not reduce.any_true((run_dir / "end").exists()):
        if place.rank == 1 and (run_dir / "slow-loading").exists():
            began = time.perf_counter()
            time.sleep(LOADING_SECONDS)
            trainer.stream.waited_seconds += time.perf_counter() - began
        engine.train_step([batches[trainer.step % len(batches)]], 1e-3)
        trainer.step += 1
        straggler.on_step_end(trainer, cast(Any, SimpleNamespace(step=trainer.step)))
        if place.rank == 0:
            print(f"step {trainer.step}", flush=True)
    straggler.on_train_end(trainer)
    engine.close()


class Run:
    """Two ranks that train, and what rank 0 has said so far."""

    def __init__(self, run_dir: Path, zero_stage: int) -> None:
        self.run_dir = run_dir
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.ranks = []
        for rank in range(2):
            place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_PORT": port}
            env = {
                **os.environ,
                "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
                "DS_ACCELERATOR": "cpu",
                "OMP_NUM_THREADS": "1",
                "MASTER_ADDR": "127.0.0.1",
                **{key: str(value) for key, value in place.items()},
            }
            with (run_dir / f"output-{rank}").open("wb") as output:
                self.ranks.append(
                    subprocess.Popen(
                        [sys.executable, __file__, str(run_dir), str(zero_stage)],
                        env=env,
                        stdout=output,
                        stderr=subprocess.STDOUT,
                    )
                )

    def said(self) -> str:
        return (self.run_dir / "output-0").read_text()

    def step(self) -> int:
        return max(map(int, re.findall(r"^step (\d+)$", self.said(), re.MULTILINE)), default=0)

    def slow(self) -> set[int]:
        """Ranks that are named and have not kept up since."""
        ranks: set[int] = set()
        for rank, slow in re.findall(
            r"rank (\d) \(\S+\) (loads and computes|keeps up)", self.said()
        ):
            (ranks.add if slow != "keeps up" else ranks.discard)(int(rank))
        return ranks

    def until(self, step: int, slow: set[int]) -> bool:
        """Waits for a step; returns early, with True, once these are the slow ranks."""
        deadline = time.monotonic() + PATIENCE
        while self.slow() != slow:
            assert all(rank.poll() is None for rank in self.ranks), self.said()
            assert time.monotonic() < deadline, self.said()
            if self.step() >= step:
                return False
            time.sleep(0.05)
        return True

    @contextmanager
    def slowed(self, rank: int) -> Iterator[None]:
        """Stops a rank for a share of the time, in slices shorter than a step."""
        victim, over = self.ranks[rank], threading.Event()

        def stop_and_go() -> None:
            while not over.wait(STOPPED_SECONDS * (1 - SHARE) / SHARE):
                victim.send_signal(signal.SIGSTOP)
                time.sleep(STOPPED_SECONDS)
                victim.send_signal(signal.SIGCONT)

        thread = threading.Thread(target=stop_and_go)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def end(self) -> list[int]:
        (self.run_dir / "end").touch()
        try:
            return [rank.wait(PATIENCE) for rank in self.ranks]
        finally:
            for rank in self.ranks:
                rank.kill()
                rank.wait()


@pytest.mark.parametrize("zero_stage", [3])
def test_a_slow_rank_is_named_within_fifty_steps(tmp_path: Path, zero_stage: int) -> None:
    run = Run(tmp_path, zero_stage)
    try:
        outcomes = []
        for _ in range(ATTEMPTS):
            run.until(run.step() + 200, slow=set())
            begin = run.step()
            quiet = not run.until(begin + WELL_STEPS, slow={0}) and run.slow() == set()
            began = run.step()
            with run.slowed(1):
                named = run.until(began + WITHIN_STEPS + 1, slow={1})
            outcomes.append((quiet, named))
            if quiet and named:
                break
        assert outcomes[-1] == (True, True), (outcomes, run.said())
        assert run.until(run.step() + 200, slow=set())  # it keeps up again
        (tmp_path / "slow-loading").touch()
        assert run.until(run.step() + WITHIN_STEPS + 1, slow={1}), run.said()
    finally:
        codes = run.end()
    assert codes == [0, 0], run.said()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    told = [entry for line in lines for entry in line["stragglers"] if entry["slow"]]
    assert {one["rank"] for one in told[-2:]} == {1}
    assert all(one["times_the_others"] >= 1.2 for one in told[-2:])
    assert told[-2]["data_wait_seconds"] == 0 and told[-1]["data_wait_seconds"] >= LOADING_SECONDS
    assert told[-1]["host"] == socket.gethostname()


if __name__ == "__main__":
    rank_main(Path(sys.argv[1]), int(sys.argv[2]))
