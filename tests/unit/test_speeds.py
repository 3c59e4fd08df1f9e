"""Files of measured speeds, and what is taken from their rows."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from amsrc.errors import DataError
from bench.cluster.machine import Machine
from bench.data.stores import Sources
from bench.records import speeds
from bench.records.speeds import ABOUT, Row, read_speed
from bench.sweeps.options import Places, SweepOptions
from bench.sweeps.plan import Plan, planned
from tests.unit.test_estimate import overhead, row


def write(path: Path, *rows: Row) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({**dict.fromkeys(ABOUT), "rows": list(map(asdict, rows))}))


def test_speeds_are_read_from_all_files(tmp_path: Path) -> None:
    rows = [row("train", 1.0), overhead(2.0)]
    for name, one in zip(("b", "a"), rows, strict=True):
        write(tmp_path / f"{name}.json", one)
    assert read_speed(tmp_path) == rows[::-1]
    assert read_speed(tmp_path / "absent") == []


def test_a_plan_knows_the_speeds_of_its_results_and_of_the_checkout_and_the_former_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = [row("train", 1.0), row("score", 2.0), replace(row("train", 3.0), device="another")]
    ours = [row("train", 9.0), replace(row("train", 8.0), settings={"width": 16})]
    write(tmp_path / "checkout" / "one.json", *theirs)
    write(tmp_path / "speed" / "one.json", *ours)
    monkeypatch.setattr(speeds, "SPEED", tmp_path / "checkout")
    places = Places(tmp_path / "home", tmp_path, "matrix")
    given = SweepOptions(datasets=("toy-ped2",), recipes=("amsrc",), sources=Sources(tmp_path), places=places)
    assert planned(given).measured == [*ours, *theirs[1:]]
    alone = replace(given, places=replace(places, results=tmp_path / "absent"))
    assert planned(alone).measured == theirs


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"rows": [{"stage": "train"}]}', '{"rows": 3}'])
def test_a_file_that_holds_no_speeds_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "bad.json").write_text(text)
    with pytest.raises(DataError, match=r"bad\.json: not a file of measured speeds"):
        read_speed(tmp_path)


def test_a_gpu_is_shared_by_as_many_cells_as_train_fastest_on_it() -> None:
    def measured(cells: int, rate: float, width: int = 64) -> Row:
        return replace(row("train packed", rate), settings={"cells": cells, "width": width})

    rows = [measured(1, 10.0), measured(2, 14.0), measured(4, 13.0), measured(8, 99.0, width=16)]
    assert speeds.fastest_packed(rows, "A10G") == 2
    assert speeds.fastest_packed(rows, "H100") == speeds.fastest_packed([], "A10G") == 1
    places = Places(Path("home"), Path("results"), "matrix")
    given = SweepOptions(datasets=("ped2",), recipes=("amsrc",), sources=Sources(Path("data")), places=places)
    machine = Machine(((16.0, 2.0),), "A10G")
    found = [Plan(given, [], [], rows).packing(machine, cells) for cells in (2, 3, 9)]
    assert [(each.concurrent, each.gpus) for each in found] == [(2, 1.0), (3, 0.5), (4, 0.5)]
    assert Plan(replace(given, gpus_per_run=1.0), [], [], rows).packing(machine, 9).concurrent == 2
