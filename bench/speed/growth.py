"""How costs grow with the size of what is handled, at four sizes each, fitted and drawn; and that memory does not.

A cost that grows as size to the power p shows as a line of slope p with both axes logarithmic; p up to 1 is linear.
"""

from __future__ import annotations

import multiprocessing
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from amsrc import boxes, flow
from amsrc.config import CubeConfig
from amsrc.cubes import cut
from amsrc.store import Cubes, Shard
from bench.data.prepare import prepare_video
from bench.records.speeds import Row
from bench.speed.network import Stepping, timed_experiment
from bench.speed.synthetic import cubes_of_noise, sparse_cubes, video_of_walkers
from bench.speed.timing import CPU, Settings, row, timed
from bench.training.memory import peak_memory_gib, watch_memory
from bench.training.scoring import device_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FRAMES = (12, 24, 48, 96)
BOXES = (4, 16, 64, 256)
CUBES = (128, 256, 512, 1024)
KIND = "360x240 grey jpg"
WIDTH = 16
STORED = (4_096, 65_536, 400_000, 1_200_000)
"""Cubes of stores without content; the last as many as ShanghaiTech has to train on."""
STEPS, SCORED = 30, 4_096


def growing(quick: bool) -> Iterator[Row]:
    """Seconds for all of it: preparing by frames, cutting by boxes, an epoch and its scoring by cubes."""
    one_core, all_of_it = (CPU, 1), (device_of(), None)
    for stage, of, sizes, (device, threads), seconds_of in (
        ("prepare", "frames", FRAMES, one_core, _preparing),
        ("cut", "boxes a frame", BOXES, one_core, _cutting),
        ("train", "cubes", CUBES, all_of_it, _training),
        ("score", "cubes", CUBES, all_of_it, _scoring),
    ):
        for size in sizes:
            settings: Settings = {"of": of, "size": size}
            yield row(f"growth: {stage}", seconds_of(size, quick), settings, device, threads=threads)


def _preparing(frames: int, quick: bool) -> list[float]:
    cube = CubeConfig()
    with tempfile.TemporaryDirectory() as name:
        video = video_of_walkers(Path(name), KIND, frames)
        ways = boxes.moving(cube.boxes), flow.dis(cube.flow)
        return timed(lambda: prepare_video(Path(name) / "store", "train", video, cube, *ways), quick, CPU)


def _cutting(number: int, quick: bool) -> list[float]:
    """The same boxes in every frame, of people's size, at random places."""
    random, cube = np.random.default_rng(0), CubeConfig()
    with tempfile.TemporaryDirectory() as name:
        frames = list(video_of_walkers(Path(name), KIND, FRAMES[0]).read())
    height, width = frames[0].shape[:2]
    corner = random.uniform(0, [width - 20, height - 40], (number, 2))
    found = np.hstack([corner, corner + np.array([20, 40])]).astype(np.float32)
    still = np.zeros((height, width, 2), np.float32)
    return timed(lambda: list(cut("01", frames, lambda _: found, lambda _: still, cube)), quick, CPU)


def _training(number: int, quick: bool) -> list[float]:
    with cubes_of_noise(number, CubeConfig()) as cubes:
        e, device = timed_experiment(WIDTH), device_of()
        stepping = Stepping(cubes, e, device)

        def epoch() -> None:
            for _ in range(number // e.train.batch):
                stepping.step()

        return timed(epoch, quick, device)


def _scoring(number: int, quick: bool) -> list[float]:
    with cubes_of_noise(number, CubeConfig()) as cubes:
        stepping = Stepping(cubes, timed_experiment(WIDTH), device_of())
        return timed(stepping.score, quick, stepping.device)


# -- what the rows say ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Growth:
    """One cost at several sizes."""

    stage: str
    of: str
    sizes: tuple[int, ...]
    seconds: tuple[float, ...]

    @property
    def exponent(self) -> float:
        """p of the fitted cost = constant x size^p."""
        return float(np.polyfit(np.log(self.sizes), np.log(self.seconds), 1)[0])


def read(rows: Sequence[Row]) -> list[Growth]:
    """The costs among measured rows."""
    found: dict[tuple[str, str], list[tuple[int, float]]] = {}
    for each in rows:
        if each.stage.startswith("growth: "):
            key = each.stage.removeprefix("growth: "), str(each.settings["of"])
            found.setdefault(key, []).append((int(each.settings["size"]), each.median))
    return [Growth(*key, *zip(*sorted(points), strict=True)) for key, points in found.items()]


def draw(rows: Sequence[Row]) -> Figure | None:
    """Cost over size, with the fitted exponent, a panel a cost; None where nothing was measured."""
    from bench.figures.style import drawn

    costs = read(rows)

    @drawn
    def panels(figure: Figure) -> bool:
        figure.set_size_inches(2.4 * len(costs), 2.6)
        for axes, cost in zip(figure.subplots(1, len(costs), squeeze=False)[0], costs, strict=True):
            sizes = np.array(cost.sizes)
            linear = cost.seconds[0] * sizes / sizes[0]
            axes.loglog(sizes, linear, color="0.6", linestyle="--", label="linear")
            axes.loglog(sizes, cost.seconds, color="black", marker="o", label=f"size^{cost.exponent:.2f}")
            axes.set_title(cost.stage)
            axes.set_xlabel(cost.of)
            axes.set_xticks(sizes, [f"{size}" for size in cost.sizes])
            axes.minorticks_off()
            axes.legend()
        figure.axes[0].set_ylabel("seconds")
        return True

    return panels() if costs else None


# -- memory --------------------------------------------------------------------------------------------------


def remembering(quick: bool) -> Iterator[Row]:
    """Largest resident memory, in MB, of a process that trains on and scores cubes of stores of growing size.

    Batches come from all over the store; the files are sparse, so that they need no disk.
    """
    context = multiprocessing.get_context("spawn")
    for number in STORED:
        with tempfile.TemporaryDirectory() as name:
            cubes = sparse_cubes(Path(name), number, CubeConfig())
            with ProcessPoolExecutor(1, context) as pool:
                peak = pool.submit(_remembered, cubes.folder, cubes.shards, WIDTH, STEPS, SCORED).result()
            settings: Settings = {"cubes": number, "GB on disk": round(cubes.nbytes / 1e9, 1), "width": WIDTH}
            settings |= {"KB a cube": round(cubes.nbytes / number / 1e3, 1), "steps": STEPS, "scored": SCORED}
        if peak is not None:  # not Linux
            yield row("memory: train and score", [peak], settings, CPU, unit="MB")


def _remembered(folder: Path, shards: list[Shard], width: int, steps: int, scored: int) -> float | None:
    watch_memory(CPU)
    cubes = Cubes(folder, shards)
    stepping = Stepping(cubes, timed_experiment(width), device_of())
    for _ in range(min(steps, len(cubes) // stepping.experiment.train.batch)):
        stepping.step()
    stepping.score(np.random.default_rng(0).permutation(len(cubes))[:scored])
    peak = peak_memory_gib(CPU)
    return None if peak is None else peak * 2**30 / 1e6
