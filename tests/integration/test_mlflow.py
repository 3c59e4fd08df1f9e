"""MLflow for real, a server on loopback and a database: a whole sweep, logged twice, and one whose server dies."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pandas as pd
import pytest
import torch

from bench.experiment.config import derive
from bench.experiment.recipes import build
from bench.methods.interface import Learner
from bench.records.records import RunRecord
from bench.tracking.runs import Evidence, Tracker, open_tracker
from bench.training import scoring
from bench.training.scoring import Program
from tests.results_made import record_of

START_UP_S = 120
Server = tuple[str, "subprocess.Popen[bytes]", Path]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Address, process and files of a server; it and its workers end with the tests, the last of which kills it."""
    with closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    folder = tmp_path_factory.mktemp("server")
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += [
        "--backend-store-uri",
        f"sqlite:///{folder}/mlflow.db",
        "--artifacts-destination",
        str(folder / "files"),
    ]
    settings = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=os.environ | settings, stdout=log, stderr=log, start_new_session=True
        )
    try:
        wait_for(f"http://127.0.0.1:{port}/health", process, folder / "log")
        yield f"http://127.0.0.1:{port}", process, folder / "files"
    finally:
        end(process)


def wait_for(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    end_at = time.monotonic() + START_UP_S
    while time.monotonic() < end_at and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except OSError:
            time.sleep(0.5)
    pytest.fail(f"no answer from {url} in {START_UP_S} s; its log:\n{log.read_text()[-2000:]}")


def end(process: "subprocess.Popen[bytes]") -> None:
    """End the server's own process group: the process that was started here and its workers."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=30)


RULES = {
    "paper": {"auroc": 0.95, "epoch": 6, "weights": {"consistency": 0.5, "prediction": 0.5}},
    "oracle": {"auroc": 0.97, "epoch": 6, "weights": {"consistency": 0.25, "prediction": 0.75}},
    "crossfit": {
        "auroc": 0.96,
        "folds": [
            {"videos": ["01"], "selected_auroc": 0.9, "epoch": 2, "weights": {"consistency": 0.25, "prediction": 0.75}}
        ],
    },
    "label-free": {
        "auroc": 0.94,
        "epoch": 4,
        "weights": {"consistency": 0.5, "prediction": 0.5},
        "pseudo_auroc": 0.8,
        "pseudo_auroc_by_kind": {},
    },
}
FUSION = {
    "part": "consistency",
    "share": [step / 1000 for step in range(1001)],
    "auroc": [0.9 + step / 20_000 for step in range(1001)],
    "best_share": 1.0,
    "best_auroc": 0.95,
    "own_share": 0.5,
    "own_auroc": 0.925,
}


def a_record(seed: int) -> RunRecord:
    epochs = [{"epoch": number, "loss": 1 / number} for number in range(1, 61)]
    e = build("amsrc", "toy-ped2", seed)
    parts = {"consistency": 0.95, "prediction": 0.9}
    return record_of(e, rules=RULES, fusion=FUSION, metrics={"auroc": 0.95}, parts=parts, epochs=epochs)


def a_learner(seed: int) -> Learner:
    """An untrained one, of two channels."""
    return scoring.build(derive(build("amsrc", "toy-ped2", seed), model={"width": 2}), torch.device("cpu"))


def a_whole_sweep(tracker: Tracker, records: list[RunRecord], learners: list[Learner]) -> tuple[object, ...]:
    """Everything a sweep logs; gives the ids it got."""
    parent = tracker.start_sweep("whole", {"seeds": len(records)})
    tracker.log_files(parent, {"plan.txt": "2 cells", "figures/landscape.png": b"\x89PNG", "search.json": "{}"})
    cells = [
        tracker.log_cell(parent, record, lambda learner=learner: Evidence(learner))  # type: ignore[misc]
        for record, learner in zip(records, learners, strict=True)
    ]
    versions = [tracker.register(rule, records[rule == "oracle"]) for rule in RULES]
    tracker.finish_sweep(parent, "FINISHED", {"table1.md": "| a |"})
    return parent, cells, versions


def test_a_whole_sweep_is_logged_once_however_often_it_is_run(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "environ", {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")})
    uri = server[0]
    records, learners = [a_record(seed) for seed in range(2)], [a_learner(seed) for seed in range(2)]
    tracker = open_tracker(tmp_path / "home", uri)
    first = a_whole_sweep(tracker, records, learners)
    again = open_tracker(tmp_path / "home", uri)
    assert a_whole_sweep(again, records, learners) == first
    assert tracker.missed == again.missed == []

    parent, cells, versions = first
    assert versions == ["1", "2", "1", "1"]
    client = again._store.client
    assert client.get_run(parent).info.status == "FINISHED"
    assert {file.path for file in client.list_artifacts(parent)} == {"plan.txt", "search.json", "figures", "tables"}
    children = client.search_runs([again._store.experiment], f"tags.`mlflow.parentRunId` = '{parent}'")
    assert {run.info.run_id for run in children} == set(cells)
    for run in children:
        assert len(run.outputs.model_outputs) == 1
        curve = client.get_metric_history(run.info.run_id, "fusion/auroc")
        assert sorted((point.step, point.value) for point in curve) == [
            (step, FUSION["auroc"][step]) for step in range(0, 1001, 10)
        ]
        assert run.data.metrics["rule/label-free"] == 0.94
        assert [file.path for file in client.list_artifacts(run.info.run_id, "figures")] == ["figures/fusion.png"]

    (model,) = client.search_registered_models()
    assert model.name == "amsrc-toy-ped2"
    aliases = {alias: str(version) for alias, version in model.aliases.items()}  # numbers from a database
    assert aliases == {"paper": "1", "oracle": "2"}, "the others took earlier epochs, whose weights are not kept"
    assert len(client.search_model_versions("name = 'amsrc-toy-ped2'")) == 2
    oracle = client.get_model_version_by_alias(model.name, "oracle")
    assert (oracle.run_id, oracle.tags["seed"], oracle.tags["oracle/auroc"]) == (cells[1], "1", "0.97")
    mlflow.set_tracking_uri(again.uri)
    try:
        program = mlflow.pytorch.load_model(f"models:/{model.name}@oracle")
    finally:
        mlflow.set_tracking_uri(None)
    frames = torch.randint(0, 256, (3, 5, 1, 32, 32), dtype=torch.uint8)
    flows = torch.rand(3, 4, 2, 32, 32).half()
    expected = Program(build("amsrc", "toy-ped2"), learners[1])(frames, flows)
    torch.testing.assert_close(list(program(frames, flows)), list(expected))


def test_a_sweep_is_logged_to_a_server_and_survives_its_death(
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    uri, process, files = server
    models = len(list(files.rglob("model.pt2")))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "environ", os.environ | {"MLFLOW_TRACKING_URI": uri})
    home = tmp_path / "home"
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"weights")
    tracker = open_tracker(home)

    parent = tracker.start_sweep("demo", {"seeds": 2})
    cell = tracker.log_cell(
        parent,
        a_record(2),
        lambda: Evidence(a_learner(2), weights, pd.DataFrame({"video": ["01"], "auroc": [0.95]})),
    )
    assert parent is not None and cell is not None, tracker.missed

    client = tracker._store.client
    run = client.get_run(cell)
    assert run.data.tags["mlflow.parentRunId"] == parent
    assert [point.step for point in client.get_metric_history(cell, "epoch/loss")] == list(range(1, 61))
    kept = {file.path for file in client.list_artifacts(cell)}
    assert kept == {"figures", "model.safetensors", "per_video.json", "record.json"}
    assert not home.exists(), "the server keeps the files"
    assert len(list(files.rglob("model.pt2"))) == models + 1
    assert tracker.where(parent) == f"MLflow: {uri}/#/experiments/1/runs/{parent}?workflowType=machine_learning"
    assert capsys.readouterr().out == ""

    end(process)
    before = time.monotonic()
    assert tracker.log_cell(parent, a_record(3)) is None
    assert tracker.register("paper", a_record(2)) is None
    tracker.finish_sweep(parent, "FINISHED", {"table1.md": "x"})
    assert time.monotonic() - before < 30
    assert tracker.missed == ["amsrc on toy-ped2, seed 3", "amsrc on toy-ped2, seed 2 as paper", "the sweep's tables"]
