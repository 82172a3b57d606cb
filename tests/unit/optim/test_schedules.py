"""Learning rates against their closed forms."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megaxlm.config.pretrain import ScheduleConfig
from megaxlm.errors import UserError
from megaxlm.optim.schedules import check_schedule, learning_rate, resolved_decay_steps

PEAK = 2e-3
NAMES = ("linear", "cosine", "inverse_sqrt", "wsd", "constant")


def rate(step: int, max_steps: int = 100, **schedule: object) -> float:
    return learning_rate(step, PEAK, ScheduleConfig.model_validate(schedule), max_steps)


@pytest.mark.parametrize("name", NAMES)
def test_warmup_is_linear_from_the_first_update_to_the_peak(name: str) -> None:
    rates = [rate(step, name=name, warmup_steps=10) for step in range(11)]
    assert rates[:10] == pytest.approx([PEAK * (step + 1) / 10 for step in range(10)])
    if name != "inverse_sqrt":
        assert rates[10] == pytest.approx(PEAK)


def test_linear() -> None:
    for step in range(20, 100):
        expected = PEAK * (0.1 + 0.9 * (100 - step) / 80)
        assert rate(step, name="linear", warmup_steps=20, min_lr_ratio=0.1) == pytest.approx(
            expected
        )


def test_cosine() -> None:
    for step in range(20, 100):
        expected = PEAK * (0.05 + 0.95 * (1 + math.cos(math.pi * (step - 20) / 80)) / 2)
        assert rate(step, name="cosine", warmup_steps=20, min_lr_ratio=0.05) == pytest.approx(
            expected
        )
    assert rate(60, name="cosine", warmup_steps=20) == pytest.approx(PEAK / 2)


def test_inverse_square_root() -> None:
    for step in range(16, 100):
        assert rate(step, name="inverse_sqrt", warmup_steps=16) == pytest.approx(
            PEAK * math.sqrt(16 / (step + 1))
        )
    # Four times the updates, half the rate.
    assert rate(63, name="inverse_sqrt", warmup_steps=16) == pytest.approx(PEAK / 2)
    assert rate(99, name="inverse_sqrt", warmup_steps=1, min_lr_ratio=0.3) == PEAK * 0.3


def test_wsd_is_flat_and_then_falls_by_one_minus_square_root() -> None:
    schedule = {"name": "wsd", "warmup_steps": 5, "decay_steps": 25}
    assert all(rate(step, **schedule) == PEAK for step in range(5, 76))
    for step in range(75, 100):
        expected = PEAK * (1 - math.sqrt((step - 75) / 25))
        assert rate(step, **schedule) == pytest.approx(expected)
    assert rate(100, **schedule) == 0


def test_wsd_decays_over_a_tenth_by_default() -> None:
    assert resolved_decay_steps(ScheduleConfig(name="wsd"), 1000) == 100
    assert resolved_decay_steps(ScheduleConfig(name="wsd"), 5) == 1
    assert rate(900, 1000, name="wsd") == PEAK
    assert rate(901, 1000, name="wsd") < PEAK


def test_constant() -> None:
    assert {rate(step, name="constant") for step in (0, 50, 99, 500)} == {PEAK}


@given(
    name=st.sampled_from(NAMES),
    max_steps=st.integers(1, 400),
    share=st.floats(0, 1),
    floor=st.floats(0, 1),
    step=st.integers(0, 1000),
)
def test_rates_stay_between_floor_and_peak(
    name: str, max_steps: int, share: float, floor: float, step: int
) -> None:
    warmup = int(share * max_steps)
    value = rate(step, max_steps, name=name, warmup_steps=warmup, min_lr_ratio=floor)
    assert 0 <= value <= PEAK * (1 + 1e-12)
    if step >= warmup:
        assert value >= PEAK * floor * (1 - 1e-12)


@given(name=st.sampled_from(NAMES), max_steps=st.integers(2, 300))
def test_rates_never_rise_after_warmup(name: str, max_steps: int) -> None:
    warmup = max_steps // 3
    rates = [rate(step, max_steps, name=name, warmup_steps=warmup) for step in range(max_steps)]
    after = rates[warmup:]
    assert all(later <= earlier for earlier, later in zip(after, after[1:], strict=False))
    assert min(rates) > 0  # no update of the run is spent at a rate of zero


def test_schedules_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UserError, match=r"schedule.warmup_steps 11 exceeds training.max_steps 10"):
        check_schedule(ScheduleConfig(warmup_steps=11), 10)
    with pytest.raises(UserError, match=r"warmup_steps 6 \+ schedule.decay_steps 5 exceed"):
        check_schedule(ScheduleConfig(name="wsd", warmup_steps=6, decay_steps=5), 10)
    check_schedule(ScheduleConfig(name="wsd", warmup_steps=5, decay_steps=5), 10)
    check_schedule(ScheduleConfig(warmup_steps=10), 10)
