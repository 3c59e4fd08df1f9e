"""A table and its text: rows and one list of columns -> Markdown, LaTeX (booktabs), CSV.

Pure functions for `bench.tables.tables`; reads and writes nothing. Percents are rounded here and nowhere else; the
CSV keeps every digit. As HTML a table is set by the template of the page (`bench/page`), from the same `Table.groups`.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from itertools import groupby
from typing import Any, TypeAlias

from bench.experiment.specs import title_of

MISSING = "-"
TEX = str.maketrans(
    {
        **{char: f"\\{char}" for char in "&%$#_{}"},
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "±": r"$\pm$",
        "\N{MINUS SIGN}": r"$-$",
        "Δ": r"$\Delta$",
    }
)

ALONE = "part "
"""Begins the key of a cell that is the AUROC of one part of the score alone."""
RAW = ("table", "group", "method", "source", "reference", "recipe")  # then data set, rule and the fields of a cell


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One figure, in percent."""

    mean: float
    std: float | None = None
    """Sample standard deviation over seeds; None below two of them."""
    low: float | None = None
    """Lower end of the 95 % interval over test videos; None where there is none."""
    high: float | None = None
    """Upper end of it."""
    seeds: int | None = None
    """None when quoted."""
    paper: float | None = None
    """The paper's figure for the same thing; None when it has none."""
    setting: str = ""
    """How it was measured, for the footnote; empty when quoted."""
    records: tuple[str, ...] = ()
    """Fingerprints of the runs behind it, or the study of its search; in no table as text."""

    @property
    def delta(self) -> float | None:
        """Measured minus the paper's."""
        return None if self.paper is None else self.mean - self.paper


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of a table."""

    group: str
    """Heading it is under; rows of a group follow one another."""
    method: str
    source: str
    """`quoted` or `measured`."""
    reference: str = ""
    """Citation of a quoted row."""
    recipe: str = ""
    """Recipe of a measured row."""
    dataset: str = ""
    """Data set of a row whose cells are rules."""
    cells: dict[str, Cell | None]
    """By data set or by rule, in the order of the columns."""


@dataclass(frozen=True)
class Entry:
    """What a table shows of a cell: `59.43`, then ` [34.1, 87.6] (1)`, then a footnote."""

    figure: str
    """On the page a link to the records behind it."""
    after: str = ""
    """Interval and number of seeds."""
    note: int | None = None
    """Number of the footnote."""
    value: float | None = None
    """What a column is sorted by; None for a gap."""
    records: tuple[str, ...] = ()
    """As in `Cell`."""

    def __str__(self) -> str:
        return self.figure + self.after + ("" if self.note is None else f" [{self.note}]")


@dataclass(frozen=True)
class Footnote:
    """The setting of figures that show its number."""

    number: int
    text: str

    def __str__(self) -> str:
        return f"[{self.number}] {self.text}"


Column: TypeAlias = tuple[str, str, Callable[[Any], str | Entry]]
"""Header, key of the row, formatter of its value. The first two columns are words, all others figures."""


@dataclass(frozen=True)
class Table:
    """One table before it is text."""

    name: str
    title: str
    caption: str
    shown: Sequence[Column]
    rows: Sequence[Row]
    notes: Sequence[str | Footnote]
    by: str = "dataset"
    """What a row has a cell for each of; if not for each data set, it is a row of one data set."""
    for_paper: bool = True
    """Whether it is set in LaTeX as well."""

    def groups(self) -> Iterator[tuple[str, list[tuple[Row, list[str | Entry]]]]]:
        """Each heading with the rows under it, and what these show column by column."""
        for heading, rows in groupby(self.rows, key=lambda row: row.group):
            yield heading, [(row, self._entries(row)) for row in rows]

    def _entries(self, row: Row) -> list[str | Entry]:
        deltas = [cell.delta if cell else None for cell in row.cells.values()]
        first = next(filter(None, row.cells.values()), None)
        named = {"method": row.method, "source": row.source, "dataset": row.dataset, "deltas": deltas, "first": first}
        parts = {key.removeprefix(ALONE): cell for key, cell in row.cells.items() if key.startswith(ALONE)}
        values = {**named, "parts": parts, **row.cells}
        return [formatter(values[key]) for _, key, formatter in self.shown]


PRINTED = [field.name for field in fields(Cell) if field.name != "records"]
GAP = Entry(MISSING)


def footnotes(rows: list[Row]) -> dict[str, int]:
    """The settings of all cells, numbered in the order in which a reader meets them."""
    cells = (cell for row in rows for cell in row.cells.values())
    settings = dict.fromkeys(cell.setting for cell in cells if cell is not None and cell.setting)
    return {setting: number for number, setting in enumerate(settings, start=1)}


def columns(datasets: list[str], numbers: Mapping[str, int]) -> list[Column]:
    """The printed columns of a table with a column a data set.

    Args:
        datasets: one column each.
        numbers: footnote of each setting.
    """

    def figure(cell: Cell | None) -> Entry:
        if cell is None:
            return GAP
        if cell.seeds is None:
            return Entry(f"{cell.mean:.1f}", value=cell.mean)
        return replace(_within(cell), after=f"{_ends(cell)} ({cell.seeds})", note=numbers[cell.setting])

    return [
        ("Method", "method", str),
        ("Source", "source", str),
        *((title_of(name), name, figure) for name in datasets),
        ("Δ paper", "deltas", _deltas),
    ]


def rule_columns(rules: list[str], gaps: list[str], numbers: Mapping[str, int]) -> list[Column]:
    """The printed columns of a table with a column a rule; the footnote is next to the number of seeds.

    Args:
        rules: one column each.
        gaps: differences of two rules, one column each.
        numbers: footnote of each setting.
    """
    return [
        ("Method", "method", str),
        ("Data set", "dataset", title_of),
        ("Seeds", "first", partial(_seeds, numbers)),
        *((rule.capitalize(), rule, _within) for rule in rules),
        *((name.capitalize(), name, _signed) for name in gaps),
    ]


def metric_columns(metrics: Mapping[str, str], numbers: Mapping[str, int]) -> list[Column]:
    """The printed columns of a table with a column a metric; the footnote is next to the number of seeds.

    Args:
        metrics: header of each; the first is followed by the parts of the score alone.
        numbers: footnote of each setting.
    """
    return [
        ("Method", "method", str),
        ("Data set", "dataset", title_of),
        ("Seeds", "first", partial(_seeds, numbers)),
        *((header, name, _within) for name, header in list(metrics.items())[:1]),
        ("Parts alone", "parts", _parts),
        *((header, name, _within) for name, header in list(metrics.items())[1:]),
        ("Δ paper", "auroc", _delta),
    ]


def _seeds(numbers: Mapping[str, int], cell: Cell | None) -> Entry:
    """The number of seeds of a row's cells and their footnote."""
    return GAP if cell is None else Entry(str(cell.seeds), note=numbers[cell.setting], value=cell.seeds)


