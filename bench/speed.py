"""How fast the parts of the benchmark are on this machine, on made-up cubes through the real code.

    python bench/speed.py [--quick] [--out DIR]

Writes `<out>/<machine>.json` and `<out>/table.md` (all machines measured into that folder so far); reads no data set.
The plan of a sweep takes its hours from these files (`bench.cost`), so measure with nothing else running.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import math
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, ClassVar

import numpy as np
import torch

from amsrc import losses
from amsrc.config import CubeConfig, LossConfig, ModelConfig, ScoreConfig, TrainConfig
from amsrc.cubes import FrameCubes
from amsrc.errors import RunError
from amsrc.files import write_file, write_json
from amsrc.fuse import Fuser, Statistics
from amsrc.model import AMSRC
from amsrc.store import SPLITS, Cubes, Shard, Split, seal, write_shard
from bench import provenance
from bench.config import Experiment, derive, dump
from bench.cost import Row, read_speed
from bench.layouts import SPECS
from bench.nulls import flow_magnitude
from bench.recipes import build
from bench.scoring import SCORING_BATCH, Feed, arithmetic, chunks, device_of, score
from bench.selection import SHARES, Epoch, fusion_curve
from bench.train import batches

Settings = dict[str, int | float | str]
WIDTHS = (16, 64)
CUBES = 1024  # made-up ones, 32 KB each
VIDEO = 128  # of them a video, so that a batch comes from several files
TEST_CUBES = {"ped2": 34_715, "shanghaitech": 203_955}
"""Test cubes of a data set: ped2's as counted in `results/records`, shanghaitech's assumed to be five a frame."""
REPEATS, REPEAT_S = 7, 5.0  # timed repeats, and how long each lasts at least
QUICK_REPEATS, QUICK_REPEAT_S = 3, 0.5
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
        for row in stage(quick):
            print(" | ".join(_line(row)), flush=True)
            rows.append(row)
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
    with made_up_cubes(CUBES, CubeConfig()) as cubes:
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
    yield _row("train", timed(step, quick, device), settings, device, cubes=train.batch)
    seconds = timed(lambda: score(network, feed, rows, train), quick, device)
    yield _row("score", seconds, {**settings, "batch": SCORING_BATCH}, device, cubes=len(cubes))


def null_row(quick: bool) -> Iterator[Row]:
    """Cubes per second of the score that needs no training."""
    cpu = torch.device("cpu")
    with made_up_cubes(CUBES, CubeConfig()) as cubes:
        found = timed(lambda: flow_magnitude(cubes, seed=0), quick, cpu)
    yield _row("null", found, {"method": "flow-magnitude"}, cpu, cubes=CUBES, threads=1)


def fusion_search(quick: bool) -> Iterator[Row]:
    """Seconds for the AUROC of all shares of the fusion curve, at the size of two data sets' test splits."""
    cpu, random = torch.device("cpu"), np.random.default_rng(0)
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
        seconds = timed(partial(fusion_curve, fuser, list(lengths), epoch, labels), quick, cpu)
        settings: Settings = {"size of": dataset, "cubes": cubes, "frames": int(starts[-1]), "shares": len(SHARES)}
        yield _row("fusion search", seconds, settings, cpu, threads=1)


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
        folder, number = Path(name), (QUICK_REPEATS if quick else REPEATS) + 1  # the first one starts the actor
        cells = [Cell(tiny(seed), made_up_store(folder, tiny(0))) for seed in range(number)]
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
    cpu = torch.device("cpu")
    settings: Settings = {"concurrent": 1, "epochs": 1}
    yield _row("cell overhead", beyond, settings, cpu, threads=1)
    yield _row("cell logging", logged[1:], {"to": "sqlite", "width": WIDTHS[0]}, cpu)


def tiny(seed: int) -> Experiment:
    """A cell that takes about a second."""
    return derive(
        build("amsrc", "toy-ped2", seed), model={"width": WIDTHS[0]}, train={"epochs": 1, "batch": 32, "score_every": 0}
    )


