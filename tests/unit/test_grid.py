"""The plan of a sweep: which cells there are."""

import subprocess
import sys
from pathlib import Path

import pytest

from amsrc.errors import ConfigError
from bench.config import fingerprint
from bench.grid import matrix, parse_axes

ROOT = Path(__file__).resolve().parents[2]


def test_a_matrix_is_data_sets_by_recipes_by_axes_by_seeds() -> None:
    axes = {"loss.consistency": ["0.1", "10"], "train.epochs": ["2", "3"]}
    found = matrix(["ped2", "avenue"], ["amsrc", "no-gate-add"], 2, {"train.batch": "32"}, axes)
    assert len({fingerprint(e) for e in found}) == len(found) == 2 * 2 * 4 * 2
    seen = [(e.dataset, e.recipe, e.loss.consistency, e.train.epochs, e.seed) for e in found]
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
        (["amsrc", "no-gate-add"], {}, {"model.fusion": ["gate", "add"]}, "amsrc on ped2, no-gate-add on ped2"),
        (["amsrc"], {}, {"loss.consistency": ["1", "1.0"]}, "amsrc on ped2"),
    ],
)
def test_a_network_that_would_be_trained_twice_is_refused(
    recipes: list[str], changes: dict[str, str], axes: dict[str, list[str]], named: str
) -> None:
    with pytest.raises(ConfigError, match="one network would be trained twice: " + named):
        matrix(["ped2"], recipes, 1, changes, axes)


def test_a_bad_value_on_an_axis_is_refused_before_anything_starts() -> None:
    with pytest.raises(ConfigError, match=r"train\.epochs is 0"):
        matrix(["ped2"], ["amsrc"], 1, {}, {"train.epochs": ["4", "0"]})


def test_a_field_cannot_be_set_and_an_axis() -> None:
    with pytest.raises(ConfigError, match=r"loss\.gradient: set to one value and an axis"):
        matrix(["ped2"], ["amsrc"], 1, {"loss.gradient": "2"}, {"loss.gradient": ["1", "2"]})


def test_axes_are_read_from_text_in_their_order() -> None:
    assert parse_axes([]) == {}
    assert parse_axes(["loss.consistency=0.1,1,10", "model.fusion=gate,add"]) == {
        "loss.consistency": ["0.1", "1", "10"],
        "model.fusion": ["gate", "add"],
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
        (["cube.size=32,64"], "only fields of model, loss and train"),
        (["score.weight_f=0,1"], "only fields of model, loss and train"),
    ],
)
def test_a_wrong_axis_is_refused_with_the_reason(texts: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_axes(texts)


def test_planning_imports_neither_torch_nor_ray() -> None:
    script = "import sys, bench.grid, bench.cost; print([n for n in ('torch', 'ray', 'mlflow') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, text=True, capture_output=True, check=True)
    assert done.stdout.strip() == "[]"
