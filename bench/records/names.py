"""How a run is called and which runs belong together: titles, labels, settings that differ from the recipe, seeds.

Values in, values out; reads and writes nothing. For whatever shows runs: tables, figures, the page, MLflow, messages.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from itertools import chain, groupby

from bench.experiment import recipes
from bench.experiment.config import Experiment, dotted, flatten
from bench.experiment.specs import DATASETS
from bench.records.records import RunRecord

# Settings that a row's name leaves out: its footnote has them, or they cannot change its number.
UNNAMED = {
    "cube.boxes.provider",
    "cube.flow.provider",
    "label_set",
    "partial",
    "train.held_out",
    "train.score_every",
}
IN_NO_LABEL = {"partial", "train.score_every"}
UNTRAINED = ("train.",)  # settings that mean nothing where nothing is trained


def title(run: Experiment | RunRecord) -> str:
    """`amsrc on ped2, seed 0`."""
    return f"{run.recipe} on {run.dataset}, seed {run.seed}"


def label(record: RunRecord) -> str:
    """A run's name where no footnote explains it: its recipe, every setting that differs, missing data."""
    return ", ".join([record.recipe, *changes(record, IN_NO_LABEL), *["partial data"] * record.partial])


def by_part(values: Mapping[str, float | None], text: Callable[[float | None], str]) -> str:
    """Values of the parts of a score, as in `appearance 80.12, motion 75.00`; empty where it has a single part."""
    return ", ".join(f"{part} {text(value)}" for part, value in values.items()) if len(values) > 1 else ""


def changes(record: RunRecord, unnamed: Container[str] = frozenset(UNNAMED)) -> list[str]:
    """Settings in which a run differs from today's recipe of its name: `train.epochs=2`."""
    if record.recipe not in recipes.RECIPES or record.dataset not in DATASETS:
        return []
    recipe = flatten(recipes.build(record.recipe, record.dataset, record.seed))
    idle = () if record.learns else UNTRAINED
    differ = [
        (name, value) for name, value in dotted(record.experiment).items() if name in recipe and recipe[name] != value
    ]
    named = [(name, value) for name, value in sorted(differ) if name not in unnamed and not name.startswith(idle)]
    return [f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}" for name, value in named]


def all_but_seed(record: RunRecord) -> str:
    """Equal for the runs that a mean may join, and only for them."""
    experiment = {name: value for name, value in record.experiment.items() if name != "seed"}
    return json.dumps([experiment, record.rule, record.boxes, record.flow, record.videos], sort_keys=True)


def alike(records: Iterable[RunRecord]) -> Iterator[list[RunRecord]]:
    """The records in groups that differ in their seed alone."""
    return (list(same) for _, same in groupby(sorted(records, key=all_but_seed), key=all_but_seed))


def done_alike(records: Iterable[RunRecord]) -> Iterator[list[RunRecord]]:
    """The done ones of `alike`, each group in the order of its seeds and without those that were made again."""
    return map(by_seed, alike(record for record in records if record.status == "done"))


def latest(records: Iterable[RunRecord]) -> list[RunRecord]:
    """The done records without those that were made again: of equal settings and seed the latest."""
    return list(chain.from_iterable(done_alike(records)))


def by_seed(runs: list[RunRecord]) -> list[RunRecord]:
    """In the order of their seeds, the latest of each."""
    latest = {run.seed: run for run in sorted(runs, key=lambda run: run.finished)}
    return [run for _, run in sorted(latest.items())]


def percent(fraction: float | None) -> str:
    """`98.76` of 0.9876; "-" where there is none."""
    return "-" if fraction is None else f"{100 * fraction:.2f}"
