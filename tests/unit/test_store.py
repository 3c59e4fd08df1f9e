"""The cube store: what was written comes back, and nothing damaged or half-written is taken for finished."""

import errno
import json
import mmap
import os
import shutil
import subprocess
import sys
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from amsrc import store as store_module
from amsrc.cubes import FrameCubes
from amsrc.errors import DataError, RunError
from amsrc.files import digest, write_json
from amsrc.store import (
    ARRAYS,
    SPLITS,
    VERSION,
    Cubes,
    CubeStore,
    Shard,
    Split,
    finished_shard,
    seal,
    write_shard,
)
from tests.messages import error_naming

SHAPE = (3, 1, 8, 8)
VIDEOS: dict[Split, dict[str, Sequence[int]]] = {  # boxes in each frame
    "train": {"01": (2, 0, 3), "02": (0, 0), "03": (1, 1)},
    "test": {"01": (0, 4), "02": (2,)},
}


def video(counts: Sequence[int], seed: int = 0) -> list[FrameCubes]:
    rng = np.random.default_rng(seed)
    return [
        FrameCubes(
            index,
            rng.uniform(0, 30, (m, 4)).astype(np.float32),
            rng.integers(0, 256, (m, *SHAPE), dtype=np.uint8),
            rng.normal(0, 2, (m, SHAPE[0] - 1, 2, *SHAPE[2:])).astype(np.float16),
        )
        for index, m in enumerate(counts)
        if m
    ]


def put(store: Path, split: Split, name: str, counts: Sequence[int], seed: int = 0) -> Shard:
    return write_shard(store, split, name, video(counts, seed), len(counts), SHAPE)


def build(path: Path, **about: object) -> CubeStore:
    shards = {
        split: [put(path, split, name, counts, seed) for seed, (name, counts) in enumerate(videos.items())]
        for split, videos in VIDEOS.items()
    }
    np.savez_compressed(path / "labels-official.npz", **{"01": np.array([0, 1], "u1"), "02": np.array([1], "u1")})
    seal(path, shards, about)
    return CubeStore(path)


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> CubeStore:
    """Not to be damaged."""
    return build(tmp_path_factory.mktemp("store") / "pristine", dataset="toy")


@pytest.fixture
def store(pristine: CubeStore, tmp_path: Path) -> CubeStore:
    """A copy to damage."""
    return CubeStore(Path(shutil.copytree(pristine.path, tmp_path / "store")))


def whole(split: Split, field: str) -> Any:
    videos = [video(counts, seed) for seed, counts in enumerate(VIDEOS[split].values())]
    return np.concatenate([getattr(one, field) for cubes in videos for one in cubes])


def everything(cubes: Cubes) -> Any:
    return np.arange(len(cubes))


# Round trip


@pytest.mark.parametrize("split", SPLITS)
def test_what_was_written_comes_back(pristine: CubeStore, split: Split) -> None:
    cubes: Cubes = getattr(pristine, split)
    frames, flows = cubes.frames(everything(cubes)), cubes.flows(everything(cubes))
    assert (frames.dtype, flows.dtype, cubes.boxes.dtype) == (np.uint8, np.float16, np.float32)
    np.testing.assert_array_equal(frames, whole(split, "frames_MTCHW"))
    np.testing.assert_array_equal(flows, whole(split, "flows_MTCHW"))
    np.testing.assert_array_equal(cubes.boxes, whole(split, "boxes"))


def test_rows_are_videos_in_order_and_their_frames_in_order(pristine: CubeStore) -> None:
    assert [shard.video for shard in pristine.train.shards] == ["01", "02", "03"]
    assert [shard.video_frames for shard in pristine.train.shards] == [3, 2, 2]
    assert pristine.train.video.tolist() == [0, 0, 0, 0, 0, 2, 2]
    assert pristine.train.frame.tolist() == [0, 0, 2, 2, 2, 0, 1]
    assert pristine.test.frame.tolist() == [1, 1, 1, 1, 0, 0]
    assert (len(pristine.train), len(pristine.test)) == (7, 6)


@pytest.mark.parametrize("rows", [[6, 0, 5, 4, 4, 2], [4, 5], [6], [], list(range(6, -1, -1))], ids=str)
def test_cubes_are_gathered_across_shards_in_any_order(pristine: CubeStore, rows: list[int]) -> None:
    numbers = np.array(rows, np.int64)
    np.testing.assert_array_equal(pristine.train.frames(numbers), whole("train", "frames_MTCHW")[numbers])
    np.testing.assert_array_equal(pristine.train.flows(numbers), whole("train", "flows_MTCHW")[numbers])


