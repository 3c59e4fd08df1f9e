"""Renders three small data sets in the real on-disk layouts: what `make demo` runs on.

Writes `toy-ped2`, `toy-avenue` and `toy-shanghaitech`, each laid out like the set it is named after (see
`bench.experiment.specs`), with a `toy.json` that says what is in it. People walk over a square; in test videos a
cyclist, a cart, a skater, a runner or a thrown bag joins them, and its pixels are the mask. Reads nothing; the
same seed gives the same pixels. `bench.data.toy_drawing` draws.

Axes: F frames of a video, H W pixels.
"""

from __future__ import annotations

import json
import tempfile
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from amsrc.errors import ConfigError, DataError, RunError, unknown
from bench.data.toy_drawing import BLACK, Actor, Colour, Image, Point, Scene, background, shoot
from bench.storage.places import Place, local_folder

VERSION = 2
"""Raise it with every change of the pixels: data sets of another version are rendered anew."""
SEED = 0
MARKER = "toy.json"
FRAMES_PER_S = 12.0
COMPRESSION = {
    "tif": [cv2.IMWRITE_TIFF_COMPRESSION, cv2.IMWRITE_TIFF_COMPRESSION_ADOBE_DEFLATE, cv2.IMWRITE_TIFF_PREDICTOR, 2],
    "jpg": [cv2.IMWRITE_JPEG_QUALITY, 75],
    "bmp": [],
}
PACE = 0.055
"""A walker's body heights per frame."""
LANES = 8
"""Walkers of a clip; about half of them are in the picture at a time."""
NOISE = 0.8
"""Standard deviation of the sensor noise in grey levels."""
SHIRTS: list[Colour] = [(86, 82, 80), (150, 96, 62), (76, 76, 172), (84, 124, 76), (124, 80, 124), (70, 106, 140)]
TROUSERS: list[Colour] = [(70, 70, 74), (112, 86, 70), (82, 90, 98), (64, 74, 90)]
SPORTSWEAR: list[Colour] = [(40, 40, 46), (120, 56, 24), (40, 40, 150)]
"""What cyclists, skaters and runners wear over black."""


@dataclass(frozen=True)
class Planted:
    """An anomaly: what it is and how it crosses the picture."""

    kind: str
    enters: float
    """Frame at which it is just outside the picture; of a bag, at which it is thrown."""
    row: float
    """Where its feet or wheels are, as a part of the ground's depth."""
    leftwards: bool = False
    pace: float = 0.24
    """Body heights per frame."""


@dataclass(frozen=True)
class Clip:
    """One video: its name in the layout, its camera, its length and what is planted in it."""

    name: str
    scene: Scene
    frames: int
    planted: tuple[Planted, ...] = ()


@dataclass(frozen=True)
class Footage:
    """A rendered video."""

    frames: Image
    """(F, H, W, 3), BGR."""
    masks: npt.NDArray[np.bool_]
    """(F, H, W), true where something abnormal is seen."""

    @property
    def labels(self) -> npt.NDArray[np.bool_]:
        """(F,), true where the mask is not empty."""
        return np.array([mask.any() for mask in self.masks])


SQUARE = Scene("square", (152, 100), 0.30, (16, 27), (176, 180, 182), (120, 128, 130), ("hedge", "lawn"))
ARCADE = Scene("arcade", (192, 108), 0.36, (17, 29), (172, 182, 190), (150, 172, 188), ("columns",))
COURT = Scene("court", (160, 90), 0.34, (16, 27), (186, 186, 180), (92, 108, 168), ("bricks", "windows"))
STREET = Scene("street", (160, 90), 0.32, (16, 27), (158, 156, 152), (196, 190, 176), ("windows", "hedge", "line"))

