"""From trained weights to the record: what is written, and that it agrees with itself and with a slow restatement."""

import errno
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from amsrc.errors import ConfigError, DataError, RunError
from amsrc.store import CubeStore
from bench.evaluation import bootstrap, smoothing
from bench.evaluation.evaluate import evaluate, per_video, scored_labels, study_smoothing, validation_score
from bench.evaluation.metrics import equal_error, pooled
from bench.evaluation.selection import pseudo_auroc
from bench.experiment.config import derive, fingerprint, run_key
from bench.experiment.recipes import RECIPES
from bench.experiment.rules import RULES
from bench.records.origin import unfinished
from bench.records.records import frame_scores_path, path_of, read, read_crossfit, read_frame_scores, write
from bench.records.run_folder import history, read_epochs
from bench.speed import reference
from bench.sweeps.grid import Cell as Planned
from bench.sweeps.trials import finished
from bench.training import scoring
from bench.training.held_out import KINDS
from bench.training.launch import fit
from tests.cells_made import Cell
from tests.cubes_made import FRAMES, TEST, an_experiment, labels, write_labels, write_regions, write_store
from tests.parity.test_rbdc import slow_areas

SKIP = 4


@pytest.fixture(scope="module")
def cell(evaluated: Cell) -> Cell:
    """The whole method; read by many tests, changed by none."""
    return evaluated


@pytest.fixture(scope="module")
def null(tmp_path_factory: pytest.TempPathFactory) -> Cell:
    return Cell(tmp_path_factory.mktemp("null"), an_experiment("null-flow"))


@pytest.mark.parametrize("recipe", [name for name in RECIPES if name.startswith("null-")])
def test_every_null_goes_through_the_same_evaluation(tmp_path: Path, recipe: str) -> None:
    cell = Cell(tmp_path, an_experiment(recipe))
    r = cell.record
    assert (r.status, r.rule, r.counts["scored_frames"]) == ("done", "paper", 3 * (FRAMES - SKIP))
    assert r.metrics["auroc"] is not None
    assert r.parts == {cell.experiment.method: r.metrics["auroc"]}, "one part, which is the score"
    for rule in ("paper", "oracle", "crossfit"):
        assert r.rules[rule]["auroc"] == pytest.approx(r.metrics["auroc"], abs=1e-12), "nothing to choose"
    scored = cell.cubes["x0"].notna().all()
    assert scored == (recipe in ("null-area", "null-flow"))
    frames = len(cell.store.test) if scored else 3 * FRAMES
    assert (cell.cubes["split"] == "test").sum() == frames


def test_a_constant_is_worth_a_half_and_the_index_what_it_is_by_hand(tmp_path: Path) -> None:
    """The frame index through the filter: abnormal frames 18 to 31 of 40, so 4 to 17 before them and 32 to 39 after."""
    constant = Cell(tmp_path / "constant", an_experiment("null-constant")).record
    assert (constant.metrics["auroc"], constant.metrics["macro_auroc"], constant.metrics["eer"]) == (0.5, 0.5, 0.5)
    index = an_experiment("null-frame-index", score={"median_frames": 1})
    found = Cell(tmp_path / "index", index).record
    assert found.metrics["macro_auroc"] == pytest.approx(14 / 22)


def test_intervals_and_equal_errors_are_those_of_the_scores_that_are_kept(cell: Cell) -> None:
    scores, truth = read_frame_scores(cell.results, cell.record)
    assert cell.record.metrics["auroc_interval"] == list(bootstrap.auroc_interval([scores], truth))
    assert [cell.record.metrics[name] for name in ("eer", "f1_at_eer")] == list(equal_error(*pooled(scores, truth)))


def test_without_regions_there_is_nothing_to_detect(cell: Cell) -> None:
    assert (cell.record.metrics["rbdc"], cell.record.metrics["tbdc"], cell.record.regions) == (None, None, None)


