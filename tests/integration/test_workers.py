"""Training on two Ray workers: the sums they make, a worker that dies, and a job that cannot be placed."""

import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from amsrc import losses
from amsrc.errors import ConfigError, RunError
from amsrc.model import AMSRC
from amsrc.store import CubeStore
from bench import pseudo, speed, timing
from bench.config import Experiment
from bench.evaluate import evaluate
from bench.made_up import SCENES
from bench.runs import history, is_trained, read_epochs
from bench.scoring import Feed, score, score_held_out
from bench.train import batches, fit, load_model
from tests.cubes_made import an_experiment, write_store

pytestmark = [pytest.mark.timeout(600), pytest.mark.usefixtures("ray_cluster")]

EPOCHS = 6
CPU = torch.device("cpu")
Scores = tuple[np.ndarray, np.ndarray]
TERMS = ("loss", "intensity", "gradient", "consistency")


@dataclass(frozen=True)
class Trained:
    """A finished run on two workers."""

    experiment: Experiment
    store: CubeStore
    home: Path
    folder: Path


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, ray_cluster: None) -> Trained:
    """Two workers, nothing goes wrong."""
    home = tmp_path_factory.mktemp("two")
    e = an_experiment(train={"epochs": EPOCHS})
    store = write_store(home, e)
    return Trained(e, store, home, fit(e, store, home, workers=2))


def scores_of(network: AMSRC, e: Experiment, store: CubeStore) -> Scores:
    return score(network, Feed(store.test, e.model, CPU), np.arange(len(store.test)), e.train)


class ByHand:
    """What two workers do, one after the other in this process and without DistributedDataParallel.

    Each sees its half of a batch and normalises over that half; the gradients are averaged; the running
    statistics of BatchNorm are the first worker's.
    """

    def __init__(self, e: Experiment, store: CubeStore) -> None:
        torch.manual_seed(e.seed)
        self.e, self.store = e, store
        self.network = AMSRC(e.model, e.cube).to(memory_format=torch.channels_last)
        self.optimiser = torch.optim.Adam(self.network.parameters(), lr=e.train.learning_rate)
        self.feed = Feed(store.train, e.model, CPU)
        self.kept = pseudo.kept(store.train, e.train.held_out)

    def epoch(self, number: int) -> dict[str, float]:
        """Train for an epoch; returns the mean of each term."""
        self.network.train()
        e, found, sizes = self.e, [], []
        shares = [batches(len(self.kept), e.train.batch, e.seed, number, rank, 2) for rank in (0, 1)]
        for first, second in zip(*shares, strict=True):
            self.optimiser.zero_grad()
            kept = {name: buffer.clone() for name, buffer in self.network.named_buffers()}
            found.append(self.share(second))
            for name, buffer in self.network.named_buffers():
                buffer.copy_(kept[name])
            found.append(self.share(first))
            sizes += [len(second), len(first)]
            self.optimiser.step()
        return {name: float(np.average([terms[name] for terms in found], weights=sizes)) for name in TERMS}

    def share(self, rows: np.ndarray) -> dict[str, float]:
        """Add half of the gradient of one worker's rows."""
        appearance, motion, target = self.feed.batch(self.kept[rows])
        found = losses.terms(self.network(appearance, motion), target, self.network, self.e.loss)
        loss = losses.total(found, self.e.loss)
        (loss / 2).backward()
        return {name: float(value.detach()) for name, value in {**found, "loss": loss}.items()}


@pytest.fixture(scope="module")
def by_hand(two: Trained) -> list[tuple[dict[str, float], Scores]]:
    """The same training by hand: after every epoch the means of its terms and the scores of the test cubes."""
    slow = ByHand(two.experiment, two.store)
    return [(slow.epoch(n), scores_of(slow.network, two.experiment, two.store)) for n in range(1, EPOCHS + 1)]


def test_two_workers_make_the_sums_that_are_made_by_hand(
    two: Trained, by_hand: list[tuple[dict[str, float], Scores]]
) -> None:
    lines = history(two.folder)
    assert [line["epoch"] for line in lines] == list(range(1, EPOCHS + 1))
    assert [(line["workers"], line["restarts"]) for line in lines] == [(2, 0)] * EPOCHS
    for line, (terms, _) in zip(lines, by_hand, strict=True):
        assert {name: line[name] for name in TERMS} == pytest.approx(terms, rel=1e-3), line["epoch"]
    found = scores_of(load_model(two.experiment, two.folder, CPU), two.experiment, two.store)
    for mine, expected in zip(found, by_hand[-1][1], strict=True):
        assert np.median(off(mine, expected)) < 0.01
        assert spearmanr(mine, expected).statistic > 0.99


