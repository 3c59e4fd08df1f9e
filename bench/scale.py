"""What a cell asks of each resource, from its frames, cubes and steps.

Counts and bytes are those of the code as it is; seconds come from measured rates. Plain arithmetic; imports neither
torch nor Ray.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from amsrc.config import CubeConfig, ModelConfig
from bench.config import Experiment
from bench.pseudo import KINDS, PSEUDO_CUBES, STATISTICS_CUBES

FLOAT = 4  # bytes of a gradient or weight


# -- counts --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Work:
    """How much of everything a whole cell does."""

    trained: float
    """Cubes trained on, over all epochs."""
    between: float
    """Cubes scored between epochs, by all workers together."""
    after: float
    """Cubes scored once it is trained, by one process."""
    steps: float
    """Of the optimiser, over all epochs."""


def work(e: Experiment, train: int, test: int) -> Work:
    """The work of a cell.

    Args:
        train, test: cubes of the two splits.
    """
    held_out = e.train.held_out * train
    pseudo = (1 + len(KINDS)) * min(PSEUDO_CUBES, held_out)
    scored = (e.train.epochs - 1) // e.train.score_every if e.train.score_every else 0
    an_epoch = test + min(STATISTICS_CUBES, train) + pseudo
    return Work(
        trained=e.train.epochs * (train - held_out),
        between=scored * an_epoch,
        after=train + test + pseudo,
        steps=e.train.epochs * (train - held_out) / e.train.batch,
    )


def parameters(model: ModelConfig, cube: CubeConfig) -> int:
    """Parameters of the network that `amsrc.model` builds: convolutions with their biases, and BatchNorm."""
    history, widths = cube.frames - 1, [model.width * factor for factor in (1, 2, 4, 8)]

    def conv(i: int, o: int, kernel: int = 9, norm: bool = True) -> int:
        return i * o * kernel + o + (2 * o if norm else 0)

    def double(i: int, o: int) -> int:
        return conv(i, o) + conv(o, o)

    found = sum(double(i, o) for i, o in zip([history * model.channels, *widths], widths, strict=False))
    if model.fusion != "none":
        found += sum(conv(i, o) for i, o in zip([2 * history, *widths], widths, strict=False))
    if model.fusion == "concat":
        found += conv(2 * widths[-1], widths[-1], kernel=1, norm=False)
    for i, o in pairwise(reversed(widths)):
        found += conv(i, o, kernel=4, norm=False) + double(i, o)
    return found + conv(widths[0], model.channels, kernel=1, norm=False)


def cube_bytes(cube: CubeConfig, channels: int) -> int:
    """Bytes of a stored cube: uint8 frames, float16 flows, its box and the number of its frame."""
    area = cube.size**2
    return cube.frames * channels * area + (cube.frames - 1) * 2 * area * 2 + 4 * 4 + 4


def gradient_bytes(parameters: int, workers: int) -> float:
    """Bytes that each worker sends, and receives, in the all-reduce of a step: a ring over all workers."""
    return FLOAT * parameters * 2 * (workers - 1) / workers


def checkpoint_bytes(parameters: int, epochs: int) -> int:
    """Bytes written by all epochs' checkpoints: weights and Adam's two moments, each in place of the one before."""
    return 3 * FLOAT * parameters * epochs


# -- time ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Preparing:
    """Seconds of one core."""

    frame: float
    """To decode a frame and find its flow and boxes."""
    cube: float
    """To cut a cube, resize it and write it."""

    def seconds(self, frames: float, cubes: float) -> float:
        """Of one core, for all of these."""
        return frames * self.frame + cubes * self.cube
