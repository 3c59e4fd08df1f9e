"""The text of a plan, as a dry run prints it: values in, text out. Imports neither torch nor Ray."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from bench.cluster.machine import Machine, Packing
from bench.experiment.config import fingerprint
from bench.sweeps.estimate import Estimate, Logistics, count
from bench.sweeps.grid import Cell
from bench.sweeps.search import Search

UNITS = {"B": 1.0, "KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12, "PB": 1e15}


def of_cells(
    cells: Sequence[Cell],
    cached: Iterable[str],
    packing: Packing,
    expected: Estimate,
    machine: Machine,
    around: Logistics,
) -> str:
    """Runs by recipe and data set, stores to prepare, concurrency, hours, cost and their basis.

    Args:
        cached: fingerprints of the runs that have their record.
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
    head = ["recipe", "data set", "runs", "cached", "to run", "hours"]
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
            f"at a time   {count(packing.concurrent, 'run')} of {each} each, on {machine.name}: {has}",
            f"hours       {hours_text(expected.hours)} from the first run's start to the last one's end",
            f"GPU-hours   {hours_text(expected.gpu_hours)}",
            f"cost        {'-' if usd is None else f'{usd:.2f} USD, for the GPU-hours alone'}",
            f"storage     {cubes_to_come} of cubes to prepare, {checkpoints} of checkpoints",
            f"network     {copies} of cubes to the nodes, {gradients} of gradients",
            *(f"from        {text}" for text in dict.fromkeys((*expected.basis, *around.basis))),
            *(f"not known   {text}" for text in dict.fromkeys((*expected.missing, *around.missing))),
        ]
    )


def of_search(wanted: Search, expected: Estimate, packing: Packing, machine: Machine) -> str:
    """What a search adds: its trials, what they vary, hours and cost.

    Args:
        expected: of the runs of one trial.
    """
    each = list(expected.seconds.values())
    known = None if None in each else sum(filter(None, each)) / 3600
    rounds = math.ceil(wanted.trials / packing.concurrent)
    hours, gpu_hours = (None if known is None else known * n for n in (rounds, wanted.trials * packing.gpus))
    price = machine.usd_per_gpu_hour if packing.gpus else None
    usd = None if gpu_hours is None or price is None else gpu_hours * price
    space = ", ".join(f"{name} {low:g} to {high:g}" for name, (low, high) in wanted.space.items())
    return "\n".join(
        [
            f"search      {wanted.study}: {wanted.trials} trials of {len(each)} runs, {packing.concurrent} at a time",
            f"over        {space}; rule {wanted.rule}, sampler {wanted.sampler}. {wanted.proposals}",
            f"on top      {_few(hours)} hours, {_few(gpu_hours)} GPU-hours, {_few(usd)} USD if no trial is done yet",
        ]
    )


def _few(value: float | None) -> str:
    return "-" if value is None else f"{value:.2g}"


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
