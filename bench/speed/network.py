"""How fast cubes are trained on and scored, next to the reference, and how near to what the machine allows."""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from amsrc.config import CubeConfig, ModelConfig
from amsrc.store import Cubes, CubeStore, Shard
from bench.evaluation.evaluate import evaluate
from bench.experiment.config import Experiment, derive
from bench.experiment.recipes import build
from bench.methods.interface import Scores
from bench.methods.reader import SCORING_BATCH, Index, Reader
from bench.records.speeds import Row
from bench.speed import reference, roofline
from bench.speed.synthetic import cubes_of_noise, store_of_noise
from bench.speed.timing import Settings, in_turns, repeats, row
from bench.training.launch import fit
from bench.training.loop import batches
from bench.training.memory import keep_freed_memory
from bench.training.scoring import Scorer, arithmetic, device_of
from bench.training.scoring import build as build_learner

WIDTHS = (16, 64)
CUBES = 512  # made-up ones, 32 KB each
CELL_CUBES, CELL_EPOCHS = (256, 384), 3  # of a whole run: training and test cubes in about the ratio of Ped2
PACKED = (1, 2, 4, 8)  # runs at the same time; on a CPU no more than it has cores
PACKED_STEPS = 10
PEER_S = 300.0
"""For how long packed runs wait for each other before a repeat."""
_barrier: Any = None  # for that wait, in each of their processes


def machine(quick: bool) -> Iterator[Row]:
    """What the hardware does at most: products of matrices, a large convolution, copying."""
    device = device_of()
    for precision in dict.fromkeys(("fp32", arithmetic("auto", device)[0])):
        for name, rate in _compute(device, precision, quick).items():
            done = rate.amount / 1e9, "GFLOP"
            yield row(f"machine: {name}", rate.seconds, {"precision": precision}, device, handled=done)
    rate = _copy(device, quick)
    yield row("machine: copy", rate.seconds, {}, device, handled=(rate.amount / 1e9, "GB"))


@cache
def _compute(device: torch.device, precision: str, quick: bool) -> dict[str, roofline.Rates]:
    kinds = {"matmul": roofline.matmul, "convolution": roofline.convolution}
    return {name: measure(device, precision, quick) for name, measure in kinds.items()}


@cache
def _copy(device: torch.device, quick: bool) -> roofline.Rates:
    return roofline.copy(device, quick)


def _limit(
    config: ModelConfig, cube: CubeConfig, precision: str, device: torch.device, quick: bool, training: bool
) -> tuple[float, str]:
    """Cubes/s that the faster of the two ways to multiply and the copying allow."""
    flop_per_s = max(rate.per_s for rate in _compute(device, precision, quick).values())
    asked = roofline.work(config, cube, precision, training)
    return roofline.limit(*asked, flop_per_s, _copy(device, quick).per_s)


def train_and_score(quick: bool) -> Iterator[Row]:
    """Cubes per second of a training step as `bench.training.loop` takes it, and of scoring, by width."""
    with cubes_of_noise(CUBES, CubeConfig()) as cubes:
        for width in WIDTHS:
            yield from _one_width(cubes, timed_experiment(width), quick)


def timed_experiment(width: int) -> Experiment:
    """What is timed: AMSRC of this width, everything else as the paper has it on ped2."""
    return derive(build("amsrc", "ped2"), model={"width": width, "flow_scale": (1.0, 1.0)}, train={"held_out": 0.0})


def _one_width(cubes: Cubes, e: Experiment, quick: bool) -> Iterator[Row]:
    device, train, cube, config = device_of(), e.train, e.cube, e.settings.model
    precision, _ = arithmetic(train.precision, device)
    stepping = Stepping(cubes, e, device)
    plain, loader = reference.Trainer(config.width, device), _batches_of(cubes, train.batch)
    settings: Settings = {"method": e.method, "width": config.width, "batch": train.batch}
    settings |= {"frames": cube.frames, "size": cube.size, "fusion": config.fusion, "precision": precision}

    seconds, slower = in_turns([stepping.step, lambda: plain.step(next(loader))], quick, device)
    most = _limit(config, cube, precision, device, quick, training=True)
    handled = train.batch, "cubes"
    yield row("train", seconds, settings, device, handled=handled, reference=slower, limit=most)

    ways: list[Callable[[], object]] = [stepping.score, lambda: plain.scores(cubes)]
    seconds, slower = in_turns(ways, quick, device)
    most = _limit(config, cube, precision, device, quick, training=False)
    settings, handled = {**settings, "batch": SCORING_BATCH[device.type]}, (len(cubes), "cubes")
    yield row("score", seconds, settings, device, handled=handled, reference=slower, limit=most)


