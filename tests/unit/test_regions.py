"""Regions and tracks of pixel masks, by hand."""

import numpy as np

from bench.data.regions import regions_of


def drawn(*pictures):
    """Masks from strings, a row a line: `#` is abnormal."""
    return [np.array([[char == "#" for char in line] for line in picture.split()]) for picture in pictures]


def test_a_region_is_the_box_of_a_connected_part_and_corners_connect():
    found = regions_of(drawn("#... .#.. ...# ...#"))
    assert found.tolist() == [[0, 0, 0, 2, 2, 0], [0, 3, 2, 4, 4, 1]]
    assert found.dtype == np.int32


def test_parts_that_share_a_pixel_with_the_frame_before_are_one_track():
    found = regions_of(drawn("##... .....", ".#... ....#", "..... ....#"))
    assert found[:, 0].tolist() == [0, 1, 1, 2]
    one, same, other, last = found[:, 5]
    assert one == same != other == last


def test_a_gap_ends_a_track_and_parts_that_join_become_one():
    apart = regions_of(drawn("#.", "..", "#."))
    assert len(set(apart[:, 5].tolist())) == 2
    joined = regions_of(drawn("#.#", "###", "#.#"))
    assert set(joined[:, 5].tolist()) == {0}
    assert len(joined) == 5


def test_nothing_abnormal_has_no_regions():
    assert regions_of(drawn("..", "..")).shape == (0, 6)
    assert regions_of([]).shape == (0, 6)
