"""How fast the parts of the benchmark are on this machine, on made-up cubes and videos through the real code.

    python bench/speed.py [--quick] [--out DIR]

Writes `<out>/<machine>.json` and `<out>/table.md` (all machines measured into that folder so far); reads no data set.
The plan of a sweep takes its hours from these files (`bench.cost`), and so does the forecast in `results/README.md`
(`bench.forecast`): measure with nothing else running.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
import torch

from amsrc import boxes, flow, losses
from amsrc.config import CubeConfig, LossConfig, ModelConfig, ScoreConfig, TrainConfig
from amsrc.cubes import cut, moments
from amsrc.errors import RunError
from amsrc.files import digest, write_file, write_json
from amsrc.fuse import Fuser, Statistics
from amsrc.model import AMSRC
from amsrc.store import Cubes, CubeStore, write_shard
from bench import provenance, tables
from bench.config import Experiment, derive
from bench.cost import Row, read_speed
from bench.layouts import SPECS
from bench.made_up import SCENES, cubes_of_noise, store_of_noise, video_of_walkers, write_noise
from bench.nulls import flow_magnitude
from bench.prepare import prepare_video
from bench.pseudo import STATISTICS_CUBES
from bench.readers import Video
from bench.recipes import build
from bench.scoring import SCORING_BATCH, Feed, arithmetic, device_of, score
from bench.selection import SHARES, Epoch, fusion_curve
from bench.timing import CPU, Settings, repeats, row, timed
from bench.train import batches, fit

WIDTHS = (16, 64)
CUBES = 1024  # made-up ones, 32 KB each
STORED_CUBES = 4096  # more than a processor's cache holds
FRAMES = 48  # of a made-up video
WORKERS = (1, 2)
TEST_CUBES = {"ped2": 34_715, "shanghaitech": 203_955}
"""Test cubes of a data set: ped2's as counted in `results/records`, shanghaitech's assumed to be five a frame."""
HEAD = ("stage", "settings", "on", "median", "spread", "repeats")


def run(out: Path, quick: bool) -> list[Row]:
    """Measure this machine, write the files and print its table.

    Args:
        quick: fewer and shorter repeats.
    """
    rows: list[Row] = []
    busy = os.getloadavg()[0]
    for name, needs, stage in STAGES:
        missing = [package for package in needs if importlib.util.find_spec(package) is None]
        if missing:
            print(f"{name}: left out, {', '.join(missing)} is not installed", flush=True)
            continue
        for found in stage(quick):
            print(" | ".join(_line(found)), flush=True)
            rows.append(found)
    hardware = provenance.hardware()
    path = out / f"{machine(hardware)}.json"
    about = {"measured": datetime.now(UTC).isoformat(timespec="seconds"), "quick": quick, "load_before": busy}
    about |= {"hardware": hardware, "versions": provenance.versions(), "git": provenance.git()}
    write_json(path, {**about, "rows": [asdict(row) for row in rows]})
    text = table(out)
    write_file(out / "table.md", text.encode())
    print(f"\n{text}\nwritten: {path}, {out / 'table.md'}")
    return rows


def machine(hardware: Mapping[str, Any]) -> str:
    """What to call this kind of machine in a file's name: its GPUs, else its CPU and cores."""
    gpus = hardware["gpus"]
    name = f"{gpus[0]} {len(gpus)}" if gpus else f"{hardware['cpu'] or 'cpu'} {hardware['cores']} cores"
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def table(folder: Path) -> str:
    """All that was measured into a folder, in Markdown, a table a machine.

    Raises:
        DataError: a file there is not one of speeds.
    """
    from tabulate import tabulate

    read_speed(folder)  # complains of what is no such file
    parts = ["# Measured speeds\n\nMade by `amsrc-bench speed`. Spread: largest minus smallest of the repeats.\n"]
    for path in sorted(folder.glob("*.json")):
        about = json.loads(path.read_text(encoding="utf-8"))
        hardware, git = about["hardware"], about["git"]
        has = [*hardware["gpus"], f"{hardware['cpu']}, {hardware['cores']} cores, {hardware['memory_gib']} GiB"]
        commit = f"commit {git['sha'][:12]}{' with changes' if git['dirty'] else ''}" if git["sha"] else "no commit"
        quick = ", quick" if about["quick"] else ""
        lines = tabulate(
            [_line(Row(**row)) for row in about["rows"]],
            headers=HEAD,
            tablefmt="github",
            disable_numparse=True,
            colalign=("left", "left", "left", "right", "right", "right"),
        )
        when = f"{about['measured'][:10]}, {commit}{quick}; load before {about['load_before']:.1f}"
        said = f"{'; '.join(has)}; torch {about['versions']['torch']}; {when}"
        parts.append(f"## {path.stem}\n\n{said}\n\n{lines}\n")
    return "\n".join(parts)


