"""Boxes of things whose place is known, the overlap rule by hand, and boxes files of every wrong kind."""

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from amsrc import boxes
from amsrc.config import BoxConfig, CubeConfig
from amsrc.cubes import Frame, Moment, cut, moments
from amsrc.errors import ConfigError, DataError
from tests.messages import error_naming

CONFIG = BoxConfig(min_side_px=10)
FIRST = {"01": 0, "02": 3}


def scene(*squares: tuple[int, int, int, int, int], channels: int = 1) -> Frame:
    """A 120x80 frame at grey level 40 with rectangles x0, y0, x1, y1, level."""
    frame = np.full((80, 120, channels), 40, np.uint8)
    for x0, y0, x1, y1, level in squares:
        frame[y0:y1, x0:x1] = level
    return frame


def moment(frame: Frame, before: Frame | None = None, after: Frame | None = None, video: str = "01") -> Moment:
    return Moment(video, 0, frame, before, after)


# Moving regions


@pytest.mark.parametrize("channels", [1, 3])
def test_a_moving_square_is_found_where_it_is(channels: int) -> None:
    steps = [scene(channels=channels) for _ in range(3)]
    texture = np.random.default_rng(0).integers(120, 256, (25, 20, channels), np.uint8)
    for step, x0 in zip(steps, (30, 34, 38), strict=True):
        step[20:45, x0 : x0 + 20] = texture
    (box,) = boxes.moving(CONFIG)(moment(steps[1], steps[0], steps[2]))
    # The union of its three places is 30..58 by 20..45, wider by the blur (2) and the growth (2).
    np.testing.assert_allclose(box, [30, 20, 58, 45], atol=4)
    assert box[0] <= 30
    assert box[1] <= 20
    assert box[2] >= 58
    assert box[3] >= 45
    assert box.dtype == np.float32


@pytest.mark.parametrize("neighbours", [{"before": scene()}, {"after": scene()}])
def test_one_neighbour_is_enough(neighbours: dict[str, Frame]) -> None:
    found = boxes.moving(CONFIG)(moment(scene((30, 20, 50, 45, 200)), **neighbours))
    assert len(found) == 1


def test_a_still_scene_and_a_lone_frame_give_no_boxes() -> None:
    frame = scene((30, 20, 50, 45, 200))
    for still in (moment(frame, frame, frame), moment(frame)):
        assert boxes.moving(CONFIG)(still).shape == (0, 4)


def test_differences_do_not_wrap() -> None:
    """Two differences of 130 sum to 260: 4 in wrapping bytes, which would be below the threshold."""
    dark, bright = scene(), scene((30, 20, 50, 45, 170))
    (box,) = boxes.moving(CONFIG)(moment(bright, dark, dark))
    np.testing.assert_allclose(box, [30, 20, 50, 45], atol=4)
    assert boxes._change(moment(bright, dark, dark), boxes._blurred)[30, 40] == 255


def test_darkening_counts_as_much_as_brightening() -> None:
    dark, bright = scene(), scene((30, 20, 50, 45, 60))
    np.testing.assert_array_equal(
        boxes.moving(CONFIG)(moment(dark, bright)),
        boxes.moving(CONFIG)(moment(bright, dark)),
    )


@pytest.mark.parametrize(("step", "found"), [(18, 0), (19, 1)])
def test_change_must_exceed_the_threshold(step: int, found: int) -> None:
    frame = scene((30, 20, 50, 45, 40 + step))
    assert len(boxes.moving(CONFIG)(moment(frame, scene()))) == found


def test_change_in_one_channel_is_change() -> None:
    frame = scene(channels=3)
    frame[20:45, 30:50, 2] = 200
    assert len(boxes.moving(CONFIG)(moment(frame, scene(channels=3)))) == 1


def test_regions_at_the_edge_stay_inside_the_frame() -> None:
    frame = scene((100, 60, 120, 80, 200), (0, 0, 20, 20, 200))
    found = boxes.moving(CONFIG)(moment(frame, scene()))
    assert sorted(found.tolist())[0][:2] == [0, 0]
    assert sorted(found.tolist())[1][2:] == [120, 80]


@pytest.mark.parametrize(
    "square",
    [(30, 20, 35, 25, 200), (5, 20, 115, 24, 200)],
    ids=["small", "long and thin"],
)
def test_small_and_thin_regions_are_dropped(square: tuple[int, int, int, int, int]) -> None:
    assert not len(boxes.moving(CONFIG)(moment(scene(square), scene())))