def test_regions_are_detected_by_the_boxes_and_fused_scores_of_cubes(tmp_path: Path) -> None:
    """Two boxes a frame; one of them, in every abnormal frame that has cubes, is the region."""
    e = an_experiment("null-flow")
    store = write_store(tmp_path, e)
    test = store.test
    regions = {}
    for number, shard in enumerate(test.shards):
        own = np.flatnonzero(test.video == number)
        fast = own[:-1][np.diff(test.frame[own]) == 0]  # the first box of each frame: in abnormal frames the fast one
        abnormal = labels()[shard.video][test.frame[fast]] == 1
        corners = np.sort(test.boxes[fast[abnormal]].reshape(-1, 2, 2), axis=1).reshape(-1, 4).round()
        corners[:, 2:] += 1
        table = np.column_stack([test.frame[fast[abnormal]], corners, np.zeros(abnormal.sum())])
        regions[shard.video] = table.astype(np.int32)
    digest = write_regions(store.path, regions)
    store = CubeStore(store.path)
    record = evaluate(e, store, tmp_path, tmp_path / "results")
    assert record.regions == digest == store.regions_sha256
    table = pd.read_parquet(tmp_path / "runs" / run_key(e) / "cubes.parquet")
    table = table[(table["split"] == "test") & (table["frame"] >= SKIP)]
    boxes = {
        video: found[["frame", "x0", "y0", "x1", "y1", "flow-magnitude"]].astype(float).to_numpy().tolist()
        for video, found in table.groupby("video")
    }
    kept = {video: [row for row in found.tolist() if row[0] >= SKIP] for video, found in regions.items()}
    slow = slow_areas(boxes, kept, 3 * (FRAMES - SKIP))
    assert [record.metrics["rbdc"], record.metrics["tbdc"]] == pytest.approx(slow, abs=1e-9)


def test_the_regions_of_the_official_masks_do_not_judge_another_label_set(tmp_path: Path) -> None:
    official = an_experiment("null-flow")
    store = write_store(tmp_path, official)
    write_regions(store.path, {shard.video: np.array([[20, 1, 1, 9, 9, 0]], np.int32) for shard in store.test.shards})
    content = (store.path / "labels-official.npz").read_bytes()
    (store.path / "labels-intervals.npz").write_bytes(content)
    manifest = json.loads((store.path / "manifest.json").read_text())
    manifest["labels"]["intervals"] = manifest["labels"]["official"]
    (store.path / "manifest.json").write_text(json.dumps(manifest))
    store = CubeStore(store.path)
    otherwise = replace(official, label_set="intervals")
    found = {e.label_set: evaluate(e, store, tmp_path, tmp_path) for e in (official, otherwise)}
    assert None not in (found["official"].metrics["rbdc"], found["official"].regions)
    other = found["intervals"]
    assert other.metrics["auroc"] == found["official"].metrics["auroc"]
    assert (other.metrics["rbdc"], other.metrics["tbdc"], other.regions) == (None, None, None)
    cell = Planned(otherwise, store.path)
    assert finished(cell, tmp_path) is not None
    write(replace(other, regions=store.regions_sha256), tmp_path, replace=True)
    assert finished(cell, tmp_path) is None, "measured on regions of other labels: again"


def test_what_smoothing_is_worth_is_measured_on_the_scores_before_it(null: Cell) -> None:
    path = study_smoothing(null.experiment, null.store, null.home, null.results, null.record)
    (study,) = smoothing.read_all(null.results)
    assert path == smoothing.path_of(null.results, study)
    by_choice = {(c.filter, c.width, c.padding, c.min_max): c for c in study.choices}
    assert by_choice["median", 17, "reflect", False].run == pytest.approx(null.record.metrics["auroc"], abs=1e-6)
    raw = Cell(null.home / "raw", an_experiment("null-flow", score={"median_frames": 1})).record
    assert by_choice["none", 0, "reflect", False].run == pytest.approx(raw.metrics["auroc"], abs=1e-6)


