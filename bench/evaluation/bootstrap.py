"""How much a figure depends on the test videos: bootstrap intervals of the pooled AUROC, and of a difference of two.

Videos are drawn with replacement, not frames: neighbouring frames are nearly the same. The draws depend on the number
of videos alone, so that two methods measured on the same videos are compared draw by draw. Pure functions, NumPy alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bench.evaluation.metrics import pooled
from bench.evaluation.roc import Ranking, rank

DRAWS = 10_000
LEVEL = 0.95
SEED = 0

Floats = npt.NDArray[np.float64]
ByVideo = Mapping[str, npt.ArrayLike]


@dataclass(frozen=True)
class Difference:
    """By how much one method is ahead of another on the same videos, in fractions."""

    mean: float
    low: float
    high: float

    @property
    def is_real(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low > 0 or self.high < 0


def auroc_interval(runs: Sequence[ByVideo], labels: ByVideo) -> tuple[float, float] | None:
    """95 % percentile interval of the pooled AUROC over draws of videos; of the mean over runs (seeds).

    Args:
        runs: scores by video, (N,), of one or more runs.
        labels: by video, (N,), 0 or 1.

    Returns:
        Two fractions in [0, 1]; None with fewer than two videos, or when only one class is present.

    Raises:
        DataError: videos or lengths differ, or a score is not finite.
    """
    return _interval(_mean_aurocs(runs, labels, draws(len(labels))), labels)


def difference(ours: Sequence[ByVideo], theirs: Sequence[ByVideo], labels: ByVideo) -> Difference | None:
    """Our mean pooled AUROC minus theirs with its 95 % interval, from the same draws for both (paired bootstrap).

    Arguments, None and errors as for `auroc_interval`.
    """
    times = np.concatenate([np.ones((1, len(labels))), draws(len(labels))])
    ahead = _mean_aurocs(ours, labels, times) - _mean_aurocs(theirs, labels, times)
    ends = _interval(ahead[1:], labels)
    return None if ends is None else Difference(float(ahead[0]), *ends)


def _mean_aurocs(runs: Sequence[ByVideo], labels: ByVideo, times: Floats) -> Floats:
    found: Floats = np.mean([ranked(scores, labels).aurocs(times) for scores in runs], axis=0)
    return found


def ranked(scores: ByVideo, labels: ByVideo) -> Ranking:
    """All frames in the order of falling scores, of videos that are numbered in the order of their names.

    Raises:
        DataError: as for `auroc_interval`.
    """
    lengths = np.array([len(np.asarray(labels[video])) for video in sorted(labels)], np.int64)
    return rank(*pooled(scores, labels), np.repeat(np.arange(len(lengths)), lengths))


def draws(videos: int) -> Floats:
    """How often each video is in each draw: (DRAWS, V)."""
    if not videos:
        return np.zeros((DRAWS, 0))
    counts = np.random.default_rng(SEED).multinomial(videos, np.full(videos, 1 / videos), DRAWS)
    return counts.astype(np.float64)


def _interval(drawn: Floats, labels: ByVideo) -> tuple[float, float] | None:
    """Percentile interval over the draws in which both classes occur; None without any, or for a single video."""
    known = drawn[np.isfinite(drawn)]
    if len(labels) < 2 or not len(known):
        return None
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
