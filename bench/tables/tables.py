"""The tables from `results/`: records, searches and `paper.csv` in, `tables/*.{md,tex,csv}` out.

The only way from a record to a printed number. Tables 1 and 2 have measured figures next to those of the paper,
Table 3 has every metric, `rules` compares the selection rules, `smoothing` (`bench.evaluation.smoothing`) the effect
of smoothing alone. Quoted rows are the paper's,
measured rows (`bench.tables.rows`) means over seeds; the two are never mixed. Needs neither torch nor Ray, and the same
records give the same bytes.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeAlias

from amsrc.errors import DataError
from bench.evaluation import framewise
from bench.experiment.recipes import RECIPES, recipe_of
from bench.experiment.rules import RULES
from bench.experiment.specs import DATASETS, SPECS, is_toy, title_of
from bench.methods.catalogue import METHODS
from bench.records.names import title
from bench.records.records import RunRecord, read_all, read_searches
from bench.storage.places import Place, write_file
from bench.tables import smoothing
from bench.tables.rows import (
    BLOCKS,
    GAPS,
    METRICS,
    by_dataset,
    by_metric,
    by_rule,
    compared,
)
from bench.tables.typeset import (
    Cell,
    Footnote,
    Row,
    Table,
    columns,
    footnotes,
    latex,
    markdown,
    metric_columns,
    raw,
    rule_columns,
)

PAPER_CSV = Path(__file__).resolve().with_name("paper.csv")
"""The published figures, by hand; part of the program, so that it makes tables wherever it is installed."""
CAPTIONS = {
    "table1": "Frame-level AUROC in percent, all test frames of a data set together.",
    "table2": "Ablation of AMSRC: frame-level AUROC in percent, all test frames of a data set together.",
}
METRICS_CAPTION = "Every metric of what was measured, in percent, all test frames of a data set together."
RULES_CAPTION = "The same trained models under four rules of choosing: frame-level AUROC in percent."
# Headings of the groups of `paper.csv`; one that is not here is its own heading.
GROUPS = {
    "classic": "Classic",
    "reconstruction": "Reconstruction",
    "prediction": "Prediction",
    "hybrid": "Hybrid and other",
    "ablation": "Paper",
}
TRIVIAL_NOTE = (
    "Trivial baselines learn nothing and pass through the same protocol: what they reach is no evidence for a method."
)
GATE_NOTE = "The paper does not say what takes the gate's place; adding the features is this project's first reading."
TOY_NOTE = "Rendered toy data sets: these figures show that the path works and compare with no publication."
QUOTED_NOTE = "Quoted: as printed in the AMSRC paper (arXiv 2204.04151)."
MEASURED_NOTE = (
    "Measured: mean ± sample standard deviation over seeds, [95 % interval over the test videos: bootstrap, drawn with "
    "replacement], (number of seeds), [setting]. Δ paper: measured minus the paper's figure, one for each data set."
)
FLAG_ABOVE = 60.0  # percent that a row without a look at any picture may reach
FLAGGED = {"auroc": "", "paper": "", "macro_auroc": "a macro AUROC of "}
"""The columns that are flagged in a row of one data set, and their names in the text."""
PAIRED_NOTE = (
    "Paired: AUROC of one minus that of the other with its 95 % interval, from the same draws of test videos for both."
)
METRICS_NOTE = (
    "Mean ± sample standard deviation over seeds; Seeds: their number and [setting]. Behind an AUROC its 95 % interval "
    "over the test videos, Δ paper: the AUROC minus the paper's. Parts alone: AUROC of each part of the score. Macro: "
    "mean AUROC of the videos in which both classes occur. EER: equal error rate, lower is better; F1: of abnormal "
    "frames at its threshold. RBDC, TBDC: regions and tracks detected by the boxes' scores, unsmoothed; missing "
    "without pixel masks and where only frames are scored. results/PROTOCOL.md defines each."
)
TRIVIAL_RULES_NOTE = (
    "Trivial baselines leave nothing to choose, so their figure is the same under every rule that has one."
)
GAPS_NOTE = (
    "Gaps: what choosing on test labels adds. Oracle - crossfit is owed to choosing and measuring on the same videos; "
    "oracle - label-free is what test labels add to choosing without any."
)
RULES_NOTE = "Mean ± sample standard deviation over seeds; Seeds: their number and [setting]."
SEARCHES_NOTE = "Searches: the rules choose among the trials as well, each with its epochs and weights."
NO_RULES_NOTE = "No record has other rules than paper yet."


class Quote(NamedTuple):
    """One published figure."""

    group: str
    citation: str
    where: str
    """Venue and year."""
    cell: Cell


Quotes: TypeAlias = dict[tuple[str, str, str], Quote]  # by table, method and data set


def build(results: Place, records: list[RunRecord] | None = None) -> dict[str, str]:
    """Every table file by name.

    Args:
        records: all of these results, where they are known already.

    Raises:
        DataError: as for `gathered`, or a record cannot be read.
    """
    files: dict[str, str] = {}
    for table in gathered(results, read_all(results) if records is None else records):
        files |= {f"{table.name}.md": markdown(table), f"{table.name}.csv": raw(table)}
        if table.for_paper:
            files[f"{table.name}.tex"] = latex(table)
    return files


def _is_toy(records: list[RunRecord]) -> bool:
    return bool(records) and all(is_toy(record.dataset) for record in records)


def gathered(results: Place, records: list[RunRecord]) -> list[Table]:
    """Every table.

    Records on toy data sets are left out unless there are no others; then the tables show nothing else.

    Args:
        records: all of these results.

    Raises:
        DataError: a search, a study of smoothing, frame scores or `paper.csv` cannot be read.
    """
    quotes, toy = _quotes(results), _is_toy(records)
    records = [record for record in records if is_toy(record.dataset) == toy]
    paper = [name for name in DATASETS if is_toy(name) == toy]
    datasets = [*paper, *sorted({record.dataset for record in records}.difference(paper))]
    interval = partial(framewise.interval, results)
    made: list[Table] = []
    for table, caption in CAPTIONS.items():
        ours = [record for record in records if _belongs(record.recipe, table)]
        rows = [
            *([] if toy else _quoted(quotes, table, datasets)),
            *by_dataset(ours, partial(_figure, quotes, (table,)), interval, datasets),
        ]
        shown = columns(datasets, footnotes(rows))
        paired = _differences(results, ours) if table == "table2" else []
        said = [*_notes(rows, toy), *(_deviations(rows, ours) if table == "table1" else [])]
        notes: list[str | Footnote] = [*said, *_flags(rows), *paired, *_numbered(rows), *_gaps(ours)]
        made.append(Table(table, f"Table {table[-1]}", caption, shown, rows, notes))
    rows = by_metric(records, partial(_figure, quotes, ("table2", "table1")), interval, datasets)
    notes = [*_notes(rows, toy, METRICS_NOTE), *_deviations(rows, records), *_flags(rows), *_numbered(rows)]
    shown = metric_columns(METRICS, footnotes(rows))
    made.append(Table("table3", "Table 3", METRICS_CAPTION, shown, rows, notes, by="metric"))
    rows = by_rule(records, read_searches(results), datasets)
    shown = rule_columns(list(RULES), list(GAPS), footnotes(rows))
    notes = [*_rule_notes(rows, toy), *_flags(rows), *_numbered(rows)]
    made.append(Table("rules", "Selection rules", RULES_CAPTION, shown, rows, notes, by="rule"))
    return [*made, *smoothing.tables(results, toy)]


def _numbered(rows: list[Row]) -> list[Footnote]:
    return [Footnote(number, text) for text, number in footnotes(rows).items()]


def write(results: Place, readme: Path | None = None, *, records: list[RunRecord] | None = None) -> list[Place]:
    """Write the tables. Returns the files.

    Args:
        readme: gets Table 1.
        records: all of these results, where they are known already.

    Raises:
        DataError: as for `build`, or the README cannot be read or lacks a marker.
        RunError: a file cannot be written.
    """
    files = _files(results, readme, records)
    for path, text in files.items():
        write_file(path, text.encode())
    return list(files)


def check(results: Place, readme: Path | None = None) -> list[str]:
    """The files that `write` would create or change; none when all are up to date. Writes nothing.

    Raises:
        DataError: as for `write`.
    """
    stale = (path for path, text in _files(results, readme).items() if not _holds(path, text))
    return [str(path) for path in stale]


def _holds(path: Place, text: str) -> bool:
    return path.is_file() and path.read_bytes() == text.encode()


def _files(results: Place, readme: Path | None, records: list[RunRecord] | None = None) -> dict[Place, str]:
    if isinstance(results, Path) and not results.is_dir():
        raise DataError(f"--results: {results} is no folder. Tables are made of the records in it.")
    tables = build(results, records)
    files: dict[Place, str] = {results / "tables" / name: text for name, text in tables.items()}
    if readme is not None:
        if not readme.is_file():
            raise DataError(f"{readme}: no such file; Table 1 goes into an existing README.")
        files[readme] = _insert(_text(readme), tables["table1.md"])
    return files


def _text(path: Place) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as UTF-8 ({error}).") from None


def _insert(text: str, table: str) -> str:
    """A README's text with Table 1 between the markers `<!-- table1 -->` and `<!-- /table1 -->`.

    Raises:
        DataError: a marker is missing.
    """
    before, opening, rest = text.partition("<!-- table1 -->")
    _, closing, after = rest.partition("<!-- /table1 -->")
    if not closing:
        raise DataError("README: table1 goes between <!-- table1 --> and <!-- /table1 -->; put both markers in.")
    return f"{before}{opening}\n\n{table}\n{closing}{after}"


# Rows: what the paper printed, then what was measured.


def _quotes(results: Place) -> Quotes:
    """The published figures: `paper.csv` among the results, or else the project's own."""
    own = results / "paper.csv"
    path = own if own.exists() else PAPER_CSV
    try:
        lines = csv.DictReader(path.read_text(encoding="utf-8").splitlines())
        found = {(line["table"], line["method"], line["dataset"]): _quote(line) for line in lines}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: no readable table of published figures ({error!r}). Restore it.") from None
    if strange := {dataset for _, _, dataset in found} - set(SPECS):
        known = ", ".join(SPECS)
        raise DataError(f"{path}: {', '.join(sorted(strange))}: not among the data sets of the tables ({known}).")
    return found


