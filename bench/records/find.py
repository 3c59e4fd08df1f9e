"""Finds a trained run by its fingerprint or key: its experiment, its folder, the scores of its training frames.

Reads records (to find a run by a fingerprint), `run.json` and `cubes.parquet` of runs (`bench.records.run_folder`);
writes nothing. No torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

import numpy as np
import numpy.typing as npt

from amsrc.config import ScoreConfig
from amsrc.errors import ConfigError, DataError, shorten
from amsrc.fuse import Statistics, frame_scores, statistics
from bench.experiment.config import Experiment, load, run_key
from bench.records import records, run_folder
from bench.records.names import title
from bench.storage.places import Place, files_below

RECORDS = ("records/*/*/*.json", "searches/*/records/*/*/*.json")


@dataclass(frozen=True)
class Run:
    """A run's folder and the experiment it is used under."""

    name: str
    """The fingerprint or run key by which it was found."""
    experiment: Experiment
    folder: Place

    @property
    def title(self) -> str:
        return f"{self.name} ({title(self.experiment)})"


def find_run(wanted: str, home: Place, results: Sequence[Place]) -> Run:
    """The run of a record's fingerprint, under that record's weights, or of a run's key; a part from its start will do.

    Args:
        results: where records may be stored.

    Raises:
        ConfigError: there is none, or several.
        DataError: the record or `run.json` is damaged.
    """
    keys = {path.parent.name: path.parent for path in files_below(home / "runs", "*/run.json")}
    written = {_parts(path)[-1]: path for place in results for shape in RECORDS for path in files_below(place, shape)}
    names = sorted({*keys, *written})
    fitting = [wanted] if wanted in names else [name for name in names if name.startswith(wanted)]
    if len(fitting) != 1:
        usable = [] if fitting else _usable(keys.values(), written)
        near = get_close_matches(wanted, usable, n=3, cutoff=0.5)
        hint = f"did you mean {_listed(near, written)}?" if near else f"trained: {_listed(usable, written) or 'none'}."
        what = f"fits {_listed(fitting, written)}. Give more of it." if fitting else f"is no run under {home}; {hint}"
        raise ConfigError(f"--run {wanted!r} {what} `amsrc-bench ls` lists the records.")
    (name,) = fitting
    if name not in written:
        return Run(name, _experiment_of(keys[name]), keys[name])
    record = records.read(written[name])
    experiment = load(record.experiment)
    run = Run(name, experiment, home / "runs" / (record.run or run_key(experiment)))
    if run.folder.name not in keys and experiment.learns:
        raise ConfigError(f"--run {run.title}: {run.folder} is not there. Pass the --home that it was trained in.")
    return run


def _experiment_of(folder: Place) -> Experiment:
    """The experiment that a run's folder was made for."""
    about, _ = run_folder.origin(folder)
    try:
        return load(about)
    except ConfigError as error:
        raise DataError(f"{folder / 'run.json'} fits no experiment of this version: {error}. Train again.") from None


def _usable(folders: Iterable[Place], written: Mapping[str, Place]) -> list[str]:
    """Names of the runs that are trained: the fingerprints of their records, the key of a run that has none."""
    trained = {folder.name for folder in folders if run_folder.is_trained(folder)}
    recorded = {name: str(records.read(path).run) for name, path in written.items()}
    named = {name: key for name, key in recorded.items() if key in trained}
    return sorted(named) + sorted(trained.difference(named.values()))


def _parts(record: Place) -> tuple[str, str, str, str]:
    """Recipe, data set, seed and fingerprint, from the path of a record."""
    seed, _, fingerprint = record.stem.rpartition("-")
    return record.parent.parent.name, record.parent.name, seed.removeprefix("seed"), fingerprint


def _listed(names: Sequence[str], written: Mapping[str, Place]) -> str:
    """Names, each with what its record is of."""

    def titled(name: str) -> str:
        if name not in written:
            return name
        recipe, dataset, seed, _ = _parts(written[name])
        return f"{name} ({recipe} on {dataset}, seed {seed})"

    return shorten([titled(name) for name in names])


def training_scores(run: Run, config: ScoreConfig) -> tuple[dict[str, Statistics], npt.NDArray[np.float64]]:
    """Statistics of the run's training cubes, and the scores of its training frames (N,), smoothed like any others.

    A training video counts up to its last frame with a cube: how many follow is only in the store.

    Raises:
        ConfigError: the run is a trivial baseline, not trained, or not scored yet.
        DataError: the scores are damaged.
    """
    import pandas as pd

    if not run.experiment.learns:
        raise ConfigError(f"--run {run.title} is a trivial baseline; choose a run that was trained.")
    if not run_folder.is_trained(run.folder):
        raise ConfigError(f"--run {run.title} is not trained. Run `amsrc-bench train` with its options; it resumes.")
    parts = run.experiment.parts
    table = run_folder.read_cubes(run.folder, ["split", "video", "frame", *parts])
    if table is None:
        raise ConfigError(f"--run {run.title} has no scores of its training cubes yet. Run `amsrc-bench evaluate`.")
    table = table[table["split"] == "train"]
    found, frame = {part: table[part].to_numpy() for part in parts}, table["frame"].to_numpy()
    video, names = pd.factorize(table["video"])
    counts = [int(frame[video == number].max()) + 1 for number in range(len(names))]
    known = statistics(found)
    scores = np.concatenate([np.zeros(0), *frame_scores(found, video, frame, counts, known, config)])
    if not len(scores):
        raise ConfigError(f"--run {run.title}: no training frame has a score, as all its videos are too short.")
    return known, scores
