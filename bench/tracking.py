"""The one place that knows MLflow: a sweep is a parent run, each of its cells a child run.

Reads run records and what lies beside them; writes to an MLflow store, by default `<home>/mlflow.db` with its
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
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from amsrc.errors import RunError
from bench.config import flatten, load

if TYPE_CHECKING:
    import pandas as pd
    import torch
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

    from bench.records import RunRecord

EXPERIMENT = "AMSRC Bench"
TABLE = "per_video.json"
SETTINGS = {  # environment of this process, unless the user has set it
    # A dead server shows in seconds; by default MLflow goes on trying for minutes.
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


@dataclass
class Tracker:
    """Logs sweeps and cells until the store fails once, and from then on notes what it did not log.

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
            params: what the sweep was asked for; kept as tags, because MLflow's parameters are write-once
                and a sweep may be run again with more seeds.
        """
        return self._attempt(f"sweep {name}", lambda store: _start_sweep(store, name, params))

    def log_cell(
        self,
        parent: str | None,
        record: RunRecord,
        *,
        model: torch.nn.Module | None = None,
        example: tuple[torch.Tensor, ...] | None = None,
        weights: Path | None = None,
        scores_table: pd.DataFrame | None = None,
        artifacts: list[Path] | None = None,
    ) -> str | None:
        """The child run of a cell, found by its fingerprint and brought up to date.

        A cell whose record is already there is only moved under `parent`, so this costs little for cells
        that were finished before.

        Args:
            parent: the sweep's run; None leaves the cell where it is.
            model: the trained network; logged as a `pt2` program that takes and gives plain tensors.
            example: one input of the network each, at least 2 cubes: a batch of 1 would be built into the program.
            weights: the same network as `.safetensors`.
            scores_table: one row a test video, named in the first column; MLflow compares runs by the second.
            artifacts: further files.
        """
        evidence = Evidence(model, example, weights, scores_table, artifacts or [])
        return self._attempt(_title(record), lambda store: _log_cell(store, parent, record, evidence))

    def finish_sweep(
        self, parent: str | None, status: Literal["FINISHED", "FAILED", "KILLED"], tables: Mapping[str, str]
    ) -> None:
        """Close the parent run and keep the tables in it.

        Args:
            parent: the sweep's run; None, when it could not be logged, does nothing.
            tables: text by file name; those in Markdown (`.md`) also become the run's description.
        """
        if parent is not None:
            self._attempt("the sweep's tables", lambda store: _finish_sweep(store, parent, status, tables))

    def stands(self) -> bool:
        """Whether there is a store to look at; one on a server is taken to be there."""
        path = self.uri.removeprefix("sqlite:///")
        return path == self.uri or Path(path).is_file()

    def where(self, run_id: str | None = None) -> str:
        """How to look at a run, or else at the list of all, in one or two lines for the user."""
        experiment = None if self.off else self._attempt("anything", lambda store: store.experiment)
        if experiment is None:
            return f"MLflow: not logged: {', '.join(self.missed)}. Run the same command again to log it."
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
        """The one place where a failing store is met: warn once, and do without it from then on."""
        if not self.off:
            try:
                return work(self._store)
            except _failures() as error:
                self.off = True
                log.warning(
                    "MLflow: could not log %s to %s, and this run goes on without it (%s). No result is lost: every "
                    "record is written. Run the same command again when the store can be reached and written, and "
                    "what is missing gets logged.",
                    what,
                    _shown(self.uri),
                    _shown(_first_line(error)),
                )
        self.missed.append(what)
        return None

    @cached_property
    def _store(self) -> Store:
        return _open(self.uri, self.home)


@dataclass(frozen=True)
class Evidence:
    """What a cell leaves beside its record."""

    model: torch.nn.Module | None
    example: tuple[torch.Tensor, ...] | None
    weights: Path | None
    scores_table: pd.DataFrame | None
    artifacts: list[Path]


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
    """What a dead, full or unwritable store raises; `OSError` covers the errors of HTTP requests."""
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
    """Ask SQLite at once what MLflow would retry for two minutes: can this file be written?"""
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
    for name, text in tables.items():
        store.client.log_text(parent, text, f"tables/{name}")
    note = "\n\n".join(text for name, text in tables.items() if name.endswith(".md"))
    store.client.set_tag(parent, "mlflow.note.content", note)
    store.client.set_terminated(parent, status)


def _log_cell(store: Store, parent: str | None, record: RunRecord, evidence: Evidence) -> str:
    from mlflow.entities import Param, RunTag

    client = store.client
    run = _find(store, "fingerprint", record.fingerprint)
    if run is None:
        tag = {"fingerprint": record.fingerprint}
        run = client.create_run(store.experiment, _milliseconds(record.started), tag, _title(record))
    run_id: str = run.info.run_id
    if parent is not None:
        client.set_tag(run_id, "mlflow.parentRunId", parent)
    has_model = bool(run.outputs and run.outputs.model_outputs)
    if run.data.tags.get("finished") == record.finished and (has_model or evidence.model is None):
        return run_id
    client.update_run(run_id, status="RUNNING")
    model_id = _log_model(store, run_id, record, evidence)
    params = [Param(name, str(value)) for name, value in flatten(load(record.experiment)).items()]
    tags = [RunTag(name, value) for name, value in _tags(record).items()]
    client.log_batch(run_id, list(_metrics(record, run_id, model_id)), params, tags)
    client.log_dict(run_id, asdict(record), "record.json")
    _log_table(client, run_id, evidence.scores_table)
    for path in [evidence.weights, *evidence.artifacts]:
        if path is not None:
            client.log_artifact(run_id, str(path))
    status = "FINISHED" if record.status == "done" else "FAILED"
    client.set_terminated(run_id, status, _milliseconds(record.finished))
    client.set_tag(run_id, "finished", record.finished)  # last: says that everything above is there
    return run_id


def _find(store: Store, tag: str, value: str) -> Run | None:
    quote = '"' if "'" in value else "'"
    runs = store.client.search_runs([store.experiment], f"tags.{tag} = {quote}{value}{quote}", max_results=1)
    return runs[0] if runs else None


def _title(record: RunRecord) -> str:
    return f"{record.recipe} {record.dataset} seed {record.seed}"


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
        "mlflow.note.content": record.error or "",
    }
    return {name: str(value) for name, value in tags.items() if value is not None}


def _metrics(record: RunRecord, run_id: str, model_id: str | None) -> Iterator[Metric]:
    """Final metrics at step 0, those of the epochs as `epoch/...` with the epoch as step; gaps are left out.

    All carry the record's own time: logged twice, they are still one point each.
    """
    from mlflow.entities import Metric

    time = _milliseconds(record.finished)
    final: dict[str, float | str | None] = {**record.metrics, "peak_memory_gib": record.peak_memory_gib}
    for group in ("timings_s", "throughput"):
        final |= {f"{group}/{name}": value for name, value in getattr(record, group).items()}
    points = [(name, value, 0) for name, value in final.items()]
    for epoch in record.epochs:
        step = int(epoch["epoch"] or 0)
        points += [(f"epoch/{name}", value, step) for name, value in epoch.items() if name != "epoch"]
    for name, value, step in points:
        if isinstance(value, int | float) and math.isfinite(value):
            of_model = model_id if name in record.metrics else None
            yield Metric(name, float(value), time, step, model_id=of_model, run_id=run_id)


def _log_model(store: Store, run_id: str, record: RunRecord, evidence: Evidence) -> str | None:
    """Log the network as a model of its own that belongs to the run; gives its id.

    MLflow serves programs of one tensor only, so this one has no `pyfunc` flavour:
    `mlflow.pytorch.load_model("models:/<id>")(appearance, motion)` runs it. A network that cannot be exported
    costs a warning and is left out; the run is logged without it.
    """
    if evidence.model is None or evidence.example is None:
        return None
    from mlflow.entities import LoggedModelOutput, LoggedModelStatus
    from mlflow.models import Model

    client = store.client
    name = _title(record).replace(" ", "-")
    logged = client.create_logged_model(store.experiment, name, run_id)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model"
        about = Model(logged.artifact_location, run_id, model_uuid=logged.model_id, model_id=logged.model_id)
        try:
            _export(evidence.model, evidence.example, path, about)
        except RunError as error:
            log.warning("MLflow: %s is logged without its network: %s", _title(record), _first_line(error))
            client.finalize_logged_model(logged.model_id, LoggedModelStatus.FAILED)
            return None
        client.log_model_artifacts(logged.model_id, str(path))
    client.finalize_logged_model(logged.model_id, LoggedModelStatus.READY)
    client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])
    return str(logged.model_id)


def _export(model: torch.nn.Module, example: tuple[torch.Tensor, ...], path: Path, about: Any) -> None:
    """Write the network as an MLflow model folder, for any number of cubes.

    Raises:
        RunError: it cannot be traced, or the disk is full (torch calls both `RuntimeError`).
    """
    import mlflow.pytorch
    import torch

    class Plain(torch.nn.Module):
        """The network with a plain tuple as its output; a program cannot name our own."""

        def __init__(self) -> None:
            super().__init__()
            self.network = deepcopy(model).cpu().eval()

        def forward(self, appearance: torch.Tensor, motion: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return tuple(tensor for tensor in self.network(appearance, motion) if tensor is not None)

    plain = Plain()
    inputs = tuple(tensor.detach().cpu() for tensor in example)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "No complete tensor found", UserWarning)  # weights on the CPU are fine
            mlflow.pytorch.save_model(
                plain,
                str(path),
                mlflow_model=about,
                signature=_signature(plain, inputs),
                input_example=inputs,
                serialization_format="pt2",
                pip_requirements=[f"torch=={torch.__version__}"],  # else MLflow loads the model again to find out
            )
    except RuntimeError as error:
        raise RunError(f"the model could not be exported: {error}") from error


def _signature(model: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> Any:
    import torch
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    with torch.no_grad():
        outputs = model(*inputs)

    def schema(names: tuple[str, ...], tensors: tuple[torch.Tensor, ...]) -> Schema:
        arrays = [tensor.numpy() for tensor in tensors]
        return Schema([TensorSpec(a.dtype, (-1, *a.shape[1:]), name) for name, a in zip(names, arrays, strict=False)])

    named = ("prediction", "appearance_feature", "motion_feature")
    return ModelSignature(schema(("appearance", "motion"), inputs), schema(named, outputs))


def _log_table(client: MlflowClient, run_id: str, table: pd.DataFrame | None) -> None:
    """Keep a table in the form that the page shows as one. MLflow's own `log_table` appends when called again."""
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
