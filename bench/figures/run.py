"""A run with its pixels -> the figures that need them, small frames, boxes and S_f, S_p by frame.

Reads the run's folder, the cube store and the videos; writes below `results/figures` and `results/strips`. Frames are
at most 160 pixels wide, a dozen a video: footage whose terms allow research alone. Nothing here looks at a
score to choose the cubes that it shows.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import cv2
import numpy as np
import numpy.typing as npt

from amsrc.errors import DataError, RunError
from amsrc.fuse import Statistics, cube_scores
from amsrc.store import Cubes, CubeStore
from bench.data.datasets import Dataset, Video
from bench.evaluation.evaluate import CubeScores, fuse, score_cubes, standard
from bench.experiment.config import Experiment, derive, fingerprint
from bench.figures import files as gallery
from bench.figures import network as panels
from bench.figures.files import Boxes
from bench.figures.scores import Floats, Picture, Scored
from bench.methods.trivial import OF_FRAMES, rows_of
from bench.records import run_folder
from bench.records.records import read, read_frame_scores, record_path
from bench.storage.places import Place, files_below, locked, write_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from amsrc.model import AMSRC
    from bench.training.scoring import Feed

Rows = npt.NDArray[np.int64]

STRIP = 12  # frames of a video
WIDEST_PX = 160
QUALITY = 70  # of JPEG
SHOWN = 3  # cubes of each class in a figure
COUNTED = 256  # cubes of each class behind a mean


@dataclass(frozen=True)
class Run:
    """One evaluated run and all that is needed to look into it."""

    experiment: Experiment
    store: CubeStore
    dataset: Dataset
    home: Place
    results: Place
    scores: CubeScores
    known: Statistics
    """What the scores are standardised by."""
    scored: Scored
    """Record and frame scores, with parts and without pictures."""

    @property
    def cubes(self) -> Cubes:
        return self.store.test

    @cached_property
    def feed(self) -> Feed:
        """The test cubes as the network takes them: put on a GPU once, if they fit."""
        from bench.training.scoring import Feed, device_of

        return Feed(self.cubes, self.experiment.model, device_of())

    @cached_property
    def fused(self) -> npt.NDArray[np.floating]:
        """(n,) score of each test cube, in the unit of `Scored.parts`."""
        score = self.experiment.score
        weights = score.weight_f, score.weight_p
        return cube_scores(self.scores.test_f, self.scores.test_p, self.known, *weights) / sum(weights)

    @cached_property
    def abnormal(self) -> npt.NDArray[np.bool_]:
        """(n,) whether a test cube's frame is abnormal."""
        labels = self.store.labels(self.experiment.label_set)
        names = [shard.video for shard in self.cubes.shards]
        flags = [labels[name][self.cubes.frame[self.cubes.video == i]] for i, name in enumerate(names)]
        return np.concatenate([np.zeros(0, np.uint8), *flags]).astype(np.bool_)

    def of_frame(self, video: str, number: int) -> Rows:
        """The cubes of a frame."""
        index = [shard.video for shard in self.cubes.shards].index(video)
        return np.flatnonzero((self.cubes.video == index) & (self.cubes.frame == number))


def draw(
    experiment: Experiment, store: CubeStore, dataset: Dataset, home: Place, results: Place, names: Sequence[str] = ()
) -> list[Place]:
    """Make all figures of one evaluated run, and what the page shows of it; returns the files.

    Args:
        dataset: the videos that the store was made from.
        names: videos of the anomaly curves; by default the paper's.

    Raises:
        RunError: it is not trained, or has no record.
        ConfigError: a name is no test video.
        DataError: the videos are others than those of the record, or damaged.
    """
    run = _open(experiment, store, dataset, home, results)
    record, chosen = run.scored.record, gallery.chosen_videos(run.scored, names)
    folder, strips_folder = gallery.folder_of(results, record), gallery.strips_of(results, dataset.name)
    strips = _strips(run.scored)
    kept = {video: {index + run.scored.skip for index in run.scored.extremes(video)} for video in chosen}
    frames = _look(dataset.test, {video: numbers | kept.get(video, set()) for video, numbers in strips.items()})
    boxes = _boxes(run, frames)
    stale = [*files_below(folder / "frames", "*/*.jpg")]  # of other videos, or of scores that were measured before
    stale += [old for video in strips for old in files_below(strips_folder / video, "*.jpg")]  # of other settings
    for old in stale:
        old.unlink()
    files = {
        folder / "parts.npz": gallery.parts_bytes(run.scored.parts),
        folder / "boxes.json": (json.dumps(boxes, separators=(",", ":")) + "\n").encode(),
        **_jpegs(strips_folder, frames, strips),
        **_jpegs(folder / "frames", frames, kept),
    }
    for path, content in files.items():
        write_file(path, content)
    peak = run.scored.extremes(chosen[0])[1] + run.scored.skip
    picture = frames[chosen[0]][peak].picture
    made = {"frame": panels.frame(run.scored, chosen[0], peak, picture, boxes[chosen[0]][peak])}
    made |= _of_network(run) if experiment.method == "amsrc" else {}
    drawn = [path for name, figure in made.items() if figure for path in gallery.write(folder, name, figure)]
    return [*files, *drawn, *gallery.draw(results, names, record)]


