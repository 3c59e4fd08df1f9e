"""MLflow: what is logged where, that nothing is logged twice, and that a dead store costs no result."""

import json
import logging
import os
import shutil
import socket
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from bench.experiment.config import derive
from bench.experiment.recipes import RECIPES, build
from bench.methods.interface import Learner
from bench.methods.reader import Batch, Made, Reader
from bench.records.records import RunRecord
from bench.tracking.runs import Evidence, Tracker, open_tracker
from bench.training import scoring
from bench.training.scoring import Program, Scorer
from tests.results_made import record_of

CPU = torch.device("cpu")
LEARNING = [name for name, recipe in RECIPES.items() if recipe.build("toy-ped2", 0).learns and not recipe.small]
PER_VIDEO = pd.DataFrame({"video": ["01", "02"], "auroc": [None, 0.75]})
RULES = {
    "paper": {"auroc": 0.9, "epoch": 6, "weights": {"consistency": 0.99, "prediction": 0.01}},
    "oracle": {"auroc": 0.95, "epoch": 2, "weights": {"consistency": 0.25, "prediction": 0.75}},
    "crossfit": {
        "auroc": 0.93,
        "folds": [
            {"videos": ["01"], "selected_auroc": 0.96, "epoch": 2, "weights": {"consistency": 0.5, "prediction": 0.5}},
            {"videos": ["02"], "selected_auroc": 0.94, "epoch": 6, "weights": None},
        ],
    },
    "label-free": {
        "auroc": None,
        "epoch": 6,
        "weights": {"consistency": 0.5, "prediction": 0.5},
        "pseudo_auroc": None,
        "pseudo_auroc_by_kind": {},
    },
}
SHARES = [step / 1000 for step in range(1001)]
FUSION = {
    "part": "consistency",
    "share": SHARES,
    "auroc": [0.5 + share / 4 for share in SHARES],
    "best_share": 1.0,
    "best_auroc": 0.75,
    "own_share": 0.5,
    "own_auroc": 0.625,
}
MEASURED = {
    "metrics": {"auroc": 0.9, "macro_auroc": None},
    "parts": {"consistency": 0.7, "prediction": None},
    "epochs": [
        {"epoch": 1, "loss": 0.5, "precision": "fp32", "auroc": None},
        {
            "epoch": 2,
            "loss": 0.25,
            "precision": "fp32",
            "auroc": 0.8,
            "parts": {"consistency": 0.6, "prediction": None},
        },
    ],
    "timings_s": {"train": 12.5, "prepare": None},
    "git": {"sha": "07fe496", "dirty": False},
}


def a_record(recipe: str = "amsrc", dataset: str = "ped2", seed: int = 0, **changes: object) -> RunRecord:
    return record_of(build(recipe, dataset, seed), **MEASURED | changes)


def a_learner(seed: int = 0) -> Learner:
    """An untrained one of recipe `amsrc`, of two channels."""
    return scoring.build(derive(build("amsrc", "ped2", seed), model={"width": 2}), CPU)


def cubes(number: int) -> tuple[np.ndarray, np.ndarray]:
    """Frames and flows of grey cubes."""
    random = np.random.default_rng(0)
    frames = random.integers(0, 256, (number, 5, 1, 32, 32), np.uint8)
    return frames, random.normal(0, 2, (number, 4, 2, 32, 32)).astype(np.float16)


