"""What a plan takes: counts, hours and cost by hand, and no number where nothing was measured."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from amsrc.config import AmsrcConfig, CubeConfig, ModelConfig
from amsrc.cubes import FrameCubes
from amsrc.model import AMSRC
from amsrc.store import write_shard
from bench.cluster.machine import Machine, Packing, packing
from bench.experiment.config import Experiment, derive, fingerprint
from bench.experiment.recipes import build
from bench.records.records import RunRecord
from bench.records.speeds import Row
from bench.sweeps.estimate import (
    Cubes,
    Estimate,
    Work,
    checkpoint_bytes,
    cube_bytes,
    cubes_of,
    estimate,
    gradient_bytes,
    parameters,
    work,
)
from bench.sweeps.grid import Cell
from tests.cubes_made import TEST, TRAIN, an_experiment, write_store
from tests.results_made import record_of

GPU = Machine(((4.0, 1.0),) * 2, "A10G", 1.5)
CPU = Machine(((4.0, 0.0),), "AMD EPYC")


def row(stage: str, median: float, *, width: int = 64, device: str = "NVIDIA A10G", threads: int | None = None) -> Row:
    settings: dict[str, int | float | str] = {"width": width, "size": 32}
    return Row(
        stage=stage,
        device=device,
        threads=threads,
        settings=settings,
        unit="cubes/s",
        median=median,
        spread=0.0,
        repeats=3,
    )


def overhead(seconds: float, device: str = "AMD EPYC", threads: int | None = 1) -> Row:
    return Row(
        stage="cell overhead",
        device=device,
        threads=threads,
        settings={},
        unit="s",
        median=seconds,
        spread=0.0,
        repeats=3,
    )


def a_cell(seed: int = 0, width: int = 64, epochs: int = 10, held_out: float = 0.0, recipe: str = "amsrc") -> Cell:
    experiment = build(recipe, "ped2", seed)
    train = {"epochs": epochs, "score_every": 0, "held_out": held_out}
    return Cell(derive(experiment, model={"width": width}, train=train), Path("stores/ped2"))


CUBES = {Path("stores/ped2"): Cubes(30_000, 60_000, "ped2: counted")}


def plan(cells: list[Cell], rows: list[Row], machine: Machine = GPU, packed: Packing | None = None) -> Estimate:
    return estimate(cells, CUBES, rows, packed or packing(machine, len(cells)), machine)


# Hours


def test_a_cell_takes_its_training_its_scoring_and_the_overhead() -> None:
    found = plan([a_cell()], [row("train", 100.0), row("score", 300.0), overhead(5.0)])
    seconds = 10 * 30_000 / 100 + 90_000 / 300 + 5
    assert found.seconds == {fingerprint(a_cell().experiment): pytest.approx(seconds)}
    assert found.hours == found.gpu_hours == pytest.approx(seconds / 3600)
    assert found.usd == pytest.approx(1.5 * seconds / 3600)
    assert found.missing == ()
    assert found.basis[1:3] == (
        "train: 100 cubes/s at width 64 on NVIDIA A10G",
        "score: 300 cubes/s at width 64 on NVIDIA A10G",
    )


def test_scored_epochs_and_held_out_videos_count() -> None:
    cell = a_cell(held_out=0.1)
    cell = Cell(derive(cell.experiment, train={"score_every": 3}), cell.store)  # after epochs 3, 6 and 9 of 10
    found = plan([cell], [row("train", 100.0), row("score", 300.0)])
    pseudo = 6 * 1024  # as they are and five kinds made of them
    scored = 3 * (60_000 + 2048 + pseudo) + 90_000 + pseudo
    assert list(found.seconds.values()) == [pytest.approx(10 * 27_000 / 100 + scored / 300)]


def test_the_last_epoch_is_scored_once() -> None:
    cell = a_cell(epochs=10)
    ends = Cell(derive(cell.experiment, train={"score_every": 5}), cell.store)  # 5, and 10 by the evaluation
    rows = [row("train", 1e9), row("score", 1.0)]
    assert next(iter(plan([ends], rows).seconds.values())) == pytest.approx(60_000 + 2048 + 90_000, rel=1e-3)


def test_cells_that_do_not_fit_at_a_time_queue_up() -> None:
    rows = [row("train", 100.0), row("score", 1e9)]
    found = plan([a_cell(0, epochs=12), a_cell(1, epochs=24), a_cell(2, epochs=12), a_cell(3, epochs=12)], rows)
    assert found.hours == pytest.approx(3.0, rel=1e-3)  # 1 h + 1 h + 1 h on one GPU beside 2 h on the other
    assert found.gpu_hours == pytest.approx(5.0, rel=1e-3)
    assert found.usd == pytest.approx(7.5, rel=1e-3)


def test_speeds_scale_with_the_square_of_the_width_from_the_nearest_one_and_it_is_said() -> None:
    rows = [row("train", 1600.0, width=16), row("train", 100.0), row("score", 1e9)]
    found = plan([a_cell(width=32)], rows)
    assert found.hours == pytest.approx(300_000 / 400 / 3600, rel=1e-3)  # 100 at 64, or 1600 at 16: 400 both
    found = plan([a_cell(width=8)], [row("train", 1600.0, width=16), row("train", 1.0), row("score", 1e9)])
    assert found.hours == pytest.approx(300_000 / 6400 / 3600, rel=1e-2)
    assert any("at width 16" in text and "scaled to width 8 by its square" in text for text in found.basis)


def test_cpus_are_counted_by_core() -> None:
    rows = [row(stage, 50.0, device="AMD EPYC", threads=2) for stage in ("train", "score")]
    for cells in (1, 4):
        todo = [a_cell(seed) for seed in range(cells)]
        found = plan(todo, rows, CPU)
        rate = 25.0 * 4 / cells  # four cores for the only cell, one for each of four
        assert found.hours == pytest.approx((300_000 + 90_000) / rate / 3600)
        assert found.gpu_hours == 0
        assert found.usd is None


@pytest.mark.parametrize(("gpus", "workers", "rate"), [(0.5, 1, 50.0), (1.0, 1, 100.0), (2.0, 2, 200.0), (2.0, 1, 100)])
def test_a_part_of_a_gpu_and_several_workers_are_counted_in_proportion(gpus: float, workers: int, rate: float) -> None:
    rows = [row("train", 100.0), row("score", 1e12)]
    found = plan([a_cell()], rows, packed=Packing(1, 1, gpus, workers))
    assert found.hours == pytest.approx(300_000 / rate / 3600)
    assert found.gpu_hours == pytest.approx(gpus * 300_000 / rate / 3600)


@pytest.mark.parametrize(("workers", "rate", "said"), [(2, 80.0, "times 0.80"), (4, 200.0, "4 CPUs a run")])
def test_what_several_workers_lose_counts_where_it_was_measured(workers: int, rate: float, said: str) -> None:
    def of(number: int, median: float) -> Row:
        made = row("train by workers", median, device="AMD EPYC", threads=1, width=16)
        return replace(made, settings={**made.settings, "workers": number})

    rows = [row("train", 100.0, device="AMD EPYC", threads=2), row("score", 1e12, device="AMD EPYC", threads=2)]
    rows += [of(1, 500.0), of(2, 800.0)]
    found = plan([a_cell()], rows, CPU, Packing(1, workers, 0.0, workers))
    assert found.hours == pytest.approx(300_000 / rate / 3600)
    assert any(said in text for text in found.basis)
    assert any("keep" in text for text in found.basis) == (workers == 2)


def test_what_trains_nothing_takes_only_its_scoring() -> None:
    null = Row(
        stage="null",
        device="AMD EPYC",
        threads=1,
        settings={"method": "flow-magnitude"},
        unit="cubes/s",
        median=9000.0,
        spread=0.0,
        repeats=3,
    )
    cell = Cell(build("null-flow", "ped2"), Path("stores/ped2"))
    for machine in (GPU, CPU):
        assert list(plan([cell], [null], machine).seconds.values()) == [pytest.approx(10.0)]


def of_method(method: str, measured: Row) -> Row:
    """The row of another method, which has no width."""
    return replace(measured, settings={"size": measured.settings["size"], "method": method})


def test_a_closed_form_takes_only_its_scoring_by_its_own_speed() -> None:
    cell = Cell(derive(build("velocity-gmm", "ped2"), train={"held_out": 0.0}), Path("stores/ped2"))
    others = [row("train", 1.0), row("score", 1.0), of_method("conv-ae", row("score", 2.0))]
    found = plan([cell], others)
    assert found.hours is None
    assert any("score: no speed of velocity-gmm" in text for text in found.missing)
    found = plan([cell], [*others, of_method("velocity-gmm", row("score", 300.0))])
    assert list(found.seconds.values()) == [pytest.approx(90_000 / 300)]
    assert "score: 300 cubes/s on NVIDIA A10G" in found.basis


def test_each_method_is_timed_by_its_own_speeds() -> None:
    conv = Cell(derive(build("conv-ae", "ped2"), train={"epochs": 10, "score_every": 0}), Path("stores/ped2"))
    rows = [row("train", 100.0), row("score", 300.0)]
    faster = [of_method("conv-ae", each) for each in (row("train", 1000.0), row("score", 3000.0))]
    found = plan([a_cell(), conv], rows + faster)
    assert list(found.seconds.values()) == [pytest.approx(3300.0), pytest.approx(330.0)]


def test_nothing_to_run_takes_no_time() -> None:
    assert plan([], []) == Estimate({}, 0.0, 0.0, 0.0, (), ())


# What is not known


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [row("train", 100.0)],
        [row("train", 100.0, device="NVIDIA H100"), row("score", 1.0, device="NVIDIA H100")],
        [row("train", 100.0, device="AMD EPYC", threads=2), row("score", 1.0, device="AMD EPYC", threads=2)],
        [row("train", 100.0, device="NVIDIA A100-SXM4-40GB"), row("score", 1.0, device="NVIDIA A10")],
    ],
    ids=["nothing", "no-score", "another-gpu", "a-cpu", "names-that-begin-alike"],
)
def test_without_a_measurement_on_such_a_device_there_is_no_number(rows: list[Row]) -> None:
    found = plan([a_cell()], rows)
    assert (found.hours, found.gpu_hours, found.usd) == (None, None, None)
    assert any("no speed of amsrc was measured on A10G" in text for text in found.missing)


@pytest.mark.parametrize("name", ["A100", "NVIDIA A100-SXM4-40GB"])
def test_a_gpu_is_known_by_rays_name_and_by_torchs(name: str) -> None:
    machine = Machine(((4.0, 1.0),), name)
    rows = [row(stage, 100.0, device="NVIDIA A100-SXM4-40GB") for stage in ("train", "score")]
    assert plan([a_cell()], rows, machine).hours is not None


def test_without_a_count_of_cubes_there_is_no_number() -> None:
    found = estimate([a_cell()], {}, [row("train", 1.0), row("score", 1.0)], packing(GPU, 1), GPU)
    assert found.hours is None
    assert any("ped2: how many cubes" in text for text in found.missing)


def test_an_overhead_that_was_not_measured_is_left_out_and_said() -> None:
    found = plan([a_cell()], [row("train", 1.0), row("score", 1.0)])
    assert found.hours is not None
    assert found.missing == ("cell overhead: not measured on this kind of machine, left out",)


# Cubes


def counted(experiment: Experiment, train_cubes: int, finished: str = "2026-01-01") -> RunRecord:
    return record_of(experiment, finished=finished, counts={"train_cubes": train_cubes, "test_cubes": 1})


def test_cubes_are_counted_in_a_sealed_store(tmp_path: Path) -> None:
    experiment = an_experiment()
    store = write_store(tmp_path, experiment)
    cell = Cell(experiment, store.path)
    found = cubes_of([cell], [counted(experiment, 7)])[store.path]
    assert (found.train, found.test) == (len(store.train), len(store.test))
    assert len(store.train) == 40 * len(TRAIN) and len(store.test) > 40 * len(TEST)


def test_cubes_of_a_store_to_come_are_those_of_the_latest_record_with_the_same_cubes(tmp_path: Path) -> None:
    experiment = build("amsrc", "ped2")
    onnx = derive(experiment, cube={"boxes": derive(experiment).cube.boxes.__class__(provider="onnx")})
    other = build("amsrc", "avenue")
    records = [counted(experiment, 3, "2026-02-01"), counted(experiment, 4, "2026-03-01")]
    records += [counted(onnx, 9, "2026-04-01"), counted(other, 11, "2026-05-01")]
    cell = Cell(experiment, tmp_path / "absent")
    assert cubes_of([cell], records)[cell.store].train == 4
    by_others = cubes_of([cell], records[2:])[cell.store]
    assert by_others.train == 9
    assert "with other cubes (boxes onnx)" in by_others.source
    assert cubes_of([cell], records[3:]) == {}


# Counts and sizes


def test_the_work_of_a_cell_is_counted() -> None:
    e = derive(build("amsrc", "ped2"), train={"epochs": 10, "batch": 100, "score_every": 3, "held_out": 0.1})
    found = work(e, 30_000, 60_000)
    pseudo = 6 * 1024  # as they are and five kinds made of them
    assert found.trained == pytest.approx(10 * 27_000)
    assert found.steps == pytest.approx(10 * 270)
    assert found.between == pytest.approx(3 * (60_000 + 2048 + pseudo))  # after epochs 3, 6 and 9
    assert found.after == pytest.approx(90_000 + pseudo)


def test_without_scored_epochs_and_held_out_videos_there_is_less() -> None:
    e = derive(build("amsrc", "ped2"), train={"epochs": 10, "batch": 100, "score_every": 0, "held_out": 0.0})
    assert work(e, 30_000, 60_000) == Work(300_000.0, 0, 90_000.0, 3000.0)


@pytest.mark.parametrize("fusion", ["gate", "add", "concat", "appearance", "none"])
@pytest.mark.parametrize(("width", "channels", "frames"), [(64, 3, 5), (8, 1, 3)])
def test_parameters_are_those_of_the_network(fusion: str, width: int, channels: int, frames: int) -> None:
    model = ModelConfig(fusion=fusion, width=width, channels=channels)  # type: ignore[arg-type]
    cube = CubeConfig(frames=frames)
    e = replace(build("amsrc", "ped2"), cube=cube, settings=AmsrcConfig(model=model))
    assert parameters(e) == sum(p.numel() for p in AMSRC(model, cube).parameters())


def test_parameters_that_a_method_does_not_count_beforehand_are_not_known() -> None:
    assert [parameters(build(recipe, "ped2")) for recipe in ("velocity-gmm", "conv-ae", "null-flow")] == [None] * 3


@pytest.mark.parametrize(("channels", "known"), [(3, 31_764), (1, 21_524)])
def test_the_bytes_of_a_cube_are_those_on_disk(tmp_path: object, channels: int, known: int) -> None:
    cube, n = CubeConfig(), 7
    shape = (cube.frames, channels, cube.size, cube.size)
    frames = np.zeros((n, *shape), np.uint8)
    flows = np.zeros((n, cube.frames - 1, 2, cube.size, cube.size), np.float16)
    made = FrameCubes(0, np.zeros((n, 4), np.float32), frames, flows)
    write_shard(tmp_path, "train", "01", [made], 1, shape)  # type: ignore[arg-type]
    arrays = [np.load(path) for path in tmp_path.rglob("*.npy")]  # type: ignore[attr-defined]
    assert cube_bytes(cube, channels) == known == sum(array.nbytes for array in arrays) / n


@pytest.mark.parametrize(("workers", "times"), [(1, 0.0), (2, 1.0), (4, 1.5), (64, 2 * 63 / 64)])
def test_each_worker_of_a_ring_sends_all_but_its_part_twice(workers: int, times: float) -> None:
    assert gradient_bytes(1000, workers) == pytest.approx(times * 4000)


def test_a_checkpoint_holds_weights_and_two_moments() -> None:
    assert checkpoint_bytes(1000, 3) == 36_000
