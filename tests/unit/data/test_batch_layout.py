import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megaxlm.data.batch_layout import BatchLayout, BatchSchedule
from megaxlm.errors import UserError


@pytest.mark.parametrize(
    ("total", "micro", "world", "hint"),
    [(100, 8, 4, "multiple of 32 (96 or 128)"), (8, 8, 4, "multiple of 32 (32)")],
)
def test_a_batch_that_does_not_divide(total: int, micro: int, world: int, hint: str) -> None:
    with pytest.raises(UserError, match=f"global_batch_size {total} does not divide") as caught:
        BatchLayout(total, micro, 0, world)
    assert hint in str(caught.value) and "\n" not in str(caught.value)


@given(st.integers(1, 6), st.integers(1, 5), st.integers(1, 4))
def test_layouts_deal_out_every_row_once(micro: int, world: int, steps: int) -> None:
    total = micro * world * steps
    dealt = [BatchLayout(total, micro, rank, world).own_rows() for rank in range(world)]
    assert np.array_equal(np.sort(np.concatenate(dealt, axis=None)), np.arange(total))


def test_a_warmup_phase_that_does_not_divide_is_named() -> None:
    final = BatchLayout(64, 8, 0, 4)
    with pytest.raises(UserError, match="batch_size_warmup.1.global_batch_size 48") as caught:
        BatchSchedule.of(32, final, [(100, 32), (200, 48)])
    assert "multiple of 32 (32 or 64)" in str(caught.value)


def test_a_phase_holds_while_fewer_tokens_have_been_seen() -> None:
    schedule = BatchSchedule.of(32, BatchLayout(64, 8, 1, 2), [(32 * 10, 16), (32 * 20 + 1, 32)])
    sizes = {row: schedule.at(row).global_batch_size for row in (0, 9, 10, 20, 21, 10**12)}
    assert sizes == {0: 16, 9: 16, 10: 32, 20: 32, 21: 64, 10**12: 64}
    assert [schedule.at(row).grad_accum_steps for row in (0, 10, 21)] == [1, 2, 4]
    assert schedule.at(0).rank == 1