def test_everything_is_written(cell: Cell) -> None:
    assert path_of(cell.results, cell.record).is_file()
    assert frame_scores_path(cell.results, cell.record).is_file()
    assert read(path_of(cell.results, cell.record)) == cell.record
    table = cell.cubes
    assert list(table.columns) == ["split", "video", "frame", "x0", "y0", "x1", "y1", "consistency", "prediction"]
    assert table.groupby("split").size().to_dict() == {"train": 80, "test": len(cell.store.test)}
    test = table[table["split"] == "test"]
    np.testing.assert_array_equal(test["frame"], cell.store.test.frame)
    np.testing.assert_array_equal(test[["x0", "y0", "x1", "y1"]], cell.store.test.boxes)
    assert test["video"].tolist() == [cell.store.test.shards[v].video for v in cell.store.test.video]
    left = {path.name for path in cell.home.rglob("*") if path.name.startswith(".")}
    assert left <= {".lock"}


def test_the_record_says_what_was_done(cell: Cell) -> None:
    r = cell.record
    assert (r.status, r.error, r.rule, r.workers, r.restarts) == ("done", None, "paper", 1, 0)
    assert (r.run, r.store) == (run_key(cell.experiment), cell.store.sha256)
    assert (r.boxes, r.flow, r.label_set, r.partial, r.videos) == ("motion", "dis", "official", False, [])
    assert r.counts["train_cubes"] == 80
    assert r.counts["test_cubes"] == len(cell.store.test)
    assert r.counts["test_frames"] == 3 * FRAMES
    assert r.counts["scored_frames"] == 3 * (FRAMES - SKIP)
    assert r.counts["anomalous_frames"] == 2 * 14
    assert r.timings_s["train"] == pytest.approx(sum(line["seconds"] for line in history(cell.folder)))
    assert r.timings_s["score"] > 0
    assert r.throughput["score"] == pytest.approx((80 + len(cell.store.test)) / r.timings_s["score"])
    assert r.peak_memory_gib > 0


def test_the_metrics_are_those_of_the_scores_that_are_kept(cell: Cell) -> None:
    scores, truth = read_frame_scores(cell.results, cell.record)
    assert sorted(scores) == list(TEST)
    for video, label in labels().items():
        np.testing.assert_array_equal(truth[video], label[SKIP:])
    values, flags = (np.concatenate([found[video] for video in TEST]) for found in (scores, truth))
    both = [video for video in TEST if truth[video].any()]
    expected = {
        "auroc": roc_auc_score(flags, values),
        "average_precision": average_precision_score(flags, values),
        "macro_auroc": np.mean([roc_auc_score(truth[video], scores[video]) for video in both]),
        "macro_videos": 2,
    }
    for name, value in expected.items():
        assert cell.record.metrics[name] == pytest.approx(value, abs=1e-12), name


Standards = dict[str, tuple[float, float]]


def parts_of(table: pd.DataFrame) -> list[str]:
    """The columns of a table of cube scores that hold a part of the score."""
    return table.columns[7:].tolist()


def standards(table: pd.DataFrame) -> Standards:
    """Mean and deviation of each part over the training cubes."""
    train = table[table["split"] == "train"]
    return {part: reference.mean_and_sd(train[part].astype(float).tolist()) for part in parts_of(table)}


def slow_auroc(table: pd.DataFrame, known: Standards, *weights: float) -> float:
    """The pooled AUROC of the test cubes' scores, by the slow restatement of fusion and smoothing.

    The restatement knows two parts: a score of one is its second.
    """
    test = table[table["split"] == "test"]
    first, second = parts_of(table)[0], parts_of(table)[-1]
    weight_f, weight_p = weights if len(weights) == 2 else (0.0, *weights)
    cubes = zip(test["video"].map(TEST.index), test["frame"], test[first], test[second], strict=True)
    scores = reference.frame_scores(
        cubes,
        [FRAMES] * len(TEST),
        known[first],
        known[second],
        weight_f=weight_f,
        weight_p=weight_p,
        skip=SKIP,
        median=17,
        padding="reflect",
        empty="zero-error",
    )
    flags = np.concatenate([labels()[video][SKIP:] for video in TEST])
    return float(roc_auc_score(flags, np.concatenate(scores).astype(np.float32)))


def aurocs_of(measured: Mapping[str, Any], parts: Mapping[str, Any]) -> dict[str, Any]:
    """The AUROC of the fused score and of each part alone, as a record and a line of its epochs have them."""
    return {"fused": measured["auroc"], **parts}


