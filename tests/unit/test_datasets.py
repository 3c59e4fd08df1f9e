"""Data sets: every layout is found, labels are right, and each kind of damage is named."""

import json
import os
import pickle
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from scipy.io import savemat

from amsrc.errors import ConfigError, DataError
from bench.data import datasets, readers
from bench.experiment.specs import SPECS
from tests.messages import error_naming, names

GREY = np.random.default_rng(0).integers(0, 256, (24, 36), np.uint8)


def write_frames(
    folder: Path, count: int, suffix: str = "jpg", first: int = 0, image: npt.NDArray[np.uint8] = GREY
) -> None:
    """One image under many names: as hard links, thousands take a moment."""
    folder.mkdir(parents=True)
    original = folder / f"{first:03d}.{suffix}"
    assert cv2.imwrite(str(original), image)
    for number in range(first + 1, first + count):
        os.link(original, folder / f"{number:03d}.{suffix}")


def write_avi(path: Path, count: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.CAP_OPENCV_MJPEG, cv2.VideoWriter.fourcc(*"MJPG"), 25.0, (64, 48))
    for number in range(count):
        writer.write(np.full((48, 64, 3), 10 * number, np.uint8))
    writer.release()


def cells(*arrays: object) -> npt.NDArray[np.object_]:
    row = np.empty((1, len(arrays)), object)
    row[0] = [*arrays]
    return row


def spans(*columns: tuple[int, int]) -> npt.NDArray[np.uint16]:
    return np.array(columns, np.uint16).reshape(-1, 2).T


def toy(root: Path, name: str, train: dict[str, int], test: dict[str, int], anomalous: int) -> Path:
    folder = root / f"toy-{name}"
    folder.mkdir(parents=True)
    (folder / "toy.json").write_text(json.dumps({"train": train, "test": test, "anomalous": anomalous}))
    return folder


@pytest.fixture
def ped2(tmp_path: Path) -> Path:
    """A small set in the layout of the Ped2 repack: videos 01 and 02 of 6 frames; test frames 2 to 4 abnormal."""
    folder = toy(tmp_path, "ped2", {"01": 6, "02": 6}, {"01": 6, "02": 6}, 6)
    for split in ("training", "testing"):
        for name in ("01", "02"):
            write_frames(folder / split / "frames" / name, 6)
    savemat(folder / "ped2.mat", {"gt": cells(spans((2, 4)), spans((2, 3), (4, 4)))})
    return folder


@pytest.fixture
def shanghaitech(tmp_path: Path) -> Path:
    folder = toy(tmp_path, "shanghaitech", {"01_001": 7}, {"01_0014": 6}, 2)
    write_avi(folder / "training/videos/01_001.avi", 7)
    write_frames(folder / "testing/frames/01_0014", 6)
    (folder / "testing/test_frame_mask").mkdir()
    np.save(folder / "testing/test_frame_mask/01_0014.npy", np.array([0, 1, 1, 0, 0, 0], np.uint8))
    return folder


@pytest.fixture
def avenue(tmp_path: Path) -> Path:
    """A partial copy under the real set's name: training 12 as video, testing 08 as extracted frames, with labels."""
    folder = tmp_path / "Avenue Dataset"
    write_avi(folder / "training_videos/12.avi", 8)
    write_frames(folder / "testing/frames/08", 36, image=np.zeros((360, 640, 3), np.uint8))
    masks = [np.zeros((360, 640), np.uint8) for _ in range(36)]
    masks[5][0, 0] = masks[35][0, 0] = 1
    (folder / "ground_truth_demo/testing_label_mask").mkdir(parents=True)
    savemat(
        folder / "ground_truth_demo/testing_label_mask/8_label.mat", {"volLabel": cells(*masks)}, do_compression=True
    )
    savemat(folder / "avenue.mat", {"gt": cells(*[spans((3, 4), (36, 36))] * 21)})
    return folder


def failures(name: str, root: Path, partial: bool = False) -> dict[str, str]:
    return {check.what: check.found for check in datasets.verify(name, root, partial) if not check.ok}


# --- layouts ---------------------------------------------------------------------------------------------------


