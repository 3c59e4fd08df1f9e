"""Training on two Ray workers: the sums they make, a worker that dies, and a job that cannot be placed."""

import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy.stats import spearmanr

from amsrc.errors import ConfigError, RunError
from amsrc.store import CubeStore
from bench.evaluation.evaluate import evaluate
from bench.experiment.config import Experiment
from bench.methods.reader import Reader
from bench.records.run_folder import HeldOut, history, is_trained, read_epochs
from bench.speed import harness, timing
from bench.speed.synthetic import SCENES
from bench.training import held_out
from bench.training.checkpoint import load
from bench.training.launch import fit
from bench.training.scoring import Scorer
from tests.cubes_made import an_experiment, write_store
from tests.integration.conftest import started, wait_until

pytestmark = [pytest.mark.timeout(600), pytest.mark.usefixtures("ray_cluster")]

EPOCHS = 6
CPU = torch.device("cpu")
PARTS = ("consistency", "prediction")
TERMS = ("loss", "intensity", "gradient", "consistency")


@dataclass(frozen=True)
class Trained:
    """One experiment, trained by one worker and by two."""

    experiment: Experiment
    store: CubeStore
    one: Path
    two: Path
    """Folders of the runs."""

    def homes(self) -> list[Path]:
        return [folder.parents[1] for folder in (self.one, self.two)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, ray_cluster: None) -> Trained:
    """Batches of nine cubes, so that the workers' shares differ.

    The learning rate is low and the arithmetic fp32: Adam makes full steps of what is rounding alone, no two orders of
    a sum round alike, and bf16 rounds by a hundredth.
    """
    first, second = (tmp_path_factory.mktemp(name) for name in ("one", "two"))
    e = an_experiment(train={"epochs": EPOCHS, "batch": 9, "learning_rate": 1e-4, "precision": "fp32"})
    store = write_store(second, e)
    return Trained(e, store, fit(e, store, first), fit(e, store, second, workers=2))


def test_two_workers_have_the_losses_of_one(trained: Trained) -> None:
    pairs = list(zip(history(trained.one), history(trained.two), strict=True))
    assert [(a["epoch"], b["epoch"]) for a, b in pairs] == [(n, n) for n in range(1, EPOCHS + 1)]
    assert [(b["workers"], b["restarts"]) for _, b in pairs] == [(2, 0)] * EPOCHS
    for alone, together in pairs:
        assert together["learning_rate"] == alone["learning_rate"]
        assert {n: together[n] for n in TERMS} == pytest.approx({n: alone[n] for n in TERMS}, rel=1e-4)


def test_two_workers_score_as_one_does(trained: Trained) -> None:
    """After every epoch, and whichever of the workers scored a cube: they take turns."""
    epochs = list(zip(read_epochs(trained.one), read_epochs(trained.two), strict=True))
    assert len(epochs) == EPOCHS - 1
    pairs = [(a.scores[part], b.scores[part]) for a, b in epochs for part in PARTS]
    e, test = trained.experiment, Reader(trained.store.test, CPU)
    one, two = (Scorer(e, load(e, folder, CPU), CPU)(test) for folder in (trained.one, trained.two))
    for alone, together in [*pairs, *((one[part], two[part]) for part in PARTS)]:
        assert spearmanr(alone, together).statistic > 0.999
        for worker in (0, 1):
            assert np.median(np.abs(together / alone - 1)[worker::2]) < 5e-3


def test_held_out_cubes_are_scored_as_by_one_worker(trained: Trained) -> None:
    for alone, together in zip(read_epochs(trained.one), read_epochs(trained.two), strict=True):
        assert alone.held_out is not None
        assert together.held_out is not None
        both = alone.held_out, together.held_out
        one, two = ({"normal": found.normal["prediction"]} | by_kind(found) for found in both)
        assert list(one) == list(two) == ["normal", *held_out.KINDS]
        for kind in one:
            np.testing.assert_allclose(two[kind], one[kind], rtol=1e-2)


def by_kind(found: HeldOut) -> dict[str, npt.NDArray[np.float32]]:
    """The prediction's part of the scores of pseudo-anomalies."""
    return {kind: scores["prediction"] for kind, scores in found.pseudo.items()}


def test_a_record_tells_the_workers_and_little_else_differs(trained: Trained, tmp_path: Path) -> None:
    one, two = (
        evaluate(trained.experiment, trained.store, home, tmp_path / str(number))
        for number, home in enumerate(trained.homes())
    )
    assert (one.status, one.workers, one.restarts) == ("done", 1, 0)
    assert (two.status, two.workers, two.restarts, len(two.epochs)) == ("done", 2, 0, EPOCHS)
    for name, found, expected in (
        ("fused", two.metrics["auroc"], one.metrics["auroc"]),
        *((part, two.parts[part], one.parts[part]) for part in PARTS),
    ):
        assert found == pytest.approx(expected, abs=0.02), name


