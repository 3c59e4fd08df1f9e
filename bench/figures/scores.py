"""Figures of frame scores: ROC with its interval, scores over a video (paper figure 5), AUROC over the epochs.

Drawn from files in `results/` alone, in the style of `bench.figures.style`; each gives None where there is nothing
to draw. Higher = more abnormal; labels: 1 = abnormal; entry i of a video is its frame i + `skip`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from bench.evaluation import bootstrap
from bench.evaluation.metrics import stretches
from bench.figures.style import BEST, Look, drawn, wrapped
from bench.records.names import label as label_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from bench.records.records import RunRecord

Floats: TypeAlias = npt.NDArray[np.float32]
Labels: TypeAlias = Mapping[str, npt.NDArray[np.uint8]]
Picture: TypeAlias = npt.NDArray[np.uint8]

RESAMPLES = 1000  # of those whose AUROCs make the interval
GRID = np.linspace(0, 1, 201)
ABNORMAL: Look = {"facecolor": "0.9", "edgecolor": "0.75", "hatch": "////", "linewidth": 0}
HUES = ("#0a6d8c", "#b3541e", "#6a3d9a", "#4d7019", "#a3195b")
DASHES = ((0, (4, 1.5)), (0, (1, 1.2)), (0, (6, 1.5, 1, 1.5)), (0, (2.5, 1)))
MARKS = "sv^P"
"""Of the parts of a score by position, as in `page.css`. Each is repeated by itself, so that 20 parts differ."""
EXTREMES: dict[str, Look] = {"lowest": {"marker": "o"}, "highest": {"marker": "^"}}
UNITS = {"z-score": "s.d."}
"""Of scores by `ScoreConfig.standardise`; under the others it is the range of the training cubes' scores."""


@dataclass(frozen=True)
class Scored:
    """A record with its frame scores, and the files that its run left."""

    record: RunRecord
    scores: Mapping[str, Floats]
    """By video, (N,)."""
    labels: Labels
    parts: Mapping[str, Mapping[str, Floats]] = field(default_factory=dict)
    """Video -> part of the score -> (N,): that part alone, standardised and fused to frames in the same way."""
    frames: Mapping[str, Mapping[int, Picture]] = field(default_factory=dict)
    """Video -> number of a frame -> a small picture of it, RGB."""

    @property
    def skip(self) -> int:
        """Frames at the start of each video that have no score."""
        return int(self.record.experiment["score"]["skip_frames"])

    @property
    def scale(self) -> float:
        """What divides a fused score to give it the unit of its parts: the sum of the weights."""
        return float(sum(self.record.experiment["score"]["weights"]))

    @property
    def unit(self) -> str:
        """Of the parts: `s.d.`, standard deviations of the training cubes, or `range`."""
        return UNITS.get(self.record.experiment["score"].get("standardise", "z-score"), "range")

    def extremes(self, video: str) -> tuple[int, int]:
        """Places in a video's scores of the lowest and of the highest, the first of equal ones."""
        return int(np.argmin(self.scores[video])), int(np.argmax(self.scores[video]))


def looks(record: RunRecord) -> dict[str, Look]:
    """How the parts of a record's score are drawn, by name; none where a single part is all of the score."""
    if len(record.parts) == 1:
        return {}
    positions = zip(record.parts, cycle(HUES), cycle(DASHES), cycle(MARKS), strict=False)
    return {
        part: {"color": hue, "linestyle": dash, "marker": mark, "linewidth": 0.9} for part, hue, dash, mark in positions
    }


@dataclass(frozen=True)
class Roc:
    """A ROC curve and where it may lie, had other videos been filmed."""

    fpr: npt.NDArray[np.float64]
    tpr: npt.NDArray[np.float64]
    auroc: float
    low: npt.NDArray[np.float64]
    """On `GRID`, as `high`."""
    high: npt.NDArray[np.float64]
    interval: tuple[float, float] | None
    """Of the AUROC."""


