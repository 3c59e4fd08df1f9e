"""The cube store: one shard a video, sealed by a manifest, read by memory-mapping.

    <store>/manifest.json                       written last; without it the store is not sealed
    <store>/labels-<set>.npz                    uint8 (frames,) a test video, 1 = abnormal; read by evaluation alone
    <store>/regions.npz                         int32 (R, 6) a test video: frame, x0, y0, x1, y1, track of each abnormal
                                                region; only where the data set has pixel masks
    <store>/<split>/<video>/frames.npy          uint8   (M, T, C, H, W)
                            flows.npy           float16 (M, T-1, 2, H, W), native pixels per frame
                            boxes.npy           float32 (M, 4), native pixels
                            frame.npy           int32   (M,), number of the frame within its video
                            shard.json          counts and SHA-256 of the four; written last

A shard without its shard.json, or whose bytes do not match it, is never taken for finished.
"""

from __future__ import annotations

import json
import mmap
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, NamedTuple, Protocol, Self
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt
from numpy.lib.format import dtype_to_descr, write_array_header_1_0

from amsrc.errors import DataError, RunError, why
from amsrc.files import digest, digest_of_json, write_json

if TYPE_CHECKING:
    from amsrc.cubes import FrameCubes

Split = Literal["train", "test"]
SPLITS: tuple[Split, Split] = ("train", "test")
VERSION = 2
ARRAYS = ("frames", "flows", "boxes", "frame")
HELD_BYTES = 64 * 2**20
"""Bytes of cubes read before the maps' pages are released, so that memory does not grow with the data set."""


@dataclass(frozen=True)
class Shard:
    """What is known of one video's cubes without opening them."""

    video: str
    video_frames: int
    """Frames of the video, with cubes or without."""
    cubes: int
    sha256: Mapping[str, str]
    """Digest of each array's file."""


def write_shard(
    store: Path, split: Split, video: str, cubes: Iterable[FrameCubes], video_frames: int, shape: Sequence[int]
) -> Shard:
    """Write one video's cubes; an interrupted write leaves nothing that is taken for a finished shard.

    Each frame's cubes are written as they come: a long video is never in memory whole.

    Args:
        cubes: in order of frames.
        video_frames: frames the video is known to have.
        shape: (T, C, H, W) of a cube, needed for a video without any.

    Raises:
        RunError: the disk is full or not writable.
    """
    folder = store / split / video
    t, _, h, w = shape
    columns = {
        "frames": _Column(tuple(shape), np.dtype(np.uint8)),
        "flows": _Column((t - 1, 2, h, w), np.dtype(np.float16)),
        "boxes": _Column((4,), np.dtype(np.float32)),
        "frame": _Column((), np.dtype(np.int32)),
    }
    number = 0
    try:
        with ExitStack() as stack:
            with _as_run_error(folder):
                shutil.rmtree(folder, ignore_errors=True)  # leftovers of an interrupted attempt
                folder.mkdir(parents=True)
            files = {name: stack.enter_context(_created(folder / f"{name}.npy")) for name in columns}
            with _as_run_error(folder):
                for name, column in columns.items():
                    column.write_header(files[name], number)
            for c in cubes:
                index = np.full(len(c.boxes), c.index, np.int32)
                parts: dict[str, npt.NDArray[Any]] = {"frames": c.frames_MTCHW, "flows": c.flows_MTCHW}
                parts |= {"boxes": c.boxes, "frame": index}
                number += len(c.boxes)
                with _as_run_error(folder):
                    for name, column in columns.items():
                        column.write(files[name], parts[name], len(c.boxes))
            with _as_run_error(folder):
                for name, column in columns.items():
                    column.write_header(files[name], number)
                    files[name].flush()
                    os.fsync(files[name].fileno())
                    files[name].seek(0)
                digests = {name: digest(file) for name, file in files.items()}
        with _as_run_error(folder):
            shard = Shard(video, video_frames, number, digests)
            write_json(folder / "shard.json", asdict(shard))
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return shard


