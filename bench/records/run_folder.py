"""The folder of a run: what is stored in it, and whose cubes it belongs to.

<home>/runs/<run key>/
    run.json              the experiment and the digest of the store it is trained on
    checkpoint.pt         the state to resume from, after every epoch; deleted when training is done
    epochs/NNN.npz        scores after an epoch that is not the last (no label is read for them): of the test cubes
                          `s_f` and `s_p` (n,), `statistics` (4,), and where videos are held out
                          (`bench.training.held_out`) `normal_f`, `normal_p`, and `pseudo_f.<kind>`, `pseudo_p.<kind>`
                          (m,)
    log.jsonl             one line an epoch: loss terms, seconds, cubes/s, peak memory, code, hardware
    model.safetensors     the trained weights; written last, so its presence means done
    cubes.parquet         one row a cube of both splits: split, video, frame, x0, y0, x1, y1, s_f, s_p (evaluation)
    held_out.npz          the held-out arrays of `epochs/NNN.npz`, under the trained weights (evaluation)

No torch.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from amsrc.errors import ConfigError, DataError, RunError, why
from amsrc.fuse import Floats, Statistics
from amsrc.store import CubeStore
from bench.experiment.config import Experiment, dump, run_key
from bench.storage.places import Place, files_below, remove_tree, writable, write_file, write_json

if TYPE_CHECKING:
    import pandas as pd

Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class HeldOut:
    """Scores of held-out training cubes, as they are and, by kind, as pseudo-anomalies; (m,) each."""

    normal_f: Floats
    normal_p: Floats
    pseudo_f: dict[str, Floats]
    pseudo_p: dict[str, Floats]


@dataclass(frozen=True)
class Epoch:
    """What a scored epoch leaves: (n,) scores of the test cubes, and the statistics that standardise them."""

    number: int
    s_f: Floats
    """All NaN without a motion stream."""
    s_p: Floats
    statistics: Statistics
    held_out: HeldOut | None


def folder_of(experiment: Experiment, home: Place) -> Place:
    """Where a run lies, or will."""
    return home / "runs" / run_key(experiment)


def claim(experiment: Experiment, store: CubeStore, home: Place) -> Place:
    """The run's folder, taken for these cubes if nobody had it.

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
    """Where the trained weights lie, or will."""
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
    known = np.array(astuple(epoch.statistics))
    arrays = {"s_f": epoch.s_f, "s_p": epoch.s_p, "statistics": known, **_to_arrays(epoch.held_out)}
    _write(folder / "epochs" / f"{epoch.number:03d}.npz", arrays)


def read_epochs(folder: Place) -> list[Epoch]:
    """The epochs that were scored during training, from the first; the last one is the evaluation's to score.

    Raises:
        RunError: a file is damaged.
    """
    epochs = []
    for path in sorted(files_below(folder / "epochs", "[0-9]*.npz"), key=lambda path: int(path.stem)):
        with _reading(path, "Delete it and evaluate again; that epoch is then left out.") as arrays:
            known = Statistics(*arrays["statistics"].tolist())
            epochs.append(Epoch(int(path.stem), arrays["s_f"], arrays["s_p"], known, _from_arrays(arrays)))
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
    return {
        "normal_f": held_out.normal_f,
        "normal_p": held_out.normal_p,
        **{f"pseudo_f.{kind}": scores for kind, scores in held_out.pseudo_f.items()},
        **{f"pseudo_p.{kind}": scores for kind, scores in held_out.pseudo_p.items()},
    }


def _from_arrays(arrays: Arrays) -> HeldOut | None:
    if "normal_f" not in arrays:
        return None

    def by_kind(prefix: str) -> Arrays:
        return {name.removeprefix(prefix): scores for name, scores in arrays.items() if name.startswith(prefix)}

    return HeldOut(arrays["normal_f"], arrays["normal_p"], by_kind("pseudo_f."), by_kind("pseudo_p."))


def _write(path: Place, arrays: Arrays) -> None:
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, **arrays)
    write_file(path, content.getvalue())


@contextmanager
def _reading(path: Place, remedy: str) -> Iterator[Arrays]:
    """All arrays of a file; what fails with them inside is blamed on the file."""
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as archive:
            yield {name: archive[name] for name in archive.files}
    except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile) as error:
        raise RunError(f"{path} is damaged ({why(error)}). {remedy}") from None
