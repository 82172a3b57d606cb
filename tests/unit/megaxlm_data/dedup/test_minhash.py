import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from megaxlm_data import native
from megaxlm_data.dedup import minhash
from megaxlm_data.dedup.minhash import (
    EMPTY,
    Shingling,
    band_hashes,
    has_shingles,
    sign,
    sign_in_numpy,
)

SHINGLING = Shingling(5, 10, 120)


def joined(texts):
    raw = [text.encode() for text in texts]
    return np.frombuffer(b"".join(raw), np.uint8), np.cumsum([0, *map(len, raw)])


@pytest.fixture(scope="module")
def compiler():
    if native.find_compiler() is None:
        pytest.skip("no compiler")
    assert minhash._compiled() is not None


CHARACTERS = st.characters(exclude_categories=("Cs",))
TEXTS = st.text(CHARACTERS, max_size=60) | st.text(
    "ab 猫ไ7٣.\n\u200dÉé\U0001f431\U00020001", max_size=80
)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(TEXTS, max_size=8),
    st.integers(1, 7),
    st.integers(1, 12),
    st.sampled_from([1, 7, 8, 31, 32, 33, 120]),
)
@example(["\x00\x85\u2028\ufeff", "7" * 40, "\U0010ffff", "猫" * 3 + "a" * 7], 2, 2, 3)
def test_compiled_signatures_are_numpys(compiler, texts, words, characters, permutations):
    text, offsets = joined(texts)
    shingling = Shingling(words, characters, permutations)
    compiled = sign(text, offsets, shingling)
    assert compiled.shape == (len(texts), permutations)
    assert np.array_equal(compiled, sign_in_numpy(text, offsets, shingling))


def test_pieces_in_numpy_change_nothing(compiler, monkeypatch, make_lines):
    text, offsets = joined([" ".join(make_lines("en", 3, seed)) for seed in range(40)])
    monkeypatch.setattr(minhash, "_PIECE_BYTES", 500)
    monkeypatch.setattr(minhash, "_PIECE_SHINGLES", 7)
    assert np.array_equal(
        sign(text, offsets[5:], SHINGLING), sign_in_numpy(text, offsets[5:], SHINGLING)
    )


def test_without_a_compiler_numpy_signs(monkeypatch, make_lines):
    text, offsets = joined(make_lines("ru", 30, 1))
    expected = sign_in_numpy(text, offsets, SHINGLING)
    monkeypatch.setattr(minhash, "_compiled", lambda: None)
    assert np.array_equal(sign(text, offsets, SHINGLING), expected)


def test_documents_without_a_shingle_are_known():
    signatures = sign(*joined(["a cat", "", "...", "b"]), SHINGLING)
    assert has_shingles(signatures).tolist() == [True, False, False, True]
    assert (signatures[1] == EMPTY).all()


@pytest.mark.parametrize("similarity", [0.3, 0.5, 0.8, 0.95])
def test_the_share_of_agreeing_places_estimates_jaccard(similarity):
    """Its mean is the similarity and its spread that of as many independent throws."""
    rng = np.random.default_rng(3)
    errors = []
    for size in (20, 300):
        shared = max(1, round(2 * size * similarity / (1 + similarity)))
        own = max(0, size - shared)
        true = shared / (shared + 2 * own)
        for _ in range(150):
            hashes = rng.integers(0, 2**32, shared + 2 * own, dtype=np.uint32)
            signatures = np.full((2, 120), EMPTY, np.uint32)
            both = np.concatenate([hashes[: shared + own], hashes[:shared], hashes[shared + own :]])
            minhash._permute(both, np.repeat([0, 1], shared + own), 120, signatures)
            agreeing = np.count_nonzero(signatures[0] == signatures[1])
            errors.append((agreeing / 120 - true) / np.sqrt(true * (1 - true) / 120))
    assert abs(np.mean(errors)) < 4 / np.sqrt(len(errors))
    assert 0.85 < np.std(errors) < 1.15


def test_bands_hash_their_own_places():
    rng = np.random.default_rng(0)
    signatures = rng.integers(0, 2**32, (50, 12), dtype=np.uint32)
    hashes = band_hashes(signatures, 4)
    assert hashes.shape == (50, 4)
    assert len(np.unique(hashes)) == 200
    assert band_hashes(signatures[:0], 4).shape == (0, 4)
    changed = signatures.copy()
    changed[:, 4] += 1
    assert (band_hashes(changed, 4) != hashes).tolist() == [[False, True, False, False]] * 50
    same = np.tile(signatures[:, :3], 4)
    assert len(np.unique(band_hashes(same, 4))) == 200  # equal bands in other places
    swapped = signatures[:, [1, 0, *range(2, 12)]]
    assert (band_hashes(swapped, 4)[:, 0] != hashes[:, 0]).all()
