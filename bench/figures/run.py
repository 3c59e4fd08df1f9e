"""A run with its pixels -> the figures that need them, small frames, boxes, and each part of the score by frame.

Reads the run's folder, the cube store and the videos; writes below `results/figures` and `results/strips`. Frames are
at most 160 pixels wide, a dozen a video: footage whose terms allow research alone. Nothing here looks at a
score to choose the cubes that it shows.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import numpy.typing as npt

from amsrc.errors import DataError, RunError
from amsrc.fuse import cube_scores
from amsrc.store import Cubes, CubeStore
from bench.data.datasets import Dataset, Video
from bench.evaluation.evaluate import alone, fuse, rows_of, score_rows, standard
from bench.experiment.config import Experiment, dump, fingerprint, leaves, load, run_key
from bench.experiment.recipes import RECIPES, build
from bench.figures import files as gallery
from bench.figures import network as panels
from bench.figures.files import Boxes
from bench.figures.scores import Floats, Picture, Scored
from bench.methods import catalogue
from bench.records import run_folder
from bench.records.records import read, read_frame_scores, record_path
from bench.records.run_folder import Epoch
from bench.storage.places import Place, files_below, locked, write_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from bench.methods.interface import Learner
    from bench.methods.reader import Reader

Rows = npt.NDArray[np.int64]

STRIP = 12  # frames of a video
WIDEST_PX = 160
QUALITY = 70  # of JPEG
SHOWN = 3  # cubes of each class in a figure
COUNTED = 256  # cubes of each class behind a mean
PREDICTED = {"target", "output"}  # of what a learner shows: all else are feature maps


@dataclass(frozen=True)
class Run:
    """One evaluated run and all that is needed to look into it."""

    experiment: Experiment
    store: CubeStore
    dataset: Dataset
    home: Place
    results: Place
    last: Epoch
    """Scores of the test rows under the trained weights, and what standardises them."""
    scored: Scored
    """Record and frame scores, with parts and without pictures."""

    @property
    def cubes(self) -> Cubes:
        return self.store.test

    @cached_property
    def reader(self) -> Reader:
        """The test cubes as learners take them: put on a GPU once, if they fit."""
        from bench.methods.reader import Reader
        from bench.training.scoring import device_of

        return Reader(self.cubes, device_of())

    @cached_property
    def fused(self) -> npt.NDArray[np.floating]:
        """(n,) score of each test cube, in the unit of `Scored.parts`."""
        score = self.experiment.score
        fused = cube_scores(self.last.scores, self.last.statistics, score.weights, score.standardise)
        return fused / sum(score.weights)

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
    made = _of_networks(run) if experiment.learns else {}
    made["frame"] = panels.frame(run.scored, chosen[0], peak, picture, boxes[chosen[0]][peak])  # last: `pictured`
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
        scores, _ = score_rows(experiment, store, folder)
    last = Epoch(experiment.epochs, scores.test, standard(experiment, scores), None)
    rows = rows_of(experiment, store.test)
    parts: dict[str, dict[str, Floats]] = {}
    for part in experiment.parts:
        for video, score in fuse(rows, last, alone(experiment.score, experiment.parts, part)).items():
            parts.setdefault(video, {})[part] = score
    return Run(experiment, store, dataset, home, results, last, Scored(record, *scored_frames, parts))


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
    if catalogue.find(run.experiment.method).unit == "frame":
        return {video: {number: [] for number in own} for video, own in frames.items()}
    found: Boxes = {}
    for video, own in frames.items():
        for number, frame in own.items():
            rows = run.of_frame(video, number)
            parts = run.cubes.boxes[rows] / np.array([frame.width, frame.height] * 2, np.float32)
            both = np.column_stack([parts, run.fused[rows]])
            found.setdefault(video, {})[number] = [[round(value, 3) for value in row] for row in both.tolist()]
    return found


# -- cubes and networks --------------------------------------------------------------------------------------


def _of_networks(run: Run) -> dict[str, Figure | None]:
    """The figures of what networks make of cubes, as far as the method shows anything (`Learner.shown`)."""
    own, rows = _loaded(run, run.experiment), chosen_cubes(run)
    return {"errors": _errors(run, own, rows), "features": _features(run, own, rows)}


def _loaded(run: Run, experiment: Experiment) -> Learner:
    from bench.training.checkpoint import load as load_learner

    return load_learner(experiment, run_folder.folder_of(experiment, run.home), run.reader.device)


def _shown(run: Run, learner: Learner, rows: Rows) -> dict[str, Floats]:
    """What a learner shows of these cubes, by name: (B, C, H, W) each."""
    import torch

    with torch.inference_mode():
        found = learner.shown(dict(learner.networks.items()), run.reader.batch(rows))
    return {name: values.float().cpu().numpy() for name, values in found.items()}


def _ablation(run: Run) -> Experiment | None:
    """Of the trained ablations of the run's recipe, under its settings and on its cubes, the one that changes least."""
    e, found = run.experiment, []
    for name in (name for name, recipe in RECIPES.items() if recipe.of == e.recipe):
        base, other = (build(recipe, e.dataset, e.seed) for recipe in (e.recipe, name))
        if type(other.settings) is type(base.settings):  # the same fields
            ablated = load(_changed(dump(e), dump(base), dump(other)))
            trained = run_folder.is_trained(run_folder.folder_of(ablated, run.home))
            if trained and ablated.cube == e.cube and run_key(ablated) != run_key(e):
                changes = sum(a != b for a, b in zip(leaves(dump(base)), leaves(dump(other)), strict=True))
                found.append((changes, ablated))
    return min(found, key=itemgetter(0))[1] if found else None


