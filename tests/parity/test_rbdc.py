"""RBDC and TBDC against a slow restatement, and against what an independent program counts.

The counts in `tests/data/regions/ssvad.json` are those of py-ssvad-metrics 1.0.0, which does not import beside this
project's versions of pydantic and NumPy. It merges boxes that touch and knows one track a frame; the cases have
neither.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from bench.evaluation.rbdc import Boxes, curve, detection_areas

CASES = json.loads((Path(__file__).parents[1] / "data" / "regions" / "ssvad.json").read_text())["cases"]


def iou(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def counts(boxes, regions, threshold):
    """Regions found, tracks found and false positives under a threshold, box by box.

    Args:
        boxes: by video, rows of frame, four corners, score.
        regions: by video, rows of frame, four corners, track.
    """
    found, false, tracks = 0, 0, {}
    for video in regions:
        shown = [row for row in boxes[video] if row[5] >= threshold]
        for row in shown:
            near = [region for region in regions[video] if region[0] == row[0]]
            false += not any(iou(row[1:5], region[1:5]) >= 0.1 for region in near)
        for region in regions[video]:
            hit = any(row[0] == region[0] and iou(row[1:5], region[1:5]) >= 0.1 for row in shown)
            found += hit
            tracks.setdefault((video, region[5]), []).append(hit)
    return found, sum(sum(hits) >= 0.1 * len(hits) for hits in tracks.values()), false, len(tracks)


def slow_areas(boxes, regions, frames):
    """Both areas, from the counts under every threshold."""
    everything = sum(map(len, regions.values()))
    points = [(0.0, 0.0, 0.0)]
    for threshold in sorted({row[5] for rows in boxes.values() for row in rows}, reverse=True):
        found, on_track, false, tracks = counts(boxes, regions, threshold)
        points.append((false / frames, found / everything, on_track / tracks))
    areas = [0.0, 0.0]
    for (x0, *low), (x1, *high) in zip(points, [*points[1:], (max(1.0, points[-1][0]), *points[-1][1:])], strict=True):
        for which in (0, 1):
            if x0 >= 1:
                continue
            end = min(x1, 1.0)
            part = (end - x0) / (x1 - x0) if x1 > x0 else 0.0
            top = low[which] + part * (high[which] - low[which])
            areas[which] += (end - x0) * (low[which] + top) / 2
    return areas


def as_boxes(rows):
    table = np.array(rows, float).reshape(-1, 6)
    return Boxes(table[:, 0].astype(int), table[:, 1:5], table[:, 5])


def made_up(seed):
    """Boxes and regions of three videos of ten frames, with ties and overlaps."""
    rng = np.random.default_rng(seed)

    def rows(number, last):
        corner, size = rng.uniform(0, 30, (number, 2)), rng.uniform(4, 20, (number, 2))
        return np.column_stack([rng.integers(0, 10, number), corner, corner + size, last])

    boxes = {
        video: rows(number, rng.integers(0, 12, number) / 4).tolist()
        for video, number in zip("abc", (35, 0, 20), strict=True)
    }
    regions = {}
    for video, number in zip("abc", (12, 7, 0), strict=True):
        found = rows(number, rng.integers(0, 3, number)).round()
        regions[video] = found[np.argsort(found[:, 0], kind="stable")].astype(int).tolist()
    return boxes, regions


@pytest.mark.parametrize("seed", range(20))
def test_areas_are_those_of_a_slow_restatement(seed):
    boxes, regions = made_up(seed)
    fast = detection_areas(
        {video: as_boxes(rows) for video, rows in boxes.items()},
        {video: np.array(rows, np.int32).reshape(-1, 6) for video, rows in regions.items()},
        30,
    )
    np.testing.assert_allclose(fast, slow_areas(boxes, regions, 30), atol=1e-12)


@pytest.mark.parametrize("case", CASES, ids=range(len(CASES)))
def test_counts_are_those_of_an_independent_program(case):
    for threshold, (found, regions, false, frames, on_track, tracks) in case["counts"].items():
        ours = counts({"v": case["boxes"]}, {"v": case["regions"]}, float(threshold))
        assert ours == (found, on_track, false, tracks)
        assert (len(case["regions"]), case["frames"]) == (regions, frames)


def test_there_is_a_point_of_the_curve_for_every_score():
    rate, share = curve(np.array([0.9, -np.inf, 0.3]), np.array([0.5, 0.3]), 10)
    assert rate.tolist() == [0.0, 0.0, 0.1, 0.2]
    np.testing.assert_allclose(share, [0, 1 / 3, 1 / 3, 2 / 3])
