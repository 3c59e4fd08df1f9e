"""How far the test videos carry a figure: bootstrap intervals of the pooled AUROC, and of a difference of two.

Videos are drawn with replacement, not frames: neighbouring frames are nearly the same. The draws depend on the number
of videos alone, so that two methods measured on the same videos are compared draw by draw. Pure functions, NumPy alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bench.metrics import by_video

DRAWS = 10_000
LEVEL = 0.95
SEED = 0

Floats = npt.NDArray[np.float64]
ByVideo = Mapping[str, npt.ArrayLike]


@dataclass(frozen=True)
class Difference:
    """What one method is ahead of another on the same videos, in fractions."""

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
    return _interval(np.mean([drawn_aurocs(scores, labels) for scores in runs], axis=0), labels)


def difference(ours: Sequence[ByVideo], theirs: Sequence[ByVideo], labels: ByVideo) -> Difference | None:
    """Our mean pooled AUROC minus theirs with its 95 % interval, from the same draws for both (paired bootstrap).

    Arguments, None and errors as for `auroc_interval`.
    """
    drawn, whole = (
        np.mean([own(scores, labels) for scores in ours], axis=0)
        - np.mean([own(scores, labels) for scores in theirs], axis=0)
        for own in (drawn_aurocs, _whole)
    )
    ends = _interval(drawn, labels)
    return None if ends is None else Difference(float(whole[0]), *ends)


def drawn_aurocs(scores: ByVideo, labels: ByVideo) -> Floats:
    """Pooled AUROC of each of DRAWS draws of videos, NaN where one class is missing; exact, ties count half."""
    return _aurocs(scores, labels, draws(len(scores)))


def _whole(scores: ByVideo, labels: ByVideo) -> Floats:
    return _aurocs(scores, labels, np.ones((1, len(scores))))


def draws(videos: int) -> Floats:
    """How often each video is in each draw: (DRAWS, V)."""
    if not videos:
        return np.zeros((DRAWS, 0))
    counts = np.random.default_rng(SEED).multinomial(videos, np.full(videos, 1 / videos), DRAWS)
    return counts.astype(np.float64)


def _aurocs(scores: ByVideo, labels: ByVideo, draws: Floats) -> Floats:
    """AUROC under each draw, from the pairs of frames in the right order counted once for each pair of videos."""
    pairs = by_video(scores, labels)
    abnormal = [np.sort(values[truth == 1]) for values, truth in pairs]
    normal = [np.sort(values[truth == 0]) for values, truth in pairs]
    won = np.array([[_won(ours, theirs) for theirs in normal] for ours in abnormal]).reshape(len(pairs), len(pairs))
    sizes = (draws @ np.array([len(part) for part in kind], np.float64) for kind in (abnormal, normal))
    compared = np.multiply(*sizes)
    right = np.einsum("di,ij,dj->d", draws, won, draws, optimize=True)
    found: Floats = np.divide(right, compared, out=np.full(len(draws), np.nan), where=compared > 0)
    return found


def _won(abnormal: Floats, normal: Floats) -> float:
    """Pairs in which the abnormal frame scores higher, ties counting half; both sorted."""
    return float(sum(np.searchsorted(normal, abnormal, side).sum() for side in ("left", "right")) / 2)


def _interval(drawn: Floats, labels: ByVideo) -> tuple[float, float] | None:
    """Percentile interval over the draws in which both classes occur. A single video tells nothing of others."""
    known = drawn[np.isfinite(drawn)]
    if len(labels) < 2 or not len(known):
        return None
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