def test_a_row_that_is_not_there_is_an_error(pristine: CubeStore) -> None:
    for row in (-1, 7):
        with pytest.raises(IndexError):
            pristine.train.frames(np.array([row]))


def test_maps_are_let_go_of_and_read_again(pristine: CubeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[int] = []
    plain = store_module.Cubes._advise
    monkeypatch.setattr(store_module.Cubes, "_advise", lambda self, advice: (told.append(advice), plain(self, advice)))
    cubes = CubeStore(pristine.path).train
    monkeypatch.setattr(store_module, "HELD_BYTES", 3 * cubes.frames(np.arange(1)).nbytes)
    expected = whole("train", "frames_MTCHW")
    for row in (*range(7), *range(7)):
        np.testing.assert_array_equal(cubes.frames(np.array([row])), expected[[row]])
    assert told == [mmap.MADV_RANDOM, *[mmap.MADV_DONTNEED] * 3]


def test_the_arrays_are_memory_mapped_and_counted(pristine: CubeStore) -> None:
    assert isinstance(np.load(pristine.path / "train/01/frames.npy", "r", allow_pickle=False), np.memmap)
    frame, flow = int(np.prod(SHAPE)), 2 * int(np.prod((SHAPE[0] - 1, 2, *SHAPE[2:])))
    assert pristine.train.nbytes == 7 * (frame + flow)


def test_a_split_of_empty_videos_is_an_empty_split(tmp_path: Path) -> None:
    shards = {split: [put(tmp_path, split, "01", (0, 0)), put(tmp_path, split, "02", (0,))] for split in SPLITS}
    seal(tmp_path, shards, {})
    cubes = CubeStore(tmp_path).train
    assert len(cubes) == 0
    assert cubes.frames(everything(cubes)).shape == (0, *SHAPE)
    assert cubes.flows(everything(cubes)).shape == (0, SHAPE[0] - 1, 2, *SHAPE[2:])


def test_a_finished_shard_says_what_it_holds(pristine: CubeStore) -> None:
    shard = finished_shard(pristine.path, "train", "01")
    assert shard == pristine.train.shards[0]
    assert shard is not None and set(shard.sha256) == set(ARRAYS)
    empty = finished_shard(pristine.path, "train", "02")
    assert empty is not None and (empty.cubes, empty.video_frames) == (0, 2)
    assert finished_shard(pristine.path, "train", "99") is None


def test_equal_cubes_have_an_equal_digest_wherever_they_lie(pristine: CubeStore, tmp_path: Path) -> None:
    assert build(tmp_path / "again", dataset="toy", remark="other").sha256 == pristine.sha256
    shards = {split: [put(tmp_path, split, "01", (1,), seed=9)] for split in SPLITS}
    seal(tmp_path, shards, {})
    assert CubeStore(tmp_path).sha256 != pristine.sha256


def test_the_manifest_says_what_the_store_was_made_of(pristine: CubeStore) -> None:
    assert (pristine.manifest["version"], pristine.manifest["dataset"]) == (VERSION, "toy")


def test_labels_come_back_by_video(store: CubeStore) -> None:
    labels = store.labels("official")
    assert {name: row.tolist() for name, row in labels.items()} == {"01": [0, 1], "02": [1]}


# Damage


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def test_an_undamaged_store_passes(pristine: CubeStore) -> None:
    pristine.verify()


@pytest.mark.parametrize("name", ARRAYS)
@pytest.mark.parametrize("damage", [flip_a_byte, cut_short, Path.unlink])
def test_every_damage_is_found_and_named(store: CubeStore, name: str, damage: Any) -> None:
    path = store.path / "test" / "01" / f"{name}.npy"
    damage(path)
    with pytest.raises(DataError) as caught:
        store.verify()
    assert str(path) in str(caught.value)
    assert str(caught.value).count(".npy") == 1
    assert "amsrc-bench prepare" in str(caught.value)


def test_all_damaged_files_are_named_at_once(store: CubeStore) -> None:
    paths = [store.path / "train/03/flows.npy", store.path / "test/02/boxes.npy"]
    for path in paths:
        flip_a_byte(path)
    with pytest.raises(DataError) as caught:
        store.verify()
    assert all(str(path) in str(caught.value) for path in paths)


def emptied(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [cut_short, emptied, Path.unlink])
def test_a_truncated_shard_is_neither_opened_nor_finished(store: CubeStore, damage: Any) -> None:
    path = store.path / "train/01/frames.npy"
    damage(path)
    assert finished_shard(store.path, "train", "01") is None
    with error_naming(DataError, "train/01/frames.npy", "`amsrc-bench prepare`"):
        _ = store.train


def test_a_shard_of_another_number_of_cubes_is_refused(store: CubeStore) -> None:
    put(store.path, "train", "01", (1,))
    with error_naming(DataError, "train/01/frames.npy", "1 cubes", "5"):
        _ = store.train


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", '{"video": "01"}'])
def test_a_damaged_shard_json_is_not_a_finished_shard(store: CubeStore, text: str) -> None:
    (store.path / "train/01/shard.json").write_text(text)
    assert finished_shard(store.path, "train", "01") is None


def test_a_shard_with_a_single_number_is_not_finished(store: CubeStore) -> None:
    np.save(store.path / "train/01/boxes.npy", np.array(3))
    assert finished_shard(store.path, "train", "01") is None


def test_nobody_is_advised_to_load_a_file_unsafely(store: CubeStore) -> None:
    np.save(store.path / "train/01/boxes.npy", np.array([{}] * 5, object), allow_pickle=True)
    with pytest.raises(DataError, match=r"cut short, or of another kind") as caught:
        _ = store.train
    assert "pickle" not in str(caught.value) and "unsafe" not in str(caught.value)


def test_nothing_is_ever_unpickled(store: CubeStore, tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
            return os.mkdir, (str(tmp_path / "executed"),)

    for video_name, cubes in (("01", 5), ("02", 0)):
        path = store.path / "train" / video_name / "boxes.npy"
        np.save(path, np.array([Hostile()] * cubes, object), allow_pickle=True)
        assert finished_shard(store.path, "train", video_name) is None
    with error_naming(DataError, "train/01/boxes.npy"):
        _ = store.train
    assert not (tmp_path / "executed").exists()


def test_an_unsealed_store_is_refused(store: CubeStore) -> None:
    (store.path / "manifest.json").unlink()
    with error_naming(DataError, "`amsrc-bench prepare`"):
        CubeStore(store.path)


@pytest.mark.parametrize("kept", [0, 1, 200])
def test_a_damaged_manifest_is_refused(store: CubeStore, kept: int) -> None:
    path = store.path / "manifest.json"
    path.write_text(path.read_text()[:kept])
    with error_naming(DataError, "manifest.json", "`amsrc-bench prepare`"):
        CubeStore(store.path)


@pytest.mark.parametrize(
    "text", ["[]", "3", '{"version": 2}', '{"version": 2, "sha256": "a", "splits": {"train": [1]}}']
)
def test_a_manifest_of_another_form_is_refused(store: CubeStore, text: str) -> None:
    (store.path / "manifest.json").write_text(text)
    with error_naming(DataError, "manifest.json", "`amsrc-bench prepare`"):
        CubeStore(store.path)


def test_a_store_of_another_version_is_refused(store: CubeStore) -> None:
    path = store.path / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "version": VERSION + 1}))
    with error_naming(DataError, f"version {VERSION + 1}", f"reads {VERSION}"):
        CubeStore(store.path)


