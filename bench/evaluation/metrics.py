"""Frame-level metrics: pure functions on scores and labels, in float64. Reads and writes nothing.

Scores: higher = more abnormal, any scale (rankings are all that counts). Labels: 1 = abnormal. `bench.evaluation.roc`
and, for the average precision, scikit-learn compute; these functions fix what happens where the textbook definition
ends. torchmetrics is not an option: it passes scores outside [0, 1] through a sigmoid, which changes their ranking.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from amsrc.errors import DataError
from bench.evaluation.roc import count

Number = TypeVar("Number", np.float64, np.int64)


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
    return count(*_checked(scores, labels)).auroc()


def average_precision(scores: npt.ArrayLike, labels: npt.ArrayLike) -> float | None:
    """Area under the precision-recall steps, abnormal as the positive class; arguments as for `auroc`."""
    from sklearn.metrics import average_precision_score

    values, truth = _checked(scores, labels)
    both = len(np.unique(truth)) == 2
    return float(average_precision_score(truth, values)) if both else None


def equal_error(scores: npt.ArrayLike, labels: npt.ArrayLike) -> tuple[float | None, float | None]:
    """Equal error rate, and the F1 of the abnormal frames at its threshold (`bench.evaluation.roc.Counts.equal_error`).

    Returns:
        Two fractions in [0, 1]; None when only one class is present.

    Raises:
        DataError: as for `auroc`.
    """
    return count(*_checked(scores, labels)).equal_error()


def pooled_auroc(scores: Mapping[str, npt.ArrayLike], labels: Mapping[str, npt.ArrayLike]) -> float | None:
    """AUROC over the frames of all videos, concatenated without rescaling per video: the paper's metric.

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
    """Scores and labels of all videos, concatenated in the order of their names: (N,) each, checked.

    Raises:
        DataError: the videos differ, or as for `auroc`.
    """
    pairs = by_video(scores, labels)
    return end_to_end((values for values, _ in pairs), np.float64), end_to_end((truth for _, truth in pairs), np.int64)


def end_to_end(videos: Iterable[npt.NDArray[np.generic]], dtype: type[Number]) -> npt.NDArray[Number]:
    """The values of all videos, (N,) each, concatenated; empty without a video."""
    return np.concatenate([np.zeros(0, dtype), *videos], dtype=dtype)


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


def stretches(flags: npt.NDArray[np.uint8] | npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Runs of ones as (start, end), the end excluded."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flags.astype(np.int8), [0]])))
    return [(int(start), int(end)) for start, end in zip(edges[::2], edges[1::2], strict=True)]
