"""What needs pixels and network: on a rendered data set, prepared and trained for seconds."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from amsrc.errors import DataError, RunError
from amsrc.store import CubeStore
from bench.cli import main
from bench.data import prepare, toy
from bench.data.datasets import find
from bench.data.stores import Sources, find_store
from bench.evaluation import evaluate, metrics
from bench.experiment.config import Experiment, flatten, override
from bench.experiment.recipes import RECIPES, build
from bench.figures import files
from bench.figures import network as panels
from bench.figures import run as pictures
from bench.methods import catalogue
from bench.records.records import read, record_path
from bench.training import launch

NULLS = sorted(name for name, recipe in RECIPES.items() if recipe.kind == "trivial")
LEARNED = ("amsrc", "no-gate-add", "conv-ae", "velocity-gmm")
CHANGES = {
    "cube.size": "16",
    "model.width": "2",
    "train.epochs": "2",
    "train.batch": "256",
    "train.score_every": "1",
}
LENGTHS = {"train": 30, "test": 50}


def changes(recipe: str) -> dict[str, str]:
    """Those of `CHANGES` that its method has."""
    known = flatten(build(recipe, "toy-ped2"))
    return {name: value for name, value in CHANGES.items() if name in known}


def words(recipe: str, home: Path) -> list[str]:
    """The command that draws a recipe's run."""
    fields = [word for name, value in changes(recipe).items() for word in (f"--{name}", value)]
    return ["figures", "--recipe", recipe, "--dataset", "toy-ped2", "--home", str(home), *fields]


def one_by_one(store: Path, dataset: Any, cube: Any, sources: Any, todo: list[Any]) -> Iterator[str]:
    """As `prepare._cut_all`, without Ray."""
    for split, video in todo:
        prepare.prepare_video(store, split, video, cube, *prepare.providers(dataset, split, cube, sources))
        yield f"{split}/{video.name}"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cubes of the first videos of toy-ped2 and evaluated runs of each kind on them, records in the home."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        for split, clips in (("train", toy.TRAIN), ("test", toy.TEST)):
            short = [replace(clip, frames=LENGTHS[split]) for clip in clips["toy-ped2"][:2]]
            patch.setitem(clips, "toy-ped2", short)
        toy.render_one("toy-ped2", home / "toy")
        patch.setattr(prepare, "_cut_all", one_by_one)
        for recipe in (*LEARNED, *NULLS):
            e = override(build(recipe, "toy-ped2", 0), changes(recipe))
            store = prepare.prepare(e, Sources(home / "toy"), home)
            assert isinstance(store, CubeStore)
            if e.learns:
                launch.fit(e, store, home)
            evaluate.evaluate(e, store, home, home / "toy-results")
    return home


def of(home: Path, recipe: str) -> tuple[Experiment, Path]:
    """An experiment and the folder of its figures."""
    e = override(build(recipe, "toy-ped2", 0), changes(recipe))
    (path,) = (home / "toy-results" / "records" / recipe / "toy-ped2").glob("*.json")
    return e, files.folder_of(home / "toy-results", read(path))


@pytest.fixture(scope="module")
def drawn(home: Path) -> Path:
    """The figures of AMSRC, made by the command."""
    assert main.main(words("amsrc", home)) == 0
    return of(home, "amsrc")[1]


def test_the_command_makes_everything_of_a_run(drawn: Path) -> None:
    names = {"errors", "features", "frame", "videos", "epochs", "fusion"}
    assert {path.stem for path in drawn.glob("*.svg")} == {path.stem for path in drawn.glob("*.png")} == names
    assert {"parts.npz", "boxes.json", "frames"} <= {path.name for path in drawn.iterdir()}


def test_frames_are_small_few_and_of_every_video(drawn: Path, home: Path) -> None:
    strip = files.read_strip(files.strips_of(home / "toy-results", "toy-ped2"))
    assert sorted(strip) == ["01", "02"]
    for video, frames in strip.items():
        assert 8 <= len(frames) <= pictures.STRIP, video
        for content in frames.values():
            picture = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
            assert picture is not None
            assert picture.shape[1] <= pictures.WIDEST_PX
    kept = files.read_strip(drawn / "frames")
    assert len(kept) == 2, "the videos of the figure"
    assert all(len(frames) == 2 for frames in kept.values()), "the highest and the lowest score"