def test_missing_labels_are_named_with_those_there_are(store: CubeStore) -> None:
    with error_naming(DataError, "labels-intervals.npz", "official"):
        store.labels("intervals")


def with_regions(path: Path) -> tuple[CubeStore, dict[str, np.ndarray]]:
    """A store of three test videos' worth of regions, the second without any."""
    found = {"01": np.array([[0, 1, 2, 3, 4, 0], [1, 1, 2, 3, 4, 0]], "i4"), "02": np.zeros((0, 6), "i4")}
    store = build(path)
    np.savez_compressed(path / "regions.npz", allow_pickle=False, **found)
    manifest = {**store.manifest, "regions": digest(path / "regions.npz")}
    (path / "manifest.json").write_text(json.dumps(manifest))
    return CubeStore(path), found


def test_regions_come_back_by_video_and_belong_to_what_is_verified(tmp_path: Path) -> None:
    store, found = with_regions(tmp_path / "store")
    regions = store.regions()
    assert regions is not None and list(regions) == ["01", "02"]
    assert all((regions[video] == found[video]).all() for video in found)
    store.verify()
    assert store.beside_cubes() == {"regions.npz": store.regions_sha256}
    cut_short(store.path / "regions.npz")
    with pytest.raises(DataError, match=r"regions.npz"):
        store.regions()
    with error_naming(DataError, "regions.npz"):
        store.verify()


def test_a_store_without_regions_opens_as_before(store: CubeStore) -> None:
    assert (store.regions(), store.regions_sha256) == (None, None)
    store.verify()


def test_damaged_labels_are_refused_by_name(store: CubeStore) -> None:
    cut_short(store.path / "labels-official.npz")
    with pytest.raises(DataError, match=r"labels-official.npz"):
        store.labels("official")


