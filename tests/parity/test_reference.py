"""The reference as `bench.speed` times it: its steps, scores and cut videos equal ours, so equal work is compared."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from amsrc import boxes, flow, losses
from amsrc.config import CubeConfig, LossConfig, ModelConfig, ScoreConfig, TrainConfig
from amsrc.cubes import cut
from amsrc.fuse import frame_scores, statistics
from amsrc.model import AMSRC
from amsrc.store import CubeStore
from bench.speed import reference
from bench.speed.harness import tiny
from bench.speed.synthetic import store_of_noise, video_of_walkers
from bench.speed.timing import CPU
from bench.training.scoring import Feed, score
from tests.parity.test_model import restated

WIDTH = 2


@pytest.fixture
def store(tmp_path: Path) -> CubeStore:
    return CubeStore(store_of_noise(tmp_path, tiny(0), length=40))


@pytest.fixture
def ours() -> AMSRC:
    torch.manual_seed(0)
    return AMSRC(ModelConfig(width=WIDTH)).to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def theirs(network: AMSRC) -> reference.Trainer:
    """A trainer of the same weights."""
    trainer = reference.Trainer(WIDTH, CPU)
    trainer.network.load_state_dict(restated(network).state_dict())
    return trainer


def frames_of(trainer: reference.Trainer, store: CubeStore) -> np.ndarray:
    """The reference's frame scores, one video after the other."""
    standard = [reference.mean_and_sd(scores) for scores in trainer.scores(store.train)]
    cubes = zip(store.test.video.tolist(), store.test.frame.tolist(), *trainer.scores(store.test), strict=True)
    counts = [shard.video_frames for shard in store.test.shards]
    return np.concatenate(reference.frame_scores(cubes, counts, *standard))


def test_steps_have_the_same_losses(store: CubeStore, ours: AMSRC) -> None:
    trainer, weights = theirs(ours), LossConfig()
    optimiser = torch.optim.Adam(ours.parameters(), lr=2e-4, fused=True)
    feed, dataset = Feed(store.train, ModelConfig(width=WIDTH), CPU), reference.CubeDataset(store.train)
    for step in range(4):
        rows = np.arange(step * 16, step * 16 + 16)
        appearance, motion, target = feed.batch(rows)
        loss = losses.total(losses.terms(ours(appearance, motion), target, ours, weights), weights)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        sample = [torch.stack(part) for part in zip(*(dataset[row] for row in rows), strict=True)]
        assert trainer.step(sample) == pytest.approx(loss.item(), rel=1e-4)


def test_cubes_and_frames_have_the_same_scores(store: CubeStore, ours: AMSRC) -> None:
    trainer, model = theirs(ours), ModelConfig(width=WIDTH)
    splits = (store.train, store.test)
    mine = [
        score(ours, Feed(cubes, model, CPU), np.arange(len(cubes)), TrainConfig(precision="fp32")) for cubes in splits
    ]
    for a, b in zip(mine, map(trainer.scores, splits), strict=True):
        np.testing.assert_allclose(a[0], b[0], atol=1e-5)
        np.testing.assert_allclose(a[1], b[1], rtol=1e-4)
    test, counts = store.test, [shard.video_frames for shard in store.test.shards]
    config = ScoreConfig(weight_f=1.0, weight_p=0.01)
    expected = frame_scores(*mine[1], test.video, test.frame, counts, statistics(*mine[0]), config)
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
