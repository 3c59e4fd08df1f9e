"""The folder of a run: what is stored in it, and whose cubes it belongs to.

<home>/runs/<run key>/
    run.json              the experiment and the digest of the store it is trained on
    checkpoint.pt         the state to resume from, after every epoch; deleted when training is done
    epochs/NNN.npz        scores after an epoch that is not the last (no label is read for them): of the test cubes
                          `score.<part>` (n,), `statistics.<part>` (5,), and where videos are held out
                          (`bench.training.held_out`) `normal.<part>` and `pseudo.<kind>.<part>` (m,)
    log.jsonl             one line an epoch: loss terms, seconds, cubes/s, peak memory, code, hardware
    model.safetensors     the trained weights; written last, so its presence means done
    cubes.parquet         one row a cube of both splits: split, video, frame, x0, y0, x1, y1 and a column a part of its
                          score (evaluation)
    held_out.npz          the held-out arrays of `epochs/NNN.npz`, under the trained weights (evaluation)

No torch.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from amsrc.errors import ConfigError, DataError, RunError, why
from amsrc.fuse import Statistics
from amsrc.store import CubeStore
from bench.experiment.config import Experiment, dump, run_key
from bench.methods.interface import Scores
from bench.storage.places import Place, files_below, remove_tree, writable, write_file, write_json

if TYPE_CHECKING:
    import pandas as pd

Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class HeldOut:
    """Scores of m held-out training cubes, as they are and, by kind, as pseudo-anomalies."""

    normal: Scores
    pseudo: Mapping[str, Scores]

    @property
    def cubes(self) -> int:
        """How many were scored as they are."""
        return len(next(iter(self.normal.values())))


@dataclass(frozen=True)
class Epoch:
    """What a scored epoch leaves: the scores of the n test cubes, and the statistics that standardise them."""

    number: int
    scores: Scores
    statistics: Mapping[str, Statistics]
    held_out: HeldOut | None


def folder_of(experiment: Experiment, home: Place) -> Place:
    """Path of a run's folder, whether it exists or not."""
    return home / "runs" / run_key(experiment)


def claim(experiment: Experiment, store: CubeStore, home: Place) -> Place:
    """The run's folder, reserved for these cubes if it is new.

    Raises:
        ConfigError: it belongs to cubes of other content, or cannot be written.
        DataError: its `run.json` is damaged.
    """
    folder = folder_of(experiment, home)
    path = folder / "run.json"
    if path.is_file():
        _, before = origin(folder)
        if before != store.sha256:
            raise ConfigError(
                f"{folder} belongs to the cubes {before[:12]}, {store.origin} holds {store.sha256[:12]}. "
                "Delete that folder to start anew, or choose another --home."
            )
        return folder
    writable(folder)
    write_json(path, {"experiment": dump(experiment), "store": store.sha256})
    return folder


