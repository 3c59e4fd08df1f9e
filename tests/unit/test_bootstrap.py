"""Bootstrap intervals: exact under each draw, the same on every machine, paired where two methods are compared."""

import numpy as np
import pytest

from amsrc.errors import DataError
from bench.evaluation import bootstrap
from bench.evaluation.bootstrap import auroc_interval, difference, draws, ranked
from bench.evaluation.metrics import pooled_auroc


def made_up(seed=0, videos=7, ahead=1.0):
    """Scores with ties and labels of some videos, the last all normal."""
    rng = np.random.default_rng(seed)
    labels = {f"{n}": rng.integers(0, 2, rng.integers(5, 30)) for n in range(videos)}
    labels[f"{videos - 1}"][:] = 0
    return {video: (rng.normal(size=len(own)) + ahead * own).round(1) for video, own in labels.items()}, labels


def drawn_aurocs(scores, labels):
    return ranked(scores, labels).aurocs(draws(len(labels)))


def test_a_draw_of_every_video_once_is_the_pooled_auroc():
    scores, labels = made_up()
    once = ranked(scores, labels).aurocs(np.ones((1, 7)))
    assert once[0] == pytest.approx(pooled_auroc(scores, labels), abs=1e-12)


def test_each_draw_is_the_auroc_of_the_videos_it_drew():
    scores, labels = made_up()
    drawn, times = drawn_aurocs(scores, labels), draws(7)
    assert times.shape == (bootstrap.DRAWS, 7) and (times.sum(1) == 7).all()
    for number in range(50):
        names = [f"{video}.{copy}" for video in range(7) for copy in range(int(times[number, video]))]
        again = pooled_auroc(*({name: kind[name[0]] for name in names} for kind in (scores, labels)))
        assert drawn[number] == pytest.approx(again, abs=1e-12)


def test_the_interval_is_that_of_the_percentiles_and_does_not_change():
    scores, labels = made_up()
    low, high = auroc_interval([scores], labels)
    assert (low, high) == auroc_interval([scores], labels)
    np.testing.assert_allclose([low, high], np.percentile(drawn_aurocs(scores, labels), [2.5, 97.5]))
    assert low < pooled_auroc(scores, labels) < high


def test_the_interval_of_seeds_is_that_of_their_mean():
    runs = [made_up(seed=0)[0], made_up(seed=0, ahead=2.0)[0]]
    labels = made_up(seed=0)[1]
    mean = np.mean([drawn_aurocs(scores, labels) for scores in runs], axis=0)
    assert auroc_interval(runs, labels) == pytest.approx(np.percentile(mean, [2.5, 97.5]))


def test_draws_without_one_of_the_classes_do_not_count():
    scores, labels = {"a": [0.0, 1.0], "b": [0.5, 0.2]}, {"a": [0, 1], "b": [0, 0]}
    drawn = drawn_aurocs(scores, labels)
    assert 0.2 < np.isnan(drawn).mean() < 0.3  # b twice: one in four
    assert auroc_interval([scores], labels) == (1.0, 1.0)


def test_one_video_or_one_class_has_no_interval():
    assert auroc_interval([{"a": [0.0, 1.0]}], {"a": [0, 1]}) is None
    assert auroc_interval([{"a": [0.0], "b": [1.0]}], {"a": [1], "b": [1]}) is None
    assert auroc_interval([{}], {}) is None


def test_a_difference_is_paired():
    scores, labels = made_up(videos=12)
    better = {video: own + 0.3 * labels[video] for video, own in scores.items()}
    found = difference([better], [scores], labels)
    assert found.mean == pytest.approx(pooled_auroc(better, labels) - pooled_auroc(scores, labels))
    assert found.is_real and 0 < found.low < found.mean < found.high
    low, high = auroc_interval([scores], labels)
    assert found.high - found.low < (high - low) / 2, "what both share in a draw cancels out"
    opposite = difference([scores], [better], labels)
    assert (opposite.low, opposite.high) == pytest.approx((-found.high, -found.low))


def test_a_method_does_not_differ_from_itself():
    scores, labels = made_up()
    moved = {video: 3 * own + 1 for video, own in scores.items()}
    same = difference([scores], [moved], labels)
    assert (same.mean, same.low, same.high) == pytest.approx((0, 0, 0), abs=1e-12)
    assert difference([{"a": [0.0, 1.0]}], [{"a": [0.0, 1.0]}], {"a": [0, 1]}) is None


def test_other_videos_are_refused():
    scores, labels = made_up()
    with pytest.raises(DataError, match="only one of them has: 6"):
        auroc_interval([{video: own for video, own in scores.items() if video != "6"}], labels)
