"""Region-based and track-based detection criteria, RBDC and TBDC, of scored boxes. Pure functions; no torch.

Source: B. Ramachandra and M. Jones, *Street Scene: A new dataset and evaluation protocol for video anomaly detection*,
WACV 2020, section 3: a region of the ground truth is detected when a detected region of its frame overlaps it with
an intersection over union of BETA or more; a detected region that overlaps none of its frame's so is a false positive;
a track is detected when a part ALPHA or more of its regions is.

Regions here are boxes; those of the ground truth come from `bench.data.regions`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bench.data.regions import Regions

ALPHA = 0.1
BETA = 0.1

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Boxes:
    """Scored boxes of one video.

    Attributes:
        frame: (n,) number of the frame within the video.
        corners: (n, 4).
        score: (n,), higher = more abnormal.
    """

    frame: npt.NDArray[np.integer]
    corners: npt.NDArray[np.floating]
    score: Floats


def detection_areas(
    boxes: Mapping[str, Boxes], regions: Mapping[str, Regions], frames: int
) -> tuple[float | None, float | None]:
    """RBDC and TBDC: the shares of regions and of tracks detected, averaged over false positives per frame from 0 to 1.

    The shares are those under every threshold on the boxes' scores, joined by straight lines; fewer false positives
    than one a frame under any threshold leave the last share as it is up to there.

    Args:
        boxes: by video.
        regions: by video, as `regions_of`. Both only of the frames that are measured.
        frames: how many these are.

    Returns:
        Fractions in [0, 1]; None where nothing is abnormal.
    """
    parts = [_matched(boxes[video], found) for video, found in sorted(regions.items())]
    found = np.concatenate([np.zeros(0), *(scores for scores, _ in parts)])
    false = np.concatenate([np.zeros(0), *(scores for _, scores in parts)])
    tracks = [_track_scores(scores, regions[video]) for video, (scores, _) in zip(sorted(regions), parts, strict=True)]
    if not len(found):
        return None, None
    return area(*curve(found, false, frames)), area(*curve(np.concatenate(tracks), false, frames))


def _matched(boxes: Boxes, regions: Regions) -> tuple[Floats, Floats]:
    """The largest score of the boxes that detect each region (-inf without any), and those of false positives."""
    order = np.argsort(boxes.frame, kind="stable")
    frame, corners, score = boxes.frame[order], boxes.corners[order].astype(np.float64), boxes.score[order]
    low, high = (np.searchsorted(frame, regions[:, 0], side) for side in ("left", "right"))
    region = np.repeat(np.arange(len(regions)), high - low)  # each region with every box of its frame
    box = np.arange(len(region)) - np.repeat(np.cumsum(high - low) - high, high - low)
    hit = overlaps(corners[box], regions[region, 1:5].astype(np.float64)) >= BETA
    found = np.full(len(regions), -np.inf)
    np.maximum.at(found, region[hit], score[box[hit]])
    false = np.ones(len(frame), np.bool_)
    false[box[hit]] = False
    return found, score[false]


def overlaps(ours: Floats, theirs: Floats) -> Floats:
    """Intersection over union of boxes, pair by pair: (n, 4) and (n, 4) -> (n,); 0 where both are empty."""
    sides = np.minimum(ours[:, 2:], theirs[:, 2:]) - np.maximum(ours[:, :2], theirs[:, :2])
    shared = np.maximum(sides, 0).prod(1)
    together = sum((corners[:, 2:] - corners[:, :2]).prod(1) for corners in (ours, theirs)) - shared
    part: Floats = np.divide(shared, together, out=np.zeros(len(shared)), where=together > 0)
    return part


def _track_scores(found: Floats, regions: Regions) -> Floats:
    """The highest threshold under which enough regions of each track are detected; -inf where there is none."""
    return np.array([_enough(found[regions[:, 5] == track]) for track in np.unique(regions[:, 5])])


def _enough(found: Floats) -> float:
    needed = max(1, int(np.ceil(ALPHA * len(found) - 1e-9)))
    return float(np.sort(found)[-needed])


def curve(found: Floats, false: Floats, frames: int) -> tuple[Floats, Floats]:
    """False positives per frame and the detected share, both from 0, under every threshold from the highest down.

    Args:
        found: the threshold from which on each region (or track) is detected, -inf for never; one or more.
        false: scores of the false positives.
        frames: number of frames.
    """
    thresholds = np.unique(np.concatenate([found[np.isfinite(found)], false]))[::-1]
    rate, share = (
        (len(scores) - np.searchsorted(np.sort(scores), thresholds, "left")) / whole
        for scores, whole in ((false, frames), (found, len(found)))
    )
    return np.concatenate([[0.0], rate]), np.concatenate([[0.0], share])


def area(rate: Floats, share: Floats) -> float:
    """Area under a curve of `curve` between no and one false positive per frame."""
    inside = int(np.searchsorted(rate, 1.0, "right"))
    end = share[inside - 1]
    if inside < len(rate):
        part = (1 - rate[inside - 1]) / (rate[inside] - rate[inside - 1])
        end += part * (share[inside] - end)
    return float(np.trapezoid([*share[:inside], end], [*rate[:inside], 1.0]))
