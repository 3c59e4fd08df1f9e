"""Table 1 and Table 2 from `results/`: records and `paper.csv` in, `tables/table{1,2}.{md,tex,csv}` out.

The only way from a record to a printed number. Quoted rows are the paper's, measured rows are means over
seeds; the two are never mixed. Needs neither torch nor Ray, and the same records give the same bytes.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from itertools import groupby, zip_longest
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple, TypeAlias

from amsrc.errors import DataError
from amsrc.files import write_file
from bench import recipes
from bench.config import TOY, dump
from bench.records import RunRecord, read_all
from bench.typeset import Cell, Row, columns, footnotes, latex, markdown, raw

PAPER_CSV = Path(__file__).resolve().parent.parent / "results" / "paper.csv"
CAPTIONS = {
    "table1": "Frame-level AUROC in percent, all test frames of a data set together.",
    "table2": "Ablation of AMSRC: frame-level AUROC in percent, all test frames of a data set together.",
}
GROUPS = {
    "classic": "Classic",
    "reconstruction": "Reconstruction",
    "prediction": "Prediction",
    "hybrid": "Hybrid and other",
    "ablation": "Paper",
}
BLOCKS = ("Measured here", "Measured here, small", "Measured here, null rows")
# Recipe -> its name in the tables and the method of `paper.csv` that it answers to; in the order of the rows.
METHODS = {
    "baseline": ("Baseline", "Baseline"),
    "no-gate-add": ("No gate, features added", "AMSRC without gated fusion"),
    "no-gate-concat": ("No gate, features concatenated", "AMSRC without gated fusion"),
    "no-gate-appearance": ("No gate, appearance alone", "AMSRC without gated fusion"),
    "amsrc": ("AMSRC", "AMSRC"),
    "amsrc-paper-loss": ("AMSRC, losses as printed", "AMSRC"),
    "null-flow": ("Mean flow magnitude", None),
}
# Settings that a row's name leaves out: they stand in its footnote, or they cannot change its number.
UNNAMED = {"cube.boxes.provider", "cube.flow.provider", "label_set", "partial", "train.score_every"}
UNTRAINED = ("model.", "loss.", "train.")  # settings that mean nothing to a row that learns nothing

NULL_NOTE = "Null rows learn nothing and pass through the same protocol: what they reach is no evidence for a method."
GATE_NOTE = "The paper does not say what takes the gate's place; adding the features is this project's first reading."
TOY_NOTE = "Rendered toy data sets: these figures show that the path works and compare with no publication."
QUOTED_NOTE = "Quoted: as printed in the AMSRC paper (arXiv 2204.04151)."
MEASURED_NOTE = (
    "Measured: mean ± sample standard deviation over seeds, (number of seeds), [setting]. Δ paper: measured minus the "
    "paper's figure, one for each data set."
)


class Quote(NamedTuple):
    """One published figure."""

    group: str
    citation: str
    where: str
    """Venue and year."""
    cell: Cell


Quotes: TypeAlias = dict[tuple[str, str, str], Quote]  # by table, method and data set


def build(results: Path) -> dict[str, str]:
    """Every table file by name.

    Records on toy data sets are left out unless there are no others; then the tables show nothing else.

    Raises:
        DataError: a record or `paper.csv` cannot be read.
    """
    quotes, records = _quotes(results), read_all(results)
    toy = bool(records) and all(record.dataset.startswith(TOY) for record in records)
    records = [record for record in records if record.dataset.startswith(TOY) == toy]
    paper = [name for name in recipes.DATASETS if name.startswith(TOY) == toy]
    datasets = [*paper, *sorted({record.dataset for record in records}.difference(paper))]
    files = {}
    for table, caption in CAPTIONS.items():
        ours = [record for record in records if _belongs(record.recipe, table)]
        rows = [*([] if toy else _quoted(quotes, table, datasets)), *_measured(ours, quotes, table, datasets)]
        numbers = footnotes(rows)
        shown = columns(datasets, numbers)
        notes = [*_notes(rows, toy), *(f"[{number}] {text}" for text, number in numbers.items()), *_gaps(ours)]
        files[f"{table}.md"] = markdown(f"Table {table[-1]}. {caption}", shown, rows, notes)
        files[f"{table}.tex"] = latex(table, caption, shown, rows, notes)
        files[f"{table}.csv"] = raw(table, rows)
    return files


def write(results: Path, readme: Path | None = None) -> list[Path]:
    """Write the tables and, if asked, Table 1 into a README. Returns the files.

    Raises:
        DataError: as for `build`, or the README cannot be read or lacks a marker.
        RunError: a file cannot be written.
    """
    files = _files(results, readme)
    for path, text in files.items():
        write_file(path, text.encode())
    return list(files)


def check(results: Path, readme: Path | None = None) -> list[str]:
    """The files that `write` would create or change; none when all are up to date. Writes nothing.

    Raises:
        DataError: as for `write`.
    """
    stale = (path for path, text in _files(results, readme).items() if not _holds(path, text))
    return [str(path) for path in stale]


def _holds(path: Path, text: str) -> bool:
    return path.is_file() and path.read_bytes() == text.encode()


def _files(results: Path, readme: Path | None) -> dict[Path, str]:
    tables = build(results)
    files = {results / "tables" / name: text for name, text in tables.items()}
    if readme is not None:
        if not readme.is_file():
            raise DataError(f"{readme}: no such file; Table 1 goes into an existing README.")
        files[readme] = insert(readme.read_text(encoding="utf-8"), tables["table1.md"])
    return files


def insert(text: str, table: str) -> str:
    """A README's text with a table between the markers `<!-- table1 -->` and `<!-- /table1 -->`.

    Raises:
        DataError: a marker is missing.
    """
    before, opening, rest = text.partition("<!-- table1 -->")
    _, closing, after = rest.partition("<!-- /table1 -->")
    if not closing:
        raise DataError("README: Table 1 goes between <!-- table1 --> and <!-- /table1 -->; put both markers in.")
    return f"{before}{opening}\n\n{table}\n{closing}{after}"


# Rows: what the paper printed, then what was measured.


def _quotes(results: Path) -> Quotes:
    """The published figures: `paper.csv` among the results, or else the project's own."""
    path = results / "paper.csv" if (results / "paper.csv").exists() else PAPER_CSV
    try:
        lines = csv.DictReader(path.read_text(encoding="utf-8").splitlines())
        return {(line["table"], line["method"], line["dataset"]): _quote(line) for line in lines}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: no readable table of published figures ({error!r}). Restore it.") from None


