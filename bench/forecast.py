"""What ShanghaiTech and a hundred times as much would take: the section `scale` of `results/README.md`.

Made from one machine's file of measured speeds (`bench.speed`) and `bench.scale`; `bench.tables` writes and checks it.
Speeds of GPUs were never measured: they follow from ASSUMED, which the section prints. Imports neither torch nor Ray.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from amsrc.errors import DataError
from bench.config import Experiment, derive
from bench.cost import Row, bytes_text, efficiency, hours_text, read_file
from bench.logistics import PARTS, preparing
from bench.machine import Machine
from bench.recipes import build
from bench.scale import (
    Load,
    Preparing,
    Rates,
    Stage,
    checkpoint_bytes,
    cube_bytes,
    gradient_bytes,
    longest,
    network,
    stages,
    work,
)
from bench.selection import SHARES
from bench.specs import SPECS

CUBES = (1_200_000, 230_000)
"""About, of ShanghaiTech's two splits, as publications with a COCO detector and moving regions have them."""
TIMES = (1, 100)
GPUS = (1, 8, 64)
BUSY = 1.0
"""Load before a measurement from which its speeds are no longer the machine's own."""
CELLS = 64
"""Recipes x seeds that are compared, one after the other or side by side."""
NEEDED = {
    *("train", "score", "fusion search", "tables", "store read", "store copy"),
    *(f"prepare: {part}" for part in PARTS),
    *(f"{stage} by workers" for stage in ("prepare", "train", "score")),
}
"""Stages that a file of speeds must have."""


@dataclass(frozen=True, kw_only=True)
class Assumed:
    """A cluster that was not measured."""

    dense: float = 400e12
    """FLOP/s of large bf16 matrix products on an H100-class card."""
    sustained: float = 0.4
    """Part of it that this network would keep up: a goal of this project."""
    step_s: float = 5e-3
    """Least time of a step: its kernels are launched one after the other, whatever the batch."""
    gpus_a_node: int = 8
    cores_a_gpu: int = 12
    memory: float = 1e12
    """Bytes of a node's memory: a store that fits is read from there."""
    inside: float = 100e9
    """Bytes/s from GPU to GPU in a node."""
    between: float = 12.5e9
    """Bytes/s from node to node: 100 Gbit/s."""
    disk: float = 5e9
    """Bytes/s of a node's own disks for cubes in random order."""


ASSUMED = Assumed()


@dataclass(frozen=True)
class Measured:
    """One machine's file of speeds."""

    name: str
    about: dict[str, Any]
    rows: list[Row]

    @property
    def machine(self) -> Machine:
        hardware = self.about["hardware"]
        return Machine(((float(hardware["cores"]), 0.0),), str(hardware["cpu"] or "CPU"))

    def find(self, stage: str, **settings: Any) -> Row:
        """The first row of a stage with these settings.

        Raises:
            DataError: there is none.
        """
        for row in self.rows:
            if row.stage == stage and all(row.settings.get(name) == value for name, value in settings.items()):
                return row
        raise DataError(
            f"results/speed/{self.name}.json has no row {stage} {settings}. Run `amsrc-bench speed` on that machine."
        )

    def keep(self, stage: str) -> float:
        """The part of its speed that each of two workers keeps."""
        kept = efficiency(stage, self.rows, 2, self.machine, on_gpu=False)
        return 1.0 if kept is None else kept


def measured(folder: Path) -> Measured | None:
    """The first file there that has speeds of CPUs for every stage.

    Raises:
        DataError: a file is not one of speeds.
    """
    for path in sorted(folder.glob("*.json")):
        about, found = read_file(path)
        rows = [row for row in found if row.threads is not None]
        if {row.stage for row in rows} >= NEEDED:
            return Measured(path.stem, about, rows)
    return None


def section(results: Path) -> str:
    """The section in Markdown."""
    found = measured(results / "speed")
    if found is None:
        return "No machine was measured in full yet; `amsrc-bench speed` does that.\n"
    parts = [_origin(found), _workers(found), _costs(found), _assumptions()]
    parts += [part for times in TIMES for part in _predictions(found, times)]
    return "\n\n".join(parts) + "\n"


# -- what was measured ---------------------------------------------------------------------------------------


