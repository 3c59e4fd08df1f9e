"""Figures of pixels: predictions and their errors (paper figure 6), features before and after fusion (figure 3),
a frame with its boxes next to the curve. They draw arrays that `bench.figures.run` got from cubes, network and frames.

Style and helpers of `bench.figures.style`: no torch. Axes: B cubes, C channels, H W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from bench.evaluation.metrics import stretches
from bench.figures.scores import ABNORMAL, Picture, Scored
from bench.figures.style import COLOURS, drawn

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Floats: TypeAlias = npt.NDArray[np.float32]
Maps: TypeAlias = Mapping[str, Floats]
"""Name of a feature map of one cube -> (C, h, w)."""

TILES_ACROSS = 16
TILE_PX = 3  # of one value of a channel
BOXED = 4  # boxes of a frame that get their score written next to them


@dataclass(frozen=True)
class Sample:
    """Some cubes to look at."""

    names: Sequence[str]
    """What each is: `02, frame 137`."""
    abnormal: Sequence[bool]
    target_BHWC: Floats
    """In [0, 1], RGB, as all pictures here."""


@dataclass(frozen=True)
class Predicted:
    """What one network makes of a sample."""

    prediction_BHWC: Floats
    error_BHW: Floats
    """Squared error, summed over the channels."""


def agreement(maps: Maps) -> float | None:
    """Part of the values in which the first two maps are both zero or both not; None where no two have one shape."""
    two = [*maps.values()][:2]
    if len(two) < 2 or two[0].shape != two[1].shape:
        return None
    return float(np.mean((two[0] != 0) == (two[1] != 0)))


@drawn
def errors(figure: Figure, sample: Sample, networks: Mapping[str, Predicted]) -> bool:
    """Target, prediction and squared error of chosen cubes, for each network. Source: paper figure 6.

    All errors have one scale; the sum of each is below it.

    Args:
        networks: by name; all of the same sample.
    """
    if not len(sample.names) or not networks:
        return False
    rows = 1 + 2 * len(networks)
    figure.set_size_inches(1.25 * len(sample.names) + 1.9, 1.32 * rows + 0.9)
    grid = figure.subplots(rows, len(sample.names), squeeze=False)
    top = max(float(network.error_BHW.max()) for network in networks.values())
    _row(grid[0], "target", sample.target_BHWC)
    for axes, name, abnormal in zip(grid[0], sample.names, sample.abnormal, strict=True):
        axes.set_title(f"{'abnormal' if abnormal else 'normal'}\n{name}", fontsize="small")
    for index, (name, network) in enumerate(networks.items()):
        _row(grid[1 + index], f"predicted\n{name}", network.prediction_BHWC)
        own = grid[1 + len(networks) + index]
        _row(own, f"error\n{name}", network.error_BHW, top)
        for axes, error in zip(own, network.error_BHW, strict=True):
            axes.set_xlabel(f"sum = {error.sum():.1f}", fontsize="small")
    below = list(grid[1 + len(networks) :].flat)
    figure.colorbar(grid[-1, 0].images[0], ax=below, label="squared error", shrink=0.9)
    return True


def _row(row: Sequence[Axes], label: str, pictures: Floats, top: float = 1.0) -> None:
    for axes, picture in zip(row, pictures, strict=True):
        axes.imshow(picture.clip(0, top), vmin=0, vmax=top, cmap=COLOURS, interpolation="nearest")
        axes.set(xticks=[], yticks=[])
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
    row[0].set_ylabel(label, fontsize="small")


@drawn
def features(figure: Figure, cubes: Mapping[str, Maps], agreements: Mapping[str, tuple[float, int]]) -> bool:
    """Where the feature maps of cubes are zero. Source: paper figure 3.

    Each small square is a channel, dark where its value is not zero.

    Args:
        cubes: by what they are, a row each; all have the same maps, a column each. Nothing is drawn without any.
        agreements: by class: mean of `agreement`, and over how many cubes.
    """
    names = list(next(iter(cubes.values()), {}))
    if not names:
        return False
    figure.set_size_inches(2.8 * len(names), 2.3 * len(cubes) + 0.9)
    grid = figure.subplots(len(cubes), len(names), squeeze=False)
    for row, (kind, maps) in zip(grid, cubes.items(), strict=True):
        for axes, (name, feature) in zip(row, maps.items(), strict=True):
            axes.imshow(_tiles(feature != 0), cmap="gray_r", vmin=0, vmax=1, interpolation="nearest", aspect="auto")
            axes.set(xticks=[], yticks=[])
            axes.grid(visible=False)
            axes.set_title(f"{name}: {np.mean(feature != 0):.0%} not zero", fontsize="small")
        alike = agreement(maps)
        row[0].set_ylabel(kind if alike is None else f"{kind}\nalike in {alike:.0%}", fontsize="small")
    if agreements:
        means = "; ".join(f"{kind} {mean:.1%} (mean of {number} cubes)" for kind, (mean, number) in agreements.items())
        title = f"{names[0].capitalize()} and {names[1]} are zero, or not, together: {means}"
        figure.suptitle(title, fontsize="small")
    return True


def _tiles(on_CHW: npt.NDArray[np.bool_]) -> Floats:
    """Channels side by side, a thin grey line between them: 1 where on."""
    channels, height, width = (on_CHW.shape[0], *(side * TILE_PX for side in on_CHW.shape[1:]))
    rows = math.ceil(channels / TILES_ACROSS)
    large = on_CHW.repeat(TILE_PX, 1).repeat(TILE_PX, 2).astype(np.float32)
    padded = np.pad(large, ((0, rows * TILES_ACROSS - channels), (0, 1), (0, 1)), constant_values=0.4)
    return padded.reshape(rows, TILES_ACROSS, height + 1, width + 1).swapaxes(1, 2).reshape(rows * (height + 1), -1)


@drawn
def frame(
    figure: Figure, run: Scored, video: str, number: int, picture: Picture, boxes: Sequence[Sequence[float]]
) -> bool:
    """A frame with its boxes next to the score over its video; the lighter and thicker a box, the more abnormal.

    Args:
        number: of the frame in its video.
        boxes: x0, y0, x1, y1 as parts of width and height, and the fused score in the unit of `Scored.parts`.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.patches import Rectangle

    height, width = picture.shape[:2]
    figure.set_size_inches(9.2, 3.3)
    left, right = figure.subplots(1, 2, width_ratios=[1.25, 1])
    left.imshow(picture, extent=(0, 1, 1, 0), aspect=height / width, interpolation="bicubic")
    left.set(xticks=[], yticks=[], title=f"{run.record.dataset} {video}, frame {number}")
    left.grid(visible=False)
    left.spines[:].set_visible(False)
    rows = sorted(boxes, key=lambda row: row[4])
    scale = Normalize(min((row[4] for row in rows), default=0), max((row[4] for row in rows), default=1))
    colour = ScalarMappable(scale, COLOURS)
    for place, (x0, y0, x1, y1, score) in enumerate(rows):
        part = float(scale(score))
        width_pt = 0.8 + 1.8 * part
        looks = {"color": "black", "linewidth": width_pt + 1.2}, {"color": colour.cmap(part), "linewidth": width_pt}
        for look in looks:
            left.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, **look))  # type: ignore[arg-type]
        if place >= len(rows) - BOXED:
            tag = {"facecolor": "black", "edgecolor": "none", "pad": 1.0, "alpha": 0.75}
            left.text(x0, y0 - 0.012, f"{score:.1f}", fontsize=7, color="white", va="bottom", bbox=tag, clip_on=True)
    figure.colorbar(colour, ax=left, label=f"score of the box ({run.unit})", shrink=0.85)
    curve, place_of = run.scores[video] / run.scale, np.arange(len(run.scores[video])) + run.skip
    for start, end in stretches(run.labels[video]):
        right.axvspan(place_of[start] - 0.5, place_of[end - 1] + 0.5, label="abnormal (ground truth)", **ABNORMAL)
    right.plot(place_of, curve, color="black", linewidth=1.4, label="score S")
    right.axvline(number, color="black", linestyle="--", linewidth=1, label="this frame")
    right.set(xlabel="frame", ylabel=f"score of the frame ({run.unit})", xlim=(place_of[0], place_of[-1]))
    handles, labels = right.get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    figure.legend(list(unique.values()), list(unique), loc="outside lower center", ncols=3)
    return True
