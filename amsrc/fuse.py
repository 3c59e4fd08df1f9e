"""Scores of cubes -> scores of frames: standardise, weigh, take the largest, smooth. No torch.

Reads per-cube scores by part and the training split's statistics; a new fusion ratio costs milliseconds here and
never a training (paper section 3.4). Higher = more abnormal throughout.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from amsrc.config import ScoreConfig
from amsrc.errors import DataError, RunError

Floats = npt.NDArray[np.floating]
Ints = npt.NDArray[np.integer]
Parts: TypeAlias = Mapping[str, Floats]
"""Part of the score -> (n,), a value a cube; in the order in which the method names its parts."""


class Padding(NamedTuple):
    """The padding beyond a video's ends, as two libraries name it."""

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
    """Statistics of one part of the score over all training cubes, in float64."""

    mean: float
    sd: float
    """Population standard deviation."""
    minimum: float
    p999: float
    """99.9th percentile, linearly interpolated."""
    maximum: float

    def scale(self, standardise: str) -> tuple[float, float]:
        """What is subtracted from the part, and what it is then divided by (`ScoreConfig.standardise`)."""
        if standardise == "z-score":
            return self.mean, self.sd
        return self.minimum, (self.maximum if standardise == "min-max" else self.p999) - self.minimum


Known: TypeAlias = Mapping[str, Statistics]
"""Part of the score -> its statistics."""


def statistics(scores: Parts) -> dict[str, Statistics]:
    """Statistics of the training cubes' scores, part by part; NaN without any cube."""

    def of(values: npt.NDArray[np.float64]) -> Statistics:
        if not len(values):
            return Statistics(np.nan, np.nan, np.nan, np.nan, np.nan)
        p999 = float(np.percentile(values, 99.9))
        return Statistics(float(values.mean()), float(values.std()), float(values.min()), p999, float(values.max()))

    return {part: of(values.astype(np.float64)) for part, values in scores.items()}


def cube_scores(scores: Parts, known: Known, weights: Sequence[float], standardise: str = "z-score") -> Floats:
    """S = the weighted sum of the standardised parts, (n,) float64; a part of weight 0 is not looked at.

    Args:
        weights: one a part, in the order of `known`.
        standardise: as `ScoreConfig.standardise`.

    Raises:
        RunError: a part that counts is not finite, or does not vary over the training cubes.

    Source: paper equation 5.
    """
    fused = np.zeros(len(next(iter(scores.values()))), np.float64)
    for (part, of_part), weight in zip(known.items(), weights, strict=True):
        if weight == 0:
            continue
        centre, spread = of_part.scale(standardise)
        if not (np.isfinite(spread) and spread > 0 and np.isfinite(scores[part]).all()):
            raise RunError(
                f"the part {part!r} cannot be fused: its spread over the training cubes is {spread} or a cube's score "
                "is not finite. Give it weight 0, or look at the training log."
            )
        fused += weight * (np.asarray(scores[part], np.float64) - centre) / spread
    return fused


def frame_scores(
    scores: Parts, video: Ints, frame: Ints, frames: Sequence[int], known: Known, config: ScoreConfig
) -> list[npt.NDArray[np.float64]]:
    """The score of each frame of each video: the largest of its cubes', smoothed within the video.

    Args:
        scores: of the test cubes.
        video: (n,) position of the cube's video in `frames`.
        frame: (n,) number of the frame within its video.
        frames: number of frames of each video.

    Returns:
        One float64 array a video, without its first `skip_frames` frames (possibly empty).

    Raises:
        DataError: a cube's frame is outside its video.
        RunError: as `cube_scores`.
    """
    fuser = Fuser.of(video, frame, frames, config)
    (found,) = fuser.scores(scores, known, [config.weights])
    ends = np.cumsum(fuser.lengths, dtype=np.int64)
    return [found[end - length : end] for end, length in zip(ends, fuser.lengths, strict=True)]


@dataclass(frozen=True, eq=False)
class Fuser:
    """The frames of some videos' cubes, indexed once, so that many weights can be tried on their scores.

    Attributes:
        config: how frames are scored; `scores` is given weights and does not look at these.
        lengths: number of scored frames of each video.
    """

    config: ScoreConfig
    lengths: tuple[int, ...]
    _order: Ints  # (n,) the cubes in order of frames, videos concatenated
    _first: Ints  # where in that order each frame with cubes begins
    _place: Ints  # that frame among all frames
    _frames: int  # number of all frames
    _seen: Ints  # the scored frames as the median filter sees them: each video with its padding
    _kept: Ints  # which of `_seen` are the scored frames themselves

    @classmethod
    def of(cls, video: Ints, frame: Ints, frames: Sequence[int], config: ScoreConfig) -> Fuser:
        """Arguments and error as for `frame_scores`."""
        if len(video) and not ((frame >= 0) & (frame < np.asarray(frames)[video])).all():
            raise DataError(
                "a cube's frame is outside its video: cubes and videos are of different data. Score them again."
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
        self, scores: Parts, known: Known, weights: Sequence[Sequence[float]], dtype: npt.DTypeLike = np.float64
    ) -> Floats:
        """The scores of all scored frames, videos concatenated, under each set of weights.

        Args:
            scores: of the cubes, n each.
            weights: R times one a part. They are taken as they are: with `empty_frame` `released` more than their ratio
                counts.
            dtype: of the result; all is computed in float64.

        Returns:
            (R, N).

        Raises:
            RunError: as `cube_scores`.
        """
        ordered = {part: values[self._order].astype(np.float64) for part, values in scores.items()}
        found = np.empty((len(weights), len(self._kept)), dtype)
        frames = np.zeros(self._frames + 1)  # the last one is the padding of a video: 0
        for row, tried in zip(found, weights, strict=True):
            fused = cube_scores(ordered, known, tried, self.config.standardise)
            frames[:-1] = empty_frame_score(known, replace(self.config, weights=tuple(tried)))
            frames[self._place] = np.maximum.reduceat(fused, self._first)
            row[:] = self._smooth(frames[self._seen])
        return found

    def _smooth(self, seen: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Median filter of each video's frame scores (released)."""
        if self.config.median_frames == 1:
            return seen
        from scipy import ndimage  # here, so that training does not need SciPy

        return ndimage.median_filter(seen, self.config.median_frames)[self._kept]


def empty_frame_score(known: Known, config: ScoreConfig) -> float:
    """Score of a frame without cubes (`ScoreConfig.empty_frame`).

    Deviation: 6.
    """
    lowest = config.empty_frame == "lowest"
    least = {part: np.array([of_part.minimum if lowest else 0.0]) for part, of_part in known.items()}
    weights = (*[0.0] * (len(known) - 1), 1.0) if config.empty_frame == "released" else config.weights
    return float(cube_scores(least, known, weights, config.standardise)[0])