def _origin(m: Measured) -> str:
    hardware, git = m.about["hardware"], m.about["git"]
    commit = f"commit {git['sha'][:12]}{' with changes' if git['dirty'] else ''}" if git["sha"] else "no commit"
    load = m.about["load_before"]
    busy = (
        f" **The machine was busy with something else (load {load:.1f} on {hardware['cores']} cores): every speed "
        "below is too low, and what two workers keep most of all. Measure again.**"
        if load > BUSY
        else ""
    )
    return (
        f"Measured on {hardware['cpu']}, {hardware['cores']} cores, {hardware['memory_gib']} GiB ({m.name}, "
        f"{m.about['measured'][:10]}, {commit}{', quick' if m.about['quick'] else ''}; load before "
        f"{load:.1f}). A worker has one CPU thread; two train through Ray Train, "
        f"with the batch of one.{busy}"
    )


def _workers(m: Measured) -> str:
    lines = []
    for one in m.rows:
        if one.stage.endswith(" by workers") and one.settings["workers"] == 1:
            two = m.find(one.stage, **{**one.settings, "workers": 2})
            what = str(one.settings.get("video", "")) or f"width {one.settings['width']}, batch {one.settings['batch']}"
            rates = [f"{row.median:,.0f} {row.unit} ± {row.spread / 2:,.0f}" for row in (one, two)]
            lines.append([one.stage.removesuffix(" by workers"), what, *rates, f"{50 * two.median / one.median:.0f} %"])
    return _table(["stage", "on", "1 worker", "2 workers", "of twice one"], lines, "llrrr")


def _costs(m: Measured) -> str:
    """Cost per stage against what it grows with."""
    e, spec = build("amsrc", "shanghaitech"), SPECS["shanghaitech"]
    rate, text = _preparing(m, e)
    train, score = (m.find(stage, width=e.model.width) for stage in ("train", "score"))
    fuse, curve = _fuse_s(m), work(e, *CUBES).tried
    size = cube_bytes(e.cube, 3)
    width, height = spec.size or (0, 0)
    lines = [
        ["prepare: decode, flow, boxes", f"{rate.frame * 1e3:.1f} ms of a core", f"frame of {width}x{height}"],
        ["prepare: cut, resize, write", f"{rate.cube * 1e3:.2f} ms of a core; {bytes_text(size)} stored", "cube"],
        ["fetch: copy and SHA-256", f"{size / m.find('store copy').median / 1e3:.3f} ms of a core", "cube and node"],
        ["read a random batch", f"{size / m.find('store read').median / 1e3:.4f} ms of a core", "cube and epoch"],
        ["train", f"{1e3 / train.median:.1f} ms on {train.threads} cores", f"cube and epoch, width {e.model.width}"],
        ["score", f"{1e3 / score.median:.1f} ms on {score.threads} cores", f"scored cube, width {e.model.width}"],
        ["choose", f"{fuse * curve * 1e3:.2f} ms of a core", f"test cube, {curve:,} fusions of it"],
        ["tables", f"{m.find('tables').median / float(m.find('tables').settings['records']) * 1e3:.1f} ms", "record"],
    ]
    if any(row.stage == "cell overhead" for row in m.rows):
        lines.append(["what a cell takes beyond", f"{m.find('cell overhead').median:.2g} s", "cell"])
    return _table(["stage", "cost", "for each"], lines, "lrl") + f"\n\n({text}; flow and boxes grow with the pixels.)"


def _preparing(m: Measured, e: Experiment) -> tuple[Preparing, str]:
    found = preparing(m.rows, e.cube, SPECS[e.dataset], m.machine.name)
    if isinstance(found, str):
        raise DataError(f"results/speed/{m.name}.json: {found}.")
    return found


def _fuse_s(m: Measured) -> float:
    """Seconds of a test cube under one pair of weights, at ShanghaiTech's size."""
    row = m.find("fusion search", **{"size of": "shanghaitech"})
    return row.median / (float(row.settings["cubes"]) * float(row.settings["shares"]))


# -- what follows --------------------------------------------------------------------------------------------


