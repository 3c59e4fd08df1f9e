"""The main job as a user runs it: from rendered videos to tables, again, with a failing cell, without a store, killed.

Every command is a process of its own; all of them join the one Ray instance of these tests.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from bench import cli, sweep
from bench.records import RunRecord, frame_scores_path, path_of, read_all, read_frame_scores
from bench.runs import history, is_trained
from tests.cubes_made import an_experiment, write_store

ROOT = Path(__file__).resolve().parents[2]
SMALL = ["--model.width", "2", "--train.epochs", "1", "--train.batch", "128"]

pytestmark = [pytest.mark.timeout(600), pytest.mark.usefixtures("ray_cluster")]


def run(*words: str | Path, cwd: Path) -> "subprocess.CompletedProcess[str]":
    """Run a command from a folder that is not the checkout's, and wait for it."""
    command = [sys.executable, *map(str, words)]
    return subprocess.run(command, cwd=cwd, env=environment(), capture_output=True, text=True, timeout=500, check=False)


def environment() -> dict[str, str]:
    """No data, home or tracking server of the user's."""
    own = ("AMSRC_DATA", "AMSRC_HOME", "MLFLOW_TRACKING_URI", "PYTHONPATH")
    return {name: value for name, value in os.environ.items() if name not in own} | {"OMP_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Places:
    """Where the sweeps of a test write; the videos and cubes under `home` are made once."""

    home: Path
    results: Path

    def sweep(self, *words: str | Path) -> "subprocess.CompletedProcess[str]":
        """`python bench/sweep.py --toy` on one data set."""
        where = ["--toy", "--datasets", "toy-ped2", "--home", self.home, "--results", self.results]
        return run(ROOT / "bench" / "sweep.py", *where, *words, cwd=self.home.parent)

    def of(self, test: Path) -> "Places":
        """The same home, results of one's own."""
        return Places(self.home, test / "results")

    @property
    def records(self) -> dict[str, RunRecord]:
        return {record.recipe: record for record in read_all(self.results)}


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


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def logged(home: Path) -> tuple[list[Run], list[Run]]:
    """The sweeps and the cells in the home's MLflow store."""
    client = MlflowClient(f"sqlite:///{home / 'mlflow.db'}")
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    sweeps = [run for run in runs if "sweep" in run.data.tags]
    return sweeps, [run for run in runs if "fingerprint" in run.data.tags]


def test_the_first_sweep_goes_from_videos_to_tables(first: tuple[Places, str]) -> None:
    places, printed = first
    assert "2 cells: 0 have their record, 2 to run" in printed
    assert "2 of 2 cells done" in printed
    assert f"records: {places.results / 'records'}" in printed
    assert f"tables:  {places.results / 'tables'}" in printed
    assert "mlflow ui --backend-store-uri" in printed
    assert {(r.recipe, r.dataset, r.seed, r.status) for r in places.records.values()} == {
        ("amsrc", "toy-ped2", 0, "done"),
        ("null-flow", "toy-ped2", 0, "done"),
    }
    for record in places.records.values():
        assert record.metrics["auroc"] is not None
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
    (parent,) = [run for run in sweeps if run.info.run_name == "sweep"]
    assert parent.info.status == "FINISHED"
    wanted = {record.fingerprint: record for record in places.records.values()}
    children = {run.data.tags["fingerprint"]: run for run in cells if run.data.tags["fingerprint"] in wanted}
    assert set(children) == set(wanted)
    for fingerprint, child in children.items():
        assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert child.data.metrics["auroc"] == pytest.approx(wanted[fingerprint].metrics["auroc"])
    client = MlflowClient(f"sqlite:///{places.home / 'mlflow.db'}")
    trained = children[places.records["amsrc"].fingerprint].info.run_id
    assert {"record.json", "model.safetensors", "per_video.json"} <= {f.path for f in client.list_artifacts(trained)}
    assert not list(ROOT.glob("mlruns")), "nothing is logged into the checkout"


def test_the_same_command_runs_nothing_and_changes_nothing(first: tuple[Places, str]) -> None:
    places, _ = first
    results, runs = files(places.results), files(places.home / "runs")
    cells = {run.info.run_id for run in logged(places.home)[1]}
    again = places.sweep("--recipes", "amsrc,null-flow", *SMALL)
    assert again.returncode == 0, again.stderr
    assert "2 cells: 2 have their record, 0 to run" in again.stdout
    assert files(places.results) == results
    assert files(places.home / "runs") == runs
    assert {run.info.run_id for run in logged(places.home)[1]} == cells


def test_a_failing_cell_is_recorded_and_the_others_go_on(places: Places) -> None:
    words = ["--recipes", "null-flow,amsrc", "--name", "failing", *SMALL, "--train.learning_rate", "1e30"]
    done = places.sweep(*words)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "1 of 2 cells done" in done.stdout
    assert "failed: amsrc on toy-ped2, seed 0: FAILED: RunError" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    failed = places.records["amsrc"]
    assert (failed.status, failed.metrics) == ("failed", {})
    assert "became non-finite in epoch" in str(failed.error)
    assert "train.learning_rate (now 1e+30)" in str(failed.error)
    assert places.records["null-flow"].status == "done"
    assert (places.results / "tables" / "table1.md").is_file()
    (parent,) = [run for run in logged(places.home)[0] if run.info.run_name == "failing"]
    assert parent.info.status == "FAILED"
    assert "2 cells: 1 have their record, 1 to run" in places.sweep(*words).stdout, "what failed is tried again"


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
    done = places.sweep("--recipes", "null-flow", "--mlflow", closed)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 of 1 cells done" in done.stdout
    assert "MLflow: not logged" in done.stdout
    assert places.records["null-flow"].status == "done"
    assert (places.results / "tables" / "table1.md").is_file()


def wait_until(true: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    end = time.monotonic() + 400
    while not true():
        assert process.poll() is None, f"ended too early, with {process.returncode}"
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.005)


def killed_after_a_checkpoint(words: list[str], home: Path, cwd: Path) -> Path:
    """Start a command, kill it at its first new checkpoint, and give the run's folder."""
    before = set(home.glob("runs/*"))

    def fresh() -> list[Path]:
        return [path for path in home.glob("runs/*") if path not in before and (path / "checkpoint.pt").is_file()]

    log = cwd / "killed.log"
    with log.open("w") as output:
        process = subprocess.Popen([sys.executable, *words], cwd=cwd, env=environment(), stdout=output, stderr=output)
        try:
            wait_until(lambda: bool(fresh()), process)
        finally:
            process.kill()
            process.wait(timeout=60)
    assert process.returncode == -signal.SIGKILL
    (folder,) = fresh()
    assert not is_trained(folder), "it was done before it could be killed"
    return folder


CLOCK = ("seconds", "score_seconds", "cubes_per_s", "peak_memory_gib", "hardware", "restarts")


def log(folder: Path) -> list[dict[str, object]]:
    return [{name: value for name, value in line.items() if name not in CLOCK} for line in history(folder)]


def test_a_killed_training_goes_on_by_the_same_command(tmp_path: Path) -> None:
    """And ends with the very weights of one that was never killed."""
    epochs = 40
    trained = {}
    for name in ("killed", "straight"):
        home = tmp_path / name
        write_store(home, an_experiment())
        words = ["-m", "bench", "train", "--recipe", "amsrc", "--dataset", "toy-ped2", "--home", str(home)]
        words += [
            "--model.width",
            "2",
            "--train.batch",
            "16",
            "--train.epochs",
            str(epochs),
            "--train.score_every",
            "1",
        ]
        if name == "killed":
            folder = killed_after_a_checkpoint(words, home, tmp_path)
            before = len(history(folder))
            assert 1 <= before < epochs
        done = run(*words, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        (trained[name],) = (home / "runs").iterdir()
        assert f"trained: {trained[name]}" in done.stdout
        if name == "killed":
            shown = [int(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("epoch")]
            assert shown == list(range(shown[0], epochs + 1))
            assert before <= shown[0] - 1 <= before + 1
    assert [line["epoch"] for line in history(trained["killed"])] == list(range(1, epochs + 1))
    assert history(trained["killed"])[-1]["restarts"] == 1
    assert log(trained["killed"]) == log(trained["straight"])
    weights = [(folder / "model.safetensors").read_bytes() for folder in trained.values()]
    assert weights[0] == weights[1]
    assert run(*words, cwd=tmp_path).stdout == f"trained: {trained['straight']}\n", "a third call trains nothing"


def test_a_killed_sweep_goes_on_by_the_same_command(places: Places, tmp_path: Path) -> None:
    words = ["--recipes", "baseline", "--name", "killed", "--model.width", "2", "--train.epochs", "12"]
    where = ["--toy", "--datasets", "toy-ped2", "--home", str(places.home), "--results", str(places.results)]
    folder = killed_after_a_checkpoint([str(ROOT / "bench" / "sweep.py"), *where, *words], places.home, tmp_path)
    assert not places.records
    done = places.sweep(*words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line["epoch"] for line in history(folder)] == list(range(1, 13))
    assert places.records["baseline"].status == "done"
    assert places.records["baseline"].restarts == 1


# -- what is refused: nothing is started, exit code 2 ---------------------------------------------------------


@pytest.fixture
def a_copy(first: tuple[Places, str], tmp_path: Path) -> Path:
    """A data set that may be damaged."""
    shutil.copytree(first[0].home / "toy" / "toy-ped2", tmp_path / "data" / "toy-ped2")
    return tmp_path / "data"


def refused(words: list[str | Path], capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command in this process that must end with exit code 2; gives its one line of error."""
    assert cli.main([str(word) for word in words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert "Traceback" not in error
    return error


def test_a_corrupt_image_is_named(a_copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = a_copy / "toy-ped2" / "UCSDped2" / "Train" / "Train002" / "017.tif"
    image.write_bytes(image.read_bytes()[:60])
    words = ["sweep", "--root", a_copy, "--datasets", "toy-ped2", "--recipes", "null-flow"]
    error = refused([*words, "--home", tmp_path / "home", "--results", tmp_path / "results"], capsys)
    assert "Train002" in error and "017.tif" in error
    assert not list(tmp_path.glob("home/stores/*/manifest.json"))
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ([-3, 5, 20, 30], r"box [-3.0, 5.0, 20.0, 30.0]"),
        ([5, 5, 2000, 30], "lies outside the 152x100 frame"),
        ([5, 5, 5, 30], "has no area"),
        ([np.nan, 5, 20, 30], "nan"),
    ],
)
def test_boxes_that_do_not_fit_are_named(
    a_copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], box: list[float], message: str
) -> None:
    write_boxes(a_copy, tmp_path, box)
    words = ["prepare", "--dataset", "toy-ped2", "--root", a_copy, "--home", tmp_path / "home"]
    error = refused([*words, "--boxes", f"file:{tmp_path}/boxes_{{split}}.npz"], capsys)
    assert message in error
    assert not list(tmp_path.glob("home/stores/*/manifest.json"))


def test_boxes_for_another_number_of_frames_are_refused(
    a_copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_boxes(a_copy, tmp_path, [5, 5, 20, 30], missing=1)
    words = ["prepare", "--dataset", "toy-ped2", "--root", a_copy, "--home", tmp_path / "home"]
    assert "frames" in refused([*words, "--boxes", f"file:{tmp_path}/boxes_{{split}}.npz"], capsys)
    assert not list(tmp_path.glob("home/stores/*/manifest.json"))


def write_boxes(root: Path, folder: Path, box: list[float], missing: int = 0) -> None:
    """One box a frame; in frame 9 of the training videos this one."""
    for split, name in (("train", "Train"), ("test", "Test")):
        frames = len(list(root.glob(f"toy-ped2/UCSDped2/{name}/*[0-9]/*.tif"))) - missing
        boxes = np.tile(np.array([5, 5, 20, 30], np.float32), (frames, 1))
        boxes[9] = box if split == "train" else boxes[9]
        np.savez(folder / f"boxes_{split}.npz", boxes=boxes, offsets=np.arange(frames + 1, dtype=np.int64))


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
            cli.main(["sweep", "--home", str(tmp_path / "home"), *map(str, words)])
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


def test_the_images_are_whole(first: tuple[Places, str]) -> None:
    """Else the test of a corrupt one would prove nothing."""
    image = first[0].home / "toy" / "toy-ped2" / "UCSDped2" / "Train" / "Train002" / "017.tif"
    assert cv2.imread(str(image)).shape == (100, 152, 3)
