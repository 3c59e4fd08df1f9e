"""The options of `amsrc-bench sweep` as a value: parsed and checked, read once from the command line.

`bench.cli.sweep_options` makes it, `bench.sweeps.plan` finds its runs and searches, `bench.sweeps.run` runs them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.cluster.machine import ONE_WORKER, Machine, Workers
from bench.data.stores import Sources
from bench.data.toy import embedded
from bench.storage.places import Place, Remote, local_folder


@dataclass(frozen=True)
class Places:
    """Where a sweep writes, and reads what it wrote."""

    home: Place
    results: Place
    name: str
    """Of the sweep, its folder and its parent run in MLflow."""
    storage: str | None = None
    """Address of Optuna's database; None: a file of this sweep."""

    @property
    def folder(self) -> Path:
        """What this sweep alone keeps on the driver's node: studies and Tune's scratch."""
        return local_folder(self.home) / "sweeps" / self.name

    @property
    def database(self) -> Path:
        """Where the studies are, unless `storage` names another database."""
        return self.folder / "study.db"

    @property
    def studies(self) -> str:
        """Address of the database that has the studies."""
        return self.storage or f"sqlite:///{self.database}"

    @property
    def kept(self) -> Remote | None:
        """Where `database` is sent after every trial, so that it outlives the driver's node."""
        return None if self.storage or isinstance(self.home, Path) else self.home / "sweeps" / self.name / "study.db"


@dataclass(frozen=True)
class SearchOptions:
    """How trials are proposed and judged."""

    over: tuple[str, ...] | None
    """`FIELD` or `FIELD=LOW:HIGH` as written: what a field takes is for each recipe to say (`search.space_of`). None:
    the fields that each recipe's method has for it."""
    rule: str
    sampler: str
    trials: int
    joint: bool = False
    """Whether one setting is searched for all data sets together."""
    asha: bool = False
    """Whether trials that fall behind are stopped early."""


@dataclass(frozen=True, kw_only=True)
class SweepOptions:
    """One command: what is run, on what data, where, and on how much of the cluster."""

    datasets: tuple[str, ...]
    recipes: tuple[str, ...]
    seeds: int = 1
    """Seeds 0 to N - 1 of each recipe and data set."""
    changes: Mapping[str, str] = field(default_factory=dict)
    """Fields that are set in all runs, by dotted name, with their values as written."""
    axes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Fields with the values of each (`grid.parse_axes`)."""
    search: SearchOptions | None = None
    """None: the matrix alone."""
    sources: Sources
    """Folder of the data sets, and files of boxes and flow."""
    partial: bool = False
    """Whether copies of data sets with videos missing are accepted."""
    places: Places
    workers: Workers = ONE_WORKER
    """Data-parallel processes of a run."""
    gpus_per_run: float | None = None
    """None: one, or the part of one with which runs were measured to train fastest."""
    cpus_per_run: int | None = None
    """None: an even share."""
    promised: Machine | None = None
    """The machine that a cluster file describes; None: what is running."""
    mlflow: str | None = None
    """Tracking server; None: as `bench.tracking.runs.open_tracker` has it."""
    rerun_failed: bool = False
    dry_run: bool = False

    @property
    def mode(self) -> str:
        return "search" if self.search else "matrix"

    @property
    def rendered(self) -> bool:
        """Whether the data sets are the embedded ones, which the sweep renders itself."""
        return self.sources.root == embedded(self.places.home)

    @property
    def also_finished(self) -> tuple[str, ...]:
        """States of a record, besides `done`, in which its run is not repeated."""
        return () if self.rerun_failed else ("failed",)
