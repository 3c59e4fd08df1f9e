"""Scores any video with a trained run: writes it annotated with boxes, score and alarms, and a CSV of its frames.

Reads a video file (or a folder of numbered images), the weights and `cubes.parquet` of a run and, to find the run by
its fingerprint, records. Writes an mp4 and a CSV, each whole or not at all. No label is read anywhere.

The video goes through the benchmark's own path (`amsrc.boxes`, `flow`, `cubes`, `fuse`, `bench.training.scoring`) as a
data set's test video does, with these decisions:

- Size: frames are scored at the height of the run's data set, at which its network, smallest box and flow were tuned,
  and drawn at their own. The frame rate is not converted: where it differs from the data set's all speeds differ.
- Colour: read as grey where the run's data set is grey, drawn in colour.
- Boxes: moving regions, whatever boxes the run was trained on, unless an option says otherwise; flow as in the run.
- Scores: standardised with the training cubes' statistics, fused with the run's weights, smoothed as in the benchmark.
- Alarm: a score above that of 99 % of the run's training frames. These the network has seen, so unseen normal frames
  score somewhat higher and more than one in a hundred may alarm.

The video is decoded twice, first to score and then to draw, so that the smoothing, which looks ahead, needs no frames
in memory: between the two only boxes and scores are kept, a few dozen bytes a box.
"""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import numpy.typing as npt

from amsrc import boxes, flow
from amsrc.cubes import Boxes, BoxesOf, FlowOf, Frame, FrameCubes, cut
from amsrc.errors import ConfigError, DataError, shorten
from amsrc.files import placing, write_file
from amsrc.fuse import cube_scores, frame_scores
from bench.data import readers
from bench.data.prepare import Progress
from bench.data.stores import Sources
from bench.experiment.config import Experiment, override, provider_fields
from bench.experiment.specs import SPECS, is_toy, original
from bench.methods.interface import Scores
from bench.records.find import Run, training_scores
from bench.storage.places import writable
from bench.video.overlay import Overlay, Scale, check_encoder, mp4, spans

if TYPE_CHECKING:
    from bench.training.scoring import Scorer

Floats = npt.NDArray[np.floating]
Ints = npt.NDArray[np.integer]

CHANGEABLE = ("score.", "cube.boxes.")
"""Fields that no weight depends on."""
AT_A_TIME = 512  # cubes that are scored together
USUAL_RATE = 25.0  # of images, and of files that do not tell


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is to be scored and where the output goes."""

    video: Path
    out: Path
    csv: Path
    overwrite: bool = False
    boxes: str = "motion"
    """`motion`, `onnx:FILE` or `torchvision`."""
    flow: str | None = None
    """`dis`, `farneback` or `raft`; None: as in the run."""
    scale: float | None = None
    """Factor by which frames are resized before they are scored; None: to the height of the run's data set."""
    rate: float | None = None
    """Frames per second; None: as the file says."""
    quantile: float = 0.99
    """Fraction of the training frames at or below the alarm threshold."""
    threshold: float | None = None
    """Score above which a frame is an alarm; None: by `quantile`."""


@dataclass(frozen=True)
class Clip:
    """A video and how it is read."""

    path: Path
    width: int
    height: int
    rate: float
    announced: int
    """Frames by its header or its folder, 0 where unknown; fewer or more may come."""
    factor: float
    """By which frames are resized before they are scored."""
    grey: bool

    @property
    def scored_size(self) -> tuple[int, int]:
        """Width and height at which it is scored."""
        return max(1, round(self.width * self.factor)), max(1, round(self.height * self.factor))

    def to_score(self) -> Iterator[Frame]:
        """Its frames as the boxes, the flow and the cubes see them."""
        kind = cv2.INTER_AREA if self.factor < 1 else cv2.INTER_LINEAR
        for frame in readers.frames_of(self.path, self.grey):
            if frame.shape[:2] == (self.height, self.width) and self.scored_size != (self.width, self.height):
                resized = cv2.resize(frame, self.scored_size, interpolation=kind)
                yield resized.reshape(*resized.shape[:2], -1)  # type: ignore[misc]
            else:  # a frame of another size is for `cut` to refuse
                yield frame


