"""Tables: golden files from fixed records, and everything that must never look like a number."""

import csv
import io
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from amsrc.config import AmsrcConfig, ModelConfig, ScoreConfig, TrainConfig
from amsrc.errors import DataError
from bench.evaluation.bootstrap import auroc_interval, difference
from bench.evaluation.metrics import equal_error, pooled
from bench.experiment import recipes
from bench.experiment.config import Experiment, derive, fingerprint
from bench.methods.catalogue import METHODS
from bench.methods.interface import NoSettings
from bench.methods.settings import ConvAeConfig, VelocityGmmConfig
from bench.records.records import SearchRecord, write, write_frame_scores, write_search
from bench.tables import tables
from tests.results_made import a_trial, record_of

TABLES = ("table1", "table2", "table3", "rules")
GOLDEN = Path(__file__).parents[1] / "data" / "tables"


def pinned(recipe, dataset, seed=0):
    """Experiments of fixed budgets, so that an edited recipe leaves the golden files alone."""
    width, epochs = (16, 8) if recipe.endswith("-small") else (64, 60)
    return Experiment(
        recipe=recipe,
        dataset=dataset,
        seed=seed,
        train=TrainConfig(epochs=epochs, held_out=0.1),
        **(TRIVIAL if recipe.startswith("null-") else amsrc_of(width)),
    )


TRIVIAL = {"method": "flow-magnitude", "settings": NoSettings(), "score": ScoreConfig(weights=(1.0,))}


def amsrc_of(width):
    return {"settings": AmsrcConfig(model=ModelConfig(width=width)), "score": ScoreConfig(weights=(1.0, 0.01))}


@pytest.fixture(autouse=True)
def fixed_recipes(monkeypatch):
    monkeypatch.setattr(recipes, "build", pinned)


def add(results, recipe, dataset, seed, auroc, *, experiment=None, **changes):
    """Put a record into `results`: done with this AUROC, or failed."""
    e = experiment or pinned(recipe, dataset, seed)
    known = {"metrics": {"auroc": auroc}, "git": {"sha": "0" * 40, "dirty": False}, "boxes": "file:3f2a"}
    record = record_of(e, **known | changes)
    write(record, results)
    return record


def made_scores(quality, seed=0):
    """Frame scores and labels of six videos, abnormal frames ahead by `quality` standard deviations."""
    rng = np.random.default_rng(seed)
    labels = {f"{n:02d}": (np.arange(40) >= 10 + 4 * n).astype(np.uint8) for n in range(6)}
    return {video: (rng.normal(size=40) + quality * own).astype(np.float32) for video, own in labels.items()}, labels


def keep_scores(results, record, quality, seed=0):
    """Frame scores beside a record."""
    scores, labels = made_scores(quality, seed)
    write_frame_scores(results, record, scores, labels)
    return scores, labels


def add_scored(results, recipe, seed, auroc, experiment, quality):
    """A record on ped2 with its frame scores, and those of its metrics that come from them."""
    eer, f1 = equal_error(*pooled(*made_scores(quality, seed)))
    measured = {"auroc": auroc, "eer": eer, "f1_at_eer": f1}
    record = add(results, recipe, "ped2", seed, auroc, experiment=experiment, metrics=measured)
    keep_scores(results, record, quality, seed)


MEASURED = {
    "auroc": 0.98347,
    "auroc_interval": [0.95512, 0.99683],
    "macro_auroc": 0.9821,
    "macro_videos": 8,
    "average_precision": 0.9971,
    "eer": 0.0612,
    "f1_at_eer": 0.9622,
    "rbdc": 0.8396,
    "tbdc": 0.96789,
}


def chosen(paper, oracle, crossfit, label_free=None):
    """What four rules reach, as a record has it."""
    aurocs = {"paper": paper, "oracle": oracle, "crossfit": crossfit, "label-free": label_free}
    return {rule: {"auroc": auroc} for rule, auroc in aurocs.items()}


def search(results, recipe, datasets, found, reference, **changes):
    """Put a search into `results`, with what the rules choose on each data set."""
    states = ["done"] * 20 + ["pruned"] * 3 + ["failed"]
    facts = {
        "study": f"{recipe}-{datasets[0]}-1a2b3c4d",
        "recipe": recipe,
        "datasets": datasets,
        "seeds": [0],
        "joint": len(datasets) > 1,
        "rule": "crossfit",
        "space": {"loss.consistency": [0.1, 10.0], "train.learning_rate": [0.0001, 0.001]},
        "sampler": "QMCSampler(seed=0)",
        "proposals": "The sampler never saw a score.",
        "reference": reference,
        "trials": [a_trial(number, state) for number, state in enumerate(states)],
        "chosen": found,
        "started": "2025-01-01T00:00:00+00:00",
        "finished": "2025-01-01T01:00:00+00:00",
        "git": {"sha": "0" * 40, "dirty": False},
        "hardware": {},
        "versions": {},
    }
    write_search(SearchRecord(**(facts | changes)), results)


