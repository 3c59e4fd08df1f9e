"""A matrix or search whose processes die, whose cells fail or are stopped early, and the same command again.

Every command is a process of its own; all of them join the one Ray instance of these tests.
"""

import os
import shlex
import shutil
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

from bench.cluster.connect import resources
from bench.experiment.rules import RULES
from bench.records.records import RunRecord, SearchRecord, read_all, read_searches
from bench.records.run_folder import history
from tests.integration.conftest import Places, files, logged, planned, started, wait_until
from tests.integration.test_workers import train_workers

pytestmark = [pytest.mark.timeout(600), pytest.mark.usefixtures("ray_cluster")]

TINY = ("--cube.size", "16", "--model.width", "2", "--train.batch", "128")
EPOCHS = 8  # enough to strike in the middle


def unlogged(home: Path) -> tuple[str, ...]:
    """Options of a sweep that does not wait for MLflow: a folder is no database."""
    return "--mlflow", f"sqlite:///{home}"


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory, ray_cluster: None, migrated: Path) -> Places:
    """The cubes of two data sets, and the recipe's own cell on each."""
    folder = tmp_path_factory.mktemp("sweep")
    (folder / "home").mkdir()
    shutil.copy(migrated, folder / "home")
    places = Places(folder / "home", folder / "results", TINY)
    words = ["--datasets", "toy-ped2,toy-avenue", "--recipes", "amsrc", "--train.epochs", str(EPOCHS)]
    done = places.sweep(*words, *unlogged(places.home))
    assert done.returncode == 0, done.stdout + done.stderr
    return places


@pytest.fixture
def places(first: Places, tmp_path: Path) -> Places:
    """The prepared home, results of one's own."""
    return first.of(tmp_path)


@pytest.fixture
def searching(first: Places, places: Places) -> Places:
    """The same, where the recipe's own cell need not be run before the trials."""
    for path in (Path(kind, "amsrc", "toy-ped2") for kind in ("records", "scores")):
        shutil.copytree(first.results / path, places.results / path)
    return places


def found(places: Places) -> SearchRecord:
    """The search."""
    (search,) = read_searches(places.results)
    return search


def trials_of(places: Places) -> list[RunRecord]:
    """The records of the search's trials, in the order of the trials."""
    search = found(places)
    records = {record.fingerprint: record for record in read_all(places.results / "searches" / search.study)}
    return [records[name] for trial in search.trials for name in trial["fingerprints"]]


def study_of(places: Places, name: str) -> list[FrozenTrial]:
    """All trials of the search's study, those included that were interrupted."""
    storage = f"sqlite:///{places.home / 'sweeps' / name / 'study.db'}"
    return optuna.load_study(study_name=found(places).study, storage=storage).trials


def run_folder(places: Places, record: RunRecord) -> Path:
    return places.home / "runs" / record.run


def epochs_of(folder: Path) -> list[int]:
    return [line["epoch"] for line in history(folder)]


def under_way(home: Path) -> Path | None:
    """A run at work that has a checkpoint and more than half of its epochs before it."""
    for path in home.glob("runs/*/checkpoint.pt"):
        if len(history(path.parent)) < EPOCHS / 2 and at_work(path.parent):
            return path.parent
    return None


def at_work(folder: Path) -> int:
    """The Ray process that has the lock of a run's folder; 0 where none has."""
    inode = str((folder / ".lock").stat().st_ino)
    for line in Path("/proc/locks").read_text().splitlines():
        _, kind, *_, pid, place, _, _ = line.split()
        if kind == "FLOCK" and place.rpartition(":")[2] == inode:
            return int(pid)
    return 0


def strike(folder: Path) -> None:
    """Kill the process that trains there, as the kernel would."""
    pid = at_work(folder)
    assert Path(f"/proc/{pid}/cmdline").read_text().startswith("ray::")
    os.kill(pid, signal.SIGKILL)


# -- what dies -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_trial_whose_process_was_killed_is_started_again(searching: Places, tmp_path: Path) -> None:
    words = ["search", "--recipes", "amsrc", "--trials", "3", "--over", "loss.gradient", "--name", "trial-killed"]
    words += ["--train.epochs", str(EPOCHS), *unlogged(searching.home)]
    with started(*searching.command(*words), cwd=tmp_path) as (process, output):
        wait_until(lambda: bool(list(searching.results.glob("searches/*/records/*/*/*.json"))), process)
        wait_until(lambda: under_way(searching.home) is not None, process)
        folder = under_way(searching.home)
        assert folder is not None
        strike(folder)
        assert process.wait(timeout=400) == 0, output.read_text()
    records = trials_of(searching)
    assert [record.status for record in records] == ["done"] * 3
    assert {run_folder(searching, record): record.restarts for record in records if record.restarts} == {folder: 1}
    for record in records:
        assert epochs_of(run_folder(searching, record)) == list(range(1, EPOCHS + 1))
    assert [trial.state for trial in study_of(searching, "trial-killed")] == [TrialState.COMPLETE] * 3


