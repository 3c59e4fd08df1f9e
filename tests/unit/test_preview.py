"""The preview: its colours, what it asks of the providers, and that the picture shows what they say."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from amsrc.config import CubeConfig
from amsrc.cubes import Boxes, Flow, Frame, Moment
from amsrc.errors import DataError, RunError
from bench.data.preview import colours, preview

WHITE, RED, CYAN, ORANGE = (255, 255, 255), (255, 0, 0), (0, 255, 255), (0xFF, 0x9F, 0x1C)


def frames(count: int, channels: int = 1) -> list[Frame]:
    return [np.full((40, 60, channels), index % 200, np.uint8) for index in range(count)]


def one_box(moment: Moment) -> Boxes:
    return np.array([[10, 10, 30, 30]], np.float32)


def no_boxes(moment: Moment) -> Boxes:
    return np.zeros((0, 4), np.float32)


def to_the_right(moment: Moment) -> Flow:
    return np.tile(np.array([2, 0], np.float32), (40, 60, 1))


def at_rest(moment: Moment) -> Flow:
    return np.zeros((40, 60, 2), np.float32)


def part_of(path: Path, colour: tuple[int, int, int]) -> float:
    """Part of the picture that has exactly this colour."""
    picture = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
    return float((picture == np.array(colour)).all(2).mean())


def test_colours_tell_direction_and_speed() -> None:
    flow = np.array([[[0, 0], [4, 0], [-4, 0], [40, 0], [2, 0]]], np.float32)
    assert colours(flow, 4).tolist() == [[list(WHITE), list(RED), list(CYAN), list(RED), [255, 128, 128]]]


def test_picture_shows_the_flow_and_the_boxes_that_were_found(tmp_path: Path) -> None:
    moving, still = tmp_path / "made" / "moving.png", tmp_path / "made" / "still.png"
    preview("01", frames(20, channels=3), one_box, to_the_right, CubeConfig(), moving, picks=1)
    preview("01", frames(20), no_boxes, at_rest, CubeConfig(), still, picks=1)
    assert part_of(moving, RED) > 0.2
    assert part_of(still, RED) < 0.01
    assert part_of(moving, ORANGE) > 0.002
    assert part_of(still, ORANGE) == 0
    assert [each.name for each in sorted((tmp_path / "made").iterdir())] == ["moving.png", "still.png"]


def test_providers_are_asked_about_the_drawn_frames_alone(tmp_path: Path) -> None:
    boxes_asked, flow_asked = [], []

    def boxes_of(moment: Moment) -> Boxes:
        boxes_asked.append(moment.index)
        return one_box(moment)

    def flow_of(moment: Moment) -> Flow:
        flow_asked.append(moment.index)
        return at_rest(moment)

    preview("01", iter(frames(400)), boxes_of, flow_of, CubeConfig(), tmp_path / "p.png", picks=2)
    assert boxes_asked == [50, 100]
    assert flow_asked == [47, 48, 49, 50, 97, 98, 99, 100]


@pytest.mark.parametrize("count", [1, 4])
def test_short_videos_are_drawn(tmp_path: Path, count: int) -> None:
    preview("01", frames(count), one_box, to_the_right, CubeConfig(), tmp_path / "p.png")
    assert cv2.imread(str(tmp_path / "p.png")) is not None


def test_an_empty_video_and_a_path_that_cannot_be_written_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="video 01 has no frames"):
        preview("01", [], one_box, at_rest, CubeConfig(), tmp_path / "p.png")
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"p\.png: cannot be written"):
        preview("01", frames(6), one_box, at_rest, CubeConfig(), tmp_path / "file" / "p.png", picks=1)
