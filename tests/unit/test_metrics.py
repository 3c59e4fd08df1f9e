"""Metrics against a count of pairs, and at the edges of their definition."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amsrc.errors import DataError
from bench.metrics import auroc, average_precision, macro_auroc, pooled, pooled_auroc

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


@settings(deadline=None)  # the first call imports scikit-learn
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
