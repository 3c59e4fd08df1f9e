"""The data of the page's video browser: scores, labels, boxes and frames of every video, small enough for one file.

Reads what `bench.figures.files` finds under `results/`; for `bench.page.report`. Needs neither torch nor Ray.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from bench.evaluation.metrics import stretches
from bench.figures import files
from bench.figures.scores import Scored, looks
from bench.records.records import RunRecord
from bench.storage.places import Place

Strips: TypeAlias = dict[str, dict[str, dict[int, bytes]]]  # data set -> video -> number of a frame -> JPEG

LEVELS = 255  # of a curve between its lowest and highest point: finer than a screen shows


def runs(results: Place, records: Sequence[RunRecord]) -> list[dict[str, Any]]:
    """What the browser knows of each run: its curves by video, and the boxes of the pictured frames."""
    found = []
    listed = files.shown(records)
    labels = files.labels(listed)
    for record in listed:
        run = files.scored(results, record)
        if run is not None:
            boxes = files.read_boxes(files.folder_of(results, record))
            videos = {name: _video(run, name) | {"boxes": boxes.get(name, {})} for name in sorted(run.scores)}
            label = f"{labels[record.fingerprint]}, seed {record.seed}"
            about = {"dataset": record.dataset, "label": label, "id": record.fingerprint, "unit": run.unit}
            found.append({**about, "videos": videos})
    return found


def _video(run: Scored, name: str) -> dict[str, Any]:
    score, parts = run.scores[name], run.parts.get(name, {})
    curves = {"S": score / run.scale, **{part: parts[part] for part in looks(run.record) if part in parts}}
    return {
        "skip": run.skip,
        "abnormal": stretches(run.labels[name]),
        "length": len(score),
        "curves": [{"name": key, **_packed(curve)} for key, curve in curves.items() if len(curve)],
    }


def _packed(curve: npt.NDArray[np.floating]) -> dict[str, Any]:
    """A curve as one byte a frame between its ends."""
    low, high = float(curve.min()), float(curve.max())
    levels = np.round((curve - low) * (LEVELS / (high - low or 1))).astype(np.uint8)
    return {"low": round(low, 4), "high": round(high, 4), "levels": base64.b64encode(levels.tobytes()).decode()}


def strips(results: Place, records: Sequence[RunRecord]) -> Strips:
    """The frames of the videos, as far as there are pictures: a data set's strips, and the few of each run."""
    found: Strips = {}
    for record in files.shown(records):
        folders = files.strips_of(results, record.dataset), files.folder_of(results, record) / "frames"
        for folder in folders:
            for video, frames in files.read_strip(folder).items():
                found.setdefault(record.dataset, {}).setdefault(video, {}).update(frames)
    return found


def thinned(found: Strips, room: int) -> tuple[Strips, str]:
    """Strips that take at most so many bytes in the page, and what was left out for that, in words.

    Every second frame of each video is left out of the data set that takes the most room, until all fits.
    """
    steps = dict.fromkeys(found, 1)
    small = found
    while small and sum(map(_size, small.values())) > room:
        largest = max(small, key=lambda name: _size(small[name]))
        if max(map(len, small[largest].values())) < 2:
            return {}, "The frames of the videos are left out: with them this page would be too large to send."
        steps[largest] *= 2
        small = {name: _every(videos, steps[name]) for name, videos in found.items()}
    left_out = [f"one in {step} of the frames of {name}" for name, step in steps.items() if step > 1]
    return small, f"To stay small enough to send, this page shows {', '.join(left_out)}." if left_out else ""


def _every(videos: Mapping[str, Mapping[int, bytes]], step: int) -> dict[str, dict[int, bytes]]:
    return {video: dict(list(frames.items())[::step]) for video, frames in videos.items()}


def _size(videos: Mapping[str, Mapping[int, bytes]]) -> int:
    return sum(4 * len(content) // 3 + 40 for frames in videos.values() for content in frames.values())


def as_script(shown: Sequence[dict[str, Any]], found: Strips) -> str:
    """All of it as JSON that may stand inside a `<script>`."""
    pictures = {
        dataset: {
            video: {number: base64.b64encode(content).decode() for number, content in frames.items()}
            for video, frames in videos.items()
        }
        for dataset, videos in found.items()
    }
    text = json.dumps({"runs": list(shown), "pictures": pictures}, separators=(",", ":"), sort_keys=True)
    return text.replace("<", "\\u003c")
