"""The machine of a sweep and how its runs share it: how many at a time, and what each gets.

Values in, values out. Imports neither torch nor Ray.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from amsrc.errors import ConfigError


@dataclass(frozen=True)
class Machine:
    """Nodes and devices that are there for runs."""

    nodes: tuple[tuple[float, float], ...]
    """CPUs and GPUs of each node: a run of one worker has to fit into one."""
    name: str
    """The GPUs' name, as Ray (`A10G`) or torch (`NVIDIA A10G`) has it; without GPUs the CPUs'."""
    usd_per_gpu_hour: float | None = None

    @property
    def cpus(self) -> float:
        return sum(cpus for cpus, _ in self.nodes)

    @property
    def gpus(self) -> float:
        return sum(gpus for _, gpus in self.nodes)


def machine_of(nodes: Iterable[Mapping[str, float]], cpu: str | None) -> Machine:
    """The machine that Ray's nodes make up.

    Args:
        nodes: resources of each node that is alive (`node["Resources"]` of `ray.nodes()`).
        cpu: name of the CPUs, for where there is no GPU.
    """
    nodes = list(nodes)
    kinds = dict.fromkeys(
        key.partition(":")[2] for node in nodes for key in node if key.startswith("accelerator_type:")
    )
    sizes = tuple((node.get("CPU", 0.0), node.get("GPU", 0.0)) for node in nodes)
    return Machine(sizes, ", ".join(kinds) if any(gpus for _, gpus in sizes) else cpu or "CPU")


@dataclass(frozen=True)
class Workers:
    """Data-parallel processes of one training; fewer than `most` where nodes are missing, and never below `least`."""

    least: int = 1
    most: int = 1

    @classmethod
    def read(cls, text: str) -> Workers:
        """`2` is two, `1:4` is four that may become one.

        Raises:
            ConfigError: anything else.
        """
        least, colon, most = text.partition(":")
        most = most if colon else least
        if not (least.isdecimal() and most.isdecimal() and 1 <= int(least) <= int(most)):
            raise ConfigError(f"--workers {text}: give a number from 1, or the least and the most, as in 1:4.")
        return cls(int(least), int(most))

    def __str__(self) -> str:
        return f"{self.least}:{self.most}" if self.least < self.most else f"{self.most}"


@dataclass(frozen=True)
class Packing:
    """How runs share the machine."""

    concurrent: int
    """Runs at a time."""
    cpus: int
    """CPUs of one run, all its workers together."""
    gpus: float
    """GPUs of one run, likewise; below 1, a part of one."""
    workers: int = 1
    """Workers of one run, with all nodes there."""

    @property
    def described(self) -> str:
        """`2 CPUs and 1 GPUs`."""
        return " and ".join(f"{n:g} {kind}s" for n, kind in ((self.cpus, "CPU"), (self.gpus, "GPU")) if n)


ONE_WORKER = Workers()


def packing(
    machine: Machine,
    cells: int,
    workers: Workers = ONE_WORKER,
    gpus_per_run: float | None = None,
    cpus_per_run: int | None = None,
) -> Packing:
    """As many runs at a time as fit, and what each gets.

    A run of one worker gets a GPU, or the part of one that is asked for, and an even share of its node's CPUs; on a
    machine without GPUs a CPU, and more where there are fewer runs than CPUs. A run of several workers gets a GPU (or
    CPU, likewise) for each, on whichever nodes; as many as there are, where that is not the most it takes.

    Args:
        cells: how many are to run.

    Raises:
        ConfigError: values that Ray does not know, or a run that would wait forever because it never fits.
    """
    cells = max(1, cells)
    if gpus_per_run is not None and not (0 < gpus_per_run < 1 or gpus_per_run in range(1, 1000)):
        raise ConfigError(f"--gpus-per-run {gpus_per_run:g}: give a part below 1, or a whole number from 1.")
    if cpus_per_run is not None and cpus_per_run < 1:
        raise ConfigError(f"--cpus-per-run {cpus_per_run}: give a whole number from 1.")
    there = f"there {'are' if len(machine.nodes) > 1 else 'is'} {_described(machine)}"
    if workers.most > 1:
        if gpus_per_run is not None or cpus_per_run is not None:
            raise ConfigError(f"--workers {workers} sets what a run gets: leave out --gpus-per-run and --cpus-per-run.")
        on_gpu = bool(machine.gpus)
        have = sum(int(node[on_gpu]) for node in machine.nodes)
        if have < workers.least:
            kind = "GPU" if on_gpu else "CPU"
            raise ConfigError(f"--workers {workers} needs {workers.least} {kind}s; {there}. Ask for fewer.")
        each = min(have, workers.most)
        return Packing(min(cells, have // each), 0 if on_gpu else each, each if on_gpu else 0, each)

    if gpus_per_run and not machine.gpus:
        raise ConfigError(
            f"--gpus-per-run {gpus_per_run:g}: no node has a GPU; {there}. Leave it out to train on CPUs; if nodes "
            "with GPUs start on demand, pass their --cluster file."
        )
    gpus = gpus_per_run or float(bool(machine.gpus))
    cpus = cpus_per_run or _cpus_a_cell(machine, cells, gpus)
    slots = sum(_slots(node, cpus, gpus) for node in machine.nodes)
    if not slots:
        wants = Packing(1, cpus, gpus).described
        raise ConfigError(f"a run that asks for {wants} fits on no node; {there}. Ask for less.")
    return Packing(min(cells, slots), cpus, gpus)


def _described(machine: Machine) -> str:
    """`2 nodes with 4 CPUs and 1 GPUs, 1 node with 4 CPUs and 0 GPUs`."""
    kinds = Counter(machine.nodes).items()
    return ", ".join(f"{n} node{'s' * (n > 1)} with {c:g} CPUs and {g:g} GPUs" for (c, g), n in kinds) or "no node"


def _slots(node: tuple[float, float], cpus: int, gpus: float) -> int:
    """Runs that a node holds; parts of different GPUs do not add up to one."""
    by_cpu = int(node[0] // cpus)
    if not gpus:
        return by_cpu
    by_gpu = int(node[1]) * math.floor(1 / gpus + 1e-9) if gpus < 1 else int(node[1] // gpus)
    return min(by_cpu, by_gpu)


def _cpus_a_cell(machine: Machine, cells: int, gpus: float) -> int:
    """The most CPUs a run with which as many runs go at a time as with one CPU each."""
    largest = int(max((cpus for cpus, _ in machine.nodes), default=1))
    most = min(cells, sum(_slots(node, 1, gpus) for node in machine.nodes))
    if not most:
        return 1
    fitting = (c for c in range(largest, 0, -1) if sum(_slots(node, c, gpus) for node in machine.nodes) >= most)
    return next(fitting, 1)
