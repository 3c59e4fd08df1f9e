"""What the driver shows: a throttled line an epoch elsewhere, one table on a terminal, and the time that is left."""

import io
import re
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from bench.experiment.config import fingerprint
from bench.records.records import RunRecord
from bench.sweeps import live_table as board
from bench.sweeps.grid import Cell, Trial
from bench.sweeps.live_table import EVERY_S, Board, clock
from tests.cubes_made import an_experiment
from tests.results_made import valued


class Time:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.s = 1000.0


@pytest.fixture(autouse=True)
def at(monkeypatch: pytest.MonkeyPatch) -> Time:
    """The time as the board sees it; tests set `at.s`."""
    made = Time()
    monkeypatch.setattr(board, "time", SimpleNamespace(monotonic=lambda: made.s))
    return made


def a_trial(number: int = 0, *datasets: str, seeds: int = 1, params: dict[str, float] | None = None) -> Trial:
    """One cell a data set and seed, of four epochs."""
    named = datasets or ("ped2",)
    cells = [Cell(replace(an_experiment(seed=seed), dataset=d), Path()) for d in named for seed in range(seeds)]
    return Trial(number, tuple(cells), params or {})


def a_line(trial: Trial, epoch: int, cell: int = 0) -> dict[str, Any]:
    """What a worker reports after an epoch."""
    return {"epoch": epoch, "loss": 0.123456, "cubes_per_s": 99.6, "cell": fingerprint(trial.cells[cell].experiment)}


def a_record(trial: Trial, cell: int = 0, auroc: float | None = 0.75, status: str = "done") -> RunRecord:
    return valued(trial.cells[cell].experiment, auroc, status)


def shown(board: Board, width: int = 200) -> str:
    """The table as a terminal of this width prints it."""
    console = Console(file=io.StringIO(), width=width)
    console.print(board.table())
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


def row(board: Board, dataset: str) -> list[str]:
    """The cells of a data set's first line in the table."""
    (line,) = [line for line in shown(board).splitlines() if re.match(rf"│ {dataset} +│", line)]
    return [cell.strip() for cell in line.split("│")[1:-1]]


# Lines


def test_elsewhere_than_on_a_terminal_each_trial_has_a_line_every_so_often(
    at: Time, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other, shows = a_trial(0), a_trial(1, "avenue"), Board("paper")
    with shows.showing(Counter(ped2=1, avenue=1)):
        shows.started(one)
        shows.epoch(one, a_line(one, 1))
        at.s += EVERY_S - 1
        shows.epoch(one, a_line(one, 2))
        shows.epoch(other, a_line(other, 1))
        at.s += 1
        shows.epoch(one, a_line(one, 3))
    lines = [line.partition(", about")[0] for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        "    amsrc on ped2, seed 0: epoch 1 of 4, loss 0.12346, 100 cubes/s",
        "    amsrc on avenue, seed 0: epoch 1 of 4, loss 0.12346, 100 cubes/s",
        "    amsrc on ped2, seed 0: epoch 3 of 4, loss 0.12346, 100 cubes/s",
    ]


def test_a_trial_that_ended_has_its_line_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    one, other, shows = a_trial(0), a_trial(1, "avenue"), Board("paper")
    with shows.showing(Counter(ped2=1, avenue=1)):
        shows.started(one)
        shows.over(one, [a_record(one)], "amsrc on ped2, seed 0: paper 75.00")
        shows.over(other, [a_record(other, status="failed")], "amsrc on avenue, seed 0: FAILED: [x] no disk")
    first, second = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"\[1/2\] amsrc on ped2, seed 0: paper 75\.00(, about 0 s left)?", first)
    assert second == "[2/2] amsrc on avenue, seed 0: FAILED: [x] no disk"
    assert not shows.running


class Terminal(io.StringIO):
    """A text file that says it is one."""

    def isatty(self) -> bool:
        return True