TRAIN = {
    "toy-ped2": [Clip(f"{n:02d}", SQUARE, 70) for n in range(1, 6)],
    "toy-avenue": [Clip(f"{n:02d}", ARCADE, 70) for n in range(1, 6)],
    "toy-shanghaitech": [
        *(Clip(f"01_{n:03d}", COURT, 60) for n in range(1, 4)),
        *(Clip(f"02_{n:03d}", STREET, 60) for n in range(1, 4)),
    ],
}
TEST = {
    "toy-ped2": [
        Clip("01", SQUARE, 80, (Planted("cyclist", 18, 0.55), Planted("cyclist", 32, 0.65))),
        Clip("02", SQUARE, 80, (Planted("cart", -8, 0.45, leftwards=True),)),
        Clip(
            "03", SQUARE, 60, (Planted("cart", -14, 0.3), Planted("cyclist", 14, 0.7, True), Planted("cart", 32, 0.45))
        ),
        Clip("04", SQUARE, 80, (Planted("cyclist", 40, 0.75, leftwards=True), Planted("cyclist", 52, 0.65, True))),
    ],
    "toy-avenue": [
        Clip("01", ARCADE, 84, (Planted("runner", -6, 0.6), Planted("runner", 2, 0.7))),
        Clip("02", ARCADE, 84, (Planted("bag", 26, 0.5, pace=0.2),)),
        Clip("03", ARCADE, 60),
        Clip("04", ARCADE, 84, (Planted("runner", 36, 0.75, leftwards=True),)),
    ],
    "toy-shanghaitech": [
        Clip("01_0014", COURT, 76, (Planted("cyclist", 16, 0.6, True), Planted("cyclist", 26, 0.7, True))),
        Clip("01_0027", COURT, 76, (Planted("skater", 26, 0.5), Planted("skater", 38, 0.6))),
        Clip("02_0003", STREET, 80, (Planted("cart", 32, 0.6),)),
        Clip("02_0011", STREET, 76, (Planted("runner", -8, 0.75), Planted("runner", -2, 0.65))),
    ],
}
"""One test video is abnormal from end to end and one normal: in them AUROC is not defined, as in the real sets."""


def _cast(clip: Clip, rng: np.random.Generator) -> list[Actor]:
    """Everybody who crosses the picture during a clip."""
    walkers = [_walker(clip, lane, rng) for lane in range(LANES)]
    return walkers + [actor for plan in clip.planted for actor in _plant(clip.scene, plan, rng)]


def _walker(clip: Clip, lane: int, rng: np.random.Generator) -> Actor:
    """A walker in a lane: the last two lanes lead from a side to the lower edge, the others across."""
    scene = clip.scene
    width, height = scene.size
    sides = -12.0, width + 12.0
    if lane < LANES - 2:
        row = scene.row((lane + rng.uniform(0.6, 1.2)) / (LANES - 1.5))
        ends = (sides[0], row + rng.uniform(-4, 4)), (sides[1], row + rng.uniform(-4, 4))
    else:
        below = width * rng.uniform(0.3, 0.7), height + scene.tall[1]
        ends = (sides[lane % 2], scene.row(rng.uniform(0.1, 0.3))), below
    start, end = ends if rng.random() < 0.5 else ends[::-1]
    actor = _actor(scene, "walker", (start, end), 0.0, PACE * rng.uniform(0.88, 1.12), rng)
    crossing = 1 / actor.part(1)
    return replace(actor, enters=rng.uniform(-0.9 * crossing, clip.frames - 0.3 * crossing))


def _plant(scene: Scene, plan: Planted, rng: np.random.Generator) -> list[Actor]:
    """The actors of an anomaly; a bag comes with the two who throw it, and they are normal."""
    row, width = scene.row(plan.row), scene.size[0]
    if plan.kind == "bag":
        hands = (width * 0.25, row), (width * 0.72, row)
        throwers = [_actor(scene, "thrower", ends, 0.0, 0.0, rng) for ends in (hands, hands[::-1])]
        return [*throwers, replace(_actor(scene, "bag", hands, plan.enters, plan.pace, rng), planted=True)]
    margin = 1.2 * scene.height(row)
    ends = (-margin, row), (width + margin, row + rng.uniform(-3, 3))
    actor = _actor(scene, plan.kind, ends[::-1] if plan.leftwards else ends, plan.enters, plan.pace, rng)
    return [replace(actor, planted=True, shirt=SPORTSWEAR[rng.integers(len(SPORTSWEAR))], trousers=BLACK)]