def roc_of(scores: Mapping[str, Floats], labels: Labels) -> Roc | None:
    """The pooled ROC curve, and its percentile interval over resampled videos; None where one class is missing.

    Frames of a video resemble each other, so videos are drawn, with replacement, and never frames. Draws with one
    class only are left out.
    """
    ranking = bootstrap.ranked(scores, labels)
    whole = ranking.counts(np.ones(len(labels)))
    area = whole.auroc()
    if area is None:
        return None
    resampled = map(ranking.counts, bootstrap.draws(len(labels))[:RESAMPLES])
    found = [np.interp(GRID, *counts.curve()) for counts in resampled if counts.pairs]
    ends = [100 * (1 - bootstrap.LEVEL) / 2, 100 * (1 + bootstrap.LEVEL) / 2]
    low, high = np.percentile(found, ends, axis=0)
    return Roc(*whole.curve(), area, low, high, bootstrap.auroc_interval([scores], labels))


@drawn
def roc(figure: Figure, runs: Mapping[str, Scored]) -> bool:
    """A panel for each run: its ROC curve with the interval over videos; the best trivial baseline dashed in all.

    Args:
        runs: of one data set, by what each is called; those with one class only are left out.
    """
    measured = [(name, run, roc_of(run.scores, run.labels)) for name, run in runs.items()]
    found = [(name, run, curve) for name, run, curve in measured if curve is not None]
    if not found:
        return False
    null = max((each for each in found if not each[1].record.learns), key=lambda each: each[2].auroc, default=None)
    rows = math.ceil(len(found) / 3)
    columns = math.ceil(len(found) / rows)
    titles = [wrapped(name, 34) for name, _, _ in found]
    lines = max(title.count("\n") for title in titles)
    figure.set_size_inches(2.9 * columns + 0.3, (3.0 + 0.17 * lines) * rows + 0.7)
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    for axes in list(grid.flat)[len(found) :]:
        axes.set_visible(False)
    for index, (axes, title, (_, run, curve)) in enumerate(zip(grid.flat, titles, found, strict=False)):
        band = f"{bootstrap.LEVEL:.0%} interval"
        axes.fill_between(GRID, curve.low, curve.high, color="0.82", linewidth=0, label=band)
        axes.plot(*_seen(curve), color="black", linewidth=1.4, label="ROC")
        axes.plot([0, 1], [0, 1], color="0.5", linewidth=0.8, linestyle=":", label="chance")
        if null is not None and null[1] is not run:
            label = f"{null[0]}, learns nothing"
            axes.plot(*_seen(null[2]), color="0.35", linewidth=0.9, linestyle="--", label=label)
        axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
        interval = "  [{:.3f}, {:.3f}]".format(*curve.interval) if curve.interval else ""
        axes.set_title(f"{title}\nAUROC {curve.auroc:.3f}{interval}")
        axes.set(xlabel="false positive rate", ylabel="true positive rate")
        axes.label_outer()
        if index + columns >= len(found):  # nothing is seen below, though the grid may go on
            axes.tick_params(labelbottom=True)
            axes.set_xlabel("false positive rate")
    _legend(figure)
    return True


def _seen(curve: Roc) -> npt.NDArray[np.float64]:
    """The points of a curve that a reader can tell apart: of tens of thousands some hundreds."""
    points = np.round([curve.fpr, curve.tpr], 3)
    return points[:, np.append(True, np.diff(points).any(0))]


@drawn
def videos(figure: Figure, run: Scored, names: Sequence[str]) -> bool:
    """The score over some videos with the ground truth shaded, its parts as thin lines, extreme frames above.

    Source: paper figure 5. All are standardised by the training cubes.

    Args:
        names: of videos; those without scores are left out.
    """
    names = [name for name in names if len(run.scores.get(name, ()))]
    if not names:
        return False
    columns = min(2, len(names))
    rows = math.ceil(len(names) / columns)
    strip = any(run.frames.get(name) for name in names)
    figure.set_size_inches(4.6 * columns, (3.1 if strip else 2.2) * rows + 0.6)
    grid = figure.subplots(
        (2 if strip else 1) * rows, columns, squeeze=False, height_ratios=[1, 2] * rows if strip else None
    )
    for index in range(rows * columns):
        row, column = divmod(index, columns)
        own = grid[2 * row : 2 * row + 2, column] if strip else grid[row : row + 1, column]
        if index >= len(names):
            for axes in own:
                axes.set_visible(False)
            continue
        _curve(own[-1], run, names[index])
        if strip:
            _thumbnails(own[0], run, names[index])
        own[0].set_title(f"{run.record.dataset} {names[index]}")
    record = run.record
    title = f"{label_of(record)}, seed {record.seed} ({record.fingerprint})"
    figure.suptitle(wrapped(title, 60 * columns), fontsize="medium")
    _legend(figure)
    return True