def _changed(ours: dict[str, Any], base: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Our fields, with the values of `other` where these differ from those of `base`; all have the same fields."""
    return {
        name: _changed(ours[name], base[name], value)
        if isinstance(value, dict)
        else (ours[name] if value == base[name] else value)
        for name, value in other.items()
    }


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


def _errors(run: Run, own: Learner, rows: Rows) -> Figure | None:
    """Pictures that the run's own network and an ablation of it give; None where the method gives none."""
    shown = {run.experiment.recipe: _shown(run, own, rows)}
    ablation = _ablation(run) if shown[run.experiment.recipe].keys() >= PREDICTED else None
    if ablation:
        shown[ablation.recipe] = _shown(run, _loaded(run, ablation), rows)
    networks = {name: _predicted(found) for name, found in shown.items() if found.keys() >= PREDICTED}
    if not networks:
        return None
    names = [f"{run.cubes.shards[run.cubes.video[row]].video}, frame {run.cubes.frame[row]}" for row in rows]
    target = _pictures(shown[run.experiment.recipe]["target"])
    return panels.errors(panels.Sample(names, run.abnormal[rows].tolist(), target), networks)


def _predicted(shown: Mapping[str, Floats]) -> panels.Predicted:
    error = np.square(shown["output"] - shown["target"]).sum(1)
    return panels.Predicted(_pictures(shown["output"]), error)


def _pictures(x_BCHW: Floats) -> Floats:
    """(B, 1 or 3 BGR, H, W) -> (B, H, W, 3) RGB."""
    three = np.repeat(x_BCHW, 3, 1) if x_BCHW.shape[1] == 1 else x_BCHW[:, ::-1]
    return three.transpose(0, 2, 3, 1)


def _features(run: Run, learner: Learner, rows: Rows) -> Figure | None:
    """Features of the first normal and the first abnormal of the chosen cubes, and how far they agree on average."""
    cubes: dict[str, panels.Maps] = {}
    agreements: dict[str, tuple[float, int]] = {}
    for name, abnormal in (("normal", False), ("abnormal", True)):
        own = np.flatnonzero(run.abnormal == abnormal)
        chosen = rows[run.abnormal[rows] == abnormal]
        if len(chosen):
            (cubes[name],) = _maps(run, learner, chosen[:1])
            counted = own[np.unique(np.linspace(0, len(own) - 1, COUNTED).round().astype(int))]
            each = [panels.agreement(maps) for maps in _maps(run, learner, counted)]
            known = [value for value in each if value is not None]
            if known:
                agreements[name] = float(np.mean(known)), len(known)
    return panels.features(cubes, agreements)


def _maps(run: Run, learner: Learner, rows: Rows) -> list[panels.Maps]:
    """The feature maps of each cube."""
    shown = {name: maps for name, maps in _shown(run, learner, rows).items() if name not in PREDICTED}
    return [{name: maps[index] for name, maps in shown.items()} for index in range(len(rows))]
