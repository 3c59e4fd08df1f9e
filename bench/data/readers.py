"""Reads the files: frames of videos (folders of numbered images, or video files), pixel masks, labels.

Reads images and videos with OpenCV, `.mat` with SciPy, `.npy` with NumPy; writes nothing. Independent of
the data set: `bench.data.datasets` says where each keeps what. Nothing here unpickles.

Axes: N frames of a video, H W pixels, C channels.
"""

from __future__ import annotations

import hashlib
import math
import re
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from amsrc.errors import MOST_SHOWN, DataError

Image = npt.NDArray[np.uint8]
IMAGE_FILES = {".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp"}
VIDEO_FILES = {".avi", ".mp4"}
NUMBERS = "buif"
"""Kinds of NumPy dtypes that labels and masks may have."""
MOST_FRAMES_PER_S = 240
"""A header without a rate often gives its clock's instead, 1,000 or 90,000."""
MOST_CELLS = 100_000
"""Far above the 1,439 frames of the longest video; a damaged size would keep SciPy busy for hours."""


@dataclass(frozen=True)
class Video:
    """One video of a data set."""

    name: str
    path: Path
    """A folder of numbered images or a video file."""
    frames: int
    """As `count_frames` found them; `read` holds the video to that."""
    grey: bool = False
    """Read as one channel whatever the files hold."""

    def content(self) -> str:
        """12 hex digits that change with the video: names and sizes of its files, bytes of the first and last."""
        files = frame_files(self.path) if self.path.is_dir() else [self.path]
        digest = hashlib.sha256("".join(f"{file.name} {file.stat().st_size}\n" for file in files).encode())
        for file in files[:1] + files[1:][-1:]:
            digest.update(file.read_bytes())
        return digest.hexdigest()[:12]

    def read(self) -> Iterator[Image]:
        """Every frame once, in order: uint8 (H, W, C), C = 1 if `grey`, else 3 (BGR).

        Raises:
            DataError: an image cannot be decoded, frames are missing, or the file ends too early.
        """
        count = 0
        for image in frames_of(self.path, self.grey):
            yield image
            count += 1
        if count != self.frames:
            raise DataError(
                f"{self.path}: {count} frames can be read, {self.frames} are announced: the video is truncated or "
                "was changed meanwhile. Copy it again, or put its frames as images into a folder of its name."
            )


def frames_of(path: Path, grey: bool) -> Iterator[Image]:
    """As many frames as a folder of images or a video file gives: uint8 (H, W, C), C = 1 if `grey`, else 3 (BGR).

    Raises:
        DataError: an image cannot be decoded, or a number is missing among them.
    """
    images = (read_image(file, grey) for file in frame_files(path)) if path.is_dir() else _decode(path, grey)
    for image in images:
        yield image[..., None] if grey else image


def _decode(path: Path, grey: bool) -> Iterator[Image]:
    import cv2

    capture = cv2.VideoCapture(str(path))
    try:
        while True:
            more, image = capture.read()
            if not more:
                return
            yield cv2.cvtColor(image, cv2.COLOR_BGR2GRAY) if grey else image  # type: ignore[misc]
    finally:
        capture.release()


def frame_rate(path: Path) -> float | None:
    """Frames per second as a video file's header has it; None for images, and where it says nothing credible."""
    import cv2

    if path.is_dir():
        return None
    capture = cv2.VideoCapture(str(path))
    try:
        found = capture.get(cv2.CAP_PROP_FPS)
    finally:
        capture.release()
    return found if 0 < found <= MOST_FRAMES_PER_S else None


def video_paths(folder: Path, names: str) -> list[tuple[str, Path]]:
    """Name and path of each video in a folder, in the order of the names; empty where there is no such folder.

    Args:
        names: regular expression of a whole name without suffix; its group is the video's name, and a
            plain number becomes two digits: `Train007`, `7.avi` and `07` are all `07`.
    """
    found = []
    for path in entries(folder) if folder.is_dir() else []:
        is_file = path.suffix.lower() in VIDEO_FILES
        name = video_name(path.stem if is_file else path.name, names)
        if name and (is_file or path.is_dir()):
            found.append((name, path))
    return sorted(found)


