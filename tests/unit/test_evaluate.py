"""From trained weights to the record: what is written, and that it agrees with itself and with a slow restatement."""

import errno
import json
import os
from collections.abc import Callable
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
from bench.training.loop import fit
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
    assert r.metrics["auroc"] is not None and r.metrics["auroc_f"] is None
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
        video: found[["frame", "x0", "y0", "x1", "y1", "s_p"]].astype(float).to_numpy().tolist()
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
    assert list(table.columns) == ["split", "video", "frame", "x0", "y0", "x1", "y1", "s_f", "s_p"]
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


Standard = tuple[float, float]


def standards(table: pd.DataFrame) -> tuple[Standard, Standard]:
    """Mean and deviation of S_f and S_p over the training cubes."""
    train = table[table["split"] == "train"]
    return tuple(reference.mean_and_sd(train[name].astype(float).tolist()) for name in ("s_f", "s_p"))


def slow_auroc(table: pd.DataFrame, known: tuple[Standard, Standard], weight_f: float, weight_p: float) -> float:
    """The pooled AUROC of the test cubes' scores, by the slow restatement of fusion and smoothing."""
    test = table[table["split"] == "test"]
    cubes = test.assign(video=test["video"].map(TEST.index))[["video", "frame", "s_f", "s_p"]]
    scores = reference.frame_scores(
        cubes.itertuples(index=False, name=None),
        [FRAMES] * len(TEST),
        *known,
        weight_f=weight_f,
        weight_p=weight_p,
        skip=SKIP,
        median=17,
        padding="reflect",
        empty="zero-error",
    )
    flags = np.concatenate([labels()[video][SKIP:] for video in TEST])
    return float(roc_auc_score(flags, np.concatenate(scores).astype(np.float32)))


ALONE_AND_TOGETHER = [("auroc", (0.5, 0.5)), ("auroc_f", (1, 0)), ("auroc_p", (0, 1))]


@pytest.mark.parametrize(("metric", "weights"), ALONE_AND_TOGETHER)
def test_the_metrics_follow_from_the_scores_of_cubes(cell: Cell, metric: str, weights: tuple[float, float]) -> None:
    table = cell.cubes
    assert cell.record.metrics[metric] == pytest.approx(slow_auroc(table, standards(table), *weights), abs=1e-6)


def test_every_scored_epoch_has_its_three_aurocs(cell: Cell) -> None:
    lines = cell.record.epochs
    assert [line["epoch"] for line in lines] == [1, 2, 3, 4]
    for line in lines:
        assert {"loss", "intensity", "gradient", "consistency", "seconds", "auroc", "auroc_f", "auroc_p"} <= set(line)
        assert all(0 <= line[name] <= 1 for name in ("auroc", "auroc_f", "auroc_p"))
    last = {name: lines[-1][name] for name in ("auroc", "auroc_f", "auroc_p")}
    assert last == {name: cell.record.metrics[name] for name in last}
    assert len({line["auroc_p"] for line in lines}) > 1


@pytest.mark.parametrize(("metric", "weights"), ALONE_AND_TOGETHER)
def test_an_epochs_auroc_follows_from_its_scores(cell: Cell, metric: str, weights: tuple[float, float]) -> None:
    table = cell.cubes
    with np.load(cell.folder / "epochs" / "002.npz", allow_pickle=False) as kept:
        test = table[table["split"] == "test"].assign(s_f=kept["s_f"], s_p=kept["s_p"])
        mean_f, sd_f, mean_p, sd_p = kept["statistics"].tolist()
    expected = slow_auroc(test, ((mean_f, sd_f), (mean_p, sd_p)), *weights)
    assert cell.record.epochs[1][metric] == pytest.approx(expected, abs=1e-6)


def test_epochs_that_were_not_scored_have_no_auroc(tmp_path: Path) -> None:
    record = Cell(tmp_path, an_experiment(train={"epochs": 3, "score_every": 2})).record
    assert [sorted(set(line) & {"auroc", "auroc_f", "auroc_p"}) for line in record.epochs] == [
        [],
        ["auroc", "auroc_f", "auroc_p"],
        ["auroc", "auroc_f", "auroc_p"],
    ]


