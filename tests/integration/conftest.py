"""One Ray instance for all integration tests, and commands as processes of their own that join it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from bench.records.records import RunRecord, read_all
from tests.object_store import KEYS

ROOT = Path(__file__).resolve().parents[2]
Process = subprocess.Popen[str]


@pytest.fixture(scope="session")
def ray_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Ray as a command starts it on a host of its own; processes that a test starts join it.

    Not one that happens to run here already: two tests of the same code must not meet in it. Its workers have keys for
    the tests' object store, and keep copies of cubes where no user's are.
    """
    import ray

    from bench.cluster.connect import connect

    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("RAY_ADDRESS", "local")
        for name, value in {**KEYS, "AMSRC_CACHE": str(tmp_path_factory.mktemp("node"))}.items():
            environment.setenv(name, value)
        connect()
        environment.setenv("RAY_ADDRESS", ray.get_runtime_context().gcs_address)
        yield
        ray.shutdown()


def environment() -> dict[str, str]:
    """No data, home or tracking server of the user's."""
    own = ("AMSRC_DATA", "AMSRC_HOME", "MLFLOW_TRACKING_URI", "PYTHONPATH")
    return {name: value for name, value in os.environ.items() if name not in own} | {"OMP_NUM_THREADS": "1"}


def run(*words: str | Path, cwd: Path) -> "subprocess.CompletedProcess[str]":
    """Run a command from a folder that is not the checkout's, and wait for it."""
    command = [sys.executable, *map(str, words)]
    return subprocess.run(command, cwd=cwd, env=environment(), capture_output=True, text=True, timeout=500, check=False)


@contextmanager
def started(*words: str | Path, cwd: Path) -> Iterator[tuple[Process, Path]]:
    """Run a command beside the test, which may end it; gives the process and the file of all that it prints."""
    output = cwd / "printed.txt"
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a child inherits it when ignored, as in the background
    with output.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, *map(str, words)], cwd=cwd, env=environment(), stdout=file, stderr=file, text=True
        )
        try:
            yield process, output
        except BaseException:
            print(output.read_text())  # shown with the failed test
            raise
        finally:
            process.kill()
            process.wait(timeout=60)


def wait_until(true: Callable[[], bool], process: Process) -> None:
    """Look until it is true, while the process is at work."""
    end = time.monotonic() + 400
    while not true():
        assert process.poll() is None, f"ended too early, with {process.returncode}"
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.005)


@dataclass(frozen=True)
class Places:
    """Where the sweeps of a test write; the videos and cubes under `home` are made once."""

    home: Path
    results: Path
    fields: tuple[str, ...] = ()
    """Options of all its sweeps."""

    def command(self, *words: str | Path) -> list[str | Path]:
        """`bench/sweep.py --toy` on one data set, unless the words say otherwise."""
        where = ["--toy", "--datasets", "toy-ped2", "--home", self.home, "--results", self.results]
        return [ROOT / "bench" / "sweep.py", *where, *self.fields, *words]

    def sweep(self, *words: str | Path) -> "subprocess.CompletedProcess[str]":
        """Run it to its end."""
        return run(*self.command(*words), cwd=self.home.parent)

    def of(self, test: Path) -> "Places":
        """The same home, results of one's own."""
        return Places(self.home, test / "results", self.fields)

    @property
    def records(self) -> dict[str, RunRecord]:
        return {record.recipe: record for record in read_all(self.results)}


def files(*folders: Path) -> dict[str, tuple[bytes, int]]:
    """Content of all files and when it was written; locks are neither here nor there."""
    found = (path for folder in folders for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in found}


def logged(home: Path) -> tuple[list[Run], list[Run]]:
    """The sweeps and the cells in the home's MLflow store."""
    client = MlflowClient(f"sqlite:///{home / 'mlflow.db'}")
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    sweeps = [run for run in runs if "sweep" in run.data.tags]
    return sweeps, [run for run in runs if "fingerprint" in run.data.tags]


def planned(printed: str) -> tuple[int, ...]:
    """Of the plan that a sweep printed: cells, those whose record is there, those to run."""
    (line,) = [line for line in printed.splitlines() if line.startswith("all ")]
    return tuple(map(int, line.split()[1:]))