def _actor(
    scene: Scene, kind: str, ends: tuple[Point, Point], enters: float, pace: float, rng: np.random.Generator
) -> Actor:
    height = scene.height((ends[0][1] + ends[1][1]) / 2)
    shirt, trousers = SHIRTS[rng.integers(len(SHIRTS))], TROUSERS[rng.integers(len(TROUSERS))]
    return Actor(kind, *ends, enters, pace, height, shirt, trousers, phase=rng.uniform(0, 2 * np.pi))


def film(clip: Clip, seed: int) -> Footage:
    """Render a clip."""
    rng = np.random.default_rng([seed, zlib.crc32(f"{clip.scene.name}/{clip.name}".encode())])
    empty = background(clip.scene)
    actors = sorted(_cast(clip, rng), key=lambda actor: actor.start[1] + actor.end[1])
    pictures, masks = zip(*(shoot(clip.scene, empty, actors, frame) for frame in range(clip.frames)), strict=True)
    still = np.stack(pictures)
    noise = NOISE * rng.standard_normal((*still.shape[:3], 1), np.float32)  # the same for all three colours
    return Footage(np.clip(np.rint(still + noise), 0, 255).astype(np.uint8), np.stack(masks))


# --- layout on disk ----------------------------------------------------------------------------------------------

Videos = dict[str, Footage]


def _write_ped2(folder: Path, train: Videos, test: Videos) -> None:
    """Grey tif folders, bmp masks and the intervals in a Matlab file, all counted from 1."""
    base = folder / "UCSDped2"
    for split, videos in (("Train", train), ("Test", test)):
        for name, footage in videos.items():
            grey = (cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY) for frame in footage.frames)
            _write_images(base / split / f"{split}{int(name):03d}", grey, "tif", first=1)
    intervals = ["TestVideoFile = {};"]
    for name, footage in test.items():
        _write_images(base / "Test" / f"Test{int(name):03d}_gt", footage.masks.astype(np.uint8) * 255, "bmp", first=1)
        edges = np.flatnonzero(np.diff(np.r_[False, footage.labels, False])).reshape(-1, 2)
        spans = ", ".join(f"{start + 1}:{stop}" for start, stop in edges.tolist())
        intervals.append(f"TestVideoFile{{end+1}}.gt_frame = [{spans}];")
    (base / "Test" / "UCSDped2.m").write_text("\n".join(intervals) + "\n")


def _write_avenue(folder: Path, train: Videos, test: Videos) -> None:
    """Colour avi files, and a Matlab cell of masks for each test video, its number without the zero."""
    from scipy.io import savemat

    for split, videos in (("training_videos", train), ("testing_videos", test)):
        for name, footage in videos.items():
            _write_video(folder / split / f"{name}.avi", footage.frames)
    labels = folder / "ground_truth_demo" / "testing_label_mask"
    labels.mkdir(parents=True)
    for name, footage in test.items():
        cell = np.empty((1, len(footage.masks)), object)
        cell[0] = list(footage.masks.astype(np.uint8))
        savemat(labels / f"{int(name)}_label.mat", {"volLabel": cell}, do_compression=True)


def _write_shanghaitech(folder: Path, train: Videos, test: Videos) -> None:
    """Training videos as avi, test frames as jpg counted from 0, frame and pixel masks as arrays."""
    for name, footage in train.items():
        _write_video(folder / "training" / "videos" / f"{name}.avi", footage.frames)
    testing = folder / "testing"
    for kind in ("test_frame_mask", "test_pixel_mask"):
        (testing / kind).mkdir(parents=True)
    for name, footage in test.items():
        _write_images(testing / "frames" / name, footage.frames, "jpg", first=0)
        np.save(testing / "test_frame_mask" / f"{name}.npy", footage.labels.astype(np.uint8))
        np.save(testing / "test_pixel_mask" / f"{name}.npy", footage.masks.astype(np.uint8))