# A full disk, an interrupted attempt


@pytest.mark.parametrize("written", range(len(ARRAYS) + 1))
def test_a_full_disk_leaves_nothing_that_looks_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: int
) -> None:
    """Whichever file of the shard it strikes, `shard.json` included; once there is space, it goes on."""
    real, left = os.fsync, [written]

    def fsync(descriptor: int) -> None:
        if not left[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        left[0] -= 1
        real(descriptor)

    with monkeypatch.context() as full:
        full.setattr(os, "fsync", fsync)
        with error_naming(RunError, "train/01", "No space left on device"):
            put(tmp_path, "train", "01", (2, 1))
    assert finished_shard(tmp_path, "train", "01") is None
    shard = put(tmp_path, "train", "01", (2, 1))
    assert finished_shard(tmp_path, "train", "01") == shard


FULL = """
import resource, signal, sys
from pathlib import Path
from amsrc.errors import RunError
from tests.unit.test_store import put

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
try:
    put(Path(sys.argv[1]), "train", "01", [3] * 40)
except RunError as error:
    print(error)
"""


@pytest.mark.parametrize("most", [0, 100, 5_000, 20_000])
def test_a_file_that_cannot_grow_is_an_error_with_a_way_out(tmp_path: Path, most: int) -> None:
    """The system refuses real writes, in the middle or as a buffer is flushed, and again as the file is closed."""
    command = [sys.executable, "-c", FULL, str(tmp_path), str(most)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "cannot write cubes to" in done.stdout
    assert "File too large. Free space or choose another --home." in done.stdout
    assert not (tmp_path / "train" / "01").exists()


@pytest.mark.parametrize("wrong", [np.zeros((1, 3, 1, 8, 9), np.uint8), np.zeros((1, *SHAPE), np.float32)])
def test_cubes_of_another_form_than_the_shards_are_refused(tmp_path: Path, wrong: Any) -> None:
    good = video((1,))[0]
    bad = FrameCubes(1, good.boxes, wrong, good.flows_MTCHW)
    with pytest.raises(ValueError, match="among cubes, not uint8"):
        write_shard(tmp_path, "train", "01", [good, bad], 2, SHAPE)
    assert not (tmp_path / "train" / "01").exists()


def test_an_unwritable_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "train").write_text("a file where a folder must be")
    with error_naming(RunError, "train/01", "Not a directory"):
        put(tmp_path, "train", "01", (1,))


def test_leftovers_of_an_interrupted_attempt_are_replaced(tmp_path: Path) -> None:
    put(tmp_path, "train", "01", (5, 5), seed=1)
    folder = tmp_path / "train" / "01"
    (folder / "shard.json").unlink()
    (folder / "half-written").write_text("")
    assert finished_shard(tmp_path, "train", "01") is None
    shard = put(tmp_path, "train", "01", (2,), seed=2)
    assert {path.name for path in folder.iterdir()} == {*(f"{name}.npy" for name in ARRAYS), "shard.json"}
    assert shard.cubes == 2


def test_an_error_in_the_video_leaves_no_shard(tmp_path: Path) -> None:
    def broken() -> Any:
        yield from video((1, 1))
        raise DataError("frame 2 is damaged")

    with pytest.raises(DataError, match="frame 2 is damaged"):
        write_shard(tmp_path, "train", "01", broken(), 3, SHAPE)
    assert not (tmp_path / "train" / "01").exists()


def test_files_are_numpys_own(tmp_path: Path) -> None:
    made = video((3, 0, 2, 7))
    write_shard(tmp_path, "train", "01", made, 4, SHAPE)
    np.save(tmp_path / "whole.npy", np.concatenate([c.frames_MTCHW for c in made]))
    assert (tmp_path / "train" / "01" / "frames.npy").read_bytes() == (tmp_path / "whole.npy").read_bytes()


def test_cubes_of_a_frame_are_let_go_before_the_next_come(tmp_path: Path) -> None:
    """A long video must not lie in memory."""
    seen: list[weakref.ref[FrameCubes]] = []

    def one_by_one() -> Iterator[FrameCubes]:
        for index in range(6):
            assert sum(ref() is not None for ref in seen) <= 1
            cubes = video((0,) * index + (2,), seed=index)[0]
            seen.append(weakref.ref(cubes))
            yield cubes
            del cubes

    assert write_shard(tmp_path, "train", "01", one_by_one(), 6, SHAPE).cubes == 12


def test_json_that_cannot_be_written_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "about.json"
    write_json(path, {"good": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"bad": float("nan")})
    assert json.loads(path.read_text()) == {"good": 1}
    assert [one.name for one in tmp_path.iterdir()] == ["about.json"]
