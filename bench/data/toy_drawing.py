"""Draws the toy data sets' pictures: empty scenes, and people and vehicles on them, each with its mask.

Reads and writes nothing. Places are in pixels of the finished frame; everything is drawn `SCALE` times as large
and averaged down. Colours are blue, green, red. Axes: H W pixels.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np
import numpy.typing as npt

SCALE = 3
SHIFT = 4
"""Fractional bits of the coordinates handed to OpenCV."""

Point = tuple[float, float]
Colour = tuple[float, float, float]
Image = npt.NDArray[np.uint8]

SKIN: Colour = (120, 150, 196)
HAIR: Colour = (24, 28, 36)
BLACK: Colour = (28, 28, 32)


@dataclass(frozen=True)
class Scene:
    """One camera: where the ground begins, how tall people are, and what is behind them."""

    name: str
    size: tuple[int, int]
    """Width and height of a frame."""
    horizon: float
    """Row where the ground begins, as a part of the height."""
    tall: tuple[float, float]
    """A person's height at the horizon and at the lower edge."""
    ground: Colour
    wall: Colour
    backdrop: tuple[str, ...]

    def row(self, part: float) -> float:
        """The row at a part of the ground's depth."""
        return self.size[1] * (self.horizon + (1 - self.horizon) * part)

    def height(self, row: float) -> float:
        """A person's height with the feet in a row."""
        part = (row / self.size[1] - self.horizon) / (1 - self.horizon)
        return self.tall[0] + (self.tall[1] - self.tall[0]) * part


@dataclass(frozen=True)
class Actor:
    """Someone or something on a straight path; a bag flies there and back."""

    kind: str
    start: Point
    end: Point
    enters: float
    """Frame at which it is at the start."""
    pace: float
    """Body heights per frame."""
    height: float
    """Body height half-way, in pixels."""
    shirt: Colour
    trousers: Colour
    phase: float
    """Of the gait, in radians."""
    planted: bool = False

    @property
    def length(self) -> float:
        """Of the path, in pixels."""
        return float(np.hypot(self.end[0] - self.start[0], self.end[1] - self.start[1]))

    def part(self, frame: float) -> float:
        """The part of the path that is done; below 0 and above 1 outside it."""
        return (frame - self.enters) * self.pace * self.height / self.length


def background(scene: Scene) -> Image:
    """The empty scene, SCALE times as large; the same for all videos of a camera and all seeds."""
    rng = np.random.default_rng(zlib.crc32(scene.name.encode()))
    (width, height), horizon = scene.size, scene.row(0)
    image = np.full((height * SCALE, width * SCALE, 3), scene.wall, np.uint8)
    _pave(image, scene, rng)
    for feature in scene.backdrop:
        BACKDROPS[feature](image, scene, rng)
    _box(image, (0, horizon - 1), (width, horizon + 0.7), _dark(scene.ground, 0.62))
    texture = sum(_speckle(image, cell, level, rng) for cell, level in ((1, 2.0), (3, 3.0), (24, 6.0)))
    textured: Image = np.clip(image + texture, 0, 255).astype(np.uint8)
    return textured