def test_growth_is_the_configured_one() -> None:
    still, frame = scene(), scene((30, 20, 50, 45, 200))
    plain, grown = (boxes.moving(replace(CONFIG, grow_px=px))(moment(frame, still))[0] for px in (0, 5))
    np.testing.assert_array_equal(grown - plain, [-5, -5, 5, 5])


# Detector boxes


def test_overlap_rule_by_hand() -> None:
    large = [0, 0, 20, 20]  # area 400
    inside = [15, 5, 25, 15]  # area 100, half of it in the large one: kept at 0.5, dropped below
    small = [18, 6, 22, 10]  # area 16, half of it in the large one and all of it in `inside`: dropped
    apart = [40, 40, 50, 50]
    found = boxes.drop_covered(np.array([large, small, inside, apart], np.float32), 0.5)
    assert sorted(found.tolist()) == sorted([large, inside, apart])
    found = boxes.drop_covered(np.array([large, small, inside, apart], np.float32), 0.49)
    assert sorted(found.tolist()) == sorted([large, apart])


def test_a_small_box_does_not_cover_a_larger_one_and_twins_leave_one() -> None:
    large, small = [0, 0, 10, 10], [1, 1, 10, 10]
    assert boxes.drop_covered(np.array([small, large, large], np.float32), 0.6).tolist() == [large]
    assert boxes.drop_covered(boxes.NO_BOXES, 0.6).shape == (0, 4)


def test_small_boxes_are_dropped_by_area_and_slivers_by_width() -> None:
    given = np.array([[0, 0, 10, 10], [0, 0, 5, 20], [0, 0, 9, 11], [0, 0, 0.5, 400]], np.float32)
    assert boxes.drop_small(given, 10).tolist() == given[:2].tolist()


def test_moving_regions_join_only_where_the_detector_is_blind() -> None:
    frame = scene((10, 10, 30, 40, 200), (70, 20, 90, 50, 200))
    seen = np.array([[10, 10, 30, 40], [-5, 60, 30, 90]], np.float32)
    found = boxes.detected(lambda _: seen, CONFIG)(moment(frame, scene()))
    assert len(found) == 3
    assert [0, 60, 30, 80] in found.tolist()  # cut off at the frame
    assert [10, 10, 30, 40] in found.tolist()
    np.testing.assert_allclose(found[-1], [70, 20, 90, 50], atol=4)


