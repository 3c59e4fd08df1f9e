"""What a cell asks of each resource, from its frames, cubes and steps: one model for dry runs and for the forecast.

Counts and bytes are those of the code as it is; seconds come from rates that a caller has measured or assumes. A stage
lasts as long as the resource that it keeps busy longest, as if all else happened meanwhile: the least that it can take.
Plain arithmetic; imports neither torch nor Ray.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from amsrc.config import CubeConfig, ModelConfig
from bench.config import Experiment
from bench.pseudo import KINDS, PSEUDO_CUBES, STATISTICS_CUBES
from bench.selection import CHOICES, SHARES

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
    tried: int
    """Fusions of all test cubes that the curve and the rules measure."""


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
        tried=len(SHARES) + (scored + 1) * (1 + len(CHOICES)),
    )


@dataclass(frozen=True)
class Network:
    """Size of the network, as `amsrc.model` builds it."""

    parameters: int
    multiply_adds: int
    """Of one cube forwards."""


def network(model: ModelConfig, cube: CubeConfig) -> Network:
    """Parameters and multiply-adds of the convolutions, biases and BatchNorm counted among the former."""
    w, side, history = model.width, cube.size, cube.frames - 1
    wide = [w, 2 * w, 4 * w, 8 * w]
    sides = [side >> level for level in range(4)]
    found: list[tuple[int, int]] = []

    def conv(i: int, o: int, at: int, kernel: int = 9, norm: bool = True) -> None:
        found.append((i * o * kernel + o + (2 * o if norm else 0), i * o * kernel * at * at))

    for i, o, at in zip([history * model.channels, *wide], wide, sides, strict=False):
        conv(i, o, at)
        conv(o, o, at)
    if model.fusion != "none":
        for i, o, at in zip([2 * history, *wide], wide, sides, strict=False):
            conv(i, o, at)
    if model.fusion == "concat":
        conv(16 * w, 8 * w, sides[3], kernel=1, norm=False)
    for i, o, at in zip(wide[:0:-1], wide[-2::-1], sides[-2::-1], strict=True):
        found.append((4 * i * o + o, i * o * at * at))  # transposed, 2x2 at stride 2: one tap a pixel
        conv(i, o, at)
        conv(o, o, at)
    conv(w, model.channels, side, kernel=1, norm=False)
    parameters, multiply_adds = map(sum, zip(*found, strict=True))
    return Network(parameters, multiply_adds)


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


@dataclass(frozen=True)
class Load:
    """A data set and a recipe on it."""

    frames: int
    videos: int
    train: int
    """Cubes."""
    test: int
    cube_bytes: int
    network: Network
    work: Work

    @property
    def store_bytes(self) -> int:
        return (self.train + self.test) * self.cube_bytes


@dataclass(frozen=True, kw_only=True)
class Rates:
    """What a place does in a second; whoever makes one says what of it was measured."""

    preparing: Preparing
    train: float
    """Cubes of one worker."""
    score: float
    prepare_kept: float = 1.0
    """Part of its speed that each of several cores keeps."""
    train_kept: float = 1.0
    """Part of its speed that each of several workers keeps."""
    score_kept: float = 1.0
    step_s: float
    """Seconds that a step takes at least, however few cubes a worker has in it."""
    gradients: float
    """Bytes that a worker exchanges with the next."""
    fetch: float
    """Bytes of the store that a node takes from the network."""
    copy: float
    """Bytes that it copies and digests meanwhile."""
    read: float
    """Bytes of random batches that a worker gathers from its node's copy."""
    read_alone: float
    """The same of the process that scores at the end, while its cell's other workers have nothing to read."""
    fuse_s: float
    """Seconds to fuse and measure one test cube under one pair of weights."""


@dataclass(frozen=True)
class Stage:
    """A part of the work and how long it keeps each resource busy."""

    name: str
    busy: Mapping[str, float]
    """Seconds by resource."""

    @property
    def seconds(self) -> float:
        return max(self.busy.values())

    @property
    def limit(self) -> str:
        """The resource that saturates."""
        return max(self.busy, key=self.busy.__getitem__)


def stages(load: Load, rates: Rates, workers: int, cores: int) -> list[Stage]:
    """Everything from the videos to the record, in order, for one cell of so many workers.

    Args:
        cores: that prepare, a video at a time each.
    """
    w, size, several = load.work, load.cube_bytes, workers > 1
    devices = "devices" if several else "device"
    kept = (rates.train_kept, rates.score_kept) if several else (1.0, 1.0)
    at_once = 1 if min(cores, load.videos) == 1 else min(cores, load.videos) * rates.prepare_kept
    prepared = rates.preparing.seconds(load.frames, load.train + load.test) / at_once
    trained = {
        devices: w.trained / (workers * rates.train * kept[0]),
        "step latency": w.steps * rates.step_s,
        "gradient exchange": w.steps * gradient_bytes(load.network.parameters, workers) / rates.gradients,
        "store read": w.trained * size / (workers * rates.read),
    }
    between = {
        devices: w.between / (workers * rates.score * kept[1]),
        "store read": w.between * size / (workers * rates.read),
    }
    after = {"device": w.after / rates.score, "store read": w.after * size / rates.read_alone}
    return [
        Stage("prepare", {"cores" if cores < load.videos else "number of videos": prepared}),
        Stage("fetch", {"network": load.store_bytes / rates.fetch, "digests": load.store_bytes / rates.copy}),
        Stage("train", trained),
        Stage("score epochs", between),
        Stage("score", after),
        Stage("choose", {"one core": w.tried * load.test * rates.fuse_s}),
    ]


def longest(found: Sequence[Stage]) -> Stage:
    """The stage that takes the most time: what its limit is, is what more of would help first."""
    return max(found, key=lambda stage: stage.seconds)