def test_a_dozen_frames_stand_for_a_video_whoever_draws_them(drawn: Path, home: Path) -> None:
    folder = files.strips_of(home / "toy-results", "toy-ped2")
    before = files.read_strip(folder)
    (folder / "01" / "00001.jpg").write_bytes(b"left by another run")
    for recipe in ("no-gate-add", "null-flow", "amsrc"):
        assert main.main(words(recipe, home)) == 0
        assert files.read_strip(folder) == before
    assert {len(frames) for frames in before.values()} == {pictures.STRIP}


def test_boxes_are_those_of_the_store_with_their_fused_scores(drawn: Path, home: Path) -> None:
    e, _ = of(home, "amsrc")
    store, _ = find_store(home, e, set())
    scores, _ = evaluate.score_rows(e, store, pictures.run_folder.folder_of(e, home))
    known, boxes = evaluate.standard(e, scores), files.read_boxes(drawn)
    video, number = "02", sorted(boxes["02"])[3]
    rows = np.flatnonzero((store.test.video == 1) & (store.test.frame == number))
    assert len(rows) == len(boxes[video][number]) > 0
    width, height = 152, 100
    for row, found in zip(rows, boxes[video][number], strict=True):
        expected = sum((scores.test[part][row] - known[part].mean) / known[part].sd for part in e.parts) / len(e.parts)
        assert found[:4] == pytest.approx(store.test.boxes[row] / [width, height, width, height], abs=1e-3)
        assert found[4] == pytest.approx(expected, abs=1e-3)


def test_the_parts_are_the_scores_that_the_record_measured_alone(drawn: Path, home: Path) -> None:
    record = read(next((home / "toy-results" / "records" / "amsrc").rglob("*.json")))
    run = files.scored(home / "toy-results", record)
    assert run is not None
    assert len(record.parts) == 2
    for part, auroc in record.parts.items():
        alone = {video: of_part[part] for video, of_part in run.parts.items()}
        assert metrics.pooled_auroc(alone, run.labels) == auroc


