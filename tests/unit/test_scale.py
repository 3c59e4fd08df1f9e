"""What a cell asks for: counts by hand, sizes against the network and the store themselves."""

import numpy as np
import pytest

from amsrc.config import CubeConfig, ModelConfig
from amsrc.cubes import FrameCubes
from amsrc.model import AMSRC
from amsrc.store import write_shard
from bench import scale
from bench.config import derive
from bench.recipes import build
from bench.scale import Work

# Counts


def test_the_work_of_a_cell_is_counted() -> None:
    e = derive(build("amsrc", "ped2"), train={"epochs": 10, "batch": 100, "score_every": 3, "held_out": 0.1})
    found = scale.work(e, 30_000, 60_000)
    pseudo = 6 * 1024  # as they are and five kinds made of them
    assert found.trained == pytest.approx(10 * 27_000)
    assert found.steps == pytest.approx(10 * 270)
    assert found.between == pytest.approx(3 * (60_000 + 2048 + pseudo))  # after epochs 3, 6 and 9
    assert found.after == pytest.approx(90_000 + pseudo)


def test_without_scored_epochs_and_held_out_videos_there_is_less() -> None:
    e = derive(build("amsrc", "ped2"), train={"epochs": 10, "batch": 100, "score_every": 0, "held_out": 0.0})
    assert scale.work(e, 30_000, 60_000) == Work(300_000.0, 0, 90_000.0, 3000.0)


@pytest.mark.parametrize("fusion", ["gate", "add", "concat", "appearance", "none"])
@pytest.mark.parametrize(("width", "channels", "frames"), [(64, 3, 5), (8, 1, 3)])
def test_parameters_are_those_of_the_network(fusion: str, width: int, channels: int, frames: int) -> None:
    model = ModelConfig(fusion=fusion, width=width, channels=channels)  # type: ignore[arg-type]
    cube = CubeConfig(frames=frames)
    assert scale.parameters(model, cube) == sum(p.numel() for p in AMSRC(model, cube).parameters())


@pytest.mark.parametrize(("channels", "known"), [(3, 31_764), (1, 21_524)])
def test_the_bytes_of_a_cube_are_those_on_disk(tmp_path: object, channels: int, known: int) -> None:
    cube, n = CubeConfig(), 7
    shape = (cube.frames, channels, cube.size, cube.size)
    frames = np.zeros((n, *shape), np.uint8)
    flows = np.zeros((n, cube.frames - 1, 2, cube.size, cube.size), np.float16)
    made = FrameCubes(0, np.zeros((n, 4), np.float32), frames, flows)
    write_shard(tmp_path, "train", "01", [made], 1, shape)  # type: ignore[arg-type]
    arrays = [np.load(path) for path in tmp_path.rglob("*.npy")]  # type: ignore[attr-defined]
    assert scale.cube_bytes(cube, channels) == known == sum(array.nbytes for array in arrays) / n


@pytest.mark.parametrize(("workers", "times"), [(1, 0.0), (2, 1.0), (4, 1.5), (64, 2 * 63 / 64)])
def test_each_worker_of_a_ring_sends_all_but_its_part_twice(workers: int, times: float) -> None:
    assert scale.gradient_bytes(1000, workers) == pytest.approx(times * 4000)


def test_a_checkpoint_holds_weights_and_two_moments() -> None:
    assert scale.checkpoint_bytes(1000, 3) == 36_000