def test_official_ped2_is_found_whole(tmp_path: Path) -> None:
    folder = tmp_path / "UCSD_Anomaly_Dataset.v1p2" / "UCSDped2"
    spec = SPECS["ped2"]
    image = np.zeros((240, 360), np.uint8)
    for split, title in (("train", "Train"), ("test", "Test")):
        for name, frames in spec.per_video[split].items():  # type: ignore[index]
            write_frames(folder / title / f"{title}{int(name):03d}", frames, "tif", 1, image)
    lines = [f"TestVideoFile{{end+1}}.gt_frame = [{start}:{stop}];" for start, stop in PED2_SPANS]
    (folder / "Test" / "UCSDped2.m").write_text("TestVideoFile = {};\n% gt_frame = [1:2];\n" + "\n".join(lines))
    (folder / "Test" / "Test001" / "._001.tif").write_bytes(b"what macOS leaves behind")
    assert failures("ped2", tmp_path) == {}
    found = datasets.find("ped2", tmp_path, partial=True)
    assert not found.partial
    assert found.test[11].path == folder / "Test" / "Test012"
    assert sum(int(labels.sum()) for labels in found.labels().values()) == 1648
    assert datasets.find("ped2", folder) == datasets.find("ped2", folder.parent) == found
    assert datasets.present(tmp_path) == ["ped2"]


PED2_SPANS = [(61, 180), (95, 180), (1, 146), (31, 180), (1, 129), (1, 159), (46, 180), (1, 180), (1, 120), (1, 150)]
PED2_SPANS += [(1, 180), (88, 180)]


def test_repack_with_labels_and_masks(ped2: Path) -> None:
    for name in ("01", "02"):
        write_frames(ped2 / "testing/pixel_masks" / name, 6, "png", image=np.zeros((24, 36), np.uint8))
        for number in (1, 2, 3):
            (ped2 / f"testing/pixel_masks/{name}/{number:03d}.png").unlink()
            cv2.imwrite(
                str(ped2 / f"testing/pixel_masks/{name}/{number:03d}.png"), np.eye(24, 36, dtype=np.uint8) * 255
            )
    assert failures("toy-ped2", ped2.parent) == {}
    found = datasets.find("toy-ped2", ped2)
    assert {name: labels.tolist() for name, labels in found.labels().items()} == {
        "01": [0, 1, 1, 1, 0, 0],
        "02": [0, 1, 1, 1, 0, 0],
    }
    masks = found.masks("02")
    assert masks is not None
    assert masks.shape == (6, 24, 36)
    assert masks.sum((1, 2)).tolist() == [0, 24, 24, 24, 0, 0]
    (ped2 / "ped2.mat").unlink()
    assert datasets.find("toy-ped2", ped2).labels()["01"].tolist() == [0, 1, 1, 1, 0, 0]  # now from the masks


def test_masks_that_contradict_the_labels_are_named(ped2: Path) -> None:
    write_frames(ped2 / "testing/pixel_masks/02", 6, "png", image=np.zeros((24, 36), np.uint8))
    assert failures("toy-ped2", ped2) == {
        "pixel masks, video 02": "frames 1, 2, 3 differ (counted from 0)",
        "pixel masks against labels": "0 of 1 videos",
    }


def test_grey_frames_have_one_channel_even_from_colour_files(ped2: Path) -> None:
    write_frames(ped2 / "colour", 1, image=cv2.cvtColor(GREY, cv2.COLOR_GRAY2BGR))  # type: ignore[arg-type]
    (ped2 / "training/frames/01/000.jpg").unlink()
    (ped2 / "colour/000.jpg").rename(ped2 / "training/frames/01/000.jpg")
    frames = list(datasets.find("toy-ped2", ped2).train[0].read())
    assert {frame.shape for frame in frames} == {(24, 36, 1)}
    assert np.abs(frames[0].astype(int) - frames[1]).max() <= 2


def test_shanghaitech_reads_video_files_and_frame_masks(shanghaitech: Path) -> None:
    assert failures("toy-shanghaitech", shanghaitech.parent) == {}
    found = datasets.find("toy-shanghaitech", shanghaitech)
    frames = list(found.train[0].read())
    assert [frame.shape for frame in frames] == [(48, 64, 3)] * 7
    assert [round(float(frame.mean()), -1) for frame in frames] == [0, 10, 20, 30, 40, 50, 60]
    assert found.labels()["01_0014"].tolist() == [0, 1, 1, 0, 0, 0]
    assert found.masks("01_0014") is None
    (shanghaitech / "testing/test_pixel_mask").mkdir()
    np.save(shanghaitech / "testing/test_pixel_mask/01_0014.npy", np.ones((6, 48, 64), np.uint8))
    masks = found.masks("01_0014")
    assert masks is not None
    assert masks.all()


