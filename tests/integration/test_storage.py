"""The whole path with its work in an object store: prepare, train, sweep and search, and heads that are lost.

The store is a real server of S3's protocol on loopback. A head that is lost is one whose own folder (`AMSRC_CACHE`) the
next command does not have.
"""

import json
import signal
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from amsrc.errors import DataError
from bench.data import datasets
from bench.data.prepare import prepare
from bench.data.stores import Sources, find_store, store_path
from bench.data.toy import render_one
from bench.experiment.config import derive
from bench.experiment.recipes import build
from bench.records.records import read_all, read_frame_scores, read_searches
from bench.records.run_folder import history, is_trained
from bench.storage.node_cache import open_store
from bench.storage.places import Place, Remote, files_below, write_file
from tests.cubes_made import an_experiment, write_store
from tests.integration.conftest import ROOT, logged, planned, run, started, wait_until
from tests.integration.test_sweep import EPOCHS, TINY
from tests.object_store import remote, serving

pytestmark = [pytest.mark.timeout(600), pytest.mark.usefixtures("ray_cluster")]


@pytest.fixture(scope="module")
def server(ray_cluster: None) -> Iterator[int]:
    with serving() as port:
        yield port


@dataclass(frozen=True)
class Head:
    """A machine that drives sweeps: what it has of its own, and the object store that outlives it."""

    own: Path
    home: Remote

    @property
    def results(self) -> Remote:
        return self.home / "toy-results"

    def command(self, *words: str) -> list[str | Path]:
        return [ROOT / "bench" / "sweep.py", "--toy", "--datasets", "toy-ped2", "--home", str(self.home), *TINY, *words]

    def sweep(self, *words: str) -> str:
        """Run a sweep to its good end; returns what it printed."""
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("AMSRC_CACHE", str(self.own))
            done = run(*self.command(*words), cwd=self.own)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "secret" not in (done.stdout + done.stderr).lower()
        return done.stdout

    def lost(self, name: str) -> "Head":
        """Another machine in its place."""
        other = self.own.with_name(name)
        other.mkdir()
        return replace(self, own=other)


@pytest.fixture(scope="module")
def head(server: int, tmp_path_factory: pytest.TempPathFactory) -> Head:
    return Head(tmp_path_factory.mktemp("head"), remote(server, "head"))


@pytest.fixture(scope="module")
def first(head: Head) -> tuple[Head, str]:
    """The first sweep, and what it printed."""
    return head, head.sweep("--recipes", "amsrc,null-flow", "--train.epochs", str(EPOCHS))


def contents(place: Remote) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in files_below(place, "*/*/*/*") if path.name != "study.db"}


def test_the_path_from_videos_to_tables(first: tuple[Head, str]) -> None:
    head, printed = first
    records = {record.recipe: record for record in read_all(head.results)}
    assert {name: record.status for name, record in records.items()} == {"amsrc": "done", "null-flow": "done"}
    assert f"records: {head.results / 'records'}" in printed
    assert "Table 1." in (head.results / "tables" / "table1.md").read_text()
    scores, labels = read_frame_scores(head.results, records["amsrc"])
    assert {name: len(score) for name, score in scores.items()} == {name: len(label) for name, label in labels.items()}
    folder = head.home / "runs" / str(records["amsrc"].run)
    assert is_trained(folder)
    assert [line["epoch"] for line in history(folder)] == list(range(1, EPOCHS + 1))
    assert not (folder / "checkpoint.pt").is_file()
    assert not list(head.own.rglob("cubes")), "the driver needs no cubes"


def test_the_same_command_runs_nothing_on_another_head(first: tuple[Head, str], tmp_path: Path) -> None:
    head, _ = first
    before = contents(head.results), contents(head.home / "stores")
    other = head.lost("other")
    printed = other.sweep("--recipes", "amsrc,null-flow", "--train.epochs", str(EPOCHS))
    assert planned(printed) == (2, 2, 0)
    assert (contents(head.results), contents(head.home / "stores")) == before
    _, cells = logged(next(other.own.glob("remote/*")))
    assert {cell.data.tags["recipe"] for cell in cells} == {"amsrc", "null-flow"}, "MLflow is logged again from records"


