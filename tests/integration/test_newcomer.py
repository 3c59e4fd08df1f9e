"""A method that no file of the program knows goes the whole way, from the store to tables, page and MLflow.

It is as unlike AMSRC as the interface allows: two phases, two turns a step, a closed form after them, three parts of
its score, and a setting of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as processes
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from amsrc.store import CubeStore
from bench import ROOT
from bench.data.prepare import prepare
from bench.data.stores import Sources, store_path
from bench.data.toy import render_one
from bench.evaluation.evaluate import evaluate
from bench.experiment import recipes
from bench.experiment.config import Experiment, derive, fingerprint, override
from bench.experiment.recipes import Recipe
from bench.methods import catalogue
from bench.methods.interface import Method, Task
from bench.methods.reader import Batch, Reader
from bench.page import report
from bench.records.records import read_all
from bench.records.run_folder import claim, history, read_epochs, weights
from bench.sweeps.grid import Cell
from bench.sweeps.run import evidence
from bench.tables import tables
from bench.tracking.runs import open_tracker
from bench.training.launch import fit
from bench.training.loop import Job, worker_loop
from tests.cubes_made import SIZE, Killed, write_store

NAME = "grey-and-speed"
PARTS = ("grey", "speed", "rarity")


@dataclass(frozen=True, kw_only=True)
class Model:
    hidden: int = 3


@dataclass(frozen=True, kw_only=True)
class Settings:
    model: Model = field(default_factory=Model)


class GreyAndSpeed:
    """Predicts a cube's mean grey from its speed, and its speed from its grey; then measures how rare its speed is."""

    def __init__(self, task: Task) -> None:
        hidden = task.settings.model.hidden

        def network() -> nn.Module:
            return nn.Sequential(nn.Linear(1, hidden), nn.Tanh(), nn.Linear(hidden, 1))

        self.networks = nn.ModuleDict({"grey": network(), "speed": network(), "rarity": nn.Module()})
        for name in ("mean", "spread"):
            self.networks["rarity"].register_buffer(name, torch.zeros(()))
        self.networks.to(task.device)

    def begin(self, phase: str) -> dict[str, Optimizer]:
        turns = ("grey",) if phase == "first" else ("grey", "speed")
        return {turn: SGD(self.networks[turn].parameters(), lr=0.01) for turn in turns}

    def losses(self, networks: Mapping[str, nn.Module], batch: Batch, turn: str) -> dict[str, Tensor]:
        given = _features(batch)
        other = "speed" if turn == "grey" else "grey"
        error = (networks[turn](given[other]) - given[turn]).square().mean()
        return {f"{turn} error": error, "loss": error}

    def fit(self, train: Reader) -> None:
        speeds = torch.cat([_features(batch)["speed"] for batch in train.batches()])
        self.networks["rarity"].mean.copy_(speeds.mean())
        self.networks["rarity"].spread.copy_(speeds.std())

    def scores(self, networks: Mapping[str, nn.Module], batch: Batch) -> dict[str, Tensor]:
        given, rarity = _features(batch), networks["rarity"]
        return {
            "grey": (networks["grey"](given["speed"]) - given["grey"]).abs()[:, 0],
            "speed": (networks["speed"](given["grey"]) - given["speed"]).abs()[:, 0],
            "rarity": ((given["speed"] - rarity.mean) / rarity.spread).abs()[:, 0],
        }

    def shown(self, networks: Mapping[str, nn.Module], batch: Batch) -> dict[str, Tensor]:
        return {}


def _features(batch: Batch) -> dict[str, Tensor]:
    """(B, 1) each."""
    grey = batch.frames.float().flatten(1).mean(1, keepdim=True) / 255
    return {"grey": grey, "speed": batch.flows.float().abs().flatten(1).mean(1, keepdim=True)}


METHOD = Method(
    name=NAME,
    parts=lambda _: PARTS,
    config=Settings,
    phases=("first", "second"),
    fits=True,
    deviations=("It is nobody's.",),
    build=GreyAndSpeed,
)


