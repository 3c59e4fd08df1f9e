"""What the speeds are compared with does the same work: same weights and cubes, same losses, scores and cubes cut."""

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

WIDTH = 2


@pytest.fixture
def store(tmp_path: Path) -> CubeStore:
    return CubeStore(store_of_noise(tmp_path, tiny(0), length=40))


@pytest.fixture
def ours() -> AMSRC:
    torch.manual_seed(0)
    return AMSRC(ModelConfig(width=WIDTH)).to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def theirs(network: AMSRC) -> reference.Trainer:
    """The same weights in the other network; both register their layers in the order of the paper's figure."""
    trainer = reference.Trainer(WIDTH, CPU)
    names = trainer.network.state_dict()
    found = network.state_dict()
    assert [value.shape for value in names.values()] == [value.shape for value in found.values()]
    trainer.network.load_state_dict(dict(zip(names, found.values(), strict=True)))
    return trainer


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
    found = [trainer.scores(cubes) for cubes in splits]
    for a, b in zip(mine, found, strict=True):
        np.testing.assert_allclose(a[0], b[0], atol=1e-5)
        np.testing.assert_allclose(a[1], b[1], rtol=1e-4)
    test, counts = store.test, [shard.video_frames for shard in store.test.shards]
    config = ScoreConfig(weight_f=1.0, weight_p=0.01)
    expected = frame_scores(*mine[1], test.video, test.frame, counts, statistics(*mine[0]), config)
    frames = reference.frame_scores(test, found[0], found[1], (1.0, 0.01))
    np.testing.assert_allclose(np.concatenate(frames), np.concatenate(expected), rtol=1e-2, atol=1e-2)


def test_a_training_ends_in_the_auroc_of_its_own_scores(store: CubeStore) -> None:
    trainer = reference.Trainer(WIDTH, CPU)
    *_, last = trainer.fit(store, 2)
    frames = reference.frame_scores(store.test, trainer.scores(store.train), trainer.scores(store.test), (1.0, 0.01))
    labels = [label[4:] for label in store.labels("official").values()]
    assert last == roc_auc_score(np.concatenate(labels), np.concatenate(frames))


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
