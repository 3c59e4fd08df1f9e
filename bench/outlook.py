"""What a sweep says before it starts: its cells, what stands already, how many at a time, hours, cost; its searches.

Reads records and manifests; starts and writes nothing. Asks Ray for its nodes in `running_machine` alone.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from bench import estimate, plan_text, provenance, speeds
from bench.cells import finished
from bench.cluster import nodes
from bench.config import Experiment, fingerprint
from bench.launcher_files import read_cluster
from bench.machine import Machine, Packing, machine_of
from bench.machine import packing as packing_of
from bench.plan import Cell
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
    part = args.gpus_per_run
    if part is None and machine.gpus and args.workers.most == 1:
        waiting = math.ceil(number / machine.gpus)
        part = 1 / max(1, min(waiting, speeds.fastest_packed(speeds.read_speed(), machine.name)))
    return packing_of(machine, number, args.workers, part, args.cpus_per_run)


def described(
    args: argparse.Namespace,
    results: Place,
    cells: Sequence[Cell],
    searches: Sequence[Search],
    machine: Machine,
) -> str:
    """The plan in words: cells, what is cached, how many at a time, hours, cost; then the searches."""
    rows, counted = speeds.read_speed(), estimate.cubes_of(cells, read_all(results))
    cached = [c for c in cells if (c.store / "manifest.json").is_file() and finished(c, results, kept(args))]
    todo = [cell for cell in cells if cell not in cached]
    packed = packing(args, machine, len(todo))
    expected = estimate.estimate(todo, counted, rows, packed, machine)
    around = estimate.logistics(todo, counted, rows, packed, machine)
    names = [fingerprint(cell.experiment) for cell in cached]
    parts = [plan_text.of_cells(cells, names, packed, expected, machine, around)]
    for wanted in searches:
        at_once = packing(args, machine, wanted.trials)
        mine = [cell for cell in cells if cell.experiment in wanted.bases]
        each = estimate.estimate(mine, counted, rows, at_once, machine)
        parts.append(plan_text.of_search(wanted, each, at_once, machine))
    return "\n\n".join(parts)


def kept(args: argparse.Namespace) -> tuple[str, ...]:
    """States of a record, besides `done`, in which its cell is not run again."""
    return () if args.rerun == "failed" else ("failed",)
