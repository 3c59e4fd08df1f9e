"""Train a run, or resume it, or find it done: in this process, or on several workers through Ray Train."""

from __future__ import annotations

from amsrc.errors import ConfigError, DataError
from amsrc.store import CubeStore
from bench.cluster.machine import Machine, Workers
from bench.experiment.config import Experiment
from bench.records import provenance
from bench.records.run_folder import HeldOut, claim, is_trained, read_held_out, write_held_out
from bench.storage.places import Place, locked
from bench.training import held_out
from bench.training.checkpoint import load
from bench.training.loop import Job, Report, worker_loop
from bench.training.ray_train import fit_on_ray
from bench.training.scoring import Scorer, device_of


def fit(
    experiment: Experiment,
    store: CubeStore,
    home: Place,
    *,
    workers: Workers | int = 1,
    machine: Machine | None = None,
    report: Report | None = None,
) -> Place:
    """Train, or resume, or find it done. Returns the run's folder.

    Args:
        workers: data-parallel processes; one trains in this process, several through Ray Train.
        machine: what the cluster can become, if larger than what is up.
        report: called with each epoch's line of the log.

    Raises:
        RunError: a loss became non-finite, a worker died too often, or the folder cannot be written.
        ConfigError: the method learns nothing, the folder belongs to cubes of other content, or workers and batch do
            not fit the cubes.
    """
    if isinstance(workers, int):
        workers = Workers(workers, workers)
    method = experiment.learned_method
    _check(experiment, store, workers.most)
    folder = claim(experiment, store, home)
    job = Job(experiment, store.origin, folder, provenance.code())
    if is_trained(folder):
        return folder
    with locked(folder):
        if not is_trained(folder):
            if workers.most == 1 or not method.phases:  # a closed form is found by one process
                worker_loop(job, device_of(), report or (lambda line: None))
            else:
                fit_on_ray(job, workers, report or (lambda line: None), machine)
    return folder


def held_out_scores(experiment: Experiment, store: CubeStore, folder: Place) -> HeldOut | None:
    """The held-out scores of a run's trained weights, found in `held_out.npz` or made and kept there.

    Returns:
        None where nothing is learned, or there is nothing to score (`Scorer.held_out`).

    Raises:
        RunError: it is not trained, or the file of the scores is damaged.
        DataError: the weights' file is damaged.
    """
    found = read_held_out(folder)
    if found is None and experiment.learns and experiment.train.held_out:
        device = device_of()
        found = Scorer(experiment, load(experiment, folder, device), device).held_out(store.train)
        if found is not None:
            write_held_out(folder, found)
    return found


def _check(e: Experiment, store: CubeStore, workers: int) -> None:
    """Refuse what would fail or mislead only after training has started."""
    if not 1 <= workers <= e.train.batch // 2:
        raise ConfigError(f"--workers {workers}: from 1 to {e.train.batch // 2}, two cubes of train.batch for each.")
    kept, out = len(held_out.kept(store.train, e.train.held_out)), e.train.held_out
    if kept < 2 * workers:
        raise DataError(
            f"{store.path} has {kept} training cubes outside the held-out videos, {len(store.train)} in all; "
            f"{2 * workers} are the least to train on. train.held_out is {out}; 0 trains on all."
        )
