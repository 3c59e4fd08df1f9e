"""Cutting cubes against plain loops: values must be equal to the bit."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from amsrc.config import CubeConfig
from amsrc.cubes import Boxes, Flow, Frame, FrameCubes, Moment, cut
from bench.speed import reference

HEIGHT, WIDTH = 40, 60


def frames_of(count: int, channels: int) -> list[Frame]:
    return list(np.random.default_rng(0).integers(0, 256, (count, HEIGHT, WIDTH, channels), dtype=np.uint8))


def flows_of(frames: list[Frame]) -> list[Flow]:
    """One for each frame; the first, which must never be used, is not a number."""
    flows = np.random.default_rng(1).normal(0, 5, (len(frames), *frames[0].shape[:2], 2)).astype(np.float32)
    flows[0] = np.nan
    return list(flows)


def boxes_of(count: int) -> list[Boxes]:
    """None in every third frame; else one to three with broken corners, some of a single pixel."""
    rng = np.random.default_rng(2)
    found = []
    for t in range(count):
        low = rng.uniform(0, (WIDTH - 30, HEIGHT - 25), (t % 3, 2))
        high = low + rng.uniform(1, (30, 25), low.shape)
        found.append(np.concatenate([low, high], 1).astype(np.float32))
    found[-1] = np.array([[0, 0, WIDTH, HEIGHT], [3, 4, 4, 5]], np.float32)
    return found


def cubes(frames: list[Frame], flows: list[Flow], boxes: list[Boxes], config: CubeConfig) -> list[FrameCubes]:
    """All of a video at once, so that a buffer used twice would show."""

    def flow_of(moment: Moment) -> Flow:
        assert moment.index > 0, "there is no flow into the first frame"
        return flows[moment.index]

    return list(cut("01", iter(frames), lambda moment: boxes[moment.index], flow_of, config))


def check(frames: list[Frame], flows: list[Flow], boxes: list[Boxes], config: CubeConfig) -> None:
    found = cubes(frames, flows, boxes, config)
    assert [one.index for one in found] == [t for t in range(len(frames)) if len(boxes[t])]
    flows = [np.zeros_like(flows[0]), *flows[1:]]
    for one in found:
        wanted = boxes[one.index].tolist()
        expected = reference.cubes_of_frame(one.index, frames, flows, wanted, config.frames, config.size)
        for ours, theirs in zip((one.frames_MTCHW, one.flows_MTCHW), expected, strict=True):
            assert ours.dtype == theirs.dtype
            np.testing.assert_array_equal(ours, theirs)
        np.testing.assert_array_equal(one.boxes, boxes[one.index])


@pytest.mark.parametrize("count", [1, 2, 4, 9])
@pytest.mark.parametrize("channels", [1, 3], ids=["grey", "colour"])
def test_cubes_equal_the_loop(channels: int, count: int) -> None:
    frames = frames_of(count, channels)
    check(frames, flows_of(frames), boxes_of(count), CubeConfig())


@pytest.mark.parametrize(("length", "size"), [(3, 16), (2, 32), (7, 8)])
def test_cubes_of_other_lengths_and_sizes_equal_the_loop(length: int, size: int) -> None:
    frames = frames_of(9, 3)
    check(frames, flows_of(frames), boxes_of(9), CubeConfig(frames=length, size=size))


def test_the_start_of_a_video_repeats_its_first_frame_without_motion() -> None:
    frames = frames_of(3, 1)
    first, _, third = cubes(frames, flows_of(frames), [np.array([[5, 5, 37, 37]], np.float32)] * 3, CubeConfig())
    crops = [frame[5:37, 5:37, 0] for frame in frames]
    for t, crop in enumerate([crops[0]] * 5):
        np.testing.assert_array_equal(first.frames_MTCHW[0, t, 0], crop)
    for t, crop in enumerate([crops[0]] * 3 + crops[1:]):
        np.testing.assert_array_equal(third.frames_MTCHW[0, t, 0], crop)
    assert not first.flows_MTCHW.any()
    assert not third.flows_MTCHW[0, :2].any() and third.flows_MTCHW[0, 2:].all()


def test_the_last_flow_is_the_one_into_the_last_frame() -> None:
    frames = frames_of(6, 1)
    flows = flows_of(frames)
    found = cubes(frames, flows, [np.array([[5, 5, 37, 37]], np.float32)] * 6, CubeConfig())
    np.testing.assert_array_equal(found[5].flows_MTCHW[0, 3, 0], flows[5][5:37, 5:37, 0].astype(np.float16))


def test_cubes_of_real_video_equal_the_loop(shared: Path) -> None:
    folder = shared / "data" / "ped2"
    frames = [
        cv2.imread(str(folder / f"testing/frames/01/{t:03d}.jpg"), cv2.IMREAD_GRAYSCALE)[..., None] for t in range(7)
    ]
    stored = np.load(folder / "boxes_test.npz", allow_pickle=False)
    boxes = [stored["boxes"][stored["offsets"][t] : stored["offsets"][t + 1]] for t in range(7)]
    check(frames, flows_of(frames), boxes, CubeConfig())