class _Column(NamedTuple):
    """One of a shard's arrays: shape and type of one cube's entry."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def write_header(self, file: BinaryIO, cubes: int) -> None:
        """NumPy's header for so many cubes; it is padded, so that it can be rewritten with any number."""
        about = {"descr": dtype_to_descr(self.dtype), "fortran_order": False, "shape": (cubes, *self.shape)}
        file.seek(0)
        write_array_header_1_0(file, about)

    def write(self, file: BinaryIO, values: npt.NDArray[Any], cubes: int) -> None:
        """Append the values of some cubes."""
        if values.shape != (cubes, *self.shape) or values.dtype != self.dtype:
            raise ValueError(f"{values.dtype} {values.shape} among cubes, not {self.dtype} {(cubes, *self.shape)}")
        file.write(np.ascontiguousarray(values).data)


@contextmanager
def _created(path: Path) -> Iterator[BinaryIO]:
    """A new file, closed in the end; after a failure without another error for what its buffer still holds."""
    with _as_run_error(path.parent):
        file = path.open("w+b")
    try:
        yield file
    except BaseException:
        with suppress(OSError):
            file.close()
        raise
    with _as_run_error(path.parent):
        file.close()


@contextmanager
def _as_run_error(folder: Path) -> Iterator[None]:
    """The system's error on writing there, as this program's own."""
    try:
        yield
    except OSError as error:
        raise RunError(
            f"cannot write cubes to {folder}: {error.strerror}. Free space or choose another --home."
        ) from None


def finished_shard(store: Path, split: Split, video: str) -> Shard | None:
    """The shard of a video that was written whole, else None. Sizes are checked here, bytes in `verify`."""
    folder = store / split / video
    try:
        shard = Shard(**json.loads((folder / "shard.json").read_text()))
        shapes = {name: np.load(folder / f"{name}.npy", "r", allow_pickle=False).shape for name in ARRAYS}
    except (OSError, ValueError, TypeError, EOFError):
        return None
    return shard if all(shape[:1] == (shard.cubes,) for shape in shapes.values()) else None


