"""Detection of regions and tracks, by hand."""

import numpy as np
import pytest

from bench.evaluation.rbdc import Boxes, area, curve, detection_areas, overlaps


def test_overlaps_by_hand():
    ours = np.array([[0, 0, 2, 2], [0, 0, 2, 2], [0, 0, 2, 2], [1, 1, 1, 1]], float)
    theirs = np.array([[0, 0, 2, 2], [1, 0, 3, 2], [2, 2, 4, 4], [1, 1, 1, 1]], float)
    np.testing.assert_allclose(overlaps(ours, theirs), [1, 2 / 6, 0, 0])


def boxes(*rows):
    """Rows of frame, x0, y0, x1, y1, score."""
    table = np.array(rows, float).reshape(-1, 6)
    return Boxes(table[:, 0].astype(int), table[:, 1:5], table[:, 5])


ONE = np.array([[0, 0, 0, 10, 10, 0], [1, 0, 0, 10, 10, 0], [2, 0, 0, 10, 10, 0], [2, 50, 50, 60, 60, 1]], np.int32)


def test_both_areas_by_hand():
    """Four regions of two tracks in four frames; false positives at 0.8 and 0.5.

    Thresholds from the top: 0.9 finds one region and track 0 (a tenth of three regions is one); 0.8 has 1/4 false
    positives a frame; 0.7 finds a second region; 0.5 has 2/4; nothing ever finds the region in frame 2, track 1.
    """
    found = boxes(
        (0, 0, 0, 10, 10, 0.9),
        (0, 30, 30, 40, 40, 0.8),
        (1, 0, 0, 10, 10, 0.7),
        (3, 0, 0, 10, 10, 0.5),
        (2, 0, 0, 10, 0.9, 0.4),  # an intersection over union of 0.09
    )
    rbdc, tbdc = detection_areas({"01": found}, {"01": ONE}, frames=4)
    # (0, 1/4), (1/4, 1/4), (1/4, 2/4), (2/4, 2/4), (3/4, 2/4) with the 0.4 false as well, then straight on to 1
    assert rbdc == pytest.approx(0.25 * 0.25 + 0.75 * 0.5)
    assert tbdc == pytest.approx(0.5)


def test_an_overlap_of_a_tenth_is_enough_and_one_box_may_find_two_regions():
    two = np.array([[0, 0, 0, 10, 10, 0], [0, 0, 10, 10, 20, 1]], np.int32)
    assert detection_areas({"v": boxes((0, 0, 9, 10, 11, 0.5))}, {"v": two}, 1) == (0.0, 0.0)  # 10 of 110 pixels each
    assert detection_areas({"v": boxes((0, 0, 0, 10, 1, 0.5))}, {"v": two}, 1)[0] == 0.5  # 10 of 100
    assert detection_areas({"v": boxes((0, 0, 5, 10, 15, 0.5))}, {"v": two}, 1) == (1.0, 1.0)


def test_a_track_is_found_with_a_tenth_of_its_regions_rounded_up():
    long = np.array([[n, 0, 0, 10, 10, 0] for n in range(11)], np.int32)
    once = boxes((0, 0, 0, 10, 10, 0.5))
    twice = boxes((0, 0, 0, 10, 10, 0.5), (1, 0, 0, 10, 10, 0.4))
    assert detection_areas({"v": once}, {"v": long[:10]}, 11)[1] == 1.0
    assert detection_areas({"v": once}, {"v": long}, 11)[1] == 0.0
    assert detection_areas({"v": twice}, {"v": long}, 11)[1] == 1.0


def test_three_regions_of_thirty_are_a_tenth_of_them():
    """In binary, a tenth times 30 is more than 3."""
    long = np.array([[n, 0, 0, 10, 10, 0] for n in range(30)], np.int32)
    found = boxes(*[(n, 0, 0, 10, 10, 0.5) for n in range(3)])
    assert detection_areas({"v": found}, {"v": long}, 30)[1] == 1.0


def test_regions_of_one_track_number_in_two_videos_are_two_tracks():
    both = {"a": ONE[:1], "b": ONE[:1]}
    assert detection_areas({"a": boxes((0, 0, 0, 10, 10, 1)), "b": boxes()}, both, 2) == (0.5, 0.5)


def test_a_box_that_finds_nothing_is_false_even_where_nothing_is_abnormal():
    empty = np.zeros((0, 6), np.int32)
    found = {"a": boxes((0, 0, 0, 10, 10, 0.5)), "b": boxes((0, 0, 0, 10, 10, 0.9))}
    rbdc, _ = detection_areas(found, {"a": ONE[:1], "b": empty}, frames=2)
    assert rbdc == pytest.approx(0.5)  # nothing up to half a false positive a frame, then everything
    assert detection_areas({"b": found["b"]}, {"b": empty}, 1) == (None, None)


def test_the_curve_is_cut_where_one_false_positive_a_frame_is_reached():
    rate, share = curve(np.array([0.5, 0.5]), np.array([0.5, 0.5, 0.5, 0.5]), frames=2)
    assert (rate.tolist(), share.tolist()) == ([0.0, 2.0], [0.0, 1.0])
    assert area(rate, share) == pytest.approx(0.25)  # equal scores: a straight line, half of it, half as high


def test_areas_depend_on_the_order_of_the_scores_alone():
    rng = np.random.default_rng(3)
    rows = np.column_stack([rng.integers(0, 3, 30), np.tile([0, 0, 10, 10], (30, 1)), rng.random(30)])
    rows[::2, 1:5] += 40
    plain = detection_areas({"v": boxes(*rows)}, {"v": ONE}, 4)
    rows[:, 5] = np.exp(3 * rows[:, 5]) - 7
    assert detection_areas({"v": boxes(*rows[::-1])}, {"v": ONE}, 4) == plain
    assert 0 < plain[0] < 1