def video_name(text: str, names: str) -> str | None:
    """The video's name in a name on disk; None where it is none."""
    match = re.fullmatch(names, text)
    if match is None:
        return None
    return f"{int(match[1]):02d}" if match[1].isdigit() else match[1]


def count_frames(path: Path, expected: int | None) -> int:
    """Frames of a video without reading them: images listed, or the header's number, 0 where there is none.

    A header that disagrees with what is expected is checked by decoding the file.
    """
    return len(_listed(path)) if path.is_dir() else _count_decoded(path, expected)


def _count_decoded(path: Path, expected: int | None) -> int:
    import cv2

    capture = cv2.VideoCapture(str(path))
    try:
        announced = max(0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT)))
        if expected is None or announced == expected:
            return announced
        count = 0
        while capture.grab():
            count += 1
        return count
    finally:
        capture.release()


def entries(folder: Path) -> list[Path]:
    """What a folder holds, hidden entries aside.

    Raises:
        DataError: the folder is missing or may not be read.
    """
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise DataError(f"{folder}: cannot be read ({error.strerror}).") from None


def _listed(folder: Path) -> list[Path]:
    return [path for path in entries(folder) if path.suffix.lower() in IMAGE_FILES]


def frame_files(folder: Path) -> list[Path]:
    """The images of a folder in the order of the numbers that end their names.

    Raises:
        DataError: a name without a number, or numbers that repeat, leave gaps or start above 1.
    """
    numbers: dict[int, Path] = {}
    for path in _listed(folder):
        digits = re.search(r"\d+$", path.stem)
        if digits is None:
            raise DataError(f"{path}: the name of a frame must end in its number, as in 001{path.suffix}. Rename it.")
        if (number := int(digits[0])) in numbers:
            raise DataError(f"{folder}: frame {number} is there twice, {numbers[number].name} and {path.name}.")
        numbers[number] = path
    first = min(min(numbers, default=1), 1)
    count = max(numbers, default=0) + 1 - first
    if count > len(numbers):
        # A number may be a time in microseconds: whatever the gap, only its start is walked through.
        end = min(first + count, first + len(numbers) + MOST_SHOWN)
        lacking = [str(n) for n in range(first, end) if n not in numbers]
        raise DataError(
            f"{folder}: {count - len(numbers):,} frames are missing, first {', '.join(lacking[:MOST_SHOWN])}; "
            "numbers run from 0 or 1 without a gap. Extract the archive again."
        )
    return [numbers[n] for n in sorted(numbers)]


def read_image(path: Path, grey: bool) -> Image:
    """uint8 (H, W) if `grey`, else (H, W, 3) BGR.

    Raises:
        DataError: the file is missing, is no image, or ends too early.
    """
    import cv2

    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}). Extract the archive again.") from None
    mode = cv2.IMREAD_GRAYSCALE if grey else cv2.IMREAD_COLOR
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), mode) if data else None
    except cv2.error:  # a damaged header that announces an absurd size
        image = None
    # OpenCV fills the rest of a JPEG that was cut off with grey and only warns; its end marker tells.
    cut_off = path.suffix.lower() in (".jpg", ".jpeg") and b"\xff\xd9" not in data[-1024:]
    if image is None or cut_off:
        raise DataError(f"{path}: damaged or not an image ({len(data):,} bytes). Extract the archive again.")
    return image  # type: ignore[return-value]


def read_masks(path: Path) -> Iterator[npt.NDArray[np.bool_]]:
    """Pixel masks of a video, (H, W) each, True where abnormal.

    Reads a folder of images, a `.npy` array (N, H, W), or the cell array `volLabel` of a `.mat` file.
    """
    if path.is_dir():
        masks: Iterable[npt.NDArray[Any]] = (read_image(file, grey=True) for file in frame_files(path))
    else:
        masks = read_array(path) if path.suffix == ".npy" else read_cells(path, "volLabel")
    return (mask != 0 for mask in masks)


def read_array(path: Path) -> npt.NDArray[Any]:
    """A `.npy` file, memory-mapped.

    Raises:
        DataError: the file is missing, damaged, or holds pickled objects, which are never loaded.
    """
    with _only_numbers(path):
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    if not isinstance(array, np.ndarray) or array.dtype.kind not in NUMBERS:
        raise DataError(f"{path}: {_not_plain(getattr(array, 'dtype', 'an archive of several arrays'))}")
    return array


