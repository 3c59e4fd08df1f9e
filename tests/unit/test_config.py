"""The experiment as a value: same value, same fingerprint; wrong names and values refused with a way out."""

import json
from dataclasses import replace
from typing import Any

import pytest

from amsrc.errors import ConfigError, unknown
from bench.experiment.config import (
    Experiment,
    check,
    cube_key,
    derive,
    dump,
    fingerprint,
    flatten,
    load,
    override,
    run_key,
    training_key,
)
from bench.experiment.recipes import RECIPES, build, recipe_of
from bench.experiment.specs import DATASETS
from bench.methods.interface import NoSettings
from bench.methods.settings import ConvAeConfig, VelocityGmmConfig
from tests.messages import error_naming

AMSRC = override(build("amsrc", "ped2"), {})
VELOCITY = override(build("velocity-gmm", "ped2"), {})
CONV = override(build("conv-ae", "ped2"), {})
TRIVIAL = override(build("null-flow", "ped2"), {})

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
    assert (baseline.settings.model.fusion, baseline.settings.loss.consistency) == ("none", 0)
    assert (baseline.parts, baseline.score.weights) == (("prediction",), (1.0,))
    assert build("amsrc-small", "avenue").settings.model.width == 16
    assert build("amsrc-paper-loss", "shanghaitech").settings.loss.consistency == 10


def test_every_recipe_weighs_the_parts_of_its_method() -> None:
    parts = {recipe: build(recipe, "avenue").parts for recipe in RECIPES}
    assert parts["amsrc"] == parts["no-gate-add"] == parts["amsrc-small"] == ("consistency", "prediction")
    assert parts["baseline"] == parts["baseline-small"] == ("prediction",)
    assert (parts["velocity-gmm"], parts["conv-ae"], parts["conv-ae-flow"]) == (
        ("velocity",),
        ("reconstruction",),
        ("reconstruction",),
    )
    assert (parts["null-flow"], parts["null-boxes"]) == (("flow-magnitude",), ("box-count",))
    assert build("amsrc", "avenue").score.weights == (0.2, 0.8)


def test_what_is_learned_and_for_how_many_epochs_is_the_methods_to_say() -> None:
    about = {e.recipe: (e.learns, e.epochs) for e in (AMSRC, VELOCITY, CONV, TRIVIAL)}
    assert about == {
        "amsrc": (True, 60),
        "velocity-gmm": (True, 0),
        "conv-ae": (True, 100),
        "null-flow": (False, 0),
    }
    assert AMSRC.learned_method.name == "amsrc"
    with error_naming(ConfigError, "null-flow", "evaluate"):
        _ = TRIVIAL.learned_method


def test_the_tables_know_of_each_recipe_what_kind_of_row_it_is() -> None:
    for name, recipe in RECIPES.items():
        experiment = build(name, "ped2")
        assert (recipe.kind == "trivial") == (not experiment.learns)
        assert (recipe.kind == "ablation") == (recipe.of is not None)
        assert recipe.of is None or RECIPES[recipe.of].kind == "method"
        assert recipe.of is None or recipe.small == RECIPES[recipe.of].small
        assert recipe.small == name.endswith("-small")
        assert recipe.about.endswith(".") and recipe.title
    assert [name for name, recipe in RECIPES.items() if recipe.yardstick] == ["null-flow"]


def test_of_an_unknown_recipe_its_name_is_all_that_is_known() -> None:
    found = recipe_of("their-method")
    assert (found.title, found.kind, found.of, found.quoted_as) == ("their-method", "method", None, None)
    assert not (found.small or found.content_free or found.undefined or found.yardstick)
    with error_naming(ConfigError, "their-method"):
        found.build("ped2", 0)
    assert recipe_of("amsrc") is RECIPES["amsrc"]


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
    assert fingerprint(AMSRC) == "12566bc5c205"
    assert run_key(AMSRC) == "960f00a598d7"
    assert cube_key(AMSRC) == cube_key(VELOCITY) == "9f719082f379"
    assert (fingerprint(VELOCITY), run_key(VELOCITY)) == ("fdbdc22ecea1", "92aa26c475c0")


def test_a_changed_field_anywhere_changes_the_fingerprint() -> None:
    changed = {
        "seed": "1",
        "label_set": "intervals",
        "partial": "true",
        "cube.boxes.grow_px": "3",
        "cube.flow.preset": "fast",
        "model.flow_scale": "1,1",
        "loss.gradient": "0.5",
        "train.epochs": "61",
        "score.weights": "1,0.02",
        "score.standardise": "min-max",
        "score.median_padding": "zero",
        "score.empty_frame": "lowest",
    }
    fingerprints = {fingerprint(override(AMSRC, {name: value})) for name, value in changed.items()}
    assert len(fingerprints | {fingerprint(AMSRC)}) == len(changed) + 1
    assert fingerprint(override(TRIVIAL, {"method": "noise"})) != fingerprint(TRIVIAL)


