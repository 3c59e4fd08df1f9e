"""The data of the page's video browser: scores, labels, boxes and frames of every video, small enough for one file.

Reads what `bench.gallery` finds under `results/`; for `bench.report`. Needs neither torch nor Ray.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from bench import gallery
from bench.curves import Scored, spans
from bench.records import RunRecord
from bench.storage import Place

Strips: TypeAlias = dict[str, dict[str, dict[int, bytes]]]  # data set -> video -> number of a frame -> JPEG

LEVELS = 255  # of a curve between its lowest and highest point: finer than a screen shows


def runs(results: Place, records: Sequence[RunRecord]) -> list[dict[str, Any]]:
    """What the browser knows of each run: its curves by video, and the boxes of the pictured frames."""
    found = []
    for record in gallery.shown(records):
        run = gallery.scored(results, record)
        if run is not None:
            boxes = gallery.read_boxes(gallery.folder_of(results, record))
            videos = {name: _video(run, name) | {"boxes": boxes.get(name, {})} for name in sorted(run.scores)}
            label = f"{record.recipe}, seed {record.seed}"
            found.append({"dataset": record.dataset, "label": label, "id": record.fingerprint, "videos": videos})
    return found


def _video(run: Scored, name: str) -> dict[str, Any]:
    score = run.scores[name]
    curves = {"s": score / run.scale, **run.parts.get(name, {})}
    return {
        "skip": run.skip,
        "abnormal": spans(run.labels[name]),
        "length": len(score),
        "curves": {key: _packed(curve) for key, curve in curves.items() if len(curve)},
    }


def _packed(curve: npt.NDArray[np.floating]) -> dict[str, Any]:
    """A curve as one byte a frame between its ends."""
    low, high = float(curve.min()), float(curve.max())
    levels = np.round((curve - low) * (LEVELS / (high - low or 1))).astype(np.uint8)
    return {"low": round(low, 4), "high": round(high, 4), "levels": base64.b64encode(levels.tobytes()).decode()}


def strips(results: Place, datasets: Sequence[str]) -> Strips:
    """The frames of the videos, as far as there are pictures."""
    found = {name: gallery.read_strip(gallery.strips_of(results, name)) for name in datasets}
    return {name: own for name, own in found.items() if own}


def thinned(found: Strips, room: int) -> tuple[Strips, str]:
    """Strips that take at most so many bytes in the page, and what was left out for that, in words.

    Of each video every second frame is left out, then every second of the rest, until all fits.
    """
    step = 1
    while (
        (small := _every(found, step))
        and _size(small) > room
        and step < max(map(len, _videos(small)), default=0) * step
    ):
        step *= 2
    if _size(small) > room:
        return {}, "The frames of the videos are left out: with them this page would be too large to send."
    note = f"One in {step} of the frames at hand is shown, to keep this page small enough to send."
    return small, note if step > 1 else ""


def _every(found: Strips, step: int) -> Strips:
    return {
        dataset: {video: dict(list(frames.items())[::step]) for video, frames in videos.items()}
        for dataset, videos in found.items()
    }


def _videos(found: Strips) -> list[dict[int, bytes]]:
    return [frames for videos in found.values() for frames in videos.values()]


def _size(found: Strips) -> int:
    return sum(4 * len(content) // 3 + 40 for frames in _videos(found) for content in frames.values())


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