def published(results):
    """Every kind of record that the published tables can meet."""
    for seed, auroc in enumerate([0.9712, 0.9754, 0.9688]):
        rules = chosen(auroc, auroc + 0.01, auroc - 0.005 * seed, auroc + 0.002)
        parts = {"consistency": 0.6 + seed / 100, "prediction": auroc - 0.04}
        add(results, "amsrc", "ped2", seed, auroc, rules=rules, parts=parts)
    add(
        results,
        "amsrc",
        "avenue",
        0,
        0.871,
        partial=True,
        parts={"consistency": None, "prediction": 0.84},
        videos=["08", "21"],
        boxes="onnx:77aa",
        rules=chosen(0.871, 0.9, 0.86),
    )
    add(
        results,
        "amsrc",
        "shanghaitech",
        0,
        None,
        status="failed",
        error="RunError: consistency\nbecame non-finite",
        metrics={},
    )
    add(results, "amsrc-paper-loss", "ped2", 0, 0.95125, git={"sha": None, "dirty": True})
    add(results, "no-gate-add", "ped2", 0, 0.9601)
    add(results, "no-gate-add", "ped2", 1, None, status="failed", error="RunError: 100% full_disk", metrics={})
    add(results, "no-gate-concat", "ped2", 0, 0.9555)
    add(
        results,
        "no-gate-concat",
        "ped2",
        1,
        None,
        status="pruned",
        error="worse than its rivals at epoch 3",
        metrics={},
    )
    rules, alone = chosen(0.9333, 0.9333, 0.9333, 0.92), {"prediction": 0.9333}
    add(results, "baseline", "ped2", 0, 0.9333, rules=rules, parts=alone)
    add(results, "baseline", "avenue", 0, None, metrics={"auroc": float("nan")})
    kept = derive(pinned("amsrc-small", "ped2"), train={"held_out": 0.0})
    add(results, "amsrc-small", "ped2", 0, 0.905, rules=chosen(0.905, 0.95, 0.93, 0.91))
    add(results, "amsrc-small", "ped2", 0, 0.91, experiment=kept, rules=chosen(0.91, 0.95, 0.94))
    found = {"ped2": chosen(0.905, 0.97, 0.94, 0.93)}
    search(results, "amsrc-small", ["ped2"], found, [fingerprint(pinned("amsrc-small", "ped2"))])
    small = derive(pinned("baseline-small", "ped2"), train={"epochs": 2})
    for seed, quality in enumerate([1.0, 1.4]):
        ours = derive(pinned("amsrc-small", "ped2", seed), train={"epochs": 2})
        add_scored(results, "amsrc-small", seed, 0.88, ours, quality)
    add_scored(results, "baseline-small", 0, 0.7, small, 0.6)
    add(results, "baseline-small", "ped2", 0, 0.9125)
    add(results, "null-flow", "ped2", 0, 0.98347, rules=chosen(0.98347, 0.98347, 0.98347), metrics=MEASURED)
    add(results, "null-frame-index", "ped2", 0, 0.741457)
    add(results, "null-constant", "ped2", 0, 0.5)
    add(results, "amsrc", "toy-ped2", 0, 0.999)


def toys(results):
    for name in ("toy-ped2", "toy-avenue", "toy-shanghaitech"):
        parts = {"consistency": 0.9, "prediction": 0.8}
        add(results, "amsrc", name, 0, 0.95, rules=chosen(0.95, 0.97, 0.96, 0.955), parts=parts)
        add(results, "no-gate-add", name, 0, 0.9)
    add(results, "baseline", "toy-ped2", 0, 0.85)
    names = ["toy-ped2", "toy-avenue"]
    found = {name: chosen(0.95, 0.98, 0.97, 0.94) for name in names}
    search(results, "amsrc", names, found, [fingerprint(pinned("amsrc", name)) for name in names], seeds=[0, 1])


@pytest.mark.parametrize("name", [f"{table}.{kind}" for table in TABLES for kind in ("md", "tex", "csv")])
@pytest.mark.parametrize("fill", [published, toys], ids=lambda fill: fill.__name__)
def test_tables_are_as_they_were(tmp_path, fill, name):
    """A wanted change: look at the difference, then put the new text into tests/data/tables."""
    fill(tmp_path)
    assert tables.build(tmp_path)[name] == (GOLDEN / fill.__name__ / name).read_text()


def lines_of(text, start):
    return [line for line in text.splitlines() if line.startswith(f"| {start}")]


def test_nothing_but_numbers_looks_like_one(tmp_path):
    published(tmp_path)
    texts = tables.build(tmp_path)
    for text in texts.values():
        assert "nan" not in text.lower().replace("shanghai", "")
        assert "None" not in text
    row = lines_of(texts["table1.md"], "AMSRC (amsrc)")[0]
    assert [cell.strip() for cell in row.split("|")][3:6] == ["97.18 ± 0.33 (3) [1]", "87.10 (1) [2]", "-"]


@pytest.mark.parametrize("status", ["failed", "pruned"])
def test_unfinished_runs_are_named_and_are_no_numbers(tmp_path, status):
    add(
        tmp_path,
        "amsrc",
        "ped2",
        0,
        None,
        status=status,
        error="RunError: the disk is full",
        metrics={"auroc": 0.5},
        rules=chosen(0.5, 0.5, 0.5, 0.5),
    )
    assert "50.0" not in tables.build(tmp_path)["rules.md"]
    text = tables.build(tmp_path)["table1.md"]
    assert "50.0" not in text
    (row,) = lines_of(text, "AMSRC (amsrc)")
    assert row.split()[2:] == ["(amsrc)", "|", "measured", *["|", "-"] * 4, "|"]
    assert f"- {status.capitalize()}: amsrc on ped2, seed 0: RunError: the disk is full" in text


