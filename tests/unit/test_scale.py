"""The model of costs: small cases by hand, sizes against the network itself, growth, and who is to blame."""

from dataclasses import replace

import numpy as np
import pytest

from amsrc.config import CubeConfig, ModelConfig
from amsrc.cubes import FrameCubes
from amsrc.model import AMSRC
from amsrc.store import write_shard
from bench import scale
from bench.config import derive
from bench.recipes import build
from bench.scale import Load, Network, Preparing, Rates, Stage, Work, stages

LOAD = Load(1000, 4, 6000, 2000, 100, Network(250, 10), Work(48_000.0, 4000.0, 8000.0, 300.0, 5))
RATES = Rates(
    preparing=Preparing(0.01, 0.001),
    train=80.0,
    score=200.0,
    step_s=0.0,
    gradients=1e9,
    fetch=8e4,
    copy=4e4,
    read=1e9,
    read_alone=1e9,
    fuse_s=1e-3,
)


# Counts


def test_the_work_of_a_cell_is_counted() -> None:
    e = derive(build("amsrc", "ped2"), train={"epochs": 10, "batch": 100, "score_every": 3, "held_out": 0.1})
    found = scale.work(e, 30_000, 60_000)
    pseudo = 6 * 1024  # as they are and five kinds made of them
    assert found.trained == pytest.approx(10 * 27_000)
    assert found.steps == pytest.approx(10 * 270)
    assert found.between == pytest.approx(3 * (60_000 + 2048 + pseudo))  # after epochs 3, 6 and 9
    assert found.after == pytest.approx(90_000 + pseudo)
    assert found.tried == 1001 + 4 * 102


def test_without_scored_epochs_and_held_out_videos_there_is_less() -> None:
    e = derive(build("amsrc", "ped2"), train={"epochs": 10, "batch": 100, "score_every": 0, "held_out": 0.0})
    assert scale.work(e, 30_000, 60_000) == Work(300_000.0, 0, 90_000.0, 3000.0, 1001 + 102)


@pytest.mark.parametrize("fusion", ["gate", "add", "concat", "appearance", "none"])
@pytest.mark.parametrize(("width", "channels", "frames"), [(64, 3, 5), (8, 1, 3)])
def test_parameters_are_those_of_the_network(fusion: str, width: int, channels: int, frames: int) -> None:
    model = ModelConfig(fusion=fusion, width=width, channels=channels)  # type: ignore[arg-type]
    cube = CubeConfig(frames=frames)
    assert scale.network(model, cube).parameters == sum(p.numel() for p in AMSRC(model, cube).parameters())


def test_multiply_adds_are_those_counted_layer_by_layer() -> None:
    cube = CubeConfig()
    assert scale.network(ModelConfig(), cube).multiply_adds == 641_138_688  # tests/parity/test_model.py
    larger = scale.network(ModelConfig(), replace(cube, size=64)).multiply_adds
    assert larger == 4 * 641_138_688


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


# Time


def seconds(load: Load = LOAD, rates: Rates = RATES, workers: int = 1, cores: int = 2) -> dict[str, float]:
    return {stage.name: stage.seconds for stage in stages(load, rates, workers, cores)}


def test_every_stage_by_hand() -> None:
    assert seconds() == pytest.approx(
        {
            "prepare": (1000 * 0.01 + 8000 * 0.001) / 2,
            "fetch": 800_000 / 4e4,
            "train": 600.0,
            "score epochs": 20.0,
            "score": 40.0,
            "choose": 10.0,
        }
    )


def test_workers_share_training_and_the_scoring_between_epochs_alone() -> None:
    one, four = seconds(), seconds(workers=4)
    assert {name: one[name] / four[name] for name in one} == pytest.approx(
        {"prepare": 1, "fetch": 1, "train": 4, "score epochs": 4, "score": 1, "choose": 1}
    )


def test_what_workers_lose_counts_while_they_are_several() -> None:
    lossy = replace(RATES, train_kept=0.5, score_kept=0.25)
    assert seconds(rates=lossy) == seconds()
    two, without = seconds(rates=lossy, workers=2), seconds(workers=2)
    assert {name: two[name] / without[name] for name in two} == pytest.approx(
        {"prepare": 1, "fetch": 1, "train": 2, "score epochs": 4, "score": 1, "choose": 1}
    )


def test_what_cores_lose_counts_while_they_are_several() -> None:
    lossy = replace(RATES, prepare_kept=0.5)
    assert seconds(rates=lossy, cores=1)["prepare"] == seconds(cores=1)["prepare"] == pytest.approx(18.0)
    assert seconds(rates=lossy, cores=2)["prepare"] == pytest.approx(18.0)
    assert seconds(rates=lossy, cores=4)["prepare"] == pytest.approx(9.0)


def test_who_scores_at_the_end_reads_alone() -> None:
    slow = replace(RATES, read=2e4, read_alone=1e4)
    for stage in stages(LOAD, slow, 2, 2)[4:5]:
        assert (stage.name, stage.limit, stage.seconds) == ("score", "store read", pytest.approx(80.0))


def test_cores_beyond_the_videos_do_nothing() -> None:
    assert seconds(cores=4)["prepare"] == seconds(cores=400)["prepare"] == pytest.approx(4.5)
    assert stages(LOAD, RATES, 1, 3)[0].limit == "cores"
    assert stages(LOAD, RATES, 1, 4)[0].limit == "number of videos"


@pytest.mark.parametrize("times", [2, 100])
def test_time_grows_as_frames_and_cubes_do(times: int) -> None:
    e = derive(build("amsrc", "shanghaitech"), train={"held_out": 0.0, "score_every": 0})

    def load(n: int) -> Load:
        train, test = n * 100_000, n * 20_000
        return Load(n * 30_000, 1000, train, test, 100, Network(250, 10), scale.work(e, train, test))

    small, large = seconds(load(1)), seconds(load(times))
    assert large["score epochs"] == small["score epochs"] == 0.0
    for name in ("prepare", "fetch", "train", "score", "choose"):
        assert large[name] == pytest.approx(times * small[name]), name
    frames = replace(load(1), frames=60_000)
    assert seconds(frames)["prepare"] - small["prepare"] == pytest.approx(30_000 * 0.01 / 2)
    assert {**seconds(frames), "prepare": 0} == {**small, "prepare": 0}


@pytest.mark.parametrize(
    ("changes", "workers", "limit", "takes"),
    [
        ({}, 1, "device", 600.0),
        ({}, 2, "devices", 300.0),
        ({"step_s": 1.5}, 1, "device", 600.0),
        ({"step_s": 1.5}, 2, "step latency", 450.0),
        ({"gradients": 500.0}, 1, "device", 600.0),  # nobody to exchange with
        ({"gradients": 500.0}, 2, "gradient exchange", 600.0),
        ({"read": 6000.0}, 1, "store read", 800.0),
        ({"read": 6000.0}, 2, "store read", 400.0),
    ],
)
def test_training_lasts_as_long_as_its_busiest_resource(
    changes: dict[str, float], workers: int, limit: str, takes: float
) -> None:
    train = stages(LOAD, replace(RATES, **changes), workers, 2)[2]
    assert (train.name, train.limit, train.seconds) == ("train", limit, pytest.approx(takes))


def test_the_longest_stage_is_to_blame() -> None:
    found = [Stage("a", {"x": 1.0, "y": 5.0}), Stage("b", {"x": 6.0}), Stage("c", {"z": 2.0})]
    assert scale.longest(found).name == "b"
    assert scale.longest(found[::2]).limit == "y"
