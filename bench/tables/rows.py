"""Measured rows of the tables: records and searches -> `Row`s, by data set or by selection rule.

For `bench.tables.tables` alone; reads and writes nothing. Decides which runs a mean may join, and says in a footnote
what a reader must know of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain, product, zip_longest
from statistics import fmean, stdev
from typing import TypeAlias

from bench.experiment.recipes import RECIPES, recipe_of
from bench.experiment.rules import RULES
from bench.methods.catalogue import METHODS
from bench.records.names import alike, by_seed, changes, done_alike
from bench.records.records import RunRecord, SearchRecord
from bench.tables.typeset import ALONE, Cell, Row

Interval: TypeAlias = Callable[[list[RunRecord]], tuple[float, float] | None]
Place: TypeAlias = tuple[int, int, str, str]  # block, place within it, recipe, name: sorted as the table is printed

BLOCKS = ("Measured here", "Measured here, small", "Measured here, trivial baselines", "Measured here, searches")
# Metrics of Table 3 and their headers.
METRICS = {
    "auroc": "AUROC",
    "macro_auroc": "Macro",
    "average_precision": "AP",
    "eer": "EER",
    "f1_at_eer": "F1",
    "rbdc": "RBDC",
    "tbdc": "TBDC",
}
# Differences between two rules: what choosing on test labels adds.
GAPS = {f"oracle - {rule}": ("oracle", rule) for rule in ("crossfit", "label-free")}


def by_dataset(
    records: list[RunRecord],
    paper: Callable[[RunRecord], float | None],
    interval: Interval,
    datasets: list[str],
) -> Iterator[Row]:
    """A row for each recipe, and for each set of changes made to one; seeds together.

    Runs that differ in how their data were made are not averaged: they get lines of their own under the same
    name, told apart by their footnotes. A recipe without any number keeps its row, empty.

    Args:
        paper: the paper's figure that a run answers to, in percent.
        interval: of the mean of runs, in fractions.
    """
    rows: dict[Place, dict[str, list[Cell]]] = {}
    for runs in alike(records):
        cells = rows.setdefault(_place(runs[0]), {}).setdefault(runs[0].dataset, [])
        if cell := _cell(runs, paper(runs[0]), interval):
            cells.append(cell)
    for (block, _, recipe, name), found in sorted(rows.items()):
        lines = zip_longest(*(found.get(dataset, []) for dataset in datasets))
        for line in list(lines) or [()]:
            yield Row(
                group=BLOCKS[block],
                method=f"{name} ({recipe})",
                source="measured",
                recipe=recipe,
                cells=dict(zip_longest(datasets, line)),
            )


def _place(record: RunRecord) -> Place:
    """Where the row of a run is put, and its name."""
    recipe, order = recipe_of(record.recipe), list(RECIPES)
    block = 2 if not record.learns else 1 if recipe.small else 0
    place = order.index(record.recipe) if record.recipe in order else len(order)
    return block, place, record.recipe, ", ".join([recipe.title, *changes(record)])


def _cell(runs: list[RunRecord], paper: float | None, interval: Interval) -> Cell | None:
    """The figure of runs that differ in their seed: none if none is done or one of them is undefined."""
    done = by_seed([run for run in runs if run.status == "done"])
    cell = _mean([run.metric("auroc") for run in done], _sentence(_facts(done, rule=True))) if done else None
    if cell is None:
        return None
    low, high = (None if end is None else 100 * end for end in interval(done) or (None, None))
    return replace(cell, paper=paper, low=low, high=high, records=_fingerprints(done))


def _fingerprints(runs: list[RunRecord]) -> tuple[str, ...]:
    return tuple(run.fingerprint for run in runs)


def _mean(fractions: Sequence[float | None], setting: str) -> Cell | None:
    """Mean and spread over seeds in percent; none over a gap."""
    percents = [100 * value for value in fractions if value is not None]
    if len(percents) < len(fractions):
        return None
    std = stdev(percents) if len(percents) > 1 else None
    return Cell(mean=fmean(percents), std=std, seeds=len(percents), setting=setting)


def _sentence(facts: list[str]) -> str:
    return "; ".join(filter(None, facts)) + "."


def _facts(runs: list[RunRecord], *, rule: bool = False) -> list[str]:
    """What a reader must know of the runs behind a figure, the rule among it if asked."""
    first = runs[0]
    return [
        _seeds([run.seed for run in runs]),
        f"rule {first.rule}" if rule else "",
        _budget(first) if first.learns else "no training",
        f"boxes {first.boxes.partition(':')[0]}",
        f"flow {first.flow.partition(':')[0]}",
        f"labels {first.label_set}",
        f"PARTIAL DATA: test videos {', '.join(first.videos)}" if first.partial else "",
        "code with uncommitted changes" if any(_is_changed(run) for run in runs) else "",
    ]


def _budget(record: RunRecord) -> str:
    """How much was trained, on what."""
    train, width = record.experiment["train"], record.experiment["settings"].get("model", {}).get("width")
    method = METHODS.get(record.experiment["method"])
    phases = 1 if method is None else len(method.phases)
    epochs = f"{train['epochs'] * phases} epochs" if phases else "fitted in closed form"
    return ", ".join([*([f"width {width}"] if width else []), epochs, _trained_on(train["held_out"])])


def _seeds(seeds: list[int]) -> str:
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"


def _trained_on(held_out: float) -> str:
    return f"{100 * held_out:g} % of the training videos held out" if held_out else "trained on all training videos"


def _is_changed(record: RunRecord) -> bool:
    """Whether the code that trained or that measured differed from its commit."""
    return bool(record.git.get("dirty")) or "+changes" in str(record.git.get("trained"))


def by_metric(
    records: list[RunRecord],
    paper: Callable[[RunRecord], float | None],
    interval: Interval,
    datasets: list[str],
) -> list[Row]:
    """A row for each recipe and data set with every metric of METRICS; seeds together.

    Args:
        paper, interval: of the AUROC, as for `by_dataset`.
        datasets: in the order in which they are printed; rows of others are left out.
    """
    placed = []
    for runs in done_alike(record for record in records if record.dataset in datasets):
        setting = _sentence(_facts(runs, rule=True))
        cells = {name: _mean([run.metric(name) for run in runs], setting) for name in METRICS}
        cells["auroc"] = _cell(runs, paper(runs[0]), interval)
        if len(runs[0].parts) > 1:
            cells |= {f"{ALONE}{part}": _mean([run.parts.get(part) for run in runs], setting) for part in runs[0].parts}
        placed.append(_dataset_row(_place(runs[0]), runs[0].dataset, cells, _fingerprints(runs)))
    shown = [(place, row) for place, row in placed if any(row.cells.values())]
    return [row for _, row in sorted(shown, key=lambda pair: (pair[0], datasets.index(pair[1].dataset)))]


def compared(records: list[RunRecord]) -> Iterator[tuple[str, list[RunRecord], list[RunRecord]]]:
    """What the paper's claims compare: a method with each ablation under the same settings, and with a yardstick.

    Yields:
        What is compared, the method's runs, the others'.
    """
    groups = sorted(done_alike(records), key=lambda group: _place(group[0]))
    for ours, theirs in product(groups, groups):
        first, other = ours[0], theirs[0]
        if recipe_of(first.recipe).kind == "method" and _data(first) == _data(other) and _answers(other, first):
            yield _compared(first, other), ours, theirs


def _compared(ours: RunRecord, other: RunRecord) -> str:
    """A name for the comparison: the settings follow the recipe that they belong to."""
    held_out = ours.experiment["train"]["held_out"]
    kept = f"{100 * held_out:g} % held out" if held_out else "nothing held out"
    settings = ", ".join([*changes(ours), kept])
    if other.learns:
        return f"{ours.recipe} - {other.recipe} (both: {settings})"
    return f"{ours.recipe} ({settings}) - {other.recipe}"


def _answers(other: RunRecord, ours: RunRecord) -> bool:
    """Whether a run is an ablation of ours, made with the same settings, or a yardstick."""
    recipe = recipe_of(other.recipe)
    return recipe.yardstick or (
        recipe.of == ours.recipe
        and changes(other) == changes(ours)
        and other.experiment["train"] == ours.experiment["train"]
    )


def _data(run: RunRecord) -> tuple[object, ...]:
    return run.dataset, run.label_set, run.boxes, run.flow, run.videos


def by_rule(records: list[RunRecord], searches: list[SearchRecord], datasets: list[str]) -> list[Row]:
    """A row for each recipe and data set, then for each search and data set; seeds together.

    Trivial baselines have the same figure under every rule, as they leave nothing to choose.

    Args:
        datasets: in the order in which they are printed; rows of others are left out.
    """
    placed = [*_ruled(records), *chain.from_iterable(_searched(search, records) for search in searches)]
    shown = [(place, row) for place, row in placed if row.dataset in datasets and any(row.cells.values())]
    return [row for _, row in sorted(shown, key=lambda pair: (pair[0], datasets.index(pair[1].dataset)))]


def _ruled(records: list[RunRecord]) -> Iterator[tuple[Place, Row]]:
    """Rows of runs, and the place of each."""
    for runs in done_alike(record for record in records if record.rules):
        values = {rule: [run.rules.get(rule, {}).get("auroc") for run in runs] for rule in RULES}
        cells = _under_rules(values, _sentence(_facts(runs)))
        yield _dataset_row(_place(runs[0]), runs[0].dataset, cells, _fingerprints(runs))


def _searched(search: SearchRecord, records: list[RunRecord]) -> Iterator[tuple[Place, Row]]:
    """Rows of a search, one for each of its data sets, and the place of each: named after the recipe's own runs."""
    plain = recipe_of(search.recipe).title
    for dataset, found in search.chosen.items():
        runs = [run for run in records if run.fingerprint in search.reference and run.dataset == dataset]
        _, order, recipe, name = _place(runs[0]) if runs else (0, len(RECIPES), search.recipe, plain)
        values = {rule: [found.get(rule, {}).get("auroc")] for rule in RULES}
        cells = _under_rules(values, _sentence(_search_facts(search, runs)), seeds=len(search.seeds))
        yield _dataset_row((len(BLOCKS) - 1, order, recipe, f"{name}, searched"), dataset, cells, (search.study,))


