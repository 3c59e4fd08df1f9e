"""Cutting: neighbours of a frame, short videos, and frames and boxes that must be refused by name.

That the values are right is shown in tests/parity/test_cubes.py.
"""

from collections.abc import Iterator

import numpy as np
import pytest

from amsrc.config import CubeConfig
from amsrc.cubes import Boxes, Flow, Frame, FrameCubes, Moment, cut, moments, once_a_frame
from amsrc.errors import DataError

HEIGHT, WIDTH = 24, 36
CONFIG = CubeConfig(frames=5, size=8)
GOOD = [2.0, 3.0, 20.0, 19.0]


def video(count: int, channels: int = 1, shape: tuple[int, int] = (HEIGHT, WIDTH)) -> list[Frame]:
    """Frame t is of level 10 t."""
    return [np.full((*shape, channels), 10 * t, np.uint8) for t in range(count)]


def flow_of(moment: Moment) -> Flow:
    return np.full((*moment.frame.shape[:2], 2), float(moment.index), np.float32)


def cubes(frames: list[Frame], *boxes: list[float]) -> list[FrameCubes]:
    given = np.array(boxes, np.float32).reshape(-1, 4)
    return list(cut("07", frames, lambda _: given, flow_of, CONFIG))


# Moments


def test_a_moment_knows_its_neighbours() -> None:
    frames = video(3)
    found = list(moments("07", frames))
    assert [(one.video, one.index) for one in found] == [("07", 0), ("07", 1), ("07", 2)]
    assert all(one.frame is frame for one, frame in zip(found, frames, strict=True))
    assert [one.before for one in found] == [None, frames[0], frames[1]]
    assert [one.after for one in found] == [frames[1], frames[2], None]


def test_a_lone_frame_has_no_neighbours_and_no_frames_give_no_moments() -> None:
    (lone,) = moments("07", video(1))
    assert lone.before is None
    assert lone.after is None
    assert not list(moments("07", []))


def test_frames_are_read_one_ahead() -> None:
    """A long video must not lie in memory."""
    read: list[int] = []

    def reader() -> Iterator[Frame]:
        for t, frame in enumerate(video(10)):
            read.append(t)
            yield frame

    steps = moments("07", reader())
    assert next(steps).index == 0
    assert next(steps).index == 1
    assert read == [0, 1, 2]


# Cutting


@pytest.mark.parametrize("channels", [1, 3], ids=["grey", "colour"])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_a_video_shorter_than_a_cube_repeats_its_first_frame(count: int, channels: int) -> None:
    found = cubes(video(count, channels), GOOD)
    assert [one.index for one in found] == list(range(count))
    last = found[-1]
    assert last.frames_MTCHW.shape == (1, 5, channels, 8, 8)
    assert last.flows_MTCHW.shape == (1, 4, 2, 8, 8)
    levels = [10 * max(0, count - 5 + t) for t in range(5)]
    assert last.frames_MTCHW[0, :, 0, 0, 0].tolist() == levels
    assert last.flows_MTCHW[0, :, 0, 0, 0].tolist() == [max(0, count - 4 + t) for t in range(4)]


def test_frames_without_boxes_give_no_cubes_and_still_count_as_history() -> None:
    boxes: dict[int, Boxes] = {3: np.array([GOOD, GOOD], np.float32)}
    none = np.zeros((0, 4), np.float32)
    (only,) = cut("07", video(6), lambda moment: boxes.get(moment.index, none), flow_of, CONFIG)
    assert only.index == 3
    assert only.frames_MTCHW[1, :, 0, 0, 0].tolist() == [0, 0, 10, 20, 30]


def test_an_empty_video_gives_nothing() -> None:
    assert cubes([], GOOD) == []


def test_a_box_may_fill_the_frame_and_may_end_in_its_last_pixel() -> None:
    (found,) = cubes(video(1), [0, 0, WIDTH, HEIGHT], [WIDTH - 1.5, HEIGHT - 1.5, WIDTH - 0.5, HEIGHT - 0.5])
    assert len(found.boxes) == 2


# Refused


@pytest.mark.parametrize(
    "box",
    [
        [-2, 3, 20, 19],
        [2, -2, 20, 19],
        [2, 3, WIDTH + 1, 19],
        [2, 3, 20, HEIGHT + 0.5],
        [100, 3, 120, 19],
        [5, 5, 5, 19],
        [5, 5, 20, 5],
        [20, 3, 2, 19],
        [5.2, 5, 5.9, 19],
        [np.nan, 3, 20, 19],
        [2, 3, np.inf, 19],
        [2, -np.inf, 20, 19],
        [2, 3, 1e30, 19],
    ],
    ids=str,
)
def test_a_bad_box_is_named_with_its_video_and_frame(box: list[float]) -> None:
    with pytest.raises(DataError) as caught:
        list(
            cut(
                "07",
                video(4),
                lambda moment: np.array([GOOD, box] if moment.index == 2 else [GOOD], np.float32),
                flow_of,
                CONFIG,
            )
        )
    message = str(caught.value)
    assert "video 07, frame 2" in message
    assert str(np.array(box, np.float32).tolist()) in message
    assert f"{WIDTH}x{HEIGHT}" in message
    assert "check the boxes file or detector" in message


@pytest.mark.parametrize(
    "odd",
    [video(1, shape=(HEIGHT, WIDTH + 2))[0], video(1, shape=(WIDTH, HEIGHT))[0], video(1, channels=3)[0]],
    ids=["wider", "turned", "colour"],
)
def test_a_frame_of_another_size_is_named(odd: Frame) -> None:
    with pytest.raises(DataError, match=r"video 07: frame 3 is \(.*\), the ones before are \(24, 36, 1\).*one size"):
        cubes([*video(3), odd], GOOD)


def test_what_was_cut_before_a_bad_frame_was_right() -> None:
    frames = cut("07", [*video(2), np.zeros((4, 4, 1), np.uint8)], lambda _: np.array([GOOD], "f4"), flow_of, CONFIG)
    assert [next(frames).index, next(frames).index] == [0, 1]
    with pytest.raises(DataError, match="frame 2"):
        next(frames)


def test_what_moments_share_is_computed_once_a_frame() -> None:
    asked: list[int] = []

    def doubled(frame: Frame) -> Frame:
        asked.append(int(frame[0, 0, 0]))
        return frame * 2

    remembering = once_a_frame(doubled)
    for shot in moments("01", [np.full((2, 2, 1), i, np.uint8) for i in range(6)]):
        for frame in (shot.before, shot.frame, shot.after):
            if frame is not None:
                np.testing.assert_array_equal(remembering(frame), 2 * frame)
    assert asked == [0, 1, 2, 3, 4, 5]
