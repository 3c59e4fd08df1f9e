"""Records: written whole or not at all, never in place of finished work, and read for ever."""

import errno
import json
import os
import re
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from amsrc.errors import DataError, RunError
from bench.experiment.config import fingerprint, load
from bench.records.records import (
    SCHEMA_VERSION,
    SearchRecord,
    frame_scores_path,
    path_of,
    read,
    read_all,
    read_crossfit,
    read_frame_scores,
    read_searches,
    search_path,
    write,
    write_frame_scores,
    write_search,
)
from tests.messages import error_naming
from tests.results_made import a_record, a_trial

EXAMPLES = Path(__file__).parents[1] / "data" / "records"


def test_a_record_comes_back_as_it_was(tmp_path):
    record = a_record()
    path = write(record, tmp_path)
    assert (
        path
        == tmp_path / "records" / "amsrc" / "ped2" / f"seed0-{record.fingerprint}.json"
        == path_of(tmp_path, record)
    )
    assert read(path) == record
    assert read_all(tmp_path) == [record]


def test_nan_and_infinity_are_null_and_numpy_numbers_are_numbers(tmp_path):
    metrics = {"auroc": np.float32(0.5), "eer": float("nan"), "rbdc": np.float64("inf")}
    parts = {"one": np.float32(0.25), "other": float("nan")}
    path = write(a_record(metrics=metrics, parts=parts, counts={"test_cubes": np.int64(7)}), tmp_path)
    assert "NaN" not in path.read_text() and "Infinity" not in path.read_text()
    assert read(path).metrics == {"auroc": 0.5, "eer": None, "rbdc": None}
    assert read(path).parts == {"one": 0.25, "other": None}
    assert read(path).counts == {"test_cubes": 7}


@pytest.mark.parametrize("status", ["failed", "pruned"])
def test_what_did_not_finish_never_takes_the_place_of_what_did(tmp_path, status):
    done = a_record()
    unfinished = replace(done, status=status, error="RunError: full", metrics={})
    path = write(unfinished, tmp_path)
    assert (read(path).status, read(path).error) == (status, "RunError: full")
    write(done, tmp_path)
    assert write(unfinished, tmp_path, replace=True) == path
    assert read(path) == done


def test_a_record_measured_again_does_not_keep_the_frame_scores_of_the_old_one(tmp_path):
    """Killed before it writes its own, it has none: `finished` then sees that the cell is not done."""
    record = a_record()
    write(record, tmp_path)
    write_frame_scores(tmp_path, record, {"01": np.zeros(3, np.float32)}, {"01": np.zeros(3, np.uint8)})
    other = replace(record, store="another")
    with pytest.raises(RunError, match="measured on other cubes"):
        write(other, tmp_path, replace=True)
    assert frame_scores_path(tmp_path, record).is_file(), "refused, it leaves all as it was"
    write(record, tmp_path, replace=True)
    assert not frame_scores_path(tmp_path, record).is_file()


def test_what_did_not_finish_gives_way_to_whatever_comes_later(tmp_path):
    pruned = a_record(status="pruned", metrics={})
    for record in (pruned, a_record(status="failed", metrics={}), pruned):
        assert read(write(record, tmp_path)) == record


HALF = {"one": 0.5, "other": 0.5}
RULES = {
    "paper": {"auroc": 0.9, "epoch": 8, "weights": {"one": 1.0, "other": 0.0}},
    "crossfit": {"auroc": 0.85, "folds": [{"videos": ["01"], "selected_auroc": 0.95, "epoch": 3, "weights": HALF}]},
    "label-free": {"auroc": None, "weights": None, "pseudo_auroc": 0.6, "pseudo_auroc_by_kind": {"skip": 0.7}},
}
FUSION = {
    "part": "one",
    "share": [0.0, 0.5, 1.0],
    "auroc": [0.9, 0.95, 0.6],
    "best_share": 0.5,
    "best_auroc": 0.95,
    "own_share": 1.0,
    "own_auroc": None,
}