def origin(folder: Place) -> tuple[dict[str, Any], str]:
    """What `run.json` says: the experiment as `bench.experiment.config.dump` has it, the digest of the store.

    Raises:
        DataError: the file is damaged.
    """
    path = folder / "run.json"
    try:
        about = json.loads(path.read_text())
        return dict(about["experiment"]), str(about["store"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is damaged ({error!r}). Restore it, or delete {folder} and train again.") from None


def forget_scores(folder: Place) -> None:
    """Drop scores of earlier weights, before the first epoch of new ones."""
    for name in ("cubes.parquet", "held_out.npz"):
        (folder / name).unlink(missing_ok=True)
    remove_tree(folder / "epochs")


def weights(folder: Place) -> Place:
    """Path of the trained weights, whether they exist or not."""
    return folder / "model.safetensors"


def is_trained(folder: Place) -> bool:
    """Whether training is done there."""
    return weights(folder).is_file()


def history(folder: Place) -> list[dict[str, Any]]:
    """The log: one dict an epoch, from the first.

    Raises:
        RunError: it is damaged.
    """
    path = folder / "log.jsonl"
    if not path.is_file():
        return []
    try:
        return [dict(json.loads(line)) for line in path.read_text().splitlines()]
    except (ValueError, TypeError) as error:
        raise RunError(
            f"{path} is damaged ({why(error)}). Delete it; where training is not done, the next epoch writes it again."
        ) from None


def write_fitted(folder: Place, line: Mapping[str, Any]) -> None:
    """Keep how a closed form was fitted: what a line of the log has of time, memory, code and hardware."""
    write_json(folder / "fitted.json", line)


def read_fitted(folder: Place) -> list[dict[str, Any]]:
    """The line of `write_fitted`; none where nothing was fitted.

    Raises:
        RunError: the file is damaged.
    """
    path = folder / "fitted.json"
    if not path.is_file():
        return []
    try:
        return [dict(json.loads(path.read_text()))]
    except (ValueError, TypeError) as error:
        raise RunError(f"{path} is damaged ({why(error)}). Delete {folder} to fit again.") from None


def read_cubes(folder: Place, columns: list[str] | None = None) -> pd.DataFrame | None:
    """The scores of all cubes, one row each; None where they are not there yet.

    Args:
        columns: those wanted, where not all are.

    Raises:
        DataError: the file is damaged.
    """
    import pandas as pd

    path = folder / "cubes.parquet"
    if not path.is_file():
        return None
    try:
        return pd.read_parquet(io.BytesIO(path.read_bytes()), columns=columns)
    except (ValueError, OSError, KeyError) as error:
        raise DataError(f"{path} is damaged ({why(error)}). Delete it and run `amsrc-bench evaluate` again.") from None


def write_epoch(folder: Place, epoch: Epoch) -> None:
    """Keep what was scored after an epoch that is not the last."""
    arrays = {f"score.{part}": values for part, values in epoch.scores.items()}
    arrays |= {f"statistics.{part}": np.array(astuple(known)) for part, known in epoch.statistics.items()}
    _write(folder / "epochs" / f"{epoch.number:03d}.npz", {**arrays, **_to_arrays(epoch.held_out)})


def read_epochs(folder: Place) -> list[Epoch]:
    """The epochs that were scored during training, from the first; the last one is the evaluation's to score.

    Raises:
        RunError: a file is damaged.
    """
    epochs = []
    for path in sorted(files_below(folder / "epochs", "[0-9]*.npz"), key=lambda path: int(path.stem)):
        with _reading(path, "Delete it and evaluate again; that epoch is then left out.") as arrays:
            scores = _named(arrays, "score.")
            known = {part: Statistics(*arrays[f"statistics.{part}"].tolist()) for part in scores}
            epochs.append(Epoch(int(path.stem), scores, known, _from_arrays(arrays)))
    return epochs


def write_held_out(folder: Place, held_out: HeldOut) -> None:
    """Keep the held-out scores of the trained weights."""
    _write(folder / "held_out.npz", _to_arrays(held_out))


def read_held_out(folder: Place) -> HeldOut | None:
    """The held-out scores of the trained weights; None where there is no file of them.

    Raises:
        RunError: the file is damaged.
    """
    path = folder / "held_out.npz"
    if not path.is_file():
        return None
    with _reading(path, "Delete it and evaluate again.") as arrays:
        return _from_arrays(arrays)


def _to_arrays(held_out: HeldOut | None) -> Arrays:
    if held_out is None:
        return {}
    arrays = {f"normal.{part}": scores for part, scores in held_out.normal.items()}
    for kind, parts in held_out.pseudo.items():
        arrays |= {f"pseudo.{kind}.{part}": scores for part, scores in parts.items()}
    return arrays


def _from_arrays(arrays: Arrays) -> HeldOut | None:
    if not (normal := _named(arrays, "normal.")):
        return None
    kinds = dict.fromkeys(name.split(".")[1] for name in arrays if name.startswith("pseudo."))
    return HeldOut(normal, {kind: _named(arrays, f"pseudo.{kind}.") for kind in kinds})


def _named(arrays: Arrays, prefix: str) -> Arrays:
    """Those whose names begin so, by the rest of their names."""
    return {name.removeprefix(prefix): values for name, values in arrays.items() if name.startswith(prefix)}


def _write(path: Place, arrays: Arrays) -> None:
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, **arrays)
    write_file(path, content.getvalue())


@contextmanager
def _reading(path: Place, remedy: str) -> Iterator[Arrays]:
    """All arrays of a file; an error in the block is reported as damage of the file."""
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as archive:
            yield {name: archive[name] for name in archive.files}
    except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile) as error:
        raise RunError(f"{path} is damaged ({why(error)}). {remedy}") from None
