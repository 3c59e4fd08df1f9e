"""How long everything around the network takes: fusion, metrics, tables, start-up, Ray, MLflow, several workers."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from amsrc import boxes, flow
from amsrc.config import CubeConfig, ScoreConfig
from amsrc.errors import RunError
from amsrc.fuse import Fuser, statistics
from amsrc.store import CubeStore
from bench import ROOT
from bench.data.prepare import prepare_video
from bench.data.readers import Video
from bench.evaluation.roc import aurocs
from bench.evaluation.selection import SHARES, fusion_curve
from bench.experiment.config import Experiment, derive
from bench.experiment.recipes import build
from bench.experiment.specs import SPECS
from bench.methods.reader import SCORING_BATCH
from bench.methods.trivial import flow_magnitude
from bench.records.run_folder import Epoch
from bench.records.speeds import Row
from bench.speed.network import CUBES, WIDTHS
from bench.speed.preparing import FRAMES, of_video, prepared_by_reference
from bench.speed.synthetic import SCENES, cubes_of_noise, store_of_noise, video_of_walkers
from bench.speed.timing import CPU, Settings, in_turns, repeats, row, timed
from bench.tables import tables
from bench.training.held_out import STATISTICS_CUBES
from bench.training.launch import fit
from bench.training.scoring import device_of

WORKERS = (1, 2, 4, 8)  # no more than there are CPUs, or GPUs
VIDEOS = 2  # that a worker prepares one after the other
TEST_CUBES = {"ped2": 34_715, "shanghaitech": 203_955}
"""Test cubes of a data set: ped2's as counted in `results/records`, shanghaitech's assumed to be five a frame."""
COMMANDS = {"--help": ["--help"], "tables --check": ["tables", "--check"]}


def null_row(quick: bool) -> Iterator[Row]:
    """Cubes per second of the score that needs no training."""
    with cubes_of_noise(CUBES, CubeConfig()) as cubes:
        found = timed(lambda: flow_magnitude(cubes, seed=0), quick, CPU)
    yield row("null", found, {"method": "flow-magnitude"}, CPU, handled=(CUBES, "cubes"), threads=1)


def fusion_search(quick: bool) -> Iterator[Row]:
    """Seconds for the AUROC of all shares of the fusion curve, at the size of two data sets' test splits."""
    random = np.random.default_rng(0)
    for dataset, cubes in TEST_CUBES.items():
        lengths = SPECS[dataset].per_video["test"]
        place = np.sort(random.integers(0, sum(lengths.values()), cubes))  # frame of each cube, videos end to end
        starts = np.cumsum([0, *lengths.values()])
        video = np.searchsorted(starts, place, side="right") - 1
        config = ScoreConfig(weights=(1.0, 0.01))
        fuser = Fuser.of(video, place - starts[video], list(lengths.values()), config)
        labels = {
            name: random.integers(0, 2, scored).astype(np.uint8)
            for name, scored in zip(lengths, fuser.lengths, strict=True)
        }
        first, second = random.normal(0, 1, (2, cubes)).astype(np.float32)
        scores = {"first": first, "second": second}
        epoch = Epoch(1, scores, statistics(scores), None)
        seconds = timed(partial(fusion_curve, fuser, list(lengths), epoch, labels), quick, CPU)
        settings: Settings = {"size of": dataset, "cubes": cubes, "frames": int(starts[-1]), "shares": len(SHARES)}
        yield row("fusion search", seconds, settings, CPU, threads=1)


def one_auroc(quick: bool) -> Iterator[Row]:
    """Seconds for one AUROC over the test frames of a data set, next to scikit-learn's."""
    from sklearn.metrics import roc_auc_score

    random = np.random.default_rng(0)
    for dataset in TEST_CUBES:
        frames = sum(SPECS[dataset].per_video["test"].values())
        scores, labels = random.normal(0, 1, (1, frames)).astype(np.float32), random.integers(0, 2, frames)
        ways = [partial(aurocs, scores, labels), partial(roc_auc_score, labels, scores[0])]
        seconds, reference = in_turns(ways, quick, CPU)
        yield row("AUROC", seconds, {"size of": dataset, "frames": frames}, CPU, threads=1, reference=reference)