def test_a_mean_over_a_gap_is_no_number(tmp_path):
    add(tmp_path, "amsrc", "ped2", 0, 0.9)
    add(tmp_path, "amsrc", "ped2", 1, None)
    text = tables.build(tmp_path)["table1.md"]
    assert "90.00" not in text
    assert "Undefined: amsrc on ped2, seed 1" in text


def test_what_was_measured_differently_is_never_averaged(tmp_path):
    add(tmp_path, "amsrc", "ped2", 0, 0.9)
    add(tmp_path, "amsrc", "ped2", 1, 0.8, boxes="motion")
    add(tmp_path, "amsrc", "ped2", 2, 0.7, experiment=derive(pinned("amsrc", "ped2", 2), loss={"consistency": 10.0}))
    add(tmp_path, "amsrc", "ped2", 3, 0.6, rule="oracle")
    text = tables.build(tmp_path)["table1.md"]
    found = [line.split("|")[3].split()[0] for line in lines_of(text, "AMSRC") if "measured" in line]
    assert sorted(found) == ["60.00", "70.00", "80.00", "90.00"]
    assert len(lines_of(text, "AMSRC, loss.consistency=10 (amsrc)")) == 1
    assert "rule oracle" in text and "boxes motion" in text


def test_of_the_same_seed_measured_twice_the_later_counts(tmp_path):
    """A fingerprint made by an older program names the same experiment by another name."""
    later = "2026-01-01T00:00:00+00:00"
    add(tmp_path, "amsrc", "ped2", 0, 0.8, finished=later, fingerprint="ffffffffffff", rules=chosen(0.8, 0.8, 0.8))
    add(tmp_path, "amsrc", "ped2", 0, 0.9, rules=chosen(0.9, 0.9, 0.9))
    add(tmp_path, "amsrc", "ped2", 1, 0.7, rules=chosen(0.7, 0.7, 0.7))
    (line,) = lines_of(tables.build(tmp_path)["table1.md"], "AMSRC (amsrc)")
    assert line.split("|")[3].strip() == "75.00 ± 7.07 (2) [1]"
    assert figures(tmp_path, "AMSRC (amsrc)")[0][1:3] == ["2 [1]", "75.00 ± 7.07"]


def test_rows_that_trained_on_fewer_videos_say_so_and_are_never_averaged_with_the_others(tmp_path):
    add(tmp_path, "amsrc", "ped2", 0, 0.9, experiment=derive(pinned("amsrc", "ped2"), train={"held_out": 0.0}))
    add(tmp_path, "amsrc", "ped2", 1, 0.8)
    text = tables.build(tmp_path)["table1.md"]
    found = [line.split("|")[3].split()[0] for line in lines_of(text, "AMSRC (amsrc)")]
    assert sorted(found) == ["80.00", "90.00"]
    assert "seed 0; rule paper; width 64, 60 epochs, trained on all training videos;" in text
    assert "seed 1; rule paper; width 64, 60 epochs, 10 % of the training videos held out;" in text


def test_a_trivial_baseline_is_not_named_after_settings_that_mean_nothing_to_it(tmp_path):
    changed = derive(pinned("null-flow", "ped2"), train={"epochs": 2}, score={"skip_frames": 0})
    add(tmp_path, "null-flow", "ped2", 0, 0.9, experiment=changed)
    text = tables.build(tmp_path)["table1.md"]
    assert len(lines_of(text, "Mean flow magnitude, score.skip_frames=0 (null-flow)")) == 1


@pytest.mark.parametrize(
    ("git", "says"),
    [
        ({"dirty": True, "trained": "ab"}, True),
        ({"dirty": False, "trained": "ab+changes, cd"}, True),
        ({"dirty": False, "trained": "ab, cd"}, False),
    ],
)
def test_a_figure_from_changed_code_says_so(tmp_path, git, says):
    add(tmp_path, "amsrc", "ped2", 0, 0.9, git=git)
    assert ("code with uncommitted changes" in tables.build(tmp_path)["table1.md"]) == says


def test_part_of_a_data_set_answers_to_no_published_figure(tmp_path):
    add(tmp_path, "amsrc", "avenue", 0, 0.871, partial=True, videos=["08", "21"])
    text = tables.build(tmp_path)["table1.md"]
    assert lines_of(text, "AMSRC (amsrc)")[0].split()[-2] == "-"
    assert "PARTIAL DATA: test videos 08, 21" in text


def test_toy_records_never_enter_the_published_tables(tmp_path):
    add(tmp_path, "amsrc", "ped2", 0, 0.9)
    before = tables.build(tmp_path)
    add(tmp_path, "amsrc", "toy-ped2", 0, 0.999)
    assert tables.build(tmp_path) == before