def recipe(dataset: str, seed: int = 0) -> Experiment:
    """A newcomer's row."""
    base = derive(
        recipes.amsrc(dataset, seed),
        train={"epochs": 2, "batch": 16, "learning_rate": 0.01, "score_every": 1, "held_out": 0.5},
        score={"weights": (1.0, 1.0, 2.0), "standardise": "min-p99.9", "empty_frame": "lowest"},
    )
    return replace(base, recipe=NAME, method=NAME, settings=Settings())


@pytest.fixture
def newcomer(monkeypatch: pytest.MonkeyPatch) -> Iterator[Experiment]:
    """Put it into the catalogue and among the recipes, as a line in each would."""
    monkeypatch.setitem(catalogue.METHODS, NAME, METHOD)
    monkeypatch.setitem(recipes.RECIPES, NAME, Recipe(build=recipe, title="Grey and speed"))
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield override(derive(recipes.build(NAME, "toy-ped2"), cube={"size": SIZE}), {"model.hidden": "4"})
    torch.set_num_threads(before)


@pytest.mark.usefixtures("ray_cluster")
def test_a_newcomers_method_goes_the_whole_way(newcomer: Experiment, tmp_path: Path) -> None:
    e, home, results = newcomer, tmp_path / "home", tmp_path / "results"
    render_one("toy-ped2", tmp_path / "data")
    prepare(e, Sources(tmp_path / "data"), home)
    store = CubeStore(store_path(home, e))
    folder = fit(e, store, home)
    lines = history(folder)
    assert [line["phase"] for line in lines] == ["first", "first", "second", "second"]
    assert "speed error" not in lines[1] and "speed error" in lines[2]

    record = evaluate(e, store, home, results)
    assert (record.fingerprint, record.status, record.learns) == (fingerprint(e), "done", True)
    assert tuple(record.parts) == PARTS and record.parts["rarity"] is not None and record.parts["rarity"] > 0.9
    assert record.fusion == {}, "the curve is of two parts"
    assert record.rules["paper"]["weights"] == pytest.approx({"grey": 0.25, "speed": 0.25, "rarity": 0.5})
    oracle = record.rules["oracle"]
    assert oracle["auroc"] >= max(value for value in record.parts.values() if value is not None) - 1e-9
    assert sum(oracle["weights"].values()) == pytest.approx(1)
    assert record.rules["label-free"]["pseudo_auroc"] is not None
    scored = [set(line.get("parts", ())) for line in record.epochs]
    assert scored == [set(), set(), set(PARTS), set(PARTS)], "in the last phase alone"

    tables.write(results)
    assert "Grey and speed, cube.size=16, model.hidden=4" in (results / "tables" / "table1.md").read_text()
    metrics = (results / "tables" / "table3.md").read_text()
    assert re.search(r"grey \d+\.\d\d, speed \d+\.\d\d, rarity \d+\.\d\d", metrics)
    page, size = report.write(results, tmp_path / "page", {})
    assert "Grey and speed" in page.read_text() and size > 10_000

    tracker = open_tracker(home, None)
    what = partial(evidence, Cell(e, store.path), record, home, results)
    run_id = tracker.log_cell(tracker.start_sweep("newcomer", {}), record, what)
    assert run_id is not None, tracker.missed
    logged = tracker._store.client.get_run(run_id).data
    assert logged.metrics["auroc"] == pytest.approx(record.metrics["auroc"])
    assert any("rarity" in name for name in logged.metrics)
    assert logged.params["model.hidden"] == "4"
    (model,) = tracker._store.client.search_logged_models([tracker._store.experiment])
    program = mlflow.pytorch.load_model(model.artifact_location)
    rows = np.arange(5)
    frames, flows = torch.from_numpy(store.test.frames(rows)), torch.from_numpy(store.test.flows(rows))
    kept = pd.read_parquet(folder / "cubes.parquet").query("split == 'test'")
    for part, values in zip(PARTS, program(frames, flows), strict=True):
        np.testing.assert_allclose(
            values.detach().numpy(), kept[part].iloc[:5], rtol=0.05, atol=1e-2
        )  # bf16 in the record
    assert read_all(results) == [record]


