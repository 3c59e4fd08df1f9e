"""Draws a frame with its boxes, score and alarm, and writes the mp4 file.

Needs scores, boxes and pixels, no model and no data set; writes one video file. Pictures are uint8 (H, W, 3), BGR.

A box is drawn by its own score: teal and thin where it is typical, amber and wider towards the threshold, red, widest
and with its number above it, so that it is recognisable in grey too. Below the picture is the curve of the frame
scores of the whole video: bright up to the current frame, the threshold dashed, alarms shaded; the bar on its right is
the score of the current frame.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, cast

import cv2
import numpy as np
import numpy.typing as npt

from amsrc.cubes import Boxes, Frame
from amsrc.errors import ConfigError, RunError
from bench.evaluation.metrics import stretches

if TYPE_CHECKING:
    from av.video.stream import VideoStream

Picture = npt.NDArray[np.uint8]
Colour = tuple[int, int, int]

TEAL, AMBER, RED = (190, 200, 60), (40, 180, 250), (50, 40, 235)
WHITE, PALE, BLACK = (255, 255, 255), (150, 150, 150), (0, 0, 0)
GROUND, SHADE = (30, 28, 26), (44, 38, 96)  # of the strip, and of alarms in it
LEAST_SIZE = 640, 480  # smaller videos are enlarged by a whole number, so that numbers can be read
TEXT_WIDTH = 640  # pixels for which a line is laid out; wider pictures get larger letters
LINE_PX, CURVE_PX, BAR_PX, MARGIN_PX = 24, 72, 16, 8  # of the strip, at that width
FONT = cv2.FONT_HERSHEY_SIMPLEX
CODECS = {"libx264": {"crf": "20", "preset": "veryfast"}, "mpeg4": {"b": "8M"}}  # browsers play the first


@dataclass(frozen=True, kw_only=True)
class Scale:
    """What scores are compared with."""

    usual: float
    """Score of a typical frame; boxes at or below it are teal."""
    threshold: float
    """A frame above it is an alarm."""
    meaning: str
    """What the threshold is, in a few words."""

    def colour(self, score: float) -> Colour:
        """From teal at a typical score to amber at the threshold, and red above."""
        if score > self.threshold:
            return RED
        part = self.part(score)
        teal, amber = (np.array(colour) for colour in (TEAL, AMBER))
        blue, green, red = np.rint(teal + part * (amber - teal)).astype(int).tolist()
        return blue, green, red

    def part(self, score: float) -> float:
        """Position of a score between typical and the threshold, 0 to 1."""
        way = self.threshold - self.usual
        return float(np.clip((score - self.usual) / way, 0, 1)) if way > 0 else 0.0


class Overlay:
    """Draws the frames of one video.

    Args:
        width, height: of the video's frames.
        rate: frames per second.
        scores: (N,) of its frames; NaN where there is none.
        scale: what they are compared with.
    """

    def __init__(self, width: int, height: int, rate: float, scores: npt.NDArray[np.floating], scale: Scale) -> None:
        self._rate, self._scores, self._scale = rate, scores, scale
        self._zoom = max(1, *(-(-least // side) for least, side in zip(LEAST_SIZE, (width, height), strict=True)))
        self._picture = width * self._zoom, height * self._zoom
        self._unit = max(1.0, self._picture[0] / TEXT_WIDTH)
        self._line, self._curve_height = self._px(LINE_PX), self._px(CURVE_PX)
        drawn = self._picture[0], self._picture[1] + self._line + self._curve_height
        even = [side + side % 2 for side in drawn]
        self.size: tuple[int, int] = even[0], even[1]
        """Width and height of the drawn pictures, both even, as H.264 requires."""
        known: list[float] = [*scores[np.isfinite(scores)].tolist(), scale.threshold, scale.usual]
        self._low, self._high = min(known), max(known) + 0.05 * (max(known) - min(known)) + 1e-9
        self._ahead, self._seen = (self._curve(colour) for colour in (PALE, WHITE))

    def draw(self, index: int, frame: Frame, boxes: Boxes, box_scores: npt.NDArray[np.floating]) -> Picture:
        """A frame with its boxes (M, 4), in its own pixels, and their scores (M,), on a picture of `size`."""
        width, height = self._picture
        canvas = np.zeros((self.size[1], self.size[0], 3), np.uint8)
        canvas[:height, :width] = cv2.resize(_bgr(frame), self._picture, interpolation=cv2.INTER_CUBIC)
        for row in np.argsort(box_scores, kind="stable"):  # the most abnormal one is drawn over the others
            self._box(canvas[:height, :width], boxes[row] * self._zoom, float(box_scores[row]))
        score = float(self._scores[index])
        if score > self._scale.threshold:
            self._alarm(canvas[:height, :width], index)
        canvas[height : height + self._line + self._curve_height] = self._strip(index, score)
        return canvas

    def _px(self, at_text_width: float) -> int:
        return round(at_text_width * self._unit)

    def _box(self, picture: Picture, box: npt.NDArray[np.float32], score: float) -> None:
        x0, y0, x1, y1 = np.rint(box).astype(int).tolist()
        above = score > self._scale.threshold
        wide = self._px(4 if above else 2 + round(self._scale.part(score)))
        colour = self._scale.colour(score)
        for out in range(-1, wide + 1):  # line by line: OpenCV's own thickness skips every other width
            edge = BLACK if out in (-1, wide) else colour
            cv2.rectangle(picture, (x0 - out, y0 - out), (x1 - 1 + out, y1 - 1 + out), edge, 1)
        if above:
            self._plate(picture, f"{score:.1f}", (x0, y0), colour, 0.42)

    def _alarm(self, picture: Picture, index: int) -> None:
        height, width = picture.shape[:2]
        wide = self._px(4)
        cv2.rectangle(picture, (wide // 2, wide // 2), (width - 1 - wide // 2, height - 1 - wide // 2), RED, wide)
        text = f"ALARM  frame {index}  {index / self._rate:.1f} s"
        self._plate(picture, text, (self._px(10), self._px(34)), RED, 0.6)

    def _plate(self, picture: Picture, text: str, corner: tuple[int, int], colour: Colour, size: float) -> None:
        """White text on a coloured plate whose lower left corner is here, moved into the picture where need be."""
        thick = self._px(1)
        (width, height), below = cv2.getTextSize(text, FONT, size * self._unit, thick)
        pad = self._px(3)
        x = int(np.clip(corner[0], 0, max(0, picture.shape[1] - width - 2 * pad)))
        y = max(corner[1], height + below + 2 * pad)
        cv2.rectangle(picture, (x, y - height - below - 2 * pad), (x + width + 2 * pad, y), colour, cv2.FILLED)
        _write(picture, text, (x + pad, y - below - pad), size * self._unit, WHITE, thick)

    def _strip(self, index: int, score: float) -> Picture:
        """The line of text and, below it, the curve up to here bright, beyond it pale."""
        strip = np.full((self._line + self._curve_height, self.size[0], 3), GROUND, np.uint8)
        curve, x = strip[self._line :], self._x(index)
        curve[:] = self._ahead
        curve[:, : x + 1] = self._seen[:, : x + 1]
        cv2.line(curve, (x, 0), (x, len(curve) - 1), PALE, 1)
        here = self._scale.colour(score) if np.isfinite(score) else PALE
        if np.isfinite(score):
            cv2.circle(curve, (x, self._y(score)), self._px(3), here, cv2.FILLED, cv2.LINE_AA)
            right = self.size[0] - self._px(MARGIN_PX)
            cv2.rectangle(curve, (right - self._px(BAR_PX), self._y(score)), (right, self._floor), here, cv2.FILLED)
        said = f"score {score:.2f}" if np.isfinite(score) else "no score yet"
        left, line = self._px(MARGIN_PX), self._px(LINE_PX * 0.7)
        text = f"frame {index}   {index / self._rate:.1f} s   {said}"
        _write(strip, text, (left, line), 0.42 * self._unit, WHITE, self._px(1))
        text = f"alarm above {self._scale.threshold:.2f} ({self._scale.meaning})"
        (width, _), _ = cv2.getTextSize(text, FONT, 0.42 * self._unit, self._px(1))
        _write(strip, text, (self.size[0] - left - width, line), 0.42 * self._unit, PALE, self._px(1))
        return strip

    @property
    def _floor(self) -> int:
        """Row of the curve's lowest score."""
        return self._curve_height - self._px(MARGIN_PX / 2)

    def _x(self, index: float) -> int:
        left = self._px(MARGIN_PX)
        whole = self.size[0] - 3 * left - self._px(BAR_PX)
        return left + round(whole * index / max(1, len(self._scores) - 1))

    def _y(self, score: float) -> int:
        top = self._px(MARGIN_PX / 2)
        return self._floor - round((self._floor - top) * (score - self._low) / (self._high - self._low))

    def _curve(self, colour: Colour) -> Picture:
        """All of the curve in one colour, with alarms shaded, the threshold dashed and the empty bar."""
        strip = np.full((self._curve_height, self.size[0], 3), GROUND, np.uint8)
        for first, last in spans(self._scores > self._scale.threshold):
            strip[:, self._x(first) : self._x(last) + 1] = SHADE
        right, y = self.size[0] - self._px(MARGIN_PX), self._y(self._scale.threshold)
        dash = self._px(6)
        for x in range(self._x(0), right, 2 * dash):
            cv2.line(strip, (x, y), (min(x + dash, right), y), AMBER, 1)
        cv2.rectangle(strip, (right - self._px(BAR_PX), self._y(self._high)), (right, self._floor), PALE, 1)
        for first, last in spans(np.isfinite(self._scores)):
            points = [(self._x(i), self._y(float(self._scores[i]))) for i in range(first, last + 1)]
            cv2.polylines(strip, [np.array(points, np.int32)], False, colour, self._px(1), cv2.LINE_AA)
        return strip


