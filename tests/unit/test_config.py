"""The experiment as a value: same value, same fingerprint; wrong names and values refused with a way out."""

import json
from dataclasses import replace
from typing import Any

import pytest

from amsrc.errors import ConfigError, unknown
from bench.experiment.config import check, cube_key, derive, dump, fingerprint, flatten, load, override, run_key
from bench.experiment.recipes import RECIPES, build
from bench.experiment.specs import DATASETS

AMSRC = override(build("amsrc", "ped2"), {})

# Recipes


@pytest.mark.parametrize("dataset", DATASETS)
@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_is_valid_and_survives_json(recipe: str, dataset: str) -> None:
    experiment = build(recipe, dataset, seed=3)
    check(experiment)
    assert (experiment.recipe, experiment.dataset, experiment.seed) == (recipe, dataset, 3)
    assert load(json.loads(json.dumps(dump(experiment)))) == experiment


def test_a_recipe_and_its_dump_have_one_fingerprint() -> None:
    """What a recipe builds and what the command line makes of it must find each other's files."""
    cells = [build(recipe, dataset) for recipe in RECIPES for dataset in DATASETS]
    changed = {
        (name, value)
        for cell in cells
        if fingerprint(load(dump(cell))) != fingerprint(cell)
        for name, value in flatten(cell).items()
        if repr(value) != repr(flatten(load(dump(cell)))[name])
    }
    assert not changed


def test_every_cell_has_its_own_fingerprint() -> None:
    cells = [build(recipe, dataset, seed) for recipe in RECIPES for dataset in DATASETS for seed in (0, 1)]
    assert len({fingerprint(cell) for cell in cells}) == len(cells)


def test_rows_of_table_2_differ_in_what_their_name_says() -> None:
    add, baseline = build("no-gate-add", "avenue"), build("baseline", "avenue")
    assert replace(derive(add, model={"fusion": "gate"}), recipe="amsrc") == build("amsrc", "avenue")
    assert (baseline.model.fusion, baseline.loss.consistency) == ("none", 0)
    assert (baseline.score.weight_f, baseline.score.weight_p) == (0, 1)
    assert build("amsrc-small", "avenue").model.width == 16
    assert build("amsrc-paper-loss", "shanghaitech").loss.consistency == 10


@pytest.mark.parametrize(
    ("recipe", "dataset", "message"),
    [
        ("amscr", "ped2", r"unknown recipe 'amscr'; did you mean: amsrc, .*\?"),
        ("amsrc", "ped3", r"unknown data set 'ped3'; did you mean: ped2, toy-ped2\?"),
        ("amsrc", "kitchen", r"unknown data set 'kitchen'; .*"),
    ],
)
def test_unknown_names_come_with_the_nearest(recipe: str, dataset: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(recipe, dataset)


def test_a_name_near_nothing_gets_all_that_are_known() -> None:
    assert unknown("fruit", "xyz", ["apple", "pear"]) == "unknown fruit 'xyz'; known: apple, pear."


# Fingerprints


def test_fingerprints_are_these() -> None:
    """They name records and folders that stand: when this fails, results can no longer be found by their value."""
    assert fingerprint(AMSRC) == "6e5d586da2c3"
    assert run_key(AMSRC) == "c0ab3588e001"
    assert cube_key(AMSRC) == "9f719082f379"


def test_a_changed_field_anywhere_changes_the_fingerprint() -> None:
    changed = {
        "seed": "1",
        "method": "flow-magnitude",
        "label_set": "intervals",
        "partial": "true",
        "cube.boxes.grow_px": "3",
        "cube.flow.preset": "fast",
        "model.flow_scale": "1,1",
        "loss.gradient": "0.5",
        "train.epochs": "61",
        "score.median_padding": "zero",
    }
    fingerprints = {fingerprint(override(AMSRC, {name: value})) for name, value in changed.items()}
    assert len(fingerprints | {fingerprint(AMSRC)}) == len(changed) + 1


@pytest.mark.parametrize(
    "changes",
    [
        {"score.weight_f": "0.3", "score.weight_p": "0.7"},
        {"score.median_frames": "1"},
        {"recipe": "another-name"},
        {"label_set": "intervals"},
    ],
    ids=["weights", "smoothing", "recipe", "labels"],
)
def test_what_comes_after_training_leaves_the_run_alone(changes: dict[str, str]) -> None:
    changed = override(AMSRC, changes)
    assert fingerprint(changed) != fingerprint(AMSRC)
    assert run_key(changed) == run_key(AMSRC)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seed", "1"),
        ("dataset", "avenue"),
        ("partial", "true"),
        ("cube.boxes.overlap", "0.7"),
        ("model.width", "32"),
        ("loss.consistency", "10"),
        ("train.batch", "64"),
    ],
)
def test_what_training_depends_on_changes_the_run(name: str, value: str) -> None:
    assert run_key(override(AMSRC, {name: value})) != run_key(AMSRC)


