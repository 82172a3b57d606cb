import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from megaxlm.checkpoint.fragments import Fragment, whole
from megaxlm.checkpoint.stored import StoredFragment, ordered_cover


def test_fragment_refuses_what_leaves_the_shape():
    with pytest.raises(ValueError, match=r"\[5, 9\) leaves the shape \(2, 4\) of 8 elements"):
        Fragment("model/w", (2, 4), 5, torch.zeros(4))
    with pytest.raises(ValueError, match="leaves the shape"):
        Fragment("model/w", (2, 4), -1, torch.zeros(4))


def test_fragment_refuses_unflat_and_unstorable_tensors():
    with pytest.raises(ValueError, match="2 dims"):
        Fragment("model/w", (2, 4), 0, torch.zeros(2, 4))
    with pytest.raises(ValueError, match="complex64"):
        Fragment("model/w", (4,), 0, torch.zeros(4, dtype=torch.complex64))


def test_whole_flattens_a_transposed_view_row_major():
    tensor = torch.arange(6.0).reshape(2, 3).T  # (3, 2), not contiguous
    fragment = whole("model/w", tensor)
    assert fragment.shape == (3, 2)
    assert fragment.tensor.tolist() == [0, 3, 1, 4, 2, 5]


@pytest.mark.parametrize(
    ("pieces", "problem"),
    [
        ([(0, 4), (5, 3)], r"\[4, 5\) are in no fragment"),
        ([(0, 5), (4, 4)], r"\[4, 5\) are in two fragments"),
        ([(0, 5)], r"\[5, 8\) are in no fragment"),
        ([(1, 7)], r"\[0, 1\) are in no fragment"),
        ([(0, 9)], "fragments reach 9, the tensor has 8"),
        ([(0, 8), (8, 0)], "fragment of 0 elements at 8"),
        ([], r"\[0, 8\) are in no fragment"),
    ],
)
def test_cover_names_gap_and_overlap(pieces, problem):
    stored = [StoredFragment(rank, *piece) for rank, piece in enumerate(pieces)]
    with pytest.raises(ValueError, match=problem):
        ordered_cover("model/w", (2, 4), stored)


@given(st.integers(1, 60), st.sets(st.integers(1, 59)), st.randoms(use_true_random=False))
def test_cover_orders_any_tiling_and_refuses_it_short_of_a_piece(numel, cuts, random):
    bounds = sorted({0, numel, *(cut for cut in cuts if cut < numel)})
    pieces = [
        StoredFragment(rank, low, high - low)
        for rank, (low, high) in enumerate(zip(bounds[:-1], bounds[1:], strict=True))
    ]
    shuffled = random.sample(pieces, len(pieces))
    assert ordered_cover("t", (numel,), shuffled) == tuple(pieces)
    with pytest.raises(ValueError, match="in no fragment"):
        ordered_cover("t", (numel,), shuffled[1:])


def test_scalar_and_empty_tensors_are_tiled():
    assert ordered_cover("t", (), [StoredFragment(0, 0, 1)])
    assert ordered_cover("t", (0, 3), []) == ()
