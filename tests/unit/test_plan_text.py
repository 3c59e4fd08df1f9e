"""The text of a plan: every line of it, and a dash for what is not known."""

from pathlib import Path

import pytest

from bench.cluster.machine import packing
from bench.experiment.config import fingerprint
from bench.sweeps.estimate import Logistics, estimate
from bench.sweeps.grid import Cell
from bench.sweeps.plan_text import bytes_text, of_cells
from tests.cubes_made import an_experiment, write_store
from tests.unit.test_estimate import CPU, CUBES, GPU, a_cell, plan, row

NOTHING = Logistics(None, None, 0.0, None, None)


def test_the_plan_is_told_in_full() -> None:
    cells = [a_cell(0), a_cell(1), a_cell(2, recipe="no-gate-add")]
    todo = cells[1:]
    packed = packing(GPU, len(todo))
    expected = estimate(todo, CUBES, [row("train", 100.0), row("score", 300.0)], packed, GPU)
    around = Logistics(2.5, 3e9, 2.2e8, 6e9, 0.0, ("prepare: 40 ms a frame",), ("boxes: not measured",))
    text = of_cells(cells, [fingerprint(cells[0].experiment)], packed, expected, GPU, around)
    lines = [line.split() for line in text.splitlines()]
    assert ["amsrc", "ped2", "2", "1", "1", "0.92"] in lines
    assert ["no-gate-add", "ped2", "1", "0", "1", "0.92"] in lines
    assert ["all", "3", "1", "2"] in lines
    assert "to prepare  ped2 (ped2)" in text
    assert "at a time   2 runs of 1 GPU, 4 CPUs each, on A10G: 2 GPUs, 8 CPUs" in text
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
    text = of_cells([a_cell()], [], packed, plan([a_cell()], []), GPU, NOTHING)
    assert text.count(" -") >= 3
    for name in ("preparing", "hours", "GPU-hours", "cost", "storage", "network"):
        assert f"\n{name:<12}-" in text
    assert "not known   train: no speed of amsrc was measured on A10G" in text


def test_a_sealed_store_is_not_to_be_prepared(tmp_path: Path) -> None:
    cell = Cell(an_experiment(), write_store(tmp_path, an_experiment()).path)
    text = of_cells([cell], [], packing(CPU, 1), plan([], []), CPU, NOTHING)
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