def test_rules_and_the_fusion_curve_come_back_and_a_curve_is_one_line(tmp_path):
    fusion = FUSION | {"share": np.array([0.0, 0.5, 1.0]), "auroc": [np.float64(0.9), 0.95, 0.6]}
    path = write(a_record(rules=RULES, fusion=fusion), tmp_path)
    assert (read(path).rules, read(path).fusion) == (RULES, FUSION)
    lines = path.read_text().splitlines()
    assert '    "auroc": [0.9, 0.95, 0.6],' in lines
    assert '          "videos": [' in lines
    settings = json.loads(path.read_text())["experiment"]["settings"]
    assert settings["model"]["flow_scale"] == [2.8444444444444446, 3.2]


def test_a_record_of_a_recipe_and_a_method_that_this_program_does_not_know_comes_back(tmp_path):
    """Three parts, settings of its own groups: nothing here depends on the catalogue."""
    known = a_record()
    settings = {"mixture": {"components": 7}}
    experiment = known.experiment | {"recipe": "their-method", "method": "theirs", "settings": settings}
    thirds = {"first": 0.5, "second": 0.3, "third": 0.2}
    record = replace(
        known,
        recipe="their-method",
        experiment=experiment,
        parts=dict.fromkeys(thirds, 0.6),
        rules={"paper": {"auroc": 0.7, "epoch": 1, "weights": thirds}},
        fusion={},
    )
    assert read(write(record, tmp_path)) == record == read_all(tmp_path)[0]


def test_a_written_record_reads_as_plain_json_would(tmp_path):
    """The same values in the same order, whatever the layout of the lines."""
    texts = {"quoted": 'a "name", [odd] {one}: \\ \n\u00e4', "empty": [[], {}, ""], "mixed": [1, [2, None], "3", True]}
    path = write(a_record(hardware=texts), tmp_path)
    data = json.loads(path.read_text())
    assert data["hardware"] == texts
    assert json.dumps(data) == json.dumps(asdict(read(path)))
    assert "\u00e4" in path.read_text(encoding="utf-8")


def test_finished_work_is_replaced_only_on_request(tmp_path):
    done, again = a_record(), a_record(metrics={"auroc": 0.8})
    path = write(done, tmp_path)
    with pytest.raises(RunError, match=r"finished record is stored here already"):
        write(again, tmp_path)
    assert read(path) == done
    write(again, tmp_path, replace=True)
    assert read(path) == again


def full_disk(_descriptor):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_leaves_the_old_record_and_nothing_half_written(tmp_path, monkeypatch):
    done = a_record()
    path = write(done, tmp_path)
    monkeypatch.setattr(os, "fsync", full_disk)
    with error_naming(RunError, "seed0-", "No space left on device"):
        write(a_record(metrics={"auroc": 0.1}), tmp_path, replace=True)
    with pytest.raises(RunError, match="No space left"):
        write_frame_scores(tmp_path, done, {"01": np.zeros(3, np.float32)}, {"01": np.zeros(3, np.uint8)})
    assert read(path) == done
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [path]


def test_an_unwritable_folder_is_named(tmp_path):
    (tmp_path / "records").write_text("a file where a folder should be")
    with pytest.raises(RunError, match="cannot be written"):
        write(a_record(), tmp_path)


def test_percents_and_contradictions_are_refused(tmp_path):
    with error_naming(DataError, "auroc", "98.3"):
        write(a_record(metrics={"auroc": 98.3}), tmp_path)
    with error_naming(DataError, "seed is 1", "0"):
        write(replace(a_record(), seed=1), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"rules": {"oracle": {"auroc": 98.3}}}, "rules.oracle.auroc is 98.3"),
        ({"rules": {"crossfit": {"folds": [{"selected_auroc": 1.5}]}}}, "rules.crossfit.folds.selected_auroc is 1.5"),
        ({"rules": {"label-free": {"pseudo_auroc_by_kind": {"skip": -1}}}}, "pseudo_auroc_by_kind.skip is -1"),
        ({"fusion": {"share": [0.5, 2], "auroc": [0.5, 50.0]}}, "fusion.auroc is 50.0"),
        ({"fusion": {"best_auroc": 98.3}}, "fusion.best_auroc is 98.3"),
        ({"parts": {"one": 0.5, "other": 64.25}}, "64.25"),
    ],
)
def test_percents_are_refused_wherever_an_auroc_stands(tmp_path, changes, named):
    with pytest.raises(DataError, match=re.escape(named)):
        write(a_record(**changes), tmp_path)


