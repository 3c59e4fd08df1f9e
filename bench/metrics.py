"""Frame-level metrics: pure functions on scores and labels, in float64. Reads and writes nothing.

Scores: higher = more abnormal, any scale (rankings are all that counts). Labels: 1 = abnormal. scikit-learn
computes; these functions fix what happens where the textbook definition ends. torchmetrics is not an option:
it passes scores outside [0, 1] through a sigmoid, which changes their ranking.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from amsrc.errors import DataError


def auroc(scores: npt.ArrayLike, labels: npt.ArrayLike) -> float | None:
    """Area under the ROC curve: how often an abnormal frame scores above a normal one, ties counting half.

    Args:
        scores: (N,).
        labels: (N,), 0 or 1.

    Returns:
        A fraction in [0, 1]; None when only one class is present.

    Raises:
        DataError: lengths differ, a score is not finite, or a label is neither 0 nor 1.
    """
    from sklearn.metrics import roc_auc_score

    values, truth = _checked(scores, labels)
    return float(roc_auc_score(truth, values)) if _both(truth) else None


def average_precision(scores: npt.ArrayLike, labels: npt.ArrayLike) -> float | None:
    """Area under the precision-recall steps, abnormal as the positive class; arguments as for `auroc`."""
    from sklearn.metrics import average_precision_score

    values, truth = _checked(scores, labels)
    return float(average_precision_score(truth, values)) if _both(truth) else None


def equal_error(scores: npt.ArrayLike, labels: npt.ArrayLike) -> tuple[float | None, float | None]:
    """Equal error rate, and the F1 of the abnormal frames at its threshold; arguments as for `auroc`.

    The rate is where the straight lines between the points of the ROC curve cross equal shares of false alarms and of
    misses. The threshold is the score (a frame that reaches it counts as abnormal) under which the two shares are
    closest, of equally close ones the highest.

    Returns:
        Two fractions in [0, 1]; None when only one class is present.

    Raises:
        DataError: as for `auroc`.
    """
    values, truth = _checked(scores, labels)
    if not _both(truth):
        return None, None
    order = np.argsort(-values, kind="stable")
    last = np.flatnonzero(np.diff(values[order], append=-np.inf))  # of the frames with an equal score
    hits, abnormal = np.cumsum(truth[order])[last], int(truth.sum())
    alarms, normal = last + 1 - hits, len(truth) - abnormal
    gap = alarms * abnormal - (abnormal - hits) * normal  # of the two shares, times a constant: exact in integers
    rate = np.interp(0.0, [-abnormal * normal, *gap], [0.0, *(alarms / normal)])
    at = int(np.argmin(np.abs(gap)))
    return float(rate), float(2 * hits[at] / (hits[at] + alarms[at] + abnormal))


def pooled_auroc(scores: Mapping[str, npt.ArrayLike], labels: Mapping[str, npt.ArrayLike]) -> float | None:
    """AUROC of all videos laid end to end, no rescaling per video: the paper's metric.

    Args:
        scores: by video, (N,).
        labels: by video, (N,).

    Raises:
        DataError: the videos differ, or as for `auroc`.
    """
    return auroc(*pooled(scores, labels))


def macro_auroc(scores: Mapping[str, npt.ArrayLike], labels: Mapping[str, npt.ArrayLike]) -> tuple[float | None, int]:
    """Mean AUROC over the videos in which both classes occur, and the number of those videos.

    Videos of one class are left out rather than padded with artificial frames, which flatters every method.

    Returns:
        The mean (None when there is no such video) and the number.

    Raises:
        DataError: the videos differ, or as for `auroc`.
    """
    each = [auroc(values, truth) for values, truth in by_video(scores, labels)]
    defined = [value for value in each if value is not None]
    return (float(np.mean(defined)) if defined else None), len(defined)


def pooled(
    scores: Mapping[str, npt.ArrayLike], labels: Mapping[str, npt.ArrayLike]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Scores and labels of all videos laid end to end in the order of their names: (N,) each, checked.

    Raises:
        DataError: the videos differ, or as for `auroc`.
    """
    pairs = by_video(scores, labels)
    values = [np.zeros(0, np.float64), *(pair[0] for pair in pairs)]
    truth = [np.zeros(0, np.int64), *(pair[1] for pair in pairs)]
    return np.concatenate(values), np.concatenate(truth)


def by_video(
    scores: Mapping[str, npt.ArrayLike], labels: Mapping[str, npt.ArrayLike]
) -> list[tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]]:
    """Scores and labels of each video in the order of their names, checked: pairs of (N,).

    Raises:
        DataError: the videos differ, or as for `auroc`.
    """
    if different := sorted(set(scores) ^ set(labels)):
        raise DataError(f"scores and labels must cover the same videos; only one of them has: {', '.join(different)}.")
    return [_checked(scores[video], labels[video], f"video {video}: ") for video in sorted(scores)]


def percent(fraction: float | None) -> str:
    """A fraction as text: `93.21`, or `-` where there is none."""
    return "-" if fraction is None else f"{100 * fraction:.2f}"


def _checked(
    scores: npt.ArrayLike, labels: npt.ArrayLike, where: str = ""
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    values, truth = np.asarray(scores, np.float64), np.asarray(labels)
    if values.ndim != 1 or values.shape != truth.shape:
        raise DataError(f"{where}{values.shape} scores for {truth.shape} labels; one score a frame is needed.")
    if not np.isfinite(values).all():
        bad = int(np.flatnonzero(~np.isfinite(values))[0])
        raise DataError(f"{where}score {bad} is {values[bad]}; scores must be finite. Look at the loss of the run.")
    if not np.isin(truth, (0, 1)).all():
        raise DataError(f"{where}labels must be 0 (normal) or 1 (abnormal), found {np.unique(truth)[:5].tolist()}.")
    return values, truth.astype(np.int64)


def _both(truth: npt.NDArray[np.int64]) -> bool:
    """Whether normal and abnormal frames both occur."""
    return len(np.unique(truth)) == 2
