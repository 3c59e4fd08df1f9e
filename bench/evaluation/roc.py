"""The ROC curve: one sort of the scores, exact counts of the frames that reach each, and the metrics from these.

AUROC, equal error rate, F1 and the curve itself are read off `Counts`; a bootstrap's draws of videos off `Ranking`.
Scores: higher = more abnormal, any scale; equal ones are passed together, so that in the area ties count half.
Labels: 1 = abnormal. Pure functions in NumPy alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from amsrc.errors import DataError

Values: TypeAlias = npt.NDArray[np.float64]
Integers: TypeAlias = npt.NDArray[np.int64]
Scores: TypeAlias = npt.NDArray[np.float32] | npt.NDArray[np.float64]


@dataclass(frozen=True)
class Counts:
    """How many frames reach each of K distinct scores, from above the highest (none) down to the lowest (all)."""

    hits: npt.NDArray[Any]
    """Abnormal ones, (K + 1,): integers, or floats where frames are weighted."""
    alarms: npt.NDArray[Any]
    """Normal ones, (K + 1,)."""

    @property
    def pairs(self) -> float:
        """Pairs of an abnormal and a normal frame; 0 when only one class is present."""
        return float(self.hits[-1]) * float(self.alarms[-1])

    def auroc(self) -> float | None:
        """Area under the curve: the share of pairs in the right order, ties counting half; None without a pair."""
        if not self.pairs:
            return None
        doubled = (self.alarms[1:] - self.alarms[:-1]) @ (self.hits[1:] + self.hits[:-1])
        return float(doubled) / (2 * self.pairs)

    def equal_error(self) -> tuple[float | None, float | None]:
        """Equal error rate, and the F1 of the abnormal frames at its threshold; None without a pair.

        The rate is where the straight lines between the points of the curve cross equal shares of false alarms and of
        misses. The threshold is the score under which the two shares are closest, of equally close ones the highest.
        """
        if not self.pairs:
            return None, None
        abnormal, normal = self.hits[-1], self.alarms[-1]
        gap = self.alarms * abnormal - (abnormal - self.hits) * normal  # of the two shares, times `pairs`: exact
        rate = np.interp(0.0, gap, self.alarms / normal)
        at = 1 + int(np.argmin(np.abs(gap[1:])))
        return float(rate), float(2 * self.hits[at] / (self.hits[at] + self.alarms[at] + abnormal))

    def curve(self) -> tuple[Values, Values]:
        """Shares of false alarms and of hits, (K + 1,) each, from (0, 0) to (1, 1). There must be a pair."""
        return self.alarms / self.alarms[-1], self.hits / self.hits[-1]


@dataclass(frozen=True)
class Ranking:
    """The frames of V videos, sorted once: what they count is asked for many weightings of the videos."""

    truth: Integers
    """(N,), 1 = abnormal; in the order of falling scores, as `video`."""
    video: Integers
    """(N,), from 0 to V - 1."""
    reached: Integers
    """How many frames reach each distinct score, (K + 1,), 0 first."""

    def counts(self, times: Values) -> Counts:
        """When each video counts so many times: (V,)."""
        weight = times[self.video]
        hits, alarms = (_cumulated(weight * (self.truth == one))[self.reached] for one in (1, 0))
        return Counts(hits, alarms)

    def aurocs(self, draws: Values) -> Values:
        """AUROC when each video counts so many times, for (D, V) of them at once: (D,), NaN without a pair.

        Pairs of frames are counted once for each pair of videos, then weighted: exact.
        """
        videos = draws.shape[1]
        sizes = [np.bincount(self.video[self.truth == one], minlength=videos) for one in (1, 0)]
        right = np.einsum("di,ij,dj->d", draws, self._right(videos), draws, optimize=True)
        pairs = np.multiply(*(draws @ size for size in sizes))
        found: Values = np.divide(right, pairs, out=np.full(len(draws), np.nan), where=pairs > 0)
        return found

    def _right(self, videos: int) -> Values:
        """(V, V): pairs of an abnormal frame of one video and a normal one of another in the right order, ties half."""
        abnormal, normal = np.flatnonzero(self.truth), self.truth == 0
        score = np.searchsorted(self.reached, abnormal, side="right")  # its place among the distinct ones, from 1
        found = np.empty((videos, videos))
        for other in range(videos):
            alarms = _cumulated((normal & (self.video == other)).astype(np.int64))[self.reached]
            lower = alarms[-1] - (alarms[score] + alarms[score - 1]) / 2
            found[:, other] = np.bincount(self.video[abnormal], lower, minlength=videos)
        return found


def count(scores: Scores, labels: npt.NDArray[np.integer]) -> Counts:
    """Count every frame once.

    Args:
        scores: (N,), finite.
        labels: (N,), 0 or 1.
    """
    truth, reached = _falling(scores, labels.astype(np.int64), bits=1)
    hits = _cumulated(truth)[reached]
    return Counts(hits, reached - hits)


def rank(scores: Scores, labels: npt.NDArray[np.integer], video: Integers) -> Ranking:
    """The frames of several videos, sorted.

    Args:
        scores, labels: as for `count`.
        video: (N,), from 0.
    """
    tags, reached = _falling(scores, 2 * video + labels, bits=int(video.max(initial=0)).bit_length() + 1)
    return Ranking(tags & 1, tags >> 1, reached)


def aurocs(scores: npt.NDArray[np.float32], labels: npt.NDArray[np.integer]) -> Values:
    """AUROC of many rows of scores under the same labels.

    Args:
        scores: (R, N), in float32 as frame scores are kept: what is equal there is a tie and counts half.
        labels: (N,), 0 or 1.

    Returns:
        (R,) fractions; NaN when only one class is present.

    Raises:
        DataError: a score is not finite, or a label is neither 0 nor 1.
    """
    if not np.isfinite(scores).all():
        raise DataError("a score is not finite, so it has no rank. Look at the loss of the run.")
    if not np.isin(labels, (0, 1)).all():
        raise DataError(f"labels must be 0 (normal) or 1 (abnormal), found {np.unique(labels)[:5].tolist()}.")
    truth = labels.astype(np.int64)
    found = [count(row, truth).auroc() for row in scores.astype(np.float32, copy=False)]
    return np.array(found, np.float64)  # None becomes NaN


def _falling(scores: Scores, tags: Integers, bits: int) -> tuple[Integers, Integers]:
    """Tags in the order of falling scores, and how many frames reach each distinct score, 0 first.

    Score and tag are one integer, so that one sort of plain numbers orders both: several times faster than `argsort`.

    Args:
        tags: (N,), from 0 to 2 ** bits - 1.
    """
    falling = 0 - scores  # and there is no -0
    if falling.dtype == np.float32:
        keys = falling.view(np.int32).astype(np.int64)
        keys ^= (keys >> 63) & 0x7FFFFFFF  # the bits of negative numbers run backwards; now keys rank as scores do
    else:
        keys = np.unique(falling, return_inverse=True)[1]
    keys = keys << bits | tags
    keys.sort()
    ranks = keys >> bits
    is_new = np.ones(len(keys) + 1, np.bool_)
    np.not_equal(ranks[1:], ranks[:-1], out=is_new[1:-1])
    return keys & ((1 << bits) - 1), np.flatnonzero(is_new)


def _cumulated(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """(N,) -> (N + 1,) sums of the first 0 to N."""
    sums = np.zeros(len(values) + 1, values.dtype)
    np.cumsum(values, out=sums[1:])
    return sums
