"""Trained weights + store -> scores of cubes -> scores of frames -> metrics -> record.

Reads a run's folder, and the store's labels and abnormal regions; writes `<run>/cubes.parquet` (scores of all cubes,
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
from amsrc.errors import ConfigError, RunError, unknown
from amsrc.fuse import Fuser, Statistics, cube_scores, frame_scores, statistics
from amsrc.store import SPLITS, Cubes, CubeStore, Split
from bench.data.regions import Regions
from bench.data.stores import summary
from bench.evaluation import bootstrap, metrics, smoothing
from bench.evaluation.rbdc import Boxes, detection_areas
from bench.evaluation.selection import Decision, decide, fusion_curve, pseudo_worth
from bench.experiment.config import Experiment
from bench.methods.trivial import NULLS, Rows, rows_of
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
class CubeScores:
    """S_f and S_p of the cubes of both splits; of a null that scores frames, of the frames."""

    train_f: Floats
    train_p: Floats
    test_f: Floats
    test_p: Floats

    @property
    def statistics(self) -> Statistics:
        return statistics(self.train_f, self.train_p)


def evaluate(
    experiment: Experiment, store: CubeStore, home: Place, results: Place, *, started: str | None = None
) -> RunRecord:
    """Score, fuse, measure and write the record of one trained cell; returns it.

    Raises:
        RunError: there are no trained weights, or a score is not finite.
    """
    started = started or now()
    folder = run_folder.claim(experiment, store, home)
    with locked(folder):
        scores, score_s = score_cubes(experiment, store, folder)
        epochs = scored_epochs(experiment, store, folder, scores)
    fused_at = time.perf_counter()
    labels = scored_labels(store.labels(experiment.label_set), experiment.score.skip_frames)
    rows, known = rows_of(experiment.method, store.test), epochs[-1].statistics
    frames = fuse(rows, scores.test_f, scores.test_p, known, experiment.score)
    regions = store.regions() if regions_sha256(store, experiment.label_set) else None
    measured = measure(rows, epochs[-1], frames, labels, regions, experiment.score)
    log = epoch_log(experiment, store, folder, epochs, labels, measured)
    decision, curve = select(experiment, rows, epochs, labels)
    record = RunRecord(
        status="done",
        metrics=measured,
        rules=dict(decision.rules),
        fusion=curve,
        epochs=told(log),
        counts=summary(store)
        | {
            "scored_frames": sum(map(len, labels.values())),
            "anomalous_frames": int(sum(map(np.sum, labels.values()))),
        },
        timings_s={
            "train": sum(line["seconds"] or 0.0 for line in log) if log else None,
            "score": score_s,
            "evaluate": time.perf_counter() - fused_at,
        },
        throughput={
            "train": float(np.median([line["cubes_per_s"] for line in log])) if log else None,
            "score": (len(store.train) + len(store.test)) / score_s if score_s else None,
        },
        peak_memory_gib=max((line["peak_memory_gib"] or 0.0 for line in log), default=None),
        workers=log[-1]["workers"] if log else 1,
        restarts=log[-1]["restarts"] if log else 0,
        **origin(experiment, store, log),
        started=started,
        finished=now(),
    )
    write(record, results, replace=True)  # first: it refuses to replace a record of other cubes
    write_frame_scores(results, record, frames, labels, decision.crossfit)
    return record


def study_smoothing(experiment: Experiment, store: CubeStore, home: Place, results: Place, record: RunRecord) -> Place:
    """Measure and write what each smoothing alone is worth on the scores of an evaluated cell. Returns the file."""
    folder = run_folder.folder_of(experiment, home)
    scores, _ = score_cubes(experiment, store, folder)
    last = scored_epochs(experiment, store, folder, scores)[-1]
    raw = replace(experiment.score, median_frames=1)
    frames = fuse(rows_of(experiment.method, store.test), last.s_f, last.s_p, last.statistics, raw)
    labels = scored_labels(store.labels(experiment.label_set), raw.skip_frames)
    return smoothing.write(smoothing.study(record, frames, labels), results)


def scored_epochs(experiment: Experiment, store: CubeStore, folder: Place, last: CubeScores) -> list[Epoch]:
    """Every epoch that left scores; the last is that of the trained weights (number 0 where nothing is trained)."""
    known = standard(experiment, last)
    if experiment.method != "amsrc":
        return [Epoch(0, last.test_f, last.test_p, known, None)]
    from bench.training.loop import held_out_scores

    held_out = held_out_scores(experiment, store, folder)
    trained = Epoch(experiment.train.epochs, last.test_f, last.test_p, known, held_out)
    return [*run_folder.read_epochs(folder), trained]


def standard(experiment: Experiment, scores: CubeScores) -> Statistics:
    """What the scores of a cell are standardised by; a null that is constant has no deviation to be divided by."""
    known = scores.statistics
    return known if experiment.method == "amsrc" else replace(known, sd_p=known.sd_p or 1.0)


def select(
    experiment: Experiment, rows: Rows, epochs: Sequence[Epoch], labels: Labels
) -> tuple[Decision, dict[str, Any]]:
    """What the selection rules make of a cell, and its fusion curve in the last epoch."""
    videos = [shard.video for shard in rows.shards]
    counts = [shard.video_frames for shard in rows.shards]
    fuser = Fuser.of(rows.video, rows.frame, counts, experiment.score)
    return decide(fuser, videos, epochs, labels), fusion_curve(fuser, videos, epochs[-1], labels)


def worth_of_epoch(experiment: Experiment, folder: Place, number: int) -> float | None:
    """What an epoch is worth to a scheduler that may stop the training: by pseudo-anomalies alone.

    Whatever the rule of a search, no test label stops a trial. None for an epoch that was not scored.
    """
    epoch = next((epoch for epoch in run_folder.read_epochs(folder) if epoch.number == number), None)
    return None if epoch is None else pseudo_worth(epoch, experiment.score)


def score_cubes(experiment: Experiment, store: CubeStore, folder: Place) -> tuple[CubeScores, float | None]:
    """The scores of all cubes, found in `cubes.parquet` or made and kept there; and the seconds it took.

    The seconds are None where they were found.
    """
    import pandas as pd

    path = folder / "cubes.parquet"
    rows = {split: rows_of(experiment.method, getattr(store, split)) for split in SPLITS}
    table, seconds = run_folder.read_cubes(folder), None
    if table is None:
        started = time.perf_counter()
        by_split = (
            _null_scores(experiment, store)
            if experiment.method != "amsrc"
            else _model_scores(experiment, store, folder)
        )
        seconds = time.perf_counter() - started
        table = pd.concat([_table(split, rows[split], *by_split[split]) for split in SPLITS])
        content = io.BytesIO()
        table.to_parquet(content, index=False)
        write_file(path, content.getvalue())
    found = {split: table[table["split"] == split] for split in SPLITS}
    for split in SPLITS:
        if len(found[split]) != len(rows[split]):
            raise RunError(f"{path} holds other cubes than {store.origin}. Delete it and evaluate again.")
    columns = (found[split][name].to_numpy(np.float32) for split in SPLITS for name in ("s_f", "s_p"))
    return CubeScores(*columns), seconds


def _model_scores(experiment: Experiment, store: CubeStore, folder: Place) -> dict[Split, tuple[Floats, Floats]]:
    from bench.training import loop
    from bench.training.memory import keep_freed_memory
    from bench.training.scoring import Feed, device_of, score

    keep_freed_memory()
    device = device_of()
    network = loop.load_model(experiment, folder, device)
    found: dict[Split, tuple[Floats, Floats]] = {}
    for split in SPLITS:
        cubes: Cubes = getattr(store, split)
        found[split] = score(network, Feed(cubes, experiment.model, device), np.arange(len(cubes)), experiment.train)
    return found


def _null_scores(experiment: Experiment, store: CubeStore) -> dict[Split, tuple[Floats, Floats]]:
    """A null's score stands where S_p does; there is no S_f."""
    if experiment.method not in NULLS:
        raise ConfigError(unknown("method", experiment.method, ["amsrc", *NULLS]))
    found: dict[Split, tuple[Floats, Floats]] = {}
    for split in SPLITS:
        s_p = NULLS[experiment.method](getattr(store, split), experiment.seed)
        found[split] = (np.full_like(s_p, np.nan), s_p)
    return found