def _quote(line: Mapping[str, str]) -> Quote:
    where = f"{line['venue']} {line['year']}".strip()
    group = line["group"]
    heading = GROUPS.get(group, group[:1].upper() + group[1:])
    return Quote(heading, line["citation"], where, Cell(mean=float(line["auroc_percent"])))


def _belongs(name: str, table: str) -> bool:
    """Table 2 has the ablations and their method, Table 1 everything but them; both have the trivial baselines."""
    kind = recipe_of(name).kind
    ablated = any(recipe.of == name for recipe in RECIPES.values())
    return kind != "ablation" if table == "table1" else kind != "method" or ablated


def _quoted(quotes: Quotes, table: str, datasets: list[str]) -> list[Row]:
    """The quoted rows by group: those of GROUPS in its order, then others; else in the order of the file."""
    rows = list(_quoted_rows(quotes, table, datasets))
    order = list(dict.fromkeys([*GROUPS.values(), *(row.group for row in rows)]))
    return sorted(rows, key=lambda row: order.index(row.group))


def _quoted_rows(quotes: Quotes, table: str, datasets: list[str]) -> Iterator[Row]:
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


def _figure(quotes: Quotes, where: tuple[str, ...], record: RunRecord) -> float | None:
    """The quoted figure that a run answers to, in percent. A part of a data set answers to none.

    Args:
        where: the quoted tables that are looked into, in this order.
    """
    name = recipe_of(record.recipe).quoted_as or ""
    quote = next(filter(None, (quotes.get((table, name, record.dataset)) for table in where)), None)
    return quote.cell.mean if quote and not record.partial else None


