"""Estimates a plan: hours and cost of its runs, and the preparing, disks and network around them.

From the counts of data sets and measured speeds (`bench.records.speeds`); reads the manifests of stores, changes
nothing. A number that is not known stays None. `docs/scale.md` has the formulas. Imports neither torch nor Ray.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from amsrc.config import CubeConfig
from amsrc.store import SPLITS, Sealed
from bench.cluster.machine import Machine, Packing
from bench.experiment.config import Experiment, dump, fingerprint, flatten
from bench.experiment.specs import SPECS, Spec, spec_of
from bench.methods import catalogue
from bench.records.records import RunRecord
from bench.records.speeds import Row, efficiency, nearest
from bench.storage.places import Place
from bench.sweeps.grid import Cell
from bench.training.held_out import KINDS, PSEUDO_CUBES, STATISTICS_CUBES

FLOAT = 4  # bytes of a gradient or weight
PARTS = ("decode", "flow", "boxes", "cut", "write")
"""Of preparing, as they are measured: the first three are done to frames, the others to cubes."""


# -- counts and sizes -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cubes:
    """How many cubes a run works on, and how that is known."""

    train: int
    test: int
    source: str


def cubes_of(cells: Iterable[Cell], records: Sequence[RunRecord]) -> dict[Place, Cubes]:
    """Numbers of cubes by store: of its manifest once it is sealed, else of a record of the same data set.

    Stores of which neither is there are left out.
    """
    found: dict[Place, Cubes] = {}
    for cell in cells:
        if cell.store not in found and (counted := _cubes(cell, records)):
            found[cell.store] = counted
    return found


def _cubes(cell: Cell, records: Sequence[RunRecord]) -> Cubes | None:
    e = cell.experiment
    if (cell.store / "manifest.json").is_file():
        splits = Sealed(cell.store).manifest["splits"]
        train, test = (sum(shard["cubes"] for shard in splits[split]) for split in SPLITS)
        return Cubes(train, test, f"{e.dataset}: counted in its store")
    cube = dump(e)["cube"]
    known = [r for r in records if (r.dataset, r.partial) == (e.dataset, e.partial) and "train_cubes" in r.counts]
    if not known:
        return None
    record = max(known, key=lambda r: (r.experiment["cube"] == cube, r.finished))
    other = "" if record.experiment["cube"] == cube else f", with other cubes (boxes {record.boxes})"
    source = f"{e.dataset}: as in the record {record.recipe} {record.fingerprint}{other}"
    return Cubes(record.counts["train_cubes"], record.counts["test_cubes"], source)


@dataclass(frozen=True)
class Work:
    """The amount of work of a whole run."""

    trained: float
    """Cubes trained on, over all epochs."""
    between: float
    """Cubes scored between epochs, by all workers together."""
    after: float
    """Cubes scored once it is trained, by one process."""
    steps: float
    """Of the optimiser, over all epochs."""


def work(e: Experiment, train: int, test: int) -> Work:
    """The work of a run.

    Args:
        train, test: cubes of the two splits.
    """
    held_out = e.train.held_out * train
    pseudo = (1 + len(KINDS)) * min(PSEUDO_CUBES, held_out)
    scored = max(e.epochs - 1, 0) // e.train.score_every if e.train.score_every else 0
    an_epoch = test + min(STATISTICS_CUBES, train) + pseudo
    return Work(
        trained=e.epochs * (train - held_out),
        between=scored * an_epoch,
        after=train + test + pseudo,
        steps=e.epochs * (train - held_out) / e.train.batch,
    )


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


# -- hours and cost ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Estimate:
    """Expected time and cost of the runs that are missing, without preparing. None: not known."""

    seconds: dict[str, float | None]
    """By fingerprint: how long the run takes from its start."""
    hours: float | None
    """From the first run's start to the last one's end."""
    gpu_hours: float | None
    usd: float | None
    """Price of these GPU-hours; the head, and workers that start or idle, come on top."""
    basis: tuple[str, ...]
    """The measured rows and counts used."""
    missing: tuple[str, ...]
    """Why something is not known."""


def estimate(
    todo: Sequence[Cell], cubes: Mapping[Place, Cubes], rows: Sequence[Row], packing: Packing, machine: Machine
) -> Estimate:
    """Hours, GPU-hours and cost of runs started in this order, `packing.concurrent` at a time.

    Speeds are those measured on the same kind of device at the nearest width, scaled as the arithmetic grows, with the
    square of width and cube size; in proportion to CPUs, workers and parts of a GPU.
    """
    basis: dict[str, None] = {}
    missing: dict[str, None] = {}
    overhead = nearest("cell overhead", rows, machine.name, on_gpu=False)  # Ray's and the disk's: no GPU's
    if overhead:
        basis[f"cell overhead: {overhead.median:.2g} s on {overhead.device}"] = None
    elif todo:
        missing["cell overhead: not measured on this kind of machine, left out"] = None

    def cost(cell: Cell) -> float | None:
        e, counted = cell.experiment, cubes.get(cell.store)
        stages = _stages(e)
        speeds = [_speed(stage, e, rows, packing, machine) for stage in stages]
        for stage, speed in zip(stages, speeds, strict=True):
            if speed:
                basis[speed[1]] = None
            else:
                missing[f"{stage}: no speed of {e.method} was measured on {machine.name}"] = None
        if not counted:
            missing[f"{e.dataset}: how many cubes it has is not known before it is prepared"] = None
            return None
        basis[f"{counted.source}, {counted.train:,} + {counted.test:,} cubes"] = None
        if None in speeds:
            return None
        rates = [speed[0] for speed in speeds if speed]
        counts = work(e, counted.train, counted.test)
        amounts = {
            "train": counts.trained,
            "score": counts.between + counts.after,
            "null": counted.train + counted.test,
        }
        taken = sum(amounts[stage] / rate for stage, rate in zip(stages, rates, strict=True))
        return taken + (overhead.median if overhead else 0.0)

    seconds = {fingerprint(cell.experiment): cost(cell) for cell in todo}
    known = [value for value in seconds.values() if value is not None]
    if len(known) < len(seconds):
        return Estimate(seconds, None, None, None, tuple(basis), tuple(missing))
    ends = [0.0] * packing.concurrent
    for value in known:
        heapq.heapreplace(ends, ends[0] + value)
    gpu_hours = sum(known) * packing.gpus / 3600
    usd = gpu_hours * machine.usd_per_gpu_hour if machine.usd_per_gpu_hour is not None and packing.gpus else None
    return Estimate(seconds, max(ends) / 3600, gpu_hours, usd, tuple(basis), tuple(missing))


def _stages(e: Experiment) -> tuple[str, ...]:
    """What a run does, as the rows of speeds name it."""
    if not e.learns:
        return ("null",)
    return ("train", "score") if e.epochs else ("score",)


def _speed(
    stage: str, e: Experiment, rows: Sequence[Row], packing: Packing, machine: Machine
) -> tuple[float, str] | None:
    """Cubes per second of a run, and the measured row behind it in words."""
    on_gpu = packing.gpus > 0 and stage != "null"
    width = flatten(e).get("model.width")
    own = [row for row in rows if stage == "null" or row.settings.get("method", "amsrc") == e.method]
    row = nearest(stage, own, machine.name, on_gpu=on_gpu, width=width)
    if row is None:
        return None
    where = f"on {row.device}" + (f", {count(row.threads, 'thread')}" if row.threads else "")
    if stage == "null":  # plain NumPy: one thread, no network
        return row.median, f"{stage}: {row.median:,.0f} {row.unit} {where}"
    scale, said = 1.0, []
    measured_at = row.settings.get("width")  # not every method has a width
    for name, value in (("width", width if measured_at else None), ("size", e.cube.size)):
        if value is not None and row.settings[name] != value:
            scale *= (float(row.settings[name]) / value) ** 2
            said.append(f"scaled to {name} {value} by its square")
    share = (packing.workers if packing.gpus >= 1 else packing.gpus) if on_gpu else packing.cpus / (row.threads or 1)
    if share != 1:
        said.append(
            f"times {share:.3g} for {count(packing.gpus, 'GPU')}" if on_gpu else f"{count(packing.cpus, 'CPU')} a run"
        )
    if packing.workers > 1 and (kept := efficiency(stage, own, packing.workers, machine.name, on_gpu=on_gpu)):
        share *= kept
        said.append(f"times {kept:.2f}, the measured part that {packing.workers} workers keep")
    at = f" at width {measured_at}" if measured_at else ""
    return row.median * scale * share, "; ".join([f"{stage}: {row.median:,.0f} {row.unit}{at} {where}", *said])


def count(number: float, what: str) -> str:
    return f"{number:g} {what}{'' if number <= 1 else 's'}"


# -- around the runs ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Logistics:
    """Hours, and bytes. None: not known."""

    prepare_hours: float | None
    """To prepare what is not there, on all CPUs of the machine. Without a count of cubes: of frames alone."""
    storage: float | None
    """Of the stores that are not there."""
    checkpoints: float | None
    """Written by all runs, each in place of the one before."""
    stores: float | None
    """A copy of every store to each node, where there are several."""
    gradients: float | None
    """Sent by all workers of all runs."""
    basis: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()


def logistics(
    todo: Sequence[Cell], cubes: Mapping[Place, Cubes], rows: Sequence[Row], packing: Packing, machine: Machine
) -> Logistics:
    """What the missing runs need besides training and evaluation."""
    stores = {cell.store: cell.experiment for cell in todo}
    absent = {path: e for path, e in stores.items() if not (path / "manifest.json").is_file()}
    trained = [cell for cell in todo if cell.experiment.epochs]
    basis: dict[str, None] = {}
    missing: dict[str, None] = {}

    def size(path: Place, e: Experiment) -> float | None:
        counted = cubes.get(path)
        if counted is None:
            return None
        channels = 1 if spec_of(e.dataset).grey else 3
        return (counted.train + counted.test) * cube_bytes(e.cube, channels)

    def gradients(cell: Cell) -> float | None:
        counted, e = cubes.get(cell.store), cell.experiment
        if packing.workers == 1:
            return 0.0
        if counted is None:
            return None
        number = parameters(e)
        if number is None:
            return None
        sent = gradient_bytes(number, packing.workers)
        return work(e, counted.train, counted.test).steps * sent * packing.workers

    def seconds(path: Place, e: Experiment) -> float | None:
        spec = SPECS.get(e.dataset)
        if spec is None or spec.size is None or e.partial:
            missing[f"{e.dataset}: how many frames of which size it has is not known before it is prepared"] = None
            return None
        found = preparing(rows, e.cube, spec, machine.name)
        if isinstance(found, str):
            missing[found] = None
            return None
        rate, text = found
        basis[text] = None
        counted = cubes.get(path)
        if counted is None:
            missing[f"{e.dataset}: to cut its cubes comes on top of preparing; how many it has is not known"] = None
        number = counted.train + counted.test if counted else 0
        at_once = min(machine.cpus, sum(spec.videos.values()))
        kept = efficiency("prepare", rows, 2, machine.name, on_gpu=False) if at_once > 1 else None
        if kept:
            at_once *= kept
            basis[f"prepare: each of several cores keeps {kept:.2f} of its speed, as measured with two"] = None
        return rate.seconds(sum(spec.frames.values()), number) / at_once if at_once else None

    nodes = sum(bool(gpus) or not machine.gpus for _, gpus in machine.nodes)  # those that take runs
    prepared = _sum([seconds(path, e) for path, e in absent.items()])
    copies = _sum([size(path, e) for path, e in stores.items()])
    return Logistics(
        None if prepared is None else prepared / 3600,
        _sum([size(path, e) for path, e in absent.items()]),
        _sum([_checkpoints(cell) for cell in trained]),
        0.0 if nodes < 2 else None if copies is None else copies * nodes,
        _sum([gradients(cell) for cell in trained]),
        tuple(basis),
        tuple(missing),
    )


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


def preparing(rows: Sequence[Row], cube: CubeConfig, spec: Spec, device: str) -> tuple[Preparing, str] | str:
    """Seconds of a core for each frame and cube of a data set, and their basis in words.

    From the rows of this device, if there are any, and of the nearest frame size; what is done to whole frames grows
    with their pixels. What is read from a file costs nothing.

    Returns:
        Why it is not known, where a part of it was not measured.
    """
    width, height = spec.size or (0, 0)
    pixels, channels = width * height, 1 if spec.grey else 3
    providers = {"flow": cube.flow.provider, "boxes": cube.boxes.provider}
    wanted = {"flow": f"dis {cube.flow.preset}" if cube.flow.provider == "dis" else "", "boxes": cube.boxes.provider}
    seconds: dict[str, float] = {}
    used: dict[str, None] = {}
    for part in PARTS:
        if providers.get(part) == "file":
            continue
        fitting = [
            row for row in rows if row.stage == f"prepare: {part}" and row.settings.get(part) == wanted.get(part)
        ]
        row = min(fitting, key=lambda row: _distance(row, device, pixels, channels), default=None)
        if row is None:
            what = f"{part} {providers[part]}" if part in providers else part
            return f"prepare: {what} was not measured; `amsrc-bench speed` measures flow dis and boxes motion"
        grows = pixels / float(row.settings["pixels"]) if row.unit == "frames/s" else 1.0
        seconds[part] = grows / row.median
        used[f"{row.settings['video']} on {row.device}"] = None
    rate = Preparing(sum(seconds.get(part, 0.0) for part in PARTS[:3]), seconds["cut"] + seconds["write"])
    text = (
        f"prepare: {rate.frame * 1e3:.3g} ms a frame of {width}x{height} and {rate.cube * 1e3:.2g} ms a cube on a core"
    )
    return rate, f"{text}, measured at {', '.join(used)}"


def _distance(row: Row, device: str, pixels: int, channels: int) -> tuple[bool, bool, float]:
    settings = row.settings
    return (
        row.device != device,
        settings["channels"] != channels,
        abs(math.log(float(settings["pixels"]) / max(pixels, 1))),
    )


def _checkpoints(cell: Cell) -> int | None:
    e, number = cell.experiment, parameters(cell.experiment)
    return None if number is None else checkpoint_bytes(number, e.epochs)


def parameters(e: Experiment) -> int | None:
    """Parameters that a run learns by gradient; None where its method does not count them beforehand."""
    method = catalogue.find(e.method)
    return method.parameters(e.settings, e.cube) if method.parameters else None


def _sum(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None
