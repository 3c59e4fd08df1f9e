"""A cell of the benchmark on made-up cubes, from its store to its record."""

import shutil
from pathlib import Path

import pandas as pd
import torch

from bench.evaluation.evaluate import evaluate
from bench.experiment.config import Experiment, run_key
from bench.records.records import RunRecord
from bench.training.launch import fit
from tests.cubes_made import write_store


class Cell:
    """A trained and evaluated cell, and where everything of it is."""

    def __init__(self, home: Path, experiment: Experiment, record: RunRecord | None = None) -> None:
        """Train and evaluate it, unless its record is given: then all of it is under `home` already."""
        torch.set_num_threads(1)
        self.home, self.results, self.experiment = home, home / "results", experiment
        self.store = write_store(home, experiment)
        self.folder = home / "runs" / run_key(experiment)
        if record is None and experiment.learns:
            fit(experiment, self.store, home)
        self.record = record or self.evaluate()

    def evaluate(self) -> RunRecord:
        return evaluate(self.experiment, self.store, self.home, self.results)

    def copied(self, home: Path) -> "Cell":
        """The same in another home, which a test may change."""
        for name in ("runs", "results"):
            shutil.copytree(self.home / name, home / name)
        return Cell(home, self.experiment, self.record)

    @property
    def cubes(self) -> pd.DataFrame:
        return pd.read_parquet(self.folder / "cubes.parquet")
