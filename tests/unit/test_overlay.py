"""Pictures with boxes, scores and alarms: what is drawn where, in which colour, and the file they become."""

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from amsrc.errors import ConfigError, RunError
from amsrc.files import placing
from bench.video import overlay
from bench.video.overlay import AMBER, RED, TEAL, Overlay, Scale, mp4, spans

SCALE = Scale(usual=0.0, threshold=2.0, meaning="99 % of training frames")
WIDTH, HEIGHT = 700, 500  # not enlarged
GREY = np.full((HEIGHT, WIDTH, 1), 128, np.uint8)
NONE = np.zeros((0, 4), np.float32)


def drawn(score: float, *boxes: tuple[list[float], float], index: int = 5) -> np.ndarray:
    """Frame 5 of a video of ten frames, all with this score."""
    places = np.array([box for box, _ in boxes], np.float32).reshape(-1, 4)
    scores = np.full(10, score)
    return Overlay(WIDTH, HEIGHT, 10.0, scores, SCALE).draw(index, GREY, places, np.array([s for _, s in boxes]))


def width_of(picture: np.ndarray, colour: tuple[int, int, int], row: int) -> int:
    """Pixels of this colour, from the left edge of the box that begins at 100 to its middle."""
    return int((picture[row, 80:150] == np.array(colour)).all(1).sum())


def test_a_box_is_told_by_colour_and_by_width() -> None:
    box = [100.0, 100.0, 200.0, 220.0]
    widths = [width_of(drawn(0, (box, score)), colour, 160) for score, colour in ((-1, TEAL), (2, AMBER), (2.1, RED))]
    assert widths[0] < widths[1] < widths[2]
    assert widths[0] >= 1


@pytest.mark.parametrize(("score", "colour"), [(-5, TEAL), (0, TEAL), (2, AMBER), (2.01, RED), (99, RED)])
def test_colours_go_from_usual_to_alarm(score: float, colour: tuple[int, int, int]) -> None:
    assert SCALE.colour(score) == colour


def test_colours_are_defined_where_the_threshold_is_not_above_the_usual() -> None:
    low = Scale(usual=1.0, threshold=0.5, meaning="as asked for")
    assert (low.colour(0.4), low.colour(0.6)) == (TEAL, RED)


def test_the_most_abnormal_box_lies_on_top() -> None:
    box = [100.0, 100.0, 200.0, 220.0]
    for pair in ([(box, 3.0), (box, -1.0)], [(box, -1.0), (box, 3.0)]):
        assert width_of(drawn(0, *pair), RED, 160) > 0
        assert width_of(drawn(0, *pair), TEAL, 160) == 0


def test_no_figure_is_imported_for_it() -> None:
    seen = (
        "import bench.video.overlay, sys\n"
        "print([name for name in ('matplotlib', 'bench.figures.style') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", seen], capture_output=True, text=True, check=True, timeout=60)
    assert found.stdout.strip() == "[]"


def test_an_alarm_frames_the_picture_and_nothing_else_does() -> None:
    for score, alarm in ((2.0, False), (2.01, True), (np.nan, False)):
        border = drawn(score)[:HEIGHT]
        corners = [border[1, 1], border[1, -2], border[-2, 1], border[-2, -2]]
        assert [(corner == np.array(RED)).all() for corner in corners] == [alarm] * 4, score


def test_the_strip_shows_the_position_the_threshold_and_a_bar_as_high_as_the_score() -> None:
    scores = np.concatenate([np.full(4, np.nan), np.linspace(-1, 1.9, 60)])
    made = Overlay(WIDTH, HEIGHT, 10.0, scores, SCALE)
    strips = [made.draw(index, GREY, NONE, np.zeros(0))[HEIGHT:] for index in (2, 10, 60)]
    filled = [int((strip[:, -20] != strips[0][:, -20]).any(1).sum()) for strip in strips]
    assert filled[0] == 0 < filled[1] < filled[2]
    assert all((strip == np.array(AMBER)).all(2).sum() > 100 for strip in strips), "the dashed line"
    assert not (strips[0] == strips[1]).all() and not (strips[1] == strips[2]).all()


def test_a_constant_score_and_a_single_frame_can_be_drawn() -> None:
    for scores in (np.full(10, 2.0), np.full(1, -3.0), np.full(3, np.nan)):
        made = Overlay(WIDTH, HEIGHT, 10.0, scores, SCALE)
        assert made.draw(0, GREY, NONE, np.zeros(0)).shape == (made.size[1], made.size[0], 3)


@pytest.mark.parametrize("size", [(152, 100), (641, 483), (101, 1001), (1920, 1080), (270, 480)])
def test_any_frame_size_gives_even_sides_at_least_as_large(size: tuple[int, int]) -> None:
    made = Overlay(*size, 10.0, np.zeros(3), SCALE)
    frame = np.zeros((size[1], size[0], 3), np.uint8)
    picture = made.draw(1, frame, np.array([[0, 0, *size]], np.float32), np.array([5.0]))
    assert picture.shape == (made.size[1], made.size[0], 3)
    assert all(side % 2 == 0 and side >= least for side, least in zip(made.size, (640, 480), strict=True))


def test_spans_are_unbroken_runs() -> None:
    assert spans(np.array([True, False, True, True, False, True])) == [(0, 0), (2, 3), (5, 5)]
    assert spans(np.zeros(3, bool)) == spans(np.zeros(0, bool)) == []


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_the_file_has_every_picture_at_the_rate(codec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overlay, "CODECS", {codec: overlay.CODECS[codec]})
    path = tmp_path / "made.mp4"
    with mp4(path, (64, 48), 30000 / 1001, "about") as add:
        for shade in range(12):
            add(np.full((48, 64, 3), 20 * shade, np.uint8))
    capture = cv2.VideoCapture(str(path))
    shades = []
    while (found := capture.read())[0]:
        shades.append(int(found[1].mean()))
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(30000 / 1001)
    assert np.abs(np.array(shades) - 20 * np.arange(12)).max() < 6
    fourcc = int(capture.get(cv2.CAP_PROP_FOURCC)).to_bytes(4, "little").decode()
    assert fourcc in {"libx264": ("avc1", "h264"), "mpeg4": ("mp4v", "FMP4")}[codec]


def test_without_an_encoder_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(overlay, "CODECS", {"no-such-encoder": {}})
    with pytest.raises(ConfigError, match="no encoder of no-such-encoder"), mp4(tmp_path / "a.mp4", (2, 2), 1, ""):
        pass
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(ConfigError, match=r"pip install 'amsrc-bench\[video\]'"):
        overlay.check_encoder()


def test_a_folder_that_went_away_is_an_error_of_the_user(tmp_path: Path) -> None:
    target = tmp_path / "file" / "made.mp4"
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(RunError, match="cannot be written"),
        placing(target) as path,
        mp4(path, (64, 48), 10, "") as add,
    ):
        add(np.zeros((48, 64, 3), np.uint8))
