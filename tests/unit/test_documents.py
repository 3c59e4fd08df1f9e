"""What the documents promise is there: linked files, runs named in commands, figures of tables, numbered deviations."""

import csv
import json
import re
from pathlib import Path

import pytest

from bench.cli.schema_text import schema
from bench.evaluation import smoothing
from bench.tables import tables

ROOT = Path(__file__).parents[2]
DOCUMENTS = ("README.md", "CONTRIBUTING.md", "clusters/README.md", "results/README.md", "results/FINDINGS.md")
DOCUMENTS += ("results/PROTOCOL.md", "results/SCHEMA.md")
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
FIGURE = re.compile(r"[+-]?\d+\.\d(?!\d)")
RUN = re.compile(r"--run ([0-9a-f]{4,12})\b|seed\d+-([0-9a-f]{12})\b")


def links(text):
    """Relative targets of Markdown links and images, without the part after `#`."""
    targets = (target.partition("#")[0] for target in LINK.findall(text))
    return [target for target in targets if target and "://" not in target]


def records():
    return {path.stem.partition("-")[2]: path for path in (ROOT / "results" / "records").glob("*/*/*.json")}


@pytest.mark.parametrize("name", [*DOCUMENTS, "docs/scale.md"])
def test_every_linked_file_and_picture_is_there(name):
    document = ROOT / name
    missing = [target for target in links(document.read_text()) if not (document.parent / target).exists()]
    assert not missing


def test_every_speed_that_is_cited_is_in_the_table_of_speeds():
    def rows(path):
        lines = (ROOT / path).read_text().splitlines()
        return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("|")]

    known = rows("results/speed/table.md")
    head = ["stage", "settings", "measured"]
    found = rows("docs/scale.md")
    cited = found[found.index(head) + 2 :]
    assert len(cited) > 10
    for stage, settings, measured in cited:
        assert [row for row in known if row[0] == stage and settings in row[1] and row[3] == measured], stage


def test_links_are_found_and_addresses_are_not():
    text = "![a picture](a/b.png) and [a page](c.md#part), [out](https://example.org/d.md), [here](#part)"
    assert links(text) == ["a/b.png", "c.md"]


@pytest.mark.parametrize("name", ["README.md", "results/README.md"])
def test_every_run_that_a_document_names_has_its_record(name):
    named = {one or other for one, other in RUN.findall((ROOT / name).read_text())}
    assert named
    known = records()
    assert {run for run in named if not any(fingerprint.startswith(run) for fingerprint in known)} == set()


def test_the_runs_whose_figures_are_shown_have_every_metric_and_a_study_of_smoothing():
    shown = {one or other for one, other in RUN.findall((ROOT / "README.md").read_text())}
    for run in shown:
        metrics = json.loads(records()[run].read_text())["metrics"]
        assert None not in [metrics[name] for name in ("auroc_interval", "eer", "f1_at_eer", "rbdc", "tbdc")]
    studies = {study.fingerprint: study.recipe for study in smoothing.read_all(ROOT / "results")}
    assert shown <= studies.keys()
    assert "null-flow" in studies.values(), "beside one that learns nothing"


def test_both_kinds_stand_in_the_table_of_smoothing():
    table = tables.build(ROOT / "results")["smoothing.md"]
    assert "**amsrc-small, seed 0" in table
    assert "**null-flow, seed 0" in table


def test_the_schema_is_up_to_date():
    assert (ROOT / "results" / "SCHEMA.md").read_text() == schema(), "run `make docs`"


def test_every_deviation_that_code_refers_to_is_in_the_protocol():
    section = (ROOT / "results" / "PROTOCOL.md").read_text().partition("## Deviations from the paper")[2]
    numbers = [int(number) for number in re.findall(r"^(\d+)\. ", section, re.M)]
    assert numbers == list(range(1, len(numbers) + 1))
    sources = [path.read_text() for folder in ("amsrc", "bench") for path in (ROOT / folder).rglob("*.py")]
    used = {int(number) for text in sources for number in re.findall(r"Deviation:? (\d+)", text)}
    assert used and used <= set(numbers)


def figures_of(recipe):
    """Every figure of a recipe in the committed tables, in percent to one digit, the ends of its interval too."""
    found = set()
    for name in ("table3.csv", "rules.csv"):
        with (ROOT / "results" / "tables" / name).open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["recipe"] == recipe]
        found |= {f"{float(row[key]):.1f}" for row in rows for key in ("mean", "low", "high", "paper") if row[key]}
    return found


def test_every_figure_in_the_tables_of_the_findings_is_one_of_its_recipe():
    lines = (ROOT / "results" / "FINDINGS.md").read_text().splitlines()
    rows = [line for line in lines if line.startswith("|") and "`" in line]
    assert len(rows) > 10
    for row in rows:
        (recipe,) = re.findall(r"`([a-z0-9-]+)`", row)
        shown = {figure.lstrip("+") for figure in FIGURE.findall(row)}
        assert shown and shown <= figures_of(recipe), row
