"""The folder of a run: what lies there, and whose cubes it belongs to. No torch.

<home>/runs/<run key>/
    run.json              the experiment, the store's digest, and the code and machine that began it
    checkpoint.pt         the state to go on from, after every epoch; gone when training is done
    epochs/NNN.npz        scores of the test cubes after an epoch (no label is read for it)
    log.jsonl             one line an epoch: loss terms, seconds, cubes/s, peak memory
    model.safetensors     the trained weights; written last, so its presence means done
    cubes.parquet         the scores of all cubes of both splits (evaluation)
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from amsrc.errors import ConfigError
from amsrc.files import write_json
from amsrc.store import CubeStore
from bench import provenance
from bench.config import Experiment, dump, run_key


def claim(experiment: Experiment, store: CubeStore, home: Path) -> Path:
    """The run's folder, taken for these cubes if nobody had it; code and machine are noted on the first claim.

    Raises:
        ConfigError: it belongs to cubes of other content, or cannot be written.
    """
    folder = home / "runs" / run_key(experiment)
    path = folder / "run.json"
    if path.is_file():
        before = about(folder)["store"]
        if before != store.sha256:
            raise ConfigError(
                f"{folder} belongs to the cubes {before[:12]}, {store.path} holds {store.sha256[:12]}. "
                "Delete that folder to start anew, or choose another --home."
            )
        return folder
    origin = {"git": provenance.git(), "hardware": provenance.hardware(), "versions": provenance.versions()}
    writable(folder)
    write_json(path, {"experiment": dump(experiment), "store": store.sha256, **origin})
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


def about(folder: Path) -> dict[str, Any]:
    """What `claim` noted."""
    noted: dict[str, Any] = json.loads((folder / "run.json").read_text())
    return noted


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
