"""A recipe with cubes of its own: planned, prepared, run next to others and found by hand, always as the same value."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from amsrc.store import CubeStore
from bench.cli import main
from bench.data import toy
from bench.experiment.config import Experiment, derive, fingerprint
from bench.experiment.recipes import RECIPES, Recipe, amsrc
from bench.records.records import read_all
from bench.sweeps import plan

pytestmark = pytest.mark.usefixtures("ray_cluster")

TINY = ["--cube.size", "16", "--train.epochs", "1", "--train.batch", "64"]  # fields of every recipe


def seven_frames(dataset: str, seed: int = 0) -> Experiment:
    return replace(derive(amsrc(dataset, seed), cube={"frames": 7}), recipe="seven-frames")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as short:
        for clips in (toy.TRAIN, toy.TEST):
            short.setitem(clips, "toy-ped2", [replace(clip, frames=30) for clip in clips["toy-ped2"][:2]])
        toy.render_one("toy-ped2", folder)
    return folder


@pytest.fixture
def plans(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """The plan of each sweep, in the order in which they say it: fingerprint -> name of the store."""
    found: list[dict[str, str]] = []
    described: Callable[..., str] = plan.described

    def noted(planned: plan.Plan, *rest: Any) -> str:
        found.append({fingerprint(cell.experiment): cell.store.name for cell in planned.cells})
        return described(planned, *rest)

    monkeypatch.setattr(plan, "described", noted)
    monkeypatch.setitem(RECIPES, "seven-frames", Recipe(build=seven_frames, title="Seven frames"))
    return found


def test_recipes_with_other_cubes_run_in_one_sweep_as_planned(
    data: Path, tmp_path: Path, plans: list[dict[str, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    home, results = tmp_path / "home", tmp_path / "results"
    where = ["--home", str(home), "--results", str(results)]
    words = ["sweep", "--recipes", "amsrc,seven-frames,null-flow", "--datasets", "toy-ped2", "--root", str(data)]
    words += [*where, *TINY, "--partial", "--mlflow", f"sqlite:///{tmp_path}"]
    assert main.main([*words, "--dry-run"]) == 0
    assert main.main(words) == 0
    planned, run = plans
    assert run == planned

    records = {record.recipe: record for record in read_all(results)}
    assert {record.fingerprint for record in records.values()} == set(planned)
    assert {name: record.experiment["cube"]["frames"] for name, record in records.items()} == {
        "amsrc": 5,
        "seven-frames": 7,
        "null-flow": 5,
    }
    assert {path.name for path in (home / "stores").iterdir()} == set(planned.values())
    for record in records.values():
        store = CubeStore(home / "stores" / planned[record.fingerprint])
        assert (record.status, record.store) == ("done", store.sha256)
        assert store.test.frames(np.arange(1)).shape[1] == record.experiment["cube"]["frames"]

    before = {path.name for path in results.rglob("*.json")}
    assert main.main(["evaluate", "--recipe", "seven-frames", "--dataset", "toy-ped2", *where, *TINY]) == 0
    assert {path.name for path in results.rglob("*.json")} == before, "by hand it is the same value"
    capsys.readouterr()
    words = ["train", "--recipe", "amsrc", "--dataset", "toy-ped2", "--home", str(home), *TINY]
    assert main.main([*words, "--cube.frames", "9"]) == 2
    error = capsys.readouterr().err
    assert "cube.frames is 5, not 9" in error and "cube.frames is 7, not 9" in error
    assert "--cube.frames 9" in error
