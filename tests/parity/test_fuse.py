"""From the scores of cubes to the scores of frames, against a plain loop over random videos."""

from dataclasses import dataclass, replace
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amsrc.config import ScoreConfig
from amsrc.errors import DataError, RunError
from amsrc.fuse import Fuser, Statistics, frame_scores, statistics
from bench.speed import reference

unhurried = settings(deadline=None)  # a busy machine is not a failure
Cube = tuple[int, int, float, float]  # video, frame, S_f, S_p


@dataclass(frozen=True)
class Case:
    """The cubes of some videos and all that turns them into frame scores."""

    cubes: list[Cube]
    frames: list[int]
    statistics: Statistics
    config: ScoreConfig

    @property
    def columns(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """S_f, S_p, video, frame."""
        video, frame, s_f, s_p = np.array(self.cubes, np.float64).reshape(-1, 4).T
        return s_f.astype(np.float32), s_p.astype(np.float32), video.astype(int), frame.astype(int)

    def fused(self) -> list[np.ndarray]:
        return frame_scores(*self.columns, self.frames, self.statistics, self.config)

    def under(self, weights: list[tuple[float, float]], dtype: type = np.float64) -> np.ndarray:
        """All frames laid end to end, under many weights at once."""
        s_f, s_p, video, frame = self.columns
        fuser = Fuser.of(video, frame, self.frames, self.config)
        assert fuser.lengths == tuple(max(count - self.config.skip_frames, 0) for count in self.frames)
        return fuser.scores(s_f, s_p, self.statistics, weights, dtype)

    def expected(self) -> list[list[float]]:
        return reference.frame_scores(
            self.cubes,
            self.frames,
            (self.statistics.mean_f, self.statistics.sd_f),
            (self.statistics.mean_p, self.statistics.sd_p),
            weight_f=self.config.weight_f,
            weight_p=self.config.weight_p,
            skip=self.config.skip_frames,
            median=self.config.median_frames,
            padding=self.config.median_padding,
            empty=self.config.empty_frame,
        )


HUNDREDTHS = st.integers(0, 200).map(lambda n: n / 100)
CONFIGS = st.builds(
    ScoreConfig,
    weight_f=HUNDREDTHS,
    weight_p=HUNDREDTHS,
    skip_frames=st.integers(0, 6),
    median_frames=st.sampled_from([1, 3, 5, 17]),
    median_padding=st.sampled_from(["zero", "reflect", "nearest"]),
    empty_frame=st.sampled_from(["zero-error", "released"]),
)
STATISTICS = st.builds(
    Statistics,
    st.floats(0, 2, width=32),
    st.floats(1 / 64, 2, width=32),
    st.floats(0, 500, width=32),
    st.floats(1 / 8, 200, width=32),
)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Videos of 0 to 40 frames, most frames with no cube or several, rows in any order."""
    frames = draw(st.lists(st.integers(0, 40), min_size=1, max_size=4))
    places = [(video, frame) for video, count in enumerate(frames) for frame in range(count)]
    s_f, s_p = st.floats(0, 2, width=32), st.floats(0, 3000, width=32)
    cube = st.tuples(st.sampled_from(places), s_f, s_p) if places else st.nothing()
    drawn = draw(st.lists(cube, max_size=60)) if places else []
    return Case([(*place, f, p) for place, f, p in drawn], frames, draw(STATISTICS), draw(CONFIGS))


def simple(cubes: list[Cube], frames: list[int], **config: object) -> Case:
    """S_p alone, not standardised, nothing skipped, nothing smoothed: what is left is easy to see."""
    plain = ScoreConfig(weight_f=0.0, weight_p=1.0, skip_frames=0, median_frames=1)
    return Case(cubes, frames, Statistics(0.0, 1.0, 0.0, 1.0), replace(plain, **config))  # type: ignore[arg-type]


@unhurried
@given(cases())
def test_frame_scores_equal_the_loop(case: Case) -> None:
    fused = case.fused()
    assert [len(video) for video in fused] == [max(count - case.config.skip_frames, 0) for count in case.frames]
    for ours, expected in zip(fused, case.expected(), strict=True):
        assert ours.dtype == np.float64
        np.testing.assert_allclose(ours, expected, rtol=1e-9, atol=1e-9)


@unhurried
@given(cases(), st.lists(st.tuples(HUNDREDTHS, HUNDREDTHS), max_size=5))
def test_many_weights_at_once_equal_one_pair_after_the_other(case: Case, weights: list[tuple[float, float]]) -> None:
    together = case.under(weights)
    assert together.shape == (len(weights), sum(max(count - case.config.skip_frames, 0) for count in case.frames))
    for row, (weight_f, weight_p) in zip(together, weights, strict=True):
        alone = replace(case, config=replace(case.config, weight_f=weight_f, weight_p=weight_p))
        np.testing.assert_array_equal(row, np.concatenate(alone.fused()))
        np.testing.assert_allclose(row, np.concatenate(alone.expected()), rtol=1e-9, atol=1e-9)
    np.testing.assert_array_equal(case.under(weights, np.float32), together.astype(np.float32))


@unhurried
@given(cases(), st.randoms(use_true_random=False))
def test_the_order_of_the_cubes_does_not_matter(case: Case, random: Random) -> None:
    shuffled = random.sample(case.cubes, len(case.cubes))
    for ours, again in zip(case.fused(), replace(case, cubes=shuffled).fused(), strict=True):
        np.testing.assert_array_equal(ours, again)


@unhurried
@given(cases(), st.sampled_from([0.125, 0.5, 4.0, 1024.0]))
def test_only_the_ratio_of_the_weights_matters(case: Case, factor: float) -> None:
    """A power of two rounds nothing, so the scores are exactly scaled and their ranks, ties too, are kept."""
    config = replace(case.config, empty_frame="zero-error")
    scaled = replace(config, weight_f=factor * config.weight_f, weight_p=factor * config.weight_p)
    scores = np.concatenate(replace(case, config=config).fused())
    again = np.concatenate(replace(case, config=scaled).fused())
    np.testing.assert_array_equal(again, factor * scores)


@unhurried
@given(cases())
def test_a_video_scores_the_same_alone_as_among_others(case: Case) -> None:
    for number, together in enumerate(case.fused()):
        cubes = [(0, frame, s_f, s_p) for video, frame, s_f, s_p in case.cubes if video == number]
        (alone,) = replace(case, cubes=cubes, frames=[case.frames[number]]).fused()
        np.testing.assert_array_equal(alone, together)


@unhurried
@given(st.lists(st.tuples(st.floats(0, 2, width=32), st.floats(0, 3000, width=32)), min_size=1, max_size=50))
def test_statistics_equal_the_loop(scores: list[tuple[float, float]]) -> None:
    s_f, s_p = (np.array(column, np.float32) for column in zip(*scores, strict=True))
    found = statistics(s_f, s_p)
    for values, mean, sd in ((s_f, found.mean_f, found.sd_f), (s_p, found.mean_p, found.sd_p)):
        expected_mean, expected_sd = reference.mean_and_sd([float(value) for value in values])
        assert mean == pytest.approx(expected_mean, rel=1e-12, abs=1e-12)
        assert sd == pytest.approx(expected_sd, rel=1e-9, abs=1e-9)


def test_statistics_of_many_cubes_are_not_summed_in_float32() -> None:
    s_p = np.full(2_000_000, 0.1, np.float32)
    found = statistics(np.full_like(s_p, np.nan), s_p)
    assert found.mean_p == pytest.approx(float(np.float32(0.1)), rel=1e-12)
    assert found.sd_p == pytest.approx(0, abs=1e-12)


def test_a_frame_scores_its_worst_cube() -> None:
    (scores,) = simple([(0, 1, 0, 3.0), (0, 1, 0, 7.0), (0, 0, 0, 2.0), (0, 1, 0, 5.0)], [2]).fused()
    assert scores.tolist() == [2, 7]


@pytest.mark.parametrize(
    ("empty", "expected"), [("zero-error", 0.5 * -0.4 / 0.1 + 2.0 * -30 / 10), ("released", -30 / 10)]
)
def test_a_frame_without_cubes(empty: str, expected: float) -> None:
    """Zero errors under the given weights, or as released a zero prediction error whatever the weights."""
    case = simple([(0, 0, 9.0, 900.0)], [2], weight_f=0.5, weight_p=2.0, empty_frame=empty)
    (scores,) = replace(case, statistics=Statistics(0.4, 0.1, 30.0, 10.0)).fused()
    assert scores[1] == pytest.approx(expected, rel=1e-12)


def test_no_cube_at_all_scores_every_frame_alike() -> None:
    first, second = simple([], [3, 1]).fused()
    assert first.tolist() == [0, 0, 0] and second.tolist() == [0]


def test_the_first_frames_are_dropped_before_smoothing() -> None:
    """A huge first frame must not leak through the filter into the frames that are kept."""
    cubes = [(0, frame, 0.0, score) for frame, score in enumerate([9e6, 9e6, 1.0, 2.0, 3.0])]
    (scores,) = simple(cubes, [5], skip_frames=2, median_frames=3, median_padding="nearest").fused()
    assert scores.tolist() == [1, 2, 3]


def test_videos_as_short_as_the_dropped_frames_have_no_scores() -> None:
    cubes = [(video, 0, 0.0, 5.0) for video in range(3)]
    assert [len(video) for video in simple(cubes, [1, 4, 5], skip_frames=4, median_frames=17).fused()] == [0, 0, 1]


@pytest.mark.parametrize(
    ("padding", "expected"),
    [("zero", [1, 3, 3, 3]), ("reflect", [3, 3, 4, 4]), ("nearest", [1, 3, 4, 4])],
)
def test_what_the_filter_sees_beyond_the_ends(padding: str, expected: list[float]) -> None:
    cubes = [(0, frame, 0.0, score) for frame, score in enumerate([1.0, 5.0, 3.0, 4.0])]
    (scores,) = simple(cubes, [4], median_frames=5, median_padding=padding).fused()
    assert scores.tolist() == expected


def test_zero_padding_pulls_a_one_frame_video_to_zero() -> None:
    for padding, expected in (("zero", 0.0), ("reflect", 5.0), ("nearest", 5.0)):
        (scores,) = simple([(0, 0, 0.0, 5.0)], [1], median_frames=17, median_padding=padding).fused()
        assert scores.tolist() == [expected]


def test_an_unknown_s_f_of_weight_zero_is_not_looked_at() -> None:
    case = simple([(0, 0, np.nan, 4.0)], [2])
    (scores,) = replace(case, statistics=Statistics(np.nan, np.nan, 2.0, 1.0)).fused()
    assert scores.tolist() == [2, -2]


def test_among_many_weights_only_those_above_zero_look_at_a_score() -> None:
    case = replace(simple([(0, 0, np.nan, 4.0)], [2]), statistics=Statistics(np.nan, np.nan, 2.0, 1.0))
    assert case.under([(0.0, 1.0), (0.0, 0.5)]).tolist() == [[2, -2], [1, -1]]
    with pytest.raises(RunError, match="S_f cannot be fused"):
        case.under([(0.0, 1.0), (0.1, 0.9)])
    other = replace(simple([(0, 0, 4.0, np.nan)], [2]), statistics=Statistics(2.0, 1.0, np.nan, np.nan))
    assert other.under([(1.0, 0.0)]).tolist() == [[2, -2]]


def test_a_single_score_that_is_not_finite_is_found_wherever_it_lies() -> None:
    """Below a larger one of its frame, or in a frame that gets no score."""
    for cubes in ([(0, 5, 0.0, 9.0), (0, 5, 0.0, -np.inf)], [(0, 0, 0.0, np.nan), (0, 5, 0.0, 1.0)]):
        with pytest.raises(RunError, match="S_p cannot be fused"):
            simple(cubes, [6], skip_frames=4).fused()


def test_weights_below_zero_take_the_largest_of_what_they_give() -> None:
    (scores,) = simple([(0, 0, 0.0, 3.0), (0, 0, 0.0, 7.0)], [1], weight_p=-1.0).fused()
    assert scores.tolist() == [-3]


@pytest.mark.parametrize("cube", [(0, 2, 0.0, 1.0), (0, -1, 0.0, 1.0)])
def test_a_cube_outside_its_video_is_an_error(cube: Cube) -> None:
    with pytest.raises(DataError, match="outside its video"):
        simple([cube], [2, 5]).fused()