def manifest(shards: Mapping[Split, Sequence[Shard]], about: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest over finished shards. `about`: what the store was made of and with which settings."""
    splits = {split: [asdict(shard) for shard in found] for split, found in shards.items()}
    content = digest_of_json(splits)
    return {"version": VERSION, **about, "sha256": content, "splits": splits}


def seal(store: Path, shards: Mapping[Split, Sequence[Shard]], about: Mapping[str, Any]) -> None:
    """Write the manifest: from now on the store is whole."""
    write_json(store / "manifest.json", manifest(shards, about))


class Folder(Protocol):
    """A folder that can be asked for the text of a file: `pathlib.Path`, or one elsewhere."""

    def __truediv__(self, name: str, /) -> Self: ...

    def read_text(self) -> str: ...


class Sealed:
    """The manifest of a sealed store; its cubes need not be on this machine.

    Attributes:
        path: the store's folder, as it was given.
        text: its manifest as it was read.
        manifest: the same, parsed.
        sha256: digest over all shards: two stores with the same digest hold the same cubes.

    Raises:
        DataError: not sealed, or of another version.
    """

    def __init__(self, path: Folder) -> None:
        self.path: Any = path
        damaged = DataError(f"{path}/manifest.json is damaged. Delete it and run `amsrc-bench prepare` again.")
        try:
            self.text = (path / "manifest.json").read_text()
            self.manifest: dict[str, Any] = {**json.loads(self.text)}
        except FileNotFoundError:
            raise DataError(
                f"{path} is not a finished cube store. Run `amsrc-bench prepare` again; it resumes."
            ) from None
        except (ValueError, TypeError):
            raise damaged from None
        if self.manifest.get("version") != VERSION:
            raise DataError(f"{path} has store version {self.manifest.get('version')}, this program reads {VERSION}.")
        try:
            self.sha256 = str(self.manifest["sha256"])
            self._shards: dict[Split, list[Shard]] = {
                split: [Shard(**entry) for entry in self.manifest["splits"][split]] for split in SPLITS
            }
        except (KeyError, TypeError):
            raise damaged from None

    def labels_sha256(self, label_set: str) -> str | None:
        """Digest of a label set's file; None where the store was prepared without it."""
        digests: dict[str, str] = self.manifest.get("labels", {})
        return digests.get(label_set)

    @property
    def regions_sha256(self) -> str | None:
        """Digest of the file of abnormal regions; None where the store was prepared without it."""
        digest: str | None = self.manifest.get("regions")
        return digest

    def files(self) -> dict[str, str]:
        """Every file that the manifest lists, by its name within the store, and its digest."""
        shards = [(split, shard) for split in SPLITS for shard in self.shards(split)]
        return {
            f"{split}/{shard.video}/{name}.npy": sha for split, shard in shards for name, sha in shard.sha256.items()
        } | self.beside_cubes()

    def beside_cubes(self) -> dict[str, str]:
        """Those of them that are no shards', likewise."""
        labels = {f"labels-{name}.npz": sha for name, sha in self.manifest.get("labels", {}).items()}
        return labels | ({"regions.npz": self.regions_sha256} if self.regions_sha256 else {})

    def shards(self, split: Split) -> list[Shard]:
        """What is known of each video's cubes, in order."""
        return self._shards[split]


class CubeStore(Sealed):
    """A sealed store in a folder of this machine. `store.train` and `store.test` give the cubes.

    Args:
        origin: where it was copied from, if it is a copy.

    Raises:
        DataError: not sealed, of another version, or a shard does not fit the manifest.
    """

    path: Path

    def __init__(self, path: Path, origin: Folder | None = None) -> None:
        super().__init__(path)
        self.origin: Any = origin or path

    @cached_property
    def train(self) -> Cubes:
        return self._cubes("train")

    @cached_property
    def test(self) -> Cubes:
        return self._cubes("test")

    def _cubes(self, split: Split) -> Cubes:
        return Cubes(self.path / split, self.shards(split))

    def labels(self, label_set: str) -> dict[str, npt.NDArray[np.uint8]]:
        """Labels of the test videos, uint8 (frames,), 1 = abnormal.

        Raises:
            DataError: the data set was prepared without this label set.
        """
        path = self.path / f"labels-{label_set}.npz"
        if not path.is_file():
            have = [p.stem.removeprefix("labels-") for p in self.path.glob("labels-*.npz")]
            raise DataError(f"{path} is missing: the store has the label sets {', '.join(have)}. Prepare it again.")
        return self._by_test_video(path)

    def regions(self) -> dict[str, npt.NDArray[np.int32]] | None:
        """Abnormal regions of the test videos, int32 (R, 6): frame, x0, y0, x1, y1 and track, native pixels.

        None where the store was prepared without pixel masks, or before there were regions.

        Raises:
            DataError: the file is missing or damaged.
        """
        return None if self.regions_sha256 is None else self._by_test_video(self.path / "regions.npz")

    def _by_test_video(self, path: Path) -> dict[str, npt.NDArray[Any]]:
        try:
            with np.load(path, allow_pickle=False) as archive:
                return {shard.video: archive[shard.video] for shard in self.test.shards}
        except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
            raise DataError(
                f"{path} cannot be read ({why(error)}). Delete it and run `amsrc-bench prepare` again."
            ) from None

    def verify(self) -> None:
        """Read every byte and compare with the manifest.

        Raises:
            DataError: names each damaged file.
        """
        wanted = {self.path / name: sha for name, sha in self.files().items()}
        bad = [str(path) for path, sha in wanted.items() if not path.is_file() or digest(path) != sha]
        if bad:
            raise DataError(
                f"damaged or missing in the cube store: {', '.join(bad)}. Delete them and run `amsrc-bench prepare`."
            )


class Cubes:
    """The cubes of one split, memory-mapped: the videos one after the other, each in order of frames.

    Attributes:
        folder: of the split.
        shards: one a video, in order.
        video: (n,) int32 position of each cube's video in `shards`.
        frame: (n,) int32 number of each cube's frame within its video.
        boxes: (n, 4) float32 native pixels.
    """

    def __init__(self, folder: Path, shards: Sequence[Shard]) -> None:
        self.folder, self.shards = folder, list(shards)
        self._maps = {name: [_open(folder / s.video / f"{name}.npy", s) for s in shards] for name in ARRAYS}
        self._read = 0  # bytes since the maps were last released
        self._advise(mmap.MADV_RANDOM)  # else each cube that is touched has megabytes around it read too
        self.starts = np.concatenate([[0], np.cumsum([s.cubes for s in shards])]).astype(np.int64)
        self.video = np.repeat(np.arange(len(shards), dtype=np.int32), [s.cubes for s in shards])
        self.frame: npt.NDArray[np.int32] = np.concatenate(self._maps["frame"])
        self.boxes: npt.NDArray[np.float32] = np.concatenate(self._maps["boxes"])

    def __len__(self) -> int:
        return int(self.starts[-1])

    @property
    def nbytes(self) -> int:
        """Size of all frames and flows."""
        return sum(array.nbytes for name in ("frames", "flows") for array in self._maps[name])

    def frames(self, rows: npt.NDArray[np.integer]) -> npt.NDArray[np.uint8]:
        """Frames of the cubes with these numbers, in this order: (B, T, C, H, W) uint8."""
        return self._gather("frames", rows)

    def flows(self, rows: npt.NDArray[np.integer]) -> npt.NDArray[np.float16]:
        """Flows of the cubes with these numbers, in this order: (B, T-1, 2, H, W) float16, native pixels per frame."""
        return self._gather("flows", rows)

    def _gather(self, name: str, rows: npt.NDArray[np.integer]) -> npt.NDArray[Any]:
        if len(rows) and not 0 <= rows.min() <= rows.max() < len(self):
            raise IndexError(f"cubes are numbered 0 to {len(self) - 1}")
        maps = self._maps[name]
        out = np.empty((len(rows), *maps[0].shape[1:]), maps[0].dtype)
        shards = np.searchsorted(self.starts, rows, side="right") - 1
        for shard in np.unique(shards):
            here = np.flatnonzero(shards == shard)
            wanted = rows[here] - self.starts[shard]
            _announce(maps[shard], wanted)
            out[here] = maps[shard][wanted]
        self._read += out.nbytes
        if self._read > HELD_BYTES:
            self._advise(mmap.MADV_DONTNEED)
            self._read = 0
        return out

    def _advise(self, advice: int) -> None:
        """Tell the system about all maps of frames and flows."""
        for array in (*self._maps["frames"], *self._maps["flows"]):
            if isinstance(array.base, mmap.mmap):  # a video without cubes has no map
                array.base.madvise(advice)


def _announce(array: npt.NDArray[Any], rows: npt.NDArray[np.integer]) -> None:
    """Have the system fetch these rows of a map all at once: touched one by one, each would wait for the disk."""
    if isinstance(array, np.memmap) and isinstance(array.base, mmap.mmap):
        size, first = array.strides[0], array.offset % mmap.ALLOCATIONGRANULARITY
        for place in (first + rows * size).tolist():
            start = place // mmap.PAGESIZE * mmap.PAGESIZE
            array.base.madvise(mmap.MADV_WILLNEED, start, place + size - start)


def _open(path: Path, shard: Shard) -> npt.NDArray[Any]:
    try:
        array: npt.NDArray[Any] = np.load(path, "r" if shard.cubes else None, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(
            f"{path} cannot be read ({why(error)}). Delete its folder and run `amsrc-bench prepare` again."
        ) from None
    if len(array) != shard.cubes:
        raise DataError(f"{path} holds {len(array)} cubes, the manifest says {shard.cubes}. Prepare the store again.")
    return array