def _curve(axes: Axes, run: Scored, name: str) -> None:
    score, truth = run.scores[name] / run.scale, run.labels[name]
    place = np.arange(len(score)) + run.skip
    for start, end in stretches(truth):
        axes.axvspan(place[start] - 0.5, place[end - 1] + 0.5, label="abnormal (ground truth)", **ABNORMAL)
    for part, look in looks(run.record).items():
        line = run.parts.get(name, {}).get(part)
        if line is not None:
            axes.plot(place, line, label=part, zorder=3, **{**look, "marker": ""})  # it may lie on S
    axes.plot(place, score, color="black", linewidth=2, label="score S")
    for extreme, (label, look) in zip(run.extremes(name), EXTREMES.items(), strict=True):
        axes.plot([place[extreme]], [score[extreme]], label=f"{label} score", clip_on=False, zorder=4, **_mark(look))
    axes.set(xlim=(place[0], place[-1]), xlabel="frame", ylabel=f"score ({run.unit})")


def _thumbnails(axes: Axes, run: Scored, name: str) -> None:
    """The frames of the lowest and of the highest score, as far as there are pictures of them."""
    axes.set_axis_off()
    axes.set(xlim=(0, 2), ylim=(0, 1))
    for place, (index, look) in enumerate(zip(run.extremes(name), EXTREMES.values(), strict=True)):
        picture = run.frames.get(name, {}).get(index + run.skip)
        if picture is None:
            continue
        inset = axes.inset_axes((0.5 * place + 0.06, 0, 0.44, 1))
        inset.imshow(picture)
        inset.set_axis_off()
        inset.plot([0.07], [0.88], transform=inset.transAxes, **_mark(look))


def _mark(look: Look) -> Look:
    return {**look, "linestyle": "none", "markersize": 7, "markerfacecolor": "white", "markeredgecolor": "black"}


@drawn
def epochs(figure: Figure, record: RunRecord) -> bool:
    """AUROC over the epochs, the last one and the best by the test labels marked: what that choice would gain.

    Args:
        record: nothing is drawn with fewer than two epochs that were scored.
    """
    from matplotlib.ticker import MaxNLocator

    lines: list[dict[str, Any]] = [line for line in record.epochs if _number(line.get("auroc"))]
    if len(lines) < 2:
        return False
    best, last = max(lines, key=lambda line: line["auroc"]), lines[-1]
    figure.set_size_inches(5.6, 4.2)
    axes = figure.subplots()
    whole: Look = {"color": "black", "marker": "o", "linewidth": 1.2}
    axes.plot(*zip(*((e["epoch"], e["auroc"]) for e in lines), strict=True), label="score S", markersize=4, **whole)
    for part, look in looks(record).items():
        aurocs = [(line["epoch"], line.get("parts", {}).get(part)) for line in lines]
        there = [point for point in aurocs if _number(point[1])]
        if there:
            axes.plot(*zip(*there, strict=True), label=f"{part} alone", markersize=4, **look)
    for line, label, look in ((last, "last epoch", {"marker": "D", "color": "black"}), (best, "best epoch", BEST)):
        shown = f"{label}: {line['epoch']}, AUROC {line['auroc']:.4f}"
        axes.plot(
            [line["epoch"]], [line["auroc"]], label=shown, clip_on=False, zorder=3, **{"linestyle": "none", **look}
        )
    gain = 100 * (best["auroc"] - last["auroc"])
    axes.set_title(
        f"{wrapped(f'{label_of(record)} on {record.dataset}, seed {record.seed}', 66)}\n"
        f"choosing the epoch by test labels adds {gain:.1f} points"
    )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="epoch", ylabel="AUROC")
    figure.legend(loc="outside lower center", ncols=2)
    return True


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _legend(figure: Figure) -> None:
    """One legend for all panels, each label once."""
    found: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    figure.legend(list(found.values()), list(found), loc="outside lower center", ncols=min(6, len(found)))
