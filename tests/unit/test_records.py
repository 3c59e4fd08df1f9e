"""Records: written whole or not at all, never in place of finished work, and read for ever."""

import errno
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from amsrc.errors import DataError, RunError
from bench.config import dump, fingerprint, run_key
from bench.recipes import build
from bench.records import (
    RunRecord,
    frame_scores_path,
    path_of,
    read,
    read_all,
    read_frame_scores,
    write,
    write_frame_scores,
)

EXAMPLES = Path(__file__).parents[1] / "data" / "records"


def a_record(recipe="amsrc", dataset="ped2", seed=0, **changes):
    e = build(recipe, dataset, seed)
    facts = {
        "recipe": recipe,
        "dataset": dataset,
        "seed": seed,
        "fingerprint": fingerprint(e),
        "run": run_key(e),
        "status": "done",
        "metrics": {"auroc": 0.9, "auroc_f": None, "macro_videos": 8},
        "epochs": [{"epoch": 1, "loss": 0.5, "precision": "fp32", "auroc": None}],
        "boxes": "file:3f2a",
        "flow": "dis",
        "started": "2025-01-01T00:00:00+00:00",
        "finished": "2025-01-01T01:00:00+00:00",
        "experiment": dump(e),
    }
    return RunRecord(**(facts | changes))


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
    metrics = {"auroc": np.float32(0.5), "auroc_f": float("nan"), "auroc_p": np.float64("inf")}
    path = write(a_record(metrics=metrics, counts={"test_cubes": np.int64(7)}), tmp_path)
    assert "NaN" not in path.read_text() and "Infinity" not in path.read_text()
    assert read(path).metrics == {"auroc": 0.5, "auroc_f": None, "auroc_p": None}
    assert read(path).counts == {"test_cubes": 7}


def test_a_failure_never_takes_the_place_of_finished_work(tmp_path):
    done = a_record()
    failed = replace(done, status="failed", error="RunError: full", metrics={})
    path = write(failed, tmp_path)
    assert read(path).error == "RunError: full"
    write(done, tmp_path)
    assert write(failed, tmp_path) == path
    assert read(path) == done


def test_finished_work_is_replaced_only_on_request(tmp_path):
    done, again = a_record(), a_record(metrics={"auroc": 0.8})
    path = write(done, tmp_path)
    with pytest.raises(RunError, match=r"finished record stands here already"):
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
    with pytest.raises(RunError, match=r"seed0-.*cannot be written \(No space left on device\)"):
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
    with pytest.raises(DataError, match=r"auroc is 98\.3; records hold fractions"):
        write(a_record(metrics={"auroc": 98.3}), tmp_path)
    with pytest.raises(DataError, match="seed is 1, but 0 in its experiment"):
        write(replace(a_record(), seed=1), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("example", sorted(EXAMPLES.glob("schema*.json")), ids=lambda path: path.stem)
def test_records_of_every_schema_load_for_ever(example):
    record = read(example)
    assert record.schema_version == 2
    assert (record.recipe, record.dataset, record.status) == ("amsrc", "ped2", "done")
    assert record.metrics["auroc"] == 0.9125
    assert record.metrics["macro_videos"] == 8
    assert record.rule == "paper"


def test_there_is_an_example_of_every_schema():
    versions = {json.loads(path.read_text())["schema_version"] for path in EXAMPLES.glob("schema*.json")}
    assert versions == set(range(1, max(versions) + 1)) == {1, 2}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 99}, "schema 99 is not known; known: 1 to 2"),
        ({"schema_version": None}, "schema None is not known"),
        ({"metric": {}}, "metric: Unexpected keyword argument"),
        ({"seed": "zero"}, "seed: Input should be a valid integer"),
        ({"metrics": {"auroc": float("nan")}}, "finite"),
        ({"metrics": {"auroc": 91.2}}, "fractions from 0 to 1"),
    ],
)
def test_what_is_not_a_record_is_named(tmp_path, change, message):
    path = write(a_record(), tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(DataError, match=message) as caught:
        read_all(tmp_path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "\x80"])
def test_a_damaged_file_is_named(tmp_path, text):
    path = write(a_record(), tmp_path)
    path.write_text(text, encoding="latin-1")
    with pytest.raises(DataError, match=path.name):
        read(path)


def test_a_copied_record_does_not_count_twice(tmp_path):
    path = write(a_record(), tmp_path)
    path.with_name("seed0-copy.json").write_text(path.read_text())
    with pytest.raises(DataError, match=r"seed0-copy\.json: holds the record that belongs at"):
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
    with pytest.raises(DataError, match=r"video 01 has \(1,\) scores and \(2,\) labels"):
        write_frame_scores(tmp_path, record, SCORES, LABELS | {"01": LABELS["02"]})
    with pytest.raises(DataError, match="video 01 has a score that is not finite"):
        write_frame_scores(tmp_path, record, SCORES | {"01": np.array([np.nan], np.float32)}, LABELS)


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
