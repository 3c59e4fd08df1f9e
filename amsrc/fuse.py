"""Scores of cubes -> scores of frames: standardise, weigh, take the largest, smooth. No torch.

Reads per-cube scores and the training split's statistics; a new fusion ratio costs milliseconds here and
never a training (paper section 3.4). Higher = more abnormal throughout.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from amsrc.config import ScoreConfig
from amsrc.errors import DataError, RunError

Floats = npt.NDArray[np.floating]
Ints = npt.NDArray[np.integer]


class Padding(NamedTuple):
    """What lies beyond a video's ends, as two libraries call it."""

    numpy: Literal["constant", "symmetric", "edge"]
    scipy: Literal["constant", "reflect", "nearest"]


PADDINGS = {
    "zero": Padding("constant", "constant"),
    "reflect": Padding("symmetric", "reflect"),
    "nearest": Padding("edge", "nearest"),
}
"""By the names of `ScoreConfig.median_padding`."""


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
        fused += weight * (np.asarray(score, np.float64) - mean) / sd
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
    fuser = Fuser.of(video, frame, frames, config)
    (scores,) = fuser.scores(s_f, s_p, statistics, [(config.weight_f, config.weight_p)])
    ends = np.cumsum(fuser.lengths, dtype=np.int64)
    return [scores[end - length : end] for end, length in zip(ends, fuser.lengths, strict=True)]


@dataclass(frozen=True, eq=False)
class Fuser:
    """Where the cubes of some videos lie, found once, so that many pairs of weights can be tried on their scores.

    Attributes:
        config: how frames are scored; `scores` is given weights and does not look at these.
        lengths: number of scored frames of each video.
    """

    config: ScoreConfig
    lengths: tuple[int, ...]
    _order: Ints  # (n,) the cubes in order of frames, videos laid end to end
    _first: Ints  # where in that order each frame with cubes begins
    _place: Ints  # that frame among all frames
    _frames: int  # number of all frames
    _seen: Ints  # the scored frames as the median filter sees them: each video with what lies beyond its ends
    _kept: Ints  # which of `_seen` are the scored frames themselves

    @classmethod
    def of(cls, video: Ints, frame: Ints, frames: Sequence[int], config: ScoreConfig) -> Fuser:
        """Arguments and error as for `frame_scores`."""
        if len(video) and not ((frame >= 0) & (frame < np.asarray(frames)[video])).all():
            raise DataError(
                "a cube's frame lies outside its video: cubes and videos are of different data. Score them again."
            )
        starts = np.concatenate([[0], np.cumsum(frames)]).astype(np.int64)
        clips = [np.arange(a + config.skip_frames, b) for a, b in pairwise(starts)]
        half = config.median_frames // 2
        mode = PADDINGS[config.median_padding].numpy
        beyond = {"constant_values": starts[-1]} if mode == "constant" else {}
        seen = [np.pad(clip, half, mode, **beyond) for clip in clips if len(clip)]
        kept = [np.pad(np.ones(len(clip), np.bool_), half) for clip in clips if len(clip)]
        none = np.empty(0, np.int64)
        place = starts[video] + frame
        order = np.argsort(place, kind="stable")
        first = np.flatnonzero(np.diff(place[order], prepend=-1))
        return cls(
            config,
            tuple(map(len, clips)),
            _order=order,
            _first=first,
            _place=place[order][first],
            _frames=int(starts[-1]),
            _seen=np.concatenate([none, *seen]),
            _kept=np.flatnonzero(np.concatenate([none, *kept])),
        )

    def scores(
        self,
        s_f: Floats,
        s_p: Floats,
        statistics: Statistics,
        weights: npt.ArrayLike,
        dtype: npt.DTypeLike = np.float64,
    ) -> Floats:
        """The scores of all scored frames, videos laid end to end, under each pair of weights.

        Args:
            s_f: (n,), s_p: (n,): scores of the cubes.
            weights: (R, 2): w_f and w_p. They are taken as they are: with `empty_frame` `released` more than
                their ratio counts.
            dtype: of the result; all is computed in float64.

        Returns:
            (R, N).

        Raises:
            RunError: as `cube_scores`.
        """
        pairs = np.asarray(weights, np.float64).reshape(-1, 2)
        s_f, s_p = (score[self._order].astype(np.float64) for score in (s_f, s_p))
        found = np.empty((len(pairs), len(self._kept)), dtype)
        frames = np.zeros(self._frames + 1)  # the last one stands for all that lies beyond a video: 0
        for row, (weight_f, weight_p) in zip(found, pairs.tolist(), strict=True):
            fused = cube_scores(s_f, s_p, statistics, weight_f, weight_p)
            config = replace(self.config, weight_f=weight_f, weight_p=weight_p)
            frames[:-1] = empty_frame_score(statistics, config)
            frames[self._place] = np.maximum.reduceat(fused, self._first)
            row[:] = self._smooth(frames[self._seen])
        return found

    def _smooth(self, seen: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Median filter of each video's frame scores (released)."""
        if self.config.median_frames == 1:
            return seen
        from scipy import ndimage  # here, so that training knows no SciPy

        return ndimage.median_filter(seen, self.config.median_frames)[self._kept]


def empty_frame_score(statistics: Statistics, config: ScoreConfig) -> float:
    """Score of a frame without cubes: that of zero errors (ours), or of a zero prediction error alone (released).

    Deviation: 6.
    """
    weights = (0.0, 1.0) if config.empty_frame == "released" else (config.weight_f, config.weight_p)
    zero = np.zeros(1)
    return float(cube_scores(zero, zero, statistics, *weights)[0])
