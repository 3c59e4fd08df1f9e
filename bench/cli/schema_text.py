"""`results/SCHEMA.md`: where everything is stored and what every key means, from the docstrings of the code itself.

A record is a frozen dataclass with a string under each field; these strings become a table. Folders and archives are
described in the docstring of their module or of the function that names their path. Writes nothing.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from itertools import pairwise
from textwrap import dedent
from types import ModuleType, NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

INTRO = """# Schema

Where everything is stored, and what every key means. Made from the docstrings of the code by `make docs`; do not edit.
How the numbers are made is in [PROTOCOL.md](PROTOCOL.md). JSON files hold fractions, tables percents."""
WORDS = {
    str: ("text", "texts"),
    int: ("whole number", "whole numbers"),
    float: ("number", "numbers"),
    bool: ("true or false", "true or false"),
    NoneType: ("null", "null"),
    Any: ("any value", "any values"),
}


def schema() -> str:
    """The whole document, in Markdown."""
    from amsrc import store
    from bench.evaluation.smoothing import Study
    from bench.experiment.config import Experiment
    from bench.figures import files
    from bench.methods.catalogue import METHODS
    from bench.records import run_folder
    from bench.records.records import RunRecord, SearchRecord, frame_scores_path

    run = "<recipe>/<dataset>/seed<seed>-<fingerprint>"
    parts: list[str] = [INTRO]
    parts += _record("Record of a run", f"results/records/{run}.json", RunRecord)
    parts += _record("`experiment` in a record", "", Experiment)
    for method in METHODS.values():
        if fields(method.config):
            parts += _record(f"`settings` in an experiment of `{method.name}`", "", method.config)
    parts += _described("Frame scores", f"results/scores/{run}.npz", frame_scores_path)
    parts += _record("Record of a search", "results/searches/<study>/search.json", SearchRecord)
    parts += _record("Study of smoothing", f"results/smoothing/{run}.json", Study)
    parts += _described("Figures", "results/figures/", files)
    parts += _described("Folder of a run", "<home>/runs/<run>/", run_folder)
    parts += _described("Cube store", "<home>/stores/<store>/", store)
    return "\n\n".join(parts) + "\n"


def _record(title: str, path: str, record: type) -> Iterator[str]:
    """A section: what a dataclass is, a table of its keys, and one more for each dataclass within it."""
    yield f"## {title}" + (f"\n\n`{path}`" if path else "")
    yield from _table(record)
    for key, inner in _within(record):
        yield f"### `{key}`"
        yield from _table(inner)


def _table(record: type) -> Iterator[str]:
    yield from _paragraphs(inspect.getdoc(record) or "")
    kinds, about = get_type_hints(record), meanings(record)
    rows = [f"| `{field.name}` | {words(kinds[field.name])} | {about[field.name]} |" for field in fields(record)]
    yield "\n".join(["| key | type | meaning |", "|---|---|---|", *rows])


def _within(record: type, prefix: str = "") -> Iterator[tuple[str, type]]:
    """The dataclasses that fields of a dataclass hold, by their dotted keys, each before its own."""
    for key, kind in get_type_hints(record).items():
        for inner in (kind, *get_args(kind)):
            if isinstance(inner, type) and is_dataclass(inner):
                yield f"{prefix}{key}", inner
                yield from _within(inner, f"{prefix}{key}.")


def meanings(record: type) -> dict[str, str]:
    """The strings under the fields of a dataclass, each in one line; empty for a field without one."""
    (body,) = (node.body for node in ast.parse(inspect.getsource(record)).body if isinstance(node, ast.ClassDef))
    found = {field.name: "" for field in fields(record)}
    for field, under in pairwise(body):
        match field, under:
            case (
                ast.AnnAssign(target=ast.Name(id=name)),
                ast.Expr(value=ast.Constant(value=str(text))),
            ) if name in found:
                found[name] = " ".join(text.split()).replace("|", "\\|")
    return found


def words(kind: Any, *, many: bool = False) -> str:
    """A type in plain words: `list[float] | None` is "list of numbers or null"."""
    origin, inner = get_origin(kind), get_args(kind)
    if kind in WORDS:
        return WORDS[kind][many]
    if origin is Literal:
        return _either([f"`{value}`" for value in inner])
    if origin in (Union, UnionType):
        options = [one for one in inner if not (one is int and float in inner)]
        return _either([words(one, many=many) for one in options])
    if origin in (list, tuple):
        of = dict.fromkeys(words(one, many=True) for one in inner if one is not Ellipsis)
        return f"{'lists' if many else 'list'} of {_either([*of])}"
    if origin is dict:
        name, of_any = ("objects" if many else "object"), inner[1] is Any
        return name if of_any else f"{name} of {words(inner[1], many=True)}"
    return "objects" if many else "object"


def _either(options: list[str]) -> str:
    *first, last = options
    return f"{', '.join(first)} or {last}" if first else last


def _described(title: str, path: str, source: ModuleType | Callable[..., Any]) -> Iterator[str]:
    """A section: the first sentence of a docstring and what is drawn in it; the rest is for readers of the code."""
    yield f"## {title}\n\n`{path}`"
    first, *rest = _paragraphs(inspect.getdoc(source) or "")
    yield from (first, *(part for part in rest if part.startswith("```") or not isinstance(source, ModuleType)))


def _paragraphs(text: str) -> Iterator[str]:
    """The paragraphs of a docstring; one with indented lines is a drawing and keeps its lines."""
    for part in text.split("\n\n"):
        drawn = any(line.startswith("  ") for line in part.splitlines())
        yield f"```text\n{dedent(part).strip()}\n```" if drawn else " ".join(part.split())