ALONE_AND_TOGETHER = [("fused", (0.5, 0.5)), ("consistency", (1, 0)), ("prediction", (0, 1))]


@pytest.mark.parametrize(("name", "weights"), ALONE_AND_TOGETHER)
def test_the_metrics_follow_from_the_scores_of_cubes(cell: Cell, name: str, weights: tuple[float, float]) -> None:
    table, measured = cell.cubes, aurocs_of(cell.record.metrics, cell.record.parts)
    assert measured[name] == pytest.approx(slow_auroc(table, standards(table), *weights), abs=1e-6)


def read_epoch(path: Path) -> tuple[dict[str, np.ndarray], Standards]:
    """The arrays that a scored epoch left, and the means and deviations among them."""
    with np.load(path, allow_pickle=False) as kept:
        arrays = dict(kept)
    known = {name.partition(".")[2]: values for name, values in arrays.items() if name.startswith("statistics.")}
    return arrays, {part: (float(values[0]), float(values[1])) for part, values in known.items()}


def with_epoch(table: pd.DataFrame, path: Path) -> tuple[pd.DataFrame, Standards]:
    """The test cubes with the scores that an earlier epoch gave them, and what standardises these."""
    arrays, known = read_epoch(path)
    scores = {part: arrays[f"score.{part}"] for part in parts_of(table)}
    return table[table["split"] == "test"].assign(**scores), known


def test_every_scored_epoch_has_its_three_aurocs(cell: Cell) -> None:
    lines = cell.record.epochs
    assert [line["epoch"] for line in lines] == [1, 2, 3, 4]
    for line in lines:
        assert {"loss", "intensity", "gradient", "consistency", "seconds", "auroc", "parts"} <= set(line)
        assert list(line["parts"]) == ["consistency", "prediction"]
        assert all(0 <= value <= 1 for value in aurocs_of(line, line["parts"]).values())
    last = aurocs_of(lines[-1], lines[-1]["parts"])
    assert last == aurocs_of(cell.record.metrics, cell.record.parts)
    assert len({line["parts"]["prediction"] for line in lines}) > 1


@pytest.mark.parametrize(("name", "weights"), ALONE_AND_TOGETHER)
def test_an_epochs_auroc_follows_from_its_scores(cell: Cell, name: str, weights: tuple[float, float]) -> None:
    test, known = with_epoch(cell.cubes, cell.folder / "epochs" / "002.npz")
    line = cell.record.epochs[1]
    assert aurocs_of(line, line["parts"])[name] == pytest.approx(slow_auroc(test, known, *weights), abs=1e-6)


def test_epochs_that_were_not_scored_have_no_auroc(tmp_path: Path) -> None:
    record = Cell(tmp_path, an_experiment(train={"epochs": 3, "score_every": 2})).record
    measured = [sorted(set(line) & {"auroc", "parts"}) for line in record.epochs]
    assert measured == [[], ["auroc", "parts"], ["auroc", "parts"]]