def _table(split: str, rows: Rows, s_f: Floats, s_p: Floats) -> pd.DataFrame:
    """One row a cube: split, video, frame, box, S_f, S_p; of a null that scores frames one a frame, without a box."""
    import pandas as pd

    names = np.array([shard.video for shard in rows.shards], dtype=object)
    boxes = {name: rows.boxes[:, i] for i, name in enumerate(("x0", "y0", "x1", "y1"))}
    return pd.DataFrame(
        {"split": split, "video": names[rows.video], "frame": rows.frame, **boxes, "s_f": s_f, "s_p": s_p}
    )


def fuse(rows: Rows, s_f: Floats, s_p: Floats, known: Statistics, config: ScoreConfig) -> dict[str, Floats]:
    """Frame scores by test video, the first `skip_frames` dropped; in float32, as they are kept and measured."""
    counts = [shard.video_frames for shard in rows.shards]
    scores = frame_scores(s_f, s_p, rows.video, rows.frame, counts, known, config)
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
        **_each_alone(rows, last.s_f, last.s_p, last.statistics, labels, config),
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
    scores = cube_scores(last.s_f, last.s_p, last.statistics, config.weight_f, config.weight_p)
    boxes = {}
    for number, shard in enumerate(rows.shards):
        own = (rows.video == number) & (rows.frame >= config.skip_frames)
        boxes[shard.video] = Boxes(rows.frame[own], rows.boxes[own], scores[own])
    measured = {video: found[found[:, 0] >= config.skip_frames] for video, found in regions.items()}
    return detection_areas(boxes, measured, sum(max(s.video_frames - config.skip_frames, 0) for s in rows.shards))