@dataclass(frozen=True)
class Found:
    """The cubes of a video and their scores, in order of frames."""

    frames: int
    frame: Ints  # (n,)
    boxes: Boxes  # (n, 4), in the video's own pixels
    scores: Scores  # (n,) by part

    def of(self, index: int) -> slice:
        """Which cubes are a frame's."""
        first, end = np.searchsorted(self.frame, [index, index + 1]).tolist()
        return slice(first, end)


@dataclass(frozen=True)
class Watched:
    """A scored video."""

    clip: Clip
    found: Found
    frames: Floats
    """(N,) float32, NaN for the first ones, which get no score."""
    cubes: Floats
    """(n,) fused, before a frame's largest is taken and smoothed."""
    scale: Scale
    score_s: float
    draw_s: float

    @property
    def alarms(self) -> list[tuple[int, int]]:
        """First and last frame of each alarm."""
        return spans(self.frames > self.scale.threshold)


def watch(
    run: Run, request: Request, changes: Mapping[str, str], progress: Callable[[str], Progress] | None = None
) -> Watched:
    """Score a video, write it annotated, and the CSV of its frames.

    Args:
        changes: dotted fields of the experiment, of those that no weight depends on (`CHANGEABLE`).
        progress: gives, for a verb, what is called with (frames done, frames in all, the last one's time).

    Raises:
        ConfigError: the run is not trained, scored or does not exist; an output file exists; an option is wrong.
        DataError: the video is missing, damaged, none, or too short.
        RunError: a file cannot be written.
    """
    _free(request)
    experiment, boxes_of, flow_of = _configured(run, request, changes)
    known, usual = training_scores(run, experiment.score)
    scale = scale_of(usual, request)
    clip = open_clip(request, experiment)
    scorer = _scorer(run)
    for target in (request.out, request.csv):
        writable(target.parent, "--out")
    show = progress or (lambda verb: lambda done, whole, name: None)

    started = time.perf_counter()
    found = find(clip, scorer, experiment, boxes_of, flow_of, show("scored"))
    skip = experiment.score.skip_frames
    if found.frames <= skip:
        raise DataError(f"{clip.path}: {found.frames} frames; the first {skip} get no score, so more are needed.")
    where = np.zeros(len(found.frame), np.int64)
    (scored,) = frame_scores(found.scores, where, found.frame, [found.frames], known, experiment.score)
    frames = np.concatenate([np.full(skip, np.nan), scored]).astype(np.float32)
    cubes = cube_scores(found.scores, known, experiment.score.weights, experiment.score.standardise)

    scored_at = time.perf_counter()
    watched = Watched(clip, found, frames, cubes, scale, scored_at - started, 0.0)
    about = describe(run, experiment, watched)
    draw(watched, request.out, "; ".join(about), show("drawn"))
    write_file(request.csv, table(watched, about))
    return replace(watched, draw_s=time.perf_counter() - scored_at)


def _configured(run: Run, request: Request, changes: Mapping[str, str]) -> tuple[Experiment, BoxesOf, FlowOf]:
    """The run's experiment with what was asked otherwise, and its two functions that look at a frame."""
    if fixed := [name for name in changes if not name.startswith(CHANGEABLE)]:
        raise ConfigError(
            f"--{fixed[0]}: fixed by the trained run; only {' and '.join(f'{c}*' for c in CHANGEABLE)} may be set."
        )
    sources = Sources.of(request.video, request.boxes, request.flow)
    experiment = override(run.experiment, {**changes, **provider_fields(request.boxes, request.flow)})
    for part, provider in (("boxes", experiment.cube.boxes.provider), ("flow", experiment.cube.flow.provider)):
        if provider == "file":
            others = "motion, onnx:FILE or torchvision" if part == "boxes" else "dis, farneback or raft"
            raise ConfigError(
                f"--{part}: a file has the {part} of a data set's frames, not of this video; give {others}."
            )
    boxes_of = boxes.provider(experiment.cube.boxes, source=sources.boxes_file("test"), first_frames={}, frames=None)
    return experiment, boxes_of, flow.provider(experiment.cube.flow, source=None, split="test")


def _scorer(run: Run) -> Scorer:
    from bench.training.checkpoint import load
    from bench.training.scoring import Scorer, device_of

    device = device_of()
    return Scorer(run.experiment, load(run.experiment, run.folder, device), device)


