"""Made-up input for measuring speed: cubes of noise, a store of them, videos of people who walk. Reads no data set."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from amsrc.config import CubeConfig
from amsrc.cubes import FrameCubes
from amsrc.errors import RunError
from amsrc.files import digest, write_file
from amsrc.store import SPLITS, Cubes, Shard, Split, seal, write_shard
from bench.data.readers import Video
from bench.data.toy import ARCADE, SQUARE, Clip, film
from bench.experiment.config import Experiment, dump

SPARSE_VIDEO = 4096  # cubes of a video without content
VIDEO = 128  # cubes of a video, so that a batch comes from several files
SCENES = {
    "360x240 grey jpg": (SQUARE, (360, 240), True),
    "640x360 colour avi": (ARCADE, (640, 360), False),
}
"""Scene, size and whether it is grey, of the made-up videos: the sizes and forms of Ped2 and of Avenue."""


@contextmanager
def cubes_of_noise(number: int, cube: CubeConfig) -> Iterator[Cubes]:
    """As `write_noise`, in a folder that is deleted afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        yield write_noise(Path(folder), number, cube)


def write_noise(folder: Path, number: int, cube: CubeConfig) -> Cubes:
    """Cubes of noise with three channels, VIDEO to a shard, memory-mapped."""
    random = np.random.default_rng(0)
    shape = (cube.frames, 3, cube.size, cube.size)
    shards = []
    for first in range(0, number, VIDEO):
        n = min(VIDEO, number - first)
        frames = random.integers(0, 256, (n, *shape), np.uint8)
        flows = random.normal(0, 1, (n, cube.frames - 1, 2, cube.size, cube.size)).astype(np.float16)
        made = FrameCubes(0, np.zeros((n, 4), np.float32), frames, flows)
        shards.append(write_shard(folder, "train", f"{first:06d}", [made], 1, shape))
    return Cubes(folder / "train", shards)


def sparse_cubes(folder: Path, number: int, cube: CubeConfig) -> Cubes:
    """Cubes that are all zero, in files that take no disk."""
    shards = []
    arrays: dict[str, tuple[tuple[int, ...], type]] = {
        "frames": ((cube.frames, 3, cube.size, cube.size), np.uint8),
        "flows": ((cube.frames - 1, 2, cube.size, cube.size), np.float16),
        "boxes": ((4,), np.float32),
        "frame": ((), np.int32),
    }
    for first in range(0, number, SPARSE_VIDEO):
        n, video = min(SPARSE_VIDEO, number - first), f"{first:08d}"
        (folder / "train" / video).mkdir(parents=True)
        for name, (shape, dtype) in arrays.items():
            np.lib.format.open_memmap(folder / "train" / video / f"{name}.npy", "w+", dtype, (n, *shape))
        shards.append(Shard(video, n, n, {}))
    return Cubes(folder / "train", shards)


def store_of_noise(folder: Path, experiment: Experiment, length: int = 32, test_length: int | None = None) -> Path:
    """A sealed store of noise: two training videos and two test videos of a cube a frame, one of them half abnormal.

    Args:
        length: frames, and so cubes, of each video.
        test_length: of each test video, where it differs.
    """
    lengths = {"train": length, "test": test_length or length}
    random, path = np.random.default_rng(0), folder / "store"
    cube = experiment.cube
    shape = (cube.frames, 3, cube.size, cube.size)

    def shard(split: Split, video: str) -> Shard:
        length = lengths[split]
        frames = random.integers(0, 256, (length, *shape), np.uint8)
        flows = random.normal(0, 1, (length, cube.frames - 1, 2, cube.size, cube.size)).astype(np.float16)
        box = np.zeros((1, 4), np.float32)
        made = (FrameCubes(i, box, frames[i : i + 1], flows[i : i + 1]) for i in range(length))
        return write_shard(path, split, video, made, length, shape)

    shards = {split: [shard(split, f"{split}{n}") for n in range(2)] for split in SPLITS}
    content = io.BytesIO()
    half = (np.arange(lengths["test"]) >= lengths["test"] // 2).astype(np.uint8)
    np.savez(content, allow_pickle=False, test0=half, test1=np.zeros_like(half))
    write_file(path / "labels-official.npz", content.getvalue())
    digests = {"official": digest(content.getvalue())}
    about = {"dataset": experiment.dataset, "partial": False, "cube": dump(experiment)["cube"], "sources": {}}
    seal(path, shards, {**about, "labels": digests})
    return path


def video_of_walkers(folder: Path, kind: str, frames: int) -> Video:
    """A video of one of SCENES: a folder of grey JPEGs, or colour in an AVI file (motion JPEG).

    Raises:
        RunError: it cannot be written.
    """
    scene, (width, height), grey = SCENES[kind]
    scale = height / scene.size[1]
    larger = replace(scene, size=(width, height), tall=(scene.tall[0] * scale, scene.tall[1] * scale))
    footage = film(Clip("01", larger, frames), seed=0).frames
    folder.mkdir(parents=True, exist_ok=True)
    if grey:
        path = folder / "01"
        path.mkdir()
        greys = (cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY) for frame in footage)
        written = all(cv2.imwrite(str(path / f"{n:03d}.jpg"), image) for n, image in enumerate(greys))
    else:
        path = folder / "01.avi"
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 25.0, (width, height))
        for frame in footage:
            writer.write(frame)
        writer.release()
        written = path.is_file()
    if not written:
        raise RunError(f"{path}: the made-up video cannot be written. Free some space for temporary files.")
    return Video("01", path, frames, grey)
