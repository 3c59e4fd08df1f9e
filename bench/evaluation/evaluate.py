"""Trained weights + store -> scores of cubes -> scores of frames -> metrics -> record.

Reads a run's folder, and the store's labels and abnormal regions; writes `<run>/cubes.parquet` (scores of all rows,
both splits), `<results>/records/...json` and `<results>/scores/...npz`. The labels are read here and nowhere before.
"""

from __future__ import annotations

import io
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from amsrc.config import ScoreConfig
from amsrc.errors import RunError
from amsrc.fuse import Fuser, Statistics, cube_scores, frame_scores, statistics
from amsrc.store import SPLITS, Cubes, CubeStore, Split
from bench.data.regions import Regions
from bench.data.stores import summary
from bench.evaluation import bootstrap, metrics, smoothing
from bench.evaluation.rbdc import Boxes, detection_areas
from bench.evaluation.selection import Decision, decide, fusible, fusion_curve, pseudo_auroc
from bench.experiment.config import Experiment
from bench.methods import catalogue, trivial
from bench.methods.interface import Rows, Scores
from bench.records import run_folder
from bench.records.origin import origin, regions_sha256, told
from bench.records.provenance import now
from bench.records.records import RunRecord, write, write_frame_scores
from bench.records.run_folder import Epoch
from bench.storage.places import Place, locked, write_file

if TYPE_CHECKING:
    import pandas as pd

Floats = npt.NDArray[np.float32]
Labels = Mapping[str, npt.NDArray[np.uint8]]


@dataclass(frozen=True)
class RowScores:
    """The parts of the score of the rows of both splits: of cubes, or of frames where a method scores frames."""

    train: Scores
    test: Scores


def evaluate(
    experiment: Experiment, store: CubeStore, home: Place, results: Place, *, started: str | None = None
) -> RunRecord:
    """Score, fuse, measure and write the record of one run; returns it.

    Raises:
        RunError: there are no trained weights, or a score is not finite.
    """
    started = started or now()
    folder = run_folder.claim(experiment, store, home)
    with locked(folder):
        scores, score_s = score_rows(experiment, store, folder)
        epochs = scored_epochs(experiment, store, folder, scores)
    fused_at = time.perf_counter()
    labels = scored_labels(store.labels(experiment.label_set), experiment.score.skip_frames)
    rows, last = rows_of(experiment, store.test), epochs[-1]
    frames = fuse(rows, last, experiment.score)
    regions = store.regions() if regions_sha256(store, experiment.label_set) else None
    measured = measure(rows, last, frames, labels, regions, experiment.score)
    parts = each_alone(rows, last, labels, experiment.score)
    log = epoch_log(experiment, store, folder, epochs, labels, {"auroc": measured["auroc"], "parts": parts})
    work = log or run_folder.read_fitted(folder)
    decision, curve = select(experiment, rows, epochs, labels)
    record = RunRecord(
        status="done",
        metrics=measured,
        parts=parts,
        rules=dict(decision.rules),
        fusion=curve,
        epochs=told(log),
        counts=summary(store)
        | {
            "scored_frames": sum(map(len, labels.values())),
            "anomalous_frames": int(sum(map(np.sum, labels.values()))),
        },
        timings_s={
            "train": sum(line["seconds"] or 0.0 for line in work) if work else None,
            "score": score_s,
            "evaluate": time.perf_counter() - fused_at,
        },
        throughput={
            "train": float(np.median([line["cubes_per_s"] for line in work])) if work else None,
            "score": (len(store.train) + len(store.test)) / score_s if score_s else None,
        },
        peak_memory_gib=max((line["peak_memory_gib"] or 0.0 for line in work), default=None),
        workers=work[-1]["workers"] if work else 1,
        restarts=work[-1]["restarts"] if work else 0,
        **origin(experiment, store, work),
        started=started,
        finished=now(),
    )
    write(record, results, replace=True)  # first: it refuses to replace a record of other cubes
    write_frame_scores(results, record, frames, labels, decision.crossfit)
    return record


def study_smoothing(experiment: Experiment, store: CubeStore, home: Place, results: Place, record: RunRecord) -> Place:
    """Measure and write what each smoothing alone adds to the scores of an evaluated run. Returns the file."""
    folder = run_folder.folder_of(experiment, home)
    scores, _ = score_rows(experiment, store, folder)
    last = scored_epochs(experiment, store, folder, scores)[-1]
    raw = replace(experiment.score, median_frames=1)
    frames = fuse(rows_of(experiment, store.test), last, raw)
    labels = scored_labels(store.labels(experiment.label_set), raw.skip_frames)
    return smoothing.write(smoothing.study(record, frames, labels), results)