def test_a_new_data_set_and_a_new_recipe_get_a_column_and_a_row(tmp_path):
    add(tmp_path, "my-method", "my-street", 0, 0.75)
    header, *rows = [line for line in tables.build(tmp_path)["table1.md"].splitlines() if line.startswith("|")]
    assert [cell.strip() for cell in header.split("|")][-3] == "my-street"
    assert any(row.startswith("| my-method (my-method)") and "75.00 (1) [1]" in row for row in rows)


def test_a_recipe_and_a_method_that_this_program_does_not_know_are_in_all_tables(tmp_path):
    """As from another checkout: three parts, groups of settings of its own, nothing of it in the catalogue."""
    known = record_of(pinned("amsrc", "ped2"), boxes="file:3f2a")
    settings = {"settings": {"mixture": {"components": 7}}, "score": known.experiment["score"] | {"weights": [1, 2, 1]}}
    theirs = replace(
        known,
        recipe="their-method",
        experiment=known.experiment | {"recipe": "their-method", "method": "theirs"} | settings,
        metrics={"auroc": 0.75, "macro_auroc": 0.7},
        parts={"pose": 0.6, "deep_features": 0.725, "speed": None},
        rules=chosen(0.75, 0.8, 0.77),
    )
    write(theirs, tmp_path)
    built = tables.build(tmp_path)
    table1, table3, rules = (
        lines_of(built[f"{table}.md"], "their-method (their-method)")[0] for table in ("table1", "table3", "rules")
    )
    assert "75.00 (1) [1]" in table1 and "Measured here**" in built["table1.md"]
    assert "| pose 60.00, deep_features 72.50, speed - | 70.00 |" in re.sub(" +", " ", table3)
    assert [cell.strip() for cell in rules.split("|")[4:7]] == ["75.00", "80.00", "77.00"]
    assert not lines_of(built["table2.md"], "their-method"), "the ablation of another method"
    assert "- [1] seed 0; rule paper; 60 epochs, 10 % of the training videos held out;" in built["table1.md"]
    assert r"deep\_features 72.50" in built["table3.tex"]
    rows = csv.DictReader(io.StringIO(built["table3.csv"]))
    assert {row["metric"]: row["mean"] for row in rows if row["metric"].startswith("part ")} == {
        "part pose": "60.0",
        "part deep_features": "72.5",
        "part speed": "",
    }


def test_what_is_fitted_in_closed_form_says_so(tmp_path):
    fitted = {"method": "velocity-gmm", "settings": VelocityGmmConfig(), "score": ScoreConfig(weights=(1.0,))}
    experiment = replace(pinned("velocity-gmm", "ped2"), **fitted)
    add(tmp_path, "velocity-gmm", "ped2", 0, 0.9, experiment=experiment, parts={"velocity": 0.9})
    text = tables.build(tmp_path)["table3.md"]
    assert "fitted in closed form, 10 % of the training videos held out;" in text and "epochs" not in text
    assert "velocity 90.00" not in text, "one part is the score"


def test_parts_alone_are_means_over_seeds_and_missing_where_one_is(tmp_path):
    add(tmp_path, "amsrc", "ped2", 0, 0.9, parts={"consistency": 0.5, "prediction": 0.8})
    add(tmp_path, "amsrc", "ped2", 1, 0.9, parts={"consistency": None, "prediction": 0.9})
    (row,) = lines_of(tables.build(tmp_path)["table3.md"], "AMSRC (amsrc)")
    assert "| consistency -, prediction 85.00 ± 7.07 |" in re.sub(" +", " ", row)


def test_csv_carries_every_digit(tmp_path):
    add(tmp_path, "amsrc", "ped2", 0, 1 / 3)
    add(tmp_path, "amsrc", "ped2", 1, 2 / 3)
    text = tables.build(tmp_path)["table1.csv"]
    assert len({line.count(",") for line in text.splitlines() if '"' not in line}) == 1
    rows = list(csv.DictReader(io.StringIO(text)))
    (ours,) = (row for row in rows if row["recipe"] == "amsrc" and row["dataset"] == "ped2")
    assert float(ours["mean"]) == pytest.approx(50, abs=1e-12)
    assert float(ours["std"]) == pytest.approx(100 / 3 / 2**0.5, abs=1e-12)
    assert (ours["seeds"], ours["paper"], ours["source"]) == ("2", "99.3", "measured")
    assert float(ours["delta"]) == pytest.approx(50 - 99.3)


def test_every_published_figure_is_there():
    quotes = list(csv.DictReader(tables.PAPER_CSV.read_text().splitlines()))
    figures = {(q["table"], q["method"], q["dataset"]): float(q["auroc_percent"]) for q in quotes}
    assert len(figures) == len(quotes) == 48
    assert figures["table1", "AMSRC", "ped2"] == figures["table2", "AMSRC", "ped2"] == 99.3
    assert figures["table1", "MNAD-P", "shanghaitech"] == 70.5
    assert ("table1", "AMC", "shanghaitech") not in figures
    assert len({method for table, method, _ in figures if table == "table1"}) == 16