def _each_alone(
    rows: Rows, s_f: Floats, s_p: Floats, known: Statistics, labels: Labels, config: ScoreConfig
) -> dict[str, float | None]:
    """AUROC of S_f and of S_p alone; None for an S_f that does not exist."""
    found: dict[str, float | None] = {}
    for name, scores, weights in (("auroc_f", s_f, (1.0, 0.0)), ("auroc_p", s_p, (0.0, 1.0))):
        alone = replace(config, weight_f=weights[0], weight_p=weights[1])
        there = not np.isnan(scores).any()
        found[name] = metrics.pooled_auroc(fuse(rows, s_f, s_p, known, alone), labels) if there else None
    return found


def epoch_log(
    experiment: Experiment,
    store: CubeStore,
    folder: Place,
    epochs: Sequence[Epoch],
    labels: Labels,
    last: Mapping[str, float | None],
) -> list[dict[str, Any]]:
    """The training log with the AUROCs of every epoch that was scored; the last epoch's are the record's own.

    Between, the statistics come from a sample of training cubes (`bench.training.held_out.STATISTICS_CUBES`).
    """
    log, scored = run_folder.history(folder), {epoch.number: epoch for epoch in epochs}
    for line in log:
        if line is log[-1]:
            line |= {name: last[name] for name in ("auroc", "auroc_f", "auroc_p")}
        elif e := scored.get(line["epoch"]):
            line["auroc"] = metrics.pooled_auroc(fuse(store.test, e.s_f, e.s_p, e.statistics, experiment.score), labels)
            line |= _each_alone(store.test, e.s_f, e.s_p, e.statistics, labels, experiment.score)
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
