"""Figures from the frame scores next to the records: intervals and differences.

Reads `results/scores`; writes nothing. A record whose frame scores are not there gets none of these. NumPy alone.
"""

from __future__ import annotations

from collections.abc import Sequence

from bench.evaluation import bootstrap
from bench.evaluation.bootstrap import Difference
from bench.records.records import Labels, RunRecord, Scores, frame_scores_path, read_frame_scores
from bench.storage.places import Place


def interval(results: Place, runs: Sequence[RunRecord]) -> tuple[float, float] | None:
    """95 % interval over test videos of the mean AUROC of runs on the same videos (`bootstrap`), in fractions.

    Raises:
        DataError: frame scores are damaged, or the runs were measured on different frames.
    """
    if len(runs) == 1 and isinstance(known := runs[0].metrics.get("auroc_interval"), list):
        return known[0], known[1]
    found = _read(results, runs)
    return None if found is None else bootstrap.auroc_interval(*found)


def difference(results: Place, ours: Sequence[RunRecord], theirs: Sequence[RunRecord]) -> Difference | None:
    """Our mean AUROC minus theirs with its paired interval; None where the two were not measured on the same frames.

    Raises:
        DataError: as for `interval`.
    """
    found, against = _read(results, ours), _read(results, theirs)
    if found is None or against is None or not _same(found[1], against[1]):
        return None
    return bootstrap.difference(found[0], against[0], found[1])


def _read(results: Place, runs: Sequence[RunRecord]) -> tuple[list[Scores], Labels] | None:
    """The scores of each run and the labels of all; None where some are not kept, or the labels differ."""
    if not runs or not all(_is_there(results, run) for run in runs):
        return None
    read = [read_frame_scores(results, run) for run in runs]
    labels = read[0][1]
    return ([scores for scores, _ in read], labels) if all(_same(labels, other) for _, other in read) else None


def _same(ours: Labels, theirs: Labels) -> bool:
    return list(ours) == list(theirs) and all(ours[video].tobytes() == theirs[video].tobytes() for video in ours)


def _is_there(results: Place, record: RunRecord) -> bool:
    return frame_scores_path(results, record).is_file()