def scored_epochs(experiment: Experiment, store: CubeStore, folder: Place, last: RowScores) -> list[Epoch]:
    """Every epoch that left scores; the last is that of the trained weights (number 0 where there are no epochs)."""
    known = standard(experiment, last)
    if not experiment.learns:
        return [Epoch(0, last.test, known, None)]
    from bench.training.launch import held_out_scores

    held_out = held_out_scores(experiment, store, folder)
    return [*run_folder.read_epochs(folder), Epoch(experiment.epochs, last.test, known, held_out)]


def standard(experiment: Experiment, scores: RowScores) -> dict[str, Statistics]:
    """What the scores of a run are standardised by; a trivial baseline may be constant: it is divided by 1."""
    known = statistics(scores.train)
    if experiment.learns:
        return known
    return {part: of_part if of_part.sd else _divided_by_1(of_part) for part, of_part in known.items()}


def _divided_by_1(known: Statistics) -> Statistics:
    return replace(known, sd=1.0, p999=known.minimum + 1, maximum=known.minimum + 1)


def select(
    experiment: Experiment, rows: Rows, epochs: Sequence[Epoch], labels: Labels
) -> tuple[Decision, dict[str, Any]]:
    """What the selection rules choose for a run, and its fusion curve in the last epoch."""
    videos = [shard.video for shard in rows.shards]
    counts = [shard.video_frames for shard in rows.shards]
    fuser = Fuser.of(rows.video, rows.frame, counts, experiment.score)
    return decide(fuser, videos, epochs, labels), fusion_curve(fuser, videos, epochs[-1], labels)


def validation_score(experiment: Experiment, folder: Place, number: int) -> float | None:
    """The validation score by which a scheduler may stop the training: pseudo-anomalies alone.

    Whatever the rule of a search, no test label stops a trial. None for an epoch that was not scored.
    """
    epoch = next((epoch for epoch in run_folder.read_epochs(folder) if epoch.number == number), None)
    return None if epoch is None else pseudo_auroc(epoch, experiment.score)


def rows_of(experiment: Experiment, cubes: Cubes) -> Rows:
    """What the experiment's method scores in a split."""
    return trivial.rows_of(catalogue.find(experiment.method), cubes)


def score_rows(experiment: Experiment, store: CubeStore, folder: Place) -> tuple[RowScores, float | None]:
    """The scores of all rows, found in `cubes.parquet` or made and kept there; and the seconds it took.

    The seconds are None where they were found.
    """
    import pandas as pd

    path = folder / "cubes.parquet"
    rows = {split: rows_of(experiment, getattr(store, split)) for split in SPLITS}
    table, seconds = run_folder.read_cubes(folder), None
    if table is None:
        started = time.perf_counter()
        by_split = _learned_scores(experiment, store, folder) if experiment.learns else _plain_scores(experiment, store)
        seconds = time.perf_counter() - started
        table = pd.concat([_table(split, rows[split], by_split[split]) for split in SPLITS])
        content = io.BytesIO()
        table.to_parquet(content, index=False)
        write_file(path, content.getvalue())
    found = {split: table[table["split"] == split] for split in SPLITS}
    for split in SPLITS:
        if len(found[split]) != len(rows[split]) or not set(experiment.parts) <= set(table.columns):
            raise RunError(f"{path} holds other cubes than {store.origin}. Delete it and evaluate again.")

    def of(split: Split) -> Scores:
        return {part: found[split][part].to_numpy(np.float32) for part in experiment.parts}

    return RowScores(of("train"), of("test")), seconds


def _learned_scores(experiment: Experiment, store: CubeStore, folder: Place) -> dict[Split, Scores]:
    from bench.methods.reader import Reader
    from bench.training.checkpoint import load
    from bench.training.memory import keep_freed_memory
    from bench.training.scoring import Scorer, device_of

    keep_freed_memory()
    device = device_of()
    scorer = Scorer(experiment, load(experiment, folder, device), device)
    return {split: scorer(Reader(getattr(store, split), device)) for split in SPLITS}


def _plain_scores(experiment: Experiment, store: CubeStore) -> dict[Split, Scores]:
    score = catalogue.find(experiment.method).score
    assert score is not None
    return {split: score(getattr(store, split), experiment.seed) for split in SPLITS}


def _table(split: str, rows: Rows, scores: Scores) -> pd.DataFrame:
    """One row a cube: split, video, frame, box, a column a part; of scores of frames one a frame, without a box."""
    import pandas as pd

    names = np.array([shard.video for shard in rows.shards], dtype=object)
    boxes = {name: rows.boxes[:, i] for i, name in enumerate(("x0", "y0", "x1", "y1"))}
    return pd.DataFrame({"split": split, "video": names[rows.video], "frame": rows.frame, **boxes, **scores})


