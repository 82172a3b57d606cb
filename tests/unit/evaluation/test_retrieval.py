"""Retrieval accuracy against hand-made cases and a brute-force margin."""

import numpy as np
import pytest

import megaxlm.evaluation.retrieval as retrieval
from megaxlm.errors import EXIT_FOUND_WRONG, UserError
from megaxlm.evaluation.retrieval import PairAccuracy, RetrievalReport, retrieval_accuracy


def _random(seed: int, rows: int = 30, hidden: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, hidden)).astype(np.float32)


def _brute_force_margin(source: np.ndarray, target: np.ndarray, k: int) -> tuple[float, float]:
    """The definition, one score at a time in float64."""

    def cosine(a: np.ndarray, b: np.ndarray) -> float:
        return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))

    x, y = source.astype(np.float64), target.astype(np.float64)
    n = len(x)
    near_x = [sum(sorted(cosine(a, b) for b in y)[-k:]) / (2 * k) for a in x]
    near_y = [sum(sorted(cosine(a, b) for a in x)[-k:]) / (2 * k) for b in y]
    scores = [[cosine(x[i], y[j]) / (near_x[i] + near_y[j]) for j in range(n)] for i in range(n)]
    table = np.array(scores)
    own = np.arange(n)
    return (
        float((table.argmax(axis=1) == own).mean()),
        float((table.argmax(axis=0) == own).mean()),
    )


@pytest.mark.parametrize("scoring", ["cosine", "margin"])
def test_perfect_alignment_is_one_whatever_the_scale(scoring: retrieval.Scoring) -> None:
    source = _random(0)
    scale = np.linspace(0.1, 50, len(source), dtype=np.float32)[:, None]
    assert retrieval_accuracy(source, source * scale, scoring) == (1.0, 1.0)


@pytest.mark.parametrize("scoring", ["cosine", "margin"])
def test_shuffled_lines_score_the_fixed_points(scoring: retrieval.Scoring) -> None:
    source = _random(1, rows=20)
    order = np.arange(20)
    order[:15] = np.roll(order[:15], 1)  # 5 of 20 stay where they belong
    assert retrieval_accuracy(source, source[order], scoring) == (0.25, 0.25)


def test_directions_differ_and_are_counted_by_hand() -> None:
    source = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]], dtype=np.float32)
    target = np.array([[1.0, 0.0], [0.5, 0.5], [0.1, 1.0]], dtype=np.float32)
    # Forward: row 1 is nearer to target 0 (cosine 0.994) than to its own (0.781): 2 of 3.
    # Backward: target 1 is nearest to source 1 (0.781 > 0.707): 3 of 3.
    assert retrieval_accuracy(source, target, "cosine") == (pytest.approx(2 / 3), 1.0)


def test_margin_undoes_a_hub_that_the_cosine_falls_for() -> None:
    n = 6
    common = np.zeros((1, 2 * n + 1), dtype=np.float32)
    common[0, -1] = 1
    shared, private = np.eye(n, 2 * n + 1), np.eye(n, 2 * n + 1, k=n)
    source = shared + common
    target = 0.5 * shared + private
    target[0] = common  # a target that is close to every source
    # Cosines: own 0.5 / sqrt(2 * 1.25) = 0.316, hub 1 / sqrt(2) = 0.707, any other 0. Margins
    # with 4 neighbours: own 0.316 / ((0.256 + 0.079) / 2) = 1.89, hub 0.707 / 0.481 = 1.47.
    assert retrieval_accuracy(source, target, "cosine")[0] == pytest.approx(1 / n)
    assert retrieval_accuracy(source, target, "margin", k=4)[0] == 1.0


@pytest.mark.parametrize("k", [1, 4, 7])
@pytest.mark.parametrize("seed", range(3))
def test_margin_equals_the_definition(seed: int, k: int) -> None:
    source = _random(seed) + 0.8  # cosines around a common direction, as of real encoders
    target = source + 0.7 * _random(seed + 100)
    expected = _brute_force_margin(source, target, k)
    assert 0.1 < expected[0] < 1.0
    assert retrieval_accuracy(source, target, "margin", k) == pytest.approx(expected)


def test_k_beyond_the_candidates_is_all_of_them() -> None:
    source = _random(4, rows=3) + 1.0
    target = source + 0.5 * _random(5, rows=3)
    expected = _brute_force_margin(source, target, 3)
    assert retrieval_accuracy(source, target, "margin", k=50) == pytest.approx(expected)


@pytest.mark.parametrize("scoring", ["cosine", "margin"])
def test_blocks_change_nothing(scoring: retrieval.Scoring, monkeypatch: pytest.MonkeyPatch) -> None:
    source = _random(6, rows=50) + 0.5
    target = source + 0.8 * _random(7, rows=50)
    whole = retrieval_accuracy(source, target, scoring)
    for block_scores in (1, 50 * 7, 50 * 49):  # one row a block, ragged last blocks
        monkeypatch.setattr(retrieval, "_BLOCK_SCORES", block_scores)
        assert retrieval_accuracy(source, target, scoring) == whole


@pytest.mark.parametrize("scoring", ["cosine", "margin"])
def test_a_collapsed_model_scores_chance(scoring: retrieval.Scoring) -> None:
    everywhere_the_same = np.tile(np.array([[0.3, -0.2, 0.9]], dtype=np.float32), (16, 1))
    forward, backward = retrieval_accuracy(everywhere_the_same, everywhere_the_same, scoring)
    assert forward == pytest.approx(1 / 16) and backward == pytest.approx(1 / 16)


def test_two_equal_sentences_share_the_hit() -> None:
    source = np.eye(4, dtype=np.float32)
    source[1] = source[0]  # the same sentence twice
    assert retrieval_accuracy(source, source, "cosine") == (0.75, 0.75)


def test_a_zero_embedding_is_no_error() -> None:
    source = np.eye(3, dtype=np.float32)
    source[2] = 0
    forward, _ = retrieval_accuracy(source, source, "cosine")
    assert forward == pytest.approx((1 + 1 + 1 / 3) / 3)


def test_diverged_embeddings_and_unequal_shapes() -> None:
    bad = _random(0)
    bad[3, 2] = np.nan
    with pytest.raises(UserError, match="not finite") as error:
        retrieval_accuracy(bad, _random(1))
    assert error.value.exit_code == EXIT_FOUND_WRONG
    with pytest.raises(ValueError, match="two equal"):
        retrieval_accuracy(_random(0), _random(1, rows=29))


def test_report_means_and_chance() -> None:
    report = RetrievalReport(
        (
            PairAccuracy("de-en", "de", "en", 200, 0.5, 0.3),
            PairAccuracy("fr-en", "fr", "en", 100, 0.2, 0.4),
        ),
        layer=3,
        scoring="margin",
    )
    assert report.mean == pytest.approx(0.35)
    assert report.chance == pytest.approx((1 / 200 + 1 / 100) / 2)
    content = report.to_json()
    assert content["pairs"]["de-en"]["mean"] == pytest.approx(0.4)
    assert content["pairs"]["fr-en"]["target_to_source"] == 0.4
    assert content["layer"] == 3 and content["scoring"] == "margin"
