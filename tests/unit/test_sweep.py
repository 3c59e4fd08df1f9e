"""What the driver of a sweep decides by itself: which cell a rule takes."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from bench.config import Experiment, fingerprint, override
from bench.grid import Cell
from bench.recipes import build
from bench.records import RunRecord
from bench.sweep import Sweep
from tests.unit.test_search import a_record


def picked(cells: list[Experiment], records: list[RunRecord]) -> dict[tuple[str, str], str]:
    """Data set and rule -> the fingerprint that is taken."""
    sweep: Any = SimpleNamespace(records={r.fingerprint: r for r in records}, picked={})
    Sweep._pick(sweep, [Cell(e, None) for e in cells])  # type: ignore[arg-type]
    return {key: record.fingerprint for key, record in sweep.picked.items()}


def worth(e: Experiment, **by_rule: float) -> RunRecord:
    rules: dict[str, Any] = {rule.replace("_", "-"): {"auroc": v, "pseudo_auroc": v} for rule, v in by_rule.items()}
    return replace(a_record(e), rules=rules)


def test_rules_take_the_first_recipe_and_seed_whatever_finished_first() -> None:
    ours, other = build("amsrc", "ped2"), build("baseline", "ped2")
    cells = [ours, build("amsrc", "ped2", 1), other]
    records = [a_record(e, value) for e, value in zip(reversed(cells), (0.9, 0.8, 0.7), strict=True)]
    rules = ("paper", "oracle", "crossfit", "label-free")
    assert picked(cells, records) == {("ped2", rule): fingerprint(ours) for rule in rules}
    assert picked([build("null-flow", "ped2")], [a_record(build("null-flow", "ped2"))]) == {}
    assert picked(cells, [replace(a_record(ours), status="failed")]) == {}


def test_along_an_axis_no_cell_is_taken_by_the_number_that_it_reports_under_crossfit() -> None:
    low, high = (override(build("amsrc", "ped2"), {"loss.consistency": value}) for value in ("1", "10"))
    records = [
        worth(low, paper=0.6, oracle=0.7, crossfit=0.6, label_free=0.9),
        worth(high, paper=0.8, oracle=0.9, crossfit=0.8, label_free=0.5),
    ]
    assert picked([low, high], records) == {
        ("ped2", "paper"): fingerprint(low),
        ("ped2", "oracle"): fingerprint(high),
        ("ped2", "label-free"): fingerprint(low),
    }
