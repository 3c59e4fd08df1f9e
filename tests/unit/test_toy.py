"""The rendered data sets: layouts, labels, determinism, and that nothing half-written passes for finished."""

import json
import re
from dataclasses import replace
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.io import loadmat
from sklearn.metrics import roc_auc_score

from amsrc.boxes import moving
from amsrc.config import BoxConfig
from amsrc.cubes import moments
from amsrc.errors import ConfigError, DataError, RunError
from bench.data import toy
from bench.data.datasets import find, verify
from bench.data.toy import TEST, TRAIN, film, render, render_one


@pytest.fixture(scope="module")
def filmed():
    """`film` that films every clip once: drawing is what these tests would spend their time on."""
    return cache(film)


@pytest.fixture(scope="module")
def root(tmp_path_factory, filmed):
    root = tmp_path_factory.mktemp("toy")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(toy, "film", filmed)
        render(root)
    return root


@pytest.fixture(scope="module")
def footage(filmed):
    """All test videos, by data set and name."""
    return {name: {clip.name: filmed(clip, 0) for clip in clips} for name, clips in TEST.items()}


@pytest.fixture
def short(monkeypatch):
    """Data sets of one training and one test video of five frames."""
    for split in (TRAIN, TEST):
        for name, (first, *_) in list(split.items()):
            monkeypatch.setitem(split, name, [replace(first, frames=5)])


def contents(root, name):
    return json.loads((root / name / "toy.json").read_text())


def frames_in(path):
    capture = cv2.VideoCapture(str(path))
    count = 0
    while capture.grab():
        count += 1
    return count


@pytest.mark.parametrize("name", TRAIN)
def test_the_whole_path_accepts_what_was_rendered(root, name):
    checks = verify(name, root)
    assert checks and all(check.ok for check in checks), [check for check in checks if not check.ok]
    dataset = find(name, root)
    labels = np.concatenate(list(dataset.labels().values()))
    assert labels.sum() == contents(root, name)["anomalous"]


@pytest.mark.parametrize("name", TRAIN)
def test_labels_read_back_are_where_the_masks_are_not_empty(root, footage, name):
    labels = find(name, root).labels()
    assert {video: label.tolist() for video, label in labels.items()} == {
        video: shot.masks.any((1, 2)).astype(int).tolist() for video, shot in footage[name].items()
    }


def test_ped2_lies_as_the_official_archive_does(root):
    base = root / "toy-ped2" / "UCSDped2"
    counts = contents(root, "toy-ped2")
    for split in ("Train", "Test"):
        for video, frames in counts[split.lower()].items():
            files = sorted(path.name for path in (base / split / f"{split}0{video}").iterdir())
            assert files == [f"{n:03d}.tif" for n in range(1, frames + 1)]
    frame = cv2.imread(str(base / "Train" / "Train001" / "001.tif"), cv2.IMREAD_UNCHANGED)
    assert frame.ndim == 2 and frame.dtype == np.uint8
    lines = (base / "Test" / "UCSDped2.m").read_text().splitlines()
    assert lines[0] == "TestVideoFile = {};"
    for number, (line, frames) in enumerate(zip(lines[1:], counts["test"].values(), strict=True), 1):
        first, last = re.fullmatch(r"TestVideoFile\{end\+1\}\.gt_frame = \[(\d+):(\d+)\];", line).groups()
        masks = sorted((base / "Test" / f"Test{number:03d}_gt").glob("*.bmp"))
        full = [n for n, path in enumerate(masks, 1) if cv2.imread(str(path), cv2.IMREAD_UNCHANGED).max() == 255]
        assert len(masks) == frames and full == list(range(int(first), int(last) + 1))


def test_avenue_lies_as_the_official_archive_does(root):
    base = root / "toy-avenue"
    counts = contents(root, "toy-avenue")
    for split, folder in (("train", "training_videos"), ("test", "testing_videos")):
        assert {path.stem: frames_in(path) for path in (base / folder).glob("*.avi")} == counts[split]
    for video, frames in counts["test"].items():
        path = base / "ground_truth_demo" / "testing_label_mask" / f"{int(video)}_label.mat"
        masks = loadmat(path)["volLabel"]
        assert masks.shape == (1, frames)
        assert {mask.shape for mask in masks[0]} == {(108, 192)}
        assert {mask.dtype for mask in masks[0]} == {np.dtype(np.uint8)} and max(mask.max() for mask in masks[0]) <= 1