@pytest.mark.parametrize("epoch", [1, 2, 3])
def test_two_phases_of_two_turns_resume_to_the_same_bits(newcomer: Experiment, tmp_path: Path, epoch: int) -> None:
    """Killed within a phase and between the two."""
    store = write_store(tmp_path, newcomer)
    straight = fit(newcomer, store, tmp_path / "straight")

    def die(line: Mapping[str, Any]) -> None:
        if line["epoch"] == epoch:
            raise Killed

    with pytest.raises(Killed):
        fit(newcomer, store, tmp_path / "killed", report=die)
    resumed = fit(newcomer, store, tmp_path / "killed")
    assert weights(resumed).read_bytes() == weights(straight).read_bytes()
    assert [line["restarts"] for line in history(resumed)] == [int(number > epoch) for number in range(1, 5)]
    for mine, theirs in zip(read_epochs(resumed), read_epochs(straight), strict=True):
        assert mine.statistics == theirs.statistics


def _work(rank: int, meeting: str, experiment: Experiment, store: Path, home: Path) -> None:
    catalogue.METHODS[NAME] = METHOD  # this is a process of its own
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    folder = claim(experiment, CubeStore(store), home)
    worker_loop(Job(experiment, store, folder, "code"), torch.device("cpu"), lambda line: None)
    dist.destroy_process_group()


def test_two_workers_train_two_phases_of_two_turns_as_one_does(newcomer: Experiment, tmp_path: Path) -> None:
    store, together = write_store(tmp_path, newcomer), tmp_path / "together"
    alone = fit(newcomer, store, tmp_path / "alone")
    processes.spawn(_work, (str(tmp_path / "meeting"), newcomer, store.path, together), nprocs=2)
    (folder,) = (together / "runs").iterdir()
    for mine, theirs in zip(history(folder), history(alone), strict=True):
        assert (mine["workers"], mine["phase"]) == (2, theirs["phase"])
        assert list(mine) == list(theirs)
        for name in ("loss", "grey error", "speed error"):
            assert mine.get(name, 0) == pytest.approx(theirs.get(name, 0), rel=1e-4)


def test_no_file_outside_methods_and_recipes_knows_a_methods_name() -> None:
    """Adding a method touches `bench/methods`, one recipe and `paper.csv`: nothing else asks which method it is."""
    names = {method.name for method in catalogue.METHODS.values() if method.learns} - {"amsrc"}  # the package's name
    names |= {"velocity", "reconstruction"}  # names of their parts
    asked = re.compile(rf"""method\s*(==|!=|in)\s*[("']|["']({"|".join(map(re.escape, sorted(names)))})["']""")
    own = {ROOT / "bench" / "experiment" / "recipes.py", ROOT / "bench" / "tables" / "tables.py"}  # groups of paper.csv
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in sorted((ROOT / "bench").rglob("*.py"))
        if path not in own and "methods" not in path.parts
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if asked.search(line) and not line.strip().startswith(("#", '"""'))
    ]
    assert found == []


def test_scores_of_one_part_and_of_three_are_fused_by_the_same_code(newcomer: Experiment, tmp_path: Path) -> None:
    """The newcomer's third part alone ranks frames as a method that has no other would."""
    store = write_store(tmp_path, newcomer)
    fit(newcomer, store, tmp_path)
    alone = derive(newcomer, score={"weights": (0.0, 0.0, 1.0)})
    record = evaluate(alone, store, tmp_path, tmp_path / "results")
    assert record.metrics["auroc"] == pytest.approx(record.parts["rarity"])
    assert np.isfinite(record.metrics["auroc"])
