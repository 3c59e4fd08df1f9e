"""How fast videos become cubes, by part and whole, next to one process that crops box by box; and reading them back."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import numpy as np

from amsrc import boxes, flow
from amsrc.config import CubeConfig, TrainConfig
from amsrc.cubes import cut, moments
from amsrc.files import digest
from amsrc.store import write_shard
from bench.data.prepare import prepare_video
from bench.data.readers import Video
from bench.records.speeds import Row
from bench.speed import reference
from bench.speed.network import forever
from bench.speed.synthetic import SCENES, video_of_walkers, write_noise
from bench.speed.timing import CPU, Settings, in_turns, row, timed

STORED_CUBES = 4096  # more than a processor's cache holds
FRAMES = 48  # of a made-up video


def preparing(quick: bool) -> Iterator[Row]:
    """Preparing on one core by part, then whole: frames per second, and cubes per second of cutting and writing."""
    threads, cube = cv2.getNumThreads(), CubeConfig()
    cv2.setNumThreads(1)  # as `prepare_video` does
    try:
        for kind in SCENES:
            with tempfile.TemporaryDirectory() as name:
                yield from _one_video(Path(name), kind, cube, quick)
    finally:
        cv2.setNumThreads(threads)


def _one_video(folder: Path, kind: str, cube: CubeConfig, quick: bool) -> Iterator[Row]:
    video, store = video_of_walkers(folder, kind, FRAMES), folder / "store"
    frames = list(video.read())
    shots = list(moments(video.name, frames))
    boxes_of, flow_of = boxes.moving(cube.boxes), flow.dis(cube.flow)
    found, flows = [boxes_of(shot) for shot in shots], [flow_of(shot) for shot in shots]

    def cubes_cut() -> list[Any]:
        return list(cut(video.name, frames, lambda shot: found[shot.index], lambda shot: flows[shot.index], cube))

    made, number = cubes_cut(), sum(map(len, found))
    shape = made[0].frames_MTCHW.shape[1:]
    settings = of_video(frames[0].shape, kind) | {"cubes a frame": round(number / FRAMES, 1)}
    parts: dict[str, tuple[Callable[[], object], tuple[float, str], Settings]] = {
        "decode": (lambda: list(video.read()), (FRAMES, "frames"), {}),
        "flow": (lambda: [flow_of(shot) for shot in shots], (FRAMES, "frames"), {"flow": f"dis {cube.flow.preset}"}),
        "boxes": (lambda: [boxes_of(shot) for shot in shots], (FRAMES, "frames"), {"boxes": "motion"}),
        "cut": (cubes_cut, (number, "cubes"), {}),
        "write": (lambda: write_shard(store, "train", "01", made, FRAMES, shape), (number, "cubes"), {}),
    }
    taken = {}
    for part, (call, handled, more) in parts.items():
        taken[part] = timed(call, quick, CPU)
        yield row(f"prepare: {part}", taken[part], settings | more, CPU, handled=handled, threads=1)
    whole = partial(prepare_video, store, "train", video, cube, boxes_of, flow_of)
    seconds, reference = in_turns([whole, partial(prepared_by_reference, folder, video, cube)], quick, CPU)
    best = FRAMES / sum(median(taken[part]) for part in ("decode", "flow")), "decode and flow alone"
    handled = FRAMES, "frames"
    yield row("prepare", seconds, settings, CPU, handled=handled, threads=1, reference=reference, limit=best)


def prepared_by_reference(folder: Path, video: Video, cube: CubeConfig) -> None:
    """The whole of a video as the reference prepares it."""
    ways = boxes.moving(cube.boxes), flow.dis(cube.flow)
    pictures, motions = reference.cut_video(video.name, video.read(), *ways)
    np.save(folder / "frames.npy", pictures)
    np.save(folder / "flows.npy", motions)


def of_video(shape: tuple[int, ...], kind: str) -> Settings:
    """What a row says of a made-up video."""
    return {"video": kind, "pixels": shape[0] * shape[1], "channels": shape[2]}


def reading(quick: bool) -> Iterator[Row]:
    """MB per second of gathering random batches from the memory map, and of copying a store with its digests."""
    cube, batch = CubeConfig(), TrainConfig().batch
    with tempfile.TemporaryDirectory() as name:
        source = Path(name) / "noise"
        cubes = write_noise(source, STORED_CUBES, cube)
        order, megabytes = forever(len(cubes), batch), cubes.nbytes / 1e6

        def gather() -> None:
            rows = next(order)
            cubes.frames(rows), cubes.flows(rows)

        def fill() -> None:
            copy = Path(shutil.copytree(source, Path(name) / "copy", dirs_exist_ok=True))
            for path in copy.rglob("*.npy"):
                digest(path)

        seconds = timed(gather, quick, CPU)
        settings: Settings = {"from": "page cache", "batch": batch, "MB": round(megabytes)}
        yield row("store read", seconds, settings, CPU, handled=(megabytes * batch / len(cubes), "MB"), threads=1)
        settings = {"from": "page cache", "MB": round(megabytes)}
        yield row("store copy", timed(fill, quick, CPU), settings, CPU, handled=(megabytes, "MB"), threads=1)