def test_torchvision_detector_gets_rgb_between_0_and_1(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[torch.Tensor] = []

    class Model(torch.nn.Module):
        def forward(self, images: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
            given.extend(images)
            return [{"boxes": torch.tensor([[5.0, 5.0, 25.0, 25.0]])}]

    weights = SimpleNamespace(DEFAULT=SimpleNamespace(url="https://localhost"))
    made: dict[str, Any] = {}
    stub = SimpleNamespace(
        FasterRCNN_ResNet50_FPN_V2_Weights=weights,
        fasterrcnn_resnet50_fpn_v2=lambda **options: made.update(options) or Model(),
    )
    monkeypatch.setitem(sys.modules, "torchvision.models.detection", stub)  # type: ignore[arg-type]
    frame = scene(channels=3)
    frame[..., 2] = 255  # red
    config = replace(CONFIG, provider="torchvision", confidence=0.25)
    found = boxes.provider(config, source=None, first_frames={}, frames=None)(moment(frame, frame))
    assert found.tolist() == [[5, 5, 25, 25]]
    assert made["box_score_thresh"] == 0.25
    assert given[0].shape == (3, 80, 120)
    assert given[0][:, 0, 0].tolist() == pytest.approx([1, 40 / 255, 40 / 255])


@pytest.mark.parametrize(
    ("name", "module", "message"),
    [
        ("torchvision", "torchvision", r"pip install 'amsrc-bench\[raft\]'"),
        ("onnx", "onnxruntime", r"pip install 'amsrc-bench\[onnx\]'"),
    ],
)
def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch, name: Any, module: str, message: str) -> None:
    for each in [loaded for loaded in sys.modules if loaded.split(".")[0] == module] or [module]:
        monkeypatch.setitem(sys.modules, each, None)
    with pytest.raises(ConfigError, match=message):
        boxes.provider(BoxConfig(provider=name), source=Path("no-such.onnx"), first_frames={}, frames=None)


# The NanoDet family


def test_distances_are_expectations_in_strides_from_the_cell_centre() -> None:
    logits = np.full((1, 4, 11), -50, np.float32)
    for side, bins in enumerate([(2,), (1, 2), (3,), (10,)]):
        logits[0, side, list(bins)] = 50
    (box,) = boxes._decode(logits.reshape(1, 44), np.array([7]), stride=8, columns=5)
    x, y = (2 + 0.5) * 8, (1 + 0.5) * 8  # cell 7 of rows of 5
    np.testing.assert_allclose(box, [x - 16, y - 12, x + 24, y + 80], rtol=1e-5)


IMAGE = {"image": [1, 3, 64, 96]}
HEADS = {"c8": [1, 96, 80], "c16": [1, 24, 80], "b16": [1, 24, 32], "b8": [1, 96, 32]}


def test_layout_is_read_from_the_shapes() -> None:
    found = boxes._layout(Path("d.onnx"), IMAGE, HEADS)
    assert found == ("image", 64, 96, ((8, "c8", "b8"), (16, "c16", "b16")))


@pytest.mark.parametrize(
    ("inputs", "outputs"),
    [
        (IMAGE, {"output0": [1, 84, 8400]}),
        (IMAGE, {"dets": [1, 100, 5], "labels": [1, 100]}),
        (IMAGE, {**HEADS, "extra": [1, 96, 80]}),
        (IMAGE, {"c8": [1, 96, 80], "b8": [1, 96, 33]}),
        (IMAGE, {"c8": [1, 90, 80], "b8": [1, 90, 32]}),
        (IMAGE, {"c8": [1, "rows", 80], "b8": [1, "rows", 32]}),
        (IMAGE, {"c8": [1, None, 80], "b8": [1, None, 32]}),
        ({"image": ["batch", 3, "height", "width"]}, HEADS),
        ({"image": [1, 3, 64, 96], "scale": [1, 2]}, HEADS),
        (IMAGE, {}),
    ],
)
def test_other_families_are_refused(inputs: dict[str, Any], outputs: dict[str, Any]) -> None:
    with error_naming(ConfigError, "d.onnx", "NanoDet", "--boxes file"):
        boxes._layout(Path("d.onnx"), inputs, outputs)


def test_missing_and_damaged_detectors_are_named(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    with error_naming(ConfigError, "no.onnx"):
        boxes.onnx(tmp_path / "no.onnx", CONFIG)
    for name, content in {"empty.onnx": b"", "text.onnx": b"hello" * 99}.items():
        (tmp_path / name).write_bytes(content)
        with error_naming(ConfigError, name, "ONNX"):
            boxes.onnx(tmp_path / name, CONFIG)


def intersection_over_union(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    low = np.maximum(one[:, None, :2], other[None, :, :2])
    high = np.minimum(one[:, None, 2:], other[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(2)
    areas = [(each[:, 2:] - each[:, :2]).prod(1) for each in (one, other)]
    return shared / (areas[0][:, None] + areas[1][None] - shared)


def test_nanodet_finds_the_people_of_ped2(shared: Path) -> None:
    pytest.importorskip("onnxruntime")
    model = shared / "models" / "nanodet.onnx"
    if not model.is_file():
        pytest.skip("needs the detector ../shared/models/nanodet.onnx, which is not part of the project")
    ped2 = shared / "data" / "ped2"
    config = BoxConfig(provider="onnx", confidence=0.4, motion_threshold=255)  # nothing moves that much
    detected = boxes.provider(config, source=model, first_frames={}, frames=None)
    known = boxes.from_file(ped2 / "boxes_test.npz", {"01": 0}, frames=2010)
    hits = found = wanted = 0
    for index in range(0, 180, 20):
        image = cv2.imread(str(ped2 / "testing" / "frames" / "01" / f"{index:03}.jpg"), cv2.IMREAD_GRAYSCALE)
        at = Moment("01", index, image[..., None], None, None)
        overlaps = intersection_over_union(detected(at), known(at))
        hits += (overlaps.max(0) > 0.5).sum()
        found, wanted = found + overlaps.shape[0], wanted + overlaps.shape[1]
    assert hits / wanted > 0.55
    assert hits / found > 0.85


# Boxes from a file


ROWS = np.array([[0, 0, 12, 12], [5, 5, 25, 30], [50, 40, 70, 60]], np.float32)
OFFSETS = np.array([0, 1, 1, 3, 3, 3])  # 3 frames of video 01, 2 of video 02


def write(path: Path, **arrays: Any) -> Path:
    np.savez(path, **{"boxes": ROWS, "offsets": OFFSETS, **arrays})
    return path


def test_file_gives_each_frame_its_rows(tmp_path: Path) -> None:
    path = write(tmp_path / "b.npz", boxes=np.concatenate([ROWS, ROWS[:1]]), offsets=np.array([0, 1, 1, 3, 3, 4]))
    boxes_of = boxes.provider(BoxConfig(provider="file"), source=path, first_frames=FIRST, frames=5)
    found = {
        video: [boxes_of(each).tolist() for each in moments(video, [scene()] * count)]
        for video, count in {"01": 3, "02": 2}.items()
    }
    assert found == {"01": [ROWS[:1].tolist(), [], ROWS[1:].tolist()], "02": [[], ROWS[:1].tolist()]}


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"offsets": np.array([0, 1, 3])}, "another number of frames: it holds 2, this split has 5"),
        ({"boxes": ROWS[:, :3]}, r"boxes are float32 \(3, 3\)"),
        ({"boxes": ROWS.astype(int)}, "boxes are int64"),
        ({"boxes": ROWS.astype(object)}, "not an .npz file of plain arrays"),
        ({"offsets": np.array([0, 1, 0, 3, 3, 3])}, "offsets do not rise"),
        ({"offsets": np.array([0, 1, 1, 3, 3, 4])}, "offsets do not rise from 0 to the number of boxes, 3"),
        ({"offsets": np.array([1, 1, 1, 3, 3, 3])}, "offsets do not rise from 0"),
        ({"offsets": OFFSETS.astype(float)}, "offsets are float64"),
        ({"offsets": np.zeros(0, int)}, r"offsets are int64 \(0,\)"),
    ],
)
def test_wrong_files_are_named(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    path = write(tmp_path / "boxes_test.npz", **arrays)
    with pytest.raises(DataError, match=message) as caught:
        boxes.from_file(path, FIRST, frames=5)
    assert str(path) in str(caught.value)


def test_files_of_other_kinds_are_named(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole.npz").read_bytes()
    np.save(tmp_path / "array.npy", ROWS)
    np.savez(tmp_path / "other.npz", rows=ROWS)
    contents = {
        "empty.npz": b"",
        "text.npz": b"boxes",
        "cut.npz": whole[: len(whole) // 2],
        "array.npz": (tmp_path / "array.npy").read_bytes(),
        "flipped.npz": whole[:140] + bytes([whole[140] ^ 255]) + whole[141:],
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        with error_naming(DataError, name, ".npz"):
            boxes.from_file(tmp_path / name, FIRST, frames=5)
    with error_naming(DataError, "boxes", "offsets"):
        boxes.from_file(tmp_path / "other.npz", FIRST, frames=5)
    with error_naming(DataError, "no.npz"):
        boxes.from_file(tmp_path / "no.npz", FIRST, frames=5)


def test_a_video_longer_than_the_file_is_named(tmp_path: Path) -> None:
    boxes_of = boxes.from_file(write(tmp_path / "b.npz"), FIRST, frames=None)
    with error_naming(DataError, "holds 5", "video 02 frame 2", "6"):
        _ = [boxes_of(each) for each in moments("02", [scene()] * 3)]


@pytest.mark.parametrize("box", [[100, 0, 130, 30], [10, 10, 10, 30], [-4, 0, 20, 20], [0, 0, np.nan, 20]])
def test_boxes_outside_the_frame_or_without_area_stop_the_cubes(tmp_path: Path, box: list[float]) -> None:
    path = write(tmp_path / "b.npz", boxes=np.array([box], np.float32), offsets=np.array([0, 1]))
    boxes_of = boxes.from_file(path, FIRST, frames=1)
    with error_naming(DataError, "120x80", f"box {np.array(box, float).tolist()}"):
        list(cut("01", [scene()], boxes_of, lambda _: np.zeros((80, 120, 2), np.float32), CubeConfig()))


@pytest.mark.parametrize(("name", "option"), [("onnx", "--boxes onnx:FILE"), ("file", "--boxes file:DIR")])
def test_a_source_that_is_not_given_is_asked_for(name: Any, option: str) -> None:
    with pytest.raises(ConfigError, match=option):
        boxes.provider(BoxConfig(provider=name), source=None, first_frames={}, frames=None)


def test_counts_of_the_known_boxes_of_ped2(shared: Path) -> None:
    for split, frames, expected in (("train", 2550, 31089), ("test", 2010, 34715)):
        boxes_of = boxes.from_file(shared / "data" / "ped2" / f"boxes_{split}.npz", {"all": 0}, frames)
        assert sum(len(boxes_of(Moment("all", i, scene(), None, None))) for i in range(frames)) == expected
