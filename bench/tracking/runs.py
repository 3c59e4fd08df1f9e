"""Logs to MLflow, which only this package uses: a sweep is a parent run, each of its runs a child run.

Reads run records and the files next to them; writes to an MLflow store, by default `<home>/mlflow.db` with its
files under `<home>/mlartifacts`. The records are the truth: a store that fails costs one warning and no result,
and the same command run again logs what is missing. Every call names its run; MLflow's global "active run" is
not used. MLflow and torch are imported when the first run is logged.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import shlex
import sqlite3
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from datetime import datetime
from functools import cached_property
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from bench.experiment.config import flatten, load
from bench.records.names import changes, title
from bench.storage.places import Place
from bench.tracking import models

if TYPE_CHECKING:
    import pandas as pd
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

    from bench.methods.interface import Learner
    from bench.records.records import RunRecord

EXPERIMENT = "AMSRC Bench"
TABLE = "per_video.json"
STATUS = {"done": "FINISHED", "failed": "FAILED", "pruned": "KILLED"}
SHARES_A_POINT = 10  # of the fusion curve; the whole of it is in the record and in the figure
SETTINGS = {  # environment of this process, unless the user has set it
    # A dead server shows in seconds; by default MLflow retries for minutes.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
T = TypeVar("T")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Store:
    """An open MLflow store and the experiment in it that all runs go to."""

    client: MlflowClient
    experiment: str


@dataclass(frozen=True)
class Evidence:
    """The artifacts of a run next to its record."""

    learner: Learner | None = None
    """The trained method, on the CPU; logged as a `pt2` program from stored cubes to the parts of their scores."""
    weights: Place | None = None
    """Its networks as `.safetensors`."""
    scores_table: pd.DataFrame | None = None
    """One row a test video, named in the first column; MLflow compares runs by the second."""
    figures: Mapping[str, bytes] = field(default_factory=dict)
    """Figures that a record alone does not suffice for, by file name."""
    artifacts: Sequence[Place] = ()
    """Further files."""


@dataclass
class Tracker:
    """Logs sweeps and runs until the store fails once; from then on it notes what it did not log.

    Every method that logs gives a run id, or None when nothing was logged.
    """

    home: Path
    uri: str
    missed: list[str] = field(default_factory=list)
    """What was not logged, in words."""
    off: bool = False

    def start_sweep(self, name: str, params: Mapping[str, object]) -> str | None:
        """The parent run of a sweep: a new one, or the one of that name opened again.

        Args:
            params: options of the sweep; kept as tags, because MLflow's parameters are write-once
                and a sweep may be run again with more seeds.
        """
        return self._attempt(f"sweep {name}", lambda store: _start_sweep(store, name, params))

    def log_files(self, run_id: str | None, files: Mapping[str, str | bytes]) -> None:
        """Keep files in a run; those of the same names are replaced.

        Args:
            run_id: None, when the run could not be logged, does nothing.
            files: content by name; a name may have folders: `figures/landscape.png`.
        """
        if run_id is not None:
            self._attempt(", ".join(files), lambda store: _log_files(store, run_id, files))

    def log_cell(
        self, parent: str | None, record: RunRecord, evidence: Callable[[], Evidence] = Evidence
    ) -> str | None:
        """Create or update the child run of a record, found by its fingerprint.

        One whose record and network are logged already is only moved under `parent`, so this costs little for
        runs that were finished before.

        Args:
            parent: the sweep's run; None leaves the child run where it is.
            evidence: its artifacts; called at most once, and not at all where its network is logged already.
        """
        return self._attempt(title(record), lambda store: _log_cell(store, parent, record, evidence))

    def add_figures(self, fingerprint: str, figures: Mapping[str, bytes]) -> str | None:
        """Add figures to the MLflow run of a record, if there is one; a store is not created for that.

        Args:
            figures: content by file name.
        """
        if not self.exists():
            return None
        return self._attempt(", ".join(figures), lambda store: _add_figures(store, fingerprint, figures))

    def register(self, rule: str, record: RunRecord) -> str | None:
        """Make a run's network, if it is none yet, a version of the data set's registered model, `amsrc-<dataset>`.

        Where the rule took the last epoch, whose weights these are, its alias points at the version:
        `models:/amsrc-ped2@crossfit` then names them wherever MLflow loads models. A rule that took an earlier
        epoch gets no alias; the version's description says which epoch it was.

        Args:
            rule: letters, digits, `-` and `_`.
            record: of the run that the rule chooses; logged before, with its network.

        Returns:
            The version; None as well for a run that has no network in the store.
        """
        return self._attempt(f"{title(record)} as {rule}", lambda store: _register(store, rule, record))

    def finish_sweep(
        self,
        parent: str | None,
        status: Literal["FINISHED", "FAILED", "KILLED"],
        tables: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """Close the parent run and keep the tables in it.

        Args:
            parent: the sweep's run; None, when it could not be logged, does nothing.
            status: `KILLED` for a sweep that was interrupted; starting it again opens its run again.
            tables: text by file name; those in Markdown (`.md`) also become the run's description. Without any,
                the earlier ones remain.
        """
        if parent is not None:
            self._attempt("the sweep's tables", lambda store: _finish_sweep(store, parent, status, tables))

    def logged(self) -> dict[str, str]:
        """MLflow's run ids by fingerprint; empty where there is no store, or none that answers."""
        return (self._attempt("which runs there are", _logged) or {}) if self.exists() else {}

    def exists(self) -> bool:
        """Whether there is a store; one on a server is assumed to exist."""
        path = self.uri.removeprefix("sqlite:///")
        return path == self.uri or Path(path).is_file()

    def where(self, run_id: str | None = None) -> str:
        """How to open a run, or else the list of all, in one or two lines for the user."""
        experiment = None if self.off else self._attempt("anything", lambda store: store.experiment)
        if experiment is None:
            return f"MLflow: not logged: {'; '.join(self.missed)}. Run the same command again to log it."
        # Without the last part the page opens in its mode for language models, which hides half of a run.
        page = f"/#/experiments/{experiment}/runs{f'/{run_id}' if run_id else ''}?workflowType=machine_learning"
        if self.uri.startswith("http"):
            return f"MLflow: {_shown(self.uri).rstrip('/')}{page}"
        command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", _shown(self.uri), "--host", "127.0.0.1"]
        return (
            f"MLflow: MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false {shlex.join(command)}\n"
            f"        then open http://127.0.0.1:5000{page}"
        )

    def _attempt(self, what: str, work: Callable[[Store], T]) -> T | None:
        """The one place where a failing store is handled: warn once, and continue without it."""
        if not self.off:
            try:
                return work(self._store)
            except _failures() as error:
                self.off = True
                log.warning(
                    "MLflow: could not log %s to %s; continuing without it (%s). No result is lost: every record is "
                    "written. Run the same command again once the store is reachable and writable to log what is "
                    "missing.",
                    what,
                    _shown(self.uri),
                    _shown(_first_line(error)),
                )
        self.missed.append(what)
        return None

    @cached_property
    def _store(self) -> Store:
        return _open(self.uri, self.home)