def spans(flags: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """First and last position of each unbroken run of true ones."""
    return [(start, end - 1) for start, end in stretches(flags)]


def _bgr(frame: Frame) -> Picture:
    return cv2.cvtColor(frame, cv2.COLOR_GRAY2BGR) if frame.shape[2] == 1 else frame  # type: ignore[return-value]


def _write(picture: Picture, text: str, at: tuple[int, int], size: float, colour: Colour, thick: int) -> None:
    cv2.putText(picture, text, at, FONT, size, colour, thick, cv2.LINE_AA)


def check_encoder() -> str:
    """Name of the encoder that will be used: H.264, or MPEG-4 where this build of FFmpeg lacks it.

    Raises:
        ConfigError: PyAV is not installed, or has neither.
    """
    try:
        import av
    except ImportError as error:
        raise ConfigError("writing a video needs PyAV; run: pip install 'amsrc-bench[video]'") from error
    for name in CODECS:
        if name in av.codecs_available:
            return name
    raise ConfigError(f"this PyAV has no encoder of {', '.join(CODECS)}; run: pip install 'amsrc-bench[video]'")


@contextmanager
def mp4(path: Path, size: tuple[int, int], rate: float, about: str) -> Iterator[Callable[[Picture], None]]:
    """Write a video: gives a function that takes one picture after the other. The file is complete after the block.

    Args:
        size: width and height of the pictures, both even.
        rate: frames per second.
        about: put into the file as its comment.

    Raises:
        ConfigError: as `check_encoder`.
        RunError: the encoder fails.
        OSError: the file cannot be written.
    """
    codec = check_encoder()
    import av

    try:
        with av.open(str(path), "w", format="mp4", options={"movflags": "faststart"}) as container:
            container.metadata["comment"] = about
            exact = Fraction(rate).limit_denominator(1001)
            stream = cast("VideoStream", container.add_stream(codec, exact, options=CODECS[codec]))
            stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"

            def add(picture: Picture) -> None:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "bgr24")))

            yield add
            container.mux(stream.encode())
    except av.error.FFmpegError as error:
        if isinstance(error, OSError):
            raise
        raise RunError(f"{path.name}: the encoder {codec} failed ({error.strerror}).") from error
