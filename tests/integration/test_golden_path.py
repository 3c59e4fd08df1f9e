"""The main job as a user runs it: from rendered videos to tables, again, with a failing cell, without MLflow.

Every command is a process of its own; all of them join the one Ray instance of these tests.
"""

import shutil
import socket
import subprocess
from contextlib import closing
from pathlib import Path

import pytest
from mlflow import MlflowClient

from bench.cli import main
from bench.records.records import frame_scores_path, path_of, read_frame_scores
from bench.sweeps import run as sweep
from tests.integration.conftest import ROOT, Places, files, logged, planned, run

SMALL = ["--cube.size", "16", "--train.epochs", "1", "--train.batch", "128"]  # fields of every recipe

pytestmark = [pytest.mark.timeout(600), pytest.mark.usefixtures("ray_cluster")]


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory, ray_cluster: None) -> tuple[Places, str]:
    """The first sweep on an empty machine; and what it printed."""
    folder = tmp_path_factory.mktemp("golden")
    places = Places(folder / "home", folder / "results")
    done = places.sweep("--recipes", "amsrc,null-flow", *SMALL)
    assert done.returncode == 0, done.stdout + done.stderr
    return places, done.stdout


@pytest.fixture
def places(first: tuple[Places, str], tmp_path: Path) -> Places:
    """The home of the first sweep, empty results."""
    return first[0].of(tmp_path)


def test_the_first_sweep_goes_from_videos_to_tables(first: tuple[Places, str]) -> None:
    places, printed = first
    assert planned(printed) == (2, 0, 2)
    assert printed.index("to prepare  nothing") < printed.index("[1/2]") < printed.index("2 runs: 2 done")
    assert f"records: {places.results / 'records'}" in printed
    assert f"tables:  {places.results / 'tables'}" in printed
    assert "mlflow ui --backend-store-uri" in printed
    assert {(r.recipe, r.dataset, r.seed, r.status) for r in places.records.values()} == {
        ("amsrc", "toy-ped2", 0, "done"),
        ("null-flow", "toy-ped2", 0, "done"),
    }
    parts = {name: list(record.parts) for name, record in places.records.items()}
    assert parts == {"amsrc": ["consistency", "prediction"], "null-flow": ["flow-magnitude"]}
    for record in places.records.values():
        assert record.metrics["auroc"] is not None
        assert all(0 <= auroc <= 1 for auroc in record.parts.values())
        assert frame_scores_path(places.results, record).is_file()
        assert record.counts["test_videos"] == 4
        scores, _ = read_frame_scores(places.results, record)
        assert sum(map(len, scores.values())) == record.counts["scored_frames"]
    assert places.records["null-flow"].metrics["auroc"] > 0.8, "planted anomalies are fast"
    assert {path.name for path in (places.results / "tables").iterdir()} >= {
        f"table{n}.{ending}" for n in (1, 2) for ending in ("md", "tex", "csv")
    }


def test_the_first_sweep_is_in_mlflow(first: tuple[Places, str]) -> None:
    places, _ = first
    sweeps, cells = logged(places.home)
    (parent,) = [run for run in sweeps if run.info.run_name == "matrix"]
    assert parent.info.status == "FINISHED"
    wanted = {record.fingerprint: record for record in places.records.values()}
    children = {run.data.tags["fingerprint"]: run for run in cells if run.data.tags["fingerprint"] in wanted}
    assert set(children) == set(wanted)
    for fingerprint, child in children.items():
        assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert child.data.metrics["auroc"] == pytest.approx(wanted[fingerprint].metrics["auroc"])
    client = MlflowClient(f"sqlite:///{places.home / 'mlflow.db'}")
    assert "plan.txt" in {f.path for f in client.list_artifacts(parent.info.run_id)}
    assert "figures/roc-toy-ped2.png" in {f.path for f in client.list_artifacts(parent.info.run_id, "figures")}
    for child in children.values():
        assert "figures/videos.png" in {f.path for f in client.list_artifacts(child.info.run_id, "figures")}
    trained = children[places.records["amsrc"].fingerprint].info.run_id
    assert {"record.json", "model.safetensors", "per_video.json"} <= {f.path for f in client.list_artifacts(trained)}
    assert not list(ROOT.glob("mlruns")), "nothing is logged into the checkout"