@pytest.fixture(scope="module")
def home(migrated: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("a home")  # the space is on purpose
    shutil.copy(migrated, home)
    return home


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each test runs in an empty folder and leaves no MLflow setting behind."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "environ", os.environ.copy())
    for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
        del os.environ[name]


@pytest.fixture
def tracker(home: Path) -> Tracker:
    return open_tracker(home)


def run_of(tracker: Tracker, run_id: str | None):  # type: ignore[no-untyped-def]
    assert run_id is not None, tracker.missed
    return tracker._store.client.get_run(run_id)


def test_a_cell_is_a_child_of_its_sweep_with_parameters_metrics_and_tags(tracker: Tracker) -> None:
    parent = tracker.start_sweep("first", {"seeds": "0 1"})
    record = a_record()
    run = run_of(tracker, tracker.log_cell(parent, record))

    assert run_of(tracker, parent).data.tags["seeds"] == "0 1"
    assert run.info.run_name == "amsrc on ped2, seed 0"
    assert (run.info.status, run.info.end_time - run.info.start_time) == ("FINISHED", 3_600_000)
    expected = {"mlflow.parentRunId": parent, "recipe": "amsrc", "dataset": "ped2", "seed": "0", "status": "done"}
    expected |= {"fingerprint": record.fingerprint, "git_sha": "07fe496", "git_dirty": "False"}
    assert run.data.tags.items() >= expected.items()
    assert run.data.params.items() >= {"train.batch": "128", "model.fusion": "gate"}.items()
    of_epochs = {"epoch/loss": 0.25, "epoch/auroc": 0.8, "epoch/part/consistency": 0.6}
    assert run.data.metrics == {"auroc": 0.9, "part/consistency": 0.7, "timings_s/train": 12.5, **of_epochs}
    history = tracker._store.client.get_metric_history(run.info.run_id, "epoch/loss")
    assert [(point.step, point.value) for point in history] == [(1, 0.5), (2, 0.25)]


def test_both_ends_of_the_interval_are_metrics_of_their_own(tracker: Tracker) -> None:
    for seed, ends in enumerate([[0.75, 0.95], None]):
        record = a_record(seed=10 + seed, metrics={"auroc": 0.9, "auroc_interval": ends})
        logged = run_of(tracker, tracker.log_cell(None, record)).data.metrics
        found = {name: value for name, value in logged.items() if name.startswith("auroc")}
        assert found == {"auroc": 0.9, **({} if ends is None else {"auroc_low": 0.75, "auroc_high": 0.95})}


def test_all_files_land_under_the_home_and_none_in_the_current_directory(
    tracker: Tracker, home: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    weights = tmp_path_factory.mktemp("run") / "model.safetensors"
    weights.write_bytes(b"weights")
    parent = tracker.start_sweep("files", {})
    run_id = tracker.log_cell(parent, a_record(seed=1), lambda: Evidence(weights=weights, scores_table=PER_VIDEO))
    tracker.finish_sweep(parent, "FINISHED", {"table1.md": "| a |\n|---|\n| 1 |", "table1.csv": "a\n1\n"})

    files = home / "mlartifacts" / str(run_id) / "artifacts"
    assert {path.name for path in files.iterdir()} == {"model.safetensors", "record.json", "per_video.json"}
    assert (home / "mlartifacts" / str(parent) / "artifacts" / "tables" / "table1.csv").read_text() == "a\n1\n"
    assert run_of(tracker, parent).data.tags["mlflow.note.content"].startswith("| a |")
    assert table_of(home, run_id) == {"columns": ["video", "auroc"], "data": [["01", None], ["02", 0.75]]}
    shown = json.loads(run_of(tracker, run_id).data.tags["mlflow.loggedArtifacts"])
    assert shown == [{"path": "per_video.json", "type": "table"}]
    assert (home / "mlflow.db").is_file()
    assert list(Path.cwd().iterdir()) == []


@pytest.mark.parametrize("recipe", LEARNING)
def test_the_logged_model_gives_the_parts_of_the_score_of_any_number_of_cubes(
    tracker: Tracker, home: Path, recipe: str
) -> None:
    import mlflow

    e = derive(build(recipe, "toy-ped2"), train={"precision": "fp32"})
    learner = scoring.build(e, CPU)
    learner.fit(Reader(Made(*cubes(40)), CPU))
    learner.networks.train()
    run = run_of(tracker, tracker.log_cell(None, record_of(e, **MEASURED), lambda: Evidence(learner)))

    assert learner.networks.training  # the caller's networks are left as they were
    assert mlflow.active_run() is None
    (output,) = run.outputs.model_outputs
    logged = tracker._store.client.get_logged_model(output.model_id)
    assert (str(logged.status), logged.source_run_id) == ("READY", run.info.run_id)
    assert {metric.key: metric.value for metric in logged.metrics} == {"auroc": 0.9, "part/consistency": 0.7}
    folder = home / "mlartifacts" / "models" / logged.model_id / "artifacts"
    signature = mlflow.models.Model.load(str(folder)).signature
    taken = [(each.name, each.type, each.shape) for each in signature.inputs]
    assert taken == [("frames", np.uint8, (-1, 5, 1, 32, 32)), ("flows", np.float16, (-1, 4, 2, 32, 32))]
    given = [(each.name, each.type, each.shape) for each in signature.outputs]
    assert given == [(part, np.float32, (-1,)) for part in e.parts]
    program = mlflow.pytorch.load_model(logged.artifact_location)
    for number in (1, 5):
        scores = program(*map(torch.from_numpy, cubes(number)))
        expected = Scorer(e, learner, CPU).made(*cubes(number))
        torch.testing.assert_close(list(scores), [torch.from_numpy(expected[part]) for part in e.parts])


def test_a_sweep_and_its_cells_are_opened_again_and_never_logged_twice(home: Path) -> None:
    record = a_record("no-gate-concat")
    evidence = Evidence(a_learner(), scores_table=PER_VIDEO)
    seen, asked = set(), []
    for seeds in ("0", "0 1"):
        tracker = open_tracker(home)
        parent = tracker.start_sweep("again", {"seeds": seeds})
        cell = tracker.log_cell(parent, record, lambda: asked.append("the learner") or evidence)
        assert run_of(tracker, parent).info.status == "RUNNING"
        tracker.finish_sweep(parent, "FINISHED", {})
        seen.add((parent, cell))
    assert len(seen) == 1
    assert asked == ["the learner"], "it is not loaded for a cell that is there"
    assert run_of(tracker, parent).data.tags["seeds"] == "0 1"
    run = run_of(tracker, cell)
    assert len(run.outputs.model_outputs) == 1
    assert len(tracker._store.client.get_metric_history(cell, "epoch/loss")) == 2


def test_a_network_that_was_not_there_before_is_added_to_its_cell(tracker: Tracker) -> None:
    record = a_record("no-gate-appearance")
    first = run_of(tracker, tracker.log_cell(None, record))
    again = run_of(tracker, tracker.log_cell(None, record, lambda: Evidence(a_learner())))
    assert (len(first.outputs.model_outputs), len(again.outputs.model_outputs)) == (0, 1)
    assert again.info.run_id == first.info.run_id


def test_a_cell_shows_what_the_rules_reach_and_the_curve_over_the_fusion_share(tracker: Tracker, home: Path) -> None:
    run = run_of(tracker, tracker.log_cell(None, a_record(seed=6, rules=RULES, fusion=FUSION)))
    by_rule = {name: value for name, value in run.data.metrics.items() if name.startswith("rule/")}
    assert by_rule == {"rule/paper": 0.9, "rule/oracle": 0.95, "rule/crossfit": 0.93}
    curve = tracker._store.client.get_metric_history(run.info.run_id, "fusion/auroc")
    assert {(point.step, point.value) for point in curve} == {(k * 10, 0.5 + k / 100 / 4) for k in range(101)}
    assert (home / "mlartifacts" / run.info.run_id / "artifacts" / "figures" / "fusion.png").stat().st_size > 1000
    assert run.data.tags["fusion/part"] == "consistency"
    assert run.data.tags["mlflow.note.content"].splitlines() == [
        "| rule | AUROC | epoch | weight of consistency | weight of prediction |",
        "| --- | --- | --- | --- | --- |",
        "| paper | 0.9000 | 6 | 0.990 | 0.010 |",
        "| oracle | 0.9500 | 2 | 0.250 | 0.750 |",
        "| crossfit | 0.9300 | 2, 6 | 0.500, - | 0.500, - |",
        "| label-free | - | 6 | 0.500 | 0.500 |",
    ]


def test_a_cell_of_one_part_shows_no_weights_and_one_without_epochs_is_fitted(tracker: Tracker) -> None:
    rules = {rule: {"auroc": 0.9, "epoch": 0, "weights": {"velocity": 1.0}} for rule in ("paper", "oracle")}
    keys = {"parts": {"velocity": 0.9}, "epochs": [], "rules": rules}
    record = a_record("velocity-gmm", "avenue", **keys)
    learner = scoring.build(build("velocity-gmm", "avenue"), CPU)
    run = run_of(tracker, tracker.log_cell(None, record, lambda: Evidence(learner)))
    table = ["| rule | AUROC | epoch |", "| --- | --- | --- |", "| paper | 0.9000 | 0 |", "| oracle | 0.9000 | 0 |"]
    assert run.data.tags["mlflow.note.content"].splitlines() == table
    version = tracker.register("oracle", record)
    about = tracker._store.client.get_model_version("amsrc-avenue", version)
    assert about.aliases == ["oracle"]
    assert about.tags["oracle/weights"] == "velocity 1"
    assert about.description.splitlines() == ["velocity-gmm on avenue, seed 0: as fitted.", "", *table]


def test_a_cell_has_the_figures_of_its_record_and_those_that_came_with_it(tracker: Tracker, home: Path) -> None:
    epochs = [{"epoch": number, "auroc": 0.5 + number / 10} for number in (1, 2)]
    evidence = Evidence(figures={"videos.png": b"\x89PNG"})
    run = tracker.log_cell(None, a_record(seed=8, epochs=epochs, fusion=FUSION), lambda: evidence)
    folder = home / "mlartifacts" / str(run) / "artifacts" / "figures"
    assert {path.name for path in folder.iterdir()} == {"fusion.png", "epochs.png", "videos.png"}
    assert tracker.add_figures(a_record(seed=8).fingerprint, {"errors.png": b"\x89PNG"}) == run
    assert (folder / "errors.png").read_bytes() == b"\x89PNG"
    assert tracker.add_figures("of no run", {"errors.png": b"\x89PNG"}) is None


def test_figures_alone_make_no_store(tmp_path: Path) -> None:
    assert open_tracker(tmp_path / "none").add_figures("0123", {"errors.png": b"\x89PNG"}) is None
    assert not (tmp_path / "none").exists()


def test_runs_are_found_by_the_fingerprints_of_their_records(migrated: Path, tmp_path: Path) -> None:
    assert open_tracker(tmp_path / "none").logged() == {}
    assert not (tmp_path / "none").exists(), "looking makes nothing"
    shutil.copy(migrated, tmp_path)
    tracker = open_tracker(tmp_path)
    parent = tracker.start_sweep("found", {})
    records = [a_record(seed=seed) for seed in range(3)]
    ids = {record.fingerprint: tracker.log_cell(parent, record) for record in records}
    assert open_tracker(tmp_path).logged() == ids


def test_a_cell_that_was_stopped_early_is_killed_and_says_why(tracker: Tracker) -> None:
    pruned = a_record(seed=7, status="pruned", error="stopped early by the scheduler", metrics={})
    run = run_of(tracker, tracker.log_cell(None, pruned))
    assert (run.info.status, run.data.tags["status"]) == ("KILLED", "pruned")
    assert run.data.tags["mlflow.note.content"] == "stopped early by the scheduler"
    assert run.data.metrics["epoch/auroc"] == 0.8


def test_a_sweep_keeps_its_plan_and_its_figures_and_an_interrupted_one_is_opened_again(
    tracker: Tracker, home: Path
) -> None:
    parent = tracker.start_sweep("planned", {})
    tracker.log_files(parent, {"plan.txt": "2 cells", "figures/landscape.png": b"\x89PNG"})
    tracker.finish_sweep(parent, "FINISHED", {"table1.md": "| a |"})
    tracker.start_sweep("planned", {})
    tracker.log_files(parent, {"plan.txt": "3 cells", "search.json": "{}"})
    tracker.finish_sweep(parent, "KILLED")

    files = home / "mlartifacts" / str(parent) / "artifacts"
    assert (files / "plan.txt").read_text() == "3 cells"
    assert (files / "figures" / "landscape.png").read_bytes() == b"\x89PNG"
    assert (files / "search.json").is_file()
    run = run_of(tracker, parent)
    assert (run.info.status, run.data.tags["mlflow.note.content"]) == ("KILLED", "| a |"), "its tables stay"
    assert tracker.start_sweep("planned", {}) == parent
    assert run_of(tracker, parent).info.status == "RUNNING"


def test_what_the_rules_pick_are_versions_of_the_data_sets_model_each_made_once(home: Path) -> None:
    import mlflow

    records = [a_record(dataset="toy-avenue", seed=seed, rules=RULES) for seed in range(2)]
    learners = [a_learner(seed) for seed in range(2)]
    picks = [("paper", 0), ("oracle", 1), ("crossfit", 1), ("label-free", 0)]
    for _ in range(2):
        tracker = open_tracker(home)
        for record, learner in zip(records, learners, strict=True):
            tracker.log_cell(None, record, lambda learner=learner: Evidence(learner))  # type: ignore[misc]
        versions = {rule: tracker.register(rule, records[seed]) for rule, seed in picks}
    assert versions == {"paper": "1", "oracle": "2", "crossfit": "2", "label-free": "1"}

    client = tracker._store.client
    assert len(client.search_model_versions("name = 'amsrc-toy-avenue'")) == 2
    oracle = client.get_model_version("amsrc-toy-avenue", "2")
    assert oracle.aliases == [], "oracle took epoch 2, crossfit 2 and 6; these are the weights of epoch 6"
    assert sorted(client.get_model_version("amsrc-toy-avenue", "1").aliases) == ["label-free", "paper"]
    assert oracle.tags == {
        "recipe": "amsrc",
        "dataset": "toy-avenue",
        "seed": "1",
        "fingerprint": records[1].fingerprint,
        "epoch": "6",
        "paper/auroc": "0.9",
        "paper/epoch": "6",
        "paper/weights": "consistency 0.99, prediction 0.01",
        "oracle/auroc": "0.95",
        "oracle/epoch": "2",
        "oracle/weights": "consistency 0.25, prediction 0.75",
        "crossfit/auroc": "0.93",
        "label-free/epoch": "6",
        "label-free/weights": "consistency 0.5, prediction 0.5",
    }
    assert oracle.description.startswith("amsrc on toy-avenue, seed 1: the weights after the last epoch, 6.\n")
    assert "| oracle | 0.9500 | 2 | 0.250 | 0.750 |" in oracle.description
    assert "Oracle took epoch 2. Crossfit took epoch 2, 6.\n" in oracle.description

    mlflow.set_tracking_uri(tracker.uri)
    try:
        program = mlflow.pytorch.load_model("models:/amsrc-toy-avenue@paper")
    finally:
        mlflow.set_tracking_uri(None)
    frames, flows = map(torch.from_numpy, cubes(3))
    frames = frames.expand(-1, -1, 3, -1, -1).contiguous()  # toy-avenue is in colour
    expected = Program(build("amsrc", "toy-avenue"), learners[0])(frames, flows)
    torch.testing.assert_close(list(program(frames, flows)), list(expected))


def test_an_alias_moves_to_the_network_of_a_new_measurement(tracker: Tracker) -> None:
    record = a_record(dataset="toy-shanghaitech", rules=RULES)
    for version, finished in enumerate(("2025-01-01T01:00:00+00:00", "2025-02-01T01:00:00+00:00"), 1):
        again = replace(record, finished=finished)
        tracker.log_cell(None, again, lambda: Evidence(a_learner()))
        assert tracker.register("paper", again) == str(version)
        named = tracker._store.client.get_model_version_by_alias("amsrc-toy-shanghaitech", "paper")
        assert str(named.version) == str(version)


def test_a_rule_is_an_alias_of_weights_that_gave_its_number_and_of_no_others(tracker: Tracker) -> None:
    """First oracle and crossfit take the last epoch, then, measured again, earlier ones."""
    last = {"auroc": 0.95, "epoch": 6, "weights": {"consistency": 0.25, "prediction": 0.75}}
    folds = [{"videos": ["01"], **last}, {"videos": ["02"], **last, "weights": {"consistency": 0.5, "prediction": 0.5}}]
    late = {**RULES, "oracle": last, "crossfit": {"auroc": 0.93, "folds": folds}}
    found = []
    for rules, finished in ((late, "2025-01-01T01:00:00+00:00"), (RULES, "2025-02-01T01:00:00+00:00")):
        record = a_record(dataset="toy-ped2", seed=7, rules=rules, finished=finished)
        tracker.log_cell(None, record, lambda: Evidence(a_learner()))
        version = {tracker.register(rule, record) for rule in rules}.pop()
        about = tracker._store.client.get_model_version("amsrc-toy-ped2", version)
        found.append((sorted(about.aliases), " took epoch " in about.description))
    assert found == [(["crossfit", "label-free", "oracle", "paper"], False), (["label-free", "paper"], True)]
    assert sorted(tracker._store.client.get_registered_model("amsrc-toy-ped2").aliases) == ["label-free", "paper"]


def test_a_rule_without_a_number_is_no_alias(tracker: Tracker) -> None:
    rules = {**RULES, "label-free": {"auroc": None, "epoch": None, "weights": None}}
    record = a_record(dataset="toy-ped2", seed=8, rules=rules)
    tracker.log_cell(None, record, lambda: Evidence(a_learner()))
    version = tracker.register("label-free", record)
    about = tracker._store.client.get_model_version("amsrc-toy-ped2", version)
    assert about.aliases == [] and "Label-free took" not in about.description


def test_a_cell_without_a_network_gets_no_version(tracker: Tracker) -> None:
    record = a_record("null-flow", seed=9)
    assert tracker.register("paper", record) is None
    tracker.log_cell(None, record)
    assert tracker.register("paper", record) is None
    assert (tracker.off, tracker.missed) == (False, [])


def table_of(home: Path, run_id: str | None):  # type: ignore[no-untyped-def]
    return json.loads((home / "mlartifacts" / str(run_id) / "artifacts" / "per_video.json").read_text())


def test_a_failed_cell_shows_its_error_until_a_later_run_succeeds(tracker: Tracker, home: Path) -> None:
    failed = a_record(seed=3, status="failed", error="RunError: the loss is not finite", metrics={}, epochs=[])
    run = run_of(tracker, tracker.log_cell(None, failed, lambda: Evidence(scores_table=PER_VIDEO)))
    assert (run.info.status, run.data.tags["mlflow.note.content"]) == ("FAILED", "RunError: the loss is not finite")

    done = a_record(seed=3, finished="2025-01-02T00:00:00+00:00")
    again = run_of(tracker, tracker.log_cell(None, done, lambda: Evidence(scores_table=PER_VIDEO)))
    assert again.info.run_id == run.info.run_id
    assert (again.info.status, again.data.tags["mlflow.note.content"]) == ("FINISHED", "")
    assert again.data.metrics["auroc"] == 0.9
    assert len(table_of(home, run.info.run_id)["data"]) == len(PER_VIDEO), "the table is replaced, not added to"


def test_a_cell_asked_for_by_another_sweep_moves_there(tracker: Tracker) -> None:
    old, new = tracker.start_sweep("old", {}), tracker.start_sweep("new", {})
    record = a_record(seed=4)
    cell = tracker.log_cell(old, record)
    assert tracker.log_cell(new, record) == tracker.log_cell(None, record) == cell
    assert run_of(tracker, cell).data.tags["mlflow.parentRunId"] == new


@pytest.mark.parametrize("name", ["it's late", 'a "b"'])
def test_a_sweep_may_have_quotes_in_its_name(tracker: Tracker, name: str) -> None:
    first = tracker.start_sweep(name, {})
    assert first is not None
    assert tracker.start_sweep(name, {}) == first


def test_the_user_is_told_the_command_and_the_page(tracker: Tracker, home: Path) -> None:
    command, page = tracker.where("abc").splitlines()
    assert f"mlflow ui --backend-store-uri 'sqlite:///{home}/mlflow.db' --host 127.0.0.1" in command
    assert page.endswith("http://127.0.0.1:5000/#/experiments/1/runs/abc?workflowType=machine_learning")
    assert tracker.where().endswith("/runs?workflowType=machine_learning")


def test_the_users_own_settings_are_kept(home: Path) -> None:
    os.environ |= {"MLFLOW_HTTP_REQUEST_TIMEOUT": "77", "MLFLOW_TRACKING_URI": "http://tracker.invalid"}
    assert open_tracker(home).uri == "http://tracker.invalid"
    assert open_tracker(home, "sqlite:///given.db").uri == "sqlite:///given.db"
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "77"
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"


def closed_port() -> int:
    with closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def a_dead_server(folder: Path) -> Tracker:
    return open_tracker(folder, f"http://user:secret@127.0.0.1:{closed_port()}")


def an_unwritable_home(folder: Path) -> Tracker:
    (folder / "file").write_text("")
    return open_tracker(folder / "file" / "home")


def a_damaged_database(folder: Path) -> Tracker:
    (folder / "mlflow.db").write_bytes(b"this is not a database at all, and long enough to show it" * 100)
    return open_tracker(folder)


def a_folder_for_a_database(folder: Path) -> Tracker:
    (folder / "mlflow.db").mkdir()
    return open_tracker(folder)


@pytest.mark.parametrize("broken", [a_dead_server, an_unwritable_home, a_damaged_database, a_folder_for_a_database])
def test_a_store_that_fails_costs_one_warning_and_nothing_else(
    broken,  # type: ignore[no-untyped-def]
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    tracker = broken(tmp_path)
    before = time.monotonic()
    with caplog.at_level(logging.WARNING, "bench"):
        parent = tracker.start_sweep("lost", {})
        cell = tracker.log_cell(parent, a_record(), lambda: Evidence(a_learner()))
        tracker.log_files(parent, {"plan.txt": "1 cell"})
        version = tracker.register("paper", a_record())
        tracker.finish_sweep(parent, "FINISHED", {"table1.md": "x"})
    assert (parent, cell, version) == (None, None, None)
    assert time.monotonic() - before < 30
    (warning,) = [record.getMessage() for record in caplog.records]
    assert "could not log sweep lost" in warning
    assert "Run the same command again" in warning
    assert "secret" not in warning
    assert tracker.where() == (
        "MLflow: not logged: sweep lost; amsrc on ped2, seed 0; amsrc on ped2, seed 0 as paper. "
        "Run the same command again to log it."
    )


def test_a_store_that_dies_in_between_loses_only_the_rest_and_a_second_run_logs_it(
    home: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = [a_record("null-flow", seed=seed) for seed in range(3)]
    tracker = open_tracker(home)
    parent = tracker.start_sweep("interrupted", {})
    assert tracker.log_cell(parent, records[0])
    with monkeypatch.context() as patch:
        patch.setattr(type(tracker._store.client), "log_dict", full_disk)
        assert tracker.log_cell(parent, records[1]) is None
    assert tracker.log_cell(parent, records[2]) is None
    tracker.finish_sweep(parent, "FINISHED", {})
    assert len([r for r in caplog.records if r.name == "bench.tracking.runs"]) == 1
    assert tracker.missed == ["null-flow on ped2, seed 1", "null-flow on ped2, seed 2", "the sweep's tables"]

    again = open_tracker(home)
    assert again.start_sweep("interrupted", {}) == parent
    runs = [run_of(again, again.log_cell(parent, record)) for record in records]
    assert [run.info.status for run in runs] == ["FINISHED"] * 3
    children = again._store.client.search_runs([again._store.experiment], f"tags.`mlflow.parentRunId` = '{parent}'")
    assert {run.info.run_id for run in runs} == {run.info.run_id for run in children}


def full_disk(*_: object) -> None:
    raise OSError(28, "No space left on device")


def test_a_model_that_cannot_be_exported_is_named_and_the_rest_is_logged(
    tracker: Tracker, caplog: pytest.LogCaptureFixture
) -> None:
    class Untraceable:
        networks = nn.ModuleDict({"network": nn.Identity()})

        def scores(self, networks: dict[str, nn.Module], batch: Batch) -> dict[str, Tensor]:
            score = batch.flows.float().flatten(1).sum(1)
            return dict.fromkeys(("consistency", "prediction"), score if score.sum() > 0 else -score)

    evidence = Evidence(Untraceable())  # type: ignore[arg-type]
    run = run_of(tracker, tracker.log_cell(None, a_record(seed=5), lambda: evidence))
    assert "amsrc on ped2, seed 5 is logged without its model" in caplog.text
    assert "the model could not be exported" in caplog.text
    assert (run.info.status, run.data.metrics["auroc"]) == ("FINISHED", 0.9)
    assert not run.outputs.model_outputs
    assert (tracker.off, tracker.missed) == (False, [])
