"""What a plan needs besides time on its devices: hours of preparing, bytes on disks and on the network.

From the counts of data sets, measured speeds and `bench.scale`. A number that is not known stays None. Imports neither
torch nor Ray.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from amsrc.config import CubeConfig
from bench.config import Experiment
from bench.cost import Cubes, Row, efficiency
from bench.grid import Cell
from bench.machine import Machine, Packing
from bench.scale import Preparing, checkpoint_bytes, cube_bytes, gradient_bytes, network, work
from bench.specs import SPECS, Spec, spec_of
from bench.storage import Place

PARTS = ("decode", "flow", "boxes", "cut", "write")
"""Of preparing, as they are measured: the first three are done to frames, the others to cubes."""


@dataclass(frozen=True)
class Logistics:
    """Hours, and bytes. None: not known."""

    prepare_hours: float | None
    """To prepare what is not there, on all CPUs of the machine. Without a count of cubes: of frames alone."""
    storage: float | None
    """Of the stores that are not there."""
    checkpoints: float
    """Written by all cells, each in place of the one before."""
    stores: float | None
    """A copy of every store to each node, where there are several."""
    gradients: float | None
    """Sent by all workers of all cells."""
    basis: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()


def logistics(
    todo: Sequence[Cell], cubes: Mapping[Place, Cubes], rows: Sequence[Row], packing: Packing, machine: Machine
) -> Logistics:
    """What the cells that are to run need around them."""
    stores = {cell.store: cell.experiment for cell in todo}
    absent = {path: e for path, e in stores.items() if not (path / "manifest.json").is_file()}
    trained = [cell for cell in todo if cell.experiment.method == "amsrc"]
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
        sent = gradient_bytes(network(e.model, e.cube).parameters, packing.workers)
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
        kept = efficiency("prepare", rows, 2, machine, on_gpu=False) if at_once > 1 else None
        if kept:
            at_once *= kept
            basis[f"prepare: each of several cores keeps {kept:.2f} of its speed, as measured with two"] = None
        return rate.seconds(sum(spec.frames.values()), number) / at_once if at_once else None

    nodes = sum(bool(gpus) or not machine.gpus for _, gpus in machine.nodes)  # those that cells run on
    prepared = _sum([seconds(path, e) for path, e in absent.items()])
    copies = _sum([size(path, e) for path, e in stores.items()])
    return Logistics(
        None if prepared is None else prepared / 3600,
        _sum([size(path, e) for path, e in absent.items()]),
        sum(map(_checkpoints, trained)),
        0.0 if nodes < 2 else None if copies is None else copies * nodes,
        _sum([gradients(cell) for cell in trained]),
        tuple(basis),
        tuple(missing),
    )


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


def _checkpoints(cell: Cell) -> int:
    e = cell.experiment
    return checkpoint_bytes(network(e.model, e.cube).parameters, e.train.epochs)


def _sum(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None
