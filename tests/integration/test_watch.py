"""Watching a video with a trained run: the benchmark's own scores, a video that opens, and everything that is refused.

The runs are trained for one epoch on rendered data: one of colour videos in files, one of grey images in folders.
"""

import csv
import os
import re
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import ndimage

from amsrc.errors import ConfigError
from bench.cli import main
from bench.data import readers, toy
from bench.data.prepare import prepare
from bench.data.stores import Sources, find_store
from bench.evaluation.evaluate import evaluate
from bench.experiment.config import derive, dump, fingerprint, override
from bench.experiment.recipes import build
from bench.records.find import find_run
from bench.records.records import RunRecord, read_frame_scores, write
from bench.storage.places import write_file
from bench.training.launch import fit
from bench.video.overlay import Overlay
from bench.video.watch import Request, open_clip
from tests.object_store import remote, serving

pytestmark = pytest.mark.usefixtures("ray_cluster")
SMALL = {"model.width": "2", "train.epochs": "1", "train.batch": "16", "score.weights": "0.5,2"}
LENGTHS = {"train": 30, "test": 50}


@dataclass(frozen=True)
class Trained:
    """A data set with a cell that has been trained and measured on it."""

    home: Path
    record: RunRecord
    video: Path
    """Its second test video, which is named 02."""
    size: tuple[int, int]

    @property
    def results(self) -> Path:
        return self.home / "toy-results"

    @property
    def measured(self) -> np.ndarray:
        """The benchmark's scores of the video's frames, all but the first four."""
        return read_frame_scores(self.results, self.record)[0]["02"]

    @property
    def cubes(self) -> pd.DataFrame:
        return pd.read_parquet(self.home / "runs" / str(self.record.run) / "cubes.parquet")

    def watch(self, out: Path, *words: str | Path) -> int:
        given = ["watch", "--video", self.video, "--run", self.record.fingerprint, "--out", out, "--home", self.home]
        return main.main([str(word) for word in (*given, *words)])


def trained(dataset: str, video: str, folder: Path) -> Trained:
    with pytest.MonkeyPatch.context() as short:
        for split, clips in (("train", toy.TRAIN), ("test", toy.TEST)):
            short.setitem(clips, dataset, [replace(clip, frames=LENGTHS[split]) for clip in clips[dataset][:2]])
        toy.render_one(dataset, folder / "data")
    torch.set_num_threads(1)
    experiment = override(build("amsrc", dataset), SMALL)
    store = prepare(experiment, Sources(folder / "data"), folder / "home")
    fit(experiment, store, folder / "home")
    record = evaluate(experiment, store, folder / "home", folder / "home" / "toy-results")
    path = folder / "data" / dataset / video
    height, width = next(readers.frames_of(path, False)).shape[:2]
    return Trained(folder / "home", record, path, (width, height))