def _open(experiment: Experiment, store: CubeStore, dataset: Dataset, home: Place, results: Place) -> Run:
    path = record_path(results, experiment.recipe, experiment.dataset, experiment.seed, fingerprint(experiment))
    if not path.is_file():
        raise RunError(f"there is no {path}. Run `amsrc-bench evaluate` with the same options and --results first.")
    record = read(path)
    scored_frames = read_frame_scores(results, record)
    if missing := sorted(scored_frames[0].keys() - {video.name for video in dataset.test}):
        raise DataError(
            f"{dataset.root} lacks test videos of {path}: {', '.join(missing)}. Pass --root to a whole copy."
        )
    folder = run_folder.claim(experiment, store, home)
    with locked(folder):
        scores, _ = score_cubes(experiment, store, folder)
    known = standard(experiment, scores)
    rows = rows_of(experiment.method, store.test)
    parts: dict[str, dict[str, Floats]] = {}
    for name, scores_of, weights in (("s_f", scores.test_f, (1.0, 0.0)), ("s_p", scores.test_p, (0.0, 1.0))):
        if not np.isnan(scores_of).any():
            alone = replace(experiment.score, weight_f=weights[0], weight_p=weights[1])
            for video, part in fuse(rows, scores.test_f, scores.test_p, known, alone).items():
                parts.setdefault(video, {})[name] = part
    return Run(experiment, store, dataset, home, results, scores, known, Scored(record, *scored_frames, parts))


# -- frames and boxes ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Small:
    """A frame made small, and what it was."""

    picture: Picture
    """RGB."""
    width: int
    height: int
    """Native, in pixels."""


Frames = dict[str, dict[int, Small]]  # video -> number of a frame
Numbers = dict[str, set[int]]


def _strips(run: Scored) -> Numbers:
    """The frames that stand for each video: evenly spaced ones, the same ones whatever run draws them."""
    found: Numbers = {}
    for video, score in run.scores.items():
        if len(score):
            even = np.linspace(0, len(score) - 1, STRIP).round().astype(int).tolist()
            found[video] = {run.skip + index for index in even}
    return found


def _look(videos: Iterable[Video], wanted: Numbers) -> Frames:
    found: Frames = {}
    for video in videos:
        numbers = wanted.get(video.name, set())
        for number, image in enumerate(video.read()):
            if number in numbers:
                height, width = image.shape[:2]
                found.setdefault(video.name, {})[number] = Small(_small(image), width, height)
    return found


def _jpegs(folder: Place, frames: Frames, wanted: Numbers) -> dict[Place, bytes]:
    return {
        folder / video / f"{number:05d}.jpg": _jpeg(frames[video][number].picture)
        for video, numbers in wanted.items()
        for number in sorted(numbers)
    }


def _small(image: Picture) -> Picture:
    """(H, W, 1 or 3 BGR) -> RGB, at most `WIDEST_PX` wide."""
    height, width = image.shape[:2]
    conversion = cv2.COLOR_GRAY2RGB if image.shape[2] == 1 else cv2.COLOR_BGR2RGB
    rgb = cv2.cvtColor(np.ascontiguousarray(image), conversion)
    if width <= WIDEST_PX:
        return rgb.astype(np.uint8)
    size = WIDEST_PX, round(height * WIDEST_PX / width)
    return cv2.resize(rgb, size, interpolation=cv2.INTER_AREA).astype(np.uint8)


def _jpeg(picture: Picture) -> bytes:
    done, content = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    if not done:
        raise RunError("a frame could not be written as JPEG.")
    return content.tobytes()


def _boxes(run: Run, frames: Frames) -> Boxes:
    """The boxes of each frame and their scores; none of a method that scores frames and looks at no box alone."""
    if run.experiment.method in OF_FRAMES:
        return {video: {number: [] for number in own} for video, own in frames.items()}
    found: Boxes = {}
    for video, own in frames.items():
        for number, frame in own.items():
            rows = run.of_frame(video, number)
            parts = run.cubes.boxes[rows] / np.array([frame.width, frame.height] * 2, np.float32)
            both = np.column_stack([parts, run.fused[rows]])
            found.setdefault(video, {})[number] = [[round(value, 3) for value in row] for row in both.tolist()]
    return found