def train_workers() -> list[int]:
    """The processes that train, among those that this process's own Ray started."""
    parents, names = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it ended meanwhile
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            names[int(folder.name)] = (folder / "cmdline").read_text()

    def mine(pid: int) -> bool:
        return pid == os.getpid() or (pid in parents and mine(parents[pid]))

    return sorted(pid for pid, name in names.items() if "RayTrainWorker" in name and mine(pid))


def kill_one_worker(ready: Callable[[], bool], killed: list[int]) -> None:
    """Wait until training has come so far, then kill one of the workers as the kernel would."""
    end = time.monotonic() + 300
    while time.monotonic() < end:
        if ready() and (workers := train_workers()):
            os.kill(workers[-1], signal.SIGKILL)
            killed.append(workers[-1])
            return
        time.sleep(0.02)


@pytest.mark.slow
def test_training_goes_on_by_itself_after_a_worker_was_killed(trained: Trained, tmp_path: Path) -> None:
    killed: list[int] = []

    def ready() -> bool:
        return any(len(history(folder)) >= 2 for folder in (tmp_path / "runs").glob("*"))

    killer = threading.Thread(target=kill_one_worker, args=(ready, killed))
    killer.start()
    folder = fit(trained.experiment, trained.store, tmp_path, workers=2)
    killer.join()
    assert len(killed) == 1
    lines = history(folder)
    assert [line["epoch"] for line in lines] == list(range(1, EPOCHS + 1))
    assert lines[-1]["restarts"] == 1, "the worker was killed after training was done"
    assert is_trained(folder)
    assert (folder / "model.safetensors").read_bytes() == (trained.two / "model.safetensors").read_bytes()
    for line, expected in zip(lines, history(trained.two), strict=True):
        assert {name: line[name] for name in TERMS} == {name: expected[name] for name in TERMS}


def test_ctrl_c_ends_with_130_and_every_epoch_is_kept(trained: Trained, tmp_path: Path) -> None:
    home = Path(shutil.copytree(trained.homes()[1], tmp_path / "home", ignore=shutil.ignore_patterns("runs")))
    command: list[str | Path] = ["-m", "bench", "train", "--dataset", trained.experiment.dataset, "--home", home]
    fields = ["--train.epochs", "60", "--train.batch", "9", "--model.width", "2", "--cube.size", "16"]

    def epochs() -> list[int]:
        return [line["epoch"] for run in home.glob("runs/*") for line in history(run)]

    with started(*command, "--workers", "2", *fields, cwd=tmp_path) as (process, printed):
        wait_until(lambda: len(epochs()) >= 2, process)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130
    text = printed.read_text()
    assert "interrupted; nothing finished is lost. To resume:" in text
    assert "Traceback" not in text
    assert epochs() == list(range(1, len(epochs()) + 1))
    assert len(epochs()) < 60
    assert list(home.glob("runs/*/checkpoint.pt"))


def test_a_loss_that_is_not_finite_on_one_worker_ends_the_run(tmp_path: Path) -> None:
    e = an_experiment(model={"fusion": "appearance"})
    store = write_store(tmp_path, e)
    flows = np.load(store.path / "train" / "01" / "flows.npy", "r+")
    flows[7, 0, 0, 0, 0] = np.nan
    flows.flush()
    with pytest.raises(RunError, match="consistency became non-finite in epoch 1, which is given up"):
        fit(e, store, tmp_path, workers=2)


def test_more_workers_than_cpus_are_refused_at_once(tmp_path: Path) -> None:
    e = an_experiment(train={"batch": 1000, "held_out": 0.0})
    store = write_store(tmp_path, e, train_cubes=500)
    before = time.monotonic()
    with pytest.raises(ConfigError, match=r"--workers 500 needs 500 CPUs; there is 1 node with \d+ CPUs and 0 GPUs"):
        fit(e, store, tmp_path, workers=500)
    assert time.monotonic() - before < 10


@pytest.mark.parametrize(("workers", "batch"), [(0, 16), (-1, 16), (2, 3), (2, 2), (9, 16), (8, 8)])
def test_a_batch_that_is_too_small_for_the_workers_is_refused_at_once(tmp_path: Path, workers: int, batch: int) -> None:
    e = an_experiment(train={"epochs": 1, "batch": batch})
    with pytest.raises(ConfigError, match=f"--workers {workers}: from 1 to {batch // 2}, two cubes"):
        fit(e, write_store(tmp_path, e), tmp_path, workers=workers)
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_speeds_of_one_and_of_two_workers_are_measured_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"CUBES": 160, "FRAMES": 12}.items():
        monkeypatch.setattr(harness, name, value)
    monkeypatch.setattr(timing, "QUICK_REPEATS", 2)
    monkeypatch.setattr(timing, "QUICK_REPEAT_S", 0.0)
    threads = torch.get_num_threads()
    rows = list(harness.by_workers(True))
    assert [(row.stage, row.settings["workers"]) for row in rows] == [
        *(("prepare by workers", workers) for _ in SCENES for workers in (1, 2)),
        *((f"{stage} by workers", workers) for workers in (1, 2) for stage in ("train", "score")),
    ]
    assert all(row.median > 0 and row.threads == 1 and row.repeats == 2 for row in rows)
    assert torch.get_num_threads() == threads
