"""Cells and their records: what counts as finished, and that every end leaves a record with its reason."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from amsrc.errors import DataError
from bench.experiment.config import override
from bench.records.records import RunRecord, frame_scores_path, path_of, read, write
from bench.sweeps.grid import Cell, Trial
from bench.sweeps.trials import Job, _records, finished, run_cell
from tests.cubes_made import TEST, an_experiment, labels, write_labels, write_regions, write_store


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def a_cell(home: Path, recipe: str = "null-flow", **parts: dict[str, Any]) -> Cell:
    """A cell on a tiny store; one that trains nothing takes a tenth of a second."""
    e = an_experiment(recipe, **parts)
    return Cell(e, write_store(home, e).path)


def a_job(home: Path) -> Job:
    return Job(home, home / "results")


def rewritten(cell: Cell, results: Path, **changes: Any) -> RunRecord:
    """Its record with other values, put in its place."""
    found = finished(cell, results)
    assert found
    path_of(results, found).unlink()
    write(replace(found, **changes), results)
    return replace(found, **changes)


# What is finished


def test_a_cell_is_finished_once_it_is_done(tmp_path: Path) -> None:
    cell, job = a_cell(tmp_path), a_job(tmp_path)
    assert finished(cell, job.results) is None
    assert finished(cell, job.results, ("failed", "pruned")) is None
    record = run_cell(cell, job)
    assert record.status == "done"
    assert finished(cell, job.results) == record
    assert finished(replace(cell, experiment=replace(cell.experiment, seed=1)), job.results) is None
    assert finished(cell, tmp_path / "elsewhere") is None


@pytest.mark.parametrize("status", ["failed", "pruned"])
def test_other_ends_count_where_they_are_asked_for(tmp_path: Path, status: str) -> None:
    cell, job = a_cell(tmp_path), a_job(tmp_path)
    run_cell(cell, job)
    record = rewritten(cell, job.results, status=status, metrics={}, error="it ended")
    frame_scores_path(job.results, record).unlink()
    assert finished(cell, job.results) is None
    assert finished(cell, job.results, (status,)) == record
    assert finished(cell, job.results, tuple({"failed", "pruned"} - {status})) is None


def test_a_cell_on_other_cubes_is_not_finished(tmp_path: Path) -> None:
    cell, job = a_cell(tmp_path), a_job(tmp_path)
    run_cell(cell, job)
    write_store(tmp_path, cell.experiment, content=1)
    assert finished(cell, job.results, ("failed", "pruned")) is None


def relabel(cell: Cell) -> None:
    """Other labels of the same cubes, as if the store had been prepared with them."""
    manifest = json.loads((cell.store / "manifest.json").read_text())
    changed = {video: 1 - label for video, label in labels().items()}
    manifest["labels"]["official"] = write_labels(cell.store, changed)
    (cell.store / "manifest.json").write_text(json.dumps(manifest))


def test_a_cell_under_other_labels_is_not_finished(tmp_path: Path) -> None:
    cell, job = a_cell(tmp_path), a_job(tmp_path)
    run_cell(cell, job)
    relabel(cell)
    assert finished(cell, job.results) is None


def test_a_done_cell_without_its_frame_scores_is_not_finished(tmp_path: Path) -> None:
    cell, job = a_cell(tmp_path), a_job(tmp_path)
    record = run_cell(cell, job)
    frame_scores_path(job.results, record).unlink()
    assert finished(cell, job.results, ("failed",)) is None
    assert run_cell(cell, job).metrics == record.metrics
    assert finished(cell, job.results)


def test_a_cell_that_was_never_run_needs_no_store_to_be_known_as_such(tmp_path: Path) -> None:
    assert finished(Cell(an_experiment(), tmp_path / "nowhere"), tmp_path / "results", ("failed",)) is None


def test_a_done_cell_whose_store_is_gone_is_an_error(tmp_path: Path) -> None:
    cell, job = a_cell(tmp_path), a_job(tmp_path)
    run_cell(cell, job)
    shutil.rmtree(cell.store)
    with pytest.raises(DataError, match="is not a finished cube store"):
        finished(cell, job.results)


# Running one


def test_a_cell_is_trained_with_a_report_an_epoch_and_measured(tmp_path: Path) -> None:
    cell, job, seen = a_cell(tmp_path, "amsrc", train={"epochs": 2}), a_job(tmp_path), []
    record = run_cell(cell, job, lambda line: seen.append(line["epoch"]))
    assert (record.status, seen) == ("done", [1, 2])
    assert read(path_of(job.results, record)) == record


def test_a_loss_that_is_not_finite_is_recorded_as_failed_with_its_epochs(tmp_path: Path) -> None:
    """The second step already starts from weights of 1e30."""
    cell, job = a_cell(tmp_path, "amsrc", train={"learning_rate": 1e30}), a_job(tmp_path)
    record = run_cell(cell, job)
    assert (record.status, record.metrics, record.epochs) == ("failed", {}, [])
    assert record.error and record.error.startswith("RunError: amsrc on toy-ped2, seed 0: ")
    assert "became non-finite in epoch 1, which is given up. Lower train.learning_rate (now 1e+30)" in record.error
    assert finished(cell, job.results) is None
    assert finished(cell, job.results, ("failed",)) == record == read(path_of(job.results, record))


def test_what_was_trained_before_it_failed_is_recorded(tmp_path: Path) -> None:
    cell, job = a_cell(tmp_path, "amsrc"), a_job(tmp_path)

    def full(line: Mapping[str, Any]) -> None:
        if line["epoch"] == 2:
            raise OSError("disk full")

    record = run_cell(cell, job, full)
    assert (record.status, record.error) == ("failed", "OSError: disk full")
    assert [line["epoch"] for line in record.epochs] == [1, 2]
    done = run_cell(cell, job)
    assert (done.status, done.restarts, finished(cell, job.results)) == ("done", 1, done)


def test_a_store_that_is_not_there_is_recorded_as_the_reason(tmp_path: Path) -> None:
    cell, job = Cell(an_experiment(), tmp_path / "nowhere"), a_job(tmp_path)
    record = run_cell(cell, job)
    assert (record.status, record.store) == ("failed", None)
    assert record.error and record.error.startswith(f"DataError: {tmp_path}/nowhere is not a finished cube store.")
    assert finished(cell, job.results, ("failed",)) == record
    assert finished(cell, job.results) is None


def test_a_node_with_other_code_fails_the_cell_and_says_so(tmp_path: Path) -> None:
    """One that joined after all were looked at."""
    cell = a_cell(tmp_path)
    record = run_cell(cell, replace(a_job(tmp_path), identity={"torch": "1.0"}))
    assert record.status == "failed"
    assert record.error and " instead of 1.0, unlike the machine that started this." in record.error


def test_a_failure_leaves_a_done_record_as_it_is(tmp_path: Path) -> None:
    cell, job = a_cell(tmp_path), a_job(tmp_path)
    record = run_cell(cell, job)
    np.savez(cell.store / "labels-official.npz", **{"03": np.zeros(1, np.uint8)})
    assert run_cell(cell, job).status == "failed"
    assert read(path_of(job.results, record)) == record


def test_the_death_of_another_process_is_no_result_of_a_cell(tmp_path: Path) -> None:
    """Tune starts the trial again, which then goes on from its checkpoint."""
    from ray.exceptions import ActorDiedError

    cell, job = a_cell(tmp_path, "amsrc"), a_job(tmp_path)

    def died(line: Mapping[str, Any]) -> None:
        raise ActorDiedError

    with pytest.raises(ActorDiedError):
        run_cell(cell, job, died)
    assert not (tmp_path / "results").exists()


def test_an_interrupted_cell_leaves_no_record(tmp_path: Path) -> None:
    cell, job = a_cell(tmp_path, "amsrc"), a_job(tmp_path)

    def stop(line: Mapping[str, Any]) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_cell(cell, job, stop)
    assert not (tmp_path / "results").exists()


def test_a_cell_measured_against_other_regions_is_not_finished_and_one_measured_without_any_is(tmp_path: Path) -> None:
    cell, job = a_cell(tmp_path), a_job(tmp_path)
    assert isinstance(cell.store, Path)
    without = run_cell(cell, job)
    write_regions(cell.store, {video: np.zeros((0, 6), np.int32) for video in TEST})
    assert finished(cell, job.results) == without, "nothing is trained or scored again for a metric more"
    measured = run_cell(cell, job)
    assert measured.regions is not None and finished(cell, job.results) == measured
    write_regions(cell.store, {video: np.ones((1, 6), np.int32) for video in TEST})
    assert finished(cell, job.results) is None


# The records of a trial that came to its end


def two_cells(home: Path) -> tuple[Cell, Cell]:
    first, second = (an_experiment("null-flow", seed) for seed in (0, 1))
    store = write_store(home, first).path
    return Cell(first, store), Cell(second, store)


def test_a_trial_that_ended_gives_the_records_its_worker_wrote(tmp_path: Path) -> None:
    (first, second), job = two_cells(tmp_path), a_job(tmp_path)
    missing = Cell(an_experiment("null-flow", 2), tmp_path / "nowhere")
    written = [run_cell(first, job), run_cell(missing, job)]
    records = list(_records(Trial(0, (first, missing, second)), job, "failed", "it ended", ("failed",)))
    assert records[:2] == written, "also one whose store only the worker could not see"
    assert (records[2].status, records[2].error) == ("failed", "it ended")
    assert read(path_of(job.results, records[2])) == records[2]


def test_a_trial_that_was_stopped_is_recorded_as_pruned_with_its_epochs(tmp_path: Path) -> None:
    cell, job = a_cell(tmp_path, "amsrc"), a_job(tmp_path)

    def stop(line: Mapping[str, Any]) -> None:
        if line["epoch"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_cell(cell, job, stop)
    (record,) = _records(Trial(0, (cell,)), job, "pruned", "stopped early by the scheduler")
    assert (record.status, record.error, record.metrics) == ("pruned", "stopped early by the scheduler", {})
    assert [line["epoch"] for line in record.epochs] == [1, 2]
    assert finished(cell, job.results, ("pruned",)) == record


def test_a_trial_whose_worker_died_fails_but_for_what_it_had_done(tmp_path: Path) -> None:
    (first, second), job = two_cells(tmp_path), a_job(tmp_path)
    done = run_cell(first, job)
    (second.store / "labels-official.npz").rename(tmp_path / "labels.npz")
    assert "labels-official.npz is missing" in str(run_cell(second, job).error), "left by an earlier sweep"
    (tmp_path / "labels.npz").rename(second.store / "labels-official.npz")
    records = list(_records(Trial(0, (first, second)), job, "failed", "its worker died 3 times"))
    assert records[0] == done
    assert (records[1].status, records[1].error) == ("failed", "its worker died 3 times")
    assert read(path_of(job.results, records[1])) == records[1]


# Their names


def test_a_trial_is_named_by_its_cell_or_by_its_number_and_data_sets() -> None:
    cells = [Cell(replace(an_experiment(seed=seed), dataset=d), Path()) for d in ("ped2", "avenue") for seed in (0, 1)]
    assert Trial(7, (cells[1],)).title == "amsrc on ped2, seed 1"
    changed = tuple(replace(c, experiment=override(c.experiment, {"loss.consistency": "3"})) for c in cells)
    assert Trial(7, changed, {"loss.consistency": 3.0}).title == "trial 7 on ped2, avenue"