def making_tables(quick: bool) -> Iterator[Row]:
    """Seconds for all tables of the records of this project."""
    results = ROOT / "results"
    records = len(list((results / "records").glob("*/*/*.json")))
    seconds = timed(lambda: tables.build(results), quick, CPU)
    yield row("tables", seconds, {"records": records}, CPU, threads=1)


def starting(quick: bool) -> Iterator[Row]:
    """Seconds of a whole command, from the shell and back."""
    for name, words in COMMANDS.items():
        command = [sys.executable, "-m", "bench", *words]

        def call(command: Sequence[str] = command) -> None:
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
            if done.returncode not in (0, 1):  # 1: the tables are stale, which takes as long to find
                raise RunError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr}")

        yield row("start-up", timed(call, quick, CPU), {"command": name}, CPU, threads=1)


def cell_overhead(quick: bool) -> Iterator[Row]:
    """Seconds that a run takes beyond its training and scoring in a warm sweep, and seconds of logging it to MLflow.

    Runs of a tiny network on a few made-up cubes, one after the other in one reused actor: from the end of one run to
    the end of the next, less what its log says of training and its record of scoring.
    """
    from bench.cluster.machine import Packing
    from bench.records.records import RunRecord
    from bench.sweeps.grid import Cell, Trial
    from bench.sweeps.run import evidence
    from bench.sweeps.trials import Job, run_trials
    from bench.tracking.runs import open_tracker

    class Clock:
        """Notes when each trial ends (`bench.sweeps.trials.Watch`)."""

        ends: ClassVar[list[float]] = []
        records: ClassVar[list[RunRecord]] = []

        def started(self, trial: Trial) -> None: ...

        def epoch(self, trial: Trial, line: Mapping[str, Any]) -> None: ...

        def ended(self, trial: Trial, records: Sequence[RunRecord]) -> None:
            self.ends.append(time.perf_counter())
            self.records.extend(records)

    with tempfile.TemporaryDirectory() as name:
        folder, number = Path(name), repeats(quick) + 1  # the first one starts the actor
        cells = [Cell(tiny(seed), store_of_noise(folder, tiny(0))) for seed in range(number)]
        trials = [Trial(i, (cell,)) for i, cell in enumerate(cells)]
        job, clock = Job(folder / "home", folder / "results"), Clock()
        run_trials(trials, number, job, Packing(1, 1, 0.0), clock, folder=folder / "tune")
        if broken := [record.error for record in clock.records if record.status != "done"]:
            raise RunError(f"a made-up run failed: {broken[0]}")
        used = [sum(record.timings_s[stage] or 0.0 for stage in ("train", "score")) for record in clock.records]
        beyond = [end - before - work for before, end, work in zip(clock.ends, clock.ends[1:], used[1:], strict=False)]
        tracker, logged = open_tracker(folder / "home", f"sqlite:///{folder / 'mlflow.db'}"), []
        parent = tracker.start_sweep("speed", {})
        for cell, record in zip(cells, clock.records, strict=True):
            before = time.perf_counter()
            tracker.log_cell(parent, record, partial(evidence, cell, record, job.home, job.results))
            logged.append(time.perf_counter() - before)
    settings: Settings = {"concurrent": 1, "epochs": 1}
    yield row("cell overhead", beyond, settings, CPU, threads=1)
    yield row("cell logging", logged[1:], {"to": "sqlite", "width": WIDTHS[0]}, CPU)


def tiny(seed: int) -> Experiment:
    """A run that takes about a second."""
    return derive(
        build("amsrc", "toy-ped2", seed), model={"width": WIDTHS[0]}, train={"epochs": 1, "batch": 32, "score_every": 0}
    )