@pytest.mark.parametrize("example", sorted(EXAMPLES.glob("schema*.json")), ids=lambda path: path.stem)
def test_records_of_every_schema_load_for_ever(example):
    record = read(example)
    assert record.schema_version == SCHEMA_VERSION
    assert (record.recipe, record.dataset, record.status) == ("amsrc", "ped2", "done")
    assert record.metrics["auroc"] == 0.9125
    assert record.metrics["macro_videos"] == 8
    assert record.parts == {"consistency": 0.6425, "prediction": 0.92}
    assert record.rule == "paper" and record.learns


def test_a_record_of_today_holds_an_experiment_of_today():
    record = read(EXAMPLES / f"schema{SCHEMA_VERSION}.json")
    experiment = load(record.experiment)
    assert fingerprint(experiment) == record.fingerprint
    assert experiment.parts == tuple(record.parts)
    assert record.rules["oracle"]["auroc"] == 0.935
    assert record.rules["oracle"]["weights"] == {"consistency": 0.25, "prediction": 0.75}
    assert len(record.fusion["share"]) == len(record.fusion["auroc"])
    assert record.fusion["part"] == "consistency"
    assert record.metrics["auroc_interval"] == [0.84, 0.9675]
    assert (record.metric("eer"), record.metric("auroc_interval"), record.metric("f2")) == (0.155, None, None)