def read_cells(path: Path, field: str) -> list[npt.NDArray[Any]]:
    """The cell array `field` of a `.mat` file as numeric arrays; no other variable is looked at.

    Raises:
        DataError: the file is missing or damaged, has no such cell array, or keeps anything but numbers in it
            (MATLAB functions and objects are never accepted).
    """
    from scipy.io import loadmat

    held = _variables(path)
    shape, kind = held.get(field, ((), "missing"))
    if kind != "cell" or not 0 < math.prod(shape) <= MOST_CELLS:
        names = ", ".join(f"{name} ({kind})" for name, (_, kind) in held.items()) or "nothing"
        raise DataError(f"{path}: must hold a cell array {field!r}, holds {names}. Take the data set's own label file.")
    with _only_numbers(path):
        cells = loadmat(path, variable_names=[field])[field].ravel()
    if not all(isinstance(cell, np.ndarray) and cell.dtype.kind in NUMBERS for cell in cells):
        raise DataError(f"{path}: {_not_plain(f'objects or text in {field!r}')}")
    return list(cells)


def _variables(path: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and Matlab class of each variable of a `.mat` file."""
    from scipy.io import whosmat

    with _only_numbers(path):
        with path.open("rb") as file:
            if file.read(10) != b"MATLAB 5.0":
                raise ValueError("not a MATLAB 5 file")
        return {name: (shape, kind) for name, shape, kind in whosmat(path)}


@contextmanager
def _only_numbers(path: Path) -> Iterator[None]:
    """What NumPy and SciPy raise on a file that is missing, damaged or holds objects, as a DataError."""
    from scipy.io.matlab import MatReadError

    try:
        yield
    except FileNotFoundError:
        raise DataError(f"{path}: missing. Copy it from the data set's archive.") from None
    except (OSError, EOFError, ArithmeticError, LookupError, MemoryError, ValueError, TypeError) as error:
        raise DataError(f"{path}: {_not_plain(error)}") from None
    except (NotImplementedError, TokenError, MatReadError, zlib.error, BadZipFile) as error:
        raise DataError(f"{path}: {_not_plain(error)}") from None


def _not_plain(found: object) -> str:
    return (
        f"damaged, or holds something else than plain numbers, which is never loaded ({found}). "
        "Take this file from the data set's archive."
    )


def read_spans(path: Path) -> list[npt.NDArray[np.int64]]:
    """Abnormal spans of every test video: (2, K) each, rows first and last frame, counted from 1, both included.

    Reads `gt_frame = [61:180];` lines of a `.m` file, or the cell array `gt` of a `.mat` file.

    Raises:
        DataError: the file is missing, damaged or does not hold spans.
    """
    if path.suffix == ".m":
        return [
            _parse_span(path, text) for text in re.findall(r"^[^%\n]*gt_frame\s*=\s*\[([^\]]*)\]", _text(path), re.M)
        ]
    spans = []
    for number, cell in enumerate(read_cells(path, "gt"), 1):
        span = cell.astype(np.int64).reshape(2, -1) if cell.size == 0 else cell.astype(np.int64)
        if span.ndim != 2 or len(span) != 2 or (span != cell.reshape(span.shape)).any():
            raise DataError(
                f"{path}: cell {number} of 'gt' has shape {cell.shape}; it must be 2 rows, first and last frames."
            )
        spans.append(span)
    return spans


def _text(path: Path) -> str:
    try:
        return path.read_text("latin-1")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}). Copy it from the data set's archive.") from None


def _parse_span(path: Path, text: str) -> npt.NDArray[np.int64]:
    if not re.fullmatch(r"[\s,]*(\d+\s*:\s*\d+([\s,]+|$))*", text):
        raise DataError(f"{path}: gt_frame = [{text}] must be spans such as [61:180] or [5:90, 140:200].")
    return np.array(re.findall(r"(\d+)\s*:\s*(\d+)", text), np.int64).reshape(-1, 2).T


def spans_to_labels(spans: npt.NDArray[np.int64], frames: int) -> npt.NDArray[np.uint8]:
    """Labels (N,), 1 = abnormal, of a video of that many frames; spans must be within it."""
    labels = np.zeros(frames, np.uint8)
    for first, last in spans.T:
        labels[first - 1 : last] = 1
    return labels
