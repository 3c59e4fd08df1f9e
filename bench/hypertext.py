"""What stands in Markdown as HTML for the page (`bench.report`): READMEs, and tables whose figures are links.

Reads and writes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from html import escape

from bench.tables import Table
from bench.typeset import Cell

LINKS = ["image", "link", "autolink", "reference"]


def markdown(text: str, *, of_records: bool = False) -> str:
    """HTML; what records say, an error among it, makes no link and loads no picture."""
    from markdown_it import MarkdownIt

    renderer = MarkdownIt("commonmark", {"html": False}).enable("table")
    return str((renderer.disable(LINKS) if of_records else renderer).render(text))


def tables(made: Sequence[Table], files: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """Name, title, caption, body and notes of each table.

    Args:
        made: what leads from figures to records (`bench.tables.gathered`).
        files: Markdown by name of file (`bench.tables.build`); others than `.md` are passed over.
    """
    known = {table.name: table for table in made}
    for file, text in files.items():
        if file.endswith(".md"):
            yield _table(file, text, known.get(file.removesuffix(".md")))


def _table(file: str, text: str, made: Table | None) -> dict[str, str]:
    """A table of `bench.tables` as HTML: its headings span the row, its footnotes and its figures are links."""
    name = file.removesuffix(".md")
    title, _, rest = text.partition("\n")
    body, _, notes = rest.strip().partition("\n\n")
    html = markdown(body, of_records=True)
    width = html.partition("</tr>")[0].count("<th")
    group = rf'<tr class="group"><th colspan="{width}" scope="colgroup">\1</th></tr>'
    html = re.sub(r"<tr>\s*<td[^>]*><strong>(.*?)</strong></td>(?:\s*<td[^>]*></td>)+\s*</tr>", group, html)
    html = re.sub(r"\[(\d+)\]", rf'<a href="#{name}-\1" title="how it was made">[\1]</a>', html)
    html = _traced(html, made) if made else html
    listed = re.sub(r"<li>\[(\d+)\]", rf'<li id="{name}-\1">[\1]', markdown(notes, of_records=True))
    head, _, caption = title.strip("* ").partition(". ")
    return {"name": name, "title": head, "caption": caption, "body": html, "notes": listed}


def _traced(html: str, table: Table) -> str:
    """A table whose measured figures lead to the records behind them, and whose quoted rows tell whom they quote."""
    head, opening, body = html.partition("<tbody>")
    rows = iter(table.rows)

    def line(found: re.Match[str]) -> str:
        row = next(rows)
        cells = (row.cells.get(key) for _, key, _ in table.shown)
        title = f' title="{escape(row.reference)}"' if row.reference else ""
        return f"<tr{title}>{re.sub(r'<td[^>]*>.*?</td>', lambda text: _led(text[0], next(cells)), found[1])}</tr>"

    return head + opening + re.sub(r"<tr>(.*?)</tr>", line, body, flags=re.DOTALL)


def _led(html: str, cell: Cell | None) -> str:
    """A cell whose figure is a link to its record; those of further seeds are numbered behind it."""
    if cell is None or not cell.records:
        return html
    first, *others = [f'<a href="#r-{escape(name)}" title="record {escape(name)}">' for name in cell.records]
    also = "".join(f"<sup>{link}{number}</a></sup>" for number, link in enumerate(others, start=2))
    return re.sub(r">(\S*\d(?: ± [\d.]+)?)", rf">{first}\1</a>{also}", html, count=1)
