"""Trivial baselines: what each scores, by hand, in a store of a few cubes."""

import numpy as np
import pytest

from amsrc.store import Cubes, CubeStore
from bench.experiment.recipes import RECIPES, build
from bench.methods.catalogue import METHODS
from bench.methods.trivial import Frames, rows_of
from tests.cubes_made import FRAMES, TEST, an_experiment, write_store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> CubeStore:
    return write_store(tmp_path_factory.mktemp("store"), an_experiment("null-flow"))


@pytest.fixture(scope="module")
def cubes(store: CubeStore) -> Cubes:
    return store.test


def of(name: str, cubes: Cubes, seed: int = 0) -> list[np.ndarray]:
    """A method's only part by video: a row a frame or a cube."""
    method = METHODS[name]
    assert method.score is not None and not method.learns
    rows, found = rows_of(method, cubes), method.score(cubes, seed)
    assert list(found) == [name] == list(method.parts(method.config()))
    scores = found[name]
    assert scores.dtype == np.float32 and scores.shape == (len(rows),)
    return [scores[rows.video == video] for video in range(len(TEST))]


def test_every_trivial_method_is_a_recipe_and_every_trivial_recipe_is_one() -> None:
    methods = {build(name, "ped2").method for name, recipe in RECIPES.items() if recipe.kind == "trivial"}
    assert methods == {name for name, method in METHODS.items() if not method.learns}


def test_what_looks_at_no_picture_scores_frames_and_knows_nothing_but_their_number() -> None:
    blind = {build(name, "ped2").method for name, recipe in RECIPES.items() if recipe.content_free}
    assert blind == {"constant", "noise", "frame-index", "clip-centre"}
    assert {METHODS[name].unit for name in blind} == {"frame"}


def test_frames_stand_in_order_and_have_no_place_in_the_picture(cubes: Cubes) -> None:
    frames = Frames.of(cubes.shards)
    assert frames.frame.tolist() == list(range(FRAMES)) * len(TEST)
    assert frames.video.tolist() == np.repeat(range(len(TEST)), FRAMES).tolist()
    assert np.isnan(frames.boxes).all() and frames.boxes.shape == (len(frames), 4)
    assert len(Frames.of([])) == 0


@pytest.mark.parametrize("name", ["constant", "frame-index", "clip-centre", "noise", "box-count"])
def test_a_frame_without_cubes_has_its_score_too(cubes: Cubes, name: str) -> None:
    assert [len(scores) for scores in of(name, cubes)] == [FRAMES] * len(TEST)


def test_what_needs_no_picture_by_hand(cubes: Cubes) -> None:
    for index, centre, constant in zip(
        *(of(n, cubes) for n in ("frame-index", "clip-centre", "constant")), strict=True
    ):
        assert index.tolist() == list(range(FRAMES))
        assert (centre[[0, 19, 20, FRAMES - 1]]).tolist() == [-19.5, -0.5, -0.5, -19.5]
        assert not constant.any()


def test_boxes_are_counted_where_there_are_none_too(cubes: Cubes) -> None:
    for counts in of("box-count", cubes):
        assert counts.tolist() == [0 if frame % 7 == 3 else 2 for frame in range(FRAMES)]


def test_areas_are_those_of_the_boxes(cubes: Cubes) -> None:
    found = np.concatenate(of("box-area", cubes))
    x0, y0, x1, y1 = cubes.boxes.T
    np.testing.assert_allclose(found, (x1 - x0) * (y1 - y0))


def test_noise_is_drawn_by_seed_and_video(cubes: Cubes) -> None:
    first, again, other = of("noise", cubes), of("noise", cubes), of("noise", cubes, seed=1)
    for one, same, different in zip(first, again, other, strict=True):
        np.testing.assert_array_equal(one, same)
        assert not np.isin(one, different).any()
        assert 0 <= one.min() < 0.2 and 0.8 < one.max() < 1
    assert not np.isin(first[0], first[1]).any()