def test_avenue_has_two_label_sets(avenue: Path) -> None:
    found = datasets.find("avenue", avenue.parent, partial=True)
    assert found.label_sets() == ["official", "intervals"]
    assert np.flatnonzero(found.labels()["08"]).tolist() == [5, 35]
    assert np.flatnonzero(found.labels("intervals")["08"]).tolist() == [2, 3, 35]
    with error_naming(ConfigError, "'interval'", "intervals"):
        found.labels("interval")


def test_frames_are_ordered_by_number_not_by_name(tmp_path: Path) -> None:
    for number in range(1, 12):
        cv2.imwrite(str(tmp_path / f"frame_{number}.png"), np.full((4, 4), number, np.uint8))
    video = datasets.Video("01", tmp_path, 11, grey=True)
    assert [int(frame[0, 0, 0]) for frame in video.read()] == list(range(1, 12))


def test_of_two_forms_of_a_split_the_fuller_one_counts(shanghaitech: Path) -> None:
    write_frames(shanghaitech / "training/frames/01_001", 7)
    assert datasets.find("toy-shanghaitech", shanghaitech).train[0].path.suffix == ".avi"
    (shanghaitech / "training/videos/01_001.avi").unlink()
    assert datasets.find("toy-shanghaitech", shanghaitech).train[0].path.is_dir()


def test_a_rendered_set_is_never_taken_for_the_real_one(ped2: Path) -> None:
    with error_naming(DataError, "ped2: no videos"):
        datasets.find("ped2", ped2)
    assert datasets.present(ped2.parent) == ["toy-ped2"]


# --- partial copies --------------------------------------------------------------------------------------------


def test_a_partial_copy_is_refused_unless_asked_for(avenue: Path) -> None:
    with error_naming(DataError, "15", "21", "found 1", "01", "--partial"):
        datasets.find("avenue", avenue)
    found = datasets.find("avenue", avenue, partial=True)
    assert found.partial
    assert [video.name for video in found.test] == ["08"]


def test_positions_in_the_whole_split_are_known_on_a_partial_copy(avenue: Path) -> None:
    found = datasets.find("avenue", avenue, partial=True)
    assert found.first_frames("test")["08"] == 1439 + 1211 + 923 + 947 + 1007 + 1283 + 605
    assert found.full_frames("test") == 15324
    assert found.first_frames("train") == {"12": 0}


def test_the_numbers_of_each_set_add_up() -> None:
    for name, spec in SPECS.items():
        for split, lengths in spec.per_video.items():
            if lengths:
                assert (len(lengths), sum(lengths.values())) == (spec.videos[split], spec.frames[split]), (name, split)


# --- bad input -------------------------------------------------------------------------------------------------


def test_missing_root(tmp_path: Path) -> None:
    for act in (datasets.find, datasets.verify):
        with error_naming(DataError, "nowhere", "--root"):
            act("ped2", tmp_path / "nowhere")
    with pytest.raises(DataError, match="no such folder"):
        datasets.present(tmp_path / "nowhere")


def test_labels_without_footage(shanghaitech: Path, tmp_path: Path) -> None:
    (tmp_path / "shanghaitech/testing").mkdir(parents=True)
    (shanghaitech / "testing/test_frame_mask").rename(tmp_path / "shanghaitech/testing/test_frame_mask")
    with error_naming(DataError, "shanghaitech", "training/videos", "campus_dataset"):
        datasets.verify("shanghaitech", tmp_path)


def test_unknown_data_set(tmp_path: Path) -> None:
    with error_naming(ConfigError, "'avenu'", "avenue"):
        datasets.find("avenu", tmp_path)


@pytest.mark.parametrize(("left", "found"), [(0, "0"), (4, "4")])
def test_empty_and_short_videos(ped2: Path, left: int, found: str) -> None:
    contents = json.loads((ped2 / "toy.json").read_text())
    contents["train"]["02"] = left
    (ped2 / "toy.json").write_text(json.dumps(contents))
    for path in sorted((ped2 / "training/frames/02").iterdir())[left:]:
        path.unlink()
    with error_naming(DataError, "training video 02", "5", f"found {found}"):
        datasets.find("toy-ped2", ped2)