# -- cubes and the network -----------------------------------------------------------------------------------


def _of_network(run: Run) -> dict[str, Figure | None]:
    """The figures of what the network makes of cubes."""
    from bench.training.loop import load_model

    device = run.feed.device
    own = load_model(run.experiment, run_folder.folder_of(run.experiment, run.home), device)
    rows = chosen_cubes(run)
    networks = {_named(run.experiment): own}
    ungated = derive(run.experiment, model={"fusion": "add"})
    folder = run_folder.folder_of(ungated, run.home)
    if run.experiment.model.fusion == "gate" and run_folder.is_trained(folder):
        networks[_named(ungated)] = load_model(ungated, folder, device)
    sample = _sample(run, rows)
    predicted = {name: _predicted(run, network, rows) for name, network in networks.items()}
    return {"errors": panels.errors(sample, predicted), "features": _features(run, own, rows)}


def _named(experiment: Experiment) -> str:
    fusion = experiment.model.fusion
    return {"gate": "gated fusion", "none": "no motion"}.get(fusion, f"no gate ({fusion})")


def chosen_cubes(run: Run) -> Rows:
    """Up to three cubes of normal frames, then up to three of abnormal ones, each of another video.

    Of a video the frame in the middle of its normal (abnormal) ones that have cubes; of a normal frame the cube of
    median speed, of an abnormal one the fastest: by the mean length of its flow, never by a score that is shown.
    """
    found: list[int] = []
    for abnormal in (False, True):
        of_class: list[int] = []
        for index in range(len(run.cubes.shards)):
            own = np.flatnonzero((run.cubes.video == index) & (run.abnormal == abnormal))
            if len(own) and len(of_class) < SHOWN:
                numbers = np.unique(run.cubes.frame[own])
                rows = own[run.cubes.frame[own] == numbers[len(numbers) // 2]]
                flows = run.cubes.flows(rows).astype(np.float32)
                order = np.argsort(np.hypot(flows[:, :, 0], flows[:, :, 1]).mean((1, 2, 3)), kind="stable")
                of_class.append(int(rows[order[-1 if abnormal else (len(order) - 1) // 2]]))
        found += of_class
    return np.array(found, np.int64)


def _sample(run: Run, rows: Rows) -> panels.Sample:
    names = [f"{run.cubes.shards[run.cubes.video[row]].video}, frame {run.cubes.frame[row]}" for row in rows]
    target = run.cubes.frames(rows)[:, -1].astype(np.float32) / np.float32(255)
    return panels.Sample(names, run.abnormal[rows].tolist(), _pictures(target))


def _pictures(x_BCHW: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """(B, 1 or 3 BGR, H, W) -> (B, H, W, 3) RGB."""
    three = np.repeat(x_BCHW, 3, 1) if x_BCHW.shape[1] == 1 else x_BCHW[:, ::-1]
    return three.transpose(0, 2, 3, 1)


def _predicted(run: Run, network: AMSRC, rows: Rows) -> panels.Predicted:
    import torch

    appearance, motion, target = run.feed.batch(rows)
    with torch.inference_mode():
        prediction = network(appearance, motion).prediction.float()
    error = (prediction - target).square().sum(1)
    return panels.Predicted(_pictures(prediction.cpu().numpy()), error.cpu().numpy())


def _features(run: Run, network: AMSRC, rows: Rows) -> Figure | None:
    """Features of the first normal and the first abnormal of the chosen cubes, and how far they agree on average."""
    if network.motion_encoder is None:
        return None
    cubes: dict[str, panels.Features] = {}
    agreements: dict[str, tuple[float, int]] = {}
    for name, abnormal in (("normal", False), ("abnormal", True)):
        own = np.flatnonzero(run.abnormal == abnormal)
        chosen = rows[run.abnormal[rows] == abnormal]
        if len(chosen):
            cubes[name] = _features_of(run, network, chosen[:1])[0]
            counted = own[np.unique(np.linspace(0, len(own) - 1, COUNTED).round().astype(int))]
            each = [features.agreement for features in _features_of(run, network, counted)]
            agreements[name] = float(np.mean(each)), len(each)
    return panels.features(cubes, agreements)


def _features_of(run: Run, network: AMSRC, rows: Rows) -> list[panels.Features]:
    import torch

    appearance, motion, _ = run.feed.batch(rows)
    with torch.inference_mode():
        output = network(appearance, motion)
        fused = network.fuse(output.appearance, output.motion)
    assert output.motion is not None
    parts = (part.float().cpu().numpy() for part in (output.appearance, output.motion, fused))
    return [panels.Features(*each) for each in zip(*parts, strict=True)]