@pytest.mark.slow
def test_a_search_goes_on_after_its_head_was_lost(first: tuple[Head, str], tmp_path: Path) -> None:
    """The finished stay as they are, the interrupted go on from their checkpoints, and none is counted twice."""
    head = first[0].lost("searching")
    words = ["search", "--recipes", "amsrc", "--trials", "4", "--over", "loss.consistency"]
    words += ["--train.epochs", str(EPOCHS), "--name", "head-lost"]

    def ended() -> list[Remote]:
        return files_below(head.results, "searches/*/scores/*/*/*.npz")  # the last that a cell writes

    def under_way() -> list[Remote]:
        runs = [path.parent for path in files_below(head.home, "runs/*/checkpoint.pt")]
        return [run for run in runs if 1 < len(history(run)) < EPOCHS / 2]

    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("AMSRC_CACHE", str(head.own))
        with started(*head.command(*words), cwd=tmp_path) as (process, _):
            # Of the trials one repeats the recipe's own cell and so is finished at once.
            wait_until(lambda: len(ended()) >= 2 and bool(under_way()), process)
            interrupted = under_way()[0]
            process.kill()
            process.wait(timeout=60)
    done, names = contents(head.results), {path.name.removesuffix(".npz").partition("-")[2] for path in ended()}
    trials = read_all(ended()[0].parent.parent.parent.parent)
    kept = {r.run: all_of(head.home / "runs" / str(r.run)) for r in trials if r.fingerprint in names}
    assert {record.status for record in trials if record.fingerprint in names} == {"done"}

    other = head.lost("the-next")
    other.sweep(*words)
    after = contents(head.results)
    assert {name: after[name] for name in done} == done
    assert {run: all_of(head.home / "runs" / str(run)) for run in kept} == kept
    (search,) = read_searches(head.results)
    assert [trial["state"] for trial in search.trials] == ["done"] * 4
    records = read_all(head.results / "searches" / search.study)
    assert [record.status for record in records] == ["done"] * 4
    assert {record.restarts for record in records if record.run == interrupted.name} == {1}
    for record in records:
        lines = history(head.home / "runs" / str(record.run))
        assert [line["epoch"] for line in lines] == list(range(1, EPOCHS + 1))

    (own,) = other.own.glob("remote/*")
    study = optuna.load_study(study_name=search.study, storage=f"sqlite:///{own}/sweeps/head-lost/study.db")
    repeated = {trial.user_attrs.get("again") for trial in study.trials}
    complete = [trial for trial in study.trials if trial.number not in repeated]
    assert [trial.state for trial in complete] == [TrialState.COMPLETE] * 4
    assert all(study.trials[number].state == TrialState.FAIL for number in repeated - {None})
    assert [trial["number"] for trial in search.trials] == [trial.number for trial in complete]
    assert len({json.dumps(trial["params"]) for trial in search.trials}) == 4

    sweeps, cells = logged(own)
    (parent,) = [run for run in sweeps if run.info.run_name == "head-lost"]
    assert parent.info.status == "FINISHED"
    children = [run for run in cells if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    wanted = {record.fingerprint for record in [*records, *read_all(head.results)] if record.recipe == "amsrc"}
    assert Counter(run.data.tags["fingerprint"] for run in children) == Counter(wanted)
    assert {run.info.status for run in children} == {"FINISHED"}


def all_of(folder: Remote) -> dict[str, bytes]:
    """The content of a run's folder."""
    found = [*files_below(folder, "*"), *files_below(folder, "*/*")]
    return {str(path): path.read_bytes() for path in found}


def test_a_missing_bucket_is_said_before_anything_starts(server: int, tmp_path: Path) -> None:
    address = str(remote(server, "x")).replace("bench/", "nowhere/")
    done = run(ROOT / "bench" / "sweep.py", "--toy", "--home", address, cwd=tmp_path)
    assert done.returncode == 2
    assert "there is no such bucket" in done.stderr
    assert done.stderr.count("\n") == 1
    assert "prepar" not in done.stdout


# -- stages by themselves ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    render_one("toy-ped2", folder)
    return folder


def test_a_store_is_the_same_in_a_folder_and_in_an_object_store(server: int, videos: Path, tmp_path: Path) -> None:
    e = derive(build("amsrc", "toy-ped2"), cube={"size": 16})
    far = remote(server, "prepared")
    here, there = prepare(e, Sources(videos), tmp_path), prepare(e, Sources(videos), far)
    assert there.sha256 == here.sha256
    store, found = find_store(far, e, set())
    assert found.cube == e.cube
    store.verify()
    rows = np.arange(len(store.test))
    assert np.array_equal(store.test.frames(rows), open_store(here.path).test.frames(rows))


def test_only_what_is_not_whole_is_cut_again(server: int, videos: Path) -> None:
    """An upload that broke off has left no last file, and one that lost a file is not whole either."""
    e = derive(build("amsrc", "toy-ped2"), cube={"size": 24})
    far = remote(server, "broken-off")
    store = store_path(far, e)
    assert isinstance(store, Remote)
    whole = prepare(e, Sources(videos), far)
    dataset = datasets.find("toy-ped2", videos)
    one, other = dataset.train[0].name, dataset.test[0].name
    (store / "train" / one / "shard.json").unlink()
    (store / "test" / other / "flows.npy").unlink()
    cut: list[str] = []
    again = prepare(e, Sources(videos), far, progress=lambda done, of, name: cut.append(name))
    assert sorted(cut) == [f"test/{other}", f"train/{one}"]
    assert again.sha256 == whole.sha256
    open_store(store).verify()


def test_a_store_that_is_being_made_is_none(server: int, videos: Path) -> None:
    e = derive(build("amsrc", "toy-ped2"), cube={"size": 32})
    far = remote(server, "unsealed")
    prepare(e, Sources(videos), far)
    (store_path(far, e) / "manifest.json").unlink()
    with pytest.raises(DataError, match="no finished cube store of toy-ped2"):
        find_store(far, e, set())


LONG = 40  # epochs of a training that is killed at once
CLOCK = ("seconds", "score_seconds", "cubes_per_s", "peak_memory_gib", "hardware", "restarts")


def training(home: Place) -> list[str | Path]:
    """The command that trains on the made-up cubes there."""
    words = ["-m", "bench", "train", "--recipe", "amsrc", "--dataset", "toy-ped2", "--home", str(home)]
    return [
        *words,
        "--cube.size",
        "16",
        "--model.width",
        "2",
        "--train.batch",
        "16",
        "--train.epochs",
        str(LONG),
        "--train.score_every",
        "1",
    ]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a training that was never killed."""
    home = tmp_path_factory.mktemp("undisturbed")
    write_store(home, an_experiment())
    done = run(*training(home), cwd=home)
    assert done.returncode == 0, done.stderr
    (folder,) = (home / "runs").iterdir()
    return folder


def log(folder: Place) -> list[dict[str, object]]:
    return [{name: value for name, value in line.items() if name not in CLOCK} for line in history(folder)]


@pytest.mark.parametrize("place", ["a folder", "an object store"])
def test_a_killed_training_goes_on_by_the_same_command(
    place: str, undisturbed: Path, server: int, tmp_path: Path
) -> None:
    """On another node, where both see the home; and it ends with the very weights of one that was never killed."""
    home: Place = tmp_path / "home"
    write_store(tmp_path / "home", an_experiment())
    if place == "an object store":
        home = remote(server, "killed")
        for path in (path for path in (tmp_path / "home").rglob("*") if path.is_file()):
            write_file(home / path.relative_to(tmp_path / "home").as_posix(), path.read_bytes())
    words = training(home)

    def begun() -> list[Place]:
        return [path.parent for path in files_below(home, "runs/*/checkpoint.pt") if history(path.parent)]

    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("AMSRC_CACHE", str(tmp_path / "here"))
        with started(*words, cwd=tmp_path) as (process, _):
            wait_until(lambda: bool(begun()), process)
            process.kill()
            assert process.wait(timeout=60) == -signal.SIGKILL
        (folder,) = begun()
        assert not is_trained(folder), "it was done before it could be killed"
        before = len(history(folder))
        assert 1 <= before < LONG
        environment.setenv("AMSRC_CACHE", str(tmp_path / "there"))
        done, again = (run(*words, cwd=tmp_path) for _ in range(2))
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"trained: {folder}" in done.stdout
    shown = [int(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("epoch")]
    assert shown == list(range(shown[0], LONG + 1))
    assert before <= shown[0] - 1 <= before + 1
    assert again.stdout == f"trained: {folder}\n", "a third call trains nothing"
    assert {path.parent for path in files_below(home, "runs/*/log.jsonl")} == {folder}
    assert [line["epoch"] for line in history(folder)] == list(range(1, LONG + 1))
    assert history(folder)[-1]["restarts"] == 1
    assert log(folder) == log(undisturbed)
    assert (folder / "model.safetensors").read_bytes() == (undisturbed / "model.safetensors").read_bytes()
