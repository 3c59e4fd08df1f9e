"""Flow of known motions, and flow files of every wrong kind."""

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from amsrc import flow
from amsrc.config import FlowConfig
from amsrc.cubes import FlowOf, Frame, Moment, moments
from amsrc.errors import ConfigError, DataError

RIGHT_PX, DOWN_PX = 3, -2


def moment(before: Frame | None, frame: Frame, index: int = 1, after: Frame | None = None) -> Moment:
    return Moment("01", index, frame, before, after)


@pytest.fixture(scope="module")
def shifted() -> tuple[Frame, Frame]:
    """A smooth random texture, and the same moved 3 pixels to the right and 2 up."""
    noise = np.random.default_rng(0).integers(0, 256, (140, 180), np.uint8)
    texture = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 3), None, 0, 255, cv2.NORM_MINMAX)[..., None]
    return texture[20:120, 20:160], texture[20 - DOWN_PX : 120 - DOWN_PX, 20 - RIGHT_PX : 160 - RIGHT_PX]


PROVIDERS = {
    "dis medium": flow.dis(FlowConfig()),
    "dis ultrafast": flow.dis(FlowConfig(preset="ultrafast")),
    "farneback": flow.farneback(),
}


@pytest.mark.parametrize("name", PROVIDERS)
@pytest.mark.parametrize("colour", [False, True])
def test_translation_is_found_with_its_sign_and_unit(name: str, colour: bool, shifted: tuple[Frame, Frame]) -> None:
    before, frame = (np.repeat(image, 3, axis=2) if colour else image for image in shifted)
    found = PROVIDERS[name](moment(before, frame))
    assert found.shape == (100, 140, 2)
    assert found.dtype == np.float32
    inner = found[20:-20, 20:-20].reshape(-1, 2)
    assert np.median(inner, axis=0) == pytest.approx([RIGHT_PX, DOWN_PX], abs=0.3)


@pytest.mark.parametrize("name", PROVIDERS)
def test_calls_do_not_depend_on_the_ones_before(name: str, shifted: tuple[Frame, Frame]) -> None:
    before, frame = shifted
    first = PROVIDERS[name](moment(before, frame))
    PROVIDERS[name](moment(frame, before))
    np.testing.assert_array_equal(PROVIDERS[name](moment(before, frame)), first)


@pytest.mark.parametrize("name", PROVIDERS)
def test_first_frame_has_zero_flow(name: str, shifted: tuple[Frame, Frame]) -> None:
    np.testing.assert_array_equal(PROVIDERS[name](moment(None, shifted[0], 0)), np.zeros((100, 140, 2), np.float32))


@pytest.mark.parametrize(("name", "expected"), [("dis", "dis medium"), ("farneback", "farneback")])
def test_provider_follows_the_configuration(name: str, expected: str, shifted: tuple[Frame, Frame]) -> None:
    chosen = flow.provider(FlowConfig(provider=name), source=None, split="test")  # type: ignore[arg-type]
    np.testing.assert_array_equal(chosen(moment(*shifted)), PROVIDERS[expected](moment(*shifted)))


def test_files_without_a_folder_are_refused() -> None:
    with pytest.raises(ConfigError, match="--flow file:DIR"):
        flow.provider(FlowConfig(provider="file"), source=None, split="test")


def test_raft_without_torchvision_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    monkeypatch.setitem(sys.modules, "torchvision.models.optical_flow", None)
    with pytest.raises(ConfigError, match=r"pip install 'amsrc-bench\[raft\]'"):
        flow.provider(FlowConfig(provider="raft"), source=None, split="test")


def test_raft_sees_whole_multiples_of_8_in_minus_one_to_one() -> None:
    frame = np.zeros((130, 99, 3), np.uint8)
    frame[..., 0] = 255  # blue
    image = flow._raft_input(frame)
    assert image.shape == (3, 136, 128)
    np.testing.assert_array_equal(image[:, 0, 0], [-1, -1, 1])
    np.testing.assert_array_equal(image[:, -1, -1], [-1, -1, 1])


# Flow from files


FRAMES = [np.zeros((6, 8, 1), np.uint8)] * 4
FLOWS = np.random.default_rng(1).normal(size=(4, 6, 8, 2))


def write(folder: Path, flows: np.ndarray) -> FlowOf:
    (folder / "test").mkdir(exist_ok=True)
    np.save(folder / "test" / "01.npy", flows)
    return flow.provider(FlowConfig(provider="file"), source=folder, split="test")


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_files_are_read_frame_by_frame(tmp_path: Path, dtype: type) -> None:
    flow_of = write(tmp_path, FLOWS.astype(dtype))
    found = [flow_of(each) for each in moments("01", FRAMES)]
    assert {each.dtype for each in found} == {np.dtype(np.float32)}
    np.testing.assert_array_equal(found[0], 0)
    np.testing.assert_array_equal(found[1:], FLOWS.astype(dtype)[1:].astype(np.float32))


@pytest.mark.parametrize(
    ("flows", "message"),
    [
        (FLOWS[:3].astype(np.float32), "another number of frames: it holds 3, the video has 4"),
        (np.concatenate([FLOWS, FLOWS]).astype(np.float32), "another number of frames: it holds 8, the video has 4"),
        (FLOWS[:, :, :7].astype(np.float32), "flow is 7x6, the frames are 8x6"),
        (FLOWS.astype(np.float64), r"is float64 \(4, 6, 8, 2\); expected float16 or float32"),
        (FLOWS[..., :1].astype(np.float32), "expected float16 or float32"),
        (FLOWS.astype(object), "not a plain .npy array"),
        (np.full_like(FLOWS, np.nan, np.float32), "frame 1 has values that are not finite"),
    ],
)
def test_wrong_files_are_named(tmp_path: Path, flows: np.ndarray, message: str) -> None:
    flow_of = write(tmp_path, flows)
    with pytest.raises(DataError, match=message) as caught:
        _ = [flow_of(each) for each in moments("01", FRAMES)]
    assert "01.npy" in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"not an array", b"\x93NUMPY\x01\x00"])
def test_damaged_files_are_named(tmp_path: Path, content: bytes) -> None:
    flow_of = write(tmp_path, FLOWS)
    (tmp_path / "test" / "01.npy").write_bytes(content)
    with pytest.raises(DataError, match=r"01\.npy: not a plain \.npy array"):
        flow_of(moment(FRAMES[0], FRAMES[1]))


def test_archive_named_npy_is_refused(tmp_path: Path) -> None:
    flow_of = write(tmp_path, FLOWS)
    with (tmp_path / "test" / "01.npy").open("wb") as file:
        np.savez(file, flows=FLOWS)
    with pytest.raises(DataError, match="an archive; expected"):
        flow_of(moment(FRAMES[0], FRAMES[1]))


def test_missing_folder_and_missing_video_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="train: no such folder"):
        flow.from_file(tmp_path, "train")
    flow_of = write(tmp_path, FLOWS)
    with pytest.raises(DataError, match=r"02\.npy: no such file"):
        flow_of(Moment("02", 0, FRAMES[0], None, FRAMES[1]))
