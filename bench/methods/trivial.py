"""Scores that need no training: the trivial baselines that every learned method has to beat.

Some score each cube, some each frame without a look at its cubes. Both are scores of rows, (n,) float32, higher = more
abnormal, and pass through the same fusion, smoothing and evaluation as any method: a row is a cube, or a frame.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from amsrc.store import Cubes, Shard
from bench.methods.interface import Method, Rows

CHUNK = 2048

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Frames:
    """Every frame of a split as one row, frames without cubes too.

    Attributes:
        shards: one a video, in order.
        video: (n,) int32 position of each frame's video in `shards`.
        frame: (n,) int32 number of the frame within its video.
        boxes: (n, 4) float32 NaN: a frame has no place in the picture.
    """

    shards: list[Shard]
    video: npt.NDArray[np.int32]
    frame: npt.NDArray[np.int32]
    boxes: npt.NDArray[np.float32]

    @classmethod
    def of(cls, shards: Sequence[Shard]) -> Frames:
        counts = [shard.video_frames for shard in shards]
        video = np.repeat(np.arange(len(shards), dtype=np.int32), counts)
        frame = np.concatenate([np.zeros(0, np.int32), *(np.arange(count, dtype=np.int32) for count in counts)])
        return cls(list(shards), video, frame, np.full((len(frame), 4), np.nan, np.float32))

    def __len__(self) -> int:
        return len(self.frame)


def rows_of(method: Method, cubes: Cubes) -> Rows:
    """What a method scores in a split."""
    return Frames.of(cubes.shards) if method.unit == "frame" else cubes


def constant(cubes: Cubes, seed: int) -> Floats:
    """The same for every frame."""
    return np.zeros(len(Frames.of(cubes.shards)), np.float32)


def noise(cubes: Cubes, seed: int) -> Floats:
    """Uniform in [0, 1), drawn anew for every frame; the seed and the video's name draw."""
    drawn = (
        np.random.default_rng([seed, zlib.crc32(shard.video.encode())]).random(shard.video_frames, np.float32)
        for shard in cubes.shards
    )
    return np.concatenate([np.zeros(0, np.float32), *drawn])


def frame_index(cubes: Cubes, seed: int) -> Floats:
    """The number of the frame within its video: later is more abnormal."""
    return Frames.of(cubes.shards).frame.astype(np.float32)


def clip_centre(cubes: Cubes, seed: int) -> Floats:
    """The distance to the middle of the video in frames, negated: nearer is more abnormal."""
    frames = Frames.of(cubes.shards)
    middle = np.array([(shard.video_frames - 1) / 2 for shard in cubes.shards], np.float32)
    near: Floats = -np.abs(frames.frame.astype(np.float32) - middle[frames.video])
    return near


def box_count(cubes: Cubes, seed: int) -> Floats:
    """The number of boxes in the frame."""
    starts = np.cumsum([0, *(shard.video_frames for shard in cubes.shards)])
    return np.bincount(starts[cubes.video] + cubes.frame, minlength=starts[-1]).astype(np.float32)


def box_area(cubes: Cubes, seed: int) -> Floats:
    """The area of the cube's box, square pixels."""
    return (cubes.boxes[:, 2] - cubes.boxes[:, 0]) * (cubes.boxes[:, 3] - cubes.boxes[:, 1])


def flow_magnitude(cubes: Cubes, seed: int) -> Floats:
    """Mean length of the cube's flow vectors, over its flows and pixels, native pixels per frame."""
    scores = [np.empty(0, np.float32)]
    for start in range(0, len(cubes), CHUNK):
        flows = cubes.flows(np.arange(start, min(start + CHUNK, len(cubes)))).astype(np.float32)
        scores.append(np.hypot(flows[:, :, 0], flows[:, :, 1]).mean((1, 2, 3)))
    return np.concatenate(scores)


SCORES: Mapping[str, Callable[[Cubes, int], Floats]] = {
    "constant": constant,
    "noise": noise,
    "frame-index": frame_index,
    "clip-centre": clip_centre,
    "box-count": box_count,
    "box-area": box_area,
    "flow-magnitude": flow_magnitude,
}
"""By method: the scores of a split's rows, given a seed."""