@pytest.mark.parametrize(
    "changes",
    [
        {"score.weights": "0.3,0.7"},
        {"score.standardise": "min-p99.9"},
        {"score.median_frames": "1"},
        {"recipe": "another-name"},
        {"label_set": "intervals"},
    ],
    ids=["weights", "standardising", "smoothing", "recipe", "labels"],
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


# What would be trained the same


def test_where_all_has_an_effect_the_training_is_the_run() -> None:
    assert training_key(AMSRC) == run_key(AMSRC)
    assert training_key(override(AMSRC, {"loss.consistency": "3"})) != training_key(AMSRC)
    assert training_key(override(AMSRC, {"score.weights": "0.5,0.5"})) == training_key(AMSRC)


def test_without_a_motion_stream_the_weight_of_consistency_trains_nothing_else() -> None:
    baseline = override(build("baseline", "ped2"), {})
    other = override(baseline, {"loss.consistency": "5"})
    assert run_key(other) != run_key(baseline)
    assert training_key(other) == training_key(baseline)
    assert training_key(override(baseline, {"loss.gradient": "5"})) != training_key(baseline)


def test_what_trains_nothing_is_the_same_under_any_budget() -> None:
    other = override(TRIVIAL, {"train.epochs": "3", "train.held_out": "0"})
    assert run_key(other) != run_key(TRIVIAL)
    assert training_key(other) == training_key(TRIVIAL)
    assert training_key(override(TRIVIAL, {"method": "noise"})) != training_key(TRIVIAL)


@pytest.mark.parametrize("name", ["train.epochs", "train.learning_rate", "train.decay_epochs", "train.score_every"])
def test_a_closed_form_knows_no_epochs(name: str) -> None:
    assert training_key(override(VELOCITY, {name: "1"})) == training_key(VELOCITY)


@pytest.mark.parametrize(("name", "text"), [("train.held_out", "0.2"), ("model.components", "3"), ("seed", "1")])
def test_a_closed_form_depends_on_what_it_is_fitted_to(name: str, text: str) -> None:
    assert training_key(override(VELOCITY, {name: text})) != training_key(VELOCITY)


# Deriving


def test_deriving_reaches_the_groups_of_the_method_and_the_experiments_own_at_once() -> None:
    found = derive(
        AMSRC, model={"width": 8}, loss={"form": "paper"}, train={"epochs": 3}, score={"weights": (1.0, 1.0)}
    )
    assert flatten(found) == flatten(AMSRC) | {
        "model.width": 8,
        "loss.form": "paper",
        "train.epochs": 3,
        "score.weights": [1.0, 1.0],
    }
    assert AMSRC.settings.model.width == 64, "a copy"
    assert derive(VELOCITY, model={"components": 3}).settings.model.components == 3
    assert derive(AMSRC) == AMSRC


# Overriding


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("train.epochs", "7", 7),
        ("settings.loss.consistency", "1e1", 10.0),
        ("settings.model.fusion", "concat", "concat"),
        ("settings.model.flow_scale", "1.5,2", (1.5, 2.0)),
        ("cube.boxes.provider", "file", "file"),
        ("score.weights", "1,2e-1", (1.0, 0.2)),
        ("score.standardise", "min-p99.9", "min-p99.9"),
    ],
)
def test_text_becomes_a_value_of_the_fields_type(name: str, text: str, value: object) -> None:
    found: Any = override(AMSRC, {name.removeprefix("settings."): text})
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
        ("method", "amscr", r"unknown method 'amscr'; did you mean: amsrc\?"),
        ("settings.model.width", "1", r"unknown field 'settings.model.width'; did you mean: model.width"),
        ("score.weights", "1,much", r"score.weights.1: .*number.*'much'"),
        ("score.standardise", "rank", r"score.standardise: .*'z-score', 'min-max' or 'min-p99.9'.*'rank'"),
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
    ],
)
def test_values_that_make_no_sense_are_refused(name: str, text: str, allowed: str) -> None:
    with pytest.raises(ConfigError, match=rf"{name} is '?{text}.*; allowed: .*{allowed}"):
        override(AMSRC, {name: text})


def test_all_wrong_values_are_named_at_once() -> None:
    with pytest.raises(ConfigError, match=r"cube.size is 9; .*; train.epochs is 0; "):
        override(AMSRC, {"train.epochs": "0", "cube.size": "9"})


