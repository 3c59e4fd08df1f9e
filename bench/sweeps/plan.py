"""What a sweep says before it starts: its cells, what stands already, how many at a time, hours, cost; its searches.

Reads records, manifests and the folders of the data sets; starts and writes nothing. Asks Ray for its nodes in
`running_machine` alone.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from bench.cluster.connect import nodes
from bench.cluster.launcher_files import read_cluster
from bench.cluster.machine import Machine, Packing, machine_of
from bench.cluster.machine import packing as packing_of
from bench.data import datasets
from bench.data.datasets import Dataset
from bench.data.stores import store_path
from bench.experiment.config import Experiment, fingerprint
from bench.experiment.specs import is_toy
from bench.records import provenance, speeds
from bench.records.records import read_all
from bench.storage.places import Place
from bench.sweeps import estimate, plan_text
from bench.sweeps.grid import Cell
from bench.sweeps.search import Search
from bench.sweeps.trials import finished


def cells_of(experiments: Sequence[Experiment], root: Path, home: Place, partial: bool) -> list[Cell]:
    """The cells of a sweep, for a dry run and a run alike: nothing changes their values any more.

    What is left to find out is whether the copy of each data set is partial. Without a copy, which stops a run, it is
    not known: it is then taken for partial where that is accepted and no store of the whole one exists.

    Args:
        partial: whether partial copies are accepted.

    Raises:
        DataError: a copy is damaged, or partial without that being accepted.
    """
    names = dict.fromkeys(e.dataset for e in experiments)
    copies = {name: datasets.find(name, root, partial) for name in names if datasets.exists(name, root)}
    return [_cell(e, copies.get(e.dataset), home, partial) for e in experiments]


def _cell(e: Experiment, copy: Dataset | None, home: Place, partial: bool) -> Cell:
    whole, part = (Cell(ours, store_path(home, ours)) for ours in (replace(e, partial=p) for p in (False, True)))
    if copy:
        return part if copy.partial else whole
    unknown = partial and not is_toy(e.dataset)  # a copy that is yet to be rendered will be whole
    return part if unknown and (part.store.is_dir() or not whole.store.is_dir()) else whole


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
        ConfigError: as for `bench.cluster.machine.packing`.
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
        each = estimate.estimate(wanted.bases, counted, rows, at_once, machine)
        parts.append(plan_text.of_search(wanted, each, at_once, machine))
    return "\n\n".join(parts)


def kept(args: argparse.Namespace) -> tuple[str, ...]:
    """States of a record, besides `done`, in which its cell is not run again."""
    return () if args.rerun == "failed" else ("failed",)
