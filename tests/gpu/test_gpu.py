"""What only a GPU can show: bf16 training, cubes that stay on the device, and scores that precision does not upset."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from amsrc.store import CubeStore
from bench.evaluation.evaluate import evaluate
from bench.experiment.config import Experiment, derive
from bench.methods import reader
from bench.methods.reader import Reader
from bench.records.run_folder import history
from bench.training import launch
from bench.training.checkpoint import load
from bench.training.launch import fit
from bench.training.scoring import Scorer, build
from tests.cubes_made import Killed, an_experiment, write_store

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU; this machine has none"),
]
CUDA, CPU = torch.device("cuda", 0), torch.device("cpu")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Experiment, CubeStore]:
    e = an_experiment(model={"width": 8}, train={"epochs": 6})
    return e, write_store(tmp_path_factory.mktemp("home"), e)


@pytest.fixture(scope="module")
def trained(made: tuple[Experiment, CubeStore], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder, trained with the precision that a GPU chooses by itself."""
    return fit(*made, tmp_path_factory.mktemp("trained"))


@pytest.fixture
def gathered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No room on the device: every batch comes from the memory map."""
    monkeypatch.setattr(reader, "RESIDENT_PART", 0.0)
    yield


def test_training_takes_bf16_where_the_gpu_has_it_and_stays_finite(trained: Path) -> None:
    lines = history(trained)
    assert len(lines) == 6
    expected = "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    assert {line["precision"] for line in lines} == {expected}
    for line in lines:
        assert all(np.isfinite(line[name]) for name in ("loss", "intensity", "gradient", "consistency"))
        assert line["peak_memory_gib"] > 0
    assert lines[-1]["loss"] < lines[0]["loss"]


def test_bf16_is_in_the_network_and_not_in_weights_losses_or_scores(made: tuple[Experiment, CubeStore]) -> None:
    e, store = made
    e = derive(e, train={"precision": "bf16"})
    learner = build(e, CUDA)
    dtypes: list[torch.dtype] = []
    for module in learner.networks.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(lambda _module, _inputs, output: dtypes.append(output.dtype))
    found = learner.losses(dict(learner.networks.items()), Reader(store.train, CUDA).batch(np.arange(16)), "network")
    assert set(dtypes) == {torch.bfloat16}
    assert {value.dtype for value in found.values()} == {torch.float32}
    found["loss"].backward()
    assert {parameter.dtype for parameter in learner.networks.parameters()} == {torch.float32}
    assert all(torch.isfinite(parameter.grad).all() for parameter in learner.networks.parameters())
    scores = Scorer(e, learner, CUDA)(Reader(store.test, CUDA).only(np.arange(32)))
    assert {part.dtype for part in scores.values()} == {np.dtype(np.float32)}


def test_cubes_on_the_device_are_the_cubes_of_the_store(made: tuple[Experiment, CubeStore]) -> None:
    _, store = made
    rows = np.random.default_rng(0).permutation(len(store.train))[:33]
    on_device = Reader(store.train, CUDA)
    assert torch.cuda.memory_allocated(CUDA) >= store.train.nbytes
    for on_gpu, expected in zip(on_device.batch(rows), Reader(store.train, CPU).batch(rows), strict=True):
        assert on_gpu.device.type == "cuda"
        torch.testing.assert_close(on_gpu.cpu(), expected, rtol=0, atol=0)


def test_gathered_batches_equal_resident_ones(
    made: tuple[Experiment, CubeStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, store = made
    rows = np.random.default_rng(1).permutation(len(store.test))[:50]
    resident = Reader(store.test, CUDA).batch(rows)
    monkeypatch.setattr(reader, "RESIDENT_PART", 0.0)
    held = torch.cuda.memory_allocated(CUDA)
    gathered = Reader(store.test, CUDA)
    assert torch.cuda.memory_allocated(CUDA) == held, "nothing is put on the device before it is needed"
    for one, other in zip(resident, gathered.batch(rows), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
        assert one.stride() == other.stride()


@pytest.mark.usefixtures("gathered")
def test_training_from_the_memory_map_learns_the_same(
    made: tuple[Experiment, CubeStore], trained: Path, tmp_path: Path
) -> None:
    lines = history(fit(*made, tmp_path))
    for line, expected in zip(lines, history(trained), strict=True):
        assert line["loss"] == pytest.approx(expected["loss"], rel=0.05)


def test_precision_hardly_changes_the_ranking(made: tuple[Experiment, CubeStore], trained: Path) -> None:
    e, store = made

    def scores(precision: str, device: torch.device) -> dict[str, Any]:
        exact = derive(e, train={"precision": precision})
        return dict(Scorer(exact, load(e, trained, device), device)(Reader(store.test, device)))

    full, low, on_cpu = scores("fp32", CUDA), scores("bf16", CUDA), scores("fp32", CPU)
    for part in e.parts:
        assert spearmanr(full[part], low[part]).statistic > 0.98
        np.testing.assert_allclose(full[part], on_cpu[part], rtol=0.02, atol=1e-3)  # TF32 may be on


def test_full_precision_on_the_gpu_learns_what_the_cpu_learns(
    made: tuple[Experiment, CubeStore], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    e, store = made
    e = derive(e, train={"precision": "fp32", "epochs": 3})
    on_gpu = history(fit(e, store, tmp_path / "gpu"))
    monkeypatch.setattr(launch, "device_of", lambda: CPU)
    on_cpu = history(fit(e, store, tmp_path / "cpu"))
    for a, b in zip(on_gpu, on_cpu, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=0.02)


def test_a_killed_training_goes_on_on_the_gpu(
    made: tuple[Experiment, CubeStore], trained: Path, tmp_path: Path
) -> None:
    def report(line: dict[str, int]) -> None:
        if line["epoch"] == 3:
            raise Killed

    with pytest.raises(Killed):
        fit(*made, tmp_path, report=report)
    lines = history(fit(*made, tmp_path))
    assert [(line["epoch"], line["restarts"]) for line in lines] == [(n, int(n > 3)) for n in range(1, 7)]
    for line, expected in zip(lines, history(trained), strict=True):
        assert line["loss"] == pytest.approx(expected["loss"], rel=0.05)


def test_a_run_is_evaluated_on_the_gpu(made: tuple[Experiment, CubeStore], tmp_path: Path) -> None:
    e, store = made
    fit(e, store, tmp_path)
    record = evaluate(e, store, tmp_path, tmp_path / "results")
    assert record.status == "done"
    assert 0 <= record.metrics["auroc"] <= 1
    assert torch.cuda.get_device_name(0) in record.hardware["gpus"]
