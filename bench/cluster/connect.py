"""The one place that starts or joins Ray, lists the cluster's resources and checks that its nodes work together."""

from __future__ import annotations

import logging
import os
import socket
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from amsrc.errors import AwayError, ConfigError, RunError
from bench.records import provenance
from bench.storage.places import Place, writable, write_file

KNOCK_S = 10.0
ANSWER_WITHIN_S = 60.0
"""Time for a node to start a process and check itself; a busy node takes ten seconds."""
WAIT_S = 1200.0
"""Time for a cluster to start nodes, set-up commands included; work that waits for longer is given up."""

Probe = Callable[[], str]
"""Returns what is wrong on the node that it runs on; empty if nothing is."""


def connect() -> None:
    """Join the cluster of RAY_ADDRESS or of this host; where there is none, start one in this process.

    The dashboard of a cluster started here stays off; a joined cluster keeps its own.

    Raises:
        ConfigError: nobody answers at that address, or it is a cluster of another Ray or Python.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")  # the first error is raised; a second is no news
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # keep CUDA_VISIBLE_DEVICES for zero-GPU tasks
    import ray

    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)  # says at every start that tokens are on
    if ray.is_initialized():
        return
    _knock(os.environ.get("RAY_ADDRESS", ""))
    try:
        ray.init(include_dashboard=False, logging_level=logging.WARNING, log_to_driver=False)
    except (ConnectionError, RuntimeError) as error:
        raise ConfigError(f"cannot join the Ray cluster: {error}") from error


def _knock(address: str) -> None:
    """Ray itself tries for two minutes and then ends the process."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not (host and port.isdecimal()):
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), KNOCK_S).close()
    except OSError as error:
        raise ConfigError(
            f"RAY_ADDRESS {address}: no Ray cluster answers there ({error.strerror or error}). Start it, or unset "
            "RAY_ADDRESS to run on this machine alone."
        ) from None


def resources() -> dict[str, float]:
    """What the cluster has in all: {"CPU": 2.0, "GPU": 0.0, ...}."""
    import ray

    return {"CPU": 0.0, "GPU": 0.0, **ray.cluster_resources()}  # type: ignore[no-untyped-call]


def nodes() -> list[dict[str, float]]:
    """What each living node of the cluster has."""
    return [node["Resources"] for node in _living()]


def _living() -> list[dict[str, Any]]:
    import ray

    return [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]


# -- whether the nodes can work together ---------------------------------------------------------------------


def check_nodes(probe: Probe | None = None, *, within_s: float = ANSWER_WITHIN_S) -> None:
    """Have every living node compare its Python, packages and sources with this process's, and run a probe.

    Raises:
        ConfigError: nodes that differ, fail the probe or do not answer; all of them, each with what is wrong.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    pickle: Any = ray.cloudpickle
    ours, identity, differences = provenance.identity(), provenance.identity, provenance.differences
    content = pickle.dumps(probe)  # to be opened where the code is known to be the same

    @ray.remote(num_cpus=0, max_retries=0)
    def look() -> str:
        found = differences(identity(), ours)
        probe = None if found else ray.cloudpickle.loads(content)
        return probe() if probe else found

    # A node whose code is another one, or none, must be able to say so: what it runs comes from here, by value.
    pickle.register_pickle_by_value(provenance)
    try:
        looks = {
            look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(): node
            for node in _living()
        }
    finally:
        pickle.unregister_pickle_by_value(provenance)
    names = {one: f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})" for one, node in looks.items()}
    answered, silent = ray.wait(list(looks), num_returns=len(looks), timeout=within_s)
    wrong = [f"{names[one]}: did not answer within {within_s:g} s" for one in silent]
    for one in silent:
        ray.cancel(one, force=True)
    for one in answered:
        try:
            found = ray.get(one)
        except ray.exceptions.RayError as error:
            found = f"cannot run a task: {str(error).strip().splitlines()[-1]}"
        if found:
            wrong.append(f"{names[one]}: {found}")
    if wrong:
        raise ConfigError(
            f"{len(wrong)} of {len(looks)} nodes cannot work with {socket.gethostname()}, where this was started:\n"
            + "".join(f"  {line}\n" for line in sorted(wrong))
            + "Every node needs the same checkout and environment, and must see the same folders. Mend these nodes, or "
            "take them out of the cluster (`ray stop` there)."
        )


def same_code(ours: Mapping[str, str | None]) -> None:
    """Refuse to work in a process whose code or packages are not those of where the work was ordered.

    For nodes that came after `check_nodes`.

    Raises:
        ConfigError: they differ.
    """
    if differs := provenance.differences(provenance.identity(), ours):
        raise ConfigError(
            f"{socket.gethostname()} has {differs}, unlike the machine that started this. "
            "Give it the same checkout and environment, and run the same command again."
        )


@contextmanager
def shared(folders: Iterable[Place], files: Iterable[Path] = ()) -> Iterator[Probe]:
    """A probe: whether a node sees these very folders, may write there, and finds these files.

    Each folder has a marker file while the context lasts; if it is yet to be made, its nearest parent that exists.

    Raises:
        ConfigError: a folder cannot be written from here either.
    """
    marks = [folder / f".mark-{uuid.uuid4().hex}" for folder in dict.fromkeys(map(_standing, folders))]
    try:
        for mark in marks:
            _touch(mark)
        yield partial(unseen, marks, list(files))
    finally:
        for mark in marks:
            with suppress(PermissionError):
                mark.unlink(missing_ok=True)


def _standing(folder: Place) -> Place:
    """The folder itself, or the one that will hold it; in an object store there are none to be made."""
    if isinstance(folder, Path):
        return next(path for path in (folder, *folder.parents) if path.is_dir())
    return folder


def _touch(mark: Place) -> None:
    try:
        write_file(mark, b"")
    except RunError as error:
        raise ConfigError(str(error)) from None


def unseen(marks: Iterable[Place], files: Iterable[Path]) -> str:
    """Which of these files and folders are missing or cannot be written here; empty if none."""
    away = [f"{path} is not there" for path in files if not path.exists()]
    return ", ".join([*away, *filter(None, map(_away, marks))])


def _away(mark: Place) -> str:
    folder = mark.parent
    if isinstance(folder, Path):
        if not mark.is_file():
            return f"{folder} is not the same folder"
        return "" if os.access(folder, os.W_OK) else f"{folder} cannot be written"
    try:
        writable(folder)
        return "" if mark.is_file() else f"{folder} is not the same place"
    except ConfigError as error:
        return str(error)


class Patience:
    """Measures for how long nothing has run; ends the wait for nodes that do not come."""

    def __init__(self, asked: str, wait_s: float) -> None:
        self.asked, self.wait_s = asked, wait_s
        self.since: float | None = None

    def look(self, running: bool, now: float) -> None:
        """Take note.

        Raises:
            AwayError: it has been too long.
        """
        if running:
            self.since = None
            return
        self.since = now if self.since is None else self.since
        if now - self.since > self.wait_s:
            have = resources()
            raise AwayError(
                f"waited {self.wait_s / 60:.0f} minutes for nodes: {self.asked}; the cluster has {have['CPU']:g} CPUs "
                f"and {have['GPU']:g} GPUs. Look at `ray status`; the same command resumes."
            )