def _assumptions() -> str:
    a, e = ASSUMED, build("amsrc", "shanghaitech")
    forwards = network(e.model, e.cube).multiply_adds
    rate = a.dense * a.sustained / (2 * forwards)
    speeds = [bytes_text(speed) + "/s" for speed in (a.disk, a.inside, a.between)]
    return "\n".join(
        [
            "**Assumed, not measured:**",
            "",
            f"- A cube costs {forwards / 1e6:,.0f} M multiply-adds forwards, three times that in training. A GPU keeps "
            f"{a.sustained:.0%} of {a.dense / 1e12:.0f} TFLOP/s (bf16, H100 class): it trains {rate / 3:,.0f} and "
            f"scores {rate:,.0f} cubes/s. A step takes {a.step_s * 1e3:.0f} ms at least, however few cubes are in it.",
            f"- A node has {a.gpus_a_node} GPUs, {a.cores_a_gpu} cores a GPU as fast as those measured, "
            f"{bytes_text(a.memory)} of memory and disks that read cubes in random order at {speeds[0]}; {speeds[1]} "
            f"from GPU to GPU inside it and {speeds[2]} from node to node. A store that does not fit into memory is "
            "read from the disks; from memory it is read at the speed measured here.",
            "- A stage takes as long as its busiest resource, as if all else happened meanwhile: a lower bound.",
            "- *Machines* are as many of the one that was measured, at its own rates. Several workers keep the part of "
            "their speed that two keep above, and so do several cores that prepare, of whatever node.",
        ]
    )


def load_of(e: Experiment, times: int) -> Load:
    """ShanghaiTech, or so many times as much of it: frames, videos and cubes."""
    spec, (train, test) = SPECS["shanghaitech"], (times * n for n in CUBES)
    return Load(
        times * sum(spec.frames.values()),
        times * sum(spec.videos.values()),
        train,
        test,
        cube_bytes(e.cube, e.model.channels),
        network(e.model, e.cube),
        work(e, train, test),
    )


def gpu_rates(m: Measured, e: Experiment, load: Load, workers: int, gpus: int) -> Rates:
    """Of cells of so many workers on so many GPUs in all, by ASSUMED."""
    a = ASSUMED
    score = a.dense * a.sustained / (2 * load.network.multiply_adds)
    sharing = min(gpus, a.gpus_a_node)  # of a node's disks
    scoring = sharing if workers == 1 else 1
    fits = load.store_bytes <= a.memory
    return replace(
        _common(m, e),
        train=score / 3,
        score=score,
        train_kept=1.0,
        score_kept=1.0,
        step_s=a.step_s,
        gradients=a.inside if workers <= a.gpus_a_node else a.between,
        read=_read(m, fits, sharing),
        read_alone=_read(m, fits, scoring),
    )


def cpu_rates(m: Measured, e: Experiment, load: Load) -> Rates:
    """Of a cell on machines like the measured one, a worker on each."""
    read = _read(m, load.store_bytes <= m.about["hardware"]["memory_gib"] * 2**30, 1)
    return replace(_common(m, e), read=read, read_alone=read)


def _common(m: Measured, e: Experiment) -> Rates:
    """All as measured, a store in memory included; what was not measured as assumed between nodes."""
    train, score = (m.find(stage, width=e.model.width) for stage in ("train", "score"))
    return Rates(
        preparing=_preparing(m, e)[0],
        train=train.median,
        score=score.median,
        prepare_kept=m.keep("prepare"),
        train_kept=m.keep("train"),
        score_kept=m.keep("score"),
        step_s=0.0,
        gradients=ASSUMED.between,
        fetch=ASSUMED.between,
        copy=m.find("store copy").median * 1e6,
        read=_read(m, True, 1),
        read_alone=_read(m, True, 1),
        fuse_s=_fuse_s(m),
    )


def _read(m: Measured, fits: bool, sharing: int) -> float:
    """Bytes/s of one process that gathers cubes: from memory, or as one of several from a node's disks."""
    mapped = m.find("store read").median * 1e6
    return mapped if fits else min(mapped, ASSUMED.disk / sharing)


def _predictions(m: Measured, times: int) -> Iterator[str]:
    e = build("amsrc", "shanghaitech")
    load = load_of(e, times)
    name = "ShanghaiTech" if times == 1 else f"{times} times ShanghaiTech"
    yield f"### {name}: {load.frames:,} frames, about {(load.train + load.test) / 1e6:,.3g} million cubes"
    head = ["on", "prepare", "fetch", "train", "score epochs", "score", "choose", "a cell", "epochs not scored"]
    head += [f"{CELLS} cells", "GPU-hours a cell", "saturates first"]
    yield "Hours. Preparing is done once for all cells; a cell is the rest."
    yield _table(head, [*_gpu_lines(m, e, times), *_cpu_lines(m, e, times)], "l" + "r" * (len(head) - 2) + "l")
    yield _bytes(e, load, times)


