"""Which cube store an experiment reads, whatever its recipe."""

from dataclasses import replace
from pathlib import Path

import pytest

from amsrc.config import FlowConfig
from amsrc.errors import DataError
from bench.cli.main import main
from bench.data.stores import find_store
from bench.experiment import recipes
from bench.experiment.config import Experiment, derive
from bench.experiment.recipes import RECIPES, Recipe, build
from tests.cubes_made import write_store

THEIRS = "their-method"


@pytest.fixture
def farneback(monkeypatch: pytest.MonkeyPatch) -> Experiment:
    """A recipe whose values are not those of any other."""

    def recipe(dataset: str, seed: int = 0) -> Experiment:
        cube = {"flow": FlowConfig(provider="farneback"), "size": 16}
        return replace(derive(recipes.amsrc(dataset, seed), cube=cube), recipe=THEIRS)

    monkeypatch.setitem(RECIPES, THEIRS, Recipe(build=recipe, title="Theirs"))
    return build(THEIRS, "toy-ped2")


@pytest.mark.parametrize("recipe", ["amsrc", "conv-ae"])
def test_a_provider_that_a_recipe_leaves_at_its_default_is_taken_from_the_store(recipe: str, tmp_path: Path) -> None:
    e = build(recipe, "toy-ped2")
    stored = derive(e, cube={"flow": FlowConfig(provider="farneback")})
    store = write_store(tmp_path, stored)
    found, theirs = find_store(tmp_path, e, set())
    assert (found.path, theirs) == (store.path, stored)


def test_a_provider_that_a_recipe_chose_is_not(farneback: Experiment, tmp_path: Path) -> None:
    write_store(tmp_path, derive(farneback, cube={"flow": FlowConfig(provider="dis")}))
    with pytest.raises(DataError, match=r"cube\.flow\.provider is dis, not farneback"):
        find_store(tmp_path, farneback, set())


def test_the_command_that_it_names_cuts_the_recipes_own_cubes(
    farneback: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataError) as caught:
        find_store(tmp_path, derive(farneback, cube={"frames": 7}), set())
    command = str(caught.value).split("`")[1]
    assert command == (
        f"amsrc-bench prepare --dataset toy-ped2 --root DIR --home {tmp_path} --recipe {THEIRS} --cube.frames 7"
    )
    asked: list[Experiment] = []
    monkeypatch.setattr("bench.data.prepare.draw", lambda experiment, *_: asked.append(experiment))
    monkeypatch.setattr("bench.data.datasets.find", lambda *_: farneback)  # of which `partial` alone is read
    assert main([*command.replace("DIR", str(tmp_path)).split()[1:], "--preview", str(tmp_path / "cubes.png")]) == 0
    assert [e.cube for e in asked] == [derive(farneback, cube={"frames": 7}).cube]