def _write_images(folder: Path, images: Iterable[Image], suffix: str, first: int) -> None:
    folder.mkdir(parents=True)
    for number, image in enumerate(images, first):
        path = folder / f"{number:03d}.{suffix}"
        if not cv2.imwrite(str(path), image, COMPRESSION[suffix]):
            raise OSError(f"{path} cannot be written")


def _write_video(path: Path, frames: Image) -> None:
    """Motion JPEG: OpenCV writes and reads it frame for frame, with FFmpeg or without."""
    path.parent.mkdir(parents=True, exist_ok=True)
    size = frames.shape[2], frames.shape[1]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), FRAMES_PER_S, size)
    for frame in frames:
        writer.write(frame)
    writer.release()
    if cv2.VideoCapture(str(path)).get(cv2.CAP_PROP_FRAME_COUNT) != len(frames):
        raise OSError(f"the {len(frames)} frames of {path} cannot be written")


LAYOUTS: dict[str, Callable[[Path, Videos, Videos], None]] = {
    "toy-ped2": _write_ped2,
    "toy-avenue": _write_avenue,
    "toy-shanghaitech": _write_shanghaitech,
}


def embedded(home: Place) -> Path:
    """Where the data sets of a work folder are rendered: on this node, also where the folder is in an object store."""
    return local_folder(home) / "toy"


def render(root: Path) -> None:
    """Render all three data sets under a root folder, except those that are complete already.

    Raises:
        DataError: see `render_one`.
        RunError: see `render_one`.
    """
    for name in LAYOUTS:
        render_one(name, root)


def render_one(name: str, root: Path) -> None:
    """Render one data set as `root/name`, unless it is there in this version.

    Rendered under a temporary name next to it and renamed when whole, so whatever has a `toy.json` is complete:
    {"version", "train": {video: frames}, "test": {video: frames}, "anomalous": frames}.

    Raises:
        ConfigError: an unknown name.
        DataError: something that was not rendered here has that name.
        RunError: the disk is full or the root cannot be written.
    """
    if name not in LAYOUTS:
        raise ConfigError(unknown("toy data set", name, LAYOUTS))
    target = root / name
    if _stands(target):
        return
    if target.exists() and not (target / MARKER).exists():
        raise DataError(f"{target} has no {MARKER}, so it was not rendered here. Move it away, or pass another root.")
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root, prefix=f".{name}-") as scratch:
            _fill(Path(scratch, "fresh"), name)
            if target.exists():
                target.rename(Path(scratch, "outdated"))
            Path(scratch, "fresh").rename(target)
    except OSError as error:
        if not _stands(target):  # else another process was faster
            raise RunError(f"{target}: cannot be rendered ({error}). Free some space, or pass another root.") from error


def _fill(folder: Path, name: str) -> None:
    """Render a data set into a new folder, its contents file last."""
    train, test = ({clip.name: film(clip, SEED) for clip in clips[name]} for clips in (TRAIN, TEST))
    folder.mkdir()
    LAYOUTS[name](folder, train, test)
    contents = {
        "version": VERSION,
        "train": {video: len(footage.frames) for video, footage in train.items()},
        "test": {video: len(footage.frames) for video, footage in test.items()},
        "anomalous": sum(int(footage.labels.sum()) for footage in test.values()),
    }
    # Not fsynced: what a power cut destroys, `data verify` finds, and it can be rendered again.
    (folder / MARKER).write_text(json.dumps(contents, indent=1) + "\n")


def _stands(folder: Path) -> bool:
    """Whether a folder holds a complete data set of this version."""
    try:
        contents = json.loads((folder / MARKER).read_text())
    except (OSError, ValueError):
        return False
    return isinstance(contents, dict) and contents.get("version") == VERSION
