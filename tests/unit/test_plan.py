"""The plan of a sweep: which cells there are."""

import subprocess
import sys
from pathlib import Path

import pytest

from amsrc.errors import ConfigError
from bench.experiment.config import fingerprint, flatten
from bench.sweeps.grid import matrix, parse_axes
from tests.messages import error_naming

ROOT = Path(__file__).resolve().parents[2]


def test_a_matrix_is_data_sets_by_recipes_by_axes_by_seeds() -> None:
    axes = {"loss.consistency": ["0.1", "10"], "train.epochs": ["2", "3"]}
    found = matrix(["ped2", "avenue"], ["amsrc", "no-gate-add"], 2, {"train.batch": "32"}, axes)
    assert len({fingerprint(e) for e in found}) == len(found) == 2 * 2 * 4 * 2
    seen = [(e.dataset, e.recipe, e.settings.loss.consistency, e.train.epochs, e.seed) for e in found]
    assert seen[:5] == [
        ("ped2", "amsrc", 0.1, 2, 0),
        ("ped2", "amsrc", 0.1, 2, 1),
        ("ped2", "amsrc", 0.1, 3, 0),
        ("ped2", "amsrc", 0.1, 3, 1),
        ("ped2", "amsrc", 10.0, 2, 0),
    ]
    assert seen == sorted(seen, key=lambda cell: cell[0], reverse=True)
    assert {e.train.batch for e in found} == {32}


def test_without_axes_a_matrix_has_one_cell_a_data_set_recipe_and_seed() -> None:
    found = matrix(["ped2"], ["amsrc", "null-flow"], 3, {}, {})
    assert [(e.recipe, e.seed) for e in found] == [(r, s) for r in ("amsrc", "null-flow") for s in range(3)]


@pytest.mark.parametrize(
    ("recipes", "changes", "axes", "named"),
    [
        (["amsrc", "amsrc"], {}, {}, "amsrc on ped2"),
        (["amsrc", "baseline"], {}, {"loss.consistency": ["1", "10"]}, "baseline on ped2"),  # it has no such loss
        (["null-flow"], {}, {"train.epochs": ["1", "2"]}, "null-flow on ped2"),
        (["velocity-gmm"], {}, {"train.epochs": ["1", "2"]}, "velocity-gmm on ped2"),  # a closed form
        (["amsrc", "no-gate-add"], {}, {"model.fusion": ["gate", "add"]}, "amsrc on ped2, no-gate-add on ped2"),
        (["amsrc"], {}, {"loss.consistency": ["1", "1.0"]}, "amsrc on ped2"),
    ],
)
def test_a_network_that_would_be_trained_twice_is_refused(
    recipes: list[str], changes: dict[str, str], axes: dict[str, list[str]], named: str
) -> None:
    with pytest.raises(ConfigError, match="one network would be trained twice: " + named):
        matrix(["ped2"], recipes, 1, changes, axes)


def test_each_method_has_axes_of_its_own_and_shares_those_of_training() -> None:
    found = matrix(["ped2"], ["velocity-gmm"], 1, {}, {"model.components": ["2", "3"]})
    assert [e.settings.model.components for e in found] == [2, 3]
    found = matrix(["ped2"], ["amsrc", "conv-ae"], 1, {"model.width": "8"}, {"train.epochs": ["2", "3"]})
    assert [(e.recipe, e.settings.model.width, e.train.epochs) for e in found] == [
        (recipe, 8, epochs) for recipe in ("amsrc", "conv-ae") for epochs in (2, 3)
    ]


def test_a_setting_is_for_the_recipes_that_have_it() -> None:
    """A sweep may hold methods of different settings; what none of them has is refused."""
    changes, axes = {"loss.consistency": "2"}, {"model.width": ["8", "16"]}
    found = matrix(["ped2"], ["amsrc", "conv-ae", "null-flow"], 2, changes, axes)
    assert [(e.recipe, flatten(e).get("model.width"), flatten(e).get("loss.consistency"), e.seed) for e in found] == [
        *(("amsrc", width, 2.0, seed) for width in (8, 16) for seed in (0, 1)),
        *(("conv-ae", width, None, seed) for width in (8, 16) for seed in (0, 1)),
        *(("null-flow", None, None, seed) for seed in (0, 1)),
    ]
    with error_naming(ConfigError, "null-flow", "'model.width'"):
        matrix(["ped2"], ["null-flow"], 1, {"model.width": "8"}, {})


def test_a_bad_value_on_an_axis_is_refused_before_anything_starts() -> None:
    with pytest.raises(ConfigError, match=r"train\.epochs is 0"):
        matrix(["ped2"], ["amsrc"], 1, {}, {"train.epochs": ["4", "0"]})


def test_a_field_cannot_be_set_and_an_axis() -> None:
    with pytest.raises(ConfigError, match=r"loss\.gradient: set to one value and an axis"):
        matrix(["ped2"], ["amsrc"], 1, {"loss.gradient": "2"}, {"loss.gradient": ["1", "2"]})


def test_axes_are_read_from_text_in_their_order() -> None:
    assert parse_axes([]) == {}
    assert parse_axes(["loss.consistency=0.1,1,10", "model.fusion=gate,add", "cube.frames=5,7"]) == {
        "loss.consistency": ["0.1", "1", "10"],
        "model.fusion": ["gate", "add"],
        "cube.frames": ["5", "7"],
    }
    assert parse_axes(["model.components=2,5", "model.input=frames,flows"]) == {
        "model.components": ["2", "5"],
        "model.input": ["frames", "flows"],
    }


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["loss.consistency"], "write a field and its values"),
        (["=1,2"], "write a field and its values"),
        (["loss.consistancy=1,2"], "did you mean: loss.consistency"),
        (["recipe=amsrc"], "unknown field 'recipe'"),
        (["loss.consistency=1,,2"], "a value is empty"),
        (["loss.consistency="], "a value is empty"),
        (["loss.consistency=1,2,1"], "1 is repeated"),
        (["loss.consistency=1", "loss.consistency=2"], "given twice"),
        (["model.flow_scale=1,2"], "a list itself"),
        (["score.weights=0,1"], "a list itself"),
        (["score.standardise=z-score,min-max"], r"--axis score\.standardise: .* train no other network"),
    ],
)
def test_a_wrong_axis_is_refused_with_the_reason(texts: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_axes(texts)


def test_planning_imports_neither_torch_nor_ray() -> None:
    script = "import sys, bench.sweeps.plan_text; print([n for n in ('torch', 'ray', 'mlflow') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, text=True, capture_output=True, check=True)
    assert done.stdout.strip() == "[]"
