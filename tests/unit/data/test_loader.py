import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megaxlm.data.loader import BatchLayout
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