def _bytes(e: Experiment, load: Load, times: int) -> str:
    """What lies on disks, crosses the network and stands in memory."""
    nodes = max(GPUS) // ASSUMED.gpus_a_node
    parameters, epochs = load.network.parameters, e.train.epochs
    store, sent = load.store_bytes, gradient_bytes(parameters, max(GPUS))
    written, scores = checkpoint_bytes(parameters, epochs), 8 * load.test * (epochs - 1)
    curve = len(SHARES) * times * SPECS["shanghaitech"].frames["test"] * 4
    return "\n".join(
        [
            f"- On each node {bytes_text(store)} of cubes, fetched once by each: {bytes_text(nodes * store)} over the "
            f"network for {nodes} nodes.",
            f"- A worker of {max(GPUS)} sends {bytes_text(sent)} of gradients a step, "
            f"{bytes_text(sent * load.work.steps)} over the {load.work.steps:,.0f} steps of a cell.",
            f"- A cell writes {bytes_text(written)} of checkpoints, each in place of the one before, and "
            f"{bytes_text(scores)} of epochs' scores.",
            f"- The fusion curve holds {bytes_text(curve)} of frame scores in memory at a time.",
        ]
    )


def _gpu_lines(m: Measured, e: Experiment, times: int) -> Iterator[list[str]]:
    """A cell over all GPUs, and as many cells as GPUs."""
    for gpus in GPUS:
        for workers in dict.fromkeys((gpus, 1)):
            cells = gpus // workers
            label = f"{gpus} GPU{'s' if gpus > 1 else ''}, {cells} cell{'s' if cells > 1 else ''}"
            rates = gpu_rates(m, e, load_of(e, times), workers, gpus)
            yield _line(label, e, times, rates, workers, gpus * ASSUMED.cores_a_gpu, cells, on_gpu=True)


def _cpu_lines(m: Measured, e: Experiment, times: int) -> Iterator[list[str]]:
    cores = int(m.about["hardware"]["cores"])
    for machines in GPUS:
        label = f"{machines} machine{'s' if machines > 1 else ''}, 1 cell"
        rates = cpu_rates(m, e, load_of(e, times))
        yield _line(label, e, times, rates, machines, machines * cores, 1, on_gpu=False)


def _line(
    label: str, e: Experiment, times: int, rates: Rates, workers: int, cores: int, cells: int, *, on_gpu: bool
) -> list[str]:
    found = stages(load_of(e, times), rates, workers, cores)
    prepare, fetch, train, between, after, choose = found
    each = [train, between, after, choose]
    unscored = derive(e, train={"score_every": 0})
    less = stages(load_of(unscored, times), rates, workers, cores)[2:]
    all_cells = prepare.seconds + fetch.seconds + math.ceil(CELLS / cells) * _seconds(each)
    gpu_seconds = workers * (train.seconds + between.seconds) + after.seconds
    first = longest(found)
    return [
        label,
        f"{_hours(prepare.seconds)} on {cores:,} cores",
        _hours(fetch.seconds),
        f"{_hours(train.seconds)}, {train.limit}",
        *(_hours(stage.seconds) for stage in each[1:]),
        _hours(fetch.seconds + _seconds(each)),
        _hours(fetch.seconds + _seconds(less)),
        _hours(all_cells),
        _hours(gpu_seconds) if on_gpu else "-",
        f"{first.name}: {first.limit}",
    ]


def _seconds(found: Sequence[Stage]) -> float:
    return sum(stage.seconds for stage in found)


def _hours(seconds: float) -> str:
    hours = seconds / 3600
    return f"{hours:,.0f}" if hours >= 100 else hours_text(hours)


def _table(head: list[str], lines: list[list[str]], align: str) -> str:
    from tabulate import tabulate

    sides = ["left" if side == "l" else "right" for side in align]
    return tabulate(lines, headers=head, tablefmt="github", disable_numparse=True, colalign=sides)