def test_shanghaitech_lies_as_the_official_archive_does(root):
    base = root / "toy-shanghaitech"
    counts = contents(root, "toy-shanghaitech")
    assert {path.stem: frames_in(path) for path in (base / "training" / "videos").glob("*.avi")} == counts["train"]
    for video, frames in counts["test"].items():
        files = sorted(path.name for path in (base / "testing" / "frames" / video).iterdir())
        assert files == [f"{n:03d}.jpg" for n in range(frames)]
        labels = np.load(base / "testing" / "test_frame_mask" / f"{video}.npy", allow_pickle=False)
        masks = np.load(base / "testing" / "test_pixel_mask" / f"{video}.npy", allow_pickle=False)
        assert masks.shape == (frames, 90, 160) and (masks.any((1, 2)) == labels).all()


def test_it_stays_small(root):
    assert sum(path.stat().st_size for path in root.rglob("*")) < 25e6


def test_videos_on_disk_show_what_was_rendered(root, filmed):
    drawn = filmed(TRAIN["toy-avenue"][0], 0).frames
    read = np.stack(list(find("toy-avenue", root).train[0].read()))
    assert np.abs(read.astype(int) - drawn).mean() < 4


def test_the_same_seed_gives_the_same_pixels_and_another_does_not():
    clip = replace(TEST["toy-shanghaitech"][0], frames=30)
    first, again, other = film(clip, 3), film(clip, 3), film(clip, 4)
    assert (first.frames == again.frames).all() and (first.masks == again.masks).all()
    assert (first.frames != other.frames).any()


@pytest.mark.parametrize("name", TRAIN)
def test_training_videos_hold_nothing_planted(filmed, name):
    for clip in TRAIN[name]:
        assert not clip.planted
        assert not filmed(clip, 0).masks.any()


def test_one_test_video_is_wholly_abnormal_and_one_wholly_normal(footage):
    assert footage["toy-ped2"]["03"].labels.all()
    assert not footage["toy-avenue"]["03"].labels.any()


@pytest.mark.parametrize("name", TEST)
def test_most_test_videos_hold_both_classes(footage, name):
    mixed = [shot for shot in footage[name].values() if 0 < shot.labels.mean() < 1]
    assert len(mixed) >= 3


@pytest.mark.parametrize("name", TEST)
def test_the_frame_number_gives_little_away(footage, name):
    labels = np.concatenate([shot.labels for shot in footage[name].values()])
    number = np.concatenate([np.arange(len(shot.labels)) for shot in footage[name].values()])
    assert 0.3 < roc_auc_score(labels, number) < 0.7


