"""Hours and cost of a plan: hand-computed, and no number where nothing was measured."""

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from amsrc.errors import DataError
from bench import cost, outlook
from bench.config import Experiment, derive, dump, fingerprint
from bench.cost import ABOUT, Cubes, Estimate, Row, bytes_text, cubes_of, estimate, read_speed, render
from bench.grid import Cell
from bench.logistics import Logistics
from bench.machine import Machine, Packing, Workers, packing
from bench.recipes import build
from bench.records import RunRecord
from tests.cubes_made import TEST, TRAIN, an_experiment, write_store

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


NOTHING = Logistics(None, None, 0.0, None, None)
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


@pytest.mark.parametrize(("workers", "rate", "said"), [(2, 80.0, "times 0.80"), (4, 200.0, "4 CPUs a cell")])
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


def test_a_gpu_is_shared_by_as_many_cells_as_train_fastest_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def measured(cells: int, rate: float, width: int = 64) -> Row:
        return replace(row("train packed", rate), settings={"cells": cells, "width": width})

    rows = [measured(1, 10.0), measured(2, 14.0), measured(4, 13.0), measured(8, 99.0, width=16)]
    assert cost.fastest_packed(rows, "A10G") == 2
    assert cost.fastest_packed(rows, "H100") == cost.fastest_packed([], "A10G") == 1
    monkeypatch.setattr(cost, "read_speed", lambda: rows)
    given = argparse.Namespace(workers=Workers(), gpus_per_cell=None, cpus_per_cell=None)
    machine = Machine(((16.0, 2.0),), "A10G")
    found = [outlook.packing(given, machine, cells) for cells in (2, 3, 9)]
    assert [(each.concurrent, each.gpus) for each in found] == [(2, 1.0), (3, 0.5), (4, 0.5)]
    given.gpus_per_cell = 1.0
    assert outlook.packing(given, machine, 9).concurrent == 2


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
    assert any("no speed was measured on A10G" in text for text in found.missing)


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


def a_record(experiment: Experiment, train_cubes: int, finished: str = "2026-01-01") -> RunRecord:
    return RunRecord(
        recipe=experiment.recipe,
        dataset=experiment.dataset,
        seed=0,
        fingerprint=fingerprint(experiment),
        status="done",
        boxes=experiment.cube.boxes.provider,
        flow="dis",
        started="2026-01-01",
        finished=finished,
        counts={"train_cubes": train_cubes, "test_cubes": 1},
        experiment=dump(experiment),
    )


def test_cubes_are_counted_in_a_sealed_store(tmp_path: Path) -> None:
    experiment = an_experiment()
    store = write_store(tmp_path, experiment)
    cell = Cell(experiment, store.path)
    found = cubes_of([cell], [a_record(experiment, 7)])[store.path]
    assert (found.train, found.test) == (len(store.train), len(store.test))
    assert len(store.train) == 40 * len(TRAIN) and len(store.test) > 40 * len(TEST)


def test_cubes_of_a_store_to_come_are_those_of_the_latest_record_with_the_same_cubes(tmp_path: Path) -> None:
    experiment = build("amsrc", "ped2")
    onnx = derive(experiment, cube={"boxes": derive(experiment).cube.boxes.__class__(provider="onnx")})
    other = build("amsrc", "avenue")
    records = [a_record(experiment, 3, "2026-02-01"), a_record(experiment, 4, "2026-03-01")]
    records += [a_record(onnx, 9, "2026-04-01"), a_record(other, 11, "2026-05-01")]
    cell = Cell(experiment, tmp_path / "absent")
    assert cubes_of([cell], records)[cell.store].train == 4
    by_others = cubes_of([cell], records[2:])[cell.store]
    assert by_others.train == 9
    assert "with other cubes (boxes onnx)" in by_others.source
    assert cubes_of([cell], records[3:]) == {}


# Files


def test_speeds_are_read_from_all_files(tmp_path: Path) -> None:
    rows = [row("train", 1.0), overhead(2.0)]
    for name, one in zip(("b", "a"), rows, strict=True):
        (tmp_path / f"{name}.json").write_text(json.dumps({**dict.fromkeys(ABOUT), "rows": [asdict(one)]}))
    assert read_speed(tmp_path) == rows[::-1]
    assert read_speed(tmp_path / "absent") == []


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"rows": [{"stage": "train"}]}', '{"rows": 3}'])
def test_a_file_that_holds_no_speeds_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "bad.json").write_text(text)
    with pytest.raises(DataError, match=r"bad\.json: not a file of measured speeds"):
        read_speed(tmp_path)


# Text


def test_the_plan_is_told_in_full() -> None:
    cells = [a_cell(0), a_cell(1), a_cell(2, recipe="no-gate-add")]
    todo = cells[1:]
    packed = packing(GPU, len(todo))
    expected = estimate(todo, CUBES, [row("train", 100.0), row("score", 300.0)], packed, GPU)
    around = Logistics(2.5, 3e9, 2.2e8, 6e9, 0.0, ("prepare: 40 ms a frame",), ("boxes: not measured",))
    text = render(cells, [fingerprint(cells[0].experiment)], packed, expected, GPU, around)
    lines = [line.split() for line in text.splitlines()]
    assert ["amsrc", "ped2", "2", "1", "1", "0.92"] in lines
    assert ["no-gate-add", "ped2", "1", "0", "1", "0.92"] in lines
    assert ["all", "3", "1", "2"] in lines
    assert "to prepare  ped2 (ped2)" in text
    assert "at a time   2 cells of 1 GPU, 4 CPUs each, on A10G: 2 GPUs, 8 CPUs" in text
    assert "preparing   2.5 hours\n" in text
    assert "storage     3 GB of cubes to prepare, 220 MB of checkpoints" in text
    assert "network     6 GB of cubes to the nodes, 0 B of gradients" in text
    assert "from        prepare: 40 ms a frame" in text
    assert "not known   boxes: not measured" in text
    assert "hours       0.92 from" in text
    assert "GPU-hours   1.8\n" in text
    assert "cost        2.75 USD" in text
    assert "from        train: 100 cubes/s at width 64 on NVIDIA A10G" in text


def test_the_plan_has_a_dash_for_what_is_not_known() -> None:
    packed = packing(GPU, 1)
    text = render([a_cell()], [], packed, plan([a_cell()], []), GPU, NOTHING)
    assert text.count(" -") >= 3
    for name in ("preparing", "hours", "GPU-hours", "cost", "storage", "network"):
        assert f"\n{name:<12}-" in text
    assert "not known   train: no speed was measured on A10G" in text


def test_a_sealed_store_is_not_to_be_prepared(tmp_path: Path) -> None:
    cell = Cell(an_experiment(), write_store(tmp_path, an_experiment()).path)
    text = render([cell], [], packing(CPU, 1), plan([], []), CPU, NOTHING)
    assert "to prepare  nothing" in text
    assert "preparing" not in text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (0, "0 B"),
        (999, "999 B"),
        (999.7, "1 KB"),
        (31_764, "31.8 KB"),
        (4.5e13, "45 TB"),
        (7e18, "7e+03 PB"),
    ],
)
def test_bytes_have_a_unit_that_can_be_read(value: float | None, text: str) -> None:
    assert bytes_text(value) == text