def _notes(rows: list[Row], toy: bool, measured: str = MEASURED_NOTE) -> list[str]:
    """The lines under a table that explain it, the caveats first."""
    groups, sources = {row.group for row in rows}, {row.source for row in rows}
    lines = [
        (TOY_NOTE, toy),
        (TRIVIAL_NOTE, BLOCKS[2] in groups),
        (GATE_NOTE, any(recipe_of(row.recipe).undefined for row in rows)),
        (QUOTED_NOTE, "quoted" in sources),
        (measured, "measured" in sources),
        *(
            (spec.note, any(row.source == "measured" and _is_on(row, name) for row in rows))
            for name, spec in SPECS.items()
        ),
    ]
    return [text for text, wanted in lines if wanted and text]


def _deviations(rows: list[Row], records: list[RunRecord]) -> list[str]:
    """A line for each recipe with a figure whose method differs from its publication."""
    methods = {record.recipe: METHODS.get(record.experiment["method"]) for record in records}
    shown = dict.fromkeys(row.recipe for row in rows if any(row.cells.values()))
    found = ((name, method) for name in shown if (method := methods.get(name)) and method.deviations)
    lines = [f"{recipe_of(name).title}: {' '.join(method.deviations)}" for name, method in found]
    return list(dict.fromkeys(lines))  # a small recipe has the title of the full one