def open_tracker(home: Path, uri: str | None = None) -> Tracker:
    """A tracker for this process; the store itself is opened when the first run is logged.

    Args:
        home: work folder; holds the default store and, unless a server keeps them, the files of all runs.
        uri: of a server or database; else `MLFLOW_TRACKING_URI`, else `sqlite:///<home>/mlflow.db`.
    """
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    home = home.expanduser().absolute()
    return Tracker(home, uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{home / 'mlflow.db'}")


def _failures() -> tuple[type[Exception], ...]:
    """Errors of a dead, full or unwritable store; `OSError` covers the errors of HTTP requests."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    return (MlflowException, SQLAlchemyError, sqlite3.Error, OSError)


def _open(uri: str, home: Path) -> Store:
    from mlflow import MlflowClient

    for chatty in ("alembic", "mlflow.store.db.utils", "urllib3.connectionpool"):  # migrations, retries
        logging.getLogger(chatty).setLevel(logging.ERROR)
    local = not uri.startswith("http")
    if uri.startswith("sqlite:///"):
        _check_sqlite(Path(uri.removeprefix("sqlite:///")))
    client = MlflowClient(uri)
    known = client.get_experiment_by_name(EXPERIMENT)
    if known is not None:
        return Store(client, known.experiment_id)
    # Without a location of its own the files would land in the current directory.
    location = (home / "mlartifacts").as_uri() if local else None
    return Store(client, client.create_experiment(EXPERIMENT, location))


def _check_sqlite(path: Path) -> None:
    """Fail at once where MLflow would retry for two minutes: can SQLite write this file?"""
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(path, timeout=5)) as connection:
        connection.execute("BEGIN IMMEDIATE")


def _start_sweep(store: Store, name: str, params: Mapping[str, object]) -> str:
    from mlflow.entities import RunTag

    run = _find(store, "sweep", name)
    if run is None:
        run = store.client.create_run(store.experiment, tags={"sweep": name}, run_name=name)
    run_id: str = run.info.run_id
    store.client.update_run(run_id, status="RUNNING")
    store.client.log_batch(run_id, tags=[RunTag(key, str(value)) for key, value in params.items()])
    return run_id


def _finish_sweep(store: Store, parent: str, status: str, tables: Mapping[str, str]) -> None:
    _log_files(store, parent, {f"tables/{name}": text for name, text in tables.items()})
    note = "\n\n".join(text for name, text in tables.items() if name.endswith(".md"))
    if note:
        store.client.set_tag(parent, "mlflow.note.content", note)
    store.client.set_terminated(parent, status)


def _log_files(store: Store, run_id: str, files: Mapping[str, str | bytes]) -> None:
    with TemporaryDirectory() as folder:
        for name, content in files.items():
            path = Path(folder, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        store.client.log_artifacts(run_id, folder)


def _log_cell(store: Store, parent: str | None, record: RunRecord, evidence_of: Callable[[], Evidence]) -> str:
    from mlflow.entities import Param, RunTag

    client = store.client
    run = _find(store, "fingerprint", record.fingerprint)
    if run is None:
        tag = {"fingerprint": record.fingerprint}
        run = client.create_run(store.experiment, _milliseconds(record.started), tag, _name(record))
    run_id: str = run.info.run_id
    if parent is not None:
        client.set_tag(run_id, "mlflow.parentRunId", parent)
    known = run.data.tags.get("finished") == record.finished
    if known and run.outputs and run.outputs.model_outputs:
        return run_id
    evidence = evidence_of()
    if known and evidence.learner is None:
        return run_id
    client.update_run(run_id, status="RUNNING")
    learner = evidence.learner
    model_id = None if learner is None else models.log_learner(client, run, record, learner)
    params = [Param(name, str(value)) for name, value in flatten(load(record.experiment)).items()]
    tags = [RunTag(name, value) for name, value in _tags(record).items()]
    client.log_batch(run_id, list(_metrics(record, run_id, model_id)), params, tags)
    client.log_dict(run_id, asdict(record), "record.json")
    _log_figures(store, run_id, {**_figures(record), **evidence.figures})
    _log_table(client, run_id, evidence.scores_table)
    _log_files(
        store, run_id, {path.name: path.read_bytes() for path in (evidence.weights, *evidence.artifacts) if path}
    )
    client.set_terminated(run_id, STATUS[record.status], _milliseconds(record.finished))
    client.set_tag(run_id, "finished", record.finished)  # last: says that everything above is there
    return run_id


def _register(store: Store, rule: str, record: RunRecord) -> str | None:
    run = _find(store, "fingerprint", record.fingerprint)
    return None if run is None else models.register(store.client, run, rule, record)


def _log_figures(store: Store, run_id: str, figures: Mapping[str, bytes]) -> None:
    _log_files(store, run_id, {f"figures/{name}": content for name, content in figures.items()})


def _add_figures(store: Store, fingerprint: str, figures: Mapping[str, bytes]) -> str | None:
    run = _find(store, "fingerprint", fingerprint)
    if run is None:
        return None
    _log_figures(store, run.info.run_id, figures)
    return str(run.info.run_id)


def _figures(record: RunRecord) -> dict[str, bytes]:
    """The figures that are drawn from the record alone, by file name."""
    from bench.figures import scores
    from bench.figures import style as figures

    drawn = {"fusion.png": figures.fusion(record), "epochs.png": scores.epochs(record)}
    return {name: figures.render(figure, "png") for name, figure in drawn.items() if figure is not None}


def _logged(store: Store) -> dict[str, str]:
    found: dict[str, str] = {}
    page = None
    while True:
        runs = store.client.search_runs([store.experiment], "tags.fingerprint LIKE '%'", page_token=page)
        found |= {run.data.tags["fingerprint"]: run.info.run_id for run in runs}
        page = runs.token
        if not page:
            return found


def _find(store: Store, tag: str, value: str) -> Run | None:
    quote = '"' if "'" in value else "'"
    runs = store.client.search_runs([store.experiment], f"tags.{tag} = {quote}{value}{quote}", max_results=1)
    return runs[0] if runs else None


def _name(record: RunRecord) -> str:
    """Name of a child run: its title, and the settings that differ from its recipe, which tell trials apart."""
    return ", ".join([title(record), *changes(record)])


def _tags(record: RunRecord) -> dict[str, str]:
    tags = {
        "recipe": record.recipe,
        "dataset": record.dataset,
        "seed": record.seed,
        "status": record.status,
        "rule": record.rule,
        "git_sha": record.git.get("sha"),
        "git_dirty": record.git.get("dirty"),
        "mlflow.source.git.commit": record.git.get("sha"),
        "mlflow.source.name": "amsrc-bench",
        "mlflow.source.type": "LOCAL",
        "fusion/part": record.fusion.get("part"),
        "mlflow.note.content": record.error or models.choices(record),
    }
    return {name: str(value) for name, value in tags.items() if value is not None}


def _metrics(record: RunRecord, run_id: str, model_id: str | None) -> Iterator[Metric]:
    """Final metrics at step 0, those of the epochs as `epoch/...` with the epoch as step; gaps are left out.

    `part/...` is the AUROC of a part of the score alone. `fusion/auroc` is that of two parts, with the share of the
    first (tag `fusion/part`) in their weights as step, in thousandths.

    All carry the record's own time: logged twice, they are still one point each.
    """
    from mlflow.entities import Metric

    time = _milliseconds(record.finished)
    measured = dict(record.metrics)
    if isinstance(ends := measured.get("auroc_interval"), list):  # MLflow keeps single numbers
        measured |= zip(("auroc_low", "auroc_high"), ends, strict=True)
    measured |= _of_parts(record.parts)
    final: dict[str, object] = {**measured, "peak_memory_gib": record.peak_memory_gib}
    for group, values in (("timings_s", record.timings_s), ("throughput", record.throughput)):
        final |= {f"{group}/{name}": value for name, value in values.items()}
    final |= {f"rule/{rule}": read.get("auroc") for rule, read in record.rules.items()}
    points = [(name, value, 0) for name, value in final.items()]
    curve = zip(record.fusion.get("share", []), record.fusion.get("auroc", []), strict=True)
    points += [("fusion/auroc", auroc, round(1000 * share)) for share, auroc in islice(curve, 0, None, SHARES_A_POINT)]
    for epoch in record.epochs:
        step = int(epoch["epoch"] or 0)
        line = {**epoch, **_of_parts(epoch.get("parts") or {})}
        points += [(f"epoch/{name}", value, step) for name, value in line.items() if name != "epoch"]
    for name, value, step in points:
        if isinstance(value, int | float) and math.isfinite(value):
            of_model = model_id if name in measured else None
            yield Metric(name, float(value), time, step, model_id=of_model, run_id=run_id)


def _of_parts(aurocs: Mapping[str, float | None]) -> dict[str, Any]:
    """Not `auroc/...`: a store of files cannot have that next to `auroc`."""
    return {f"part/{name}": value for name, value in aurocs.items()}


def _log_table(client: MlflowClient, run_id: str, table: pd.DataFrame | None) -> None:
    """Log a table in the form that MLflow's page shows as one. MLflow's own `log_table` appends when called again."""
    if table is None:
        return
    client.log_text(run_id, table.to_json(orient="split", index=False), TABLE)
    client.set_tag(run_id, "mlflow.loggedArtifacts", json.dumps([{"path": TABLE, "type": "table"}]))


def _milliseconds(moment: str) -> int:
    return int(datetime.fromisoformat(moment).timestamp() * 1000)


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]:.200}"


def _shown(text: str) -> str:
    """An address, or a text with addresses, without a user's password."""
    return re.sub(r"://[^/@\s]+@", "://***@", text)