def _line(row: Row) -> tuple[str, ...]:
    settings = ", ".join(f"{name} {value}" for name, value in row.settings.items())
    on = "GPU" if row.threads is None else f"{row.threads} CPU thread{'s' if row.threads > 1 else ''}"
    return row.stage, settings, on, f"{_digits(row.median)} {row.unit}", _digits(row.spread), str(row.repeats)


def _digits(value: float) -> str:
    """Three digits, or all that stand before the point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


# -- stages: each yields its rows ----------------------------------------------------------------------------


def train_and_score(quick: bool) -> Iterator[Row]:
    """Cubes per second of a training step as `bench.train` takes it, and of scoring, by width."""
    with cubes_of_noise(CUBES, CubeConfig()) as cubes:
        for width in WIDTHS:
            yield from _one_width(cubes, ModelConfig(width=width), quick)


def _one_width(cubes: Cubes, config: ModelConfig, quick: bool) -> Iterator[Row]:
    device, train, cube, weights = device_of(), TrainConfig(batch=128), CubeConfig(), LossConfig()
    precision, cast = arithmetic(train.precision, device)
    torch.manual_seed(0)
    network = AMSRC(config, cube).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = torch.optim.Adam(network.parameters(), lr=train.learning_rate, fused=True)
    feed, order, rows = Feed(cubes, config, device), _forever(len(cubes), train.batch), np.arange(len(cubes))

    def step() -> None:
        network.train()
        appearance, motion, target = feed.batch(next(order))
        with cast:
            output = network(appearance, motion)
        loss = losses.total(losses.terms(output, target, network, weights), weights)
        if not torch.isfinite(loss):  # waits for the GPU, as the loop does
            raise RunError("the loss on made-up cubes is not finite: this build of torch computes something else.")
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()

    settings: Settings = {"width": config.width, "batch": train.batch, "frames": cube.frames, "size": cube.size}
    settings |= {"fusion": config.fusion, "precision": precision}
    yield row("train", timed(step, quick, device), settings, device, handled=(train.batch, "cubes"))
    seconds = timed(lambda: score(network, feed, rows, train), quick, device)
    yield row(
        "score", seconds, {**settings, "batch": SCORING_BATCH[device.type]}, device, handled=(len(cubes), "cubes")
    )


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
        fuser = Fuser.of(video, place - starts[video], list(lengths.values()), ScoreConfig())
        labels = {
            name: random.integers(0, 2, scored).astype(np.uint8)
            for name, scored in zip(lengths, fuser.lengths, strict=True)
        }
        s_f, s_p = random.normal(0, 1, (2, cubes)).astype(np.float32)
        epoch = Epoch(1, s_f, s_p, Statistics(0.0, 1.0, 0.0, 1.0), None)
        seconds = timed(partial(fusion_curve, fuser, list(lengths), epoch, labels), quick, CPU)
        settings: Settings = {"size of": dataset, "cubes": cubes, "frames": int(starts[-1]), "shares": len(SHARES)}
        yield row("fusion search", seconds, settings, CPU, threads=1)


def cell_overhead(quick: bool) -> Iterator[Row]:
    """Seconds that a cell takes beyond its training and scoring in a warm sweep, and seconds of logging it to MLflow.

    Cells of a tiny network on a few made-up cubes, one after the other in one reused actor: from the end of one cell to
    the end of the next, less what its log says of training and its record of scoring.
    """
    from bench.cells import Job, Trial, run_trials
    from bench.plan import Cell, Packing
    from bench.records import RunRecord
    from bench.sweep import evidence
    from bench.tracking import open_tracker

    class Clock:
        """Notes when each trial ends (`bench.cells.Watch`)."""

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
            raise RunError(f"a made-up cell failed: {broken[0]}")
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
    """A cell that takes about a second."""
    return derive(
        build("amsrc", "toy-ped2", seed), model={"width": WIDTHS[0]}, train={"epochs": 1, "batch": 32, "score_every": 0}
    )


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
    settings = _of_video(frames[0].shape, kind) | {"cubes a frame": round(number / FRAMES, 1)}
    parts: dict[str, tuple[Callable[[], object], tuple[float, str], Settings]] = {
        "decode": (lambda: list(video.read()), (FRAMES, "frames"), {}),
        "flow": (lambda: [flow_of(shot) for shot in shots], (FRAMES, "frames"), {"flow": f"dis {cube.flow.preset}"}),
        "boxes": (lambda: [boxes_of(shot) for shot in shots], (FRAMES, "frames"), {"boxes": "motion"}),
        "cut": (cubes_cut, (number, "cubes"), {}),
        "write": (lambda: write_shard(store, "train", "01", made, FRAMES, shape), (number, "cubes"), {}),
    }
    for part, (call, handled, more) in parts.items():
        seconds = timed(call, quick, CPU)
        yield row(f"prepare: {part}", seconds, settings | more, CPU, handled=handled, threads=1)
    seconds = timed(lambda: prepare_video(store, "train", video, cube, boxes_of, flow_of), quick, CPU)
    yield row("prepare", seconds, settings, CPU, handled=(FRAMES, "frames"), threads=1)


def _of_video(shape: tuple[int, ...], kind: str) -> Settings:
    return {"video": kind, "pixels": shape[0] * shape[1], "channels": shape[2]}


def reading(quick: bool) -> Iterator[Row]:
    """MB per second of gathering random batches from the memory map, and of copying a store with its digests."""
    cube, batch = CubeConfig(), TrainConfig().batch
    with tempfile.TemporaryDirectory() as name:
        source = Path(name) / "noise"
        cubes = write_noise(source, STORED_CUBES, cube)
        order, megabytes = _forever(len(cubes), batch), cubes.nbytes / 1e6

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


def making_tables(quick: bool) -> Iterator[Row]:
    """Seconds for all tables of the records of this project."""
    results = tables.PAPER_CSV.parent
    records = len(list((results / "records").glob("*/*/*.json")))
    seconds = timed(lambda: tables.build(results), quick, CPU)
    yield row("tables", seconds, {"records": records}, CPU, threads=1)


def by_workers(quick: bool) -> Iterator[Row]:
    """The whole preparing, training and scoring by one and by two workers, a CPU thread (or a GPU) each.

    Training is that of `bench.train.fit` with the same batch over all workers: one in this process, two through Ray
    Train. Its first epoch warms up. Scoring is that between two epochs.
    """
    from bench.cluster import connect, resources

    connect()
    have = resources()
    cores, devices = int(have["CPU"]), int(have["GPU"] or have["CPU"])
    for kind in SCENES:
        for workers in WORKERS:
            if workers <= cores:
                yield _prepared_by(workers, kind, quick)
    for workers in WORKERS:
        if workers <= devices:
            yield from _trained_by(workers, quick)
    if devices < max(WORKERS):
        print(f"{max(WORKERS)} workers: left out, they need as many GPUs or CPUs", flush=True)


def _prepared_by(workers: int, kind: str, quick: bool) -> Row:
    """Frames per second of all workers, each a Ray task after the other, as `bench.prepare` runs them."""
    import ray

    cube = CubeConfig()

    @ray.remote(num_cpus=1)
    def task(store: Path, number: int, video: Video) -> None:
        named = f"{number:02d}"
        prepare_video(store, "train", replace(video, name=named), cube, boxes.moving(cube.boxes), flow.dis(cube.flow))

    with tempfile.TemporaryDirectory() as name:
        video = video_of_walkers(Path(name), kind, FRAMES)
        shape = next(video.read()).shape

        def all_at_once() -> None:
            ray.get([task.remote(Path(name) / "store", number, video) for number in range(workers)])

        seconds = timed(all_at_once, quick, CPU)
    settings = _of_video(shape, kind) | {"workers": workers}
    return row("prepare by workers", seconds, settings, CPU, handled=(workers * FRAMES, "frames"), threads=1)


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
    settings: Settings = {"workers": workers, "width": e.model.width, "batch": e.train.batch}
    settings |= {"frames": e.cube.frames, "size": e.cube.size, "precision": log[0]["precision"]}
    of_one, device = log[1:-1], device_of()
    seconds = [CUBES / line["cubes_per_s"] for line in of_one]
    yield row("train by workers", seconds, settings, device, handled=(CUBES, "cubes"), threads=1)
    seconds = [line["score_seconds"] for line in of_one]
    settings = {**settings, "batch": SCORING_BATCH[device.type]}
    yield row("score by workers", seconds, settings, device, handled=(scored, "cubes"), threads=1)


STAGES: tuple[tuple[str, tuple[str, ...], Callable[[bool], Iterator[Row]]], ...] = (
    ("train and score", (), train_and_score),
    ("null", (), null_row),
    ("fusion search", (), fusion_search),
    ("prepare", (), preparing),
    ("store", (), reading),
    ("tables", (), making_tables),
    ("cell overhead", ("ray", "mlflow"), cell_overhead),
    ("workers", ("ray",), by_workers),
)
"""What is measured: its name, the packages that it needs besides torch, and the function."""


def _forever(cubes: int, batch: int) -> Iterator[np.ndarray[Any, np.dtype[np.int64]]]:
    """Whole batches of one epoch after the other, in the order of `bench.train`."""
    epoch = 0
    while True:
        epoch += 1
        yield from (rows for rows, _ in batches(cubes, batch, 0, epoch) if len(rows) == batch)


if __name__ == "__main__":
    from bench.cli import run_stage

    run_stage("speed")
