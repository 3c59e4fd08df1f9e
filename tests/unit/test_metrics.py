"""Metrics against a count of pairs, and at the edges of their definition."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amsrc.errors import DataError
from bench.evaluation.metrics import auroc, average_precision, equal_error, macro_auroc, pooled, pooled_auroc, stretches

FRAMES = st.lists(st.tuples(st.integers(-4, 4), st.integers(0, 1)), min_size=2, max_size=40)


def pair_count(scores, labels):
    """Share of (abnormal, normal) pairs in the right order; ties count half."""
    pairs = [
        (a, b)
        for a, la in zip(scores, labels, strict=True)
        if la
        for b, lb in zip(scores, labels, strict=True)
        if not lb
    ]
    return sum(1.0 if a > b else 0.5 if a == b else 0.0 for a, b in pairs) / len(pairs)


@settings(deadline=None)
@given(FRAMES)
def test_auroc_is_the_share_of_pairs_in_the_right_order(frames):
    scores, labels = zip(*frames, strict=True)
    if len(set(labels)) == 1:
        assert auroc(scores, labels) is None
    else:
        assert auroc(scores, labels) == pytest.approx(pair_count(scores, labels), abs=1e-12)


def test_auroc_keeps_its_value_under_a_rising_map():
    rng = np.random.default_rng(0)
    scores, labels = rng.normal(size=500), rng.integers(0, 2, 500)
    assert auroc(50 * scores - 3, labels) == auroc(scores, labels)
    assert auroc(-scores, labels) == pytest.approx(1 - auroc(scores, labels))


def test_constant_scores_are_worth_a_half():
    assert auroc(np.full(10, 1e9), [0] * 4 + [1] * 6) == 0.5


def test_scores_closer_than_float32_can_tell_are_not_ties():
    assert auroc(np.array([1.0, 1.0 + 1e-12]), [0, 1]) == 1.0


def test_pooled_compares_frames_across_videos():
    scores = {"b": np.array([5.0, 6.0]), "a": np.array([0.0, 1.0])}
    labels = {"a": np.array([0, 1]), "b": np.array([0, 1])}
    assert pooled_auroc(scores, labels) == 0.75
    assert pooled(scores, labels)[0].tolist() == [0, 1, 5, 6]


def test_macro_leaves_out_videos_of_one_class_and_says_how_many_are_left():
    scores = {"a": [0.0, 1.0], "b": [1.0, 0.0], "c": [3.0, 4.0]}
    labels = {"a": [0, 1], "b": [0, 1], "c": [1, 1]}
    assert macro_auroc(scores, labels) == (0.5, 2)
    assert macro_auroc({"c": scores["c"]}, {"c": labels["c"]}) == (None, 0)


def test_average_precision_by_hand():
    assert average_precision([4, 3, 2, 1], [1, 0, 1, 0]) == pytest.approx((1 / 1 + 2 / 3) / 2)
    assert average_precision([1.0, 2.0], [1, 1]) is None


def test_equal_error_by_hand():
    """Thresholds 4, 3, 2, 1: false alarms 0, 1/2, 1/2, 1, misses 1/2, 1/2, 0, 0: equal at 3, with one of two found."""
    assert equal_error([4, 3, 2, 1], [1, 0, 1, 0]) == (0.5, 0.5)
    assert equal_error([4, 3, 2, 1], [1, 1, 0, 0]) == (0.0, 1.0)
    assert equal_error([1, 2, 3, 4], [1, 1, 0, 0]) == (1.0, 0.0)


def test_equal_error_lies_on_the_line_between_two_points():
    """False alarms and misses go from (0, 2/3) to (1, 0): equal at 2/5; closest at the upper point, F1 2 / (1 + 3)."""
    rate, f1 = equal_error([9, 5, 5, 5, 5], [1, 1, 1, 0, 0])
    assert (rate, f1) == (pytest.approx(0.4), pytest.approx(2 / 4))


def test_a_constant_score_errs_on_half_and_calls_every_frame_abnormal():
    rate, f1 = equal_error(np.ones(10), [0] * 2 + [1] * 8)
    assert (rate, f1) == (pytest.approx(0.5), pytest.approx(16 / 18))
    assert equal_error([1.0, 2.0], [1, 1]) == (None, None)


@settings(deadline=None)
@given(FRAMES)
def test_equal_error_is_where_the_roc_curve_meets_its_diagonal(frames):
    from sklearn.metrics import f1_score, roc_curve

    scores, labels = map(np.array, zip(*frames, strict=True))
    if len(set(labels.tolist())) == 1:
        return
    rate, f1 = equal_error(scores, labels)
    false, hit, thresholds = roc_curve(labels, scores, drop_intermediate=False)
    assert any(_between((rate, 1 - rate), ends) for ends in pairwise(zip(false, hit, strict=True)))
    nearest = np.abs(false[1:] - (1 - hit[1:]))
    threshold = thresholds[1:][np.flatnonzero(nearest <= nearest.min() + 1e-12)[0]]
    assert f1 == pytest.approx(f1_score(labels, scores >= threshold))
    assert equal_error(50 * scores - 3, labels) == (rate, f1)


def _between(point, ends):
    """Whether a point lies on the straight line between two others: as far from both together as they are apart."""
    start, end = map(np.array, ends)
    apart = np.linalg.norm(point - start) + np.linalg.norm(point - end)
    return apart == pytest.approx(np.linalg.norm(end - start), abs=1e-9)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_score_that_is_not_finite_is_refused_with_its_place(bad):
    for measure in (pooled_auroc, macro_auroc):
        with pytest.raises(DataError, match=r"video b: score 1 is .*must be finite"):
            measure({"a": [0.0], "b": [0.0, bad]}, {"a": [0], "b": [0, 1]})


def test_lengths_labels_and_videos_must_fit():
    with pytest.raises(DataError, match=r"\(3,\) scores for \(2,\) labels"):
        auroc([1, 2, 3], [0, 1])
    with pytest.raises(DataError, match="labels must be 0"):
        auroc([1, 2], [0, 255])
    with pytest.raises(DataError, match="only one of them has: b"):
        macro_auroc({"a": [1.0]}, {"a": [1], "b": [0]})


def test_no_frames_have_no_auroc():
    assert pooled_auroc({}, {}) is None


@pytest.mark.parametrize(("labels", "expected"), [([], []), ([1, 1], [(0, 2)]), ([0, 1, 0, 1, 1], [(1, 2), (3, 5)])])
def test_stretches(labels, expected):
    assert stretches(np.array(labels, np.uint8)) == expected