def test_on_a_terminal_epochs_are_in_the_table_alone_and_ends_are_lines_that_stay(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trial, shows, terminal = a_trial(), Board("paper"), Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("COLUMNS", "150")
    with shows.showing(Counter(ped2=1)):
        shows.started(trial)
        shows.epoch(trial, a_line(trial, 1))
        shows.over(trial, [a_record(trial)], "ended: [bold]as it is[/bold]")
    text = terminal.getvalue()
    assert "[1/1] ended: [bold]as it is[/bold]" in text
    assert "loss 0.12346" not in text
    assert "best (paper)" in text
    assert shows.live is None
    shows.say("after it")
    assert terminal.getvalue().endswith("after it\n")


# The table


def test_the_table_has_counts_and_what_runs_by_data_set() -> None:
    shows = Board("paper")
    trials = [a_trial(0), a_trial(1), a_trial(2, "avenue"), a_trial(3, "avenue", params={"loss.consistency": 1.0})]
    with shows.showing(Counter(ped2=2, avenue=2)):
        shows.over(trials[0], [a_record(trials[0], auroc=0.8765)], "")
        shows.over(trials[1], [a_record(trials[1], status="failed")], "")
        for trial in trials[2:]:
            shows.started(trial)
        shows.epoch(trials[3], a_line(trials[3], 2))
        assert row(shows, "ped2") == ["ped2", "1", "1", "0", "", f"87.65 (amsrc, seed 0, {name_of(trials[0])})"]
        avenue = row(shows, "avenue")
        assert avenue == ["avenue", "0", "0", "0", "amsrc on avenue, seed 0: epoch 0, 0 cubes/s", "-"]
        assert "trial 3 on avenue: epoch 2, 100 cubes/s" in shown(shows)
        assert shown(shows).startswith("2 of 4 trials")


def name_of(trial: Trial, cell: int = 0) -> str:
    return fingerprint(trial.cells[cell].experiment)


def test_pruned_trials_are_counted_apart() -> None:
    trial, shows = a_trial(), Board("crossfit")
    shows.count(a_record(trial, status="pruned"))
    assert row(shows, "ped2")[1:4] == ["0", "0", "1"]
    assert "best (crossfit)" in shown(shows)


def test_a_trial_on_several_data_sets_runs_where_its_cell_is() -> None:
    trial, shows = a_trial(5, "ped2", "avenue", params={"loss.consistency": 1.0}), Board("paper")
    with shows.showing(Counter({"ped2+avenue": 3})):
        shows.started(trial)
        running = "trial 5 on ped2, avenue: epoch {}, {} cubes/s"
        assert [row(shows, d)[4] for d in ("ped2", "avenue")] == [running.format(0, 0), ""]
        shows.epoch(trial, a_line(trial, 1, cell=1))
        assert [row(shows, d)[4] for d in ("ped2", "avenue")] == ["", running.format(1, 100)]
        shows.over(trial, [a_record(trial, 0), a_record(trial, 1)], "")
        assert [row(shows, d)[1] for d in ("ped2", "avenue")] == ["1", "1"]
        assert "+" not in shown(shows)
        assert shown(shows).startswith("1 of 3 trials")


# The best so far


def test_the_best_is_kept_by_data_set_and_needs_a_done_cell_with_a_number() -> None:
    shows = Board("paper")
    ped2, avenue = a_trial(0, seeds=5), a_trial(1, "avenue")
    for seed, auroc in enumerate([0.6, 0.8, None, 0.8]):
        shows.count(a_record(ped2, seed, auroc))
    shows.count(a_record(ped2, 4, 0.9, "failed"))
    shows.count(a_record(avenue, auroc=0.1))
    assert shows.best == {
        "ped2": (0.8, f"amsrc, seed 1, {name_of(ped2, 1)}"),
        "avenue": (0.1, f"amsrc, seed 0, {name_of(avenue)}"),
    }
    assert shows.ended == {("ped2", "done"): 4, ("ped2", "failed"): 1, ("avenue", "done"): 1}


def test_the_best_is_judged_under_the_boards_rule() -> None:
    shows = Board("label-free")
    shows.count(a_record(a_trial(), auroc=0.6))
    assert shows.best["ped2"][0] == 0.6, "by pseudo-anomalies, not by the test"


def test_what_was_counted_before_stays_when_trials_are_shown() -> None:
    trial, shows = a_trial(), Board("paper")
    shows.count(a_record(trial))
    with shows.showing(Counter(avenue=1)):
        assert row(shows, "ped2")[1] == "1"
        assert shown(shows).startswith("0 of 1 trials")


# The time that is left


def test_the_time_left_follows_from_the_epochs_behind(at: Time) -> None:
    """Two trials of four epochs; a quarter of the first took 100 s, so the other seven quarters take 700 s."""
    trial, shows = a_trial(), Board("paper")
    with shows.showing(Counter(ped2=2)):
        assert shows.left() == ""
        shows.started(trial)
        at.s += 100
        assert shows.left() == "", "nothing is behind it yet"
        shows.epoch(trial, a_line(trial, 1))
        assert shows.left() == ", about 12 min left"
        at.s += 300
        shows.over(trial, [a_record(trial)], "")
        assert shows.left() == ", about 7 min left"
        shows.over(trial, [a_record(trial)], "")
        assert shows.left() == ""


def test_a_cell_of_many_counts_for_its_part_of_the_trial(at: Time) -> None:
    """Of a trial of two data sets by two seeds, two cells and half of the third are behind after 50 s."""
    trial, shows = a_trial(0, "ped2", "avenue", seeds=2), Board("paper")
    with shows.showing(Counter({"ped2+avenue": 1})):
        shows.started(trial)
        at.s += 50
        shows.epoch(trial, a_line(trial, 2, cell=2))
        assert shows.running[0].done == 2.5 / 4
        assert shows.left() == ", about 30 s left"


def test_the_time_starts_anew_with_the_trials_that_are_shown(at: Time) -> None:
    trial, shows = a_trial(), Board("paper")
    with shows.showing(Counter(ped2=1)):
        shows.over(trial, [a_record(trial)], "")
    at.s += 10_000
    with shows.showing(Counter(ped2=2)):
        at.s += 60
        shows.over(trial, [a_record(trial)], "")
        assert shows.left() == ", about 60 s left"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"), (40.4, "40 s"), (89, "89 s"), (90, "2 min"), (720, "12 min"), (5369, "89 min"),
        (5400, "1 h 30 min"), (7500, "2 h 05 min"), (7199, "2 h 00 min"), (36_000_000, "10000 h 00 min"),
    ],
)  # fmt: skip
def test_a_duration_is_told_in_the_units_it_has(seconds: float, text: str) -> None:
    assert clock(seconds) == text