def fuse(rows: Rows, epoch: Epoch, config: ScoreConfig) -> dict[str, Floats]:
    """Frame scores by test video, the first `skip_frames` dropped; in float32, as they are kept and measured."""
    counts = [shard.video_frames for shard in rows.shards]
    scores = frame_scores(epoch.scores, rows.video, rows.frame, counts, epoch.statistics, config)
    return {shard.video: score.astype(np.float32) for shard, score in zip(rows.shards, scores, strict=True)}


def scored_labels(labels: Labels, skip: int) -> dict[str, npt.NDArray[np.uint8]]:
    """Labels of the frames that get a score."""
    return {video: label[skip:] for video, label in labels.items()}


def measure(
    rows: Rows,
    last: Epoch,
    frames: Mapping[str, Floats],
    labels: Labels,
    regions: Mapping[str, Regions] | None,
    config: ScoreConfig,
) -> dict[str, Any]:
    """`RunRecord.metrics` of the fused scores: fractions, None where undefined."""
    macro, videos = metrics.macro_auroc(frames, labels)
    interval = bootstrap.auroc_interval([frames], labels)
    eer, f1 = metrics.equal_error(*metrics.pooled(frames, labels))
    rbdc, tbdc = detected(rows, last, regions, config)
    return {
        "auroc": metrics.pooled_auroc(frames, labels),
        "auroc_interval": None if interval is None else list(interval),
        "macro_auroc": macro,
        "macro_videos": videos,
        "average_precision": metrics.average_precision(*metrics.pooled(frames, labels)),
        "eer": eer,
        "f1_at_eer": f1,
        "rbdc": rbdc,
        "tbdc": tbdc,
    }


def detected(
    rows: Rows, last: Epoch, regions: Mapping[str, Regions] | None, config: ScoreConfig
) -> tuple[float | None, float | None]:
    """RBDC and TBDC of the cubes' own boxes and fused scores, in the frames that are scored.

    The median filter smooths the scores of frames and has no part in these. None without regions or without boxes.
    """
    if regions is None or not np.isfinite(rows.boxes).all():
        return None, None
    scores = cube_scores(last.scores, last.statistics, config.weights, config.standardise)
    boxes = {}
    for number, shard in enumerate(rows.shards):
        own = (rows.video == number) & (rows.frame >= config.skip_frames)
        boxes[shard.video] = Boxes(rows.frame[own], rows.boxes[own], scores[own])
    measured = {video: found[found[:, 0] >= config.skip_frames] for video, found in regions.items()}
    return detection_areas(boxes, measured, sum(max(s.video_frames - config.skip_frames, 0) for s in rows.shards))


def alone(config: ScoreConfig, parts: Sequence[str], part: str) -> ScoreConfig:
    """The way of scoring in which this part alone counts."""
    return replace(config, weights=tuple(float(name == part) for name in parts))


def each_alone(rows: Rows, epoch: Epoch, labels: Labels, config: ScoreConfig) -> dict[str, float | None]:
    """AUROC of each part of the score alone; None of one that cannot be fused."""
    return {
        part: metrics.pooled_auroc(fuse(rows, epoch, alone(config, list(epoch.scores), part)), labels)
        if fusible(epoch, part, config)
        else None
        for part in epoch.scores
    }


def epoch_log(
    experiment: Experiment,
    store: CubeStore,
    folder: Place,
    epochs: Sequence[Epoch],
    labels: Labels,
    last: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """The training log with the AUROCs of every epoch that was scored; the last epoch's are the record's own.

    Between, the statistics come from a sample of training cubes (`bench.training.held_out.STATISTICS_CUBES`).
    """
    log, scored = run_folder.history(folder), {epoch.number: epoch for epoch in epochs}
    for line in log:
        if line is log[-1]:
            line |= last
        elif epoch := scored.get(line["epoch"]):
            line["auroc"] = metrics.pooled_auroc(fuse(store.test, epoch, experiment.score), labels)
            line["parts"] = each_alone(store.test, epoch, labels, experiment.score)
    return log


def per_video(frames: Mapping[str, Floats], labels: Labels) -> pd.DataFrame:
    """One row a test video: frames, abnormal frames, its AUROC, mean and largest score."""
    import pandas as pd

    return pd.DataFrame(
        {
            "video": video,
            "auroc": metrics.auroc(score, labels[video]) if len(score) else None,
            "frames": len(score),
            "abnormal": int(labels[video].sum()),
            "mean_score": float(np.mean(score)) if len(score) else None,
            "max_score": float(np.max(score)) if len(score) else None,
        }
        for video, score in sorted(frames.items())
    )
