"""Reads the machine from a cluster file: Ray's launcher files, for clouds and for hosts, and KubeRay's RayJobs.

Reads one file. Imports neither torch nor Ray.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from amsrc.errors import ConfigError, unknown
from bench.cluster.machine import Machine


def read_cluster(path: Path) -> Machine:
    """The machine that a Ray cluster file, or KubeRay's RayJob, describes with all its workers up, and its price.

    Ray ignores what is under `metadata`; there the file may say by node type what an hour costs
    (`usd_per_hour: {worker: 1.006}`) and which GPU it has (`gpu: {worker: A10G}`). In a RayJob the annotations
    `amsrc-bench/usd-per-hour` and `amsrc-bench/gpu` of a worker group's pods say so. The head counts as a node, its
    price does not: the price is that of the workers' GPUs. Of hosts that are there already (provider `local`) Ray takes
    no node types; what head and workers have is there too (`nodes: {head: {CPU: 8}, worker: {CPU: 8, GPU: 1}}`).

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