def scale_of(scores: Floats, request: Request) -> Scale:
    """Typical score and alarm threshold, from the scores of training frames or as given."""
    usual = float(np.median(scores))
    if request.threshold is not None:
        return Scale(usual=usual, threshold=request.threshold, meaning="given")
    meaning = f"{100 * request.quantile:g} % of training frames"
    return Scale(usual=usual, threshold=float(np.quantile(scores, request.quantile)), meaning=meaning)


# -- the video ---------------------------------------------------------------------------------------------------


def _free(request: Request) -> None:
    """Refuse an output file that exists, is the input, or has no encoder."""
    if request.out.suffix.lower() != ".mp4":
        raise ConfigError(f"--out {request.out}: the name must end in .mp4.")
    if request.csv.resolve() in (request.out.resolve(), request.video.resolve()):
        raise ConfigError(f"--csv {request.csv}: is the input or output video. Give it another name.")
    if request.out.resolve() == request.video.resolve():
        raise ConfigError(f"--out {request.out}: is the input video. Give it another name.")
    for path in (request.out, request.csv):
        if path.is_dir():
            raise ConfigError(f"--out: {path} is a folder. Give the name of a file.")
        if path.exists() and not request.overwrite:
            raise ConfigError(f"--out: {path} exists already. Give another name, or --overwrite.")
    check_encoder()


def open_clip(request: Request, experiment: Experiment) -> Clip:
    """A video with what is known before it is read, and how it is to be read for this run.

    Raises:
        DataError: there is no such file, or it is not a video, or no frame can be read.
    """
    path = request.video
    if not path.exists():
        raise DataError(f"--video {path}: no such file.")
    first = next(readers.frames_of(path, False), None)
    if first is None:
        raise DataError(f"--video {path}: no frame can be read; it must be a video file or a folder of images.")
    height, width = first.shape[:2]
    spec = SPECS.get(original(experiment.dataset))
    native = native_height(experiment.dataset)
    factor = request.scale or (native / height if native else 1.0)
    if round(min(width, height) * factor) < experiment.cube.size // 2:
        raise ConfigError(
            f"--scale: {width}x{height} frames would be scored at {width * factor:.0f}x{height * factor:.0f}."
        )
    rate = request.rate or readers.frame_rate(path) or USUAL_RATE
    grey = spec is not None and spec.grey
    return Clip(path, width, height, rate, readers.count_frames(path, None), factor, grey)


def native_height(dataset: str) -> int | None:
    """Height in pixels of a data set's frames; None for one that is not known."""
    if is_toy(dataset):
        from bench.data.toy import TRAIN

        return TRAIN[dataset][0].scene.size[1] if dataset in TRAIN else None
    spec = SPECS.get(dataset)
    return spec.size[1] if spec and spec.size else None


def find(
    clip: Clip, scorer: Scorer, experiment: Experiment, boxes_of: BoxesOf, flow_of: FlowOf, show: Progress
) -> Found:
    """The cubes of a video and their scores, many frames' at a time."""
    count = 0

    def counted() -> Iterator[Frame]:
        nonlocal count
        for frame in clip.to_score():
            count += 1
            if clip.announced:
                show(count, max(count, clip.announced), f"{count / clip.rate:.1f} s")
            yield frame

    index, places = [np.zeros(0, np.int64)], [boxes.NO_BOXES]
    scores = {part: [np.zeros(0, np.float32)] for part in experiment.parts}
    for some in _batches(cut(clip.path.name, counted(), boxes_of, flow_of, experiment.cube)):
        frames = np.concatenate([c.frames_MTCHW for c in some])
        flows = np.concatenate([c.flows_MTCHW for c in some])
        for part, values in scorer.made(frames, flows).items():
            scores[part].append(values)
        index.append(np.repeat([c.index for c in some], [len(c.boxes) for c in some]))
        places += [c.boxes for c in some]
    width, height = clip.scored_size
    own_pixels = np.array([clip.width / width, clip.height / height] * 2, np.float32)
    joined = {part: np.concatenate(values) for part, values in scores.items()}
    return Found(count, np.concatenate(index), np.concatenate(places) * own_pixels, joined)


def _batches(cubes: Iterable[FrameCubes]) -> Iterator[list[FrameCubes]]:
    """Frames whose cubes are scored together."""
    held: list[FrameCubes] = []
    for each in cubes:
        held.append(each)
        if sum(len(c.boxes) for c in held) >= AT_A_TIME:
            yield held
            held = []
    if held:
        yield held


# -- what is written ---------------------------------------------------------------------------------------------


