import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megaxlm.config.pretrain import MaskingConfig
from megaxlm.data.masking import Masker, targets_per_row
from megaxlm.data.special_tokens import BOS, EOS, PAD, UNK
from megaxlm.errors import UserError

VOCAB_SIZE = 1000
MASK = VOCAB_SIZE - 1


def masker(seq_len: int, seed: int = 0, **masking: float) -> Masker:
    return Masker(MaskingConfig(**masking), seq_len, VOCAB_SIZE, seed)


def text(rows: int, seq_len: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(4, MASK, (rows, seq_len))


@given(st.integers(8, 70), st.integers(1, 6), st.floats(0.1, 0.9), st.data())
def test_exact_number_of_targets_on_text_alone(
    seq_len: int, rows: int, probability: float, data: st.DataObject
) -> None:
    ids = st.sampled_from([BOS, PAD, EOS, UNK, MASK, 4, 5, 77, MASK - 1])
    row = st.lists(ids, min_size=seq_len, max_size=seq_len)
    tokens = np.array(data.draw(st.lists(row, min_size=rows, max_size=rows)))
    masking = masker(seq_len, mlm_probability=probability)
    result = masking(tokens, np.arange(rows))
    wanted = round(probability * seq_len)
    assert masking.targets_per_row == wanted
    assert np.bincount(result.target_index // seq_len, minlength=rows).tolist() == [wanted] * rows
    assert (np.diff(result.target_index) > 0).all()
    assert np.array_equal(result.targets, tokens.reshape(-1)[result.target_index])
    special = (result.targets < 4) | (result.targets == MASK)
    assert not result.target_weight[special].any()
    maskable = ((tokens >= 4) & (tokens != MASK)).sum(axis=1)
    placed = result.target_weight.reshape(rows, wanted).sum(axis=1)
    warranted = np.maximum(1, np.rint(probability * (tokens != PAD).sum(axis=1)))
    assert np.array_equal(placed, np.minimum(maskable, np.minimum(wanted, warranted)))
    changed = np.flatnonzero(result.tokens.reshape(-1) != tokens.reshape(-1))
    assert set(changed) <= set(result.target_index[result.target_weight > 0])


def test_80_10_10() -> None:
    tokens = text(2000, 64)
    result = masker(64, mlm_probability=0.25)(tokens, np.arange(2000))
    seen = result.tokens.reshape(-1)[result.target_index]
    masked = seen == MASK
    kept = seen == result.targets
    replaced = ~masked & ~kept
    assert masked.mean() == pytest.approx(0.8, abs=0.01)
    assert kept.mean() == pytest.approx(0.1, abs=0.01)
    assert replaced.mean() == pytest.approx(0.1, abs=0.01)
    pieces = seen[replaced]
    assert pieces.min() >= 4 and pieces.max() < MASK
    assert pieces.min() < 20 and pieces.max() > MASK - 16
    assert pieces.mean() == pytest.approx((4 + MASK - 1) / 2, rel=0.03)


def test_shares_of_the_rule_come_from_the_config() -> None:
    tokens = text(50, 64)
    all_masked = masker(64, mask_token_share=1.0, random_token_share=0.0)(tokens, np.arange(50))
    assert (all_masked.tokens.reshape(-1)[all_masked.target_index] == MASK).all()
    kept = masker(64, mask_token_share=0.0, random_token_share=0.0)(tokens, np.arange(50))
    assert np.array_equal(kept.tokens, tokens)
    assert np.array_equal(kept.target_index, all_masked.target_index)


def test_every_place_is_chosen_equally_often() -> None:
    result = masker(32)(text(20_000, 32), np.arange(20_000))
    share = np.bincount(result.target_index % 32, minlength=32) / 20_000
    assert abs(share / (5 / 32) - 1).max() < 0.08


@given(st.permutations(range(6)), st.integers(0, 1000))
def test_mask_belongs_to_seed_and_row_not_to_the_batch(order: list[int], first: int) -> None:
    tokens = text(6, 40)
    together = masker(40, seed=3)(tokens, first + np.arange(6))
    chosen = np.array(order)
    shuffled = masker(40, seed=3)(tokens[chosen], first + chosen)
    assert np.array_equal(shuffled.tokens, together.tokens[chosen])
    alone = masker(40, seed=3)(tokens[2:3], first + np.array([2]))
    assert np.array_equal(alone.tokens[0], together.tokens[2])


def test_another_seed_or_row_is_another_mask() -> None:
    tokens = np.repeat(text(1, 64), 2, axis=0)
    one = masker(64, seed=1)(tokens, np.array([5, 6]))
    two = masker(64, seed=2)(tokens, np.array([5, 6]))
    assert not np.array_equal(one.target_index, two.target_index)
    assert not np.array_equal(one.tokens[0], one.tokens[1])


def test_input_is_left_alone() -> None:
    tokens = text(2, 32)
    before = tokens.copy()
    masker(32)(tokens, np.arange(2))
    assert np.array_equal(tokens, before)


def test_nothing_to_predict_is_an_error() -> None:
    with pytest.raises(UserError, match="masking.mlm_probability 0.01 of data.seq_len 16"):
        targets_per_row(MaskingConfig(mlm_probability=0.01), 16)


def test_a_part_filled_row_is_masked_no_denser_than_a_full_one() -> None:
    seq_len, own = 128, 32
    masking = masker(seq_len, seed=1, mlm_probability=0.25)
    rows = np.full((50, seq_len), PAD, np.int64)
    rows[:, :own] = np.random.default_rng(0).integers(4, 900, (50, own))
    rows[:, 0], rows[:, own - 1] = BOS, EOS
    masked = masking(rows, np.arange(50))
    weights = masked.target_weight.reshape(50, -1)
    assert weights.shape == (50, 32)
    assert (weights.sum(1) == 8).all()
    changed = (masked.tokens != rows).sum(1)
    assert (changed <= 8).all() and changed.mean() > 6  # a tenth is left as it is
    full = rows.copy()
    full[:] = np.random.default_rng(1).integers(4, 900, full.shape)
    assert (masking(full, np.arange(50)).target_weight == 1).all()
