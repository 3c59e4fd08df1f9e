"""The counts behind every ROC figure against a count of pairs, and against scikit-learn."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score, roc_curve

from amsrc.errors import DataError
from bench.evaluation.roc import aurocs, count, rank
from tests.parity.test_selection import slow_auroc

unhurried = settings(deadline=None)  # a busy machine is not a failure
ROWS = st.lists(
    st.tuples(st.one_of(st.integers(-3, 3).map(float), st.floats(allow_nan=False, allow_infinity=False, width=32)),
              st.integers(0, 1)),
    min_size=1, max_size=40,
)  # fmt: skip


def made(values: int, rows: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Rows of scores of which at most so many differ, both zeros among them, and labels, a fifth of them 1."""
    random = np.random.default_rng(values)
    scores = ((random.integers(0, values, (rows, 3000)) - values // 2) * np.float32(0.37)).astype(np.float32)
    scores[0, ::2] *= np.float32(-0.0)
    return scores, (random.random(3000) < 0.2).astype(np.uint8)


@unhurried
@given(ROWS)
def test_auroc_equals_the_count_of_pairs(frames: list[tuple[float, int]]) -> None:
    scores, labels = np.array([s for s, _ in frames], np.float32), np.array([label for _, label in frames], np.uint8)
    expected = slow_auroc(scores, labels)
    there, back = aurocs(np.stack([scores, -scores]), labels)
    if expected is None:
        assert np.isnan([there, back]).all()
        assert count(scores.astype(np.float64), labels).auroc() is None
    else:
        assert there == float(expected) and back == float(1 - expected)
        assert count(scores.astype(np.float64), labels).auroc() == float(expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("values", [1, 2, 5, 300, 10**6])
def test_area_and_curve_equal_scikit_learn_however_many_scores_tie(values: int, dtype: type[np.floating]) -> None:
    scores, labels = made(values)
    expected = [roc_auc_score(labels, row) for row in scores]
    np.testing.assert_allclose(aurocs(scores, labels), expected, rtol=0, atol=1e-12)
    for row, area in zip(scores.astype(dtype), expected, strict=True):
        found = count(row, labels)
        assert found.auroc() == pytest.approx(area, abs=1e-12)
        np.testing.assert_allclose(found.curve(), roc_curve(labels, row, drop_intermediate=False)[:2], atol=1e-12)


def test_extreme_scores_are_ranked() -> None:
    edges = np.finfo(np.float32)
    row = np.array([edges.min, -1, -edges.smallest_subnormal, 0.0, edges.smallest_subnormal, 1, edges.max], np.float32)
    labels = np.array([0, 1, 0, 1, 0, 1, 1])
    rows = np.stack([row, row[::-1]])
    assert aurocs(rows, labels).tolist() == [slow_auroc(each, labels) for each in rows]
    assert count(np.array([1.0, 1.0 + 1e-12]), labels[:2]).auroc() == 1.0, "no tie in float64"


def test_a_weighted_video_counts_as_often_as_its_weight_says() -> None:
    scores, labels = made(50, rows=1)
    video = np.repeat(np.arange(4), [700, 0, 1300, 1000])
    ranking = rank(scores[0], labels, video)
    for times in ([1, 1, 1, 1], [2, 0, 0, 1], [0, 5, 3, 0]):
        frames = np.repeat(np.arange(3000), np.array(times)[video])
        found, expected = ranking.counts(np.array(times, np.float64)), count(scores[0][frames], labels[frames])
        area = roc_auc_score(labels, scores[0], sample_weight=np.array(times)[video])
        assert found.auroc() == expected.auroc() == pytest.approx(area, abs=1e-12)
        assert found.equal_error() == expected.equal_error()
    drawn = np.random.default_rng(0).integers(0, 4, (100, 4)).astype(np.float64)
    drawn[0] = 0
    one_by_one = np.array([ranking.counts(times).auroc() for times in drawn], np.float64)
    np.testing.assert_array_equal(ranking.aurocs(drawn), one_by_one)
    assert np.isnan(one_by_one[0])


@pytest.mark.parametrize("labels", [[], [0, 0], [1, 1]])
def test_one_class_has_no_area_and_no_equal_error(labels: list[int]) -> None:
    scores, truth = np.zeros((2, len(labels)), np.float32), np.array(labels, np.int64)
    assert np.isnan(aurocs(scores, truth)).tolist() == [True, True]
    assert aurocs(scores[:0], truth).shape == (0,)
    assert count(scores[0], truth).auroc() is None
    assert count(scores[0], truth).equal_error() == (None, None)
    ranking = rank(scores[0], truth, np.zeros(len(labels), np.int64))
    assert np.isnan(ranking.aurocs(np.ones((1, 1)))).all()


def test_scores_and_labels_that_cannot_be_ranked_are_errors() -> None:
    with pytest.raises(DataError, match="not finite"):
        aurocs(np.array([[0.0, np.nan]], np.float32), np.array([0, 1]))
    with pytest.raises(DataError, match=r"found \[0, 255\]"):
        aurocs(np.zeros((1, 2), np.float32), np.array([0, 255]))