def test_gaps_and_repeats_in_the_numbering(ped2: Path) -> None:
    folder = ped2 / "testing/frames/02"
    (folder / "003.jpg").rename(folder / "007.jpg")
    with error_naming(DataError, "video 02", "2 frames", "3, 6;"):
        datasets.find("toy-ped2", ped2)
    (folder / "007.jpg").rename(folder / "2.jpg")
    with pytest.raises(DataError, match=r"frame 2 is there twice, (002.jpg and 2.jpg|2.jpg and 002.jpg)"):
        datasets.find("toy-ped2", ped2)
    (folder / "2.jpg").rename(folder / "at_1732291200000000.jpg")  # a time, not a number
    with error_naming(DataError, "1,732,291,199,999,995", "3, 6, 7, 8, 9;"):
        datasets.find("toy-ped2", ped2)
    (folder / "at_1732291200000000.jpg").rename(folder / "third.jpg")
    assert "must end in its number" in failures("toy-ped2", ped2)["testing video 02, numbering"]


def test_missing_extra_and_doubled_videos(ped2: Path) -> None:
    write_frames(ped2 / "training/frames/3", 6)
    assert failures("toy-ped2", ped2)["training videos"] == "3; unexpected: 03"
    (ped2 / "training/frames/3").rename(ped2 / "training/frames/1")
    assert failures("toy-ped2", ped2)["training videos"] == "3; 01 twice"
    for name in ("00", "03"):
        write_frames(ped2 / "testing/frames" / name, 6)
        found = failures("toy-ped2", ped2)
        assert found["testing videos"] == f"3; unexpected: {name}"
        assert f"no labels of video {name}; they are of 01 to 02" in found[f"official labels, video {name}"]
        (ped2 / "testing/frames" / name).rename(ped2 / f"spare{name}")
    (ped2 / "training/frames/1").rename(ped2 / "training/frames/hidden")
    (ped2 / "training/frames/02").rename(ped2 / "training/frames/spare")
    assert failures("toy-ped2", ped2) == {"training videos": "1; missing: 02"}
    assert failures("toy-ped2", ped2, partial=True) == {}


@pytest.mark.parametrize("keep", [0.0, 0.5, 0.99])
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
def test_a_damaged_image_is_named(tmp_path: Path, suffix: str, keep: float) -> None:
    write_frames(tmp_path / "01", 6, suffix)
    damaged = tmp_path / "01" / f"005.{suffix}"
    data = damaged.read_bytes()
    damaged.unlink()
    damaged.write_bytes(data[: int(len(data) * keep)])
    with error_naming(DataError, f"005.{suffix}"):
        list(datasets.Video("01", tmp_path / "01", 6).read())


def test_an_image_that_announces_an_absurd_size_is_named(tmp_path: Path) -> None:
    assert cv2.imwrite(str(tmp_path / "000.bmp"), GREY)
    data = bytearray((tmp_path / "000.bmp").read_bytes())
    data[18:26] = (100_000).to_bytes(4, "little") * 2  # width and height
    (tmp_path / "000.bmp").write_bytes(data)
    with error_naming(DataError, "000.bmp"):
        readers.read_image(tmp_path / "000.bmp", grey=True)


def test_verify_opens_the_first_and_the_last_frame(ped2: Path) -> None:
    (ped2 / "training/frames/01/000.jpg").unlink()
    (ped2 / "training/frames/01/000.jpg").write_bytes(b"not a picture")
    found = failures("toy-ped2", ped2)
    assert "000.jpg: damaged" in found.pop("training video 01, pictures")
    assert found == {"training videos, first and last frame": "1 of 2 videos"}
    datasets.find("toy-ped2", ped2)  # opens no picture


def test_frames_of_another_size_than_the_data_set_has(avenue: Path) -> None:
    found = failures("avenue", avenue, partial=True)
    assert found["training video 12, pictures"].endswith("12.avi: 64x48")


def test_a_truncated_video_file_is_named(shanghaitech: Path) -> None:
    path = shanghaitech / "training/videos/01_001.avi"
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    announced = datasets.Video("01_001", path, 7)
    with pytest.raises(DataError, match=r"01_001\.avi: \d frames can be read, 7 are announced"):
        list(announced.read())
    assert any("training video 01_001" in what for what in failures("toy-shanghaitech", shanghaitech))


