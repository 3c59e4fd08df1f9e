"""Held-out training videos, and pseudo-anomalies made from their cubes. No torch.

Reads the training split alone and no label, so that epochs and weights can be chosen without test labels
(rule `label-free`). Nothing here depends on the seed of a run: the same cubes give the same pseudo-anomalies in
every epoch, run and trial.

Axes: N cubes, T time, C channels, H W pixels; cubes as they are stored (`amsrc.store`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from amsrc.store import Cubes

Rows = npt.NDArray[np.int64]
Frames = npt.NDArray[np.uint8]  # (N, T, C, H, W)
Flows = npt.NDArray[np.float16]  # (N, T-1, 2, H, W), x and y in native pixels per frame
STATISTICS_CUBES = 2048  # training cubes behind the statistics of an epoch that is not the last
PSEUDO_CUBES = 1024  # held-out cubes that are scored, as they are and as every kind of pseudo-anomaly
KINDS = ("flow-swap", "skip", "shuffle", "reverse", "patch")


def held_out_videos(videos: Sequence[str], part: float) -> list[int]:
    """Positions of the videos that are not trained on, evenly spaced over the order of videos.

    ShanghaiTech's videos are ordered by scene, so most scenes give one. The seed plays no part in it.

    Args:
        part: of the videos, 0 to below 1. Above 0 it is at least one video and never all; a single video is kept.

    Deviation: 16.
    """
    n = len(videos)
    if part == 0 or n < 2:
        return []
    count = min(max(round(part * n), 1), n - 1)
    return [(2 * i + 1) * n // (2 * count) for i in range(count)]


def kept(cubes: Cubes, part: float) -> Rows:
    """Numbers of the cubes that are trained on: those of all videos but the held-out ones, in order."""
    return np.flatnonzero(~_held_out(cubes, part))


def normal(cubes: Cubes, part: float) -> Rows:
    """Numbers of the held-out cubes that are scored, ascending: a fixed sample of at most PSEUDO_CUBES.

    Cubes whose history reaches back before their video's start are left out: it is one frame repeated without
    flow, so that most kinds of pseudo-anomalies would leave them as they are.
    """
    history = cubes.flows(np.arange(0)).shape[1]
    whole = np.flatnonzero(_held_out(cubes, part) & (cubes.frame >= history))
    return np.sort(np.random.default_rng(0).permutation(whole)[:PSEUDO_CUBES])


def _held_out(cubes: Cubes, part: float) -> npt.NDArray[np.bool_]:
    return np.isin(cubes.video, held_out_videos([shard.video for shard in cubes.shards], part))


def anomalies(frames_NTCHW: Frames, flows_NTCHW: Flows) -> dict[str, tuple[Frames, Flows]]:
    """Pseudo-anomalies by kind, each made from all of these normal cubes.

    Another cube is always the one half the cubes further on: never the cube itself, and as a rule of another
    video or of a moment far away. Cubes of T = 2 have no history to skip in or to shuffle: they have neither kind.

    Args:
        frames_NTCHW, flows_NTCHW: two cubes or more, in order of videos and frames (`normal`).

    Returns:
        KINDS, of the shapes and types given. Arrays that a kind leaves as they are, are shared, not copied.
    """
    n, t = frames_NTCHW.shape[:2]
    other = np.roll(np.arange(n), -(n // 2))
    random = np.random.default_rng(0)
    found = {"flow-swap": (frames_NTCHW, flows_NTCHW[other])}
    if t > 2:
        found["skip"] = _skip(frames_NTCHW, flows_NTCHW)
        found["shuffle"] = _shuffle(frames_NTCHW, flows_NTCHW, random)
    found["reverse"] = (frames_NTCHW[:, ::-1].copy(), -flows_NTCHW[:, ::-1].copy())
    found["patch"] = (_patch(frames_NTCHW, other, random), flows_NTCHW)
    return found


def _skip(frames: Frames, flows: Flows) -> tuple[Frames, Flows]:
    """Twice the speed: every second frame up to the last, and the flows over each such step added up.

    What is missing before them is filled as at a video's start: the first frame repeated, without flow.
    """
    t = frames.shape[1]
    times = np.maximum(np.arange(1 - t, t, 2), (t - 1) % 2)
    steps = (t - 1) // 2
    fast = np.zeros_like(flows)
    fast[:, -steps:] = flows[:, -2 * steps :: 2] + flows[:, 1 - 2 * steps :: 2]
    return frames[:, times], fast


def _shuffle(frames: Frames, flows: Flows, random: np.random.Generator) -> tuple[Frames, Flows]:
    """The frames before the last one in another order, never their own, each with its flow; the last one stays."""
    n, history = flows.shape[:2]
    order = random.permuted(np.tile(np.arange(history), (n, 1)), axis=1)
    same = (order == np.arange(history)).all(1)
    order[same] = np.roll(order[same], 1, axis=1)
    cube = np.arange(n)[:, None]
    return np.concatenate([frames[cube, order], frames[:, -1:]], axis=1), flows[cube, order]


def _patch(frames: Frames, other: npt.NDArray[np.int64], random: np.random.Generator) -> Frames:
    """A rectangle of another cube's last frame in the last frame, a quarter to half of each side long.

    At the same place in both: a box encloses its figure, so that part of a figure replaces part of a figure.
    In the last frame alone: what the frames before it show, the network copies. Its edges are left hard, since
    nothing is trained on them.
    """
    n, (h, w) = len(frames), frames.shape[3:]
    inside = [_spans(n, side, random) for side in (h, w)]
    rectangle = inside[0][:, None, :, None] & inside[1][:, None, None, :]
    pasted = frames.copy()
    pasted[:, -1] = np.where(rectangle, frames[other, -1], frames[:, -1])
    return pasted


def _spans(n: int, side: int, random: np.random.Generator) -> npt.NDArray[np.bool_]:
    """(n, side): which pixels of a side a random span covers, a quarter to half of it."""
    length = random.integers(side // 4, side // 2, n, endpoint=True)
    start = random.integers(0, side - length, endpoint=True)
    pixel = np.arange(side)
    return (pixel >= start[:, None]) & (pixel < (start + length)[:, None])
