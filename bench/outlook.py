"""What a sweep says before it starts: its cells, what stands already, how many at a time, hours, cost; its searches.

Reads records and manifests; starts and writes nothing. Asks Ray for its nodes in `running_machine` alone.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from bench import cost, provenance
from bench.cells import finished
from bench.cluster import nodes
from bench.config import Experiment, fingerprint
from bench.grid import Cell
from bench.launcher_files import read_cluster
from bench.logistics import logistics
from bench.machine import Machine, Packing, machine_of
from bench.machine import packing as packing_of
from bench.prepare import Sources, store_path, with_providers
from bench.records import read_all
from bench.search import Search
from bench.storage import Place


def cells_without_stores(
    args: argparse.Namespace, root: Path, home: Place, experiments: Sequence[Experiment]
) -> list[Cell]:
    """The cells as they will be, where no store need be there yet."""
    found = []
    for e in experiments:
        wanted, _ = with_providers(e, Sources(root), args.boxes, args.flow)
        paths = {partial: store_path(home, replace(wanted, partial=partial)) for partial in (False, True)}
        partial = args.partial and (paths[True].is_dir() or not paths[False].is_dir())
        found.append(Cell(replace(wanted, partial=partial), paths[partial]))
    return found


def running_machine(args: argparse.Namespace) -> Machine:
    """The cluster as its file says, since one that starts nodes on demand shows none before; else as Ray has it."""
    if args.cluster:
        return read_cluster(args.cluster)
    return machine_of(nodes(), provenance.hardware()["cpu"])  # type: ignore[arg-type]


def planned_machine(args: argparse.Namespace) -> Machine:
    """What a dry run is made for, without asking Ray: a cluster file's machine, or this one."""
    if args.cluster:
        return read_cluster(args.cluster)
    import torch

    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    here = provenance.hardware()
    name = ", ".join(dict.fromkeys(here["gpus"])) if gpus else here["cpu"]  # type: ignore[arg-type]
    return Machine(((float(here["cores"]), float(gpus)),), str(name))  # type: ignore[arg-type]


def packing(args: argparse.Namespace, machine: Machine, number: int) -> Packing:
    """How so many cells share the machine under these options; a GPU among as many as was measured to be fastest.

    Raises:
        ConfigError: as for `bench.machine.packing`.
    """
    part = args.gpus_per_cell
    if part is None and machine.gpus and args.workers.most == 1:
        waiting = math.ceil(number / machine.gpus)
        part = 1 / max(1, min(waiting, cost.fastest_packed(cost.read_speed(), machine.name)))
    return packing_of(machine, number, args.workers, part, args.cpus_per_cell)


def described(
    args: argparse.Namespace,
    results: Place,
    cells: Sequence[Cell],
    searches: Sequence[Search],
    machine: Machine,
) -> str:
    """The plan in words: cells, what is cached, how many at a time, hours, cost; then the searches."""
    rows, counted = cost.read_speed(), cost.cubes_of(cells, read_all(results))
    cached = [c for c in cells if (c.store / "manifest.json").is_file() and finished(c, results, kept(args))]
    todo = [cell for cell in cells if cell not in cached]
    packed = packing(args, machine, len(todo))
    expected = cost.estimate(todo, counted, rows, packed, machine)
    names = [fingerprint(cell.experiment) for cell in cached]
    lines = [cost.render(cells, names, packed, expected, machine, logistics(todo, counted, rows, packed, machine))]
    for wanted in searches:
        at_once = packing(args, machine, wanted.trials)
        mine = [cell for cell in cells if cell.experiment in wanted.bases]
        each = list(cost.estimate(mine, counted, rows, at_once, machine).seconds.values())
        known = None if None in each else sum(filter(None, each)) / 3600
        rounds = math.ceil(wanted.trials / at_once.concurrent)
        hours, gpu_hours = (None if known is None else known * n for n in (rounds, wanted.trials * at_once.gpus))
        price = machine.usd_per_gpu_hour if at_once.gpus else None
        usd = None if gpu_hours is None or price is None else gpu_hours * price
        space = ", ".join(f"{name} {low:g} to {high:g}" for name, (low, high) in wanted.space.items())
        lines += [
            "",
            f"search      {wanted.study}: {wanted.trials} trials of {len(mine)} cells, {at_once.concurrent} at a time",
            f"over        {space}; rule {wanted.rule}, sampler {wanted.sampler}. {wanted.proposals}",
            f"on top      {_few(hours)} hours, {_few(gpu_hours)} GPU-hours, {_few(usd)} USD if none stands yet",
        ]
    return "\n".join(lines)


def kept(args: argparse.Namespace) -> tuple[str, ...]:
    """States of a record, besides `done`, in which its cell is not run again."""
    return () if args.rerun == "failed" else ("failed",)


def _few(value: float | None) -> str:
    return "-" if value is None else f"{value:.2g}"