def test_no_score_chooses_the_cubes_that_are_shown(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = opened(home, "amsrc")
    store = run.store
    rows = pictures.chosen_cubes(run)
    flags = run.abnormal[rows].tolist()
    assert flags == sorted(flags), "normal ones first"
    assert 1 < sum(flags) <= pictures.SHOWN
    labels = store.labels("official")
    names = [shard.video for shard in store.test.shards]
    assert flags == [bool(labels[names[store.test.video[row]]][store.test.frame[row]]) for row in rows]
    other = opened(home, "amsrc")
    monkeypatch.setattr(type(other), "fused", property(lambda _: pytest.fail("a score was looked at")))
    assert pictures.chosen_cubes(other).tolist() == rows.tolist()


def opened(home: Path, recipe: str, **more: str) -> pictures.Run:
    e = override(build(recipe, "toy-ped2", 0), changes(recipe) | more)
    store, e = find_store(home, e, set())
    return pictures._open(e, store, find("toy-ped2", home / "toy"), home, home / "toy-results")


def test_errors_are_the_networks_own_and_sum_to_the_score(home: Path) -> None:
    run = opened(home, "amsrc")
    rows = pictures.chosen_cubes(run)
    shown = pictures._shown(run, pictures._loaded(run, run.experiment), rows)
    predicted = pictures._predicted(shown)
    assert predicted.error_BHW.sum((1, 2)) == pytest.approx(run.last.scores["prediction"][rows], rel=1e-3)
    target = run.cubes.frames(rows)[:, -1].astype(np.float32) / 255
    again = np.square(predicted.prediction_BHWC - pictures._pictures(target)).sum(-1)
    assert again == pytest.approx(predicted.error_BHW, abs=1e-5)


def test_a_run_is_compared_with_its_trained_ablation_that_changes_the_least(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = opened(home, "amsrc")
    found = pictures._ablation(run)
    assert found is not None
    assert found.recipe == "no-gate-add"
    assert flatten(found) == flatten(run.experiment) | {"recipe": "no-gate-add", "model.fusion": "add"}
    asked = []

    def is_trained(folder: Path) -> bool:
        asked.append(folder)
        return True

    monkeypatch.setattr(pictures.run_folder, "is_trained", is_trained)
    found = pictures._ablation(run)
    assert len(asked) == 4, "the baseline changes the weights of the loss as well"
    assert found is not None
    assert found.recipe == "no-gate-add"
    assert pictures._ablation(opened(home, "conv-ae")) is None


@pytest.mark.parametrize(
    ("recipe", "names"),
    [
        ("conv-ae", {"errors", "frame", "videos", "epochs"}),
        ("velocity-gmm", {"frame", "videos"}),
        ("no-gate-add", {"errors", "features", "frame", "videos", "epochs", "fusion"}),
    ],
)
def test_each_method_has_the_figures_that_it_shows_something_for(home: Path, recipe: str, names: set[str]) -> None:
    assert main.main(words(recipe, home)) == 0
    _, folder = of(home, recipe)
    assert {path.stem for path in folder.glob("*.svg")} == names
    (path,) = (home / "toy-results" / "records" / recipe / "toy-ped2").glob("*.json")
    assert files.pictured(home / "toy-results", read(path))


@pytest.mark.parametrize("recipe", NULLS)
def test_a_null_row_has_curves_and_a_frame_but_no_network(home: Path, recipe: str) -> None:
    assert main.main(words(recipe, home)) == 0
    e, folder = of(home, recipe)
    assert {path.stem for path in folder.glob("*.svg")} == {"frame", "videos"}
    (path,) = (home / "toy-results" / "records" / recipe / "toy-ped2").glob("*.json")
    run = files.scored(home / "toy-results", read(path))
    assert run is not None
    (part,) = e.parts
    alone = {video: parts[part] for video, parts in run.parts.items()}
    assert {video: len(score) for video, score in alone.items()} == {v: len(score) for v, score in run.scores.items()}
    assert metrics.pooled_auroc(alone, run.labels) == run.record.parts[part] == run.record.metrics["auroc"]
    boxed = any(rows for own in files.read_boxes(folder).values() for rows in own.values())
    assert boxed == (catalogue.find(e.method).unit == "cube"), "what scores frames scores no box"


def test_a_copy_of_the_data_that_lacks_videos_is_refused(home: Path) -> None:
    e, _ = of(home, "amsrc")
    store, e = find_store(home, e, set())
    dataset = find("toy-ped2", home / "toy")
    with pytest.raises(DataError, match=r"lacks test videos .*: 02\. Pass --root"):
        pictures.draw(e, store, replace(dataset, test=dataset.test[:1]), home, home / "toy-results")


def test_without_a_record_it_says_what_to_run_first(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main([*words("amsrc", home), "--results", str(tmp_path)]) == RunError.exit_code
    assert "amsrc-bench evaluate" in capsys.readouterr().err
    e, _ = of(home, "amsrc")
    assert not record_path(tmp_path, e.recipe, e.dataset, 0, "x").exists()


def test_the_figures_show_their_arrays() -> None:
    random = np.random.default_rng(0)
    target = random.uniform(0, 1, (2, 4, 4, 3)).astype(np.float32)
    sample = panels.Sample(["01, frame 7", "02, frame 9"], [False, True], target)
    networks = {
        name: panels.Predicted(target / 2, np.full((2, 4, 4), error, np.float32))
        for name, error in (("a", 0.5), ("b", 2))
    }
    figure = panels.errors(sample, networks)
    assert figure is not None
    assert [axes.get_title() for axes in figure.axes[:2]] == ["normal\n01, frame 7", "abnormal\n02, frame 9"]
    written = [axes.get_xlabel() for axes in figure.axes if axes.get_xlabel()]
    assert written == ["sum = 8.0", "sum = 8.0", "sum = 32.0", "sum = 32.0"]
    assert {image.get_clim() for axes in figure.axes[6:10] for image in axes.images} == {(0, 2)}, "one scale for all"


def test_a_feature_is_counted_where_it_is_not_zero() -> None:
    on = np.zeros((8, 2, 2), np.float32)
    on[:4] = 1.5
    half = np.zeros((8, 2, 2), np.float32)
    half[2:4] = 1
    maps = {"appearance": on, "motion": half, "after fusion": on + half}
    assert panels.agreement(maps) == 0.75
    figure = panels.features({"normal": maps}, {"normal": (0.75, 9)})
    assert figure is not None
    assert [axes.get_title() for axes in figure.axes] == [
        "appearance: 50% not zero",
        "motion: 25% not zero",
        "after fusion: 50% not zero",
    ]
    assert json.dumps(figure.axes[0].get_ylabel()) == '"normal\\nalike in 75%"'
    assert figure.get_suptitle().startswith("Appearance and motion are zero, or not, together: normal 75.0%")


def test_maps_of_other_shapes_are_drawn_without_comparing_them() -> None:
    maps = {"coarse": np.ones((4, 2, 2), np.float32), "fine": np.ones((4, 8, 8), np.float32)}
    assert panels.agreement(maps) is None
    assert panels.agreement({"alone": maps["fine"]}) is None
    figure = panels.features({"normal": maps, "abnormal": maps}, {})
    assert figure is not None
    assert len(figure.axes) == 4
    assert figure.get_suptitle() == ""
    assert panels.features({"normal": {}}, {}) is None
