"""Hours and cost of a plan (`bench.grid`), from measured speeds; the text of a dry run.

Reads the manifests of stores and the files of `bench.speed`, changes nothing. A number that was not measured is no
number: it stays None and prints as "-". Imports neither torch nor Ray.
"""

from __future__ import annotations

import heapq
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amsrc.errors import DataError
from amsrc.store import SPLITS, Sealed
from bench.config import Experiment, dump, fingerprint
from bench.grid import Cell
from bench.json_file import strict
from bench.machine import Machine, Packing
from bench.records import RunRecord
from bench.scale import work
from bench.storage import Place

if TYPE_CHECKING:
    from bench.logistics import Logistics

UNITS = {"B": 1.0, "KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12, "PB": 1e15}
ABOUT = {"measured", "quick", "load_before", "hardware", "versions", "git"}
"""What a file of speeds says of its rows."""
SPEED = Path(__file__).resolve().parents[1] / "results" / "speed"
"""Where the speeds measured so far lie."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A measured line of a file of speeds; `bench.speed` writes them."""

    stage: str
    """`train`, `score` and `null` in cubes/s; `prepare` in frames/s, its parts `prepare: ...` in frames/s or cubes/s;
    `... by workers` and `train packed` likewise, of all workers or cells together; `store read` and `store copy` in
    MB/s; `machine: ...` what the hardware does; `memory: ...` in MB; the others in s."""
    device: str
    """Name of the GPU or CPU."""
    threads: int | None
    """CPU threads; None on a GPU."""
    settings: dict[str, int | float | str]
    unit: str
    median: float
    """Over the repeats."""
    spread: float
    """Largest minus smallest."""
    repeats: int
    reference: float | None = None
    """Median of the straightforward way of doing it (`bench.straightforward`), measured in turns with this."""
    limit: float | None = None
    """What this machine allows at most (of s: at least), by what was measured on it in the same run."""
    limited_by: str = ""

    @property
    def times_reference(self) -> float | None:
        """How many times as fast as the reference."""
        return self._faster_than(self.reference)

    @property
    def of_limit(self) -> float | None:
        """The part of what is possible; 1 is the limit."""
        return self._faster_than(self.limit)

    def _faster_than(self, other: float | None) -> float | None:
        if other is None:
            return None
        return self.median / other if self.unit.endswith("/s") else other / self.median


def read_speed(folder: Path = SPEED) -> list[Row]:
    """Everything that was measured, of all machines; nothing where the folder is absent.

    Raises:
        DataError: a file is not one of speeds; names it.
    """
    return [row for path in sorted(folder.glob("*.json")) for row in read_file(path)[1]]


def read_file(path: Path) -> tuple[dict[str, Any], list[Row]]:
    """What the file of one machine says of its rows, and the rows. Raises as `read_speed`."""
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        if missing := ABOUT - set(about):
            raise ValueError(f"without {', '.join(sorted(missing))}")
        return about, [strict(Row).validate_python(row) for row in about.pop("rows")]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not a file of measured speeds ({error}). Restore or remove it.") from None


def fastest_packed(rows: Sequence[Row], device: str) -> int:
    """How many cells on one such GPU train fastest together, at the largest width measured; 1 where none was."""
    packed = [row for row in rows if row.stage == "train packed" and row.threads is None and _same(device, row.device)]
    widest = max((row.settings["width"] for row in packed), default=0)
    best = max((row for row in packed if row.settings["width"] == widest), key=lambda row: row.median, default=None)
    return 1 if best is None else int(best.settings["cells"])


@dataclass(frozen=True)
class Cubes:
    """How many cubes a cell works on, and how that is known."""

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


# -- hours and cost ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Estimate:
    """What the cells that are to run will take, preparing not included. None: not known."""

    seconds: dict[str, float | None]
    """By fingerprint: how long the cell takes once it runs."""
    hours: float | None
    """From the first cell's start to the last one's end."""
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
    """Hours, GPU-hours and cost of cells that run in this order, `packing.concurrent` at a time.

    Speeds are those measured on the same kind of device at the nearest width, scaled as the arithmetic grows, with the
    square of width and cube size; in proportion to CPUs, workers and parts of a GPU.
    """
    basis: dict[str, None] = {}
    missing: dict[str, None] = {}
    overhead = nearest("cell overhead", rows, machine, on_gpu=False)  # Ray's and the disk's: no GPU's
    if overhead:
        basis[f"cell overhead: {overhead.median:.2g} s on {overhead.device}"] = None
    elif todo:
        missing["cell overhead: not measured on this kind of machine, left out"] = None

    def cost(cell: Cell) -> float | None:
        e, counted = cell.experiment, cubes.get(cell.store)
        stages = ("train", "score") if e.method == "amsrc" else ("null",)
        speeds = [_speed(stage, e, rows, packing, machine) for stage in stages]
        for stage, speed in zip(stages, speeds, strict=True):
            if speed:
                basis[speed[1]] = None
            else:
                missing[f"{stage}: no speed was measured on {machine.name}; `amsrc-bench speed` does"] = None
        if not counted:
            missing[f"{e.dataset}: how many cubes it has is not known before it is prepared"] = None
            return None
        basis[f"{counted.source}, {counted.train:,} + {counted.test:,} cubes"] = None
        if None in speeds:
            return None
        rates = [speed[0] for speed in speeds if speed]
        counts = work(e, counted.train, counted.test)
        ours = (counts.trained, counts.between + counts.after)
        amounts = ours if e.method == "amsrc" else (counted.train + counted.test,)
        return sum(n / rate for n, rate in zip(amounts, rates, strict=True)) + (overhead.median if overhead else 0.0)

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


def _speed(
    stage: str, e: Experiment, rows: Sequence[Row], packing: Packing, machine: Machine
) -> tuple[float, str] | None:
    """Cubes per second of a cell, and the measured row behind it in words."""
    on_gpu = packing.gpus > 0 and stage != "null"
    row = nearest(stage, rows, machine, on_gpu=on_gpu, width=e.model.width)
    if row is None:
        return None
    where = f"on {row.device}" + (f", {count(row.threads, 'thread')}" if row.threads else "")
    if stage == "null":  # plain NumPy: one thread, no network
        return row.median, f"{stage}: {row.median:,.0f} {row.unit} {where}"
    scale, said = 1.0, []
    for name, value in (("width", e.model.width), ("size", e.cube.size)):
        if row.settings[name] != value:
            scale *= (float(row.settings[name]) / value) ** 2
            said.append(f"scaled to {name} {value} by its square")
    share = (packing.workers if packing.gpus >= 1 else packing.gpus) if on_gpu else packing.cpus / (row.threads or 1)
    if share != 1:
        said.append(
            f"times {share:.3g} for {count(packing.gpus, 'GPU')}" if on_gpu else f"{count(packing.cpus, 'CPU')} a cell"
        )
    if packing.workers > 1 and (kept := efficiency(stage, rows, packing.workers, machine, on_gpu=on_gpu)):
        share *= kept
        said.append(f"times {kept:.2f}, the measured part that {packing.workers} workers keep")
    text = f"{stage}: {row.median:,.0f} {row.unit} at width {row.settings['width']} {where}"
    return row.median * scale * share, "; ".join([text, *said])


def nearest(stage: str, rows: Sequence[Row], machine: Machine, *, on_gpu: bool, width: int | None = None) -> Row | None:
    """The row of this stage and kind of device: of this very CPU if there is one, then of the nearest width."""
    fitting = [
        row
        for row in rows
        if row.stage == stage and (row.threads is None) == on_gpu and (not on_gpu or _same(machine.name, row.device))
    ]

    def distance(row: Row) -> tuple[bool, float]:
        theirs = row.settings.get("width")
        return row.device != machine.name, abs(math.log(float(theirs) / width)) if width and theirs else 0.0

    return min(fitting, key=distance, default=None)


def efficiency(stage: str, rows: Sequence[Row], workers: int, machine: Machine, *, on_gpu: bool) -> float | None:
    """Speed of so many workers over that many times the speed of one; None where it was not measured."""
    fitting = [row for row in rows if row.settings.get("workers") in (1, workers)]
    by_number = {
        number: nearest(
            f"{stage} by workers", [r for r in fitting if r.settings["workers"] == number], machine, on_gpu=on_gpu
        )
        for number in (1, workers)
    }
    one, many = by_number[1], by_number[workers]
    if one is None or many is None or one.device != many.device:
        return None
    return many.median / (workers * one.median)


def _same(name: str, device: str) -> bool:
    """Whether Ray's name of a GPU (`A100`) or torch's own is that of torch's (`NVIDIA A100-SXM4-40GB`)."""
    wanted, whole = (f" {text.replace('-', ' ')} " for text in (name, device))
    return wanted in whole


# -- the text ------------------------------------------------------------------------------------------------


def render(
    cells: Sequence[Cell],
    cached: Iterable[str],
    packing: Packing,
    expected: Estimate,
    machine: Machine,
    around: Logistics,
) -> str:
    """The plan as text: cells by recipe and data set, stores to prepare, concurrency, hours, cost and their basis.

    Args:
        cached: fingerprints of the cells that have their record.
    """
    from tabulate import tabulate

    done = set(cached)
    groups: dict[tuple[str, str], list[str]] = {}
    for cell in cells:
        e = cell.experiment
        groups.setdefault((e.recipe, e.dataset), []).append(fingerprint(e))
    lines = []
    for (recipe, dataset), found in groups.items():
        todo = [name for name in found if name not in done]
        hours = [expected.seconds.get(name) for name in todo]
        total = None if None in hours else sum(filter(None, hours)) / 3600
        lines.append([recipe, dataset, len(found), len(found) - len(todo), len(todo), hours_text(total)])
    head = ["recipe", "data set", "cells", "cached", "to run", "hours of cells"]
    all_cells = [name for found in groups.values() for name in found]
    to_run = sum(name not in done for name in all_cells)
    lines.append(["all", "", len(all_cells), len(all_cells) - to_run, to_run, ""])

    missing = {cell.store: cell.experiment.dataset for cell in cells if not (cell.store / "manifest.json").is_file()}
    stores = [f"to prepare  {dataset} ({store.name})" for store, dataset in missing.items()]
    each, has = (
        ", ".join(count(number, kind) for number, kind in ((gpus, "GPU"), (cpus, "CPU")) if number)
        for gpus, cpus in ((packing.gpus, packing.cpus), (machine.gpus, machine.cpus))
    )
    sizes = (around.storage, around.checkpoints, around.stores, around.gradients)
    cubes_to_come, checkpoints, copies, gradients = map(bytes_text, sizes)
    usd = expected.usd
    return "\n".join(
        [
            tabulate(lines, headers=head, disable_numparse=True, colalign=("left", "left", *["right"] * 4)),
            "",
            *(stores or ["to prepare  nothing"]),
            *([f"preparing   {hours_text(around.prepare_hours)} hours"] if stores else []),
            f"at a time   {count(packing.concurrent, 'cell')} of {each} each, on {machine.name}: {has}",
            f"hours       {hours_text(expected.hours)} from the first cell's start to the last one's end",
            f"GPU-hours   {hours_text(expected.gpu_hours)}",
            f"cost        {'-' if usd is None else f'{usd:.2f} USD, for the GPU-hours alone'}",
            f"storage     {cubes_to_come} of cubes to prepare, {checkpoints} of checkpoints",
            f"network     {copies} of cubes to the nodes, {gradients} of gradients",
            *(f"from        {text}" for text in dict.fromkeys((*expected.basis, *around.basis))),
            *(f"not known   {text}" for text in dict.fromkeys((*expected.missing, *around.missing))),
        ]
    )


def count(number: float, what: str) -> str:
    return f"{number:g} {what}{'' if number <= 1 else 's'}"


def bytes_text(value: float | None) -> str:
    """In the unit that leaves one to three digits before the point."""
    if value is None:
        return "-"
    unit = next((unit for unit in UNITS if value < 999.5 * UNITS[unit]), "PB")
    return f"{value / UNITS[unit]:.3g} {unit}"


def hours_text(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.1f}" if value >= 10 else f"{value:.2g}"