def test_the_first_sweep_gets_a_page_that_knows_its_runs(first: tuple[Places, str], tmp_path: Path) -> None:
    places, _ = first
    bench = ["-m", "bench"]
    where = ["--results", places.results, "--home", places.home]
    made = run(*bench, "figures", "--recipe", "amsrc", "--dataset", "toy-ped2", *where, *SMALL, cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    made = run(*bench, "report", "--out", tmp_path / "page", *where, cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    page = (tmp_path / "page" / "index.html").read_text(encoding="utf-8")
    for record in places.records.values():
        (child,) = [r for r in logged(places.home)[1] if r.data.tags["fingerprint"] == record.fingerprint]
        assert child.info.run_id in page
    assert "Not there:" not in page, "errors, features and a frame were drawn"
    client = MlflowClient(f"sqlite:///{places.home / 'mlflow.db'}")
    (trained,) = [
        r for r in logged(places.home)[1] if r.data.tags["fingerprint"] == places.records["amsrc"].fingerprint
    ]
    kept = {f.path for f in client.list_artifacts(trained.info.run_id, "figures")}
    assert {f"figures/{name}.png" for name in ("errors", "features", "frame", "videos")} <= kept


def test_the_same_command_runs_nothing_and_changes_nothing(first: tuple[Places, str]) -> None:
    places, _ = first
    made = [places.results / "records", places.results / "scores", places.home / "runs"]
    before, tables = files(*made), texts(places.results / "tables")
    cells = {run.info.run_id for run in logged(places.home)[1]}
    again = places.sweep("--recipes", "amsrc,null-flow", *SMALL)
    assert again.returncode == 0, again.stderr
    assert planned(again.stdout) == (2, 2, 0)
    assert files(*made) == before
    assert texts(places.results / "tables") == tables
    assert {run.info.run_id for run in logged(places.home)[1]} == cells


def texts(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


FAILING = ["--recipes", "null-flow,amsrc", "--name", "failing", *SMALL, "--train.learning_rate", "1e30"]


@pytest.fixture(scope="module")
def failed(
    first: tuple[Places, str], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Places, "subprocess.CompletedProcess[str]"]:
    """A sweep with a cell that fails."""
    places = first[0].of(tmp_path_factory.mktemp("failed"))
    return places, places.sweep(*FAILING)


def test_a_failing_cell_is_recorded_and_the_others_go_on(
    failed: tuple[Places, "subprocess.CompletedProcess[str]"],
) -> None:
    places, done = failed
    assert done.returncode == 1, done.stdout + done.stderr
    assert {"2 runs: 1 done, 1 failed", "2 runs: 1 failed, 1 done"} & set(done.stdout.splitlines())
    assert "failed: amsrc on toy-ped2, seed 0: RunError: " in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    record = places.records["amsrc"]
    assert (record.status, record.metrics) == ("failed", {})
    assert "became non-finite in epoch" in str(record.error)
    assert "train.learning_rate (now 1e+30)" in str(record.error)
    assert places.records["null-flow"].status == "done"
    assert (places.results / "tables" / "table1.md").is_file()
    (parent,) = [run for run in logged(places.home)[0] if run.info.run_name == "failing"]
    assert parent.info.status == "FAILED"


@pytest.mark.slow
def test_what_failed_is_tried_again_when_asked(failed: tuple[Places, "subprocess.CompletedProcess[str]"]) -> None:
    places, _ = failed
    before = files(places.results / "records")
    again = places.sweep(*FAILING)
    assert again.returncode == 1, "it is still no whole matrix"
    assert planned(again.stdout) == (2, 2, 0)
    assert "failed: amsrc on toy-ped2, seed 0: RunError: " in again.stdout
    assert "--rerun failed" in again.stdout
    assert files(places.results / "records") == before
    asked = places.sweep(*FAILING, "--rerun", "failed")
    assert asked.returncode == 1
    assert planned(asked.stdout) == (2, 1, 1)
    after = files(places.results / "records")
    assert [Path(name).parts[-3] for name in before if after[name] != before[name]] == ["amsrc"]


@pytest.mark.slow
def test_lost_frame_scores_do_not_stop_the_other_cells(first: tuple[Places, str], places: Places) -> None:
    shutil.copytree(first[0].results, places.results)
    records = places.records
    frame_scores_path(places.results, records["amsrc"]).unlink()
    path_of(places.results, records["null-flow"]).unlink()
    done = places.sweep("--recipes", "amsrc,null-flow", *SMALL)
    assert done.returncode == 0, done.stdout + done.stderr
    assert places.records["null-flow"].status == "done"
    assert frame_scores_path(places.results, records["amsrc"]).is_file(), "a record has its scores beside it"


def test_a_dead_tracking_server_loses_no_result(places: Places) -> None:
    with closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{listener.getsockname()[1]}"
    done = places.sweep("--recipes", "null-flow", *SMALL, "--mlflow", closed)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 runs: 1 done" in done.stdout
    assert "MLflow: not logged" in done.stdout
    assert places.records["null-flow"].status == "done"
    assert (places.results / "tables" / "table1.md").is_file()


# -- what is refused: nothing is started, exit code 2 ---------------------------------------------------------


def refused(words: list[str | Path], capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command in this process that must end with exit code 2; gives its one line of error."""
    assert main.main([str(word) for word in words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert "Traceback" not in error
    return error


def test_without_data_it_says_loudly_what_it_runs_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Stopped(BaseException):
        pass

    def stop(root: Path) -> None:
        assert root == tmp_path / "home" / "toy"
        raise Stopped

    monkeypatch.setattr(sweep, "render", stop)
    monkeypatch.delenv("AMSRC_DATA", raising=False)
    for words, where in ([], "(AMSRC_DATA is not set, no --root given)"), (["--root", tmp_path], f"under {tmp_path}"):
        with pytest.raises(Stopped):
            main.main(["sweep", "--home", str(tmp_path / "home"), *map(str, words)])
        loud = f"*** NO REAL DATA SET FOUND {where}: RUNNING ON THE EMBEDDED TOY DATA. ***"
        assert loud in capsys.readouterr().out.splitlines()


def test_a_named_data_set_is_not_replaced_by_the_toy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("AMSRC_DATA", raising=False)
    monkeypatch.setattr(sweep, "render", lambda _: pytest.fail("rendered"))
    assert "pass --root" in refused(["sweep", "--datasets", "ped2", "--home", tmp_path / "home"], capsys)
    words = ["sweep", "--datasets", "ped2", "--root", tmp_path, "--home", tmp_path / "home"]
    assert "ped2" in refused(words, capsys)