@pytest.mark.parametrize("text", ["-1,1", "1,-0.5"])
def test_no_part_counts_less_than_nothing(text: str) -> None:
    with error_naming(ConfigError, "score.weights", str([float(weight) for weight in text.split(",")]), "0 or more"):
        override(AMSRC, {"score.weights": text})


def test_one_of_the_parts_must_count() -> None:
    with error_naming(ConfigError, "score.weights is 0,0"):
        override(AMSRC, {"score.weights": "0,0"})


@pytest.mark.parametrize(
    ("experiment", "text", "parts"),
    [
        (AMSRC, "1", "consistency, prediction"),
        (AMSRC, "1,1,1", "consistency, prediction"),
        (VELOCITY, "1,2", "velocity"),
        (build("baseline", "ped2"), "1,2", "prediction"),
        (TRIVIAL, "1,2", "flow-magnitude"),
    ],
)
def test_weights_for_another_number_of_parts_are_refused_with_their_names(
    experiment: Experiment, text: str, parts: str
) -> None:
    with error_naming(ConfigError, f"score.weights is {text};", parts):
        override(experiment, {"score.weights": text})


def test_the_weights_follow_where_a_setting_takes_a_part_away() -> None:
    with error_naming(ConfigError, "score.weights is 1,0.01;", "prediction"):
        override(AMSRC, {"model.fusion": "none"})
    assert override(AMSRC, {"model.fusion": "none", "score.weights": "1"}).parts == ("prediction",)


# Settings of another method


def own_fields(experiment: Experiment) -> set[str]:
    return {name for name in flatten(experiment) if name.startswith(("model.", "loss.", "settings"))}


def test_a_method_has_the_fields_of_its_settings_and_no_others() -> None:
    assert own_fields(VELOCITY) == {"model.directions", "model.components"}
    assert own_fields(CONV) == {f"model.{name}" for name in ("input", "width", "code", "channels", "flow_scale")}
    assert own_fields(TRIVIAL) == set()
    assert isinstance(TRIVIAL.settings, NoSettings)


def test_the_settings_of_another_method_are_overridden_by_their_own_types() -> None:
    found = override(VELOCITY, {"model.components": "3", "train.held_out": "0.2"})
    assert isinstance(found.settings, VelocityGmmConfig)
    assert (found.settings.model.components, found.train.held_out) == (3, 0.2)
    found = override(CONV, {"model.input": "flows", "model.flow_scale": "2,3"})
    assert isinstance(found.settings, ConvAeConfig)
    assert (found.settings.model.input, found.settings.model.flow_scale) == ("flows", (2.0, 3.0))


@pytest.mark.parametrize(
    ("experiment", "name", "text", "pieces"),
    [
        (VELOCITY, "model.componnets", "3", ["'model.componnets'", "model.components"]),
        (VELOCITY, "loss.consistency", "3", ["'loss.consistency'"]),
        (CONV, "model.with", "3", ["'model.with'", "model.width"]),
        (TRIVIAL, "model.width", "3", ["'model.width'"]),
        (VELOCITY, "model.components", "few", ["model.components", "integer", "'few'"]),
        (VELOCITY, "model.directions", "65", ["model.directions is 65", "1 to 64"]),
        (CONV, "model.code", "0", ["model.code is 0", "1 to 4096"]),
        (CONV, "model.input", "sound", ["model.input", "'frames'", "'flows'", "'sound'"]),
        (AMSRC, "method", "velocity-gmm", ["model.fusion", "loss"]),
    ],
)
def test_what_another_methods_settings_do_not_allow_is_refused(
    experiment: Experiment, name: str, text: str, pieces: list[str]
) -> None:
    with error_naming(ConfigError, *pieces):
        override(experiment, {name: text})


# Loading


@pytest.mark.parametrize("place", ["surprise", "loss.surprise", "cube.boxes.surprise"])
def test_loading_refuses_a_field_that_is_not_known(place: str) -> None:
    data = node = dump(AMSRC)
    *path, last = place.split(".")
    for part in ["settings", *path] if path and path[0] == "loss" else path:
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
    data = dump(build("velocity-gmm", "avenue"))
    del data["settings"]
    assert load(data) == build("velocity-gmm", "avenue"), "the defaults of its own method"


@pytest.mark.parametrize(
    ("changes", "pieces"),
    [
        ({"method": "velocity-gmn"}, ["'velocity-gmn'", "velocity-gmm"]),
        ({"settings": {"model": {"width": 2}}}, ["model.width", "got 2"]),
        ({"settings": {"loss": {}}}, ["loss"]),
        ({"settings": 3}, ["settings", "got 3"]),
    ],
)
def test_loading_refuses_settings_that_its_method_has_not(changes: dict[str, Any], pieces: list[str]) -> None:
    with error_naming(ConfigError, *pieces):
        load(dump(VELOCITY) | changes)