def test_there_is_an_example_of_every_schema():
    versions = {json.loads(path.read_text())["schema_version"] for path in EXAMPLES.glob("schema*.json")}
    assert versions == set(range(1, SCHEMA_VERSION + 1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 99}, "schema 99 is not known; known: 1"),
        ({"schema_version": None}, "schema None is not known"),
        ({"experiment": {}}, "no settings"),
        ({"parts": {"one": 98.3}}, "98.3"),
        ({"parts": [0.5, 0.5]}, "parts: Input should be a valid dictionary"),
        ({"learns": "perhaps"}, "learns: Input should be a valid boolean"),
        ({"rules": {"oracle": {"auroc": float("nan")}}}, "NaN is not a finite number"),
        ({"rules": {"oracle": 0.9}}, "rules.oracle: Input should be a valid dictionary"),
        ({"status": "stopped"}, "status: Input should be 'done', 'failed' or 'pruned'"),
        ({"metric": {}}, "metric: Unexpected keyword argument"),
        ({"seed": "zero"}, "seed: Input should be a valid integer"),
        ({"metrics": {"auroc": float("nan")}}, "finite"),
        ({"metrics": {"auroc": 91.2}}, "fractions from 0 to 1"),
        ({"metrics": {"auroc_interval": [0.5, 91.2]}}, "auroc_interval is 91.2"),
        ({"metrics": {"rbdc": 45.0}}, "rbdc is 45.0"),
        ({"metrics": {"eer": "low"}}, "metrics.eer"),
    ],
)
def test_what_is_not_a_record_is_named(tmp_path, change, message):
    path = write(a_record(), tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(DataError, match=message) as caught:
        read_all(tmp_path)
    assert str(path) in str(caught.value)


def test_a_record_says_whether_anything_was_learned(tmp_path):
    path = write(a_record(), tmp_path)
    keys = json.loads(path.read_text())
    del keys["learns"]
    path.write_text(json.dumps(keys))
    with pytest.raises(DataError, match="learns"):
        read(path)


@pytest.mark.parametrize("text", ["", "{", "[]", "\x80"])
def test_a_damaged_file_is_named(tmp_path, text):
    path = write(a_record(), tmp_path)
    path.write_text(text, encoding="latin-1")
    with pytest.raises(DataError, match=path.name):
        read(path)


def test_a_copied_record_does_not_count_twice(tmp_path):
    path = write(a_record(), tmp_path)
    path.with_name("seed0-copy.json").write_text(path.read_text())
    with error_naming(DataError, "seed0-copy.json"):
        read_all(tmp_path)


def test_no_results_are_no_records(tmp_path):
    assert read_all(tmp_path / "nowhere") == []


SCORES = {"02": np.array([0.5, -1.25], np.float32), "01": np.array([3.0], np.float32)}
LABELS = {"02": np.array([0, 1], np.uint8), "01": np.array([1], np.uint8)}


def test_frame_scores_come_back_and_have_fixed_bytes(tmp_path):
    record = a_record()
    path = write_frame_scores(tmp_path, record, SCORES, LABELS)
    first = path.read_bytes()
    assert path == frame_scores_path(tmp_path, record)
    scores, labels = read_frame_scores(tmp_path, record)
    assert list(scores) == ["01", "02"] == list(labels)
    for video in SCORES:
        np.testing.assert_array_equal(scores[video], SCORES[video])
        np.testing.assert_array_equal(labels[video], LABELS[video])
    assert (scores["01"].dtype, labels["01"].dtype) == (np.float32, np.uint8)
    write_frame_scores(tmp_path, record, dict(reversed(SCORES.items())), LABELS)
    assert path.read_bytes() == first


def test_frame_scores_must_fit_their_labels(tmp_path):
    record = a_record()
    with pytest.raises(DataError, match="different videos"):
        write_frame_scores(tmp_path, record, SCORES, {"01": LABELS["01"]})
    with error_naming(DataError, "video 01", "(1,)", "(2,)"):
        write_frame_scores(tmp_path, record, SCORES, LABELS | {"01": LABELS["02"]})
    with error_naming(DataError, "video 01", "finite"):
        write_frame_scores(tmp_path, record, SCORES | {"01": np.array([np.nan], np.float32)}, LABELS)


CROSSFIT = {"01": np.array([0.5], np.float32), "02": np.array([0.25, 1.0], np.float32)}


def test_the_ranks_of_crossfit_lie_beside_the_scores(tmp_path):
    record = a_record()
    write_frame_scores(tmp_path, record, SCORES, LABELS, CROSSFIT)
    ranks = read_crossfit(tmp_path, record)
    assert list(ranks) == ["01", "02"]
    for video in CROSSFIT:
        np.testing.assert_array_equal(ranks[video], CROSSFIT[video])
    assert ranks["02"].dtype == np.float32
    np.testing.assert_array_equal(read_frame_scores(tmp_path, record)[0]["02"], SCORES["02"])


def test_scores_without_ranks_say_so(tmp_path):
    path = write_frame_scores(tmp_path, a_record(), SCORES, LABELS)
    with pytest.raises(DataError, match=f"{path.name}.*it lacks .crossfit is not a file"):
        read_crossfit(tmp_path, a_record())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"03": np.zeros(1, np.float32)}, "crossfit and labels name different videos"),
        ({"02": np.zeros(3, np.float32)}, r"video 02 has \(3,\) crossfit and \(2,\) labels"),
        ({"01": np.array([np.inf], np.float32)}, "video 01 has a score that is not finite"),
    ],
)
def test_the_ranks_of_crossfit_must_fit_the_labels(tmp_path, changes, message):
    with pytest.raises(DataError, match=message):
        write_frame_scores(tmp_path, a_record(), SCORES, LABELS, CROSSFIT | changes)
    assert list(tmp_path.iterdir()) == []


def test_damaged_or_hostile_frame_scores_are_named(tmp_path):
    record = a_record()
    path = frame_scores_path(tmp_path, record)
    with pytest.raises(DataError, match="Run the evaluation again"):
        read_frame_scores(tmp_path, record)
    write_frame_scores(tmp_path, record, SCORES, LABELS)
    for content in (path.read_bytes()[:200], b"", b"PK"):
        path.write_bytes(content)
        with pytest.raises(DataError, match=path.name):
            read_frame_scores(tmp_path, record)
    np.savez(path, videos=np.array([{"a": 1}], dtype=object), lengths=[1], scores=[1.0], labels=[1])
    with pytest.raises(DataError, match="no readable frame scores"):
        read_frame_scores(tmp_path, record)


@pytest.mark.parametrize(
    ("part", "value", "said"),
    [
        ("experiment", {"recipe": "amsrc", "dataset": "ped2", "seed": 0}, "its experiment has no settings"),
        ("experiment", {"settings": {}, "train": {"epochs": 3}}, "its experiment has no train with epochs, held_out"),
        (
            "experiment",
            {"settings": {}, "train": {"epochs": 3, "held_out": 0.1}, "score": {"skip_frames": 4}},
            "its experiment has no score with skip_frames, weights",
        ),
        ("metrics", {"auroc": 0.5, "auroc_interval": []}, r"auroc_interval is \[\], not two ends"),
    ],
)
def test_a_record_whose_parts_lack_something_is_named(tmp_path, part, value, said):
    path = write(a_record(), tmp_path)
    path.write_text(json.dumps({**json.loads(path.read_text()), part: value}))
    with pytest.raises(DataError, match=f"{path.name}: {said}"):
        read(path)


