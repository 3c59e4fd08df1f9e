"""The reference as `bench.speed` times it: its steps, scores and cut videos equal ours, so equal work is compared."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from amsrc import boxes, flow
from amsrc.config import CubeConfig, ScoreConfig
from amsrc.cubes import cut
from amsrc.fuse import frame_scores, statistics
from amsrc.store import CubeStore
from bench.experiment.config import derive
from bench.methods.interface import Learner
from bench.methods.reader import Reader
from bench.speed import reference
from bench.speed.harness import tiny
from bench.speed.network import timed_experiment
from bench.speed.synthetic import store_of_noise, video_of_walkers
from bench.speed.timing import CPU
from bench.training.scoring import Scorer, build
from tests.parity.test_model import restated

WIDTH = 2
EXPERIMENT = derive(timed_experiment(WIDTH), train={"precision": "fp32"})


@pytest.fixture
def store(tmp_path: Path) -> CubeStore:
    return CubeStore(store_of_noise(tmp_path, tiny(0), length=40))


@pytest.fixture
def ours() -> Learner:
    return build(EXPERIMENT, CPU)


def theirs(learner: Learner) -> reference.Trainer:
    """A trainer of the same weights."""
    trainer = reference.Trainer(WIDTH, CPU)
    trainer.network.load_state_dict(restated(learner.networks["network"]).state_dict())  # type: ignore[arg-type]
    return trainer


def frames_of(trainer: reference.Trainer, store: CubeStore) -> np.ndarray:
    """The reference's frame scores, one video after the other."""
    standard = [reference.mean_and_sd(scores) for scores in trainer.scores(store.train)]
    cubes = zip(store.test.video.tolist(), store.test.frame.tolist(), *trainer.scores(store.test), strict=True)
    counts = [shard.video_frames for shard in store.test.shards]
    return np.concatenate(reference.frame_scores(cubes, counts, *standard))


def test_steps_have_the_same_losses(store: CubeStore, ours: Learner) -> None:
    trainer, (optimiser,) = theirs(ours), ours.begin("train").values()
    reader, dataset = Reader(store.train, CPU), reference.CubeDataset(store.train)
    for step in range(4):
        rows = np.arange(step * 16, step * 16 + 16)
        loss = ours.losses(dict(ours.networks.items()), reader.batch(rows), "network")["loss"]
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        sample = [torch.stack(part) for part in zip(*(dataset[row] for row in rows), strict=True)]
        assert trainer.step(sample) == pytest.approx(loss.item(), rel=1e-4)


def test_cubes_and_frames_have_the_same_scores(store: CubeStore, ours: Learner) -> None:
    trainer, scorer, splits = theirs(ours), Scorer(EXPERIMENT, ours, CPU), (store.train, store.test)
    train, test = (scorer(Reader(cubes, CPU)) for cubes in splits)
    for mine, plain in zip((train, test), map(trainer.scores, splits), strict=True):
        np.testing.assert_allclose(mine["consistency"], plain[0], atol=1e-5)
        np.testing.assert_allclose(mine["prediction"], plain[1], rtol=1e-4)
    cubes, counts = store.test, [shard.video_frames for shard in store.test.shards]
    config = ScoreConfig(weights=(1.0, 0.01))
    expected = frame_scores(test, cubes.video, cubes.frame, counts, statistics(train), config)
    np.testing.assert_allclose(frames_of(trainer, store), np.concatenate(expected), rtol=1e-2, atol=1e-2)


def test_a_training_ends_in_the_auroc_of_its_own_scores(store: CubeStore) -> None:
    trainer = reference.Trainer(WIDTH, CPU)
    *_, last = trainer.fit(store, 2)
    labels = [label[4:] for label in store.labels("official").values()]
    assert last == roc_auc_score(np.concatenate(labels), frames_of(trainer, store))


@pytest.mark.parametrize("kind", ["360x240 grey jpg", "640x360 colour avi"])
def test_the_same_cubes_are_cut(tmp_path: Path, kind: str) -> None:
    cube, video = CubeConfig(), video_of_walkers(tmp_path, kind, 10)
    frames = list(video.read())
    boxes_of, flow_of = boxes.moving(cube.boxes), flow.dis(cube.flow)
    found = list(cut("01", frames, boxes_of, flow_of, cube))
    pictures, motions = reference.cut_video("01", frames, boxes_of, flow_of)
    assert len(pictures)
    assert (np.concatenate([one.frames_MTCHW for one in found]) == pictures).all()
    assert (np.concatenate([one.flows_MTCHW for one in found]) == motions).all()