@pytest.mark.slow
def test_a_cell_goes_on_after_one_of_its_workers_was_killed(places: Places, tmp_path: Path) -> None:
    words = ["--recipes", "baseline", "--workers", "2", "--name", "worker-killed"]
    words += ["--train.epochs", "6", *unlogged(places.home)]
    with started(*places.command(*words), cwd=tmp_path) as (process, output):
        wait_until(lambda: under_way(places.home) is not None, process)
        os.kill(train_workers()[-1], signal.SIGKILL)
        assert process.wait(timeout=400) == 0, output.read_text()
    (record,) = places.records.values()
    assert (record.status, record.workers) == ("done", 2)
    assert record.restarts >= 1
    assert epochs_of(run_folder(places, record)) == list(range(1, 7))


@pytest.mark.slow
def test_ctrl_c_says_how_to_go_on_and_cells_share_a_process(places: Places, tmp_path: Path) -> None:
    """One cell at a time: those after the first find their process up, with torch and CUDA loaded."""
    one_by_one = str(int(resources()["CPU"]))
    words = ["--recipes", "amsrc,no-gate-add,baseline", "--name", "interrupted", "--train.epochs", "2"]
    words += ["--cpus-per-run", one_by_one]
    with started(*places.command(*words), cwd=tmp_path) as (process, output):
        wait_until(lambda: "amsrc" in places.records, process)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=100) == 130
    printed = output.read_text()
    assert "interrupted; nothing finished is lost. To resume:" in printed
    assert printed.splitlines()[-1].split()[:2] == ["amsrc-bench", "sweep"]
    assert shlex.split(printed.splitlines()[-1])[2:] == [str(word) for word in places.command(*words)[1:]]
    assert "Traceback" not in printed
    (parent,) = [run for run in logged(places.home)[0] if run.info.run_name == "interrupted"]
    assert parent.info.status == "KILLED"
    assert len(places.records) < 3

    pids: dict[Path, set[int]] = {}

    def watch() -> bool:
        for lock in places.home.glob("runs/*/.lock"):
            pids.setdefault(lock.parent, set()).add(at_work(lock.parent))
        return len(places.records) == 3

    with started(*places.command(*words), cwd=tmp_path) as (process, output):
        wait_until(watch, process)
        assert process.wait(timeout=100) == 0, output.read_text()
    assert planned(output.read_text())[0] == 3
    (parent,) = [run for run in logged(places.home)[0] if run.info.run_name == "interrupted"]
    assert parent.info.status == "FINISHED"
    workers = [pids[run_folder(places, record)] - {0} for record in places.records.values()]
    workers = [worker for worker in workers if worker]
    assert len(workers) >= 2, "cells that were left to run"
    assert len(set.union(*workers)) == 1


