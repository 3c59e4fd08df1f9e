"""The section of predictions: from a file of speeds, by hand; what is assumed is said; a stale section is found."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from amsrc.errors import DataError
from bench import forecast, tables
from bench.cost import Row
from bench.forecast import ASSUMED, cpu_rates, gpu_rates, load_of, measured, section
from bench.recipes import build
from bench.scale import longest, stages

ROOT = Path(__file__).resolve().parents[2]
AMSRC = build("amsrc", "shanghaitech")
SPEEDS = [
    ("train", 40.0, "cubes/s", 2, {"size": 32}),
    ("score", 100.0, "cubes/s", 2, {"size": 32}),
    ("fusion search", 8.0, "s", 1, {"size of": "shanghaitech", "cubes": 200_000, "shares": 1000}),
    *(
        (f"prepare: {part}", rate, unit, 1, {"video": "640x360", "pixels": 640 * 360, "channels": 3, **more})
        for part, rate, unit, more in [
            ("decode", 1000.0, "frames/s", {}),
            ("flow", 50.0, "frames/s", {"flow": "dis medium"}),
            ("boxes", 200.0, "frames/s", {"boxes": "motion"}),
            ("cut", 10_000.0, "cubes/s", {}),
            ("write", 10_000.0, "cubes/s", {}),
        ]
    ),
    ("store read", 5000.0, "MB/s", 1, {}),
    ("store copy", 500.0, "MB/s", 1, {}),
    ("tables", 0.02, "s", 1, {"records": 10}),
    *(
        ("prepare by workers", rate, "frames/s", 1, {"video": "640x360", "workers": n})
        for n, rate in ((1, 40), (2, 60))
    ),
    *(
        (f"{stage} by workers", rate, "cubes/s", 1, {"width": 16, "batch": 128, "workers": n})
        for stage in ("train", "score")
        for n, rate in ((1, 300.0), (2, 480.0))
    ),
]


def write_speeds(
    results: Path, *, without: str = "", name: str = "a-machine", width: int = 64, load: float = 0.1, **changes: float
) -> None:
    """A file of speeds of every stage but one; `changes` by stage."""
    rows = [
        Row(
            stage=stage,
            device="AMD EPYC",
            threads=threads,
            settings={**settings, "width": width} if stage in ("train", "score") else settings,
            unit=unit,
            median=changes.get(stage, median),
            spread=1.0,
            repeats=3,
        )
        for stage, median, unit, threads, settings in SPEEDS
        if stage != without
    ]
    about: dict[str, Any] = {"measured": "2026-01-02T03:04:05", "quick": False, "load_before": load}
    about |= {"hardware": {"cpu": "AMD EPYC", "cores": 2, "memory_gib": 64.0, "gpus": []}}
    about |= {"versions": {"torch": "2.13.0"}}
    about |= {"git": {"sha": "0123456789abcdef", "dirty": False}}
    (results / "speed").mkdir(parents=True, exist_ok=True)
    (results / "speed" / f"{name}.json").write_text(json.dumps({**about, "rows": [asdict(row) for row in rows]}))


@pytest.fixture
def results(tmp_path: Path) -> Path:
    write_speeds(tmp_path)
    return tmp_path


def lines(text: str, label: str) -> list[list[str]]:
    """The rows that begin with a label, cell by cell; one for each size of data set."""
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if f"| {label} " in line]


# Numbers


def test_a_gpu_follows_from_what_is_assumed(results: Path) -> None:
    found = measured(results / "speed")
    assert found is not None
    load = load_of(AMSRC, 1)
    rates = gpu_rates(found, AMSRC, load, 1, 1)
    assert rates.score == pytest.approx(0.4 * 400e12 / (2 * 641_138_688))
    assert rates.train == pytest.approx(rates.score / 3)
    assert (rates.step_s, rates.read, rates.copy) == (5e-3, 5e9, 5e8)
    assert gpu_rates(found, AMSRC, load, 8, 8).gradients == ASSUMED.inside
    assert gpu_rates(found, AMSRC, load, 64, 64).gradients == ASSUMED.between


def test_a_machine_has_its_measured_rates_and_its_measured_losses(results: Path) -> None:
    found = measured(results / "speed")
    assert found is not None
    rates = cpu_rates(found, AMSRC, load_of(AMSRC, 1))
    assert (rates.train, rates.score, rates.step_s) == (40.0, 100.0, 0.0)
    assert (rates.prepare_kept, rates.train_kept, rates.score_kept) == pytest.approx((0.75, 0.8, 0.8))
    assert rates.preparing.frame == pytest.approx((1 / 1000 + 1 / 50 + 1 / 200) * 856 * 480 / (640 * 360))
    assert rates.preparing.cube == pytest.approx(2e-4)
    assert rates.fuse_s == pytest.approx(8 / (200_000 * 1000))


def test_the_load_is_shanghaitechs_and_grows_in_proportion() -> None:
    one, hundred = load_of(AMSRC, 1), load_of(AMSRC, 100)
    assert (one.frames, one.videos, one.train, one.test) == (274_515 + 40_791, 437, 1_200_000, 230_000)
    assert one.work.trained == pytest.approx(40 * 1_080_000)
    assert one.work.steps == pytest.approx(40 * 1_080_000 / 256)
    for name in ("frames", "videos", "train", "test", "store_bytes"):
        assert getattr(hundred, name) == 100 * getattr(one, name), name
    assert hundred.cube_bytes == one.cube_bytes == 31_764


def test_what_does_not_fit_into_memory_is_read_from_disks_that_cells_share(results: Path) -> None:
    found = measured(results / "speed")
    assert found is not None
    hundred = load_of(AMSRC, 100)
    assert gpu_rates(found, AMSRC, hundred, 1, 1).read == 5e9
    packed, spread = gpu_rates(found, AMSRC, hundred, 1, 64), gpu_rates(found, AMSRC, hundred, 64, 64)
    assert (packed.read, packed.read_alone) == (5e9 / 8, 5e9 / 8)
    assert (spread.read, spread.read_alone) == (5e9 / 8, 5e9)
    assert stages(hundred, packed, 1, 768)[2].limit == "store read"
    assert stages(load_of(AMSRC, 1), gpu_rates(found, AMSRC, load_of(AMSRC, 1), 1, 64), 1, 768)[2].limit == "device"


def test_one_cell_over_many_gpus_is_bound_by_its_small_steps(results: Path) -> None:
    found = measured(results / "speed")
    assert found is not None
    load = load_of(AMSRC, 1)
    by_gpus = {gpus: stages(load, gpu_rates(found, AMSRC, load, gpus, gpus), gpus, 12 * gpus) for gpus in (1, 8, 64)}
    assert {gpus: found[2].limit for gpus, found in by_gpus.items()} == {
        1: "device",
        8: "step latency",
        64: "gradient exchange",
    }
    assert longest(by_gpus[64]).name == "train"
    assert by_gpus[64][2].seconds > 0.8 * by_gpus[1][2].seconds


# The text


def test_the_section_has_every_row_and_says_what_is_assumed(results: Path) -> None:
    text = section(results)
    assert (
        "Measured on AMD EPYC, 2 cores, 64.0 GiB (a-machine, 2026-01-02, commit 0123456789ab; load before 0.1)" in text
    )
    assert "Assumed, not measured" in text and "641 M multiply-adds" in text and "40% of 400 TFLOP/s" in text
    gpus = ["1 GPU, 1 cell", "8 GPUs, 1 cell", "8 GPUs, 8 cells", "64 GPUs, 1 cell", "64 GPUs, 64 cells"]
    for label in [*gpus, "1 machine, 1 cell", "8 machines, 1 cell", "64 machines, 1 cell"]:
        assert len(lines(text, label)) == 2, label
    ((*_, one, two, part),) = lines(text, "train ")[:1]
    assert (one, two, part) == ("300 cubes/s ± 0", "480 cubes/s ± 0", "80 %")


def test_speeds_of_a_busy_machine_are_called_so(results: Path) -> None:
    assert "busy" not in section(results)
    write_speeds(results, load=3.0)
    assert "The machine was busy with something else (load 3.0 on 2 cores)" in section(results)


def test_a_row_is_its_hours(results: Path) -> None:
    (small, large) = lines(section(results), "1 machine, 1 cell")
    train, between = 40 * 1_080_000 / 40 / 3600, 39 * (230_000 + 2048 + 6 * 1024) / 100 / 3600
    after, choose = (1_430_000 + 6 * 1024) / 100 / 3600, (1001 + 40 * 102) * 230_000 * 4e-8 / 3600
    unscored, fetch = choose * 1103 / 5081, 1_430_000 * 31_764 / 5e8 / 3600
    prepare = (315_306 * 0.026 * 856 * 480 / (640 * 360) + 1_430_000 * 2e-4) / (2 * 0.75) / 3600
    assert small[3] == f"{train:.0f}, device"
    assert [float(cell) for cell in (small[1].split()[0], small[2], *small[4:9])] == pytest.approx(
        [
            prepare,
            fetch,
            between,
            after,
            choose,
            fetch + train + between + after + choose,
            fetch + train + after + unscored,
        ],
        rel=0.06,
    )
    assert small[9] == f"{prepare + fetch + 64 * (train + between + after + choose):,.0f}"
    assert (small[10], small[11]) == ("-", "train: device")
    assert float(large[3].split(",")[0] + large[3].split(",")[1]) == pytest.approx(100 * train, rel=0.01)


def test_many_cells_are_worth_more_than_one_on_as_many_gpus(results: Path) -> None:
    text = section(results)
    together, packed = lines(text, "64 GPUs, 1 cell")[0], lines(text, "64 GPUs, 64 cells")[0]
    assert float(together[9]) > 20 * float(packed[9])
    assert float(together[10]) > 20 * float(packed[10])


# Files


def test_only_a_file_of_every_stage_counts(tmp_path: Path) -> None:
    assert measured(tmp_path / "speed") is None
    write_speeds(tmp_path, without="store copy", name="a")
    assert measured(tmp_path / "speed") is None
    assert "amsrc-bench speed" in section(tmp_path)
    write_speeds(tmp_path, name="b")
    found = measured(tmp_path / "speed")
    assert found is not None and found.name == "b"
    (tmp_path / "speed" / "a.json").write_text("{")
    with pytest.raises(DataError, match=r"a\.json: not a file of measured speeds"):
        measured(tmp_path / "speed")


def test_rows_of_another_width_are_not_taken_and_it_is_said(tmp_path: Path) -> None:
    write_speeds(tmp_path, width=16)
    with pytest.raises(DataError, match=r"a-machine\.json has no row train \{'width': 64\}"):
        section(tmp_path)


def test_a_stale_section_is_found_and_written_again(results: Path) -> None:
    readme, about = results / "front.md", results / "README.md"
    readme.write_text("<!-- table1 -->\n<!-- /table1 -->\n")
    about.write_text("before\n<!-- scale -->\n<!-- /scale -->\nafter\n")
    assert str(about) in tables.check(results, readme)
    assert about in tables.write(results, readme)
    text = about.read_text()
    assert text.startswith("before\n<!-- scale -->\n\nMeasured on") and text.endswith("\n<!-- /scale -->\nafter\n")
    assert tables.check(results, readme) == []
    write_speeds(results, train=41.0)
    assert tables.check(results, readme) == [str(about)]
    assert about not in tables.write(results)  # a sweep writes tables alone
    about.write_text("no markers")
    assert tables.check(results, readme) == []


def test_the_committed_section_is_that_of_the_committed_speeds() -> None:
    text = (ROOT / "results" / "README.md").read_text(encoding="utf-8")
    assert tables.insert(text, "scale", section(ROOT / "results")) == text
    assert forecast.measured(ROOT / "results" / "speed") is not None