def test_a_mask_covers_what_changed_and_nothing_else(filmed):
    clip = TEST["toy-ped2"][0]
    with_it, without = filmed(clip, 0), film(replace(clip, planted=()), 0)
    # The shadow and the noise are no part of a mask; what is planted is drawn over everything behind it.
    frame = int(np.flatnonzero(with_it.labels)[len(with_it.labels) // 4])
    changed = np.abs(with_it.frames[frame].astype(int) - without.frames[frame]).max(-1) > 60
    near = cv2.dilate(with_it.masks[frame].astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    assert changed.sum() > 60 and near[changed].mean() > 0.95


@pytest.mark.parametrize("name", TEST)
def test_what_is_planted_is_found_as_a_moving_region(footage, name):
    boxes_of = moving(BoxConfig(min_side_px=8.0))
    for video, shot in footage[name].items():
        hit = []
        for moment in moments(video, iter(shot.frames)):
            if shot.masks[moment.index].sum() > 40:
                boxes = boxes_of(moment).astype(int).tolist()
                hit.append(any(shot.masks[moment.index, y0:y1, x0:x1].any() for x0, y0, x1, y1 in boxes))
        assert not hit or np.mean(hit) > 0.9, video


@pytest.mark.parametrize("name", TRAIN)
def test_walkers_are_found_as_moving_regions(filmed, name):
    boxes_of = moving(BoxConfig(min_side_px=8.0))
    clip = TRAIN[name][0]
    found = [len(boxes_of(moment)) for moment in moments(clip.name, iter(filmed(clip, 0).frames))]
    assert 2 <= np.mean(found) <= 8 and min(found) >= 1


def test_what_stands_complete_is_left_alone(tmp_path, short):
    render_one("toy-avenue", tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    render_one("toy-avenue", tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_another_version_is_rendered_anew(tmp_path, short):
    render_one("toy-ped2", tmp_path)
    marker = tmp_path / "toy-ped2" / "toy.json"
    marker.write_text(json.dumps(contents(tmp_path, "toy-ped2") | {"version": 0}))
    (tmp_path / "toy-ped2" / "stale").touch()
    render_one("toy-ped2", tmp_path)
    assert contents(tmp_path, "toy-ped2")["version"] == toy.VERSION
    assert [path.name for path in tmp_path.iterdir()] == ["toy-ped2"]
    assert not (tmp_path / "toy-ped2" / "stale").exists()


def test_a_full_disk_leaves_nothing_that_looks_finished(tmp_path, short, monkeypatch):
    def full(*args: object) -> bool:
        return False

    monkeypatch.setattr(toy.cv2, "imwrite", full)
    with pytest.raises(RunError, match=r"toy-ped2: cannot be rendered .*001\.tif cannot be written.*Free some space"):
        render_one("toy-ped2", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_video_that_was_cut_short_is_noticed(tmp_path, short, monkeypatch):
    writer = cv2.VideoWriter

    class Silent:
        """Takes frames and drops them, as OpenCV does when the disk is full."""

        fourcc = staticmethod(writer.fourcc)

        def __init__(self, *args: object) -> None:
            pass

        def write(self, frame: object) -> None:
            pass

        def release(self) -> None:
            pass

    monkeypatch.setattr(toy.cv2, "VideoWriter", Silent)
    with pytest.raises(RunError, match=r"the 5 frames of .*01\.avi cannot be written"):
        render_one("toy-avenue", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_rendering_is_no_data_set(tmp_path, short, monkeypatch):
    def interrupted(folder: Path, train: object, test: object) -> None:
        (folder / "UCSDped2").mkdir()
        raise KeyboardInterrupt

    monkeypatch.setitem(toy.LAYOUTS, "toy-ped2", interrupted)
    with pytest.raises(KeyboardInterrupt):
        render_one("toy-ped2", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_was_not_rendered_is_never_replaced(tmp_path):
    (tmp_path / "toy-ped2").mkdir()
    (tmp_path / "toy-ped2" / "mine.txt").write_text("keep")
    with pytest.raises(DataError, match=r"toy-ped2 has no toy\.json.*Move it away, or pass another root"):
        render_one("toy-ped2", tmp_path)
    assert (tmp_path / "toy-ped2" / "mine.txt").read_text() == "keep"


def test_another_process_that_was_faster_wins(tmp_path, short, monkeypatch):
    real = toy.LAYOUTS["toy-ped2"]

    def slow(folder: Path, train: toy.Videos, test: toy.Videos) -> None:
        monkeypatch.setitem(toy.LAYOUTS, "toy-ped2", real)
        render_one("toy-ped2", tmp_path)
        real(folder, train, test)

    monkeypatch.setitem(toy.LAYOUTS, "toy-ped2", slow)
    render_one("toy-ped2", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["toy-ped2"]
    assert find("toy-ped2", tmp_path).train[0].frames == 5


def test_a_root_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=r"file/toy-ped2: cannot be rendered .*pass another root"):
        render_one("toy-ped2", tmp_path / "file")


def test_an_unknown_name_is_answered_with_the_nearest(tmp_path):
    with pytest.raises(ConfigError, match=r"unknown toy data set 'toy-ped3'; did you mean: toy-ped2"):
        render_one("toy-ped3", tmp_path)
