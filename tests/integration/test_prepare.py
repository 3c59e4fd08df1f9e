"""Videos -> cube store on Ray: what it holds, what is cut again and what is not, and what is refused.

The data set is the rendered `toy-ped2` with clips of a few frames. Test video 03 is the shortest of all, so it is
cut last.
"""

import errno
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from amsrc import boxes, flow
from amsrc.config import FlowConfig
from amsrc.cubes import cut
from amsrc.errors import ConfigError, DataError, RunError
from amsrc.store import SPLITS, CubeStore, Split, finished_shard, seal, write_shard
from bench.data import datasets, toy
from bench.data.prepare import prepare, prepare_video, providers
from bench.data.stores import Sources, find_store, store_path, summary
from bench.experiment.config import Experiment, derive, dump, override, provider_fields
from bench.experiment.recipes import build
from tests.messages import error_naming

NAME = "toy-ped2"
FRAMES: dict[Split, dict[str, int]] = {"train": {"01": 10, "02": 10}, "test": {"01": 10, "02": 9, "03": 8}}
VIDEOS = sum(len(videos) for videos in FRAMES.values())
EXPERIMENT = override(build("amsrc", NAME), {"cube.size": "8"})

pytestmark = pytest.mark.usefixtures("ray_cluster")


class Progress:
    """Notes which videos were cut; tasks run in other processes, where calls cannot be counted."""

    def __init__(self) -> None:
        self.lines: list[tuple[int, int]] = []
        self.cut: list[str] = []

    def __call__(self, done: int, whole: int, name: str) -> None:
        self.lines.append((done, whole))
        self.cut.append(name)


