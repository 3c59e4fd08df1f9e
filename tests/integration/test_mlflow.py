"""A real `mlflow server` on loopback: what a sweep logs there, and what a sweep does when it dies."""

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

from amsrc.config import ModelConfig
from amsrc.model import AMSRC
from bench.config import dump, fingerprint
from bench.recipes import build
from bench.records import RunRecord
from bench.tracking import open_tracker

START_UP_S = 120


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, "subprocess.Popen[bytes]"]]:
    """Address and process of a server that keeps its own files; it and its workers end with the test."""
    with closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    folder = tmp_path / "server"
    folder.mkdir()
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
        yield f"http://127.0.0.1:{port}", process
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


def a_record(seed: int) -> RunRecord:
    e = build("amsrc", "toy-ped2", seed)
    return RunRecord(
        recipe="amsrc",
        dataset="toy-ped2",
        seed=seed,
        fingerprint=fingerprint(e),
        status="done",
        metrics={"auroc": 0.95},
        epochs=[{"epoch": number, "loss": 1 / number} for number in range(1, 61)],
        boxes="motion",
        flow="dis",
        started="2025-01-01T00:00:00+00:00",
        finished="2025-01-01T01:00:00+00:00",
        experiment=dump(e),
    )


def test_a_sweep_is_logged_to_a_server_and_survives_its_death(
    server: tuple[str, "subprocess.Popen[bytes]"],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    uri, process = server
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "environ", os.environ | {"MLFLOW_TRACKING_URI": uri})
    home = tmp_path / "home"
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"weights")
    tracker = open_tracker(home)

    parent = tracker.start_sweep("demo", {"seeds": 2})
    cell = tracker.log_cell(
        parent,
        a_record(0),
        model=AMSRC(ModelConfig(width=2)),
        example=(torch.rand(2, 12, 32, 32), torch.rand(2, 8, 32, 32)),
        weights=weights,
        scores_table=pd.DataFrame({"video": ["01"], "auroc": [0.95]}),
    )
    assert parent is not None and cell is not None, tracker.missed

    client = tracker._store.client
    run = client.get_run(cell)
    assert run.data.tags["mlflow.parentRunId"] == parent
    assert [point.step for point in client.get_metric_history(cell, "epoch/loss")] == list(range(1, 61))
    assert {file.path for file in client.list_artifacts(cell)} == {"model.safetensors", "per_video.json", "record.json"}
    assert not home.exists(), "the server keeps the files"
    assert len(list((tmp_path / "server" / "files").rglob("model.pt2"))) == 1
    assert tracker.where(parent) == f"MLflow: {uri}/#/experiments/1/runs/{parent}?workflowType=machine_learning"
    assert capsys.readouterr().out == ""

    end(process)
    before = time.monotonic()
    assert tracker.log_cell(parent, a_record(1)) is None
    tracker.finish_sweep(parent, "FINISHED", {"table1.md": "x"})
    assert time.monotonic() - before < 30
    assert tracker.missed == ["amsrc toy-ped2 seed 1", "the sweep's tables"]
