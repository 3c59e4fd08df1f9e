"""The whole path with its work in an object store: prepare, train, sweep and search, and heads that are lost.

The store is a real server of S3's protocol on loopback. A head that is lost is one whose own folder (`AMSRC_CACHE`) the
next command does not have.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from amsrc.errors import DataError
from bench import datasets
from bench.cache import open_store
from bench.config import derive
from bench.prepare import prepare
from bench.recipes import build
from bench.records import read_all, read_frame_scores, read_searches
from bench.run_folder import history, is_trained
from bench.storage import Remote, files_below
from bench.stores import Sources, find_store, store_path
from bench.toy import render_one
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


def test_a_search_goes_on_after_its_head_was_lost(first: tuple[Head, str], tmp_path: Path) -> None:
    """The study and what is finished outlive the machine; the interrupted goes on from its checkpoint."""
    head = first[0].lost("searching")
    words = ["search", "--recipes", "amsrc", "--trials", "4", "--over", "loss.consistency"]
    words += ["--train.epochs", str(EPOCHS), "--name", "head-lost"]

    def ended() -> int:
        return len(files_below(head.results, "searches/*/records/*/*/*"))

    def halfway() -> bool:
        return any(1 < len(history(p.parent)) < EPOCHS for p in files_below(head.home, "runs/*/checkpoint.pt"))

    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("AMSRC_CACHE", str(head.own))
        with started(*head.command(*words), cwd=tmp_path) as (process, _):
            wait_until(lambda: ended() >= 2 and halfway(), process)
            process.kill()
            process.wait(timeout=60)
    done = contents(head.results)
    head.lost("the-next").sweep(*words)
    after = contents(head.results)
    assert {name: after[name] for name in done} == done
    (search,) = read_searches(head.results)
    assert [trial["state"] for trial in search.trials] == ["done"] * 4
    records = read_all(head.results / "searches" / search.study)
    assert [record.status for record in records] == ["done"] * 4
    assert sum(record.restarts for record in records) >= 1
    for record in records:
        lines = history(head.home / "runs" / str(record.run))
        assert [line["epoch"] for line in lines] == list(range(1, EPOCHS + 1))


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


def test_a_killed_training_goes_on_elsewhere(first: tuple[Head, str], server: int, tmp_path: Path) -> None:
    """SIGKILL here, the same command with another node's folder there: the weights are those of an undisturbed run."""
    head, _ = first
    words = ["-m", "bench", "train", "--recipe", "amsrc", "--dataset", "toy-ped2", "--home", str(head.home)]
    words += [*TINY, "--train.epochs", "5", "--seed", "3"]

    def running() -> list[Remote]:
        return [p.parent for p in files_below(head.home, "runs/*/checkpoint.pt") if 1 < len(history(p.parent)) < 5]

    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("AMSRC_CACHE", str(tmp_path / "here"))
        with started(*words, cwd=tmp_path) as (process, _):
            wait_until(lambda: bool(running()), process)
            (folder,) = running()
            process.kill()
            process.wait(timeout=60)
        environment.setenv("AMSRC_CACHE", str(tmp_path / "there"))
        done = run(*words, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        lines = history(folder)
        assert [(line["epoch"], line["restarts"]) for line in lines][-1] == (5, 1)
        undisturbed = tmp_path / "undisturbed"
        copied = [str(word) for word in words]
        copied[copied.index(str(head.home))] = str(undisturbed)
        copy = undisturbed / "stores" / files_below(head.home, "stores/*/manifest.json")[0].parent.name
        copy.parent.mkdir(parents=True)
        copy.symlink_to(next((tmp_path / "there" / "cubes").glob("*/manifest.json")).parent)
        assert run(*copied, cwd=tmp_path).returncode == 0
    (mine,) = undisturbed.glob("runs/*/model.safetensors")
    assert mine.read_bytes() == (folder / "model.safetensors").read_bytes()