def test_a_file_that_is_no_video(shanghaitech: Path) -> None:
    (shanghaitech / "training/videos/01_001.avi").write_bytes(b"nothing")
    with error_naming(DataError, "training video 01_001", "expected 7", "found 0"):
        datasets.find("toy-shanghaitech", shanghaitech)


def test_labels_of_another_length_are_refused(shanghaitech: Path, avenue: Path, ped2: Path) -> None:
    np.save(shanghaitech / "testing/test_frame_mask/01_0014.npy", np.zeros(7, np.uint8))
    said = ("toy-shanghaitech", "testing video 01_0014", "6 frames", "7")
    with error_naming(DataError, *said):
        datasets.find("toy-shanghaitech", shanghaitech).labels()
    names(failures("toy-shanghaitech", shanghaitech)["official labels, video 01_0014"], *said)

    savemat(avenue / "ground_truth_demo/testing_label_mask/8_label.mat", {"volLabel": cells(*[np.ones((2, 2))] * 37)})
    with error_naming(DataError, "avenue", "testing video 08", "36 frames", "37"):
        datasets.find("avenue", avenue, partial=True).labels()

    savemat(ped2 / "ped2.mat", {"gt": cells(spans((2, 7)), spans())})
    with error_naming(DataError, "testing video 01", "6 frames", "7"):
        datasets.find("toy-ped2", ped2).labels()


@pytest.mark.parametrize(
    ("gt", "message"),
    [
        (cells(spans((2, 4))), "labels of 1 videos, expected 2"),
        (cells(spans((0, 4)), spans()), "must run forwards and count frames from 1"),
        (cells(spans((5, 2)), spans()), "must run forwards"),
        (cells(np.ones((3, 2)), spans()), "cell 1 of 'gt' has shape"),
        (cells("61:180", spans()), "never loaded"),
        (cells({"a": 1}, spans()), "never loaded"),
        (np.eye(3), r"must hold a cell array 'gt', holds gt \(double\)"),
    ],
)
def test_spans_that_make_no_sense(ped2: Path, gt: object, message: str) -> None:
    savemat(ped2 / "ped2.mat", {"gt": gt})
    with pytest.raises(DataError, match=message):
        datasets.find("toy-ped2", ped2).labels()


@pytest.mark.parametrize("text", ["10:25:90", "61", "61:180; 1:2", "a:b"])
def test_spans_of_another_form_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "UCSDped2.m").write_text(f"TestVideoFile{{end+1}}.gt_frame = [{text}];\n")
    with error_naming(DataError, "[61:180]"):
        readers.read_spans(tmp_path / "UCSDped2.m")


def test_several_spans_of_one_video(tmp_path: Path) -> None:
    path = tmp_path / "UCSDped2.m"
    path.write_text("TestVideoFile{end+1}.gt_frame = [ 2:3, 5 : 5 7:8];\nTestVideoFile{end+1}.gt_frame = [];\n")
    two, none = readers.read_spans(path)
    assert two.tolist() == [[2, 5, 7], [3, 5, 8]]
    assert none.shape == (2, 0)


def test_missing_labels_say_what_was_looked_for(ped2: Path) -> None:
    (ped2 / "ped2.mat").unlink()
    with error_naming(DataError, "testing video 01", "UCSDped2.m", "ped2.mat"):
        datasets.find("toy-ped2", ped2).labels()


class Evil:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.mark,)


