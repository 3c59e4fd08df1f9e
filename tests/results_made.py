"""A made-up `results/`: runs on three data sets with scores, curves, boxes and frames; one failed; one search."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from bench.evaluation.selection import shares
from bench.experiment.config import Experiment, derive, dump, fingerprint, run_key
from bench.experiment.recipes import build
from bench.figures import files
from bench.records.records import RunRecord, SearchRecord, write, write_frame_scores, write_search

VIDEOS = {"ped2": 6, "avenue": 9, "shanghaitech": 4}
FRAMES = 120
SKIP = 4
TIME = {"started": "2025-01-01T00:00:00+00:00", "finished": "2025-01-01T01:00:00+00:00"}
FASTER = {"learning_rate": 1e-3, "held_out": 0.0}
LINKS = "![p](https://evil.example/x.png) [click](https://evil.example/) <https://evil.example/>"
SHARES = [number / 20 for number in range(21)]


def record_of(e: Experiment, **changes: object) -> RunRecord:
    """A done record of an experiment, without any measurement; `changes` replace its keys."""
    keys: dict[str, object] = {
        "recipe": e.recipe,
        "dataset": e.dataset,
        "seed": e.seed,
        "fingerprint": fingerprint(e),
        "run": run_key(e),
        "status": "done",
        "boxes": e.cube.boxes.provider,
        "flow": e.cube.flow.provider,
        "learns": e.learns,
        "experiment": dump(e),
        **TIME,
        **changes,
    }
    return RunRecord(**keys)  # type: ignore[arg-type]


def valued(e: Experiment, value: float | None = 0.7, status: str = "done") -> RunRecord:
    """A record whose objective under every rule is this value."""
    rules: dict[str, object] = {rule: {"auroc": value} for rule in ("paper", "oracle", "crossfit")}
    rules["label-free"] = {"auroc": 0.1, "pseudo_auroc": value}
    return record_of(e, status=status, rules=rules if status == "done" else {})


def a_record(recipe: str = "amsrc", dataset: str = "ped2", seed: int = 0, **changes: object) -> RunRecord:
    """A done record, with epochs and a fusion curve where its method has them; `changes` replace its keys."""
    e = build(recipe, dataset, seed)
    parts = {part: 0.7 - number / 10 for number, part in enumerate(e.parts)}
    keys: dict[str, object] = {
        "metrics": {"auroc": 0.8 + seed / 100, "auroc_interval": [0.75, 0.85], "macro_videos": 4},
        "parts": parts,
        "fusion": a_fusion_curve(e) if len(parts) == 2 else {},
        "epochs": [
            {"epoch": n, "phase": "train", "auroc": 0.9 - n / 50, "parts": dict.fromkeys(parts) | {e.parts[0]: 0.6}}
            for n in (1, 2, 3)
        ]
        * bool(e.epochs),
        "rules": {"paper": {"auroc": 0.84, "epoch": 3, "weights": weights_of(e)}} if e.learns else {},
        "git": {"sha": "0123456789abcdef", "dirty": False},
        "hardware": {"cpu": "a processor", "cores": 2, "gpus": []},
    }
    return record_of(e, **keys | changes)


def weights_of(e: Experiment) -> dict[str, float]:
    """An experiment's own weights by part, adding up to 1."""
    return dict(zip(e.parts, shares(e.score.weights), strict=True))


def a_fusion_curve(e: Experiment) -> dict[str, object]:
    """`RunRecord.fusion` of a score of two parts, best at equal weights."""
    aurocs = [0.5 + 0.4 * share * (1 - share) * 2 for share in SHARES]
    best = {"best_share": 0.5, "best_auroc": aurocs[10]}
    own = {"own_share": weights_of(e)[e.parts[0]], "own_auroc": 0.57}
    return {"part": e.parts[0], "share": SHARES, "auroc": aurocs, **best, **own}


def scores_of(dataset: str, seed: int = 0) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Scores and labels of the scored frames: high, but not always, where abnormal; the first video is normal."""
    random = np.random.default_rng(seed)
    scores, labels = {}, {}
    for number in range(1, VIDEOS[dataset] + 1):
        label = np.zeros(FRAMES - SKIP, np.uint8)
        if number > 1:
            label[40 + number : 80] = 1
        scores[f"{number:02d}"] = (random.normal(0, 1, len(label)) + 1.5 * label).astype(np.float32)
        labels[f"{number:02d}"] = label
    return scores, labels


def put(results: Path, record: RunRecord) -> None:
    """Write a record and its frame scores."""
    write(record, results)
    if record.status == "done":
        write_frame_scores(results, record, *scores_of(record.dataset, record.seed))


def put_pictures(results: Path, record: RunRecord) -> None:
    """What `amsrc-bench figures` leaves of a run that has its pixels at hand."""
    folder, (scores, _) = files.folder_of(results, record), scores_of(record.dataset)
    folder.mkdir(parents=True, exist_ok=True)
    parts = {
        video: {part: score / (number + 2) for number, part in enumerate(record.parts)}
        for video, score in scores.items()
    }
    (folder / "parts.npz").write_bytes(files.parts_bytes(parts))
    frames = [*range(SKIP, FRAMES, 12)]
    boxes = {
        video: {number: [[0.1, 0.2, 0.3, 0.6, number / 10], [0.5, 0.5, 0.6, 0.9, -1.0]] for number in frames}
        for video in scores
    }
    (folder / "boxes.json").write_text(json.dumps(boxes))
    for video in scores:
        for number in frames:
            path = files.strips_of(results, record.dataset) / video / f"{number:05d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            picture = np.full((90, 160, 3), number, np.uint8)
            cv2.imwrite(str(path), picture)


def a_trial(number: int, state: str = "done", **changes: Any) -> dict[str, Any]:
    """A trial of a search as its record has it."""
    trial = {"number": number, "state": state, "params": {"loss.gradient": 2.0}, "values": [0.9], "fingerprints": []}
    return {**trial, **changes}


def a_search() -> SearchRecord:
    """Four trials, one of them failed."""
    trials = [a_trial(n, params={"loss.consistency": 10.0**n}, values=[0.7 + n / 50]) for n in range(3)]
    trials.append(a_trial(3, "failed", params={"loss.consistency": 5.0}, values=None))
    return SearchRecord(
        study="amsrc-ped2-crossfit-12345678",
        recipe="amsrc",
        datasets=["ped2"],
        seeds=[0],
        joint=False,
        rule="crossfit",
        space={"loss.consistency": [0.1, 200.0]},
        sampler="QMCSampler(seed=0)",
        proposals="The sampler saw no score.",
        reference=[],
        trials=trials,
        chosen={"ped2": {rule: {"auroc": 0.8} for rule in ("paper", "oracle", "crossfit")}},
        git={},
        hardware={},
        versions={},
        **TIME,
    )


def a_results_folder(results: Path) -> list[RunRecord]:
    """All of it; gives the records."""
    records = [
        *(a_record("amsrc", dataset, seed) for dataset in VIDEOS for seed in (0, 1)),
        *(a_record("null-flow", dataset, metrics={"auroc": 0.99, "auroc_interval": [0.98, 1.0]}) for dataset in VIDEOS),
        a_record("amsrc", "ped2", fingerprint="faster", experiment=dump(derive(build("amsrc", "ped2"), train=FASTER))),
        a_record(
            "baseline",
            "ped2",
            status="failed",
            error=f"CUDA is out of <memory> {LINKS}",
            metrics={},
            parts={},
            rules={},
            fusion={},
        ),
    ]
    for record in records:
        put(results, record)
    put_pictures(results, records[0])
    write_search(a_search(), results)
    return records