# Searches


def test_a_trial_that_lacks_something_is_named(tmp_path):
    path = write_search(a_search(), tmp_path)
    data = json.loads(path.read_text())
    del data["trials"][0]["params"]
    path.write_text(json.dumps(data))
    with pytest.raises(DataError, match=r"search\.json: a trial lacks params"):
        read_searches(tmp_path)


def a_search(done=2, **changes):
    facts = {
        "study": "amsrc-small-ped2-1a2b3c4d",
        "recipe": "amsrc-small",
        "datasets": ["ped2"],
        "seeds": [0],
        "joint": False,
        "rule": "crossfit",
        "space": {"loss.gradient": [0.1, 10.0]},
        "sampler": "QMCSampler(seed=0)",
        "proposals": "The sampler never saw a score.",
        "reference": ["e56985711f5a"],
        "trials": [a_trial(number) for number in range(done)],
        "chosen": {"ped2": {"oracle": {"auroc": 0.9, "params": {"loss.gradient": 2.0}, "weights": None}}},
        "started": "2025-01-01T00:00:00+00:00",
        "finished": "2025-01-01T01:00:00+00:00",
        "git": {"sha": None, "dirty": None},
        "hardware": {"cores": 2},
        "versions": {"python": "3.11.7"},
    }
    return SearchRecord(**(facts | changes))


def test_searches_come_back_as_they_were_in_the_order_of_their_names(tmp_path):
    later, earlier = a_search(study="b"), a_search(study="a")
    path = write_search(later, tmp_path)
    write_search(earlier, tmp_path)
    assert path == tmp_path / "searches" / "b" / "search.json" == search_path(tmp_path, "b")
    assert read_searches(tmp_path) == [earlier, later]
    assert '    "loss.gradient": [0.1, 10.0]' in path.read_text().splitlines()


def test_the_records_of_trials_are_not_among_the_ordinary_ones(tmp_path):
    search = a_search()
    below = write_search(search, tmp_path).parent
    write(a_record(), below)
    assert read_all(tmp_path) == []
    assert read_all(below) == [a_record()]
    assert read_searches(tmp_path) == [search]


def test_a_search_grows_and_never_shrinks(tmp_path):
    write_search(a_search(2), tmp_path)
    more = a_search(2, trials=[a_trial(0), a_trial(1), a_trial(2, "pruned"), a_trial(3, "failed")])
    path = write_search(more, tmp_path)
    assert read_searches(tmp_path) == [more]
    with error_naming(RunError, "3 finished", "2"):
        write_search(a_search(2), tmp_path)
    assert read_searches(tmp_path) == [more]
    again = a_search(3)
    write_search(again, tmp_path)
    assert read_searches(tmp_path) == [again]
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == [path]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"chosen": {"ped2": {"oracle": {"auroc": 90.0}}}},
            r"chosen\.ped2\.oracle\.auroc is 90\.0; records hold fractions",
        ),
        ({"trials": [a_trial(7, "running")]}, "trial 7 is 'running'; done, failed or pruned"),
    ],
)
def test_a_search_that_would_print_nonsense_is_refused(tmp_path, changes, message):
    with pytest.raises(DataError, match=message):
        write_search(a_search(**changes), tmp_path)
    path = write_search(a_search(), tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(DataError, match=message):
        read_searches(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 9}, "schema 9 is not known; known: 1"),
        ({"study": "elsewhere"}, "holds the search 'elsewhere'"),
        ({"sampler": None}, "sampler: Input should be a valid string"),
        ({"space": {"loss.gradient": float("inf")}}, "Infinity is not a finite number"),
    ],
)
def test_what_is_not_a_search_is_named(tmp_path, change, message):
    path = write_search(a_search(), tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(DataError, match=message) as caught:
        read_searches(tmp_path)
    assert str(path) in str(caught.value)
