"""Tiny made-up cube stores: textures that drift at their flow's speed, abnormal ones several times as fast.

A few dozen cubes of 16 pixels, so that a training takes a second and still has something to learn.
"""

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from amsrc.cubes import FrameCubes
from amsrc.store import CubeStore, Split, digest, seal, write_shard
from bench.data.stores import store_path
from bench.experiment.config import Experiment, cube_key, derive, dump, flatten
from bench.experiment.recipes import build

SIZE = 16
FRAMES = 40
TRAIN = ("01", "02")
TEST = ("03", "04", "05")
ABNORMAL = range(18, 32)
"""Abnormal frames of the test videos; the last test video is normal throughout."""


class Killed(BaseException):
    """Ends a training as a kill does: nothing in the program catches it."""


def an_experiment(recipe: str = "amsrc", seed: int = 0, **parts: dict[str, Any]) -> Experiment:
    """A recipe on `toy-ped2`, shrunk to a second; `parts` as for `bench.experiment.config.derive`."""
    base = build(recipe, "toy-ped2", seed)
    small: dict[str, dict[str, Any]] = {
        "cube": {"size": SIZE},
        "train": {"epochs": 4, "batch": 16, "score_every": 1},
    }
    if "model.width" in flatten(base):
        small["model"] = {"width": 2}
    return derive(derive(base, **small), **parts)


def write_store(home: Path, experiment: Experiment, *, content: int = 0, train_cubes: int = 40) -> CubeStore:
    """A sealed store where `prepare` would have put it.

    Args:
        content: another number, other pixels.
        train_cubes: cubes of each training video, one a frame.
    """
    path = store_path(home, experiment)
    shape = (experiment.cube.frames, 3, SIZE, SIZE)
    shards: dict[Split, Any] = {"train": [], "test": []}
    for (split, video), cubes in _made(content, train_cubes).items():
        shards[split].append(write_shard(path, split, video, cubes, FRAMES, shape))
    about = {
        "dataset": experiment.dataset,
        "partial": experiment.partial,
        "cube_key": cube_key(experiment),
        "cube": dump(experiment)["cube"],
        "sources": {},
    }
    seal(path, shards, {**about, "labels": {"official": write_labels(path, labels())}})
    return CubeStore(path)


def write_labels(path: Path, found: dict[str, np.ndarray]) -> str:
    """Put labels into a store; gives the file's digest."""
    np.savez_compressed(path / "labels-official.npz", allow_pickle=False, **found)
    return digest(path / "labels-official.npz")


def write_regions(path: Path, found: dict[str, np.ndarray]) -> str:
    """Put abnormal regions into a sealed store; gives the file's digest."""
    np.savez_compressed(path / "regions.npz", allow_pickle=False, **found)
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["regions"] = digest(path / "regions.npz")
    (path / "manifest.json").write_text(json.dumps(manifest))
    return manifest["regions"]


def labels() -> dict[str, np.ndarray]:
    """Labels by test video, uint8 (FRAMES,)."""
    found = {video: np.zeros(FRAMES, np.uint8) for video in TEST}
    for video in TEST[:-1]:
        found[video][ABNORMAL] = 1
    return found


@cache
def _made(content: int, train_cubes: int) -> dict[tuple[Split, str], list[FrameCubes]]:
    """The cubes of each video: made once, written many times."""
    random = np.random.default_rng(content)
    videos: list[tuple[Split, str]] = [*(("train", video) for video in TRAIN), *(("test", video) for video in TEST)]
    return {(split, video): list(_cubes(random, split, video, train_cubes)) for split, video in videos}


def _cubes(random: np.random.Generator, split: Split, video: str, train_cubes: int) -> Iterator[FrameCubes]:
    """One cube a frame in training, two in testing; every seventh test frame has none."""
    for index in range(train_cubes if split == "train" else FRAMES):
        abnormal = split == "test" and bool(labels()[video][index])
        speeds = [random.uniform(2.5, 3.5) if abnormal else random.uniform(0.3, 1.0)]
        speeds += [random.uniform(0.3, 1.0)] if split == "test" else []
        if split == "test" and index % 7 == 3:
            continue
        made = [_cube(random, speed) for speed in speeds]
        boxes = random.uniform(0, 50, (len(made), 4)).astype(np.float32)
        yield FrameCubes(index, boxes, np.stack([m[0] for m in made]), np.stack([m[1] for m in made]))


def _cube(random: np.random.Generator, speed: float) -> tuple[np.ndarray, np.ndarray]:
    """Five frames (T, C, H, W) of a texture that moves to the right, and its four flows."""
    texture = ndimage.gaussian_filter(random.uniform(0, 255, (3, SIZE, 2 * SIZE)), (0, 1.5, 1.5), mode="wrap")
    frames = np.stack([ndimage.shift(texture, (0, 0, t * speed), order=1, mode="grid-wrap") for t in range(5)])
    flows = np.zeros((4, 2, SIZE, SIZE), np.float16)
    flows[:, 0] = speed + random.normal(0, 0.05, (4, SIZE, SIZE))
    return frames[..., :SIZE].astype(np.uint8), flows
