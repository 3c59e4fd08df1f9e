"""The folder of a run: what lies there, and whose cubes it belongs to. No torch.

<home>/runs/<run key>/
    run.json              the experiment and the digest of the store it is trained on
    checkpoint.pt         the state to go on from, after every epoch; gone when training is done
    epochs/NNN.npz        scores of the test cubes after an epoch (no label is read for it)
    log.jsonl             one line an epoch: loss terms, seconds, cubes/s, peak memory, code, hardware
    model.safetensors     the trained weights; written last, so its presence means done
    cubes.parquet         the scores of all cubes of both splits (evaluation)
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from amsrc.errors import ConfigError
from amsrc.files import write_json
from amsrc.store import CubeStore
from bench.config import Experiment, dump, run_key


def folder_of(experiment: Experiment, home: Path) -> Path:
    """Where a run lies, or will."""
    return home / "runs" / run_key(experiment)


def claim(experiment: Experiment, store: CubeStore, home: Path) -> Path:
    """The run's folder, taken for these cubes if nobody had it.

    Raises:
        ConfigError: it belongs to cubes of other content, or cannot be written.
    """
    folder = folder_of(experiment, home)
    path = folder / "run.json"
    if path.is_file():
        before = json.loads(path.read_text())["store"]
        if before != store.sha256:
            raise ConfigError(
                f"{folder} belongs to the cubes {before[:12]}, {store.path} holds {store.sha256[:12]}. "
                "Delete that folder to start anew, or choose another --home."
            )
        return folder
    writable(folder)
    write_json(path, {"experiment": dump(experiment), "store": store.sha256})
    return folder


def writable(folder: Path) -> None:
    """Make a folder under the home, or say that one cannot.

    Raises:
        ConfigError: it cannot be made or not be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        reason = None if os.access(folder, os.W_OK) else "no permission"
    except OSError as error:
        reason = error.strerror
    if reason:
        raise ConfigError(f"--home: cannot write to {folder}: {reason}. Choose a folder you may write to.")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Be the only process at work in a folder; waits for another one, whose death frees it too."""
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting for another process at work in {folder}", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def forget_scores(folder: Path) -> None:
    """Drop scores of earlier weights, before the first epoch of new ones."""
    (folder / "cubes.parquet").unlink(missing_ok=True)
    shutil.rmtree(folder / "epochs", ignore_errors=True)


def weights(folder: Path) -> Path:
    """Where the trained weights lie, or will."""
    return folder / "model.safetensors"


def is_trained(folder: Path) -> bool:
    """Whether training is done there."""
    return weights(folder).is_file()


def history(folder: Path) -> list[dict[str, Any]]:
    """The log: one dict an epoch, from the first."""
    path = folder / "log.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