@pytest.fixture(scope="session")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not to be damaged."""
    root = tmp_path_factory.mktemp("rendered")
    with pytest.MonkeyPatch.context() as short:
        for split, clips in (("train", toy.TRAIN), ("test", toy.TEST)):
            frames = FRAMES[split].items()
            chosen = [replace(clip, frames=n) for clip, (_, n) in zip(clips[NAME], frames, strict=False)]
            short.setitem(clips, NAME, chosen)
        toy.render_one(NAME, root)
    return root


@pytest.fixture(scope="session")
def finished(ray_cluster: None, rendered: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Progress]:
    """A home with the whole data set prepared, and what was said meanwhile. Not to be damaged."""
    home, progress = tmp_path_factory.mktemp("prepared") / "home", Progress()
    prepare(EXPERIMENT, Sources(rendered), home, progress=progress)
    return home, progress


@pytest.fixture
def root(rendered: Path, tmp_path: Path) -> Path:
    """A copy of the data to damage."""
    return Path(shutil.copytree(rendered, tmp_path / "data"))


@pytest.fixture
def home(finished: tuple[Path, Progress], tmp_path: Path) -> Path:
    """A copy of the prepared home to damage."""
    return Path(shutil.copytree(finished[0], tmp_path / "home"))


def changed_at(store: Path) -> dict[str, int]:
    """When each file of the shards was last written."""
    return {str(path.relative_to(store)): path.stat().st_mtime_ns for path in store.glob("*/*/*")}


def contents(store: Path) -> dict[str, bytes]:
    """What lies beside the shards."""
    return {path.name: path.read_bytes() for path in store.glob("*.json")}


def shards(store: Path) -> list[str]:
    return [f"{split}/{name}" for split in SPLITS for name in FRAMES[split] if finished_shard(store, split, name)]


def put_boxes(folder: Path, frames: dict[Split, int]) -> dict[Split, npt.NDArray[np.float32]]:
    """A boxes file a split: one box in each frame, no two alike."""
    folder.mkdir()
    made: dict[Split, npt.NDArray[np.float32]] = {}
    for split, count in frames.items():
        x0 = np.arange(count, dtype=np.float32)
        made[split] = np.stack([x0, 0 * x0 + 5, x0 + 20, 0 * x0 + 30], 1)
        np.savez(folder / f"boxes_{split}.npz", boxes=made[split], offsets=np.arange(count + 1))
    return made


def from_files(root: Path, folder: Path) -> tuple[Experiment, Sources]:
    boxes = f"file:{folder}/boxes_{{split}}.npz"
    return override(EXPERIMENT, provider_fields(boxes, None)), Sources.of(root, boxes, None)


def total(split: Split) -> int:
    return sum(FRAMES[split].values())


# What it holds


def test_the_store_holds_what_cutting_each_video_gives(rendered: Path, finished: tuple[Path, Progress]) -> None:
    store = CubeStore(store_path(finished[0], EXPERIMENT))
    store.verify()
    dataset = datasets.find(NAME, rendered)
    boxes_of, flow_of = boxes.moving(EXPERIMENT.cube.boxes), flow.dis(EXPERIMENT.cube.flow)
    for split in SPLITS:
        cubes = getattr(store, split)
        alone = [list(cut(v.name, v.read(), boxes_of, flow_of, EXPERIMENT.cube)) for v in dataset.split(split)]
        rows = [one for video in alone for one in video]
        assert [shard.cubes for shard in cubes.shards] == [sum(len(one.boxes) for one in video) for video in alone]
        assert len(cubes) > 0, "nothing moves in the rendered videos: this test shows nothing"
        everything = np.arange(len(cubes))
        np.testing.assert_array_equal(cubes.frames(everything), np.concatenate([r.frames_MTCHW for r in rows]))
        np.testing.assert_array_equal(cubes.flows(everything), np.concatenate([r.flows_MTCHW for r in rows]))
        np.testing.assert_array_equal(cubes.boxes, np.concatenate([r.boxes for r in rows]))
        np.testing.assert_array_equal(cubes.frame, np.repeat([r.index for r in rows], [len(r.boxes) for r in rows]))


def test_the_store_knows_its_videos_labels_and_origin(rendered: Path, finished: tuple[Path, Progress]) -> None:
    store = CubeStore(store_path(finished[0], EXPERIMENT))
    counts = summary(store)
    assert (counts["train_videos"], counts["train_frames"]) == (2, 20)
    assert (counts["test_videos"], counts["test_frames"]) == (3, 27)
    assert counts["test_cubes"] == len(store.test)
    labels, expected = store.labels("official"), datasets.find(NAME, rendered).labels()
    assert list(labels) == list(expected) == ["01", "02", "03"]
    assert all((labels[name] == expected[name]).all() for name in expected)
    assert store.manifest["dataset"] == NAME
    assert store.manifest["partial"] is False
    assert store.manifest["cube"] == dump(EXPERIMENT)["cube"]
    frames = {
        split: {name: about["frames"] for name, about in videos.items()}
        for split, videos in store.manifest["videos"].items()
    }
    assert frames == FRAMES
    assert str(rendered) not in (store.path / "manifest.json").read_text()


def test_the_store_knows_the_regions_of_the_pixel_masks(rendered: Path, finished: tuple[Path, Progress]) -> None:
    store, dataset = CubeStore(store_path(finished[0], EXPERIMENT)), datasets.find(NAME, rendered)
    regions = store.regions()
    assert regions is not None and list(regions) == ["01", "02", "03"]
    for name, found in regions.items():
        masks = dataset.masks(name)
        assert masks is not None
        assert set(found[:, 0].tolist()) == set(np.flatnonzero(masks.any((1, 2))).tolist())
        for frame in np.unique(found[:, 0]):
            rows, columns = np.nonzero(masks[frame])
            own = found[found[:, 0] == frame]
            assert (own[:, 1].min(), own[:, 2].min()) == (columns.min(), rows.min())
            assert (own[:, 3].max(), own[:, 4].max()) == (columns.max() + 1, rows.max() + 1)
    assert sum(map(len, regions.values())) > 5, "something is planted in these clips"


def test_every_video_is_counted_once(finished: tuple[Path, Progress]) -> None:
    progress = finished[1]
    assert progress.lines == [(done, VIDEOS) for done in range(1, VIDEOS + 1)]
    assert sorted(progress.cut) == sorted(f"{split}/{name}" for split in SPLITS for name in FRAMES[split])


# Going on


def test_a_second_call_cuts_nothing(rendered: Path, home: Path) -> None:
    path, progress = store_path(home, EXPERIMENT), Progress()
    before, beside, sha256 = changed_at(path), contents(path), CubeStore(path).sha256
    again = prepare(EXPERIMENT, Sources(rendered), home, progress=progress)
    assert (progress.cut, again.path, again.sha256) == ([], path, sha256)
    assert changed_at(path) == before
    assert contents(path) == beside


def test_a_store_of_an_older_program_gets_regions_and_nothing_is_cut_again(rendered: Path, home: Path) -> None:
    path, progress = store_path(home, EXPERIMENT), Progress()
    manifest = json.loads((path / "manifest.json").read_text())
    regions = manifest.pop("regions")
    (path / "manifest.json").write_text(json.dumps(manifest))
    (path / "regions.npz").unlink()
    before, sha256 = changed_at(path), CubeStore(path).sha256
    again = prepare(EXPERIMENT, Sources(rendered), home, progress=progress)
    assert (progress.cut, again.sha256, again.regions_sha256) == ([], sha256, regions)
    assert changed_at(path) == before
    CubeStore(path).verify()


def test_damaged_regions_are_made_again_and_whole_ones_are_not_read_again(
    root: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = store_path(home, EXPERIMENT)
    whole = (path / "regions.npz").read_bytes()
    (path / "regions.npz").write_bytes(whole[:100])
    prepare(EXPERIMENT, Sources(root), home)
    assert (path / "regions.npz").read_bytes() == whole
    monkeypatch.setattr(datasets.Dataset, "masks", None)
    prepare(EXPERIMENT, Sources(root), home)
    CubeStore(path).verify()


def test_a_copy_without_masks_has_no_regions_and_one_with_masks_of_another_size_is_refused(
    root: Path, tmp_path: Path
) -> None:
    masks = root / NAME / "UCSDped2" / "Test" / "Test002_gt"
    for path in masks.iterdir():
        picture = cv2.imread(str(path))
        assert picture is not None
        cv2.imwrite(str(path), cv2.resize(picture, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_NEAREST))
    with error_naming(DataError, "testing video 02", "76x50", "152x100"):
        prepare(EXPERIMENT, Sources(root), tmp_path / "home")
    shutil.rmtree(masks)
    store = prepare(EXPERIMENT, Sources(root), tmp_path / "home")
    assert isinstance(store, CubeStore)
    assert (store.regions_sha256, store.regions()) == (None, None)


def lose(folder: Path) -> None:
    shutil.rmtree(folder)


def interrupt(folder: Path) -> None:
    (folder / "shard.json").unlink()


def cut_short(folder: Path) -> None:
    (folder / "flows.npy").write_bytes((folder / "flows.npy").read_bytes()[:-10])


@pytest.mark.parametrize("damage", [lose, interrupt, cut_short])
def test_only_the_damaged_video_is_cut_again(rendered: Path, home: Path, damage: Any) -> None:
    path, progress = store_path(home, EXPERIMENT), Progress()
    before, sha256 = changed_at(path), CubeStore(path).sha256
    damage(path / "test" / "02")
    again = prepare(EXPERIMENT, Sources(rendered), home, progress=progress)
    assert (progress.cut, progress.lines) == (["test/02"], [(VIDEOS, VIDEOS)])
    assert again.sha256 == sha256
    again.verify()
    after = changed_at(path)
    assert set(after) == set(before)
    unchanged = {name for name in after if after[name] == before[name]}
    assert unchanged == {name for name in before if not name.startswith("test/02/")}


def test_an_unsealed_store_is_sealed_without_cutting(rendered: Path, home: Path) -> None:
    path, progress = store_path(home, EXPERIMENT), Progress()
    sha256 = CubeStore(path).sha256
    (path / "manifest.json").unlink()
    assert prepare(EXPERIMENT, Sources(rendered), home, progress=progress).sha256 == sha256
    assert progress.cut == []


@pytest.mark.parametrize("backwards", [False, True])
def test_the_order_in_which_videos_end_does_not_show(rendered: Path, home: Path, backwards: bool) -> None:
    """As on nodes of other speeds; the digest is of the same bytes."""
    path, progress = store_path(home, EXPERIMENT), Progress()
    sha256, beside = CubeStore(path).sha256, contents(path)
    for file in (*path.glob("*/*/*"), path / "manifest.json"):
        file.unlink()
    dataset = datasets.find(NAME, rendered)
    videos = [(split, video) for split in SPLITS for video in dataset.split(split)]
    for split, video in reversed(videos) if backwards else videos:
        looks = providers(dataset, split, EXPERIMENT.cube, Sources(rendered))
        prepare_video(path, split, video, EXPERIMENT.cube, *looks)
    again = prepare(EXPERIMENT, Sources(rendered), home, progress=progress)
    assert (progress.cut, again.sha256, contents(path)) == ([], sha256, beside)


# Refused


def test_a_damaged_image_is_named_and_the_other_videos_are_kept(
    root: Path, tmp_path: Path, finished: tuple[Path, Progress]
) -> None:
    image = root / NAME / "UCSDped2" / "Test" / "Test003" / "005.tif"
    whole = image.read_bytes()
    image.write_bytes(b"no image")
    home, progress = tmp_path / "home", Progress()
    path = store_path(home, EXPERIMENT)
    with error_naming(DataError, "Test003/005.tif", "8 bytes") as caught:
        prepare(EXPERIMENT, Sources(root), home)
    assert type(caught.value) is DataError, "not Ray's wrapper with the worker's traceback"
    kept = shards(path)
    assert "test/03" not in kept
    assert len(kept) >= VIDEOS - 2, "one may have been under way beside it"
    with pytest.raises(DataError, match="not a finished cube store"):
        CubeStore(path)
    image.write_bytes(whole)
    repaired = prepare(EXPERIMENT, Sources(root), home, progress=progress)
    assert "test/03" in progress.cut
    assert not set(kept) & set(progress.cut)
    assert repaired.sha256 == CubeStore(store_path(finished[0], EXPERIMENT)).sha256


def test_boxes_come_from_the_files_that_are_named(root: Path, tmp_path: Path) -> None:
    made = put_boxes(tmp_path / "boxes", {split: total(split) for split in SPLITS})
    store = prepare(*from_files(root, tmp_path / "boxes"), tmp_path / "home")
    for split in SPLITS:
        np.testing.assert_array_equal(getattr(store, split).boxes, made[split])
    assert len(store.manifest["sources"]["boxes"]) == 64


def test_a_store_begun_from_other_boxes_is_left_alone(root: Path, tmp_path: Path) -> None:
    put_boxes(tmp_path / "boxes", {split: total(split) for split in SPLITS})
    experiment, sources = from_files(root, tmp_path / "boxes")
    store = prepare(experiment, sources, tmp_path / "home")
    before = changed_at(store.path)
    with np.load(tmp_path / "boxes" / "boxes_test.npz") as arrays:
        np.savez(tmp_path / "boxes" / "boxes_test.npz", boxes=arrays["boxes"] + 1, offsets=arrays["offsets"])
    with pytest.raises(ConfigError) as caught:
        prepare(experiment, sources, tmp_path / "home")
    message = str(caught.value)
    assert f"{store.path} was begun from another input (sources differ)" in message
    assert "Delete that folder to prepare it anew, or choose another --home." in message
    assert changed_at(store.path) == before


def test_boxes_for_another_number_of_frames_are_refused_before_anything_is_cut(root: Path, tmp_path: Path) -> None:
    put_boxes(tmp_path / "boxes", {"train": total("train"), "test": total("test") - 1})
    experiment, sources = from_files(root, tmp_path / "boxes")
    with error_naming(DataError, "boxes_test.npz", "holds 26", "27"):
        prepare(experiment, sources, tmp_path / "home")
    assert shards(store_path(tmp_path / "home", experiment)) == []


def test_a_box_that_does_not_fit_is_named_by_the_worker_and_seals_nothing(root: Path, tmp_path: Path) -> None:
    put_boxes(tmp_path / "boxes", {split: total(split) for split in SPLITS})
    with np.load(tmp_path / "boxes" / "boxes_train.npz") as arrays:
        boxes = arrays["boxes"].copy()
        boxes[9] = [5, 5, 2000, 30]
        np.savez(tmp_path / "boxes" / "boxes_train.npz", boxes=boxes, offsets=arrays["offsets"])
    experiment, sources = from_files(root, tmp_path / "boxes")
    with error_naming(DataError, "box [5.0, 5.0, 2000.0, 30.0]", "152x100"):
        prepare(experiment, sources, tmp_path / "home")
    assert not (store_path(tmp_path / "home", experiment) / "manifest.json").exists()


def test_a_boxes_file_that_is_not_there_is_named_before_anything_is_written(root: Path, tmp_path: Path) -> None:
    put_boxes(tmp_path / "boxes", {"train": total("train")})
    with error_naming(DataError, "boxes/boxes_test.npz", "--boxes file:DIR"):
        prepare(*from_files(root, tmp_path / "boxes"), tmp_path / "home")
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("text", ["file", "onnx"])
def test_a_provider_that_needs_a_file_says_so(text: str, root: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"pass --boxes {text}:"):
        prepare(override(EXPERIMENT, provider_fields(text, None)), Sources.of(root, text, None), tmp_path / "home")


@pytest.fixture
def fewer(root: Path) -> Path:
    """A copy without test video 02."""
    for folder in ("Test002", "Test002_gt"):
        shutil.rmtree(root / NAME / "UCSDped2" / "Test" / folder)
    return root


def test_a_partial_copy_is_refused_unless_asked_for(fewer: Path, tmp_path: Path) -> None:
    with error_naming(DataError, "testing", "expected 3", "found 2", "02.", "--partial"):
        prepare(EXPERIMENT, Sources(fewer), tmp_path / "home")
    assert not (tmp_path / "home").exists()


def test_a_store_of_a_partial_copy_says_so_and_lies_apart(
    fewer: Path, tmp_path: Path, finished: tuple[Path, Progress]
) -> None:
    made = put_boxes(tmp_path / "boxes", {split: total(split) for split in SPLITS})
    experiment, sources = from_files(fewer, tmp_path / "boxes")
    store = prepare(replace(experiment, partial=True), sources, tmp_path / "home")
    assert store.manifest["partial"] is True
    assert [shard.video for shard in store.test.shards] == ["01", "03"]
    assert list(store.labels("official")) == ["01", "03"]
    assert store.path.name != store_path(tmp_path, experiment).name
    # The boxes files are of the whole data set: video 03 has those after video 02's.
    np.testing.assert_array_equal(store.test.boxes, np.concatenate([made["test"][:10], made["test"][19:]]))
    assert find_store(tmp_path / "home", replace(EXPERIMENT, recipe="baseline"), set())[1].partial


def test_a_copy_that_became_whole_is_not_prepared_as_a_partial_one(rendered: Path, home: Path) -> None:
    with pytest.raises(DataError, match="is not partial any more"):
        prepare(replace(EXPERIMENT, partial=True), Sources(rendered), home)


def test_labels_that_the_copy_has_not_are_refused_before_anything_is_cut(rendered: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no label set 'intervals'; it has official\..*--labels"):
        prepare(replace(EXPERIMENT, label_set="intervals"), Sources(rendered), tmp_path / "home")
    assert not (tmp_path / "home").exists()


def test_a_home_below_a_file_is_refused(rendered: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with error_naming(ConfigError, "--home", "Not a directory"):
        prepare(EXPERIMENT, Sources(rendered), tmp_path / "file" / "home")


def test_a_worker_that_cannot_write_says_why(rendered: Path, home: Path) -> None:
    path = store_path(home, EXPERIMENT)
    shutil.rmtree(path / "test")
    (path / "test").write_text("a file where a folder must be")
    with pytest.raises(RunError, match=r"cannot write cubes to .*/test/0\d: Not a directory") as caught:
        prepare(EXPERIMENT, Sources(rendered), home)
    assert type(caught.value) is RunError


def test_a_full_disk_while_sealing_leaves_the_store_unsealed(
    rendered: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, progress = store_path(home, EXPERIMENT), Progress()
    sha256 = CubeStore(path).sha256
    (path / "manifest.json").unlink()

    def fsync(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as full:
        full.setattr(os, "fsync", fsync)
        with pytest.raises(RunError, match="No space left on device"):
            prepare(EXPERIMENT, Sources(rendered), home)
    assert not (path / "manifest.json").exists()
    assert prepare(EXPERIMENT, Sources(rendered), home, progress=progress).sha256 == sha256
    assert progress.cut == []


# Which store a later stage takes


def put_store(home: Path, **cube: Any) -> Experiment:
    """A sealed store of empty videos, made with these settings and official labels."""
    experiment = derive(EXPERIMENT, cube=cube)
    path = store_path(home, experiment)
    made = {split: [write_shard(path, split, "01", [], 5, (5, 1, 8, 8))] for split in SPLITS}
    about = {"dataset": NAME, "partial": False, "cube": dump(experiment)["cube"], "labels": {"official": 64 * "0"}}
    seal(path, made, about)
    return experiment


def with_boxes(provider: str) -> dict[str, Any]:
    return {"boxes": replace(EXPERIMENT.cube.boxes, provider=provider)}


def found(home: Path, experiment: Experiment, fixed: Sequence[str] = ()) -> tuple[Path, Experiment]:
    store, theirs = find_store(home, experiment, set(fixed))
    return store.path, theirs


def test_without_a_store_it_says_how_to_make_one(tmp_path: Path) -> None:
    message = rf"no finished cube store of {NAME} under .*Run `amsrc-bench prepare --dataset {NAME} --root DIR --home"
    with pytest.raises(DataError, match=message + r" \S+ --recipe amsrc --cube\.size 8` first"):
        find_store(tmp_path, EXPERIMENT, set())


def test_boxes_and_flow_are_taken_from_the_single_store(tmp_path: Path) -> None:
    stored = put_store(tmp_path, **with_boxes("file"))
    asked = replace(EXPERIMENT, recipe="baseline", seed=2)
    path, theirs = found(tmp_path, asked)
    assert path == store_path(tmp_path, stored)
    assert theirs == replace(asked, cube=stored.cube)


@pytest.mark.parametrize(
    ("ours", "named", "message"),
    [
        ({}, ["cube.boxes.provider"], "cube.boxes.provider is file, not motion"),  # the user's
        ({"flow": FlowConfig(provider="farneback")}, [], "cube.flow.provider is dis, not farneback"),  # the recipe's
        ({"frames": 7}, [], r"cube.frames is 5, not 7, .*\. Run .* --cube.frames 7 --cube.size 8`"),
        ({"size": 16}, ["cube.size"], "cube.size is 8, not 16"),
    ],
)
def test_what_differs_from_every_store_is_named(
    tmp_path: Path, ours: dict[str, Any], named: list[str], message: str
) -> None:
    stored = put_store(tmp_path, **with_boxes("file"))
    with pytest.raises(DataError, match=f"; in {store_path(tmp_path, stored).name} .*{message}"):
        find_store(tmp_path, derive(EXPERIMENT, cube=ours), set(named))


def test_stores_of_other_data_sets_and_unsealed_ones_do_not_count(tmp_path: Path) -> None:
    stored = put_store(tmp_path)
    with pytest.raises(DataError, match="no finished cube store of toy-avenue"):
        find_store(tmp_path, build("amsrc", "toy-avenue"), set())
    (store_path(tmp_path, stored) / "manifest.json").unlink()
    with pytest.raises(DataError, match=f"no finished cube store of {NAME}"):
        find_store(tmp_path, EXPERIMENT, set())


def test_of_several_stores_the_experiments_own_goes_first_and_else_one_is_to_be_named(tmp_path: Path) -> None:
    put_store(tmp_path, frames=7)
    file, detected = put_store(tmp_path, **with_boxes("file")), put_store(tmp_path, **with_boxes("onnx"))
    with pytest.raises(DataError) as caught:
        find_store(tmp_path, EXPERIMENT, set())
    message = str(caught.value)
    assert message.startswith(f"2 cube stores of {NAME} fit: ")
    assert " --cube.boxes.provider file" in message and " --cube.boxes.provider onnx" in message
    assert message.endswith("Name the one to use.")
    own = put_store(tmp_path)
    for stored, named in ((own, []), (file, ["cube.boxes.provider"]), (detected, ["cube.boxes.provider"])):
        assert found(tmp_path, stored, named) == (store_path(tmp_path, stored), stored)


def test_labels_that_the_store_has_not_are_refused_with_those_it_has(tmp_path: Path) -> None:
    put_store(tmp_path)
    with error_naming(DataError, "'intervals'", "official", "--labels"):
        find_store(tmp_path, override(EXPERIMENT, {"label_set": "intervals"}), set())


def test_a_damaged_manifest_is_named(tmp_path: Path) -> None:
    stored = put_store(tmp_path)
    (store_path(tmp_path, stored) / "manifest.json").write_text("{")
    with pytest.raises(DataError, match=r"manifest.json"):
        find_store(tmp_path, EXPERIMENT, set())


# Providers on the command line


def test_providers_are_read_with_their_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    boxes, flows = "file:b/boxes_{split}.npz", "file:flows"
    assert provider_fields(boxes, flows) == {"cube.boxes.provider": "file", "cube.flow.provider": "file"}
    sources = Sources.of(tmp_path, boxes, flows)
    assert sources.boxes_file("test") == tmp_path / "b" / "boxes_test.npz"
    assert sources.flow == tmp_path / "flows"
    assert provider_fields(None, "dis") == {"cube.flow.provider": "dis"}
    assert Sources.of(tmp_path, "motion", None) == Sources(tmp_path)


def test_a_provider_that_is_not_known_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"cube.boxes.provider: .*'motion', 'onnx', 'torchvision' or 'file'"):
        override(EXPERIMENT, provider_fields("yolo:x.onnx", None))
