"""One picture of what a store would be made from: frames with their boxes, their flow, their cubes.

Reads the first frames of one video through the same providers and the same cutting as `bench.data.prepare`;
writes one PNG. Wrong boxes, flow of the wrong sign or frames out of order are seen at a glance there, and
nowhere else before a whole training run is spent on them.

Axes: T time, C channels, H W pixels. Pictures are uint8 (H, W, 3), RGB.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import numpy.typing as npt

from amsrc.config import CubeConfig
from amsrc.cubes import Boxes, BoxesOf, Flow, FlowOf, Frame, FrameCubes, Moment, cut
from amsrc.errors import DataError
from amsrc.files import write_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Picture = npt.NDArray[np.uint8]

SPAN = 150  # frames looked at, from the start of the video
CUBES = 8  # cubes shown of each frame
LEAST_SCALE = 0.5  # px/frame: below it the noise of a still scene would fill the colour wheel
GAP_PX, GAP_GREY = 2, 215
SHOWN, OTHER = "#ff9f1c", "#2ec4b6"  # boxes whose cubes are shown, and the others


@dataclass(frozen=True)
class Pick:
    """A frame to draw."""

    index: int
    frame: Frame
    boxes: Boxes
    flow: Flow
    cubes: FrameCubes | None
    """None where the frame has no boxes."""


def preview(
    video: str,
    frames: Iterable[Frame],
    boxes_of: BoxesOf,
    flow_of: FlowOf,
    config: CubeConfig,
    path: Path,
    picks: int = 3,
) -> None:
    """Draw some frames spread over the start of a video, each with its boxes, flow and first cubes.

    Raises:
        DataError: the video is empty, or its boxes or flow are bad.
        RunError: the picture cannot be written.
    """
    from matplotlib.figure import Figure

    chosen = _look(video, list(islice(frames, SPAN)), boxes_of, flow_of, config, picks)
    scale = max(LEAST_SCALE, *(float(np.percentile(np.linalg.norm(pick.flow, axis=2), 99.5)) for pick in chosen))
    height, width = chosen[0].frame.shape[:2]
    ratios = [width / height, width / height, (2 * config.frames - 1) / CUBES]
    figure = Figure(figsize=(4 * sum(ratios) + 1.5, 4.4 * len(chosen) + 0.6), layout="constrained")
    figure.suptitle(f"Video {video} · boxes: {config.boxes.provider} · flow: {config.flow.provider}", fontsize=15)
    axes = figure.subplots(len(chosen), 3, squeeze=False, width_ratios=ratios)
    for row, pick in zip(axes, chosen, strict=True):
        _draw_boxes(row[0], pick)
        _draw_flow(row[1], pick, scale)
        _draw_cubes(row[2], pick, config, scale)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=100)
    write_file(path, picture.getvalue())


def _look(
    video: str, frames: Sequence[Frame], boxes_of: BoxesOf, flow_of: FlowOf, config: CubeConfig, picks: int
) -> list[Pick]:
    """Cut the cubes of a few frames alone: the providers are not asked about the others."""
    if not frames:
        raise DataError(f"video {video} has no frames to draw. Extract it again.")
    wanted = sorted({len(frames) * number // (picks + 1) for number in range(1, picks + 1)})
    boxes: dict[int, Boxes] = {}
    flows: dict[int, Flow] = {}

    def boxes_at(moment: Moment) -> Boxes:
        if moment.index not in wanted:
            return np.zeros((0, 4), np.float32)
        return boxes.setdefault(moment.index, boxes_of(moment))

    def flow_at(moment: Moment) -> Flow:
        if not any(0 <= index - moment.index < config.frames - 1 for index in wanted):
            return np.zeros((*moment.frame.shape[:2], 2), np.float32)
        return flows.setdefault(moment.index, flow_of(moment))

    cubes = {each.index: each for each in cut(video, frames, boxes_at, flow_at, config)}
    zero = np.zeros((*frames[0].shape[:2], 2), np.float32)
    return [Pick(index, frames[index], boxes[index], flows.get(index, zero), cubes.get(index)) for index in wanted]


def _draw_boxes(axes: Axes, pick: Pick) -> None:
    from matplotlib.patches import Rectangle

    _show(axes, _rgb(pick.frame), f"frame {pick.index} · boxes: {len(pick.boxes)}")
    for number, (x0, y0, x1, y1) in reversed(list(enumerate(pick.boxes.tolist(), 1))):
        colour = SHOWN if number <= CUBES else OTHER
        # Pixel 0 is drawn from -0.5 to 0.5.
        axes.add_patch(Rectangle((x0 - 0.5, y0 - 0.5), x1 - x0, y1 - y0, fill=False, color=colour, linewidth=1.6))
        if number <= CUBES:
            label = {"facecolor": colour, "edgecolor": "none", "pad": 1.2}
            axes.text(x0, y0 - 2, str(number), fontsize=9, va="bottom", bbox=label, clip_on=True)


def _draw_flow(axes: Axes, pick: Pick, scale: float) -> None:
    _show(axes, colours(pick.flow, scale), f"flow into frame {pick.index}")
    side = np.linspace(-1, 1, 101, dtype=np.float32)
    wheel = np.stack(np.meshgrid(side, side), axis=2)
    rim = np.linalg.norm(wheel, axis=2, keepdims=True) <= 1
    inset = axes.inset_axes((0.78, 0.03, 0.2, 0.24))
    inset.imshow(np.concatenate([colours(wheel, 1), 255 * rim.astype(np.uint8)], axis=2))
    inset.set_axis_off()
    inset.set_title(f"rim: {scale:.1f} px/frame", fontsize=9, pad=2)


def _draw_cubes(axes: Axes, pick: Pick, config: CubeConfig, scale: float) -> None:
    if pick.cubes is None:
        axes.set_axis_off()
        axes.set_title("no cubes", fontsize=12)
        return
    count = min(CUBES, len(pick.cubes.boxes))
    title = f"first cubes: {config.frames} frames, {config.frames - 1} flows"
    _show(axes, _mosaic(pick.cubes, count, scale), title)
    step, middle = config.size + GAP_PX, config.size / 2
    axes.set_yticks([row * step + middle for row in range(count)], [str(row + 1) for row in range(count)])
    ago = [*range(config.frames - 1, -1, -1), *range(config.frames - 2, -1, -1)]
    names = [f"t-{frames}" if frames else "t" for frames in ago]
    axes.set_xticks([column * step + middle for column in range(len(ago))], names, fontsize=9)
    axes.tick_params(length=0)


def _mosaic(cubes: FrameCubes, count: int, scale: float) -> Picture:
    """A row for each cube: its frames, then its flows."""
    rows = []
    for frames_TCHW, flows_TCHW in zip(cubes.frames_MTCHW[:count], cubes.flows_MTCHW[:count], strict=True):
        tiles = [_rgb(frame.transpose(1, 2, 0)) for frame in frames_TCHW]
        tiles += [colours(flow.transpose(1, 2, 0).astype(np.float32), scale) for flow in flows_TCHW]
        rows.append(np.hstack([_framed(tile) for tile in tiles]))
    return np.vstack(rows)


def colours(flow: Flow, scale: float) -> Picture:
    """Flow as colours: the hue tells the direction, white is rest, full colour `scale` px/frame and more."""
    angle = np.arctan2(flow[..., 1], flow[..., 0]) % (2 * np.pi)
    strength = np.clip(np.linalg.norm(flow, axis=2) / scale, 0, 1)
    hsv = np.stack([np.degrees(angle), strength, np.ones_like(strength)], axis=2).astype(np.float32)
    rgb: Picture = (cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB) * 255).round().astype(np.uint8)
    return rgb


def _framed(tile: Picture) -> Picture:
    return np.pad(tile, ((0, GAP_PX), (0, GAP_PX), (0, 0)), constant_values=GAP_GREY)


def _rgb(frame: Frame) -> Picture:
    """(H, W, 1 or 3 BGR) -> (H, W, 3) RGB."""
    conversion = cv2.COLOR_GRAY2RGB if frame.shape[2] == 1 else cv2.COLOR_BGR2RGB
    return cv2.cvtColor(np.ascontiguousarray(frame), conversion)  # type: ignore[return-value]


def _show(axes: Axes, picture: Picture, title: str) -> None:
    axes.imshow(picture, interpolation="nearest")
    axes.set_title(title, fontsize=12)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_anchor("N")
