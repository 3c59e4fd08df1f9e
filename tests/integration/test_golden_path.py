"""The main job as a user runs it: from rendered videos to tables, again, with a failing cell, without a store, killed.

Every command is a process of its own; all of them join the one Ray instance of these tests.
"""

import shutil
import signal
import socket
import subprocess
from contextlib import closing
from pathlib import Path

import cv2
import numpy as np
import pytest
from mlflow import MlflowClient

from bench import cli, sweep
from bench.records import frame_scores_path, path_of, read_frame_scores
from bench.run_folder import history, is_trained
from tests.cubes_made import an_experiment, write_store
from tests.integration.conftest import ROOT, Places, files, logged, planned, run, started, wait_until

SMALL = ["--model.width", "2", "--train.epochs", "1", "--train.batch", "128"]

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
    assert printed.index("to prepare  nothing") < printed.index("[1/2]") < printed.index("2 cells: 2 done")
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
    assert {"2 cells: 1 done, 1 failed", "2 cells: 1 failed, 1 done"} & set(done.stdout.splitlines())
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
    assert "1 cells: 1 done" in done.stdout
    assert "MLflow: not logged" in done.stdout
    assert places.records["null-flow"].status == "done"
    assert (places.results / "tables" / "table1.md").is_file()


def killed_after_a_checkpoint(words: list[str | Path], home: Path, cwd: Path) -> Path:
    """Start a command, kill it at its first new checkpoint, and give the run's folder."""
    before = set(home.glob("runs/*"))

    def fresh() -> list[Path]:
        return [path for path in home.glob("runs/*") if path not in before and (path / "checkpoint.pt").is_file()]

    with started(*words, cwd=cwd) as (process, _):
        wait_until(lambda: bool(fresh()), process)
        process.kill()
        assert process.wait(timeout=60) == -signal.SIGKILL
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
        words: list[str | Path] = ["-m", "bench", "train", "--recipe", "amsrc", "--dataset", "toy-ped2"]
        words += ["--home", home, "--cube.size", "16", "--model.width", "2", "--train.batch", "16"]
        words += ["--train.epochs", str(epochs), "--train.score_every", "1"]
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
    words = [
        "--recipes",
        "baseline",
        "--name",
        "killed",
        "--model.width",
        "2",
        "--train.epochs",
        "6",
        "--cpus-per-run",
        "1",
    ]
    folder = killed_after_a_checkpoint(places.command(*words), places.home, tmp_path)
    assert not places.records
    done = places.sweep(*words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line["epoch"] for line in history(folder)] == list(range(1, 7))
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
