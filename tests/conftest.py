"""Fixtures shared by all tests, and which tests may run at the same time."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is there: two processes of tests share the cores

if TYPE_CHECKING:
    from tests.cells_made import Cell


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A file's tests in one process, and the two files with most processes in the same one: they share cores badly."""
    from xdist.scheduler import LoadFileScheduling

    class OneClusterAtATime(LoadFileScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            file: str = super()._split_scope(nodeid)
            return "clusters" if file.endswith(("test_cluster.py", "test_sweep.py")) else file

    return OneClusterAtATime(config, log)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data beside the checkout; the test is skipped where it is absent."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not (folder / "data" / "ped2").is_dir():
        pytest.skip("needs the real data sets in ../shared/data, which are not part of the project")
    return folder


@pytest.fixture(scope="session")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> "Cell":
    """The whole method on made-up cubes, trained and evaluated. Not to be changed: `copied` gives another one."""
    from tests.cells_made import Cell
    from tests.cubes_made import an_experiment

    return Cell(tmp_path_factory.mktemp("evaluated"), an_experiment())


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow database, to be copied: making its tables takes seconds."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture(scope="session", autouse=True)
def coarse_figures() -> Iterator[None]:
    """Figures of few pixels: no test looks at more, and most of the time goes into pixels."""
    from bench.figures import STYLE

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(STYLE, "savefig.dpi", 40)
        yield
