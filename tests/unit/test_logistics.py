"""What a plan needs around its cells: hours of preparing, disks, network; by hand, and nothing invented."""

from dataclasses import replace
from pathlib import Path

import pytest

from amsrc.config import BoxConfig, CubeConfig, FlowConfig
from bench.cluster.machine import Machine, Packing
from bench.experiment.config import derive
from bench.experiment.recipes import build
from bench.experiment.specs import SPECS
from bench.records.speeds import Row
from bench.sweeps.estimate import Cubes, Logistics, logistics, parameters, preparing
from bench.sweeps.grid import Cell
from tests.cubes_made import an_experiment, write_store

ONE, TWO = Machine(((4.0, 0.0),), "AMD EPYC"), Machine(((4.0, 1.0), (4.0, 1.0)), "A10G")
STORE = Path("stores/ped2")
ALONE = Packing(1, 1, 0.0)
CUBES = {STORE: Cubes(30_000, 34_000, "ped2: counted")}
FRAMES = 2550 + 2010


def part(name: str, median: float, unit: str = "frames/s", pixels: int = 360 * 240, channels: int = 1) -> Row:
    settings: dict[str, int | float | str] = {"video": f"{pixels} px", "pixels": pixels, "channels": channels}
    settings |= {"flow": {"flow": "dis medium"}, "boxes": {"boxes": "motion"}}.get(name, {})
    return Row(
        stage=f"prepare: {name}",
        device="AMD EPYC",
        threads=1,
        settings=settings,
        unit=unit,
        median=median,
        spread=0.0,
        repeats=3,
    )


ROWS = [
    part("decode", 1000.0),
    part("flow", 100.0),
    part("boxes", 500.0),
    part("cut", 10_000.0, "cubes/s"),
    part("write", 5000.0, "cubes/s"),
]


def a_cell(seed: int = 0, **cube: object) -> Cell:
    train = {"epochs": 10, "held_out": 0.0, "batch": 100}
    return Cell(derive(build("amsrc", "ped2", seed), train=train, cube=cube), STORE)


def around(cells: list[Cell], machine: Machine = ONE, packing: Packing = ALONE) -> Logistics:
    return logistics(cells, CUBES, ROWS, packing, machine)


def test_a_store_is_prepared_once_by_all_cores() -> None:
    found = around([a_cell(0), a_cell(1)])
    seconds = FRAMES * (1 / 1000 + 1 / 100 + 1 / 500) + 64_000 * (1 / 10_000 + 1 / 5000)
    assert found.prepare_hours == pytest.approx(seconds / 4 / 3600)
    assert found.storage == 64_000 * 21_524  # grey
    assert found.missing == ()
    assert found.basis == (
        "prepare: 13 ms a frame of 360x240 and 0.3 ms a cube on a core, measured at 86400 px on AMD EPYC",
    )


def test_cores_lose_what_two_were_seen_to_lose() -> None:
    by_workers = [replace(part("flow", 40.0 * n), stage="prepare by workers", settings={"workers": n}) for n in (1, 2)]
    slower = [by_workers[0], replace(by_workers[1], median=60.0)]
    plain = around([a_cell()]).prepare_hours
    found = logistics([a_cell()], CUBES, [*ROWS, *slower], ALONE, ONE)
    assert plain is not None and found.prepare_hours == pytest.approx(plain / 0.75)
    assert any("keeps 0.75" in text for text in found.basis)
    one_core = Machine(((1.0, 0.0),), "AMD EPYC")
    assert logistics([a_cell()], CUBES, [*ROWS, *slower], ALONE, one_core).prepare_hours == pytest.approx(4 * plain)


def test_twice_the_cubes_take_twice_the_cutting_and_the_disk() -> None:
    twice = {STORE: Cubes(60_000, 68_000, "")}
    one, two = around([a_cell()]), logistics([a_cell()], twice, ROWS, ALONE, ONE)
    assert one.prepare_hours is not None and two.prepare_hours is not None
    assert two.prepare_hours - one.prepare_hours == pytest.approx(64_000 * 0.0003 / 4 / 3600)
    assert two.storage == 2 * one.storage  # type: ignore[operator]