def _parts(cells: Mapping[str, Cell | None]) -> Entry:
    """The parts of a score by name, one after the other; a gap where there is one part, which is the score."""
    texts = [f"{part} {MISSING if cell is None else _spread(cell)}" for part, cell in cells.items()]
    return Entry(", ".join(texts)) if texts else GAP


def _within(cell: Cell | None) -> Entry:
    """A figure and, where there is one, its interval."""
    return GAP if cell is None else Entry(_spread(cell), _ends(cell), value=cell.mean, records=cell.records)


def _signed(cell: Cell | None) -> Entry:
    return GAP if cell is None else Entry(_minus(_spread(cell, "+")), value=cell.mean, records=cell.records)


def _spread(cell: Cell, sign: str = "") -> str:
    return f"{cell.mean:{sign}.2f}" + ("" if cell.std is None else f" ± {cell.std:.2f}")


def _ends(cell: Cell) -> str:
    return "" if cell.low is None else f" [{cell.low:.1f}, {cell.high:.1f}]"


def _minus(text: str) -> str:
    return text.replace("-", "\N{MINUS SIGN}")


def _delta(cell: Cell | None) -> Entry:
    """Of one cell, which leads to its records."""
    return GAP if cell is None or cell.delta is None else replace(_deltas([cell.delta]), records=cell.records)


def _deltas(deltas: list[float | None]) -> Entry:
    """Signed, one for each data set; a single mark for none at all."""
    texts = [MISSING if delta is None else _minus(f"{delta:+.2f}") for delta in deltas]
    known = [delta for delta in deltas if delta is not None]
    return Entry(" / ".join(texts), value=known[0]) if known else GAP


def markdown(table: Table) -> str:
    """A Markdown table that also reads well in a terminal, its notes as a list under it."""
    lines = [[header for header, _, _ in table.shown]]
    for heading, rows in table.groups():
        lines.append([f"**{heading}**", *[""] * (len(table.shown) - 1)])
        lines += [[str(entry).replace("|", r"\|") for entry in entries] for _, entries in rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rule = ["-" * widths[0], "-" * widths[1], *("-" * (width - 1) + ":" for width in widths[2:])]
    body = "\n".join(_markdown_line(line, widths) for line in [lines[0], rule, *lines[1:]])
    title = f"**{table.title}. {table.caption}**"
    return "\n".join([title, "", body, "", *(f"- {note}" for note in table.notes)]) + "\n"


def _markdown_line(texts: list[str], widths: list[int]) -> str:
    left = [text.ljust(width) for text, width in zip(texts[:2], widths[:2], strict=True)]
    right = [text.rjust(width) for text, width in zip(texts[2:], widths[2:], strict=True)]
    return f"| {' | '.join([*left, *right])} |"


def latex(table: Table) -> str:
    """A `table` environment for a paper; needs the package booktabs."""
    body = [_latex_line([header for header, _, _ in table.shown])]
    for heading, rows in table.groups():
        body += [r"\midrule", rf"\multicolumn{{{len(table.shown)}}}{{l}}{{\emph{{{heading.translate(TEX)}}}}} \\"]
        body += [_latex_line(entries) for _, entries in rows]
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{table.caption.translate(TEX)}}}",
        rf"\label{{tab:{table.name}}}",
        rf"\begin{{tabular}}{{ll{'r' * (len(table.shown) - 2)}}}",
        r"\toprule",
        *body,
        r"\bottomrule",
        r"\end{tabular}",
        r"\par\smallskip\footnotesize\raggedright",
        *(rf"{str(note).translate(TEX)}\par" for note in table.notes),
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _latex_line(entries: Sequence[str | Entry]) -> str:
    return rf"{' & '.join(str(entry).translate(TEX) for entry in entries)} \\"


def raw(table: Table) -> str:
    """CSV: one line a row and cell, numbers in percent with all their digits, empty where there is none."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*RAW, *dict.fromkeys(["dataset", table.by]), *PRINTED, "delta"])
    for row in table.rows:
        about = [table.name, row.group, row.method, row.source, row.reference, row.recipe]
        for key, cell in row.cells.items():
            where = {"dataset": row.dataset, table.by: key}.values()
            figures = [getattr(cell, field, None) for field in (*PRINTED, "delta")]
            writer.writerow([*about, *where, *figures])
    return text.getvalue()
