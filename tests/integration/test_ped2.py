"""The path on all of real UCSD Ped2 before any training: boxes from the circulated files, DIS, mean flow magnitude."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from amsrc.store import CubeStore
from bench.data.prepare import prepare
from bench.data.stores import Sources, summary
from bench.evaluation import evaluate
from bench.experiment.config import Experiment, override
from bench.experiment.recipes import build

pytestmark = pytest.mark.timeout(1200)  # 28 videos: a minute on two idle cores, much more on busy ones


@pytest.fixture(scope="module")
def prepared(shared: Path, ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[CubeStore, Path]:
    home = tmp_path_factory.mktemp("home")
    data = shared / "data" / "ped2"
    return prepare(of("null-flow"), Sources.of(data, f"file:{data}/boxes_{{split}}.npz", None), home), home


def of(recipe: str) -> Experiment:
    """A recipe on the circulated boxes."""
    return override(build(recipe, "ped2"), {"cube.boxes.provider": "file"})


def test_every_circulated_box_is_a_cube(prepared: tuple[CubeStore, Path]) -> None:
    store, _ = prepared
    assert (len(store.train), len(store.test)) == (31_089, 34_715)
    assert summary(store)["train_frames"] == 2_550
    assert summary(store)["test_frames"] == 2_010
    store.verify()


def test_mean_flow_magnitude_alone_finds_nearly_everything(prepared: tuple[CubeStore, Path], tmp_path: Path) -> None:
    """Something between frames and AUROC is wrong if it does not: labels, boxes, flow or smoothing out of step."""
    store, home = prepared
    record = evaluate.evaluate(of("null-flow"), store, home, tmp_path)
    assert sum(int(labels.sum()) for labels in store.labels("official").values()) == 1_648
    assert record.counts["scored_frames"] == 2_010 - 12 * 4
    auroc = record.metrics["auroc"]
    assert auroc is not None and 0.98 < auroc < 0.995


def test_the_pixel_masks_hold_the_known_regions(prepared: tuple[CubeStore, Path]) -> None:
    regions, labels = prepared[0].regions(), prepared[0].labels("official")
    assert regions is not None
    assert sum(map(len, regions.values())) == 2_411
    assert sum(len(np.unique(found[:, 5])) for found in regions.values()) == 19
    for video, found in regions.items():
        assert np.unique(found[:, 0]).tolist() == np.flatnonzero(labels[video]).tolist()


def test_what_learns_nothing_reaches_what_is_known_of_it(prepared: tuple[CubeStore, Path], tmp_path: Path) -> None:
    """The frame index alone: 74.1 % over all frames, 74.0 without the first four. Flow finds places, size does not."""
    store, home = prepared

    def metrics(recipe: str) -> dict[str, Any]:
        return evaluate.evaluate(of(recipe), store, home, tmp_path).metrics

    assert metrics("null-frame-index")["auroc"] == pytest.approx(0.7397, abs=5e-4)
    assert metrics("null-constant")["auroc"] == 0.5
    flow, area = metrics("null-flow"), metrics("null-area")
    assert flow["rbdc"] > 0.8 and flow["tbdc"] > 0.95
    assert area["auroc"] > 0.85 and area["rbdc"] < 0.3