def test_a_second_evaluation_scores_nothing_again(cell: Cell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cell = cell.copied(tmp_path)
    before = (cell.folder / "cubes.parquet").stat().st_mtime_ns
    monkeypatch.setattr(scoring, "score", lambda *_: pytest.fail("scored again"))
    again = cell.evaluate()
    assert (cell.folder / "cubes.parquet").stat().st_mtime_ns == before
    assert again.metrics == cell.record.metrics
    assert (again.timings_s["score"], again.throughput["score"]) == (None, None)


def test_another_fusion_ratio_needs_no_network(cell: Cell, tmp_path: Path) -> None:
    cell = cell.copied(tmp_path)
    (cell.folder / "model.safetensors").unlink()
    other = derive(cell.experiment, score={"weight_f": 0.0, "weight_p": 1.0})
    record = evaluate(other, cell.store, cell.home, cell.results)
    assert record.metrics["auroc"] == cell.record.metrics["auroc_p"]
    assert record.fingerprint != cell.record.fingerprint
    assert record.run == cell.record.run


def test_a_network_without_motion_has_no_consistency_auroc(tmp_path: Path) -> None:
    record = Cell(tmp_path, an_experiment("baseline", train={"epochs": 2})).record
    assert record.metrics["auroc_f"] is None
    assert record.metrics["auroc"] == record.metrics["auroc_p"]
    assert [line["auroc_f"] for line in record.epochs] == [None, None]
    text = json.loads(path_of(tmp_path / "results", record).read_text())
    assert text["metrics"]["auroc_f"] is None


def test_a_null_needs_no_training(null: Cell) -> None:
    r = null.record
    assert r.metrics["auroc_f"] is None
    assert r.metrics["auroc"] == r.metrics["auroc_p"]
    assert r.metrics["auroc"] > 0.95, "the abnormal cubes move several times as fast"
    assert (r.epochs, r.peak_memory_gib, r.timings_s["train"], r.throughput["train"]) == ([], None, None, None)
    assert r.metrics["auroc"] == pytest.approx(slow_auroc(null.cubes, standards(null.cubes), 0, 1), abs=1e-6)


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
    assert [record.metrics[name] for name in ("auroc", "auroc_p", "macro_auroc", "macro_videos")] == [None] * 3 + [0]


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
    table.loc[len(table) - 1, "s_p"] = np.nan
    table.to_parquet(cell.folder / "cubes.parquet")
    with pytest.raises(RunError, match="S_p cannot be fused"):
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


def held_out_arrays(cell: Cell, epoch: int) -> tuple[dict[str, np.ndarray], tuple[Standard, Standard]]:
    """The held-out scores of an epoch, and what standardises them."""
    last = epoch == cell.experiment.train.epochs
    path = cell.folder / ("held_out.npz" if last else f"epochs/{epoch:03d}.npz")
    with np.load(path, allow_pickle=False) as kept:
        found = dict(kept)
    if last:
        return found, standards(cell.cubes)
    mean_f, sd_f, mean_p, sd_p = found["statistics"].tolist()
    return found, ((mean_f, sd_f), (mean_p, sd_p))


def slow_pseudo_aurocs(cell: Cell, epoch: int, share: float) -> dict[str, float]:
    """By kind, how well an epoch and a share tell held-out cubes from pseudo-anomalies."""
    found, ((mean_f, sd_f), (mean_p, sd_p)) = held_out_arrays(cell, epoch)

    def fused(f: np.ndarray, p: np.ndarray) -> np.ndarray:
        return share * (f.astype(float) - mean_f) / sd_f + (1 - share) * (p.astype(float) - mean_p) / sd_p

    normal = fused(found["normal_f"], found["normal_p"])
    aurocs = {}
    for kind in KINDS:
        scores = np.concatenate([normal, fused(found[f"pseudo_f.{kind}"], found[f"pseudo_p.{kind}"])])
        aurocs[kind] = roc_auc_score([0] * len(normal) + [1] * (len(scores) - len(normal)), scores.astype(np.float32))
    return aurocs


def test_the_paper_rule_is_the_metric_in_the_last_epoch(cell: Cell) -> None:
    assert list(cell.record.rules) == list(RULES)
    measured = pytest.approx(cell.record.metrics["auroc"], abs=1e-12)
    assert cell.record.rules["paper"] == {"auroc": measured, "epoch": 4, "share_f": 0.5}


def test_the_oracle_is_what_its_epoch_and_share_reach(cell: Cell) -> None:
    found = cell.record.rules["oracle"]
    test = cell.cubes[cell.cubes["split"] == "test"]
    known = standards(cell.cubes)
    if found["epoch"] < 4:
        with np.load(cell.folder / "epochs" / f"{found['epoch']:03d}.npz", allow_pickle=False) as kept:
            test = test.assign(s_f=kept["s_f"], s_p=kept["s_p"])
            mean_f, sd_f, mean_p, sd_p = kept["statistics"].tolist()
        known = (mean_f, sd_f), (mean_p, sd_p)
    expected = slow_auroc(test, known, found["share_f"], 1 - found["share_f"])
    assert found["auroc"] == pytest.approx(expected, abs=1e-6)
    assert found["auroc"] >= max(line[name] for line in cell.record.epochs for name in ("auroc", "auroc_f", "auroc_p"))


def test_crossfits_number_is_that_of_the_ranks_that_are_kept(cell: Cell) -> None:
    ranks, found = read_crossfit(cell.results, cell.record), cell.record.rules["crossfit"]
    assert sorted(video for fold in found["folds"] for video in fold["videos"]) == list(TEST)
    flags = np.concatenate([labels()[video][SKIP:] for video in TEST])
    assert found["auroc"] == pytest.approx(roc_auc_score(flags, np.concatenate([ranks[v] for v in TEST])), abs=1e-12)


def test_label_free_takes_the_epoch_and_share_that_tell_pseudo_anomalies_best(cell: Cell) -> None:
    found = cell.record.rules["label-free"]
    expected = slow_pseudo_aurocs(cell, found["epoch"], found["share_f"])
    assert found["pseudo_auroc_by_kind"] == pytest.approx(expected, abs=1e-3)  # a near tie in float32 or two
    assert found["pseudo_auroc"] == pytest.approx(np.mean(list(found["pseudo_auroc_by_kind"].values())))
    others = [slow_pseudo_aurocs(cell, e, share) for e in (1, 2, 3, 4) for share in (0, 0.25, 0.5, 0.75, 1)]
    assert max(np.mean(list(by_kind.values())) for by_kind in others) <= found["pseudo_auroc"] + 1e-3


def test_the_fusion_curve_runs_from_s_p_alone_to_s_f_alone(cell: Cell) -> None:
    curve, metrics = cell.record.fusion, cell.record.metrics
    assert (curve["share_f"][0], curve["share_f"][-1], len(curve["auroc"])) == (0, 1, 1001)
    expected = [metrics["auroc_p"], metrics["auroc_f"], metrics["auroc"]]
    assert [curve["auroc"][0], curve["auroc"][-1], curve["paper_auroc"]] == pytest.approx(expected, abs=1e-12)
    assert (curve["paper_share"], curve["auroc"][500]) == (0.5, curve["paper_auroc"])
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
    assert rules["oracle"] == rules["paper"] == {"auroc": measured, "epoch": 0, "share_f": None}
    assert rules["crossfit"]["auroc"] == rules["paper"]["auroc"]
    assert rules["label-free"]["auroc"] is None
    assert null.record.fusion == {}


# What gave no number


@pytest.mark.parametrize("status", ["failed", "pruned"])
def test_an_unfinished_cell_has_a_record_with_the_reason_and_its_epochs(cell: Cell, status: str) -> None:
    when = "2025-01-01T00:00:00+00:00"
    record = unfinished(cell.experiment, cell.store, cell.folder, status, "RunError: the loss became NaN", when)
    assert (record.status, record.error, record.started) == (status, "RunError: the loss became NaN", when)
    assert (record.metrics, record.rules, record.fusion) == ({}, {}, {})
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