def off(scores: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Relative differences. Biases before BatchNorm drift by chance, which moves all scores a little."""
    return np.abs(scores - expected) / expected


def test_scores_of_an_epoch_do_not_show_which_worker_made_them(
    two: Trained, by_hand: list[tuple[dict[str, float], Scores]]
) -> None:
    """The workers take turns with the cubes; the second one's are no further off than the first one's."""
    for epoch in range(1, EPOCHS):
        with np.load(two.folder / "epochs" / f"{epoch:03d}.npz", allow_pickle=False) as kept:
            for name, expected in zip(("s_f", "s_p"), by_hand[epoch - 1][1], strict=True):
                found = off(kept[name], expected)
                assert np.median(found[0::2]) < 0.01, f"{name} of epoch {epoch}"
                assert np.median(found[1::2]) < 3 * np.median(found[0::2]) + 1e-4, f"{name} of epoch {epoch}"


def test_held_out_cubes_are_scored_with_the_weights_of_both_workers(two: Trained) -> None:
    epochs = read_epochs(two.folder)
    assert [epoch.number for epoch in epochs] == list(range(1, EPOCHS))
    slow = ByHand(two.experiment, two.store)
    for epoch in epochs:
        slow.epoch(epoch.number)
        e, found = two.experiment, epoch.held_out
        expected = score_held_out(slow.network, two.store.train, e.model, e.train, CPU)
        assert found is not None
        assert expected is not None
        assert np.median(off(found.normal_p, expected.normal_p)) < 0.01
        for kind in pseudo.KINDS:
            assert np.median(off(found.pseudo_f[kind], expected.pseudo_f[kind])) < 0.02, kind
            assert np.median(off(found.pseudo_p[kind], expected.pseudo_p[kind])) < 0.02, kind


def test_two_workers_learn_what_one_learns(two: Trained, tmp_path: Path) -> None:
    """Close, not equal: on CPU each worker normalises over its own half of the batch."""
    one = fit(two.experiment, two.store, tmp_path)
    for mine, theirs in zip(history(one), history(two.folder), strict=True):
        assert mine["learning_rate"] == theirs["learning_rate"]
        assert theirs["loss"] == pytest.approx(mine["loss"], rel=0.15)
    pair = [
        scores_of(load_model(two.experiment, folder, CPU), two.experiment, two.store) for folder in (one, two.folder)
    ]
    assert spearmanr(pair[0][1], pair[1][1]).statistic > 0.9
    record = evaluate(two.experiment, two.store, two.home, tmp_path / "results")
    assert (record.status, record.workers, record.restarts, len(record.epochs)) == ("done", 2, 0, EPOCHS)


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


def test_training_goes_on_by_itself_after_a_worker_was_killed(two: Trained, tmp_path: Path) -> None:
    killed: list[int] = []

    def ready() -> bool:
        return any(len(history(folder)) >= 2 for folder in (tmp_path / "runs").glob("*"))

    killer = threading.Thread(target=kill_one_worker, args=(ready, killed))
    killer.start()
    folder = fit(two.experiment, two.store, tmp_path, workers=2)
    killer.join()
    assert len(killed) == 1
    lines = history(folder)
    assert [line["epoch"] for line in lines] == list(range(1, EPOCHS + 1))
    assert lines[-1]["restarts"] == 1, "the worker was killed after training was done"
    assert is_trained(folder)
    assert (folder / "model.safetensors").read_bytes() == (two.folder / "model.safetensors").read_bytes()
    for line, expected in zip(lines, history(two.folder), strict=True):
        assert {name: line[name] for name in TERMS} == {name: expected[name] for name in TERMS}


def test_a_loss_that_is_not_finite_on_one_worker_ends_the_run(tmp_path: Path) -> None:
    e = an_experiment(model={"fusion": "appearance"})
    store = write_store(tmp_path, e)
    flows = np.load(store.path / "train" / "01" / "flows.npy", "r+")
    flows[7, 0, 0, 0, 0] = np.nan
    flows.flush()
    with pytest.raises(RunError, match="consistency became non-finite in epoch 1; that step was not taken"):
        fit(e, store, tmp_path, workers=2)


def test_more_workers_than_cpus_are_refused_at_once(tmp_path: Path) -> None:
    e = an_experiment(train={"batch": 1000, "held_out": 0.0})
    store = write_store(tmp_path, e, train_cubes=500)
    before = time.monotonic()
    with pytest.raises(ConfigError, match=r"--workers 500 needs as many CPUs; the cluster has \d+\. Ask for fewer"):
        fit(e, store, tmp_path, workers=500)
    assert time.monotonic() - before < 10


@pytest.mark.parametrize(("workers", "batch"), [(0, 16), (-1, 16), (2, 3), (2, 2), (3, 16), (8, 8)])
def test_a_batch_that_workers_cannot_share_is_refused_at_once(tmp_path: Path, workers: int, batch: int) -> None:
    """BatchNorm needs two cubes a worker."""
    e = an_experiment(train={"epochs": 1, "batch": batch})
    with pytest.raises(ConfigError, match=f"--workers.*{workers}"):
        fit(e, write_store(tmp_path, e), tmp_path, workers=workers)
    assert not (tmp_path / "runs").exists()


def test_speeds_of_one_and_of_two_workers_are_measured_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"CUBES": 160, "FRAMES": 12}.items():
        monkeypatch.setattr(speed, name, value)
    monkeypatch.setattr(timing, "QUICK_REPEATS", 2)
    monkeypatch.setattr(timing, "QUICK_REPEAT_S", 0.0)
    threads = torch.get_num_threads()
    rows = list(speed.by_workers(True))
    assert [(row.stage, row.settings["workers"]) for row in rows] == [
        *(("prepare by workers", workers) for _ in SCENES for workers in (1, 2)),
        *((f"{stage} by workers", workers) for workers in (1, 2) for stage in ("train", "score")),
    ]
    assert all(row.median > 0 and row.threads == 1 and row.repeats == 2 for row in rows)
    assert torch.get_num_threads() == threads