def _dataset_row(
    place: Place, dataset: str, cells: dict[str, Cell | None], records: tuple[str, ...]
) -> tuple[Place, Row]:
    block, _, recipe, name = place
    cells = {key: cell and replace(cell, records=records) for key, cell in cells.items()}
    method = f"{name} ({recipe})"
    return place, Row(
        group=BLOCKS[block], method=method, source="measured", recipe=recipe, dataset=dataset, cells=cells
    )


def _under_rules(
    values: Mapping[str, list[float | None]], setting: str, seeds: int | None = None
) -> dict[str, Cell | None]:
    """A figure for each rule and for each gap, which is taken seed by seed; `seeds` where means are given."""
    found = dict(values)
    for name, (more, less) in GAPS.items():
        pairs = zip(values[more], values[less], strict=True)
        found[name] = [None if high is None or low is None else high - low for high, low in pairs]
    means = {name: _mean(each, setting) for name, each in found.items()}
    return {name: cell and replace(cell, seeds=seeds or cell.seeds) for name, cell in means.items()}


def _search_facts(search: SearchRecord, runs: list[RunRecord]) -> list[str]:
    """What was searched and how, and what is known of the recipe's own runs but their seeds."""
    states = Counter(trial["state"] for trial in search.trials)
    ranges = ", ".join(f"{field} {low:g} to {high:g}" for field, (low, high) in search.space.items())
    return [
        f"search {search.study}",
        f"{ranges}, log-uniform",
        f"trials: {', '.join(f'{states[state]} {state}' for state in ('done', 'pruned', 'failed'))}",
        f"objective under rule {search.rule}",
        f"{', '.join(search.datasets)} searched together" if search.joint else "",
        search.sampler,
        search.proposals.rstrip("."),
        _seeds(search.seeds),
        *(_facts(runs)[1:] if runs else []),
        "searched by code with uncommitted changes" if search.git.get("dirty") else "",
    ]
