"""Frames + flows + boxes -> spatial-temporal cubes, one frame at a time (paper section 4.3).

A cube is one box of the frame to predict, cut out of that frame, of the frames before it and of the
flows between them, each resized. Reads an iterator of frames, so a long video is never in memory whole.

Axes: M boxes of a frame, T time, C channels, H W pixels.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from amsrc.config import CubeConfig
from amsrc.errors import DataError

Frame = npt.NDArray[np.uint8]  # (H, W, C), C = 1 grey or 3 BGR
Boxes = npt.NDArray[np.float32]  # (M, 4): x0 y0 x1 y1 in native pixels
Flow = npt.NDArray[np.float32]  # (H, W, 2): x, y in native pixels per frame


@dataclass(frozen=True)
class Moment:
    """One frame of a video and its neighbours: all that a provider of boxes or flow may look at."""

    video: str
    index: int
    """Number of the frame within its video, from 0."""
    frame: Frame
    before: Frame | None
    """The frame before it; None at the first."""
    after: Frame | None
    """The frame after it; None at the last."""


BoxesOf = Callable[[Moment], Boxes]
FlowOf = Callable[[Moment], Flow]


@dataclass(frozen=True)
class FrameCubes:
    """The cubes of one frame."""

    index: int
    boxes: Boxes
    frames_MTCHW: npt.NDArray[np.uint8]
    flows_MTCHW: npt.NDArray[np.float16]


def moments(video: str, frames: Iterable[Frame]) -> Iterator[Moment]:
    """Each frame with the one before and the one after, holding three frames at a time."""
    before: Frame | None = None
    frame: Frame | None = None
    index = 0
    for after in frames:
        if frame is not None:
            yield Moment(video, index, frame, before, after)
            index += 1
        before, frame = frame, after
    if frame is not None:
        yield Moment(video, index, frame, before, None)


def once_a_frame(of: Callable[[Frame], Frame]) -> Callable[[Frame], Frame]:
    """The same function, which remembers its answers to the last three frames: as many as a moment has.

    Frames are told apart as objects and must not be changed in place.
    """
    known: deque[tuple[Frame, Frame]] = deque(maxlen=3)

    def remembering(frame: Frame) -> Frame:
        for seen, value in known:
            if seen is frame:
                return value
        value = of(frame)
        known.append((frame, value))
        return value

    return remembering


def cut(
    video: str, frames: Iterable[Frame], boxes_of: BoxesOf, flow_of: FlowOf, config: CubeConfig
) -> Iterator[FrameCubes]:
    """The cubes of every frame of a video, in order; frames without boxes give none.

    At the start the first frame is repeated, and its flow is zero (released).

    Args:
        frames: uint8 (H, W, C) each, all of one size.
        boxes_of: boxes of a moment, float32 (M, 4), inside the frame.
        flow_of: flow into a moment from the frame before, float32 (H, W, 2), native pixels per frame;
            not asked for the first frame.

    Raises:
        DataError: the frame size changes, or a box is outside its frame or has no area.
    """
    seen: deque[Frame] = deque(maxlen=config.frames)
    flows: deque[Flow] = deque(maxlen=config.frames - 1)
    for moment in moments(video, frames):
        frame = moment.frame
        if not seen:
            seen.extend([frame] * config.frames)
            flows.extend([np.zeros((*frame.shape[:2], 2), np.float32)] * (config.frames - 1))
        else:
            if frame.shape != seen[-1].shape:
                raise DataError(
                    f"video {video}: frame {moment.index} is {frame.shape}, the ones before are {seen[-1].shape}; "
                    "all frames of a video must have one size. Extract the video again."
                )
            seen.append(frame)
            flows.append(np.asarray(flow_of(moment), np.float32))
        boxes = boxes_of(moment)
        if len(boxes):
            corners = _corners(boxes, frame.shape, f"video {video}, frame {moment.index}")
            yield FrameCubes(
                moment.index,
                boxes,
                _crop(seen, corners, config.size, np.uint8),
                _crop(flows, corners, config.size, np.float16),
            )


def _corners(boxes: Boxes, shape: tuple[int, ...], where: str) -> npt.NDArray[np.int64]:
    """Pixel corners of boxes: rounded up (released), then checked against the frame."""
    corners = np.ceil(boxes)
    height, width = shape[:2]
    x0, y0, x1, y1 = corners.T
    inside = (x0 >= 0) & (y0 >= 0) & (x1 <= width) & (y1 <= height) & (x1 > x0) & (y1 > y0)  # false for NaN
    if not inside.all():
        box = boxes[~inside][0].tolist()
        raise DataError(
            f"{where}: box {box} (x0 y0 x1 y1) is outside the {width}x{height} frame or has no area. "
            "Boxes must be in native pixels of this data set's frames; check the boxes file or detector."
        )
    return corners.astype(np.int64)


def _crop(
    images: Iterable[npt.NDArray[Any]], corners: npt.NDArray[np.int64], size: int, dtype: npt.DTypeLike
) -> npt.NDArray[Any]:
    """Cut every box from every image and resize bilinearly. Returns (M, T, C, size, size)."""
    images = list(images)
    channels = images[0].shape[2]
    cubes = np.empty((len(corners), len(images), channels, size, size), dtype)
    resized = np.empty((len(images), size, size, channels), images[0].dtype)
    targets = resized[..., 0] if channels == 1 else resized  # OpenCV drops the axis of a single channel
    for cube, (x0, y0, x1, y1) in zip(cubes, corners.tolist(), strict=True):
        for image, target in zip(images, targets, strict=True):
            cv2.resize(image[y0:y1, x0:x1], (size, size), target, interpolation=cv2.INTER_LINEAR)
        cube[:] = resized.transpose(0, 3, 1, 2)
    return cubes
