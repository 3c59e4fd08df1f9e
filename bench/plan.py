"""What a sweep is going to do, before anything starts: its cells, and how they share the machine.

Values in, values out; of files it reads a Ray cluster file alone. Hours and cost are in `bench.cost`. Imports neither
torch nor Ray.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from amsrc.config import LossConfig, ModelConfig, TrainConfig
from amsrc.errors import ConfigError
from bench.config import Experiment, derive, flatten, override, run_key, unknown
from bench.recipes import build
from bench.storage import Place

# -- cells ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cell:
    """One training and its evaluation: an experiment and the store it reads."""

    experiment: Experiment
    store: Place


def matrix(
    names: Sequence[str],
    recipes: Sequence[str],
    seeds: int,
    changes: Mapping[str, str],
    axes: Mapping[str, Sequence[str]],
) -> list[Experiment]:
    """Every cell's experiment, checked before anything starts: data sets x recipes x axes x seeds.

    Args:
        changes: fields set in all cells.
        axes: fields with the values that each takes (`parse_axes`); the last one changes fastest.

    Raises:
        ConfigError: a wrong name or value, a field both set and an axis, or a network that would be trained twice.
    """
    both = [field for field in axes if field in changes]
    if both:
        raise ConfigError(f"{', '.join(both)}: set to one value and an axis at the same time. Leave one of them out.")
    points = [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]
    found = [
        override(build(recipe, name, seed), {**changes, **point})
        for name in names
        for recipe in recipes
        for point in points
        for seed in range(seeds)
    ]
    keys = Counter(map(_trained, found))
    twice = dict.fromkeys(f"{e.recipe} on {e.dataset}" for e in found if keys[_trained(e)] > 1)
    if twice:
        raise ConfigError(
            f"one network would be trained twice: {', '.join(twice)}. Leave all but one out"
            f"{', and what the axes do not change' if axes else ''}."
        )
    return found


def _trained(e: Experiment) -> str:
    """The key of what is trained, without the fields that this method or network does not use."""
    if e.method != "amsrc":
        e = replace(e, model=ModelConfig(), loss=LossConfig(), train=TrainConfig())
    elif e.model.fusion == "none":  # no motion stream, so no consistency
        e = derive(e, loss={"consistency": 0.0})
    return run_key(e)


def parse_axes(texts: Sequence[str]) -> dict[str, list[str]]:
    """`["loss.consistency=0.1,1,10"]` as {"loss.consistency": ["0.1", "1", "10"]}.

    Raises:
        ConfigError: not of that form, a field that is unknown or cannot be an axis, an empty or repeated value.
    """
    known = {name: value for name, value in flatten(Experiment(recipe="", dataset="")).items() if "." in name}
    axes: dict[str, list[str]] = {}
    for text in texts:
        name, equals, values = text.partition("=")
        if not equals or not name:
            raise ConfigError(f"--axis {text}: write a field and its values, as in loss.consistency=0.1,1,10.")
        if name not in known:
            raise ConfigError(unknown("field", name, known))
        if isinstance(known[name], list):
            raise ConfigError(
                f"--axis {name}: its value is a list itself. Run a sweep for each with --{name} {values}."
            )
        if name.startswith("score."):
            raise ConfigError(
                f"--axis {name}: fields of score train no other network, so they cannot be axes. Run a sweep for each "
                f"value with --{name} VALUE."
            )
        if name in axes:
            raise ConfigError(f"--axis {name} is given twice. Put all its values into one: {name}=A,B.")
        axes[name] = values.split(",")
        if "" in axes[name]:
            raise ConfigError(f"--axis {text}: a value is empty.")
        again = [value for value, times in Counter(axes[name]).items() if times > 1]
        if again:
            raise ConfigError(f"--axis {text}: {', '.join(again)} is repeated.")
    return axes


# -- the machine and how cells share it ----------------------------------------------------------------------


@dataclass(frozen=True)
class Machine:
    """What the cells run on."""

    nodes: tuple[tuple[float, float], ...]
    """CPUs and GPUs of each node: a cell of one worker has to fit into one."""
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


def read_cluster(path: Path) -> Machine:
    """The machine that a Ray cluster file, or KubeRay's RayJob, describes with all its workers up, and its price.

    Ray ignores what stands under `metadata`; there the file may say by node type what an hour costs
    (`usd_per_hour: {worker: 1.006}`) and which GPU it has (`gpu: {worker: A10G}`). In a RayJob the annotations
    `amsrc-bench/usd-per-hour` and `amsrc-bench/gpu` of a worker group's pods say so. The head counts as a node, its
    price does not: the price is that of the workers' GPUs. Of hosts that are there already (provider `local`) Ray takes
    no node types; what head and workers have stands there too (`nodes: {head: {CPU: 8}, worker: {CPU: 8, GPU: 1}}`).

    Raises:
        ConfigError: no such file, or one that does not say what its workers have.
    """
    import yaml

    try:
        contents = list(yaml.safe_load_all(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: not a readable cluster file ({error}).") from None
    jobs = [content for content in contents if isinstance(content, dict) and content.get("kind") == "RayJob"]
    content = _of_kuberay(jobs[0], path) if jobs else _dict(contents[0] if contents else None, path, "the file")
    about = _dict(content.get("metadata", {}), path, "metadata")
    if _dict(content.get("provider", {}), path, "provider").get("type") == "local":
        content = {**content, **_hosts(content["provider"], about, path)}
    types: dict[str, Any] = _dict(content.get("available_node_types"), path, "node types")
    head = content.get("head_node_type")
    most = _number(content.get("max_workers", 2), path, "max_workers")  # Ray's own default
    prices = _dict(about.get("usd_per_hour", {}), path, "metadata.usd_per_hour")
    gpu_names = _dict(about.get("gpu", {}), path, "metadata.gpu")
    for name in (*prices, *gpu_names):
        if name not in types:
            raise ConfigError(f"{path}: metadata: {unknown('node type', name, types)}")

    nodes: list[tuple[float, float]] = []
    kinds: list[str] = []
    cost: float | None = 0.0
    sizes = {name: _size(_dict(about, path, name), path, name) for name, about in types.items()}
    for name, size in sorted(sizes.items(), key=lambda item: -item[1][1]):  # most GPUs first: max_workers may cut
        if name == head:
            nodes.append(size)
            continue
        number = int(min(_number(types[name].get("max_workers", most), path, f"{name}.max_workers"), most))
        most -= number
        nodes += [size] * number
        if size[1] and number:
            kinds.append(str(gpu_names.get(name, "unnamed GPU")))
            price = _number(prices[name], path, f"metadata.usd_per_hour.{name}") if name in prices else None
            cost = None if cost is None or price is None else cost + number * price
    gpus = sum(size[1] for size in nodes) - (sizes[head][1] if head in sizes else 0.0)
    if not any(cpus or gpus for cpus, gpus in nodes):
        raise ConfigError(f"{path}: no node has a CPU or GPU. Give its types resources, as in {{CPU: 4, GPU: 1}}.")
    return Machine(tuple(nodes), ", ".join(dict.fromkeys(kinds)) or "CPU", cost / gpus if gpus and cost else None)


def _of_kuberay(job: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """What a RayJob says of its cluster, in the words of a Ray cluster file."""
    types: dict[str, Any] = {}
    about: dict[str, dict[str, Any]] = {"usd_per_hour": {}, "gpu": {}}
    try:
        cluster = job["spec"]["rayClusterSpec"]
        for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
            name, pod = group.get("groupName", "head"), group["template"]
            limits = pod["spec"]["containers"][0]["resources"]["limits"]  # Ray counts those of the first container
            has = {"CPU": limits.get("cpu", 0), "GPU": limits.get("nvidia.com/gpu", 0)}
            types[name] = {"resources": has, "max_workers": group.get("maxReplicas", 0)}
            notes = pod.get("metadata", {}).get("annotations", {})
            if price := notes.get("amsrc-bench/usd-per-hour"):
                about["usd_per_hour"][name] = float(price)
            if gpu := notes.get("amsrc-bench/gpu"):
                about["gpu"][name] = gpu
    except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
        raise ConfigError(f"{path}: not a complete RayJob ({type(error).__name__}: {error}).") from None
    most = sum(each["max_workers"] for each in types.values())
    return {"head_node_type": "head", "max_workers": most, "metadata": about, "available_node_types": types}


def _hosts(provider: Mapping[str, Any], about: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Hosts that are there already, told as node types: all workers are of one, and all are taken."""
    workers = provider.get("worker_ips")
    if not isinstance(workers, list):
        raise ConfigError(f"{path}: provider.worker_ips must be a list of addresses, found {workers!r}.")
    nodes = _dict(about.get("nodes"), path, "metadata.nodes (such as {head: {CPU: 8}, worker: {CPU: 8, GPU: 1}})")
    types = {name: {"resources": nodes.get(name)} for name in ("head", "worker")}
    return {"available_node_types": types, "head_node_type": "head", "max_workers": len(workers)}