# -- what fails ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_failed_trials_are_repeated_once_their_cause_is_gone(first: Places, tmp_path: Path) -> None:
    """And the others are left alone."""
    places = Places(tmp_path / "home", tmp_path / "results", TINY)
    (store,) = first.home.glob("stores/toy-ped2-*")
    shutil.copytree(store, places.home / "stores" / store.name)
    (places.home / "toy").symlink_to(first.home / "toy")
    words = ["search", "--recipes", "amsrc", "--over", "loss.intensity", "--train.epochs", "2"]
    words += unlogged(places.home)
    done = places.sweep(*words, "--trials", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    whole = made(places)

    damaged = [np.load(path, "r+") for path in places.home.glob("stores/*/train/*/flows.npy")]
    flows = [flow[0].copy() for flow in damaged]
    for flow in damaged:
        flow[0] = np.nan
        flow.flush()
    failed = places.sweep(*words, "--trials", "3")
    assert failed.returncode == 1, failed.stdout + failed.stderr
    assert "consistency became non-finite in epoch 1" in failed.stdout
    assert "Traceback" not in failed.stdout + failed.stderr
    assert [trial["state"] for trial in found(places).trials] == ["done", "failed", "failed"]
    assert [record.status for record in trials_of(places)] == ["done", "failed", "failed"]

    before = made(places)
    again = places.sweep(*words, "--trials", "3")
    assert again.returncode == 1, "what failed is still missing"
    assert "3 of 3 trials done, 0 to run" in again.stdout
    assert made(places) == before
    for flow, values in zip(damaged, flows, strict=True):
        flow[0] = values
        flow.flush()
    asked = places.sweep(*words, "--trials", "3", "--rerun", "failed")
    assert asked.returncode == 0, asked.stdout + asked.stderr
    assert "1 of 3 trials done, 2 to run" in asked.stdout
    assert [trial["state"] for trial in found(places).trials] == ["done"] * 3
    assert [record.status for record in trials_of(places)] == ["done"] * 3
    after = made(places)
    assert {name: after[name] for name in whole} == whole
    assert Counter(trial.state for trial in study_of(places, "search")) == {TrialState.COMPLETE: 3, TrialState.FAIL: 2}


def made(places: Places) -> dict[str, tuple[bytes, int]]:
    """What cells leave: records, frame scores, runs."""
    folders = [path for name in ("records", "scores") for path in places.results.rglob(name)]
    return files(*folders, places.home / "runs")


# -- searches ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_trials_that_fall_behind_are_pruned_and_not_chosen(searching: Places) -> None:
    """At these learning rates two epochs teach the more, the higher it is; the last two of five are low ones."""
    words = ["search", "--recipes", "amsrc", "--over", "train.learning_rate=1e-6:1e-2", "--trials", "5"]
    words += ["--asha", "--sampler", "random", "--rule", "label-free", "--name", "asha"]
    words += ["--train.epochs", str(EPOCHS)]
    done = searching.sweep(*words)
    assert done.returncode == 0, done.stdout + done.stderr
    search, records = found(searching), trials_of(searching)
    trials = study_of(searching, "asha")
    states = [trial["state"] for trial in search.trials]
    assert states == [record.status for record in records]
    assert states == [{"COMPLETE": "done", "PRUNED": "pruned"}[trial.state.name] for trial in trials]
    assert {"done", "pruned"} == set(states)
    pruned = [record for record in records if record.status == "pruned"]
    for record in pruned:
        assert record.metrics == {}
        assert 2 <= len(record.epochs) < EPOCHS, "a third of the epochs is granted"
        assert [epoch["epoch"] for epoch in record.epochs] == epochs_of(run_folder(searching, record))
    assert all(trial["values"] is None for trial in search.trials if trial["state"] == "pruned")
    assert all(trial.intermediate_values for trial in trials if trial.state == TrialState.PRUNED)
    chosen = {name for entry in entries(search) for name in entry["fingerprints"]}
    assert chosen
    assert not chosen & {record.fingerprint for record in pruned}
    runs = {run.data.tags["fingerprint"]: run.info.status for run in logged(searching.home)[1]}
    assert {runs[record.fingerprint] for record in pruned} == {"KILLED"}
    assert {runs[record.fingerprint] for record in records if record.status == "done"} == {"FINISHED"}
    before = made(searching)
    again = searching.sweep(*words)
    assert again.returncode == 0
    assert "5 of 5 trials done, 0 to run" in again.stdout
    assert made(searching) == before, "what was stopped is not taken up again"


def entries(search: SearchRecord) -> list[dict[str, Any]]:
    """All choices of a search, fold by fold under crossfit."""
    chosen = [of_rule for by_rule in search.chosen.values() for of_rule in by_rule.values()]
    return [entry for of_rule in chosen for entry in of_rule.get("folds", [of_rule])]


@pytest.mark.slow
def test_a_joint_search_takes_one_setting_for_all_data_sets(places: Places) -> None:
    names = ["toy-ped2", "toy-avenue"]
    words = ["search", "--joint", "--datasets", ",".join(names), "--recipes", "amsrc", "--trials", "2"]
    words += ["--train.epochs", "2", "--name", "joint", *unlogged(places.home)]
    done = places.sweep(*words)
    assert done.returncode == 0, done.stdout + done.stderr
    search = found(places)
    assert (search.datasets, search.joint, len(search.reference)) == (names, True, 2)
    records = {record.fingerprint: record for record in trials_of(places)}
    assert len(search.trials) == 2
    for trial in search.trials:
        cells = [records[name] for name in trial["fingerprints"]]
        assert [cell.dataset for cell in cells] == names
        aurocs = [cell.rules["crossfit"]["auroc"] for cell in cells]
        assert trial["values"] == pytest.approx([sum(aurocs) / 2, min(aurocs)])
    assert list(search.chosen) == names
    first, second = search.chosen.values()
    assert tuple(first) == tuple(second) == tuple(RULES)
    for rule in ("paper", "oracle", "label-free"):
        assert first[rule]["params"] == second[rule]["params"]
        assert set(first[rule]["params"]) == set(search.space)
    for mine, other in zip(first["crossfit"]["folds"], second["crossfit"]["folds"], strict=False):
        assert mine["params"] == other["params"]


# -- nothing is started --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--workers", "98:99"), "--workers 98:99 needs 98 "),
        (("--gpus-per-run", "64"), "--gpus-per-run 64: no node has a GPU; there "),
    ],
)
def test_what_no_node_can_hold_is_refused_before_anything_is_prepared(
    tmp_path: Path, words: tuple[str, str], reason: str
) -> None:
    places = Places(tmp_path / "home", tmp_path / "results")
    done = places.sweep(*words)
    assert done.returncode == 2, done.stdout + done.stderr
    assert f"error: {reason}" in done.stderr
    assert not (places.home / "toy").exists()
    assert not places.results.exists()