class Stepping:
    """The training step of `bench.training.loop`, and its scoring, to be called alone."""

    def __init__(self, cubes: Cubes, e: Experiment, device: torch.device) -> None:
        keep_freed_memory()
        self.experiment, self.device, self.learner = e, device, build_learner(e, device)
        self.turns = self.learner.begin(e.learned_method.phases[0])
        self.networks = dict(self.learner.networks.items())
        self.reader, self.order = Reader(cubes, device), forever(len(cubes), e.train.batch)

    def step(self) -> None:
        """One batch."""
        self.learner.networks.train()
        batch = self.reader.batch(next(self.order))
        for turn, optimiser in self.turns.items():
            loss = self.learner.losses(self.networks, batch, turn)["loss"]
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()

    def score(self, rows: Index | None = None) -> Scores:
        """The parts of the score of all cubes, or of these."""
        scorer = Scorer(self.experiment, self.learner, self.device)
        return scorer(self.reader if rows is None else self.reader.only(rows))


def _batches_of(cubes: Cubes, batch: int) -> Iterator[Any]:
    """Shuffled batches of single cubes for ever."""
    loader = DataLoader(reference.CubeDataset(cubes), batch, shuffle=True)
    while True:
        yield from loader


def cell(quick: bool) -> Iterator[Row]:
    """Seconds from a sealed store to a record, scored at the end alone (rule `paper`) or every epoch (`oracle`)."""
    device = device_of()
    precision, _ = arithmetic("auto", device)
    for width in WIDTHS[:1] if quick else WIDTHS:
        with tempfile.TemporaryDirectory() as name:
            cells: dict[str, Experiment] = {}
            for scored, every in (("at the end", 0), ("every epoch", 1)):
                train = {"epochs": CELL_EPOCHS, "batch": 128, "score_every": every, "held_out": 0.0}
                cells[scored] = derive(build("amsrc", "toy-ped2"), model={"width": width}, train=train)
            store = CubeStore(store_of_noise(Path(name), cells["every epoch"], *(n // 2 for n in CELL_CUBES)))
            calls = [_Run(e, store, Path(name) / str(every)) for every, e in enumerate(cells.values())]
            other = reference.Trainer(width, device)
            ways: list[Callable[[], object]] = [*calls, partial(other.fit, store, CELL_EPOCHS)]
            found = in_turns(ways, quick, device, at_least_s=0.0)
        for scored, seconds in zip(cells, found, strict=False):
            settings: Settings = {"width": width, "scored": scored, "epochs": CELL_EPOCHS, "held out": 0}
            settings |= dict(zip(("training cubes", "test cubes"), CELL_CUBES, strict=True)) | {"precision": precision}
            yield row("store to record", seconds, settings, device, reference=found[-1])


class _Run:
    """A whole run, in a folder of its own each time."""

    def __init__(self, experiment: Experiment, store: CubeStore, folder: Path) -> None:
        self.experiment, self.store, self.folder, self.times = experiment, store, folder, 0

    def __call__(self) -> None:
        self.times += 1
        home = self.folder / str(self.times)
        fit(self.experiment, self.store, home)
        evaluate(self.experiment, self.store, home, home / "results")


def packed(quick: bool) -> Iterator[Row]:
    """Total cubes per second of runs that train on this device at the same time and share a CPU's cores."""
    device, cores = device_of(), torch.get_num_threads()
    on_cpu, (precision, _) = device.type == "cpu", arithmetic("auto", device)
    with cubes_of_noise(CUBES, CubeConfig()) as cubes:
        for width in WIDTHS[:1] if quick and on_cpu else WIDTHS:
            for cells in (n for n in PACKED if n <= cores or not on_cpu):
                seconds = _trained_at_once(cubes, width, cells, max(1, cores // cells), repeats(quick))
                settings: Settings = {"cells": cells, "width": width, "batch": 128, "precision": precision}
                done = 128 * PACKED_STEPS * cells, "cubes"
                yield row("train packed", seconds, settings, device, handled=done, threads=cores)


def _trained_at_once(cubes: Cubes, width: int, cells: int, threads: int, times: int) -> list[float]:
    """Seconds of each repeat, from the first run's start to the last one's end; every repeat starts together."""
    work = cubes.folder, cubes.shards, width, threads, times
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(cells, context, _meet_at, (context.Barrier(cells),)) as pool:
        trained = [pool.submit(_one_of_several, *work) for _ in range(cells)]
        spans = [one.result() for one in trained]  # a process that died is an error here
    return [max(end for _, end in repeat) - min(start for start, _ in repeat) for repeat in zip(*spans, strict=True)]


def _meet_at(barrier: Any) -> None:
    global _barrier
    _barrier = barrier


def _one_of_several(
    folder: Path, shards: list[Shard], width: int, threads: int, times: int
) -> list[tuple[float, float]]:
    """When this process began and ended each repeat."""
    torch.set_num_threads(threads)
    device = device_of()
    stepping = Stepping(Cubes(folder, shards), timed_experiment(width), device)

    def steps() -> tuple[float, float]:
        _barrier.wait(PEER_S)
        started = time.monotonic()
        for _ in range(PACKED_STEPS):
            stepping.step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return started, time.monotonic()

    steps()  # warms up
    return [steps() for _ in range(times)]


def forever(cubes: int, batch: int) -> Iterator[np.ndarray[Any, np.dtype[np.int64]]]:
    """Whole batches of one epoch after the other, in the order of `bench.training.loop`."""
    epoch = 0
    while True:
        epoch += 1
        yield from (rows for rows, _ in batches(cubes, batch, 0, epoch) if len(rows) == batch)