@pytest.fixture(scope="module")
def colour(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return trained("toy-avenue", "testing_videos/02.avi", tmp_path_factory.mktemp("colour"))


@pytest.fixture(scope="module")
def grey(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return trained("toy-ped2", "UCSDped2/Test/Test002", tmp_path_factory.mktemp("grey"))


def rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(line for line in path.read_text().splitlines() if not line.startswith("#")))


def scores(path: Path) -> np.ndarray:
    """(N,), NaN where there is none."""
    return np.array([float(row["score"] or "nan") for row in rows(path)])


def pictures(path: Path) -> list[np.ndarray]:
    return list(readers.frames_of(path, False))


@pytest.mark.parametrize("kind", ["colour", "grey"])
def test_its_scores_are_those_of_the_benchmark(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The key: prepare, train, evaluate and watch agree about the same video."""
    cell: Trained = request.getfixturevalue(kind)
    assert cell.watch(tmp_path / "seen.mp4") == 0
    found = scores(tmp_path / "seen.csv")
    assert np.isnan(found[:4]).all()
    assert np.ptp(cell.measured) > 0.1
    np.testing.assert_allclose(found[4:], cell.measured, rtol=1e-4, atol=1e-4)
    cubes = cell.cubes.query("split == 'test' and video == '02'").set_index("frame")[["consistency", "prediction"]]
    for row in (row for row in rows(tmp_path / "seen.csv") if row["boxes"] != "0"):
        of_box = [float(row[part]) for part in cubes.columns]
        assert np.isclose(cubes.loc[[int(row["frame"])]], of_box, rtol=1e-3, atol=1e-5).all(axis=1).any()
    printed = capsys.readouterr().out
    assert "50 frames" in printed and "scored" in printed and str(tmp_path / "seen.mp4") in printed


def test_the_video_is_whole_and_every_frame_drawn(colour: Trained, tmp_path: Path) -> None:
    assert colour.watch(tmp_path / "seen.mp4", "--fps", "12.5") == 0
    drawn = pictures(tmp_path / "seen.mp4")
    assert len(drawn) == LENGTHS["test"]
    width, height = colour.size
    zoom = 5  # 192x108 enlarged until it is 640x480 or more
    assert drawn[0].shape[1] == zoom * width
    assert drawn[0].shape[0] > zoom * height
    assert all(side % 2 == 0 for side in drawn[0].shape[:2])
    assert readers.frame_rate(tmp_path / "seen.mp4") == pytest.approx(12.5)
    original = pictures(colour.video)
    for index in (0, 20, LENGTHS["test"] - 1):
        small = cv2.resize(drawn[index][: zoom * height], (width, height), interpolation=cv2.INTER_AREA)
        apart = [np.abs(small.astype(int) - frame).mean() for frame in original]
        assert apart[index] == min(apart) < 25, "the frame below the boxes is the one of that number"
    assert rows(tmp_path / "seen.csv")[25]["time_s"] == "2.000"


def test_alarms_are_the_scores_above_the_threshold_in_table_and_picture(colour: Trained, tmp_path: Path) -> None:
    middle = float(np.median(colour.measured))
    assert colour.watch(tmp_path / "seen.mp4", "--threshold", str(middle)) == 0
    alarm = np.array([row["alarm"] == "1" for row in rows(tmp_path / "seen.csv")])
    np.testing.assert_array_equal(alarm, scores(tmp_path / "seen.csv") > middle)
    assert 0 < alarm.sum() < len(alarm)
    framed = [int(picture[1, 100, 2]) > 150 > int(picture[1, 100, 1]) for picture in pictures(tmp_path / "seen.mp4")]
    assert framed == alarm.tolist(), "the picture has a red border exactly where there is an alarm"


def test_the_threshold_is_the_training_frames_quantile(colour: Trained, tmp_path: Path) -> None:
    """Restated from the run's table: largest of a frame's cubes, median of 17, all videos together."""
    train = colour.cubes.query("split == 'train'")
    fused, zero = pd.Series(0.0, train.index), 0.0
    for part, weight in (("consistency", 0.5), ("prediction", 2.0)):
        values = train[part].astype(float)
        fused += weight * (values - values.mean()) / values.std(ddof=0)
        zero -= weight * values.mean() / values.std(ddof=0)
    every = []
    for _, cubes in fused.groupby(train["video"]):
        largest = cubes.groupby(train["frame"]).max()
        frames = largest.reindex(range(train["frame"][cubes.index].max() + 1), fill_value=zero).to_numpy()
        every.append(ndimage.median_filter(frames[4:], 17, mode="reflect"))
    expected = np.quantile(np.concatenate(every), 0.9)
    assert colour.watch(tmp_path / "seen.mp4", "--quantile", "0.9") == 0
    text = (tmp_path / "seen.csv").read_text()
    found = re.search(r"# alarm: score above (-?[\d.]+) \(90 % of training frames", text)
    assert found and float(found[1]) == pytest.approx(expected, abs=1e-5)
    assert colour.record.fingerprint in text and "02.avi: 50 frames" in text


def test_boxes_are_in_the_pixels_of_the_video_whatever_it_is_scored_at(colour: Trained, tmp_path: Path) -> None:
    """Twice the size and scored at the data set's: about the same boxes, at twice the place."""
    width, height = colour.size
    large = tmp_path / "large.avi"
    writer = cv2.VideoWriter(str(large), cv2.VideoWriter.fourcc(*"FFV1"), 10, (2 * width, 2 * height))
    for picture in pictures(colour.video):
        writer.write(cv2.resize(picture, (2 * width, 2 * height), interpolation=cv2.INTER_NEAREST))
    writer.release()
    assert colour.watch(tmp_path / "one.mp4") == 0
    assert colour.watch(tmp_path / "two.mp4", "--video", large) == 0
    assert f"scored at {width}x{height}" in (tmp_path / "two.csv").read_text()
    one, two = rows(tmp_path / "one.csv"), rows(tmp_path / "two.csv")
    np.testing.assert_allclose(scores(tmp_path / "two.csv"), scores(tmp_path / "one.csv"), atol=1e-3)
    for a, b in zip(one, two, strict=True):
        assert [2 * float(a[side] or 0) for side in ("x0", "x1")] == [float(b[side] or 0) for side in ("x0", "x1")]


def test_a_run_of_a_grey_data_set_sees_a_colour_video_in_grey(colour: Trained, grey: Trained, tmp_path: Path) -> None:
    assert grey.watch(tmp_path / "seen.mp4", "--video", colour.video) == 0
    assert "scored at 178x100 in grey" in (tmp_path / "seen.csv").read_text(), "192x108 at the height of toy-ped2"
    experiment = find_run(grey.record.fingerprint, grey.home, [grey.results]).experiment
    request = Request(video=colour.video, out=tmp_path / "seen.mp4", csv=tmp_path / "seen.csv")
    seen = next(open_clip(request, experiment).to_score())
    assert seen.shape == (100, 178, 1)
    expected = cv2.resize(next(readers.frames_of(colour.video, True)), (178, 100), interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(seen[..., 0], expected)
    middle = pictures(tmp_path / "seen.mp4")[10][100:300].astype(int)
    assert np.ptp(middle, axis=2).max() > 40, "and draws it in colour"


def test_weights_of_the_scores_may_differ_but_not_the_network(
    colour: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert colour.watch(tmp_path / "seen.mp4", "--score.weights", "0,2", "--score.median_frames=1") == 0
    assert (
        "score = 0 z(consistency) + 2 z(prediction), largest of a frame, median of 1"
        in (tmp_path / "seen.csv").read_text()
    )
    assert not np.allclose(scores(tmp_path / "seen.csv")[4:], colour.measured, atol=1e-3)
    assert colour.watch(tmp_path / "other.mp4", "--model.width", "4") == 2
    assert "--model.width: " in capsys.readouterr().err


def test_a_method_of_one_part_without_epochs_scores_a_video_too(colour: Trained, tmp_path: Path) -> None:
    store, experiment = find_store(colour.home, build("velocity-gmm", "toy-avenue"), set())
    fit(experiment, store, colour.home)
    record = evaluate(experiment, store, colour.home, tmp_path / "results")
    words = ["--run", record.fingerprint, "--results", tmp_path / "results", "--score.standardise", "min-max"]
    assert colour.watch(tmp_path / "other.mp4", *words) == 0
    assert colour.watch(tmp_path / "seen.mp4", *words[:4]) == 0
    expected = read_frame_scores(tmp_path / "results", record)[0]["02"]
    np.testing.assert_allclose(scores(tmp_path / "seen.csv")[4:], expected, rtol=1e-4, atol=1e-4)
    assert "# score = 1 min-max(velocity), largest of a frame" in (tmp_path / "other.csv").read_text()
    text = (tmp_path / "seen.csv").read_text()
    assert "# score = 1 z(velocity), largest of a frame" in text and "epoch" not in text
    assert ",box_score,velocity,x0," in text


# -- which run ---------------------------------------------------------------------------------------------------


def test_a_run_is_found_by_a_unique_start_of_its_fingerprint_or_key(colour: Trained) -> None:
    record, places = colour.record, [colour.results]
    by_print = find_run(record.fingerprint[:6], colour.home, places)
    by_key = find_run(str(record.run)[:6], colour.home, places)
    assert by_print.folder == by_key.folder == colour.home / "runs" / str(record.run)
    assert by_print.experiment == by_key.experiment
    assert record.fingerprint in by_print.title and "amsrc on toy-avenue, seed 0" in by_print.title


def test_the_fingerprint_of_other_fusion_weights_brings_them(colour: Trained, tmp_path: Path) -> None:
    """Records of one run differ in how its scores are fused; the run's key means the first of them."""
    experiment = find_run(colour.record.fingerprint, colour.home, [colour.results]).experiment
    other = derive(experiment, score={"weights": (0.125, 2.0)})
    write(replace(colour.record, fingerprint=fingerprint(other), experiment=dump(other)), tmp_path)
    found = find_run(fingerprint(other), colour.home, [colour.results, tmp_path])
    assert found.experiment.score.weights == (0.125, 2.0)
    assert found.folder.name == colour.record.run


def test_the_run_may_lie_in_an_object_store(colour: Trained, tmp_path: Path) -> None:
    with serving() as port:
        home = remote(port, "home")
        for path in (path for path in colour.home.rglob("*") if path.is_file() and "stores" not in path.parts):
            write_file(home / path.relative_to(colour.home), path.read_bytes())
        assert colour.watch(tmp_path / "seen.mp4", "--home", str(home)) == 0
    np.testing.assert_allclose(scores(tmp_path / "seen.csv")[4:], colour.measured, rtol=1e-4, atol=1e-4)


def test_an_unknown_or_ambiguous_run_is_refused_with_a_list(colour: Trained, tmp_path: Path) -> None:
    fingerprint = colour.record.fingerprint
    with pytest.raises(ConfigError, match=f"did you mean .*{fingerprint} \\(amsrc on toy-avenue, seed 0\\)"):
        find_run("z" + fingerprint[1:], colour.home, [colour.results])
    with pytest.raises(ConfigError, match=r"trained: .*amsrc on toy-avenue"):
        find_run("nonsense", colour.home, [colour.results])
    with pytest.raises(ConfigError, match=r"fits .*Give more of it"):
        find_run("", colour.home, [colour.results])
    with pytest.raises(ConfigError, match="trained: none"):
        find_run("abc", tmp_path, [tmp_path])
    with pytest.raises(ConfigError, match="Pass the --home that it was trained in"):
        find_run(fingerprint, tmp_path, [colour.results])


# -- what is refused: one line, exit code 2, nothing written --------------------------------------------------------


def refused(code: int, folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    error = capsys.readouterr().err
    assert code == 2, error
    assert error.startswith("error: ") and error.count("\n") == 1
    assert not list(folder.rglob("seen.*"))
    return error


def test_what_is_no_video_is_refused(colour: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    junk, empty, short = tmp_path / "junk.avi", tmp_path / "images", tmp_path / "short"
    junk.write_bytes(b"nonsense" * 100)
    empty.mkdir()
    short.mkdir()
    for index, picture in enumerate(pictures(colour.video)[:4]):
        cv2.imwrite(str(short / f"{index:03d}.png"), picture)
    for video, said in (
        (tmp_path / "none.avi", "no such file"),
        (junk, "no frame can be read"),
        (empty, "no frame can be read"),
        (short, "4 frames; the first 4 get no score"),
    ):
        code = colour.watch(tmp_path / "seen.mp4", "--video", video)
        assert said in refused(code, tmp_path, capsys)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--out", "{}/seen.avi"], "must end in .mp4"),
        (["--boxes", "file:x.npz"], "give motion, onnx:FILE or torchvision"),
        (["--boxes", "onnx:none.onnx"], "no such detector file"),
        (["--boxes", "magic"], "cube.boxes.provider"),
        (["--flow", "file:x"], "give dis, farneback or raft"),
        (["--scale", "0.01"], "would be scored at"),
        (["--scale", "0"], "not a number above 0"),
        (["--threshold", "nan"], "not a finite number"),
        (["--quantile", "2"], "not a number from 0 to 1"),
        (["--quantile", "0.5", "--threshold", "1"], "not allowed with"),
        (["--run", "nonsense"], "is no run under"),
        (["--score.weights", "0,0"], "at least one part must count"),
        (["--score.weights", "1"], "consistency, prediction"),
    ],
)
def test_wrong_options_are_refused(
    colour: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    code = colour.watch(tmp_path / "seen.mp4", *(word.format(tmp_path) for word in words))
    assert said in refused(code, tmp_path, capsys)


def test_a_run_without_weights_or_scores_is_refused(
    colour: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = Path(shutil.copytree(colour.home / "runs", tmp_path / "home" / "runs")).parent
    folder = home / "runs" / str(colour.record.run)
    words = ["--home", home, "--run", str(colour.record.run)]
    (folder / "cubes.parquet").write_bytes(b"PAR1")
    assert "cubes.parquet is damaged" in refused(colour.watch(tmp_path / "seen.mp4", *words), tmp_path, capsys)
    (folder / "cubes.parquet").unlink()
    assert "Run `amsrc-bench evaluate`" in refused(colour.watch(tmp_path / "seen.mp4", *words), tmp_path, capsys)
    (folder / "model.safetensors").unlink()
    assert "is not trained" in refused(colour.watch(tmp_path / "seen.mp4", *words), tmp_path, capsys)


@pytest.mark.parametrize("recipe", ["null-flow", "null-constant"])
def test_a_trivial_baseline_of_cubes_or_frames_is_refused(
    colour: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str], recipe: str
) -> None:
    store, experiment = find_store(colour.home, build(recipe, "toy-avenue"), set())
    record = evaluate(experiment, store, colour.home, tmp_path / "results")
    words = ["--run", record.fingerprint, "--results", tmp_path / "results"]
    assert "is a trivial baseline" in refused(colour.watch(tmp_path / "seen.mp4", *words), tmp_path, capsys)


def test_what_stands_is_replaced_only_when_asked(
    colour: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "kept.csv"
    kept.write_text("mine")
    assert colour.watch(tmp_path / "kept.mp4") == 2
    assert "kept.csv exists already" in capsys.readouterr().err
    assert colour.watch(tmp_path / "kept.mp4", "--csv", tmp_path / "other.csv") == 0
    assert colour.watch(tmp_path / "kept.mp4", "--csv", tmp_path / "third.csv") == 2
    assert kept.read_text() == "mine"
    assert colour.watch(tmp_path / "kept.mp4", "--overwrite") == 0
    assert len(rows(kept)) == LENGTHS["test"]
    assert colour.watch(tmp_path / "kept.mp4", "--overwrite", "--csv", tmp_path / "kept.mp4") == 2


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_named(
    colour: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "closed").mkdir(mode=0o500)
    code = colour.watch(tmp_path / "closed" / "seen.mp4")
    assert "cannot write to" in refused(code, tmp_path, capsys)


def test_a_folder_that_cannot_be_made_is_named(
    colour: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert "cannot write to" in refused(colour.watch(tmp_path / "file" / "seen.mp4"), tmp_path, capsys)


def test_an_interrupted_drawing_leaves_nothing(
    colour: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = Overlay.draw

    def draw(self: Overlay, index: int, *rest: object) -> object:
        if index == 30:
            raise KeyboardInterrupt
        return real(self, index, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Overlay, "draw", draw)
    assert colour.watch(tmp_path / "seen.mp4") == 130
    assert not list(tmp_path.iterdir())
    assert "watch" in capsys.readouterr().err