def test_a_pickle_is_never_loaded(shanghaitech: Path, ped2: Path, tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    labels = shanghaitech / "testing/test_frame_mask/01_0014.npy"
    np.save(labels, np.array([Evil(mark)] * 6, object), allow_pickle=True)
    with error_naming(DataError, "01_0014.npy"):
        datasets.find("toy-shanghaitech", shanghaitech).labels()
    for path, load in ((labels, readers.read_array), (ped2 / "ped2.mat", readers.read_spans)):
        path.write_bytes(pickle.dumps(Evil(mark)))
        with pytest.raises(DataError, match="never loaded"):
            load(path)
    assert not mark.exists()
    pickle.loads((ped2 / "ped2.mat").read_bytes())  # noqa: S301  the trap itself works
    assert mark.exists()


@pytest.mark.parametrize("labels", [np.zeros(6, [("a", "u1")]), np.array(["0"] * 6), b"PK\x03\x04 cut off"])
def test_arrays_of_anything_but_numbers_are_refused(shanghaitech: Path, labels: object) -> None:
    path = shanghaitech / "testing/test_frame_mask/01_0014.npy"
    if isinstance(labels, bytes):
        path.write_bytes(labels)
    else:
        np.save(path, labels)  # type: ignore[arg-type]
    with error_naming(DataError, "01_0014.npy"):
        datasets.find("toy-shanghaitech", shanghaitech).labels()


def test_masks_must_be_pictures(shanghaitech: Path) -> None:
    (shanghaitech / "testing/test_pixel_mask").mkdir()
    np.save(shanghaitech / "testing/test_pixel_mask/01_0014.npy", np.ones(6, np.uint8))
    with pytest.raises(DataError, match=r"masks must be pictures \(H, W\), all of one size"):
        datasets.find("toy-shanghaitech", shanghaitech).masks("01_0014")


def test_matlab_functions_and_objects_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "labels.mat"
    savemat(path, {"gt": cells(spans((1, 2)))})
    data = bytearray(path.read_bytes())
    matlab_class = 128 + 16  # after the file's header: tags of the variable and of its flags
    assert data[matlab_class] == 1  # a cell array
    for kind in (3, 16, 17):  # object, function handle, opaque
        data[matlab_class] = kind
        path.write_bytes(data)
        with pytest.raises(DataError, match=r"never loaded|must hold a cell array"):
            readers.read_spans(path)


@pytest.mark.parametrize("keep", [0, 10, 127, 140, 300])
def test_truncated_label_files(ped2: Path, shanghaitech: Path, keep: int) -> None:
    for path, load in (
        (ped2 / "ped2.mat", readers.read_spans),
        (shanghaitech / "testing/test_frame_mask/01_0014.npy", readers.read_array),
    ):
        path.write_bytes(path.read_bytes()[: min(keep, path.stat().st_size - 1)])
        with pytest.raises(DataError, match=path.name):
            load(path)


@pytest.mark.parametrize(
    "text",
    ["", "[]", '{"train": 1}', '{"train": {"01": Infinity}, "test": {}, "anomalous": 0}'],
)
def test_a_strange_toy_json(ped2: Path, text: str) -> None:
    (ped2 / "toy.json").write_text(text)
    with error_naming(DataError, "toy.json"):
        datasets.find("toy-ped2", ped2)


def test_the_table_shows_what_failed(avenue: Path) -> None:
    text = datasets.table(datasets.verify("avenue", avenue))
    (line,) = [line for line in text.splitlines() if "testing videos  " in line and "first" not in line]
    assert line.startswith("FAILED")
    assert "21" in line
    assert "missing: 01, 02, 03, 04, 05, ... (20)" in line


# --- the real copies -------------------------------------------------------------------------------------------


def test_real_ped2_is_whole(shared: Path) -> None:
    checks = datasets.verify("ped2", shared / "data")
    assert [check for check in checks if not check.ok] == []
    found = datasets.find("ped2", shared / "data")
    assert found.first_frames("test")["12"] == 1830
    assert sum(int(labels.sum()) for labels in found.labels().values()) == 1648
    assert next(found.train[0].read()).shape == (240, 360, 1)


def test_real_avenue_is_partial(shared: Path) -> None:
    with pytest.raises(DataError, match="--partial"):
        datasets.find("avenue", shared / "data")
    assert failures("avenue", shared / "data", partial=True) == {}
    found = datasets.find("avenue", shared / "data", partial=True)
    known = SPECS["avenue"].per_video["test"]
    assert found.test
    for video in found.test:  # whichever the copy holds
        assert len(list(video.read())) == len(found.labels()[video.name]) == known[video.name]


def test_real_shanghaitech_labels_fit_the_known_lengths(shared: Path) -> None:
    folder = shared / "data" / "shanghaitech" / "testing" / "test_frame_mask"
    labels = {path.stem: readers.read_array(path) for path in sorted(folder.glob("*.npy"))}
    spec = SPECS["shanghaitech"]
    assert {name: len(array) for name, array in labels.items()} == spec.per_video["test"]
    assert sum(int(array.sum()) for array in labels.values()) == spec.abnormal["official"]