def _is_on(row: Row, dataset: str) -> bool:
    return row.dataset == dataset or row.cells.get(dataset) is not None


def _flags(rows: list[Row]) -> list[str]:
    """A line for each figure of a content-free baseline above FLAG_ABOVE: what the protocol alone rewards."""
    return [
        f"Flagged: {row.method} reaches {FLAGGED.get(key, '')}{cell.mean:.1f} on {title_of(row.dataset or key)}, above "
        f"{FLAG_ABOVE:.0f} without a look at any picture [{footnotes(rows)[cell.setting]}]: under this protocol a "
        "frame's place in its video tells much of its label."
        for row in rows
        if recipe_of(row.recipe).content_free
        for key, cell in row.cells.items()
        if cell is not None and cell.mean > FLAG_ABOVE and (key in FLAGGED or not row.dataset)
    ]


def _differences(results: Place, records: list[RunRecord]) -> list[str]:
    """A line for each comparison that the paper's claims rest on: is the difference more than the choice of videos?"""
    lines = []
    for what, ours, theirs in compared(records):
        if found := framewise.difference(results, ours, theirs):
            where = title_of(ours[0].dataset)
            ends = f"{100 * found.mean:+.2f} [{100 * found.low:+.1f}, {100 * found.high:+.1f}]"
            verdict = "the interval leaves out 0" if found.is_real else "not told apart from 0"
            lines.append(f"{where}: {what}: {ends}, {verdict}.")
    return [PAIRED_NOTE, *lines] if lines else []


def _gaps(records: list[RunRecord]) -> list[str]:
    """A line for each run that gave no number, with the reason."""
    lines = []
    for record in records:
        if record.status != "done":
            reason = " ".join((record.error or "no reason recorded").split())[:200]
            lines.append(f"{record.status.capitalize()}: {title(record)}: {reason}")
        elif record.metric("auroc") is None:
            lines.append(f"Undefined: {title(record)}: the scored frames are of one class.")
    return lines


def _rule_notes(rows: list[Row], toy: bool) -> list[str]:
    """The lines under the table of rules that explain it."""
    lines = [
        (TOY_NOTE, toy),
        (GATE_NOTE, any(recipe_of(row.recipe).undefined for row in rows)),
        (NO_RULES_NOTE, all(row.group == BLOCKS[2] for row in rows)),
        (TRIVIAL_RULES_NOTE, any(row.group == BLOCKS[2] for row in rows)),
        *((f"{rule.capitalize()}: {used}", True) for rule, used in RULES.items()),
        (GAPS_NOTE, True),
        (RULES_NOTE, True),
        (SEARCHES_NOTE, any(row.group == BLOCKS[-1] for row in rows)),
    ]
    return [text for text, wanted in lines if wanted]
