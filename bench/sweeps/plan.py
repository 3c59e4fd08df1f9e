"""The plan of a sweep, made before it starts: its runs and searches, how many at a time, hours, cost.

Reads records, manifests and the folders of the data sets; starts and writes nothing. Asks Ray for its nodes in
`running_machine` alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bench.cluster.connect import nodes
from bench.cluster.machine import Machine, Packing, machine_of
from bench.cluster.machine import packing as packing_of
from bench.data import datasets
from bench.data.datasets import Dataset
from bench.data.stores import store_path
from bench.experiment.config import Experiment, fingerprint
from bench.experiment.specs import is_toy
from bench.records import provenance, speeds
from bench.records.records import RunRecord, read_all
from bench.records.speeds import Row
from bench.storage.places import Place
from bench.sweeps import estimate, grid, plan_text, search
from bench.sweeps.grid import Cell
from bench.sweeps.options import SweepOptions
from bench.sweeps.search import Search
from bench.sweeps.trials import finished


@dataclass(frozen=True)
class Plan:
    """The options of a sweep and all that follows from them, read once for the whole command."""

    options: SweepOptions
    cells: Sequence[Cell]
    searches: Sequence[Search]
    measured: Sequence[Row]
    """All speeds so far, of all machines."""

    def packing(self, machine: Machine, number: int) -> Packing:
        """How so many runs share the machine; a GPU takes as many as were measured to be fastest.

        Raises:
            ConfigError: as for `bench.cluster.machine.packing`.
        """
        options, part = self.options, self.options.gpus_per_run
        if part is None and machine.gpus and options.workers.most == 1:
            waiting = math.ceil(number / machine.gpus)
            part = 1 / max(1, min(waiting, speeds.fastest_packed(self.measured, machine.name)))
        return packing_of(machine, number, options.workers, part, options.cpus_per_run)

    def cached(self) -> dict[Cell, RunRecord]:
        """The runs that are not repeated, each with the record that it has."""
        results, also = self.options.places.results, self.options.also_finished
        sealed = (cell for cell in self.cells if (cell.store / "manifest.json").is_file())
        return {cell: record for cell in sealed if (record := finished(cell, results, also))}


def planned(options: SweepOptions) -> Plan:
    """The plan of a sweep, for a dry run and a run alike.

    Raises:
        ConfigError: wrong names or values, or what cannot be searched.
        DataError: a copy of a data set is damaged, or partial without that being accepted; a file of speeds is none.
    """
    experiments = grid.matrix(options.datasets, options.recipes, options.seeds, options.changes, options.axes)
    cells = cells_of(experiments, options.sources.root, options.places.home, options.partial)
    measured = speeds.read_speed(options.places.results / "speed", speeds.SPEED)
    return Plan(options, cells, searches_of(options, cells), measured)


def cells_of(experiments: Sequence[Experiment], root: Path, home: Place, partial: bool) -> list[Cell]:
    """The runs of a sweep, the same for a dry run and the sweep itself; their values are final.

    All that is read from disk is whether the copy of each data set is partial. Without a copy, which stops a run, it is
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


def searches_of(options: SweepOptions, cells: Sequence[Cell]) -> list[Search]:
    """The searches that were asked for: one a recipe and data set, or one a recipe over all data sets.

    Raises:
        ConfigError: a field cannot be searched, or what is asked for could not be judged.
    """
    asked = options.search
    if asked is None:
        return []
    groups: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        group = cell.experiment.recipe, "" if asked.joint else cell.experiment.dataset
        groups.setdefault(group, []).append(cell)
    found = []
    for bases in groups.values():
        space = search.space_of(asked.over, bases[0].experiment)
        wanted = Search(tuple(bases), space, asked.rule, asked.sampler, asked.trials, asked.joint, asked.asha)
        search.check(wanted)
        found.append(wanted)
    return found


def running_machine(options: SweepOptions) -> Machine:
    """The cluster as its file says, since one that starts nodes on demand shows none before; else as Ray has it."""
    return options.promised or machine_of(nodes(), provenance.hardware()["cpu"])  # type: ignore[arg-type]


def planned_machine(options: SweepOptions) -> Machine:
    """What a dry run is made for, without asking Ray: a cluster file's machine, or this one."""
    if options.promised:
        return options.promised
    import torch

    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    here = provenance.hardware()
    name = ", ".join(dict.fromkeys(here["gpus"])) if gpus else here["cpu"]  # type: ignore[arg-type]
    return Machine(((float(here["cores"]), float(gpus)),), str(name))  # type: ignore[arg-type]


def described(plan: Plan, cached: Mapping[Cell, RunRecord], machine: Machine) -> str:
    """The plan in words: runs, what is cached, how many at a time, hours, cost; then the searches."""
    counted = estimate.cubes_of(plan.cells, read_all(plan.options.places.results))
    todo = [cell for cell in plan.cells if cell not in cached]
    packed = plan.packing(machine, len(todo))
    expected = estimate.estimate(todo, counted, plan.measured, packed, machine)
    around = estimate.logistics(todo, counted, plan.measured, packed, machine)
    names = [fingerprint(cell.experiment) for cell in cached]
    parts = [plan_text.of_cells(plan.cells, names, packed, expected, machine, around)]
    for wanted in plan.searches:
        at_once = plan.packing(machine, wanted.trials)
        each = estimate.estimate(wanted.bases, counted, plan.measured, at_once, machine)
        parts.append(plan_text.of_search(wanted, each, at_once, machine))
    return "\n\n".join(parts)