def _quote(line: Mapping[str, str]) -> Quote:
    where = f"{line['venue']} {line['year']}".strip()
    return Quote(GROUPS[line["group"]], line["citation"], where, Cell(mean=float(line["auroc_percent"])))


def _belongs(recipe: str, table: str) -> bool:
    """Table 2 has the ablations and AMSRC itself, Table 1 everything but the ablations."""
    ablation = recipe.startswith(("baseline", "no-gate-"))
    return not ablation if table == "table1" else ablation or recipe in ("amsrc", "amsrc-small")


def _quoted(quotes: Quotes, table: str, datasets: list[str]) -> Iterator[Row]:
    """The paper's rows, in its order."""
    for method in dict.fromkeys(method for name, method, _ in quotes if name == table):
        found = {dataset: quotes.get((table, method, dataset)) for dataset in datasets}
        quote = next(filter(None, found.values()))
        yield Row(
            group=quote.group,
            method=f"{method} ({quote.where})" if quote.where else method,
            source="quoted",
            reference=f"{quote.citation} {quote.where}".strip(),
            cells={dataset: quote.cell if quote else None for dataset, quote in found.items()},
        )


def _measured(records: list[RunRecord], quotes: Quotes, table: str, datasets: list[str]) -> Iterator[Row]:
    """A row for each recipe, and for each set of changes made to one; seeds together.

    Runs that differ in how their data were made are not averaged: they get lines of their own under the same
    name, told apart by their footnotes. A recipe without any number keeps its row, empty.
    """
    rows: dict[tuple[int, int, str, str], dict[str, list[Cell]]] = {}
    for _, same in groupby(sorted(records, key=_all_but_seed), key=_all_but_seed):
        runs = list(same)
        cells = rows.setdefault(_place(runs[0]), {}).setdefault(runs[0].dataset, [])
        cells += _cell(runs, _figure(quotes, table, runs[0]))
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


def _all_but_seed(record: RunRecord) -> str:
    """Equal for the runs that a mean may join, and only for them."""
    experiment = {name: value for name, value in record.experiment.items() if name != "seed"}
    return json.dumps([experiment, record.rule, record.boxes, record.flow, record.videos], sort_keys=True)