def test_a_second_evaluation_scores_nothing_again(cell: Cell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cell = cell.copied(tmp_path)
    before = (cell.folder / "cubes.parquet").stat().st_mtime_ns
    monkeypatch.setattr(scoring.Scorer, "__call__", lambda *_: pytest.fail("scored again"))
    again = cell.evaluate()
    assert (cell.folder / "cubes.parquet").stat().st_mtime_ns == before
    assert again.metrics == cell.record.metrics
    assert (again.timings_s["score"], again.throughput["score"]) == (None, None)


def test_another_fusion_ratio_needs_no_network(cell: Cell, tmp_path: Path) -> None:
    cell = cell.copied(tmp_path)
    (cell.folder / "model.safetensors").unlink()
    other = derive(cell.experiment, score={"weights": (0.0, 1.0)})
    record = evaluate(other, cell.store, cell.home, cell.results)
    assert record.metrics["auroc"] == cell.record.parts["prediction"]
    assert record.parts == cell.record.parts
    assert record.fingerprint != cell.record.fingerprint
    assert record.run == cell.record.run


def test_a_network_without_motion_has_no_consistency_auroc(tmp_path: Path) -> None:
    record = Cell(tmp_path, an_experiment("baseline", train={"epochs": 2})).record
    assert record.parts == {"prediction": record.metrics["auroc"]}
    assert [line["parts"] for line in record.epochs] == [{"prediction": line["auroc"]} for line in record.epochs]
    assert record.fusion == {}, "nothing to weigh"
    text = json.loads(path_of(tmp_path / "results", record).read_text())
    assert list(text["parts"]) == ["prediction"]


def test_a_null_needs_no_training(null: Cell) -> None:
    r = null.record
    assert r.parts == {"flow-magnitude": r.metrics["auroc"]}
    assert r.learns is False
    assert r.metrics["auroc"] > 0.95, "the abnormal cubes move several times as fast"
    assert (r.epochs, r.peak_memory_gib, r.timings_s["train"], r.throughput["train"]) == ([], None, None, None)
    assert r.metrics["auroc"] == pytest.approx(slow_auroc(null.cubes, standards(null.cubes), 1), abs=1e-6)


def test_how_often_training_went_on_is_recorded(tmp_path: Path) -> None:
    e = an_experiment(train={"epochs": 3})
    store = write_store(tmp_path, e)

    def stop(line: Any) -> None:
        raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            fit(e, store, tmp_path, report=stop)
    fit(e, store, tmp_path)
    assert evaluate(e, store, tmp_path, tmp_path / "results").restarts == 2


def test_without_weights_it_says_so(tmp_path: Path) -> None:
    e = an_experiment()
    store = write_store(tmp_path, e)
    message = r"amsrc on toy-ped2, seed 0 is not trained \(.* has no weights\)\. Run `amsrc-bench train`"
    with pytest.raises(RunError, match=message):
        evaluate(e, store, tmp_path, tmp_path / "results")
    assert not (tmp_path / "results").exists()


def relabel(store: CubeStore, change: Callable[[dict[str, Any]], None]) -> None:
    """Put changed labels into a store, as if it had been prepared with them."""
    found = labels()
    change(found)
    store.manifest["labels"]["official"] = write_labels(store.path, found)
    (store.path / "manifest.json").write_text(json.dumps(store.manifest))


@pytest.mark.parametrize("length", [FRAMES - 1, FRAMES + 1, 0])
def test_labels_of_the_wrong_length_are_refused(tmp_path: Path, length: int) -> None:
    e = an_experiment("null-flow")
    store = write_store(tmp_path, e)
    relabel(store, lambda found: found.update({"04": np.zeros(length, np.uint8)}))
    with pytest.raises(DataError, match="video 04"):
        evaluate(e, store, tmp_path, tmp_path / "results")
    assert not list(tmp_path.glob("results/records/**/*.json"))


def test_labels_that_lack_a_video_are_refused(tmp_path: Path) -> None:
    e = an_experiment("null-flow")
    store = write_store(tmp_path, e)
    relabel(store, lambda found: found.pop("04"))
    with pytest.raises(DataError, match="04"):
        evaluate(e, store, tmp_path, tmp_path / "results")


def test_labels_with_a_pickle_inside_are_not_loaded(tmp_path: Path) -> None:
    e = an_experiment("null-flow")
    store = write_store(tmp_path, e)
    np.savez(store.path / "labels-official.npz", **{video: np.array([{"a": 1}], dtype=object) for video in TEST})
    with pytest.raises(DataError, match=r"labels-official\.npz"):
        evaluate(e, store, tmp_path, tmp_path / "results")


def test_a_label_set_that_was_not_prepared_is_named(tmp_path: Path) -> None:
    e = replace(an_experiment("null-flow"), label_set="intervals")
    store = write_store(tmp_path, e)
    with pytest.raises(DataError, match=r"labels-intervals\.npz is missing: the store has the label sets official"):
        evaluate(e, store, tmp_path, tmp_path / "results")


def test_videos_of_one_class_have_no_auroc(tmp_path: Path) -> None:
    e = an_experiment("null-flow")
    store = write_store(tmp_path, e)
    relabel(store, lambda found: [label.fill(0) for label in found.values()])
    record = evaluate(e, store, tmp_path, tmp_path / "results")
    assert [record.metrics[name] for name in ("auroc", "macro_auroc", "macro_videos")] == [None, None, 0]
    assert record.parts == {"flow-magnitude": None}


@pytest.mark.parametrize("recipe", ["amsrc", "null-flow"])
def test_scores_kept_from_other_cubes_are_not_used(cell: Cell, null: Cell, tmp_path: Path, recipe: str) -> None:
    """The store was prepared anew from changed data: as many cubes, other pixels and flows."""
    cell = {"amsrc": cell, "null-flow": null}[recipe].copied(tmp_path)
    cell.store = write_store(cell.home, cell.experiment, content=1)
    assert len(cell.store.test) == len(cell.cubes) - 80
    with pytest.raises(ConfigError, match=f"belongs to the cubes .* holds {cell.store.sha256[:12]}"):
        cell.evaluate()
    assert read(path_of(cell.results, cell.record)) == cell.record


def test_scores_of_another_number_of_cubes_are_refused(null: Cell, tmp_path: Path) -> None:
    cell = null.copied(tmp_path)
    cell.cubes.iloc[:-1].to_parquet(cell.folder / "cubes.parquet")
    with pytest.raises(RunError, match=r"cubes\.parquet holds other cubes than .*Delete it and evaluate again"):
        cell.evaluate()


def test_a_score_that_is_not_finite_makes_no_record(null: Cell, tmp_path: Path) -> None:
    cell = null.copied(tmp_path)
    path_of(cell.results, cell.record).unlink()
    table = cell.cubes
    table.loc[len(table) - 1, "flow-magnitude"] = np.nan
    table.to_parquet(cell.folder / "cubes.parquet")
    with pytest.raises(RunError, match=r"'flow-magnitude' .* not finite"):
        cell.evaluate()
    assert not path_of(cell.results, cell.record).exists()


def test_a_full_disk_leaves_no_half_written_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    e = an_experiment("null-flow")
    store = write_store(tmp_path, e)

    to_parquet = pd.DataFrame.to_parquet

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def only_in_memory(table: pd.DataFrame, path: Any = None, **options: Any) -> Any:
        return full() if isinstance(path, str | Path) else to_parquet(table, path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        patch.setattr(pd.DataFrame, "to_parquet", only_in_memory)
        with pytest.raises(RunError, match="No space left on device"):
            evaluate(e, store, tmp_path, tmp_path / "results")
    assert not list(tmp_path.rglob("cubes.parquet"))
    assert not list(tmp_path.rglob("results/**/*.json"))
    assert evaluate(e, store, tmp_path, tmp_path / "results").status == "done"


def test_an_unknown_method_is_named(tmp_path: Path) -> None:
    e = replace(an_experiment(), method="flow-magnitud")
    store = write_store(tmp_path, e)
    with pytest.raises(ConfigError, match=r"unknown method 'flow-magnitud'; did you mean: flow-magnitude\?"):
        evaluate(e, store, tmp_path, tmp_path / "results")


def test_a_part_of_a_data_set_is_recorded_as_such(tmp_path: Path) -> None:
    record = Cell(tmp_path, replace(an_experiment("null-flow"), partial=True)).record
    assert record.partial
    assert record.videos == list(TEST)


# The rules


def held_out_arrays(cell: Cell, epoch: int) -> tuple[dict[str, np.ndarray], Standards]:
    """The held-out scores of an epoch, and what standardises them."""
    last = epoch == cell.experiment.train.epochs
    arrays, known = read_epoch(cell.folder / ("held_out.npz" if last else f"epochs/{epoch:03d}.npz"))
    return arrays, standards(cell.cubes) if last else known


def slow_pseudo_aurocs(cell: Cell, epoch: int, share: float) -> dict[str, float]:
    """By kind, how well an epoch and a share of the first part tell held-out cubes from pseudo-anomalies."""
    found, known = held_out_arrays(cell, epoch)
    weights = {"consistency": share, "prediction": 1 - share}

    def fused(kept: str) -> np.ndarray:
        return sum(w * (found[f"{kept}.{p}"].astype(float) - known[p][0]) / known[p][1] for p, w in weights.items())

    normal = fused("normal")
    aurocs = {}
    for kind in KINDS:
        scores = np.concatenate([normal, fused(f"pseudo.{kind}")])
        aurocs[kind] = roc_auc_score([0] * len(normal) + [1] * (len(scores) - len(normal)), scores.astype(np.float32))
    return aurocs


def test_the_paper_rule_is_the_metric_in_the_last_epoch(cell: Cell) -> None:
    assert list(cell.record.rules) == list(RULES)
    measured = pytest.approx(cell.record.metrics["auroc"], abs=1e-12)
    own = {"consistency": 0.5, "prediction": 0.5}
    assert cell.record.rules["paper"] == {"auroc": measured, "epoch": 4, "weights": own}


def test_the_oracle_is_what_its_epoch_and_weights_reach(cell: Cell) -> None:
    found, test = cell.record.rules["oracle"], cell.cubes
    known = standards(test)
    if found["epoch"] < 4:
        test, known = with_epoch(test, cell.folder / "epochs" / f"{found['epoch']:03d}.npz")
    assert list(found["weights"]) == ["consistency", "prediction"]
    assert sum(found["weights"].values()) == pytest.approx(1)
    assert found["auroc"] == pytest.approx(slow_auroc(test, known, *found["weights"].values()), abs=1e-6)
    reached = [value for line in cell.record.epochs for value in aurocs_of(line, line["parts"]).values()]
    assert found["auroc"] >= max(reached)


def test_crossfits_number_is_that_of_the_ranks_that_are_kept(cell: Cell) -> None:
    ranks, found = read_crossfit(cell.results, cell.record), cell.record.rules["crossfit"]
    assert sorted(video for fold in found["folds"] for video in fold["videos"]) == list(TEST)
    flags = np.concatenate([labels()[video][SKIP:] for video in TEST])
    assert found["auroc"] == pytest.approx(roc_auc_score(flags, np.concatenate([ranks[v] for v in TEST])), abs=1e-12)


def test_label_free_takes_the_epoch_and_weights_that_tell_pseudo_anomalies_best(cell: Cell) -> None:
    found = cell.record.rules["label-free"]
    expected = slow_pseudo_aurocs(cell, found["epoch"], found["weights"]["consistency"])
    assert found["pseudo_auroc_by_kind"] == pytest.approx(expected, abs=1e-3)  # a near tie in float32 or two
    assert found["pseudo_auroc"] == pytest.approx(np.mean(list(found["pseudo_auroc_by_kind"].values())))
    others = [slow_pseudo_aurocs(cell, e, share) for e in (1, 2, 3, 4) for share in (0, 0.25, 0.5, 0.75, 1)]
    assert max(np.mean(list(by_kind.values())) for by_kind in others) <= found["pseudo_auroc"] + 1e-3


def test_the_fusion_curve_runs_from_one_part_alone_to_the_other_alone(cell: Cell) -> None:
    curve, metrics, parts = cell.record.fusion, cell.record.metrics, cell.record.parts
    assert curve["part"] == "consistency", "the first"
    assert (curve["share"][0], curve["share"][-1], len(curve["auroc"])) == (0, 1, 1001)
    expected = [parts["prediction"], parts["consistency"], metrics["auroc"]]
    assert [curve["auroc"][0], curve["auroc"][-1], curve["own_auroc"]] == pytest.approx(expected, abs=1e-12)
    assert (curve["own_share"], curve["auroc"][500]) == (0.5, curve["own_auroc"])
    assert curve["best_auroc"] == max(curve["auroc"])


def test_held_out_videos_are_not_trained_on(cell: Cell) -> None:
    (normal,) = {len(array) for name, array in held_out_arrays(cell, 4)[0].items() if name.startswith("normal")}
    assert normal == 40 - 4, "one video of the two, without the cubes that reach back before its start"
    assert (cell.folder / "held_out.npz").is_file()


def test_without_held_out_videos_label_free_is_undefined_and_all_is_trained_on(tmp_path: Path) -> None:
    cell = Cell(tmp_path, an_experiment(train={"epochs": 2, "held_out": 0.0}))
    assert cell.record.rules["label-free"]["auroc"] is None
    assert not (cell.folder / "held_out.npz").exists()
    assert cell.record.rules["oracle"]["auroc"] is not None


def test_a_null_has_nothing_to_choose(null: Cell) -> None:
    rules = null.record.rules
    measured = pytest.approx(null.record.metrics["auroc"], abs=1e-12)
    assert (
        rules["oracle"]
        == rules["paper"]
        == {
            "auroc": measured,
            "epoch": 0,
            "weights": {"flow-magnitude": 1.0},
        }
    )
    assert rules["crossfit"]["auroc"] == rules["paper"]["auroc"]
    assert rules["label-free"]["auroc"] is None
    assert null.record.fusion == {}


# What gave no number


@pytest.mark.parametrize("status", ["failed", "pruned"])
def test_an_unfinished_cell_has_a_record_with_the_reason_and_its_epochs(cell: Cell, status: str) -> None:
    when = "2025-01-01T00:00:00+00:00"
    record = unfinished(cell.experiment, cell.store, cell.folder, status, "RunError: the loss became NaN", when)
    assert (record.status, record.error, record.started) == (status, "RunError: the loss became NaN", when)
    assert (record.metrics, record.parts, record.rules, record.fusion) == ({}, {}, {}, {})
    assert [line["epoch"] for line in record.epochs] == [1, 2, 3, 4]
    assert not {"code", "hardware"} & set(record.epochs[0])
    assert (record.store, record.labels) == (cell.record.store, cell.record.labels)
    assert record.git["trained"] == cell.record.git["trained"]
    assert path_of(cell.results, record) == path_of(cell.results, cell.record)


def test_a_cell_without_a_store_has_a_record_all_the_same(tmp_path: Path) -> None:
    record = unfinished(an_experiment(), None, tmp_path / "no run", "failed", "DataError: no store", "2025-01-01")
    assert (record.store, record.labels, record.epochs, record.git["trained"]) == (None, None, [], None)
    assert record.fingerprint == fingerprint(an_experiment())


# What a training is worth so far


def test_a_training_is_worth_its_pseudo_auroc_and_no_label_stops_it(cell: Cell) -> None:
    found = validation_score(cell.experiment, cell.folder, 3)
    tried = [slow_pseudo_aurocs(cell, 3, share) for share in (np.arange(101) / 100)]
    assert found == pytest.approx(max(np.mean(list(by_kind.values())) for by_kind in tried), abs=1e-3)
    assert found == pseudo_auroc(read_epochs(cell.folder)[-1], cell.experiment.score)


def test_an_epoch_that_was_not_scored_has_no_worth(cell: Cell, tmp_path: Path) -> None:
    assert validation_score(cell.experiment, cell.folder, 4) is None, "the last one is the evaluation's to score"
    assert validation_score(cell.experiment, tmp_path, 1) is None


def test_videos_one_by_one(cell: Cell) -> None:
    scores, truth = read_frame_scores(cell.results, cell.record)
    table = per_video(scores, truth).set_index("video")
    assert table.index.tolist() == list(TEST)
    assert np.isnan(table.loc["05", "auroc"])
    assert table.loc["03", "auroc"] == pytest.approx(roc_auc_score(truth["03"], scores["03"]))
    assert table["frames"].tolist() == [FRAMES - SKIP] * 3
    assert table["abnormal"].tolist() == [14, 14, 0]
    assert table.loc["04", "max_score"] == pytest.approx(float(scores["04"].max()))


def test_labels_lose_the_frames_without_a_score() -> None:
    found = scored_labels({"a": np.array([1, 1, 0, 1], np.uint8), "b": np.array([1], np.uint8)}, 2)
    assert {video: label.tolist() for video, label in found.items()} == {"a": [0, 1], "b": []}


@pytest.mark.parametrize("content", [b"", b"no table"])
def test_a_damaged_table_of_cube_scores_is_named(cell: Cell, tmp_path: Path, content: bytes) -> None:
    cell = cell.copied(tmp_path)
    (cell.folder / "cubes.parquet").write_bytes(content)
    with pytest.raises(DataError, match=r"cubes\.parquet is damaged .* run `amsrc-bench evaluate` again"):
        cell.evaluate()
