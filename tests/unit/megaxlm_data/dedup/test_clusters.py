import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from megaxlm_data.dedup import clusters as module
from megaxlm_data.dedup.clusters import Clusters


def expected(documents, pairs):
    label = list(range(documents))
    changed = True
    while changed:
        changed = False
        for a, b in pairs:
            if label[a] != label[b]:
                label[a] = label[b] = min(label[a], label[b])
                changed = True
    return label


@settings(max_examples=150, deadline=None)
@given(
    st.integers(1, 30).flatmap(
        lambda n: st.tuples(
            st.just(n),
            st.lists(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)), max_size=40),
        )
    ),
    st.integers(1, 50),
    st.randoms(use_true_random=False),
)
def test_the_first_document_is_the_root_whatever_the_order_and_pieces(case, piece, rng):
    documents, pairs = case
    shuffled = list(pairs)
    rng.shuffle(shuffled)
    clusters = Clusters(documents)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_PIECE", piece)
        array = np.array(shuffled, np.int64).reshape(-1, 2)
        clusters.unite(array[:, 0], array[:, 1])
    assert clusters.roots(np.arange(documents)).tolist() == expected(documents, pairs)


@pytest.mark.parametrize("forward", [True, False])
def test_a_long_chain_takes_few_steps(forward, monkeypatch):
    count, steps = 200_000, [0]
    clusters = Clusters(count)
    real = np.array_equal
    monkeypatch.setattr(
        np, "array_equal", lambda a, b: (steps.__setitem__(0, steps[0] + 1), real(a, b))[1]
    )
    one, other = np.arange(count - 1), np.arange(1, count)
    clusters.unite(one, other) if forward else clusters.unite(other[::-1], one[::-1])
    assert (clusters.roots(np.arange(count)) == 0).all()
    assert steps[0] < 60


def test_four_bytes_a_document_up_to_the_32nd_bit():
    assert Clusters(1000)._parent.nbytes == 4000