def _place(record: RunRecord) -> tuple[int, int, str, str]:
    """Block, place within it, recipe and name of a run's row: they sort as the table is printed."""
    recipe, order = record.recipe.removesuffix("-small"), list(METHODS)
    block = 2 if recipe.startswith("null-") else 1 if recipe != record.recipe else 0
    place = order.index(recipe) if recipe in order else len(order)
    name, _ = METHODS.get(recipe, (record.recipe, None))
    return block, place, record.recipe, ", ".join([name, *_changes(record)])


def _changes(record: RunRecord) -> list[str]:
    """Settings in which a run differs from its recipe as it stands today: `train.epochs=2`."""
    if record.recipe not in recipes.RECIPES or record.dataset not in recipes.DATASETS:
        return []
    recipe = dump(recipes.build(record.recipe, record.dataset, record.seed))
    idle = () if _is_trained(record) else UNTRAINED
    differ = _differences(record.experiment, recipe)
    return [f"{name}={value}" for name, value in differ if name not in UNNAMED and not name.startswith(idle)]


def _is_trained(record: RunRecord) -> bool:
    return bool(record.experiment.get("method", "amsrc") == "amsrc")


def _differences(ours: Mapping[str, Any], theirs: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and our values of the settings that both have and that differ."""
    for name in sorted(ours.keys() & theirs.keys()):
        if isinstance(ours[name], dict):
            yield from _differences(ours[name], theirs[name], f"{prefix}{name}.")
        elif ours[name] != theirs[name]:
            yield prefix + name, ours[name]


def _figure(quotes: Quotes, table: str, record: RunRecord) -> float | None:
    """The paper's figure that a run answers to, in percent. A part of a data set answers to none."""
    _, method = METHODS.get(record.recipe.removesuffix("-small"), ("", None))
    quote = quotes.get((table, method or "", record.dataset))
    return quote.cell.mean if quote and not record.partial else None


def _cell(runs: list[RunRecord], paper: float | None) -> list[Cell]:
    """The figure of runs that differ in their seed: none if all failed or one of them is undefined."""
    done = sorted((run for run in runs if run.status == "done"), key=lambda run: run.seed)
    percents = [100 * value for run in done if (value := run.metrics.get("auroc")) is not None]
    if not percents or len(percents) < len(done):
        return []
    std = stdev(percents) if len(percents) > 1 else None
    return [Cell(mean=fmean(percents), std=std, seeds=len(percents), paper=paper, setting=_setting(done))]


def _setting(runs: list[RunRecord]) -> str:
    """A footnote: what a reader must know of the runs behind a figure."""
    first = runs[0]
    model, train = first.experiment["model"], first.experiment["train"]
    budget = f"width {model['width']}, {train['epochs']} epochs"
    facts = [
        f"seed{'s' if len(runs) > 1 else ''} {', '.join(str(run.seed) for run in runs)}",
        f"rule {first.rule}",
        budget if _is_trained(first) else "no training",
        f"boxes {first.boxes.partition(':')[0]}",
        f"flow {first.flow.partition(':')[0]}",
        f"labels {first.label_set}",
        f"PARTIAL DATA: test videos {', '.join(first.videos)}" if first.partial else "",
        "code with uncommitted changes" if any(_is_changed(run) for run in runs) else "",
    ]
    return "; ".join(filter(None, facts)) + "."


def _is_changed(record: RunRecord) -> bool:
    """Whether the code that trained or that measured differed from its commit."""
    return bool(record.git.get("dirty")) or "+changes" in str(record.git.get("trained"))


def _notes(rows: list[Row], toy: bool) -> list[str]:
    """The lines under a table that explain it, the caveats first."""
    groups, sources = {row.group for row in rows}, {row.source for row in rows}
    lines = [
        (TOY_NOTE, toy),
        (NULL_NOTE, BLOCKS[2] in groups),
        (GATE_NOTE, any(row.recipe.startswith("no-gate-") for row in rows)),
        (QUOTED_NOTE, "quoted" in sources),
        (MEASURED_NOTE, "measured" in sources),
    ]
    return [text for text, wanted in lines if wanted]


def _gaps(records: list[RunRecord]) -> list[str]:
    """A line for each run that gave no number, with the reason."""
    lines = []
    for record in records:
        where = f"{record.recipe} on {record.dataset}, seed {record.seed}"
        if record.status == "failed":
            lines.append(f"Failed: {where}: {' '.join((record.error or 'no reason recorded').split())[:200]}")
        elif record.metrics.get("auroc") is None:
            lines.append(f"Undefined: {where}: the scored frames are of one class.")
    return lines


if __name__ == "__main__":
    from bench.cli import run_stage

    run_stage("tables")
