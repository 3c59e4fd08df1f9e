"""Progress of a sweep on the driver: one live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bench.evaluation.selection import objective
from bench.experiment.config import fingerprint
from bench.records.records import RunRecord
from bench.sweeps.grid import Trial

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table

EVERY_S = 15.0  # between two plain lines of the same trial


@dataclass
class Running:
    """A running trial."""

    trial: Trial
    cell: int = 0
    epoch: int = 0
    speed: float = 0.0
    shown: float = 0.0

    @property
    def done(self) -> float:
        """Fraction of its epochs that is done, 0 to 1."""
        epochs = self.trial.cells[self.cell].experiment.epochs
        return (self.cell + self.epoch / max(epochs, 1)) / len(self.trial.cells)


@dataclass
class Board:
    """The live table: counts and best AUROC by data set, updated as trials start, report epochs and end."""

    rule: str
    """Selection rule under which the best so far is chosen."""
    todo: Counter[str] = field(default_factory=Counter)
    """Trials to run by data set; those on several data sets under `a+b`."""
    ended: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Ended runs by data set and status."""
    best: dict[str, tuple[float, str]] = field(default_factory=dict)
    running: dict[int, Running] = field(default_factory=dict)
    finished: float = 0.0
    """Trials that ended since `began`."""
    began: float = field(default_factory=time.monotonic)
    live: Live | None = None

    @contextmanager
    def showing(self, todo: Counter[str]) -> Iterator[None]:
        """Show the progress of these trials within the block."""
        self.todo, self.finished, self.began = todo, 0.0, time.monotonic()
        self.running.clear()
        if not sys.stdout.isatty():
            yield
            return
        from rich.live import Live

        with Live(get_renderable=self.table, refresh_per_second=2) as self.live:
            yield
        self.live = None

    def say(self, text: str) -> None:
        """A line that stays."""
        if self.live:
            self.live.console.print(text, markup=False, highlight=False)
        else:
            print(text, flush=True)

    def started(self, trial: Trial) -> None:
        self.running[trial.number] = Running(trial)

    def epoch(self, trial: Trial, line: Mapping[str, Any]) -> None:
        mine = self.running.setdefault(trial.number, Running(trial))
        names = [fingerprint(cell.experiment) for cell in trial.cells]
        mine.cell, mine.epoch, mine.speed = names.index(line["cell"]), line["epoch"], line["cubes_per_s"]
        now = time.monotonic()
        if self.live is None and now - mine.shown >= EVERY_S:
            mine.shown = now
            epochs = trial.cells[mine.cell].experiment.epochs
            self.say(
                f"    {trial.title}: epoch {mine.epoch} of {epochs}, loss {line['loss']:.5f}, "
                f"{mine.speed:.0f} cubes/s{self.left()}"
            )

    def over(self, trial: Trial, records: Sequence[RunRecord], title: str) -> None:
        """A trial ended; `title` is its line."""
        self.running.pop(trial.number, None)
        self.finished += 1
        for record in records:
            self.count(record)
        self.say(f"[{self.finished:.0f}/{sum(self.todo.values())}] {title}{self.left()}")

    def count(self, record: RunRecord) -> None:
        """Add a run that ended, now or earlier."""
        self.ended[record.dataset, record.status] += 1
        value = objective(record.rules, self.rule) if record.status == "done" else None
        if value is not None and value > self.best.get(record.dataset, (-1.0, ""))[0]:
            self.best[record.dataset] = value, f"{record.recipe}, seed {record.seed}, {record.fingerprint}"

    @property
    def best_of(self) -> str:
        """Heading of the best so far; under `label-free` it is a validation score, not a test AUROC."""
        return f"best ({self.rule}{', validation score' if self.rule == 'label-free' else ''})"

    def left(self) -> str:
        """Time left, extrapolated from the work done since the start; empty while none is done."""
        whole = sum(self.todo.values())
        done = self.finished + sum(running.done for running in self.running.values())
        if not 0 < done < whole:
            return ""
        return f", about {clock((time.monotonic() - self.began) * (whole - done) / done)} left"

    def table(self) -> Table:
        """The live table as rich draws it."""
        from rich.table import Table

        table = Table(
            title=f"{self.finished:.0f} of {sum(self.todo.values())} trials{self.left()}", title_justify="left"
        )
        for name in ("data set", "done", "failed", "pruned", "running", self.best_of):
            table.add_column(name, justify="left" if name in ("data set", "running") else "right")
        todo = (dataset for together in self.todo for dataset in together.split("+"))  # those of a joint search
        datasets = dict.fromkeys([*todo, *(dataset for dataset, _ in self.ended)])
        for dataset in datasets:
            now = [running for running in self.running.values() if _of(running, dataset)]
            lines = [f"{r.trial.title}: epoch {r.epoch}, {r.speed:.0f} cubes/s" for r in now]
            best = self.best.get(dataset)
            counts = (str(self.ended[dataset, status]) for status in ("done", "failed", "pruned"))
            table.add_row(dataset, *counts, "\n".join(lines), f"{100 * best[0]:.2f} ({best[1]})" if best else "-")
        return table


def _of(running: Running, dataset: str) -> bool:
    return running.trial.cells[running.cell].experiment.dataset == dataset


def clock(seconds: float) -> str:
    """`2 h 05 min`, `12 min`, `40 s`."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
