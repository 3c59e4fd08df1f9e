"""Scores of cubes, from a network or from the flow alone: in order, the same however they are cut into batches."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from amsrc.model import AMSRC, Output
from amsrc.store import CubeStore
from bench.experiment.config import Experiment, derive
from bench.methods import reader, trivial
from bench.methods.amsrc import AmsrcLearner
from bench.methods.reader import Made, Reader, chunks
from bench.methods.trivial import flow_magnitude
from bench.training import held_out
from bench.training.scoring import Scorer, arithmetic, build, device_of, folded
from tests.cubes_made import SIZE, an_experiment, write_store

CPU = torch.device("cpu")


def learner_of(e: Experiment, network: nn.Module) -> AmsrcLearner:
    """The learner of an experiment with this network."""
    learner = build(e, CPU)
    assert isinstance(learner, AmsrcLearner)
    learner.networks["network"] = network
    return learner


def scorer_of(e: Experiment, network: nn.Module, precision: str = "fp32") -> Scorer:
    e = derive(e, train={"precision": precision})
    return Scorer(e, learner_of(e, network), CPU)


def score(
    e: Experiment, network: nn.Module, store: CubeStore, rows: np.ndarray, precision: str = "fp32"
) -> list[np.ndarray]:
    """The parts of the score of test cubes, in the order of their names."""
    return list(scorer_of(e, network, precision)(Reader(store.test, CPU).only(rows)).values())


def inputs_of(e: Experiment, reader: Reader, rows: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
    """Appearance, motion and target as the network takes them."""
    return learner_of(e, AMSRC(e.settings.model, e.cube))._inputs(reader.batch(rows))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Experiment, CubeStore, AMSRC]:
    """An experiment, its store and a network whose BatchNorm has seen something."""
    e = an_experiment()
    store = write_store(tmp_path_factory.mktemp("home"), e)
    torch.manual_seed(0)
    network = AMSRC(e.settings.model, e.cube)
    appearance, motion, _ = inputs_of(e, Reader(store.train, CPU), np.arange(32))
    network(appearance, motion)
    return e, store, network


def test_a_batch_is_the_stored_cubes_scaled(made: tuple[Experiment, CubeStore, AMSRC]) -> None:
    e, store, _ = made
    rows = np.array([39, 0, 41, 40])  # out of order and over the border of two videos
    appearance, motion, target = inputs_of(e, Reader(store.train, CPU), rows)
    frames, flows = store.train.frames(rows), store.train.flows(rows)
    assert (appearance.dtype, motion.dtype, target.dtype) == (torch.float32,) * 3
    assert appearance.shape == (4, 12, SIZE, SIZE)
    assert motion.shape == (4, 8, SIZE, SIZE)
    np.testing.assert_allclose(target, frames[:, 4] / 255, rtol=1e-6)
    for cube in range(4):
        for time in range(4):
            shown = appearance[cube, 3 * time : 3 * time + 3]
            np.testing.assert_allclose(shown, frames[cube, time] / 255, rtol=1e-6)
            np.testing.assert_array_equal(motion[cube, 2 * time : 2 * time + 2], flows[cube, time])
    assert appearance.is_contiguous(memory_format=torch.channels_last)
    assert motion.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("size", [1, 7, 64, 203, 512])
def test_batches_do_not_show_in_the_scores(
    made: tuple[Experiment, CubeStore, AMSRC], monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    e, store, network = made
    rows = np.arange(len(store.test))
    whole = score(e, network, store, rows)
    monkeypatch.setitem(reader.SCORING_BATCH, "cpu", size)
    for found, expected in zip(score(e, network, store, rows), whole, strict=True):
        assert found.dtype == np.float32
        assert found.shape == (len(store.test),)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    assert len(np.unique(whole[1])) > 0.9 * len(rows)  # else the order would not show


def test_scores_come_in_the_order_that_was_asked_for(made: tuple[Experiment, CubeStore, AMSRC]) -> None:
    e, store, network = made
    shuffled = np.random.default_rng(0).permutation(len(store.test))
    in_order = score(e, network, store, np.arange(len(store.test)))
    for found, expected in zip(score(e, network, store, shuffled), in_order, strict=True):
        np.testing.assert_allclose(found, expected[shuffled], rtol=1e-4, atol=1e-6)


def test_the_network_is_scored_in_evaluation_mode_and_learns_nothing(
    made: tuple[Experiment, CubeStore, AMSRC],
) -> None:
    e, store, network = made
    network.train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    score(e, network, store, np.arange(32))
    assert network.training
    for name, value in network.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)
    assert all(parameter.grad is None for parameter in network.parameters())


@pytest.mark.parametrize("fusion", ["gate", "concat", "none"])
def test_folding_leaves_no_norm_and_the_same_scores(
    made: tuple[Experiment, CubeStore, AMSRC], fusion: Literal["gate", "concat", "none"]
) -> None:
    e, store, _ = made
    network = AMSRC(replace(e.settings.model, fusion=fusion), e.cube)
    for norm in (module for module in network.modules() if isinstance(module, nn.BatchNorm2d)):
        norm.running_mean = torch.randn(norm.num_features)
        norm.running_var = torch.rand(norm.num_features) + 0.5
    rows = np.arange(20)
    found = folded(network)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in found.modules())
    appearance, motion, _ = inputs_of(e, Reader(store.test, CPU), rows)
    with torch.inference_mode():
        for a, b in zip(network.eval()(appearance, motion), found(appearance, motion), strict=True):
            assert (a is None) == (b is None)
            if a is not None:
                torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


class Halves(nn.Module):
    """Predicts one half everywhere; its two features are at a right angle for every second cube."""

    def forward(self, appearance: Tensor, motion: Tensor) -> Output:
        n = len(appearance)
        ones = torch.ones(n, 2, 1, 1)
        other = torch.tensor([[1.0, 1.0], [1.0, -1.0]]).repeat(n, 1)[:n].view(n, 2, 1, 1)
        return Output(torch.full((n, 3, SIZE, SIZE), 0.5), ones, other)


def test_scores_against_a_hand_computation(made: tuple[Experiment, CubeStore, AMSRC]) -> None:
    e, store, _ = made
    rows = np.arange(10)
    consistency, prediction = score(e, Halves(), store, rows)
    np.testing.assert_allclose(consistency, [0, 1] * 5, atol=1e-6)
    target = store.test.frames(rows)[:, -1].astype(np.float64) / 255
    np.testing.assert_allclose(prediction, [((cube - 0.5) ** 2).sum() for cube in target], rtol=1e-5)


def test_no_cubes_have_no_scores(made: tuple[Experiment, CubeStore, AMSRC]) -> None:
    e, store, network = made
    for found in score(e, network, store, np.arange(0)):
        assert (found.shape, found.dtype) == ((0,), np.float32)


def test_without_a_motion_stream_the_prediction_is_the_only_part(made: tuple[Experiment, CubeStore, AMSRC]) -> None:
    _, store, _ = made
    e = an_experiment("baseline")
    found = scorer_of(e, AMSRC(e.settings.model, e.cube))(Reader(store.test, CPU).only(np.arange(9)))
    assert list(found) == ["prediction"]
    assert np.isfinite(found["prediction"]).all()


def test_lower_precision_stays_close_and_gives_full_precision_scores(
    made: tuple[Experiment, CubeStore, AMSRC],
) -> None:
    e, store, network = made
    full, low = (score(e, network, store, np.arange(64), precision) for precision in ("fp32", "bf16"))
    for a, b in zip(full, low, strict=True):
        assert b.dtype == np.float32
        np.testing.assert_allclose(b, a, rtol=0.05, atol=0.01)
        assert (a != b).any()


@pytest.mark.parametrize(
    ("has", "name", "dtype"),
    [
        ({}, "fp32", torch.float32),
        ({"avx512_bf16": False, "amx_bf16": False}, "fp32", torch.float32),
        ({"avx512_bf16": True}, "bf16", torch.bfloat16),
        ({"amx_bf16": True}, "bf16", torch.bfloat16),
    ],
)
def test_automatic_precision_is_what_the_cpu_multiplies(
    monkeypatch: pytest.MonkeyPatch, has: dict[str, bool], name: str, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has)
    found, cast = arithmetic("auto", CPU)
    with cast:
        assert found == name
        assert torch.mm(torch.ones(2, 2), torch.ones(2, 2)).dtype == dtype


def test_precision_can_be_asked_for() -> None:
    name, cast = arithmetic("bf16", CPU)
    with cast:
        assert name == "bf16"
        assert torch.mm(torch.ones(2, 2), torch.ones(2, 2)).dtype == torch.bfloat16


def test_the_device_is_the_cpu_where_there_is_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device_of() == CPU


def test_chunks_are_consecutive() -> None:
    assert [piece.tolist() for piece in chunks(np.arange(7), 3)] == [[0, 1, 2], [3, 4, 5], [6]]
    assert list(chunks(np.arange(0), 3)) == []


def test_a_reader_of_a_part_gives_those_cubes_in_that_order(made: tuple[Experiment, CubeStore, AMSRC]) -> None:
    _, store, _ = made
    rows = np.array([5, 3, 60, 4])
    part = Reader(store.train, CPU).only(rows)
    assert len(part) == 4
    np.testing.assert_array_equal(part.batch(np.array([2, 0])).frames, store.train.frames(np.array([60, 5])))
    np.testing.assert_array_equal(part.only(np.array([1])).batch(np.array([0])).flows, store.train.flows(np.array([3])))
    frames = torch.cat([batch.frames for batch in part.batches(3)])
    np.testing.assert_array_equal(frames, store.train.frames(rows))


def test_cubes_in_memory_are_read_like_stored_ones(made: tuple[Experiment, CubeStore, AMSRC]) -> None:
    e, store, network = made
    rows = np.arange(12)
    memory = scorer_of(e, network).made(store.test.frames(rows), store.test.flows(rows))
    for mine, theirs in zip(memory.values(), score(e, network, store, rows), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert Made(store.test.frames(rows), store.test.flows(rows)).nbytes == 12 * (5 * 3 + 4 * 2 * 2) * SIZE * SIZE


# -- held-out cubes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [5, 36, 512])
def test_held_out_scores_are_those_of_each_cube_by_itself(
    made: tuple[Experiment, CubeStore, AMSRC], monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    e, store, network = made
    monkeypatch.setitem(reader.SCORING_BATCH, "cpu", size)
    found = scorer_of(e, network).held_out(store.train)
    assert found is not None
    rows = np.arange(44, 80)  # video 02 without the cubes whose history is not whole
    frames, flows = store.train.frames(rows), store.train.flows(rows)
    cubes = held_out.anomalies(frames, flows)
    expected = {kind: one_by_one(network, *cubes[kind]) for kind in cubes}
    for mine, theirs in zip(found.normal.values(), one_by_one(network, frames, flows), strict=True):
        assert (mine.dtype, mine.shape) == (np.float32, (36,))
        np.testing.assert_allclose(mine, theirs, rtol=1e-3, atol=1e-6)
    assert list(found.pseudo) == list(held_out.KINDS)
    for kind, parts in expected.items():
        for mine, theirs in zip(found.pseudo[kind].values(), parts, strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-3, atol=1e-6)


@torch.no_grad()
def one_by_one(network: AMSRC, frames: np.ndarray, flows: np.ndarray) -> np.ndarray:
    """Consistency and prediction (2, n) by their definitions, each cube a batch of its own."""
    network.eval()
    scores = []
    for cube, flow in zip(frames, flows, strict=True):
        appearance = torch.from_numpy(cube[:-1].reshape(1, -1, SIZE, SIZE) / 255).float()
        motion = torch.from_numpy(flow.reshape(1, -1, SIZE, SIZE).astype(np.float32))
        output = network(appearance, motion)
        a, m = (feature.double().flatten().numpy() for feature in (output.appearance, output.motion))
        error = output.prediction[0].double().numpy() - cube[-1] / 255
        scores.append((1 - a @ m / np.sqrt((a @ a) * (m @ m)), (error**2).sum()))
    return np.array(scores).T


def test_the_same_weights_have_the_same_held_out_scores(made: tuple[Experiment, CubeStore, AMSRC]) -> None:
    e, store, network = made
    one, other = (scorer_of(e, network).held_out(store.train) for _ in range(2))
    assert one is not None
    assert other is not None
    for kind in held_out.KINDS:
        for part in e.parts:
            np.testing.assert_array_equal(one.pseudo[kind][part], other.pseudo[kind][part])


def test_what_a_kind_leaves_alone_keeps_its_score(made: tuple[Experiment, CubeStore, AMSRC]) -> None:
    """The consistency knows no target, so that a patch in it does not move it; every other kind moves both parts."""
    e, store, network = made
    found = scorer_of(e, network).held_out(store.train)
    assert found is not None
    np.testing.assert_array_equal(found.pseudo["patch"]["consistency"], found.normal["consistency"])
    assert (found.pseudo["patch"]["prediction"] != found.normal["prediction"]).mean() > 0.9
    for kind in ("flow-swap", "skip", "shuffle", "reverse"):
        for part in e.parts:
            assert (found.pseudo[kind][part] != found.normal[part]).mean() > 0.9


def test_the_baseline_has_held_out_prediction_errors_alone(made: tuple[Experiment, CubeStore, AMSRC]) -> None:
    e = an_experiment("baseline")
    found = scorer_of(e, AMSRC(e.settings.model, e.cube)).held_out(made[1].train)
    assert found is not None
    for parts in (found.normal, *found.pseudo.values()):
        assert list(parts) == ["prediction"]
        assert np.isfinite(parts["prediction"]).all()


@pytest.mark.parametrize(("cubes", "part"), [(40, 0.0), (5, 0.1), (4, 0.1), (0, 0.1)])
def test_no_pair_of_held_out_cubes_no_scores(tmp_path: Path, cubes: int, part: float) -> None:
    """The first four cubes of a video have no whole history, and one cube has no other."""
    e = an_experiment(train={"held_out": part})
    store = write_store(tmp_path, e, train_cubes=cubes)
    assert scorer_of(e, AMSRC(e.settings.model, e.cube)).held_out(store.train) is None


# -- null scores ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [1, 50, 2048])
def test_flow_magnitude_against_a_hand_computation(
    made: tuple[Experiment, CubeStore, AMSRC], monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    monkeypatch.setattr(trivial, "CHUNK", chunk)
    cubes = made[1].test
    found = flow_magnitude(cubes, seed=0)
    assert (found.dtype, found.shape) == (np.float32, (len(cubes),))
    for row in (0, 1, 79, len(cubes) - 1):
        flows = cubes.flows(np.array([row]))[0].astype(np.float64)
        vectors = [(flows[t, 0, y, x], flows[t, 1, y, x]) for t in range(4) for y in range(SIZE) for x in range(SIZE)]
        expected = sum((dx * dx + dy * dy) ** 0.5 for dx, dy in vectors) / len(vectors)
        assert found[row] == pytest.approx(expected, rel=1e-4)


def test_flow_magnitude_of_no_cubes(tmp_path: Path) -> None:
    store = write_store(tmp_path, an_experiment(), train_cubes=0)
    assert flow_magnitude(store.train, seed=0).shape == (0,)