def describe(run: Run, experiment: Experiment, watched: Watched) -> list[str]:
    """How the video was scored, one fact a line, for the video's comment and the CSV."""
    clip, cube, score = watched.clip, experiment.cube, experiment.score
    size, scored = f"{clip.width}x{clip.height}", "x".join(map(str, clip.scored_size))
    scale = "z" if score.standardise == "z-score" else score.standardise
    summed = " + ".join(f"{w:g} {scale}({part})" for part, w in zip(experiment.parts, score.weights, strict=True))
    return [
        f"scored by {run.title}{f', epoch {experiment.epochs}' if experiment.epochs else ''}",
        f"{clip.path.name}: {watched.found.frames} frames, {size}, {clip.rate:g} frames/s, scored at {scored}"
        f"{' in grey' if clip.grey else ''}; boxes {cube.boxes.provider}, flow {cube.flow.provider}",
        f"score = {summed}, largest of a frame, median of "
        f"{score.median_frames} frames; the first {score.skip_frames} have none",
        f"alarm: score above {watched.scale.threshold:.6f} ({watched.scale.meaning}; their median is "
        f"{watched.scale.usual:.6f})",
    ]


def draw(watched: Watched, out: Path, about: str, show: Progress) -> None:
    """Decode the video again and write it annotated.

    Raises:
        DataError: its frames have changed since it was scored.
        RunError: it cannot be written.
    """
    clip, found = watched.clip, watched.found
    overlay = Overlay(clip.width, clip.height, clip.rate, watched.frames, watched.scale)
    with placing(out) as path, mp4(path, overlay.size, clip.rate, about) as add:
        for index, frame in zip_longest(range(found.frames), readers.frames_of(clip.path, False)):
            if index is None or frame is None:
                raise DataError(f"{clip.path} changed while it was scored. Wait until it is complete, then repeat.")
            mine = found.of(index)
            add(overlay.draw(index, frame, found.boxes[mine], watched.cubes[mine]))
            show(index + 1, found.frames, f"{index / clip.rate:.1f} s")


def table(watched: Watched, about: Sequence[str]) -> bytes:
    """The CSV: a line a frame, after lines that begin with #. Empty where there is no score or no box.

    `box_score`, parts and corners are those of the frame's most abnormal box, the corners in the video's pixels; its
    score is not smoothed over frames, and its parts are as the method gives them.
    """
    found, cubes = watched.found, watched.cubes
    text = io.StringIO()
    text.writelines(f"# {line}\n" for line in about)
    writer = csv.writer(text, lineterminator="\n")
    of_box = ("box_score", *found.scores, "x0", "y0", "x1", "y1")
    writer.writerow(["frame", "time_s", "score", "alarm", "boxes", *of_box])
    for index, score in enumerate(watched.frames.tolist()):
        mine = found.of(index)
        boxes_here = mine.stop - mine.start
        worst = [""] * len(of_box)
        if boxes_here:
            row = mine.start + int(cubes[mine].argmax())
            parts = (f"{values[row]:.6g}" for values in found.scores.values())
            worst = [f"{cubes[row]:.6f}", *parts, *found.boxes[row].round(1)]
        shown = "" if np.isnan(score) else f"{score:.6f}"
        alarm = int(score > watched.scale.threshold)
        writer.writerow([index, f"{index / watched.clip.rate:.3f}", shown, alarm, boxes_here, *worst])
    return text.getvalue().encode()


def report(watched: Watched, request: Request) -> str:
    """Summary for a terminal."""
    clip, found = watched.clip, watched.found
    times = [f"{first / clip.rate:.1f}-{(last + 1) / clip.rate:.1f} s" for first, last in watched.alarms]
    above = int((watched.frames > watched.scale.threshold).sum())
    scale = watched.scale
    lines = [
        f"{found.frames:,} frames, {len(found.frame):,} boxes; {above:,} frames above {scale.threshold:.2f} "
        f"({scale.meaning}){f': {shorten(times)}' if times else ''}",
        f"scored {found.frames / watched.score_s:.1f} frames/s, drawn {found.frames / watched.draw_s:.1f} frames/s",
        f"{request.out}\n{request.csv}",
    ]
    if clip.announced not in (0, found.frames):
        lines.insert(0, f"{clip.path}: {found.frames} frames can be read, {clip.announced} were expected.")
    return "\n".join(lines)
