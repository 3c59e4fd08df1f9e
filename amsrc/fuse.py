"""Scores of cubes -> scores of frames: standardise, weigh, take the largest, smooth. No torch.

Reads per-cube scores and the training split's statistics; a new fusion ratio costs milliseconds here and
never a training (paper section 3.4). Higher = more abnormal throughout.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from amsrc.config import ScoreConfig
from amsrc.errors import DataError, RunError

Floats = npt.NDArray[np.floating]
Ints = npt.NDArray[np.integer]

PADDING: dict[str, Literal["constant", "reflect", "nearest"]] = {
    "zero": "constant",
    "reflect": "reflect",
    "nearest": "nearest",
}  # ours -> scipy's name


@dataclass(frozen=True)
class Statistics:
    """Mean and population standard deviation of both scores over all training cubes."""

    mean_f: float
    sd_f: float
    mean_p: float
    sd_p: float


def statistics(s_f: Floats, s_p: Floats) -> Statistics:
    """Statistics of the training cubes' scores, in float64. S_f may be all NaN (no motion stream)."""
    f, p = s_f.astype(np.float64), s_p.astype(np.float64)
    return Statistics(float(f.mean()), float(f.std()), float(p.mean()), float(p.std()))


def cube_scores(s_f: Floats, s_p: Floats, statistics: Statistics, weight_f: float, weight_p: float) -> Floats:
    """S = w_f z(S_f) + w_p z(S_p), float64; a score whose weight is 0 is not looked at. Source: paper equation 5.

    Raises:
        RunError: a score that counts is not finite, or does not vary over the training cubes.
    """
    fused = np.zeros(len(s_p), np.float64)
    parts = [("S_f", s_f, weight_f, statistics.mean_f, statistics.sd_f)]
    parts += [("S_p", s_p, weight_p, statistics.mean_p, statistics.sd_p)]
    for name, score, weight, mean, sd in parts:
        if weight == 0:
            continue
        if not (np.isfinite(sd) and sd > 0 and np.isfinite(score).all()):
            raise RunError(
                f"{name} cannot be fused: its training standard deviation is {sd} or a cube's score is not finite. "
                f"Give it weight 0, or look at the training log."
            )
        fused += weight * (score.astype(np.float64) - mean) / sd
    return fused


def frame_scores(
    s_f: Floats,
    s_p: Floats,
    video: Ints,
    frame: Ints,
    frames: Sequence[int],
    statistics: Statistics,
    config: ScoreConfig,
) -> list[npt.NDArray[np.float64]]:
    """The score of each frame of each video: the largest of its cubes', smoothed within the video.

    Args:
        s_f: (n,), s_p: (n,): scores of the test cubes.
        video: (n,) position of the cube's video in `frames`.
        frame: (n,) number of the frame within its video.
        frames: number of frames of each video.

    Returns:
        One float64 array a video, without its first `skip_frames` frames (possibly empty).

    Raises:
        DataError: a cube's frame lies outside its video.
        RunError: as `cube_scores`.
    """
    if len(video) and not ((frame >= 0) & (frame < np.asarray(frames)[video])).all():
        raise DataError(
            "a cube's frame lies outside its video: cubes and videos are of different data. Score them again."
        )
    fused = cube_scores(s_f, s_p, statistics, config.weight_f, config.weight_p)
    starts = np.concatenate([[0], np.cumsum(frames)]).astype(np.int64)
    scores = np.full(starts[-1], -np.inf)
    np.maximum.at(scores, starts[video] + frame, fused)
    scores[np.isneginf(scores)] = empty_frame_score(statistics, config)
    clips = [scores[a:b][config.skip_frames :] for a, b in pairwise(starts)]
    return [smooth(clip, config) for clip in clips]


def empty_frame_score(statistics: Statistics, config: ScoreConfig) -> float:
    """Score of a frame without cubes: that of zero errors (ours), or of a zero prediction error alone (released).

    Deviation: 6.
    """
    weights = (0.0, 1.0) if config.empty_frame == "released" else (config.weight_f, config.weight_p)
    zero = np.zeros(1)
    return float(cube_scores(zero, zero, statistics, *weights)[0])


def smooth(scores: npt.NDArray[np.float64], config: ScoreConfig) -> npt.NDArray[np.float64]:
    """Median filter of one video's frame scores (released)."""
    if config.median_frames == 1 or not len(scores):
        return scores
    return ndimage.median_filter(scores, config.median_frames, mode=PADDING[config.median_padding])
