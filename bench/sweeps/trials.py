"""Trials on the cluster: each trains and measures its runs in a reused Ray Tune actor; the driver watches.

Every run leaves a record under a results folder: done, failed with its error, or pruned. Finished work is not
repeated, so a trial that Tune starts anew after its worker died resumes where it was.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

from amsrc.errors import AwayError
from amsrc.store import Sealed
from bench.cluster.connect import WAIT_S, Patience, connect, same_code
from bench.cluster.machine import ONE_WORKER, Machine, Packing, Workers
from bench.evaluation.evaluate import evaluate, validation_score
from bench.experiment.config import fingerprint
from bench.records import provenance, run_folder
from bench.records.origin import regions_sha256, unfinished
from bench.records.provenance import now
from bench.records.records import RunRecord, frame_scores_path, read, record_path, write
from bench.storage.node_cache import open_store
from bench.storage.places import Place
from bench.sweeps.grid import Cell, Trial

if TYPE_CHECKING:
    from ray.tune.search import Searcher

Proposals: TypeAlias = "Sequence[Trial] | Searcher"  # trials known beforehand, or what proposes one after the other
DEATHS = 2  # times that a trial is started again after its worker died


@dataclass(frozen=True)
class Job:
    """The arguments of every trial; sent to the workers."""

    home: Place
    results: Place
    workers: Workers = ONE_WORKER
    """Data-parallel processes a run."""
    judged: bool = False
    """Whether the validation score of every scored epoch is reported, for a scheduler that stops trials by it."""
    machine: Machine | None = None
    """The machine that the cluster can become, if larger than what is up."""
    identity: Mapping[str, str | None] = field(default_factory=provenance.identity)
    """The code and packages that a node must have too; checked on nodes that join later."""


class Watch(Protocol):
    """What the driver is told while trials run."""

    def started(self, trial: Trial) -> None: ...

    def epoch(self, trial: Trial, line: Mapping[str, Any]) -> None: ...

    def ended(self, trial: Trial, records: Sequence[RunRecord]) -> None: ...


def finished(cell: Cell, results: Place, also: Sequence[str] = ()) -> RunRecord | None:
    """The record of a run that was done on these very cubes and labels, if there is one.

    Args:
        also: other states than `done` that count as finished (`failed`, `pruned`).
    """
    e = cell.experiment
    path = record_path(results, e.recipe, e.dataset, e.seed, fingerprint(e))
    record = read(path) if path.is_file() else None
    if record is None or record.status not in ("done", *also):
        return None
    if record.store is None and record.status == "failed":  # its store could not be opened
        return record
    store = Sealed(cell.store)
    if record.store != store.sha256:
        return None
    if record.labels != store.labels_sha256(e.label_set):
        return None
    if record.regions not in (None, regions_sha256(store, e.label_set)):
        return None
    complete = record.status != "done" or (frame_scores_path(results, record).is_file())
    return record if complete else None


def run_trials(
    trials: Proposals,
    number: int,
    job: Job,
    packing: Packing,
    watch: Watch,
    *,
    folder: Path,
    scheduler: Any = None,
) -> None:
    """Run trials to their end, `packing.concurrent` at a time.

    Args:
        trials: known beforehand, or proposed one by one by a Tune searcher as `{"trial": Trial}`.
        number: how many.
        folder: scratch space of Tune. Nothing there is needed to resume: records, run folders and studies are.
        scheduler: a Tune scheduler that may stop a trial early; its run is then recorded as pruned.

    Raises:
        RunError: for too long no trial could run, because the nodes that it needs did not come.
    """
    if not number:
        return
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")  # Ctrl-C ends the sweep at once; every epoch is kept
    os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "3600")
    # A stopped trial leaves its actor at its next report; Tune would lose the trial after if it gave up earlier.
    os.environ.setdefault("TUNE_FUNCTION_THREAD_TIMEOUT_S", "600")
    os.environ.setdefault("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")  # epochs that are not scored have none
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    connect()
    from ray import tune

    logging.getLogger("ray.tune.analysis.experiment_analysis").setLevel(
        logging.ERROR
    )  # misses the logs turned off above

    listed = not hasattr(trials, "suggest")
    # Several workers ask for their share themselves; the trial that starts them must ask for something.
    own: dict[str, float] = {"CPU": packing.cpus, "GPU": packing.gpus} if job.workers.most == 1 else {"memory": 1}
    trainable = tune.with_resources(tune.with_parameters(_work, job=job), own)
    tuner = tune.Tuner(
        trainable,
        param_space={"trial": tune.grid_search(list(trials))} if listed else {},  # type: ignore[arg-type]
        tune_config=tune.TuneConfig(
            search_alg=None if listed else trials,  # type: ignore[arg-type]
            num_samples=1 if listed else number,
            max_concurrent_trials=packing.concurrent,
            reuse_actors=True,
            scheduler=scheduler,
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(folder),
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=DEATHS),
            callbacks=[_callback(watch, job, Patience(f"a run asks for {packing.described}", WAIT_S))],
        ),
    )
    tuner.fit()


def _work(config: dict[str, Trial], job: Job) -> None:
    """A trial in its actor. Reports every epoch, and at the end that it came to its end."""
    from ray import tune

    trial = config["trial"]
    for cell in trial.cells:
        if finished(cell, job.results):
            continue

        def report(line: Mapping[str, Any], cell: Cell = cell) -> None:
            e = cell.experiment
            known = {name: line[name] for name in ("epoch", "loss", "cubes_per_s")} | {"cell": fingerprint(e)}
            if job.judged:
                value = validation_score(e, run_folder.folder_of(e, job.home), line["epoch"])
                known |= {} if value is None else {"validation_score": value}
            if line["epoch"] < e.epochs:  # the last one comes with the end
                tune.report(known)

        run_cell(cell, job, report)
    tune.report({"ended": True})


def run_cell(cell: Cell, job: Job, report: Callable[[Mapping[str, Any]], None] | None = None) -> RunRecord:
    """Train and evaluate one run. The boundary at which an error becomes a record instead of an end."""
    started, store = now(), None
    try:
        same_code(job.identity)
        store = open_store(cell.store)
        if cell.experiment.learns:
            from bench.training.launch import fit

            fit(cell.experiment, store, job.home, workers=job.workers, machine=job.machine, report=report)
            if job.workers.most > 1:
                from bench.training.ray_train import on_one_device  # this process has reserved no GPU: its workers had

                return on_one_device(_measure, cell, job, started, promised=job.machine)
        return evaluate(cell.experiment, store, job.home, job.results, started=started)
    except Exception as error:
        if _is_death(error):
            raise
        return _record_end(cell, job, "failed", f"{type(error).__name__}: {error}", started)


def _measure(cell: Cell, job: Job, started: str) -> RunRecord:
    """Evaluate a trained run, on whichever node this runs."""
    return evaluate(cell.experiment, open_store(cell.store), job.home, job.results, started=started)


def _is_death(error: Exception) -> bool:
    """Whether a Ray process or a store that the run needs is gone: Tune then starts the trial again.

    Ray ends the processes of a driver that was killed one by one; that is no failure of the run.
    """
    from ray.exceptions import NodeDiedError, RayActorError, WorkerCrashedError

    return isinstance(error, RayActorError | WorkerCrashedError | NodeDiedError | AwayError)


def _record_end(
    cell: Cell, job: Job, status: Literal["failed", "pruned"], reason: str, started: str | None = None
) -> RunRecord:
    """The record of a run that gave no number."""
    try:
        store: Sealed | None = Sealed(cell.store)
    except Exception:  # noqa: BLE001  a store that cannot be opened may be the very reason
        store = None
    folder = run_folder.folder_of(cell.experiment, job.home)
    record = unfinished(cell.experiment, store, folder, status, reason, started or now())
    write(record, job.results)
    return record


def _callback(watch: Watch, job: Job, patience: Patience) -> Any:
    from ray import tune

    class Follow(tune.Callback):
        """Passes the events of Tune's loop on to the watch, in the driver."""

        def __reduce__(self) -> tuple[Any, ...]:
            """Tune keeps pickles to restore itself from; nothing here is ever restored."""
            return (object, ())

        def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
            patience.look(any(trial.status == "RUNNING" for trial in trials), time.monotonic())

        def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            watch.started(trial.config["trial"])

        def on_trial_result(
            self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
        ) -> None:
            if "loss" in result:
                watch.epoch(trial.config["trial"], result)

        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            ours: Trial = trial.config["trial"]
            if "ended" in (trial.last_result or {}):
                records = _records(ours, job, "failed", "RunError: it ended without a record", ("failed",))
            else:
                records = _records(ours, job, "pruned", "stopped early by the scheduler")
            watch.ended(ours, list(records))

        def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            ours: Trial = trial.config["trial"]
            text = str(trial.get_error() or "no reason given").strip().splitlines()[-1]
            reason = f"RunError: its worker died {DEATHS + 1} times, or never started: {text}"
            watch.ended(ours, list(_records(ours, job, "failed", reason)))

    return Follow()


def _records(
    trial: Trial, job: Job, status: Literal["failed", "pruned"], reason: str, also: Sequence[str] = ()
) -> Iterator[RunRecord]:
    """The record of each run of a trial that came to an end, made here where the worker could not.

    Args:
        also: states besides `done` in which a record is the worker's own.
    """
    for cell in trial.cells:
        yield finished(cell, job.results, also) or _record_end(cell, job, status, reason)
