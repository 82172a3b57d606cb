"""Who is called slow from which times, and what the clock counts."""

import math
import time

import pytest
import torch
from torch import nn

from megaxlm.model.encoder import MaskedLanguageModel
from megaxlm.model.initialization import initialize
from megaxlm.model.layer import EncoderLayer
from megaxlm.testing.models import random_micro_batch, tiny_model_config
from megaxlm.train.callbacks.straggler import BLOCKS, StragglerJudge
from megaxlm.train.compute_clock import FORWARD_AND_BACKWARD, ComputeClock

RATIO = 1.2


def test_a_slow_rank_is_named_once_and_once_when_it_is_over() -> None:
    judge = StragglerJudge([range(4)], RATIO)
    for _ in range(10):
        assert judge.add([1.0, 1.02, 0.98, 1.01]) == {}
    changes = [judge.add([1.0, 1.0, 1.3, 1.0]) for _ in range(8)]
    assert [list(change) for change in changes[:BLOCKS]] == [[]] * (BLOCKS - 1) + [[2]]
    assert changes[BLOCKS - 1][2] == pytest.approx(1.3)
    assert changes[BLOCKS:] == [{}] * (8 - BLOCKS)
    for _ in range(5):
        assert judge.add([1.0, 1.0, 1.15, 1.0]) == {}  # between the limits nothing changes
    over = [judge.add([1.0] * 4) for _ in range(BLOCKS)]
    assert [list(change) for change in over if change] == [[2]]


def test_of_two_ranks_one_is_compared_with_the_other() -> None:
    judge = StragglerJudge([range(2)], RATIO)
    changes = [judge.add([1.25, 1.0]) for _ in range(BLOCKS)]
    assert changes[-1] == {0: pytest.approx(1.25)}


def test_stages_of_a_pipeline_are_not_compared_with_one_another() -> None:
    judge = StragglerJudge([range(0, 2), range(2, 4)], RATIO)
    changes = [judge.add([5.0, 5.0, 1.0, 1.3]) for _ in range(BLOCKS)]
    assert changes[-1] == {3: pytest.approx(1.3)}


def test_bursts_are_no_stragglers() -> None:
    judge = StragglerJudge([range(2)], RATIO)
    for block in range(200):  # three of four blocks are slow, one is not
        assert judge.add([1.0, 3.0 if block % 4 else 1.0]) == {}


def test_noise_is_not_called_slow() -> None:
    generator = torch.Generator().manual_seed(0)
    false = 0
    for ranks in (2, 8, 64):
        judge = StragglerJudge([range(ranks)], RATIO)
        for _ in range(2000):
            # 5% of noise in the mean of a block, and one block in 50 of a rank far off.
            noise = torch.randn(ranks, generator=generator) * 0.05 + 1
            outliers = torch.rand(ranks, generator=generator) < 0.02
            false += len(judge.add(torch.where(outliers, noise * 3, noise).tolist()))
    assert false == 0


def test_blocks_before_a_rollback_do_not_count() -> None:
    judge = StragglerJudge([range(2)], RATIO)
    for _ in range(BLOCKS - 1):
        judge.add([1.0, 1.3])
    judge.forget()
    changes = [judge.add([1.0, 1.3]) for _ in range(BLOCKS)]
    assert [list(change) for change in changes] == [[]] * (BLOCKS - 1) + [[1]]


class Slow(nn.Module):
    """Takes a known time."""

    def forward(self, state: object, *rest: object) -> object:
        time.sleep(0.02)
        return state


def forward(model: MaskedLanguageModel) -> None:
    batch = random_micro_batch(0)
    model(
        batch.tokens,
        batch.positions,
        batch.cu_seqlens,
        batch.target_index,
        batch.targets,
        batch.target_weight,
        batch.seq_len,
    )[0].backward()


@pytest.mark.parametrize("recompute", [False, True])
def test_the_clock_counts_layers_in_training_alone(recompute: bool) -> None:
    config = tiny_model_config().model_copy(update={"activation_checkpointing": recompute})
    model = MaskedLanguageModel(config)
    initialize(model, config, 0)
    for layer in model.layers:
        assert isinstance(layer, EncoderLayer)
        layer.attention_norm = nn.Sequential(Slow(), layer.attention_norm)  # type: ignore[assignment]
    clock = ComputeClock(model, torch.device("cpu"))
    model.train()
    began = time.perf_counter()
    forward(model)
    elapsed = time.perf_counter() - began
    seconds = clock.take()
    # The backward pass counts as twice the forward pass.
    assert len(model.layers) * 0.02 <= seconds / FORWARD_AND_BACKWARD <= elapsed
    assert clock.take() == 0.0
    model.eval()
    forward(model)
    assert clock.take() == 0.0
    model.train()
    clock.close()
    forward(model)
    assert clock.take() == 0.0


def test_the_clock_counts_more_regions_than_it_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("megaxlm.train.compute_clock.MAX_REGIONS", 2)
    config = tiny_model_config()
    model = MaskedLanguageModel(config)
    initialize(model, config, 0)
    for layer in model.layers:
        assert isinstance(layer, EncoderLayer)
        layer.attention_norm = nn.Sequential(Slow(), layer.attention_norm)  # type: ignore[assignment]
    clock = ComputeClock(model, torch.device("cpu"))
    model.train()
    for _ in range(5):
        forward(model)
    clock.close()
    assert clock.take() >= FORWARD_AND_BACKWARD * 5 * len(model.layers) * 0.02


class SlowSGD(torch.optim.SGD):
    """Takes a known time for an update."""

    __module__ = "torch.optim.slow"

    def step(self, closure: object = None) -> None:  # type: ignore[override]
        time.sleep(0.02)


class TalkingSGD(SlowSGD):
    """One of ours, which may wait for other ranks in its step."""

    __module__ = "megaxlm.optim.talking"


@pytest.mark.parametrize(("kind", "counted"), [(SlowSGD, True), (TalkingSGD, False)])
def test_the_clock_counts_updates_without_collectives(
    kind: type[torch.optim.SGD], counted: bool
) -> None:
    model = nn.Linear(2, 2)
    clock = ComputeClock(model, torch.device("cpu"))
    optimizer = kind(model.parameters(), lr=0.1)
    optimizer.step()
    assert (clock.take() >= 0.02) == counted
    clock.close()
    optimizer.step()
    assert clock.take() == 0.0


def test_named_within_fifty_steps_with_the_default_window() -> None:
    from megaxlm.config.pretrain import FaultsConfig

    faults = FaultsConfig()
    block = faults.straggler_window // 2
    worst = (block - 1) + BLOCKS * block  # a block that is slow in its last step alone, then four
    assert worst <= 50 and math.isclose(faults.straggler_ratio, RATIO)
