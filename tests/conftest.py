"""Fixtures shared by all tests, and which tests may run at the same time."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is there: two processes of tests share the cores

if TYPE_CHECKING:
    from tests.cells_made import Cell


LONGEST = {
    "integration": (
        *("test_cluster", "test_sweep", "test_storage", "test_golden_path", "test_nodes", "test_ped2"),
        *("test_workers", "test_watch", "test_prepare", "test_mlflow", "test_hosts"),
    ),
    "unit": (
        *("test_speed", "test_train", "test_pictures", "test_tracking", "test_search", "test_evaluate"),
        *("test_report", "test_gallery", "test_figures", "test_cache", "test_selection", "test_toy"),
    ),
}
"""Files of tests that take ten seconds and more, the longest first."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first: of two processes of tests none then waits for the other's last file."""
    files = [(folder, name) for folder, names in LONGEST.items() for name in names]
    place = {file: number for number, file in enumerate(files)}
    items.sort(key=lambda item: place.get((item.path.parent.name, item.path.stem), len(place)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A file's tests in one process, and the two files with most processes in the same one: they share cores badly."""
    from xdist.scheduler import LoadFileScheduling

    class OneClusterAtATime(LoadFileScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            file: str = super()._split_scope(nodeid)
            most = ("integration/test_cluster.py", "integration/test_sweep.py")
            return "clusters" if file.endswith(most) else file

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
    from bench.figures.style import STYLE

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(STYLE, "savefig.dpi", 40)
        yield
