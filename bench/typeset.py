"""A table as text: rows and one list of columns -> Markdown, LaTeX (booktabs), CSV.

Pure functions for `bench.tables`; reads and writes nothing. Percents are rounded here and nowhere else; the
CSV keeps every digit.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from itertools import groupby
from typing import Any, TypeAlias

from bench.specs import title_of

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

RAW = ("table", "group", "method", "source", "reference", "recipe")  # then data set, rule and the fields of a cell

Column: TypeAlias = tuple[str, str, Callable[[Any], str]]
"""Header, key of the row, formatter of its value."""


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
    """Heading it stands under; rows of a group follow one another."""
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


PRINTED = [field.name for field in fields(Cell) if field.name != "records"]


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

    def figure(cell: Cell | None) -> str:
        if cell is not None and cell.seeds is None:
            return f"{cell.mean:.1f}"
        return MISSING if cell is None else f"{_within(cell)} ({cell.seeds}) [{numbers[cell.setting]}]"

    return [
        ("Method", "method", str),
        ("Source", "source", str),
        *((title_of(name), name, figure) for name in datasets),
        ("Δ paper", "deltas", _deltas),
    ]


def rule_columns(rules: list[str], gaps: list[str], numbers: Mapping[str, int]) -> list[Column]:
    """The printed columns of a table with a column a rule; the footnote stands beside the number of seeds.

    Args:
        rules: one column each.
        gaps: differences of two rules, one column each.
        numbers: footnote of each setting.
    """
    return [
        ("Method", "method", str),
        ("Data set", "dataset", title_of),
        ("Seeds", "first", lambda cell: f"{cell.seeds} [{numbers[cell.setting]}]"),
        *((rule.capitalize(), rule, _spread) for rule in rules),
        *((name.capitalize(), name, _signed) for name in gaps),
    ]


def metric_columns(metrics: Mapping[str, str], numbers: Mapping[str, int]) -> list[Column]:
    """The printed columns of a table with a column a metric; the footnote stands beside the number of seeds.

    Args:
        metrics: header of each.
        numbers: footnote of each setting.
    """
    return [
        ("Method", "method", str),
        ("Data set", "dataset", title_of),
        ("Seeds", "first", lambda cell: MISSING if cell is None else f"{cell.seeds} [{numbers[cell.setting]}]"),
        *((header, name, _within) for name, header in metrics.items()),
        ("Δ paper", "auroc", lambda cell: _deltas([cell.delta if cell else None])),
    ]


def _within(cell: Cell | None) -> str:
    """A figure and, where there is one, its interval."""
    return MISSING if cell is None else f"{_spread(cell)}{_ends(cell)}"


def _spread(cell: Cell | None, sign: str = "") -> str:
    if cell is None:
        return MISSING
    return f"{cell.mean:{sign}.2f}" + ("" if cell.std is None else f" ± {cell.std:.2f}")


def _ends(cell: Cell) -> str:
    return "" if cell.low is None else f" [{cell.low:.1f}, {cell.high:.1f}]"


def _signed(cell: Cell | None) -> str:
    return MISSING if cell is None else _minus(_spread(cell, "+"))


def _minus(text: str) -> str:
    return text.replace("-", "\N{MINUS SIGN}")


def _deltas(deltas: list[float | None]) -> str:
    """Signed, one for each data set; a single mark for none at all."""
    texts = [MISSING if delta is None else _minus(f"{delta:+.2f}") for delta in deltas]
    return MISSING if set(texts) == {MISSING} else " / ".join(texts)


def _values(row: Row, shown: list[Column]) -> list[str]:
    """The texts of a row, column by column."""
    deltas = [cell.delta if cell else None for cell in row.cells.values()]
    first = next(filter(None, row.cells.values()), None)
    named = {"method": row.method, "source": row.source, "dataset": row.dataset, "deltas": deltas, "first": first}
    fields = {**named, **row.cells}
    return [formatter(fields[key]) for _, key, formatter in shown]


def markdown(title: str, shown: list[Column], rows: list[Row], notes: list[str]) -> str:
    """A Markdown table that also reads well in a terminal, its notes as a list under it."""
    lines: list[list[str]] = []
    for group, members in groupby(rows, key=lambda row: row.group):
        lines.append([f"**{group}**", *[""] * (len(shown) - 1)])
        lines += [[text.replace("|", r"\|") for text in _values(row, shown)] for row in members]
    table = [[header for header, _, _ in shown], *lines]
    widths = [max(len(line[index]) for line in table) for index in range(len(shown))]
    rule = ["-" * widths[0], "-" * widths[1], *("-" * (width - 1) + ":" for width in widths[2:])]
    body = "\n".join(_markdown_line(line, widths) for line in [table[0], rule, *lines])
    return "\n".join([f"**{title}**", "", body, "", *(f"- {note}" for note in notes)]) + "\n"


def _markdown_line(texts: list[str], widths: list[int]) -> str:
    left = [text.ljust(width) for text, width in zip(texts[:2], widths[:2], strict=True)]
    right = [text.rjust(width) for text, width in zip(texts[2:], widths[2:], strict=True)]
    return f"| {' | '.join([*left, *right])} |"


def latex(name: str, caption: str, shown: list[Column], rows: list[Row], notes: list[str]) -> str:
    """A `table` environment for a paper; needs the package booktabs."""
    body = [_latex_line([header for header, _, _ in shown])]
    for group, members in groupby(rows, key=lambda row: row.group):
        body += [r"\midrule", rf"\multicolumn{{{len(shown)}}}{{l}}{{\emph{{{group.translate(TEX)}}}}} \\"]
        body += [_latex_line(_values(row, shown)) for row in members]
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{caption.translate(TEX)}}}",
        rf"\label{{tab:{name}}}",
        rf"\begin{{tabular}}{{ll{'r' * (len(shown) - 2)}}}",
        r"\toprule",
        *body,
        r"\bottomrule",
        r"\end{tabular}",
        r"\par\smallskip\footnotesize\raggedright",
        *(rf"{note.translate(TEX)}\par" for note in notes),
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _latex_line(texts: list[str]) -> str:
    return rf"{' & '.join(text.translate(TEX) for text in texts)} \\"


def raw(name: str, rows: list[Row], by: str = "dataset") -> str:
    """CSV: one line a row and cell, numbers in percent with all their digits, empty where there is none.

    Args:
        by: what the cells of a row are: `dataset`, or `rule` in rows of one data set each.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*RAW, *dict.fromkeys(["dataset", by]), *PRINTED, "delta"])
    for row in rows:
        for key, cell in row.cells.items():
            where = {"dataset": row.dataset, by: key}.values()
            figures = [getattr(cell, field, None) for field in (*PRINTED, "delta")]
            writer.writerow([name, row.group, row.method, row.source, row.reference, row.recipe, *where, *figures])
    return text.getvalue()