def made_up_store(folder: Path, experiment: Experiment) -> Path:
    """A sealed store of noise: two training videos and two test videos of a cube a frame, one of them half abnormal."""
    random, path, length = np.random.default_rng(0), folder / "store", 32
    cube = experiment.cube
    shape = (cube.frames, 3, cube.size, cube.size)

    def shard(split: Split, video: str) -> Shard:
        frames = random.integers(0, 256, (length, *shape), np.uint8)
        flows = random.normal(0, 1, (length, cube.frames - 1, 2, cube.size, cube.size)).astype(np.float16)
        box = np.zeros((1, 4), np.float32)
        made = (FrameCubes(i, box, frames[i : i + 1], flows[i : i + 1]) for i in range(length))
        return write_shard(path, split, video, made, length, shape)

    shards = {split: [shard(split, f"{split}{n}") for n in range(2)] for split in SPLITS}
    content = io.BytesIO()
    half = (np.arange(length) >= length // 2).astype(np.uint8)
    np.savez(content, allow_pickle=False, test0=half, test1=np.zeros_like(half))
    write_file(path / "labels-official.npz", content.getvalue())
    digests = {"official": hashlib.sha256(content.getvalue()).hexdigest()}
    about = {"dataset": experiment.dataset, "partial": False, "cube": dump(experiment)["cube"], "sources": {}}
    seal(path, shards, {**about, "labels": digests})
    return path


STAGES: tuple[tuple[str, tuple[str, ...], Callable[[bool], Iterator[Row]]], ...] = (
    ("train and score", (), train_and_score),
    ("null", (), null_row),
    ("fusion search", (), fusion_search),
    ("cell overhead", ("ray", "mlflow"), cell_overhead),
)
"""What is measured: its name, the packages that it needs besides torch, and the function."""


def timed(call: Callable[[], object], quick: bool, device: torch.device) -> list[float]:
    """Seconds a call, of each repeat; two calls before them warm up and say how many make a repeat."""

    def seconds(calls: int) -> float:
        started = time.perf_counter()
        for _ in range(calls):
            call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - started

    repeats, at_least = (QUICK_REPEATS, QUICK_REPEAT_S) if quick else (REPEATS, REPEAT_S)
    seconds(1)
    calls = max(1, math.ceil(at_least / max(seconds(1), 1e-6)))
    return [seconds(calls) / calls for _ in range(repeats)]


def _row(
    stage: str,
    seconds: Sequence[float],
    settings: Settings,
    device: torch.device,
    *,
    cubes: int | None = None,
    threads: int | None = None,
) -> Row:
    """A row of seconds, or of cubes per second where a call handles so many cubes."""
    values = [cubes / value for value in seconds] if cubes else list(seconds)
    on_gpu = device.type == "cuda"
    return Row(
        stage=stage,
        device=torch.cuda.get_device_name(device) if on_gpu else str(provenance.hardware()["cpu"] or "CPU"),
        threads=None if on_gpu else threads or torch.get_num_threads(),
        settings=settings,
        unit="cubes/s" if cubes else "s",
        median=median(values),
        spread=max(values) - min(values),
        repeats=len(values),
    )


def _forever(cubes: int, batch: int) -> Iterator[np.ndarray[Any, np.dtype[np.int64]]]:
    """Whole batches of one epoch after the other, in the order of `bench.train`."""
    epoch = 0
    while True:
        epoch += 1
        yield from (rows for rows in batches(cubes, batch, 0, epoch) if len(rows) == batch)


@contextmanager
def made_up_cubes(number: int, cube: CubeConfig) -> Iterator[Cubes]:
    """Cubes of noise with three channels, memory-mapped from a folder that is deleted afterwards."""
    random = np.random.default_rng(0)
    shape = (cube.frames, 3, cube.size, cube.size)
    with tempfile.TemporaryDirectory() as folder:
        shards = []
        for rows in chunks(np.arange(number), VIDEO):
            n = len(rows)
            frames = random.integers(0, 256, (n, *shape), np.uint8)
            flows = random.normal(0, 1, (n, cube.frames - 1, 2, cube.size, cube.size)).astype(np.float16)
            made = FrameCubes(0, np.zeros((n, 4), np.float32), frames, flows)
            shards.append(write_shard(Path(folder), "train", f"{rows[0]:06d}", [made], 1, shape))
        yield Cubes(Path(folder) / "train", shards)


if __name__ == "__main__":
    from bench.cli import run_stage

    run_stage("speed")
