"""What `ls` and `doctor` show, and that looking changes nothing."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from amsrc.errors import DataError
from amsrc.store import SPLITS, seal, write_shard
from bench.cli import listing
from bench.experiment.config import dump, flatten, override
from bench.experiment.recipes import RECIPES, build
from bench.records.records import SearchRecord, read, write, write_search
from tests.results_made import a_record, a_trial

RECORD = Path(__file__).resolve().parents[1] / "data" / "records" / "schema1.json"


def put_store(home: Path, name: str, partial: bool = False) -> Path:
    """A sealed store of one empty video a split."""
    path = home / "stores" / name
    shards = {split: [write_shard(path, split, "01", [], 5, (5, 1, 8, 8))] for split in SPLITS}
    seal(path, shards, {"dataset": "ped2", "partial": partial, "cube": dump(build("amsrc", "ped2"))["cube"]})
    return path


# Recipes


def test_every_recipe_is_listed_with_what_it_is() -> None:
    text = listing.recipes(build("amsrc", "ped2"))
    for name, recipe in RECIPES.items():
        assert recipe.about
        (line,) = [line for line in text.splitlines() if line.split()[:1] == [name]]
        assert recipe.about in line


@pytest.mark.parametrize(
    ("recipe", "dataset"),
    [("amsrc", "ped2"), ("amsrc-paper-loss", "toy-shanghaitech"), ("conv-ae", "avenue"), ("null-flow", "ped2")],
)
def test_fields_are_listed_as_they_can_be_typed(recipe: str, dataset: str) -> None:
    experiment = build(recipe, dataset)
    lines = [line.split() for line in listing.recipes(experiment).splitlines() if re.match("--[a-z]", line)]
    typed = {name.removeprefix("--"): value for name, value in lines}
    assert set(typed) == {name for name in flatten(experiment) if "." in name}
    base = build("amsrc", "avenue") if recipe.startswith("amsrc") else replace(experiment, dataset="shanghaitech")
    other = override(base, typed)
    for name in typed:
        value = flatten(experiment)[name]
        assert flatten(other)[name] == (pytest.approx(value, rel=1e-5) if isinstance(value, list) else value)


# Stores


def test_without_stores_it_says_how_to_make_one(tmp_path: Path) -> None:
    text = listing.stores(tmp_path)
    assert f"{tmp_path}/stores" in text and "`amsrc-bench prepare`" in text


def test_sealed_stores_are_listed_and_others_are_not(tmp_path: Path) -> None:
    put_store(tmp_path, "ped2-aaa")
    put_store(tmp_path, "ped2-bbb", partial=True)
    (put_store(tmp_path, "ped2-ccc") / "manifest.json").unlink()
    _, _, whole, part = listing.stores(tmp_path).splitlines()
    assert whole.split()[:6] == ["ped2-aaa", "0", "0", "motion", "dis", "complete"]
    assert part.split()[:6] == ["ped2-bbb", "0", "0", "motion", "dis", "partial"]


def test_a_damaged_manifest_is_named(tmp_path: Path) -> None:
    (put_store(tmp_path, "ped2-aaa") / "manifest.json").write_text("{")
    with pytest.raises(DataError, match=r"ped2-aaa/manifest.json"):
        listing.stores(tmp_path)


# Records


def test_without_records_it_says_how_to_make_some(tmp_path: Path) -> None:
    text = listing.records(tmp_path / "results", tmp_path)
    assert f"{tmp_path}/results" in text and "`amsrc-bench sweep --toy`" in text


def test_a_record_is_a_line_and_looking_changes_nothing(tmp_path: Path) -> None:
    record = json.loads(RECORD.read_text())
    folder = tmp_path / "results" / "records" / record["recipe"] / record["dataset"]
    folder.mkdir(parents=True)
    shutil.copy(RECORD, folder / f"seed{record['seed']}-{record['fingerprint']}.json")
    before = sorted(tmp_path.rglob("*"))
    text = listing.records(tmp_path / "results", tmp_path / "home")
    _, _, line = text.split("\n\n")[0].splitlines()
    assert re.split("  +", line) == [
        "amsrc",
        "ped2",
        "0",
        "91.25",
        "consistency 64.25, prediction 92.00",
        "1",
        "done",
        record["fingerprint"],
    ]
    assert "mlflow" in text.lower()
    assert sorted(tmp_path.rglob("*")) == before


def test_a_pruned_record_says_so_and_shows_no_number(tmp_path: Path) -> None:
    record = replace(read(RECORD), status="pruned", metrics={}, parts={}, error="worse than its rivals at epoch 1")
    write(record, tmp_path)
    _, _, line = listing.records(tmp_path, tmp_path / "home").split("\n\n")[0].splitlines()
    assert line.split() == ["amsrc", "ped2", "0", "-", "-", "1", "pruned", record.fingerprint]


def test_one_part_is_the_score_and_a_trivial_baseline_has_no_epochs(tmp_path: Path) -> None:
    for record in (a_record("baseline"), a_record("null-flow"), a_record("velocity-gmm")):
        write(record, tmp_path)
    _, _, *lines = listing.records(tmp_path, tmp_path / "home").split("\n\n")[0].splitlines()
    assert [(line.split()[0], *line.split()[3:6]) for line in lines] == [
        ("baseline", "80.00", "-", "3"),
        ("null-flow", "80.00", "-", "-"),
        ("velocity-gmm", "80.00", "-", "-"),
    ]


def test_a_recipe_that_this_program_does_not_know_is_a_line_too(tmp_path: Path) -> None:
    known, thirds = a_record(), {"pose": 0.6, "speed": None, "depth": 0.725}
    experiment = known.experiment | {"recipe": "their-method", "method": "theirs", "settings": {}}
    write(replace(known, recipe="their-method", experiment=experiment, parts=thirds), tmp_path)
    _, _, line = listing.records(tmp_path, tmp_path / "home").split("\n\n")[0].splitlines()
    assert re.split("  +", line)[:5] == ["their-method", "ped2", "0", "80.00", "pose 60.00, speed -, depth 72.50"]


# Searches


def test_without_searches_it_says_how_to_make_one(tmp_path: Path) -> None:
    text = listing.searches(tmp_path, tmp_path)
    assert str(tmp_path) in text and "`amsrc-bench sweep search`" in text


def test_a_search_has_a_line_for_each_of_its_data_sets(tmp_path: Path) -> None:
    search = SearchRecord(
        study="amsrc-joint-crossfit-1a2b3c4d",
        recipe="amsrc",
        datasets=["ped2", "avenue"],
        seeds=[0],
        joint=True,
        rule="crossfit",
        space={"loss.gradient": [0.1, 10.0]},
        sampler="QMCSampler",
        proposals="The sampler never saw a score.",
        reference=[],
        trials=[a_trial(0, "done"), a_trial(1, "done"), a_trial(2, "pruned")],
        chosen={"ped2": {"oracle": {"auroc": 0.98125}, "crossfit": {"auroc": 0.95}, "label-free": {"auroc": None}}},
        started="2025-01-01T00:00:00+00:00",
        finished="2025-01-01T00:00:00+00:00",
        git={},
        hardware={},
        versions={},
    )
    write_search(search, tmp_path / "results")
    before = sorted(tmp_path.rglob("*"))
    text = listing.searches(tmp_path / "results", tmp_path / "home")
    head, _, ped2, avenue = text.split("\n\n")[0].splitlines()
    assert re.split("  +", head.strip())[2:6] == ["paper", "oracle", "crossfit", "label-free"]
    assert ped2.split() == [search.study, "ped2", "-", "98.12", "95.00", "-", "crossfit", "2", "1", "0"]
    assert avenue.split() == [search.study, "avenue", *["-"] * 4, "crossfit", "2", "1", "0"]
    assert "mlflow" in text.lower()
    assert sorted(tmp_path.rglob("*")) == before


# This machine


def test_doctor_finds_a_sound_machine_sound(tmp_path: Path) -> None:
    text, fine = listing.doctor(tmp_path / "not" / "yet", None)
    assert fine
    assert text.endswith("\nOK")
    assert f"home     {tmp_path}/not/yet: writable, " in text
    assert "AMSRC_DATA is not set" in text
    assert not list(tmp_path.iterdir())


def test_doctor_names_a_package_that_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "NEEDED", (*listing.NEEDED, "no-such-package"))
    text, fine = listing.doctor(tmp_path, None)
    assert not fine
    assert "missing  no-such-package: run `make` or `pip install -r requirements.lock`" in text


def test_doctor_names_what_is_optional_and_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "OPTIONAL", {"no_such_module": "--flow magic"})
    text, fine = listing.doctor(tmp_path, None)
    assert fine
    assert "optional no_such_module: not installed, needed for --flow magic" in text


def test_doctor_sees_a_home_that_cannot_be_written(tmp_path: Path) -> None:
    """Below a regular file nobody may make a folder, not even root."""
    (tmp_path / "file").write_text("")
    text, fine = listing.doctor(tmp_path / "file" / "home", None)
    assert not fine
    assert "not writable" in text and "choose another --home" in text


def test_doctor_sees_which_data_sets_there_are(tmp_path: Path) -> None:
    text, fine = listing.doctor(tmp_path, str(tmp_path))
    assert not fine
    assert f"data     {tmp_path}: none of ped2, avenue, shanghaitech" in text
    (tmp_path / "Avenue Dataset" / "testing_videos").mkdir(parents=True)
    (tmp_path / "Avenue Dataset" / "testing_videos" / "01.avi").write_text("")
    text, fine = listing.doctor(tmp_path, str(tmp_path))
    assert fine
    assert f"data     {tmp_path}: avenue" in text


def test_doctor_says_what_it_finds_where_the_data_folder_is_not_there(tmp_path: Path) -> None:
    text, fine = listing.doctor(tmp_path, str(tmp_path / "nowhere"))
    assert not fine
    assert "cpu      " in text and "nowhere: no such folder" in text