def test_cubes_depend_on_their_own_settings_alone() -> None:
    assert cube_key(override(build("baseline-small", "ped2", seed=5), {})) == cube_key(AMSRC)
    assert cube_key(override(AMSRC, {"cube.size": "16"})) != cube_key(AMSRC)
    assert cube_key(replace(AMSRC, partial=True)) != cube_key(AMSRC)


# Overriding


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("train.epochs", "7", 7),
        ("loss.consistency", "1e1", 10.0),
        ("model.fusion", "concat", "concat"),
        ("model.flow_scale", "1.5,2", (1.5, 2.0)),
        ("cube.boxes.provider", "file", "file"),
    ],
)
def test_text_becomes_a_value_of_the_fields_type(name: str, text: str, value: object) -> None:
    found: Any = override(AMSRC, {name: text})
    for part in name.split("."):
        found = getattr(found, part)
    assert found == value
    assert type(found) is type(value)


def test_overriding_copies_and_leaves_all_else_alone() -> None:
    before = flatten(AMSRC)
    after = flatten(override(AMSRC, {"loss.gradient": "2", "train.epochs": "3"}))
    assert flatten(AMSRC) == before
    assert {name for name in after if after[name] != before[name]} == {"loss.gradient", "train.epochs"}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("loss.consitency", "1", r"unknown field 'loss.consitency'; did you mean: loss.consistency"),
        ("loss", "1", r"unknown field 'loss'; did you mean: loss.form"),
        ("train.epochs", "many", r"train.epochs: .*integer.*'many'"),
        ("train.epochs", "2.5", r"train.epochs: .*integer.*'2.5'"),
        ("train.learning_rate", "nan", r"train.learning_rate: .*finite"),
        ("model.fusion", "gated", r"model.fusion: .*'gate', 'add', 'concat', 'appearance' or 'none'.*'gated'"),
        ("model.flow_scale", "1", r"model.flow_scale"),
        ("model.flow_scale", "1,2,3", r"model.flow_scale"),
        ("partial", "perhaps", r"partial: .*boolean.*'perhaps'"),
    ],
)
def test_wrong_names_and_types_are_refused(name: str, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        override(AMSRC, {name: text})


@pytest.mark.parametrize(
    ("name", "text", "allowed"),
    [
        ("seed", "-1", "0 or more"),
        ("label_set", "unofficial", "official or intervals"),
        ("cube.frames", "1", "2 to 33"),
        ("cube.frames", "34", "2 to 33"),
        ("cube.size", "20", "a multiple of 8"),
        ("cube.size", "0", "a multiple of 8"),
        ("cube.boxes.confidence", "1", "0 to below 1"),
        ("cube.boxes.overlap", "0", "above 0, to 1"),
        ("model.width", "0", "1 to 1024"),
        ("model.channels", "2", "1 or 3"),
        ("train.epochs", "0", "1 or more"),
        ("train.batch", "1", r"2 or more \(BatchNorm\)"),
        ("train.learning_rate", "0", "above 0"),
        ("train.decay", "-0.8", "above 0"),
        ("train.decay_epochs", "0", "1 or more"),
        ("train.score_every", "-1", "0 or more"),
        ("score.skip_frames", "-1", "0 or more"),
        ("score.median_frames", "16", "odd"),
        ("score.median_frames", "-1", "odd"),
        ("loss.intensity", "-1", "0 or more"),
        ("loss.gradient", "-1", "0 or more"),
        ("loss.consistency", "-1", "0 or more"),
        ("loss.weight_penalty", "-1", "0 or more"),
        ("score.weight_f", "-1", "0 or more"),
        ("score.weight_p", "-1", "0 or more"),
    ],
)
def test_values_that_make_no_sense_are_refused(name: str, text: str, allowed: str) -> None:
    with pytest.raises(ConfigError, match=rf"{name} is '?{text}.*; allowed: .*{allowed}"):
        override(AMSRC, {name: text})


def test_all_wrong_values_are_named_at_once() -> None:
    with pytest.raises(ConfigError, match=r"cube.size is 9; .*; train.epochs is 0; "):
        override(AMSRC, {"train.epochs": "0", "cube.size": "9"})


def test_one_of_the_two_scores_must_count() -> None:
    with pytest.raises(ConfigError, match=r"weight_f and score.weight_p are both 0; at least one must count"):
        override(AMSRC, {"score.weight_f": "0", "score.weight_p": "0"})


# Loading


@pytest.mark.parametrize("place", ["surprise", "loss.surprise", "cube.boxes.surprise"])
def test_loading_refuses_a_field_that_is_not_known(place: str) -> None:
    data = node = dump(AMSRC)
    *path, last = place.split(".")
    for part in path:
        node = node[part]
    node[last] = 1
    with pytest.raises(ConfigError, match=rf"configuration: {place}: .*, got 1"):
        load(data)


def test_loading_needs_to_know_what_and_on_what() -> None:
    with pytest.raises(ConfigError, match=r"recipe: Field required.*dataset: Field required"):
        load({})


def test_loading_fills_in_what_an_older_dump_had_not() -> None:
    data = dump(AMSRC)
    del data["label_set"], data["cube"]["flow"]
    assert load(data) == AMSRC
