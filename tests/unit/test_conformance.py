"""The conformance suite: what every method of the catalogue must do, ours or a newcomer's.

Its entry is consistent, its settings are options, its scores have the right rows, type and direction, a seed determines
them, weights survive saving and loading, a training that was killed ends with the same bits, and two workers learn what
one does.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as processes

from amsrc.errors import ConfigError
from amsrc.store import SPLITS, CubeStore
from bench.evaluation.evaluate import evaluate, rows_of, score_rows
from bench.experiment.config import Experiment, check, derive, dump, flatten, load, override
from bench.experiment.recipes import RECIPES, build
from bench.methods.catalogue import METHODS
from bench.methods.interface import Method
from bench.methods.reader import Reader
from bench.records.run_folder import claim, history, is_trained, weights
from bench.training import checkpoint
from bench.training.launch import fit
from bench.training.loop import Job, worker_loop
from bench.training.scoring import Scorer
from bench.training.scoring import build as build_learner
from tests.cubes_made import SIZE, Killed, write_store

CPU = torch.device("cpu")
LEARNED = [name for name, method in METHODS.items() if method.learns]
BY_EPOCHS = [name for name, method in METHODS.items() if method.phases]
SMALL = {"width": 2, "code": 3, "components": 2, "directions": 4}
"""What these settings of any method are while it is tested."""


def small(name: str, seed: int = 0, **train: Any) -> Experiment:
    """The first recipe of a method, shrunk to a second."""
    (recipe, *_) = (key for key, recipe in RECIPES.items() if recipe.build("toy-ped2", 0).method == name)
    e = build(recipe, "toy-ped2", seed)
    shrunk = {
        group: {field: SMALL[field] for field in values if field in SMALL}
        for group, values in dump(e)["settings"].items()
    }
    budget = {"epochs": 2, "batch": 16, "score_every": 1, "precision": "fp32", "held_out": 0.0, **train}
    return derive(e, cube={"size": SIZE}, train=budget, **{group: fields for group, fields in shrunk.items() if fields})


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("conformance")


@pytest.fixture(scope="module")
def store(home: Path) -> CubeStore:
    """The cubes of all these experiments: their cube settings are the same."""
    return write_store(home, small("amsrc"))


# -- the entry -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_an_entry_is_consistent(method: Method) -> None:
    assert METHODS[method.name] is method
    assert (method.build is None) != (method.score is None), "a learner, or a function of a split"
    assert method.learns == (method.build is not None)
    assert not method.learns or method.unit == "cube", "a learner scores cubes"
    assert dataclasses.is_dataclass(method.config)
    settings = method.config()
    assert settings == method.config() and hash(settings) == hash(method.config()), "settings are a frozen value"
    assert method.check(settings) == [], "the defaults are allowed"
    parts = method.parts(settings)
    assert parts and len(set(parts)) == len(parts)
    assert all(part and not set(part) & set("./ ,=") for part in parts), "parts are columns, keys and names of metrics"
    assert method.effective(method.effective(settings)) == method.effective(settings)
    assert len(set(method.phases)) == len(method.phases)
    assert all(text.endswith(".") for text in method.deviations)
    e = small(method.name)
    for name, ends in method.space.items():
        assert isinstance(flatten(e)[name], float) and name.partition(".")[0] in dump(e)["settings"]
        assert ends[0] < ends[1] and all(override(e, {name: repr(end)}) for end in ends)


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_settings_are_groups_of_options_that_enter_the_fingerprint(method: Method) -> None:
    groups = {field.name for field in dataclasses.fields(method.config)}
    assert not groups & {field.name for field in dataclasses.fields(Experiment)}
    e = small(method.name)
    check(e)
    assert load(json.loads(json.dumps(dump(e)))) == e
    known = flatten(e)
    for group in groups:
        names = [name for name in known if name.startswith(f"{group}.")]
        assert names, f"{group} has no fields"
        for name in names:
            value = known[name]
            same = ",".join(map(repr, value)) if isinstance(value, list) else str(value)
            assert override(e, {name: same}) == e
    with pytest.raises(ConfigError, match=r"model\.nonsense"):
        override(e, {"model.nonsense": "1"})


@pytest.mark.parametrize("name", METHODS)
def test_a_method_has_a_recipe_on_every_data_set(name: str) -> None:
    recipes = [recipe for recipe in RECIPES if build(recipe, "ped2").method == name]
    assert recipes
    for recipe in recipes:
        for dataset in ("ped2", "avenue", "shanghaitech", "toy-ped2"):
            check(build(recipe, dataset))


# -- the scores ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
def test_scores_have_a_finite_value_a_row_and_part(name: str, store: CubeStore, home: Path) -> None:
    e = small(name)
    if e.learns:
        fit(e, store, home)
    found, _ = score_rows(e, store, claim(e, store, home))
    for split in SPLITS:
        scores = getattr(found, split)
        assert tuple(scores) == e.parts
        for values in scores.values():
            assert values.shape == (len(rows_of(e, getattr(store, split))),)
            assert values.dtype == np.float32
            assert np.isfinite(values).all()


@pytest.mark.parametrize("name", METHODS)
def test_a_method_goes_from_its_store_to_a_record(name: str, store: CubeStore, home: Path) -> None:
    e = small(name)
    if e.learns:
        fit(e, store, home)
    record = evaluate(e, store, home, home / "results")
    assert record.status == "done" and record.learns == e.learns
    assert list(record.parts) == list(e.parts)
    assert record.rules["paper"]["auroc"] == pytest.approx(record.metrics["auroc"])
    assert list(record.rules["oracle"]["weights"]) == list(e.parts)
    assert bool(record.fusion) == (len(e.parts) == 2)
    assert [line["epoch"] for line in record.epochs] == list(range(1, e.epochs + 1))


@pytest.mark.parametrize("name", LEARNED)
def test_higher_is_more_abnormal(name: str, store: CubeStore, home: Path) -> None:
    """Noise that moves ten times as fast as anything seen is worse than what was trained on, by some part."""
    e = small(name, epochs=6, learning_rate=1e-3)
    scorer = Scorer(e, checkpoint.load(e, fit(e, store, home), CPU), CPU)
    rows = np.arange(24)
    frames, flows = store.train.frames(rows), store.train.flows(rows)
    noise = np.random.default_rng(0).integers(0, 256, frames.shape, np.uint8)
    usual, unusual = scorer.made(frames, flows), scorer.made(noise, (flows * 10).astype(np.float16))
    assert any(np.median(unusual[part]) > np.max(usual[part]) for part in e.parts)


@pytest.mark.parametrize("name", METHODS)
def test_the_seed_determines_the_scores(name: str, store: CubeStore, tmp_path: Path) -> None:
    found = []
    for folder in ("one", "again"):
        e = small(name, seed=3)
        if e.learns:
            fit(e, store, tmp_path / folder)
        found.append(score_rows(e, store, claim(e, store, tmp_path / folder))[0])
    for part in found[0].test:
        assert found[0].test[part].tobytes() == found[1].test[part].tobytes()


@pytest.mark.parametrize("name", BY_EPOCHS)
def test_another_seed_starts_from_other_weights(name: str) -> None:
    first, other = (build_learner(small(name, seed=seed), CPU).networks.state_dict() for seed in (0, 1))
    assert any(not torch.equal(first[key], other[key]) for key in first)


@pytest.mark.parametrize("name", [name for name in BY_EPOCHS if "model.channels" in flatten(small(name))])
def test_colour_cubes_need_as_many_channels_of_the_network(name: str, store: CubeStore, home: Path) -> None:
    e = override(small(name), {"model.channels": "1"})
    with pytest.raises(ConfigError, match=r"model\.channels is 1, the cubes have 3\. Set it to 3"):
        fit(e, store, home / "channels")


# -- training ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LEARNED)
def test_weights_survive_saving_and_loading(name: str, store: CubeStore, home: Path) -> None:
    e = small(name)
    folder = fit(e, store, home)
    learner = checkpoint.load(e, folder, CPU)
    rows = Reader(store.test, CPU).only(np.arange(20))
    before = Scorer(e, learner, CPU)(rows)
    checkpoint.finish(home / "copied" / name, learner.networks)
    again = build_learner(e, CPU)
    from safetensors.torch import load_file

    again.networks.load_state_dict(load_file(weights(home / "copied" / name)))
    after = Scorer(e, again, CPU)(rows)
    for part in e.parts:
        assert before[part].tobytes() == after[part].tobytes()


@pytest.mark.parametrize("name", BY_EPOCHS)
def test_a_killed_training_resumes_to_the_same_bits(name: str, store: CubeStore, tmp_path: Path) -> None:
    e = small(name, epochs=3)
    straight = fit(e, store, tmp_path / "straight")

    def die(line: Any) -> None:
        if line["epoch"] == 1:
            raise Killed

    with pytest.raises(Killed):
        fit(e, store, tmp_path / "killed", report=die)
    killed = fit(e, store, tmp_path / "killed")
    assert weights(killed).read_bytes() == weights(straight).read_bytes()
    assert [line["restarts"] for line in history(killed)] == [0] + [1] * (e.epochs - 1)


def _work(rank: int, meeting: str, experiment: Experiment, store: Path, home: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    opened = CubeStore(store)
    folder = claim(experiment, opened, home)
    worker_loop(Job(experiment, store, folder, "code"), CPU, lambda line: None)
    dist.destroy_process_group()


@pytest.mark.parametrize("name", BY_EPOCHS)
def test_two_workers_learn_what_one_does(name: str, store: CubeStore, tmp_path: Path) -> None:
    """Losses equal up to the order of sums: gradients and BatchNorm are those of the whole batch."""
    e = small(name, learning_rate=1e-4)
    alone = history(fit(e, store, tmp_path / "alone"))
    home = tmp_path / "together"
    claim(e, store, home)
    processes.spawn(_work, (str(tmp_path / "meeting"), e, store.path, home), nprocs=2)
    (folder,) = (home / "runs").iterdir()
    assert is_trained(folder)
    together = history(folder)
    assert [line["workers"] for line in together] == [2] * e.epochs
    assert [line["loss"] for line in together] == pytest.approx([line["loss"] for line in alone], rel=2e-3)
