import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megaxlm.data.sampling import DRAW_BLOCK, MixturePhase, SourceDraw, alpha_probabilities

TOKENS = [5_000_000, 900_000, 40_000, 700, 3]


def test_alpha_probabilities_follow_the_formula() -> None:
    assert alpha_probabilities([100, 100], 0.3) == [0.5, 0.5]
    assert alpha_probabilities([300, 100], 1.0) == pytest.approx([0.75, 0.25])
    assert alpha_probabilities(TOKENS, 0.0) == pytest.approx([0.2] * 5)
    weights = [n**0.3 for n in TOKENS]
    expected = [w / sum(weights) for w in weights]
    assert alpha_probabilities(TOKENS, 0.3) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.7, 1.0])
def test_shares_match_probabilities_to_one_percent(alpha: float) -> None:
    expected = np.array(alpha_probabilities(TOKENS[:4], alpha))
    draw = SourceDraw([MixturePhase(0, tuple(expected))], seed=4)
    count = 100 * DRAW_BLOCK
    shares = np.bincount(draw(0, count), minlength=4) / count
    frequent = expected * count > 300  # below, one row is a third of a percent
    assert frequent.sum() >= 3
    assert abs(shares / expected - 1)[frequent].max() < 0.01


def test_shares_of_each_block_are_exact_to_two_rows() -> None:
    expected = np.array([0.5, 0.3, 0.15, 0.05])
    draw = SourceDraw([MixturePhase(0, tuple(expected))], seed=0)
    for block in range(5):
        counts = np.bincount(draw(block * DRAW_BLOCK, DRAW_BLOCK), minlength=4)
        assert abs(counts - expected * DRAW_BLOCK).max() <= 2


def test_order_inside_a_block_is_random() -> None:
    draws = SourceDraw([MixturePhase(0, (0.5, 0.5))], seed=0)(0, 8 * DRAW_BLOCK)
    repeats = float(np.mean(draws[1:] == draws[:-1]))
    assert 0.48 < repeats < 0.52
    other = SourceDraw([MixturePhase(0, (0.5, 0.5))], seed=1)(0, 8 * DRAW_BLOCK)
    assert 0.48 < float(np.mean(draws == other)) < 0.52


@given(st.integers(0, 3 * DRAW_BLOCK), st.integers(1, 2 * DRAW_BLOCK))
def test_a_draw_depends_on_its_position_alone(start: int, count: int) -> None:
    phases = [MixturePhase(0, (0.2, 0.8)), MixturePhase(5000, (0.9, 0.1))]
    everything = SourceDraw(phases, seed=2)(0, 5 * DRAW_BLOCK)
    assert np.array_equal(SourceDraw(phases, seed=2)(start, count), everything[start:][:count])


def test_phases_switch_at_their_row() -> None:
    phases = [
        MixturePhase(0, (1.0, 0.0, 0.0)),
        MixturePhase(10, (0.0, 1.0, 0.0)),
        MixturePhase(11, (0.0, 0.0, 1.0)),
    ]
    assert SourceDraw(phases, seed=0)(8, 5).tolist() == [0, 0, 1, 2, 2]


def test_a_source_without_probability_is_never_drawn() -> None:
    draw = SourceDraw([MixturePhase(0, (0.0, 0.5, 0.0, 0.5, 0.0))], seed=0)
    assert set(draw(0, 50_000).tolist()) == {1, 3}
