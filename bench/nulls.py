"""Scores that need no training: the rows every learned method has to beat.

Each takes the cubes of a split and gives one score a cube, (n,) float32, higher = more abnormal; from there
on it goes through the same fusion, smoothing and evaluation as any method.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from amsrc.store import Cubes

CHUNK = 2048


def flow_magnitude(cubes: Cubes) -> npt.NDArray[np.float32]:
    """Mean length of the cube's flow vectors, over its flows and pixels, native pixels per frame."""
    scores = [np.empty(0, np.float32)]
    for start in range(0, len(cubes), CHUNK):
        flows = cubes.flows(np.arange(start, min(start + CHUNK, len(cubes)))).astype(np.float32)
        scores.append(np.hypot(flows[:, :, 0], flows[:, :, 1]).mean((1, 2, 3)))
    return np.concatenate(scores)


NULLS: dict[str, Callable[[Cubes], npt.NDArray[np.float32]]] = {"flow-magnitude": flow_magnitude}
