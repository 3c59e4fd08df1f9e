"""The cells of a sweep: which store each reads, and what a copy of the data set decides."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from amsrc.errors import DataError
from bench.cli import main
from bench.data import toy
from bench.experiment.config import Experiment, cube_key
from bench.experiment.recipes import build
from bench.sweeps.grid import matrix
from bench.sweeps.plan import cells_of

NAME = "toy-ped2"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy with two videos a split."""
    for clips in (toy.TRAIN, toy.TEST):
        monkeypatch.setitem(clips, NAME, [replace(clip, frames=5) for clip in clips[NAME][:2]])
    toy.render_one(NAME, tmp_path / "data")
    return tmp_path / "data"


def lose_a_video(root: Path) -> None:
    shutil.rmtree(root / NAME / "UCSDped2" / "Train" / "Train002")


def store(home: Path, e: Experiment, *, partial: bool) -> Path:
    return home / "stores" / f"{e.dataset}-{cube_key(replace(e, partial=partial))}"


def test_a_store_belongs_to_each_cube_configuration(root: Path, tmp_path: Path) -> None:
    experiments = matrix([NAME], ["amsrc", "null-flow"], 2, {}, {"cube.frames": ["5", "7"]})
    cells = cells_of(experiments, root, tmp_path, False)
    assert [cell.experiment for cell in cells] == experiments
    assert [cell.store for cell in cells] == [store(tmp_path, e, partial=False) for e in experiments]
    assert len({cell.store for cell in cells}) == 2


def test_the_copy_says_whether_it_is_partial(root: Path, tmp_path: Path) -> None:
    e = build("amsrc", NAME)
    (cell,) = cells_of([e], root, tmp_path, True)
    assert (cell.experiment, cell.store) == (e, store(tmp_path, e, partial=False))
    lose_a_video(root)
    store(tmp_path, e, partial=False).mkdir(parents=True)
    (cell,) = cells_of([e], root, tmp_path, True)
    assert (cell.experiment, cell.store) == (replace(e, partial=True), store(tmp_path, e, partial=True))
    with pytest.raises(DataError, match="pass --partial"):
        cells_of([e], root, tmp_path, False)


@pytest.mark.parametrize(
    ("accepted", "stored", "expected"),
    [(False, [], False), (True, [], True), (True, [False], False), (True, [False, True], True)],
)
def test_without_a_copy_the_stores_say_it(tmp_path: Path, accepted: bool, stored: list[bool], expected: bool) -> None:
    e = build("amsrc", "ped2")
    for partial in stored:
        store(tmp_path, e, partial=partial).mkdir(parents=True)
    (cell,) = cells_of([e], tmp_path, tmp_path, accepted)
    assert (cell.experiment.partial, cell.store) == (expected, store(tmp_path, e, partial=expected))


def test_what_is_still_to_be_rendered_will_be_whole(tmp_path: Path) -> None:
    assert not cells_of([build("amsrc", NAME)], tmp_path / "toy", tmp_path, True)[0].experiment.partial


def test_a_dry_run_without_a_copy_says_what_it_does_not_know(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["sweep", "--datasets", "ped2", "--root", str(tmp_path), "--home", str(tmp_path / "home")]
    assert main.main([*words, "--results", str(tmp_path / "results"), "--dry-run", "--partial"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == f"not known   ped2: no copy is under {tmp_path}; planned for a partial one"
    assert main.main([*words, "--results", str(tmp_path / "results")]) == 2
    assert "ped2: no videos in" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