def by_workers(quick: bool) -> Iterator[Row]:
    """The whole preparing, training and scoring by one worker and by several, a CPU thread (or a GPU) each.

    Training is that of `bench.training.loop.fit` with the same batch over all workers: one in this process, several
    through Ray Train. Its first epoch warms up. Scoring is that between two epochs.
    """
    from bench.cluster.connect import connect, resources

    connect()
    have = resources()
    cores, devices = int(have["CPU"]), int(have["GPU"] or have["CPU"])
    for kind in SCENES:
        for workers in (n for n in WORKERS if n <= cores):
            yield _prepared_by(workers, kind, quick)
    for workers in (n for n in WORKERS if n <= devices):
        yield from _trained_by(workers, quick)
    if left_out := [str(n) for n in WORKERS if n > devices]:
        print(f"{', '.join(left_out)} workers: left out, they need as many GPUs or CPUs", flush=True)


def _prepared_by(workers: int, kind: str, quick: bool) -> Row:
    """Frames per second of all workers, each a Ray task after the other, as `bench.data.prepare` runs them."""
    import ray

    cube = CubeConfig()

    @ray.remote(num_cpus=1)
    def task(store: Path, worker: int, video: Video) -> None:
        for number in range(VIDEOS):
            named = replace(video, name=f"{worker}-{number}")
            prepare_video(store, "train", named, cube, boxes.moving(cube.boxes), flow.dis(cube.flow))

    with tempfile.TemporaryDirectory() as name:
        video = video_of_walkers(Path(name), kind, FRAMES)
        shape = next(video.read()).shape

        def all_at_once() -> None:
            ray.get([task.remote(Path(name) / "store", worker, video) for worker in range(workers)])

        # OpenCV has all cores here, as one process would have them.
        ways: list[Callable[[], object]] = [all_at_once, partial(prepared_by_reference, Path(name), video, cube)]
        seconds, *other = in_turns(ways if workers > 1 else ways[:1], quick, CPU)
    reference = [one * workers * VIDEOS for one in other[0]] if other else None
    settings, handled = of_video(shape, kind) | {"workers": workers}, (workers * VIDEOS * FRAMES, "frames")
    return row("prepare by workers", seconds, settings, CPU, handled=handled, threads=1, reference=reference)


def _trained_by(workers: int, quick: bool) -> Iterator[Row]:
    """Cubes per second of all workers, of training and of scoring between epochs, from the log of `fit`."""
    threads = torch.get_num_threads()
    train = {"epochs": repeats(quick) + 2, "batch": 128, "score_every": 1, "held_out": 0.0}
    e = derive(tiny(0), train=train)  # its first epoch warms up, its last one is not scored
    log: list[Mapping[str, Any]] = []
    torch.set_num_threads(1)  # what Ray gives to a worker with one CPU
    try:
        with tempfile.TemporaryDirectory() as name:
            store = CubeStore(store_of_noise(Path(name), e, CUBES // 2))
            fit(e, store, Path(name), workers=workers, report=log.append)
            scored = len(store.test) + min(STATISTICS_CUBES, len(store.train))
    finally:
        torch.set_num_threads(threads)
    settings: Settings = {
        "method": e.method,
        "workers": workers,
        "width": e.settings.model.width,
        "batch": e.train.batch,
    }
    settings |= {"frames": e.cube.frames, "size": e.cube.size, "precision": log[0]["precision"]}
    of_one, device = log[1:-1], device_of()
    seconds = [CUBES / line["cubes_per_s"] for line in of_one]
    yield row("train by workers", seconds, settings, device, handled=(CUBES, "cubes"), threads=1)
    seconds = [line["score_seconds"] for line in of_one]
    settings = {**settings, "batch": SCORING_BATCH[device.type]}
    yield row("score by workers", seconds, settings, device, handled=(scored, "cubes"), threads=1)