def _size(about: Mapping[str, Any], path: Path, name: str) -> tuple[float, float]:
    has = _dict(about.get("resources"), path, f"{name}.resources (such as {{CPU: 4, GPU: 1}})")
    cpus, gpus = (_number(has.get(kind, 0), path, f"{name}.resources.{kind}") for kind in ("CPU", "GPU"))
    return cpus, gpus


def _dict(value: Any, path: Path, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: {what} must be a table of names and values, found {value!r}.")
    return value


def _number(value: Any, path: Path, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise ConfigError(f"{path}: {what} must be a number from 0, found {value!r}.")
    return float(value)


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
    """How cells share the machine."""

    concurrent: int
    """Cells at a time."""
    cpus: int
    """CPUs of one cell, all its workers together."""
    gpus: float
    """GPUs of one cell, likewise; below 1, a part of one."""
    workers: int = 1
    """Workers of one cell, with all nodes there."""

    @property
    def described(self) -> str:
        """`2 CPUs and 1 GPUs`."""
        return " and ".join(f"{n:g} {kind}s" for n, kind in ((self.cpus, "CPU"), (self.gpus, "GPU")) if n)


ONE_WORKER = Workers()


def packing(
    machine: Machine,
    cells: int,
    workers: Workers = ONE_WORKER,
    gpus_per_cell: float | None = None,
    cpus_per_cell: int | None = None,
) -> Packing:
    """As many cells at a time as fit, and what each gets.

    A cell of one worker gets a GPU, or the part of one that is asked for, and an even share of its node's CPUs; on a
    machine without GPUs a CPU, and more where there are fewer cells than CPUs. A cell of several workers gets a GPU (or
    CPU, likewise) for each, on whichever nodes; as many as there are, where that is not the most it takes.

    Args:
        cells: how many are to run.

    Raises:
        ConfigError: values that Ray does not know, or a cell that would wait forever because it never fits.
    """
    cells = max(1, cells)
    if gpus_per_cell is not None and not (0 < gpus_per_cell < 1 or gpus_per_cell in range(1, 1000)):
        raise ConfigError(f"--gpus-per-cell {gpus_per_cell:g}: give a part below 1, or a whole number from 1.")
    if cpus_per_cell is not None and cpus_per_cell < 1:
        raise ConfigError(f"--cpus-per-cell {cpus_per_cell}: give a whole number from 1.")
    there = f"there {'are' if len(machine.nodes) > 1 else 'is'} {_described(machine)}"
    if workers.most > 1:
        if gpus_per_cell is not None or cpus_per_cell is not None:
            raise ConfigError(
                f"--workers {workers} sets what a cell gets: leave out --gpus-per-cell and --cpus-per-cell."
            )
        on_gpu = bool(machine.gpus)
        have = sum(int(node[on_gpu]) for node in machine.nodes)
        if have < workers.least:
            kind = "GPU" if on_gpu else "CPU"
            raise ConfigError(f"--workers {workers} needs {workers.least} {kind}s; {there}. Ask for fewer.")
        each = min(have, workers.most)
        return Packing(min(cells, have // each), 0 if on_gpu else each, each if on_gpu else 0, each)

    if gpus_per_cell and not machine.gpus:
        raise ConfigError(
            f"--gpus-per-cell {gpus_per_cell:g}: no node has a GPU; {there}. Leave it out to train on CPUs; if nodes "
            "with GPUs start on demand, pass their --cluster file."
        )
    gpus = gpus_per_cell or float(bool(machine.gpus))
    cpus = cpus_per_cell or _cpus_a_cell(machine, cells, gpus)
    slots = sum(_slots(node, cpus, gpus) for node in machine.nodes)
    if not slots:
        wants = Packing(1, cpus, gpus).described
        raise ConfigError(f"a cell that asks for {wants} fits on no node; {there}. Ask for less.")
    return Packing(min(cells, slots), cpus, gpus)


def _described(machine: Machine) -> str:
    """`2 nodes with 4 CPUs and 1 GPUs, 1 node with 4 CPUs and 0 GPUs`."""
    kinds = Counter(machine.nodes).items()
    return ", ".join(f"{n} node{'s' * (n > 1)} with {c:g} CPUs and {g:g} GPUs" for (c, g), n in kinds) or "no node"


def _slots(node: tuple[float, float], cpus: int, gpus: float) -> int:
    """Cells that a node holds; parts of different GPUs do not add up to one."""
    by_cpu = int(node[0] // cpus)
    if not gpus:
        return by_cpu
    by_gpu = int(node[1]) * math.floor(1 / gpus + 1e-9) if gpus < 1 else int(node[1] // gpus)
    return min(by_cpu, by_gpu)


def _cpus_a_cell(machine: Machine, cells: int, gpus: float) -> int:
    """The most CPUs a cell with which no cell more has to wait than with one each."""
    largest = int(max((cpus for cpus, _ in machine.nodes), default=1))
    most = min(cells, sum(_slots(node, 1, gpus) for node in machine.nodes))
    if not most:
        return 1
    fitting = (c for c in range(largest, 0, -1) if sum(_slots(node, c, gpus) for node in machine.nodes) >= most)
    return next(fitting, 1)
