"""Abnormal regions: the connected regions of a video's pixel masks and the tracks they form. No torch.

Regions are the boxes around the connected parts of a frame's mask; parts of neighbouring frames that share a pixel
belong to one track. Boxes are (x0, y0, x1, y1) in native pixels, the right and lower edge excluded.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

COLUMNS = ("frame", "x0", "y0", "x1", "y1", "track")
"""What a row of `regions_of` holds."""

Regions = npt.NDArray[np.int32]


def regions_of(masks: Iterable[npt.NDArray[np.bool_]]) -> Regions:
    """The abnormal regions of a video and the tracks they form.

    Args:
        masks: (H, W) a frame, in order, True where abnormal.

    Returns:
        (R, 6) int32, COLUMNS, in order of frames; parts touch by edge or corner. Tracks are numbered from 0.
    """
    import cv2
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    rows: list[npt.NDArray[np.int32]] = []
    links: list[npt.NDArray[np.int64]] = []
    before, first, count = None, 0, 0  # the parts of the frame before, the number of its first, parts so far
    for frame, mask in enumerate(masks):
        if not mask.any():
            before = None
            continue
        parts, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
        left, top, width, height = stats[1:, :4].T  # the first is what is not abnormal
        rows.append(np.stack([np.full(parts - 1, frame), left, top, left + width, top + height], 1).astype(np.int32))
        if before is not None:
            both = (labels > 0) & (before > 0)
            pairs = np.unique(np.stack([before[both], labels[both]], 1), axis=0)
            links.append(pairs + np.array([first - 1, count - 1]))
        before, first, count = labels, count, count + parts - 1
    if not count:
        return np.zeros((0, len(COLUMNS)), np.int32)
    one, other = np.concatenate([np.zeros((0, 2), np.int64), *links]).T
    graph = coo_array((np.ones(len(one), np.bool_), (one, other)), shape=(count, count))
    _, track = connected_components(graph, directed=False)
    return np.column_stack([np.concatenate(rows), track]).astype(np.int32)