def test_every_node_has_its_copy_and_workers_exchange_gradients() -> None:
    weights = parameters(a_cell().experiment)
    assert weights is not None
    found = around([a_cell(0), a_cell(1)], TWO, Packing(1, 0, 2.0, 2))
    assert found.stores == 2 * 64_000 * 21_524
    assert found.gradients == pytest.approx(2 * (10 * 300) * 2 * 4 * weights)  # cells, steps, workers, 2 (N-1)/N = 1
    assert found.checkpoints == 2 * 10 * 12 * weights
    alone = around([a_cell()])
    assert (alone.stores, alone.gradients) == (0.0, 0.0)


def test_a_sealed_store_is_not_prepared_again_but_still_copied(tmp_path: Path) -> None:
    e = an_experiment()
    store = write_store(tmp_path, e)
    counted = {store.path: Cubes(80, 200, "")}
    found = logistics([Cell(e, store.path)], counted, [], ALONE, TWO)
    assert (found.prepare_hours, found.storage, found.missing) == (0.0, 0.0, ())
    assert found.stores and found.stores > 0


def test_frames_are_larger_elsewhere() -> None:
    rows = [*ROWS, *(part(row.stage[9:], row.median / 3, row.unit, 640 * 360, 3) for row in ROWS)]
    found = preparing(rows, CubeConfig(), SPECS["shanghaitech"], "AMD EPYC")
    assert not isinstance(found, str)
    rate, text = found
    assert rate.frame == pytest.approx(3 * 0.013 * (856 * 480) / (640 * 360))
    assert rate.cube == pytest.approx(3 * 0.0003)
    assert "measured at 230400 px" in text


def test_what_is_read_from_files_costs_nothing() -> None:
    cube = CubeConfig(boxes=BoxConfig(provider="file"), flow=FlowConfig(provider="file"))
    found = preparing(ROWS, cube, SPECS["ped2"], "AMD EPYC")
    assert not isinstance(found, str)
    assert found[0].frame == pytest.approx(0.001)


# What is not known


@pytest.mark.parametrize(
    ("cube", "rows", "reason"),
    [
        ({"boxes": BoxConfig(provider="onnx")}, ROWS, "boxes onnx was not measured"),
        ({"flow": FlowConfig(provider="raft")}, ROWS, "flow raft was not measured"),
        ({"flow": FlowConfig(preset="fast")}, ROWS, "flow dis was not measured"),
        ({}, ROWS[:4], "write was not measured"),
        ({}, [], "decode was not measured"),
    ],
)
def test_what_was_not_measured_has_no_hours(cube: dict[str, object], rows: list[Row], reason: str) -> None:
    found = logistics([a_cell(**cube)], CUBES, rows, ALONE, ONE)
    assert found.prepare_hours is None
    assert [text for text in found.missing if reason in text]
    assert found.storage is not None


def test_without_a_count_of_cubes_the_frames_alone_are_counted_and_it_is_said() -> None:
    found = logistics([a_cell()], {}, ROWS, ALONE, ONE)
    assert found.prepare_hours == pytest.approx(FRAMES * 0.013 / 4 / 3600)
    assert found.storage is None
    assert any("to cut its cubes comes on top" in text for text in found.missing)
    shared = logistics([a_cell()], {}, ROWS, Packing(1, 0, 2.0, 2), TWO)
    assert (shared.stores, shared.gradients) == (None, None)


@pytest.mark.parametrize("dataset", ["toy-ped2", "ped2"])
def test_parts_of_data_sets_and_rendered_ones_have_frames_that_nobody_knows(dataset: str) -> None:
    e = replace(build("amsrc", dataset), partial=dataset == "ped2")
    found = logistics([Cell(e, STORE)], CUBES, ROWS, ALONE, ONE)
    assert found.prepare_hours is None
    assert any(f"{dataset}: how many frames" in text for text in found.missing)
