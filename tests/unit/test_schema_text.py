"""Docstrings of dataclasses as tables of keys."""

from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from bench.cli.schema_text import _within, meanings, schema, words
from bench.evaluation.smoothing import Study
from bench.experiment.config import Experiment
from bench.methods.catalogue import METHODS
from bench.records.records import RunRecord, SearchRecord

SETTINGS = {name: method.config for name, method in METHODS.items() if meanings(method.config)}
RECORDS = [RunRecord, SearchRecord, Study, Experiment, *SETTINGS.values()]


@dataclass
class Inner:
    """Of a record."""

    depth: int
    """In metres | below the surface,
    as measured."""


@dataclass
class Outer:
    """A record."""

    name: str
    inner: Inner
    """What is in it."""
    several: list[Inner] = field(default_factory=list)
    """More of it."""


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (str, "text"),
        (int | None, "whole number or null"),
        (Literal["done", "failed", "pruned"], "`done`, `failed` or `pruned`"),
        (dict[str, int | float | list[float] | None], "object of numbers, lists of numbers or null"),
        (dict[str, dict[str, Any]], "object of objects"),
        (list[dict[str, Any]], "list of objects"),
        (tuple[float, float], "list of numbers"),
        (list[Inner], "list of objects"),
        (Inner, "object"),
    ],
)
def test_a_type_is_said_in_plain_words(kind: Any, expected: str) -> None:
    assert words(kind) == expected


def test_the_string_under_a_field_is_its_meaning() -> None:
    assert meanings(Inner) == {"depth": r"In metres \| below the surface, as measured."}
    assert meanings(Outer) == {"name": "", "inner": "What is in it.", "several": "More of it."}
    assert list(_within(Outer)) == [("inner", Inner), ("several", Inner)]


@pytest.mark.parametrize("record", RECORDS)
def test_every_key_of_a_record_has_a_meaning(record: type) -> None:
    for kind in (record, *(inner for _, inner in _within(record))):
        missing = [f"{kind.__name__}.{name}" for name, meaning in meanings(kind).items() if not meaning]
        assert not missing


def test_the_schema_has_every_key_and_keeps_drawn_folders_as_they_are() -> None:
    text = schema()
    for record in RECORDS:
        assert all(f"| `{name}` |" in text for name in meanings(record))
    assert "### `cube.boxes`" in text
    assert {"amsrc", "velocity-gmm", "conv-ae"} <= set(SETTINGS)
    assert all(f"## `settings` in an experiment of `{name}`" in text for name in SETTINGS)
    assert "| `weight_penalty` |" in text and "| `components` |" in text, "what is within them, too"
    assert "<home>/runs/<run key>/\n    run.json " in text
    assert "No torch" not in text