def _speckle(image: Image, cell: int, level: float, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Noise in patches of `cell` pixels, `level` its standard deviation in grey levels; (H, W, 1)."""
    height, width = image.shape[:2]
    grid = rng.normal(0, level, (height // (cell * SCALE) + 2, width // (cell * SCALE) + 2)).astype(np.float32)
    speckle = cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
    return speckle[..., None].astype(np.float32)


def _box(image: Image, corner: Point, opposite: Point, colour: Colour) -> None:
    """An upright rectangle, corners in pixels of the finished frame."""
    a, b = ((round(x * SCALE), round(y * SCALE)) for x, y in (corner, opposite))
    cv2.rectangle(image, a, (b[0] - 1, b[1] - 1), colour, cv2.FILLED)


def _pave(image: Image, scene: Scene, rng: np.random.Generator) -> None:
    """Paving stones that grow towards the viewer, each of its own tone."""
    width, rows, columns = scene.size[0], 9, 26
    edges = [scene.row((n / rows) ** 1.5) for n in range(rows + 1)]
    for top, bottom in pairwise(edges):
        for n in range(-columns // 2, columns // 2):
            corners = [(n, top), (n + 1, top), (n + 1, bottom), (n, bottom)]
            stone = [(width / 2 + k * 0.72 * scene.height(y), y) for k, y in corners]
            points = np.rint(np.array(stone) * SCALE).astype(np.int32)
            cv2.fillPoly(image, [points], _dark(scene.ground, rng.uniform(0.95, 1.04)))
            cv2.polylines(image, [points], True, _dark(scene.ground, 0.86), 1, cv2.LINE_AA)


def _hedge(image: Image, scene: Scene, rng: np.random.Generator) -> None:
    """Bushes along the horizon."""
    width, horizon = scene.size[0], scene.row(0)
    for _ in range(width * 3):
        x, y = rng.uniform(0, width), horizon - min(abs(rng.normal(0, 5)), 9)
        colour, radius = _dark((62.0, 118.0, 84.0), rng.uniform(0.55, 1.15)), round(rng.uniform(1, 3) * SCALE)
        cv2.circle(image, (round(x * SCALE), round(y * SCALE)), radius, colour, cv2.FILLED, cv2.LINE_AA)


def _lawn(image: Image, scene: Scene, rng: np.random.Generator) -> None:
    """Grass in the nearest corner and a strip of it along the horizon."""
    width = scene.size[0]
    for corners in ([(0, 0.72), (0.3, 1.01), (0, 1.01)], [(0, 0), (1, 0), (1, 0.05), (0, 0.09)]):
        points = [(round(x * width * SCALE), round(scene.row(y) * SCALE)) for x, y in corners]
        cv2.fillPoly(image, [np.array(points, np.int32)], (98, 150, 122), cv2.LINE_AA)


def _columns(image: Image, scene: Scene, rng: np.random.Generator) -> None:
    """An arcade: dark openings between columns, a ledge above."""
    width, horizon = scene.size[0], scene.row(0)
    for left in range(6, width, 32):
        _box(image, (left, 9), (left + 20, horizon), (96, 104, 110))
        _box(image, (left + 3, 13), (left + 20, horizon), (70, 76, 82))
        _box(image, (left - 3, 7), (left - 1, horizon), _dark(scene.wall, 1.15))
    _box(image, (0, 4), (width, 6), _dark(scene.wall, 0.75))


def _bricks(image: Image, scene: Scene, rng: np.random.Generator) -> None:
    """Courses of bricks, each brick of its own tone."""
    width, horizon = scene.size[0], scene.row(0)
    for course in range(int(horizon / 3) + 1):
        for left in range(-(course % 2) * 4, width, 8):
            corner, opposite = (left, course * 3), (left + 7.6, min(course * 3 + 2.6, horizon))
            _box(image, corner, opposite, _dark(scene.wall, rng.uniform(0.85, 1.12)))


def _windows(image: Image, scene: Scene, rng: np.random.Generator) -> None:
    """A row of windows with light sills."""
    for left in range(10, scene.size[0] - 16, 30):
        _box(image, (left - 1, 5), (left + 15, 19), _dark(scene.wall, 0.7))
        _box(image, (left, 6), (left + 6.5, 18), (132, 118, 96))
        _box(image, (left + 7.5, 6), (left + 14, 18), (120, 106, 88))
        _box(image, (left - 2, 19), (left + 16, 20.5), (214, 216, 218))


def _line(image: Image, scene: Scene, rng: np.random.Generator) -> None:
    """A broken white line along the street."""
    width, y = scene.size[0], scene.row(0.42)
    for left in range(-4, width, 26):
        _box(image, (left, y), (left + 15, y + 1.6), (224, 226, 226))


BACKDROPS: dict[str, Callable[[Image, Scene, np.random.Generator], None]] = {
    "hedge": _hedge,
    "lawn": _lawn,
    "columns": _columns,
    "bricks": _bricks,
    "windows": _windows,
    "line": _line,
}


def shoot(scene: Scene, empty: Image, actors: Iterable[Actor], frame: int) -> tuple[Image, npt.NDArray[np.bool_]]:
    """One frame without noise, (H, W, 3), and its mask, (H, W).

    Args:
        empty: the scene's `background`.
        actors: from back to front.
    """
    picture, mask = empty.copy(), np.zeros(empty.shape[:2], np.uint8)
    for actor in actors:
        _draw(picture, mask, scene, actor, frame)
    small, seen = (cv2.resize(image, scene.size, interpolation=cv2.INTER_AREA) for image in (picture, mask))
    return small, seen > 127  # type: ignore[return-value]


@dataclass(frozen=True)
class Pen:
    """Draws one actor in body heights: x forwards, y up from the feet.

    Each stroke lands on the picture and on the mask, so that whoever is in front of something planted hides its
    mask too.
    """

    picture: Image
    mask: Image
    ink: float
    """What strokes leave on the mask: 255 of something abnormal, else 0."""
    actor: Actor
    at: Point
    """The feet."""
    height: float
    """Of the body, in pixels, where it is."""
    part: float
    """Of the actor's path."""

    @property
    def gone(self) -> float:
        """Body heights travelled."""
        return self.part * self.actor.length / self.actor.height

    @property
    def facing(self) -> float:
        """1 to the right, -1 to the left, near 0 seen from the front or behind."""
        return (self.actor.end[0] - self.actor.start[0]) / self.actor.length

    def line(self, points: Sequence[Point], width: float, colour: Colour) -> None:
        """A stroke through the points."""
        thickness = max(1, round(width * self.height * SCALE))
        for image, ink in ((self.picture, colour), (self.mask, (self.ink,))):
            cv2.polylines(image, [self._fixed(points)], False, ink, thickness, cv2.LINE_AA, SHIFT)

    def fill(self, points: Sequence[Point], colour: Colour) -> None:
        """A polygon."""
        for image, ink in ((self.picture, colour), (self.mask, (self.ink,))):
            cv2.fillPoly(image, [self._fixed(points)], ink, cv2.LINE_AA, SHIFT)

    def disc(self, centre: Point, radius: float, colour: Colour, width: float = 0) -> None:
        """A disc, or a ring of a width."""
        (corner,) = self._fixed([centre]).tolist()
        unit = self.height * SCALE
        for image, ink in ((self.picture, colour), (self.mask, (self.ink,))):
            size, thickness = round(radius * unit * 2**SHIFT), round(width * unit) or cv2.FILLED
            cv2.circle(image, corner, size, ink, thickness, cv2.LINE_AA, SHIFT)

    def shadow(self, radius: float) -> None:
        """Darkens the ground under the actor."""
        (x, y), r = (round(value * SCALE) for value in self.at), round(radius * self.height * SCALE)
        top, left = max(0, y - r // 3), max(0, x - r)
        patch = self.picture[top : max(0, y + r // 3), left : max(0, x + r)]
        if patch.size:
            dark, centre, axes = patch.copy(), (x - left, y - top), (r, r // 4)
            cv2.ellipse(dark, centre, axes, 0, 0, 360, BLACK, cv2.FILLED, cv2.LINE_AA)
            cv2.addWeighted(patch, 0.65, dark, 0.35, 0, dst=patch)

    def _fixed(self, points: Sequence[Point]) -> npt.NDArray[np.int32]:
        """Body heights to fixed-point pixels of the large picture."""
        places = [(self.at[0] + x * self.height * self.facing, self.at[1] - y * self.height) for x, y in points]
        fixed: npt.NDArray[np.int32] = np.rint(np.array(places) * (SCALE * 2**SHIFT)).astype(np.int32)
        return fixed


def _draw(picture: Image, mask: Image, scene: Scene, actor: Actor, frame: int) -> None:
    """Draw an actor where it is in a frame, if it is there; a bag is held before and after its two flights."""
    part = actor.part(frame)
    moves = 0 <= part <= (2 if actor.kind == "bag" else 1)
    if not moves and actor.kind != "bag":
        return
    part = min(max(part, 0.0), 2.0)
    place = 1 - abs(1 - part)
    x, y = (a + (b - a) * place for a, b in zip(actor.start, actor.end, strict=True))
    ink = 255.0 * (actor.planted and moves)
    PICTURES[actor.kind](Pen(picture, mask, ink, actor, (x, y), scene.height(y), part))


def _dark(colour: Colour, part: float) -> Colour:
    return colour[0] * part, colour[1] * part, colour[2] * part


def _round(radius: float, angle: float) -> Point:
    """The point of a circle at an angle from straight up, clockwise."""
    return radius * float(np.sin(angle)), radius * float(np.cos(angle))


def _limb(joint: Point, part: float, *angles: float) -> list[Point]:
    """A limb of equal parts hanging from a joint; angles from straight down, forwards positive."""
    points = [joint]
    for angle in angles:
        forwards, down = _round(part, angle)
        points.append((points[-1][0] + forwards, points[-1][1] - down))
    return points


def _head(pen: Pen, x: float, y: float) -> None:
    pen.disc((x, y), 0.085, HAIR)
    pen.disc((x + 0.03, y - 0.02), 0.062, SKIN)


def _walk(
    pen: Pen, stride: float = 0.95, swing: float = 0.5, knee: float = 0.7, elbow: float = 0.35, lean: float = 0.02
) -> None:
    """Someone on foot, the far leg and arm darker and behind the body; angles in radians, lengths in body heights."""
    turn = pen.actor.phase + 2 * np.pi * pen.gone / stride
    broad = 0.12 * (1.2 - abs(pen.facing)) / max(abs(pen.facing), 0.2)  # undoes the shortening of x
    hip = 0.47 + 0.015 * float(np.cos(2 * turn))
    pen.shadow(0.34)
    for side, shade in ((1, 0.7), (-1, 1.0)):
        forth, lift = _round(1.0, turn + side * np.pi / 2)
        angle, bend = swing * forth, knee * max(0.0, lift)
        leg = _limb((side * broad * 0.5, hip), 0.225, angle + 0.3 * bend, angle - 0.7 * bend)
        pen.line([*leg, (leg[-1][0] + 0.06, leg[-1][1])], 0.115, _dark(pen.actor.trousers, shade))
        if side < 0:
            pen.line([(lean, 0.74), (0, hip)], 0.22, pen.actor.shirt)
        arm = _limb((lean + side * broad, 0.78), 0.17, -0.9 * angle, elbow - 0.9 * angle)
        pen.line(arm, 0.075, _dark(pen.actor.shirt, 0.55 if side > 0 else 0.8))
        pen.disc(arm[-1], 0.035, SKIN)
    _head(pen, lean * 1.4, 0.9)


def _run(pen: Pen) -> None:
    _walk(pen, stride=1.5, swing=0.85, knee=1.5, elbow=1.5, lean=0.14)


def _throw(pen: Pen) -> None:
    """Someone standing with both arms stretched out."""
    pen.shadow(0.34)
    for foot in (-0.1, 0.1):
        pen.line([(0, 0.47), (foot, 0.02), (foot + 0.05, 0.02)], 0.115, pen.actor.trousers)
    pen.line([(0, 0.74), (0, 0.47)], 0.22, pen.actor.shirt)
    for hand in (0.74, 0.88):
        pen.line([(0, 0.77), (0.3, hand)], 0.075, _dark(pen.actor.shirt, 0.8))
        pen.disc((0.31, hand), 0.04, SKIN)
    _head(pen, 0.0, 0.9)


def _fly(pen: Pen) -> None:
    """A bag held, or tumbling in an arc from hand to hand."""
    forth, turn = pen.part % 1, 8 * pen.part
    x, y = 0.32 * (1 - 2 * (1 - abs(1 - pen.part))), 0.8 + 3.2 * forth * (1 - forth)
    pen.shadow(0.15)
    handle = [(x + dx, y + dy) for dx, dy in (_round(0.3, turn + angle) for angle in (-0.6, 0.0, 0.6))]
    corners = [(x + dx, y + dy) for dx, dy in (_round(0.26, turn + angle) for angle in (0.8, 2.3, 4.0, 5.5))]
    pen.line(handle, 0.05, BLACK)
    pen.fill(corners, (30, 40, 200))
    pen.line([((a + x) / 2, (b + y) / 2) for a, b in corners[::2]], 0.06, (225, 235, 240))


def _cycle(pen: Pen) -> None:
    """Someone on a bicycle."""
    red, r = (50.0, 50.0, 200.0), 0.22
    turn = pen.gone / r
    rear, front, crank, saddle, bar = (-0.35, r), (0.35, r), (-0.04, r), (-0.14, 0.52), (0.22, 0.6)
    pen.shadow(0.6)
    for x, y in (rear, front):
        pen.disc((x, y), r, BLACK, 0.05)
        for dx, dy in (_round(r, turn), _round(r, turn + np.pi / 2)):
            pen.line([(x - dx, y - dy), (x + dx, y + dy)], 0.02, (150, 150, 150))
    pen.line([rear, crank, bar, saddle, crank], 0.035, red)
    pen.line([saddle, rear], 0.035, red)
    pen.line([front, bar, (0.27, 0.64)], 0.04, red)
    for side, shade in ((1, 0.7), (-1, 1.0)):
        dx, dy = _round(0.1 * side, turn / 2)
        foot = crank[0] + dx, crank[1] + dy
        knee = (saddle[0] + foot[0]) / 2 + 0.17, (saddle[1] + foot[1]) / 2 + 0.06
        pen.line([saddle, knee, foot], 0.105, _dark(pen.actor.trousers, shade))
    pen.line([(-0.12, 0.58), (0.08, 0.88)], 0.2, pen.actor.shirt)
    pen.line([(0.09, 0.9), (0.16, 0.7), bar], 0.075, _dark(pen.actor.shirt, 0.8))
    _head(pen, 0.15, 1.06)


def _skate(pen: Pen) -> None:
    """Someone gliding on a board, knees bent and arms held out."""
    pen.shadow(0.45)
    pen.line([(-0.34, 0.11), (-0.26, 0.07), (0.26, 0.07), (0.34, 0.11)], 0.05, (40, 60, 210))
    for x in (-0.2, 0.2):
        pen.disc((x, 0.035), 0.045, (235, 235, 235))
        pen.line([(-0.02, 0.48), (x * 0.9 + 0.08, 0.32), (x, 0.11)], 0.115, pen.actor.trousers)
    pen.line([(-0.01, 0.5), (0.07, 0.77)], 0.22, pen.actor.shirt)
    pen.line([(-0.28, 0.62), (0.06, 0.8), (0.38, 0.68)], 0.075, _dark(pen.actor.shirt, 0.8))
    _head(pen, 0.12, 0.95)


def _drive(pen: Pen) -> None:
    """A cart with a roof, and its driver."""
    white, trim = (236.0, 238.0, 240.0), (60.0, 120.0, 40.0)
    pen.shadow(1.05)
    pen.line([(0.02, 0.55), (0.0, 0.85)], 0.24, pen.actor.shirt)
    pen.line([(0.04, 0.85), (0.3, 0.72), (0.46, 0.78)], 0.08, _dark(pen.actor.shirt, 0.7))
    _head(pen, 0.05, 1.05)
    seat = [(-1.0, 0.2), (-1.0, 0.66), (-0.3, 0.66), (-0.2, 0.5)]
    pen.fill([*seat, (0.4, 0.5), (0.5, 0.75), (0.85, 0.6), (1.0, 0.2)], white)
    pen.line([(-0.98, 0.32), (0.95, 0.32)], 0.09, trim)
    for foot, top in ((-0.85, -0.8), (-0.25, -0.25), (0.62, 0.5)):
        pen.line([(foot, 0.6), (top, 1.36)], 0.05, BLACK)
    pen.fill([(-0.95, 1.34), (-0.88, 1.46), (0.6, 1.46), (0.7, 1.34)], white)
    pen.line([(-0.95, 1.34), (0.7, 1.34)], 0.05, trim)
    for x in (-0.66, 0.62):
        pen.disc((x, 0.2), 0.2, BLACK)
        pen.disc((x, 0.2), 0.09, (170, 170, 170))
        dx, dy = _round(0.15, pen.gone / 0.2)
        pen.line([(x - dx, 0.2 - dy), (x + dx, 0.2 + dy)], 0.05, (200, 200, 200))


PICTURES: dict[str, Callable[[Pen], None]] = {
    "walker": _walk,
    "runner": _run,
    "thrower": _throw,
    "bag": _fly,
    "cyclist": _cycle,
    "skater": _skate,
    "cart": _drive,
}