def test_check_finds_what_is_stale_and_write_mends_it(tmp_path):
    assert len(tables.check(tmp_path)) == 12
    tables.write(tmp_path)
    assert tables.check(tmp_path) == []
    add(tmp_path, "amsrc", "ped2", 0, 0.9)
    assert {Path(name).stem for name in tables.check(tmp_path)} == {"table1", "table2", "table3"}
    tables.write(tmp_path)
    search(tmp_path, "amsrc", ["ped2"], {"ped2": chosen(0.9, 0.95, 0.9)}, [])
    assert {Path(name).stem for name in tables.check(tmp_path)} == {"rules"}
    tables.write(tmp_path)
    path = tmp_path / "tables" / "table2.tex"
    path.write_text(path.read_text().replace("90.00", "99.00"))
    assert tables.check(tmp_path) == [str(path)]


def test_a_readme_gets_table_1_between_its_markers(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- table1 -->\nold\n<!-- /table1 -->\nafter\n")
    tables.write(tmp_path, readme)
    text = readme.read_text()
    assert text.startswith("before\n<!-- table1 -->\n\n**Table 1.") and text.endswith("<!-- /table1 -->\nafter\n")
    assert "old" not in text
    assert tables.check(tmp_path, readme) == []
    readme.write_text(text.replace("99.3", "99.4"))
    assert tables.check(tmp_path, readme) == [str(readme)]


def test_a_readme_of_another_encoding_is_refused(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_bytes("before ä".encode("latin-1"))
    with pytest.raises(DataError, match=r"README\.md cannot be read as UTF-8"):
        tables.check(tmp_path, readme)


def test_a_published_figure_of_an_unknown_data_set_is_refused(tmp_path):
    text = tables.PAPER_CSV.read_text().replace(",ped2,", ",ubnormal,", 1)
    (tmp_path / "paper.csv").write_text(text)
    with pytest.raises(DataError, match=r"paper\.csv: ubnormal: not among the data sets of the tables \(ped2, avenue"):
        tables.build(tmp_path)


def test_groups_of_quoted_rows_that_have_no_heading_come_last_under_their_names(tmp_path):
    head, *lines = tables.PAPER_CSV.read_text().splitlines()
    theirs = [f"table1,{group},{name},They,CVPR,2023,ped2,9{n}.5," for n, (group, name) in enumerate(NEW_GROUPS)]
    (tmp_path / "paper.csv").write_text("\n".join([head, *theirs, *lines]))
    text = tables.build(tmp_path)["table1.md"]
    headings = ("Classic", "Reconstruction", "Prediction", "Hybrid and other", "Density", "AI and more")
    assert re.findall(r"^\| \*\*(.+?)\*\*", text, re.M) == list(headings)
    assert text.index("Density") < text.index("First (CVPR") < text.index("Third (CVPR") < text.index("AI and more")


def add_peer(results, name, settings, **changes):
    """A run of a method whose recipe has its name and whose score has one part."""
    theirs = {"method": name, "settings": settings, "score": ScoreConfig(weights=(1.0,))}
    add(results, name, "ped2", 0, 0.9, experiment=replace(pinned(name, "ped2"), **theirs), parts={}, **changes)


def test_what_a_measured_method_differs_in_from_its_publication_is_said_once_a_recipe(tmp_path):
    add(tmp_path, "amsrc", "ped2", 0, 0.9)
    built = tables.build(tmp_path)
    assert not any("ConvAE on cubes" in text for text in built.values())
    add_peer(tmp_path, "conv-ae", ConvAeConfig())
    add_peer(tmp_path, "velocity-gmm", VelocityGmmConfig(), status="failed")
    built = tables.build(tmp_path)
    line = f"- ConvAE on cubes: {' '.join(METHODS['conv-ae'].deviations)}"
    said = {name: text.splitlines().count(line) for name, text in built.items() if name.endswith(".md")}
    assert {name for name, count in said.items() if count} == {"table1.md", "table3.md"} and max(said.values()) == 1
    assert not any("DIS flow instead" in text for text in built.values()), "nothing of it was measured"


def test_a_peer_that_only_table_1_quotes_has_its_delta_in_table_3_too(tmp_path, monkeypatch):
    monkeypatch.setitem(recipes.RECIPES, "conv-ae", replace(recipes.RECIPES["conv-ae"], quoted_as="VEC"))
    add_peer(tmp_path, "conv-ae", ConvAeConfig())
    built = tables.build(tmp_path)
    for name in ("table1.md", "table3.md"):
        (line,) = lines_of(built[name], "ConvAE on cubes")
        assert line.split("|")[-2].split()[0] == "\N{MINUS SIGN}7.30", "97.3 in Table 1 of the paper"


NEW_GROUPS = [("density", "First"), ("AI and more", "Second"), ("density", "Third")]


@pytest.mark.parametrize("text", ["no markers", "<!-- table1 -->", "<!-- /table1 --> <!-- table1 -->"])
def test_a_readme_without_markers_is_refused(tmp_path, text):
    (tmp_path / "README.md").write_text(text)
    with pytest.raises(DataError, match="put both markers in"):
        tables.write(tmp_path, tmp_path / "README.md")
    with pytest.raises(DataError, match="no such file"):
        tables.write(tmp_path, tmp_path / "MISSING.md")


@pytest.mark.parametrize("text", ["table,group\ntable1,classic\n", "group,auroc_percent\nclassic\n", "\x80"])
def test_a_damaged_file_of_published_figures_is_named(tmp_path, text):
    (tmp_path / "paper.csv").write_text(text, encoding="latin-1")
    with pytest.raises(DataError, match=r"paper\.csv: no readable table of published figures"):
        tables.build(tmp_path)


def test_tables_need_neither_torch_nor_ray(tmp_path):
    code = (
        "import sys; from pathlib import Path; from bench.tables import tables; "
        f"tables.write(Path({str(tmp_path)!r})); "
        "print(sorted({'torch', 'ray', 'mlflow', 'sklearn', 'pandas', 'cv2'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


# Intervals, every metric, and what they say


def test_an_interval_is_the_record_s_own_or_comes_from_its_frame_scores(tmp_path):
    add(tmp_path, "null-flow", "ped2", 0, 0.98347, metrics=MEASURED)
    (row,) = lines_of(tables.build(tmp_path)["table1.md"], "Mean flow magnitude (null-flow)")
    assert row.split("|")[3].strip() == "98.35 [95.5, 99.7] (1) [1]"
    scores, labels = keep_scores(tmp_path, add(tmp_path, "amsrc", "ped2", 0, 0.9), 1.0)
    low, high = auroc_interval([scores], labels)
    (row,) = lines_of(tables.build(tmp_path)["table1.md"], "AMSRC (amsrc)")
    assert row.split("|")[3].strip() == f"90.00 [{100 * low:.1f}, {100 * high:.1f}] (1) [1]"


def test_the_interval_of_seeds_is_that_of_their_mean_and_needs_the_scores_of_all(tmp_path):
    first = keep_scores(tmp_path, add(tmp_path, "amsrc", "ped2", 0, 0.9), 1.0)
    second = add(tmp_path, "amsrc", "ped2", 1, 0.8)

    def printed():
        (row,) = lines_of(tables.build(tmp_path)["table1.md"], "AMSRC (amsrc)")
        return row.split("|")[3].strip()

    assert printed() == "85.00 ± 7.07 (2) [1]"
    other = keep_scores(tmp_path, second, 2.0, seed=1)
    low, high = auroc_interval([first[0], other[0]], first[1])
    assert printed() == f"85.00 ± 7.07 [{100 * low:.1f}, {100 * high:.1f}] (2) [1]"


def test_every_row_of_table_3_answers_to_the_papers_figure_and_trivial_baselines_to_none(tmp_path):
    measured = {**MEASURED, "auroc": 0.9, "auroc_interval": [0.75, 0.95]}
    for recipe in ("baseline", "no-gate-concat", "amsrc-paper-loss", "null-flow"):
        add(tmp_path, recipe, "avenue", 0, 0.9, partial=recipe == "amsrc-paper-loss", metrics=measured)
    built = tables.build(tmp_path)
    deltas = [line.split("|")[-2].strip() for line in built["table3.md"].splitlines() if "| Avenue" in line]
    assert deltas == ["\N{MINUS SIGN}0.60", "\N{MINUS SIGN}2.50", "-", "-"], "a part of a data set answers to none"
    rows = csv.DictReader(io.StringIO(built["table3.csv"]))
    ends = {row["metric"]: (row["low"], row["high"], row["paper"]) for row in rows if row["recipe"] == "baseline"}
    assert ends.pop("auroc") == ("75.0", "95.0", "90.6")
    assert set(ends.values()) == {("", "", "")}


def test_what_looks_at_no_picture_and_beats_sixty_is_flagged_and_only_that(tmp_path):
    add(tmp_path, "null-frame-index", "ped2", 0, 0.7415)
    add(tmp_path, "null-clip-centre", "shanghaitech", 0, 0.766)
    add(tmp_path, "null-noise", "ped2", 0, 0.6)
    add(tmp_path, "null-boxes", "ped2", 0, 0.9)
    for table in ("table1", "table2"):
        flags = [line for line in tables.build(tmp_path)[f"{table}.md"].splitlines() if line.startswith("- Flagged")]
        assert [line.split(" without")[0] for line in flags] == [
            "- Flagged: Frame index (null-frame-index) reaches 74.2 on Ped2, above 60",
            "- Flagged: Nearness to the clip's centre (null-clip-centre) reaches 76.6 on ShanghaiTech, above 60",
        ]


def test_the_tables_of_metrics_and_of_rules_flag_it_too(tmp_path):
    measured = {"auroc": 0.74, "macro_auroc": 0.625, "average_precision": 0.9, "f1_at_eer": 0.8}
    add(tmp_path, "null-frame-index", "ped2", 0, 0.74, metrics=measured, rules=chosen(0.74, 0.74, 0.74))
    add(tmp_path, "null-noise", "ped2", 0, 0.51, rules=chosen(0.51, 0.51, 0.51))
    add(tmp_path, "amsrc", "ped2", 0, 0.9, rules=chosen(0.9, 0.9, 0.9))
    found = {}
    for name in ("table3", "rules"):
        lines = tables.build(tmp_path)[f"{name}.md"].splitlines()
        found[name] = [line.partition(" without")[0] for line in lines if line.startswith("- Flagged")]
    assert found["table3"] == [
        "- Flagged: Frame index (null-frame-index) reaches 74.0 on Ped2, above 60",
        "- Flagged: Frame index (null-frame-index) reaches a macro AUROC of 62.5 on Ped2, above 60",
    ]
    assert found["rules"] == found["table3"][:1], "once, not under every rule"


def test_avenue_is_never_shown_without_its_two_label_sets(tmp_path):
    add(tmp_path, "amsrc", "ped2", 0, 0.9)
    assert "441 frames apart" not in "".join(tables.build(tmp_path).values())
    add(tmp_path, "amsrc", "avenue", 0, 0.9, label_set="intervals")
    built = tables.build(tmp_path)
    assert all("441 frames apart" in built[f"{table}.md"] for table in ("table1", "table2", "table3"))
    assert "labels intervals" in built["table1.md"]


def test_differences_are_paired_and_only_between_the_same_settings(tmp_path):
    ours = keep_scores(tmp_path, add(tmp_path, "amsrc", "ped2", 0, 0.9), 2.0)
    keep_scores(tmp_path, add(tmp_path, "baseline", "ped2", 0, 0.8, boxes="motion"), 0.1)
    changed = derive(pinned("no-gate-add", "ped2"), train={"epochs": 2})
    keep_scores(tmp_path, add(tmp_path, "no-gate-add", "ped2", 0, 0.8, experiment=changed), 0.1)
    assert "Paired" not in tables.build(tmp_path)["table2.md"]
    theirs = keep_scores(tmp_path, add(tmp_path, "baseline", "ped2", 1, 0.8), 0.1, seed=5)
    found = difference([ours[0]], [theirs[0]], ours[1])
    ends = f"{100 * found.mean:+.2f} [{100 * found.low:+.1f}, {100 * found.high:+.1f}]"
    line = f"- Ped2: amsrc - baseline (both: 10 % held out): {ends}, the interval leaves out 0."
    assert line in tables.build(tmp_path)["table2.md"].splitlines()


def test_a_difference_says_whose_settings_it_names_and_what_was_held_out(tmp_path):
    for held_out, quality in ((0.0, 1.0), (0.1, 1.5)):
        for recipe in ("amsrc", "baseline"):
            e = derive(pinned(recipe, "ped2"), train={"epochs": 2, "held_out": held_out})
            keep_scores(tmp_path, add(tmp_path, recipe, "ped2", 0, 0.8, experiment=e), quality)
    keep_scores(tmp_path, add(tmp_path, "null-flow", "ped2", 0, 0.9), 2.0)
    text = tables.build(tmp_path)["table2.md"]
    assert sorted(line[8:].rpartition(": ")[0] for line in text.splitlines() if line.startswith("- Ped2: ")) == [
        "amsrc (train.epochs=2, 10 % held out) - null-flow",
        "amsrc (train.epochs=2, nothing held out) - null-flow",
        "amsrc - baseline (both: train.epochs=2, 10 % held out)",
        "amsrc - baseline (both: train.epochs=2, nothing held out)",
    ]


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs a LaTeX with booktabs")
def test_every_latex_table_compiles(tmp_path):
    published(tmp_path)
    tables.write(tmp_path)
    inputs = "".join(rf"\input{{tables/{table}.tex}}\clearpage " for table in TABLES)
    document = rf"\documentclass{{article}}\usepackage{{booktabs}}\begin{{document}}{inputs}\end{{document}}"
    (tmp_path / "all.tex").write_text(document)
    command = ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "all.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout[-2000:]


def test_latex_is_balanced_whether_or_not_it_is_compiled(tmp_path):
    published(tmp_path)
    for name, text in tables.build(tmp_path).items():
        if name.endswith(".tex"):
            columns = text.split(r"\begin{tabular}{")[1].split("}")[0]
            lines = [line for line in text.splitlines() if line.endswith(r"\\") and "multicolumn" not in line]
            assert {len(re.findall(r"(?<!\\)&", line)) + 1 for line in lines} == {len(columns)}
            assert all(ord(char) < 128 for char in text), "every other sign is a command"
            assert text.count("{") == text.count("}")


# Selection rules


def figures(results, start):
    """The texts behind method and data set, one list for each row of the rules table that begins so."""
    lines = lines_of(tables.build(results)["rules.md"], start)
    return [[cell.strip() for cell in line.split("|")[2:-1]] for line in lines]


def test_gaps_are_taken_seed_by_seed(tmp_path):
    """Gaps of 5 and 1 points: mean 3, sample standard deviation 2.83; the figures' own spreads would hide it."""
    add(tmp_path, "amsrc", "ped2", 0, 0.8, rules=chosen(0.8, 0.9, 0.85, 0.91))
    add(tmp_path, "amsrc", "ped2", 1, 0.9, rules=chosen(0.9, 0.94, 0.93, 0.95))
    (row,) = figures(tmp_path, "AMSRC (amsrc)")
    assert row[:2] == ["Ped2", "2 [1]"]
    assert row[2:6] == ["85.00 ± 7.07", "92.00 ± 2.83", "89.00 ± 5.66", "93.00 ± 2.83"]
    assert row[6:] == ["+3.00 ± 2.83", "\N{MINUS SIGN}1.00 ± 0.00"]


def test_a_rule_without_a_number_for_each_seed_has_none_and_the_others_stay(tmp_path):
    add(tmp_path, "amsrc", "ped2", 0, 0.8, rules=chosen(0.8, 0.9, 0.85, 0.91))
    add(tmp_path, "amsrc", "ped2", 1, 0.8, rules=chosen(0.8, 0.9, 0.85))
    assert figures(tmp_path, "AMSRC (amsrc)") == [
        ["Ped2", "2 [1]", *("80.00 ± 0.00", "90.00 ± 0.00", "85.00 ± 0.00", "-"), "+5.00 ± 0.00", "-"]
    ]


def test_trivial_baselines_stand_under_the_rules_too_with_nothing_to_choose(tmp_path):
    add(tmp_path, "null-flow", "ped2", 0, 0.98, rules=chosen(0.98, 0.98, 0.98))
    assert figures(tmp_path, "Mean flow magnitude (null-flow)") == [
        ["Ped2", "1 [1]", "98.00", "98.00", "98.00", "-", "+0.00", "-"]
    ]
    text = tables.build(tmp_path)["rules.md"]
    assert "- No record has other rules than paper yet." in text
    assert f"- {tables.TRIVIAL_RULES_NOTE}" in text


def test_what_has_no_rules_leaves_no_row(tmp_path):
    add(tmp_path, "amsrc", "ped2", 0, 0.9)
    add(tmp_path, "baseline", "ped2", 0, None, rules=chosen(None, None, None))
    text = tables.build(tmp_path)["rules.md"]
    assert "measured" not in text.lower()
    assert "- No record has other rules than paper yet." in text
    add(tmp_path, "amsrc", "ped2", 1, 0.9, rules=chosen(0.9, 0.9, 0.9))
    assert figures(tmp_path, "AMSRC (amsrc)")[0][1] == "1 [1]"
    assert "- [1] seed 1; width 64" in tables.build(tmp_path)["rules.md"]


def test_rules_compare_the_same_settings_only(tmp_path):
    add(tmp_path, "amsrc", "ped2", 0, 0.8, rules=chosen(0.8, 0.8, 0.8))
    add(tmp_path, "amsrc", "ped2", 1, 0.7, boxes="motion", rules=chosen(0.7, 0.7, 0.7))
    add(tmp_path, "amsrc", "avenue", 0, 0.6, rules=chosen(0.6, 0.6, 0.6))
    assert sorted((row[0], row[2]) for row in figures(tmp_path, "AMSRC (amsrc)")) == [
        ("Avenue", "60.00"),
        ("Ped2", "70.00"),
        ("Ped2", "80.00"),
    ]


def test_a_search_says_what_it_tried_and_stands_in_no_other_table(tmp_path):
    add(tmp_path, "amsrc-small", "ped2", 0, 0.9, boxes="motion")
    before = tables.build(tmp_path)
    own = fingerprint(pinned("amsrc-small", "ped2"))
    search(tmp_path, "amsrc-small", ["ped2"], {"ped2": chosen(0.9, 0.97, 0.94)}, [own], git={"dirty": True})
    after = tables.build(tmp_path)
    assert {name.partition(".")[0] for name in after if after[name] != before[name]} == {"rules"}
    assert figures(tmp_path, "AMSRC, searched (amsrc-small)") == [
        ["Ped2", "1 [1]", "90.00", "97.00", "94.00", "-", "+3.00", "-"]
    ]
    assert (
        "- [1] search amsrc-small-ped2-1a2b3c4d; loss.consistency 0.1 to 10, train.learning_rate 0.0001 to 0.001, "
        "log-uniform; trials: 20 done, 3 pruned, 1 failed; objective under rule crossfit; QMCSampler(seed=0); The "
        "sampler never saw a score; seed 0; width 16, 8 epochs, 10 % of the training videos held out; boxes motion; "
        "flow dis; labels official; searched by code with uncommitted changes." in after["rules.md"]
    )


def test_a_search_without_its_reference_still_has_its_row(tmp_path):
    search(tmp_path, "my-method", ["ped2"], {"ped2": chosen(0.9, 0.97, 0.94)}, ["0123456789ab"], seeds=[0, 1])
    assert figures(tmp_path, "my-method, searched (my-method)")[0][1] == "2 [1]"
    assert "The sampler never saw a score; seeds 0, 1." in tables.build(tmp_path)["rules.md"]


def test_the_csv_of_the_rules_has_a_line_for_each_rule_and_gap(tmp_path):
    add(tmp_path, "amsrc", "ped2", 0, 0.8, rules=chosen(1 / 3, 2 / 3, 0.5))
    rows = {row["rule"]: row for row in csv.DictReader(io.StringIO(tables.build(tmp_path)["rules.csv"]))}
    assert list(rows) == ["paper", "oracle", "crossfit", "label-free", "oracle - crossfit", "oracle - label-free"]
    assert {row["dataset"] for row in rows.values()} == {"ped2"}
    assert float(rows["paper"]["mean"]) == pytest.approx(100 / 3, abs=1e-12)
    assert float(rows["oracle - crossfit"]["mean"]) == pytest.approx(100 / 6, abs=1e-12)
    assert rows["label-free"]["mean"] == rows["oracle - label-free"]["mean"] == ""
