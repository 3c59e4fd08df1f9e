"""From the scores of cubes to the scores of frames, against a plain loop over random videos and one to three parts."""

import math
from dataclasses import dataclass, replace
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amsrc.config import ScoreConfig
from amsrc.errors import DataError, RunError
from amsrc.fuse import Fuser, Statistics, cube_scores, empty_frame_score, frame_scores, statistics
from bench.speed import reference
from tests.messages import error_naming

unhurried = settings(deadline=None)  # a busy machine is not a failure
Cube = tuple[float, ...]  # video, frame, a value a part
PARTS = ("first", "second", "third")


@dataclass(frozen=True)
class Case:
    """The cubes of some videos and all that turns them into frame scores."""

    cubes: list[Cube]
    frames: list[int]
    statistics: list[Statistics]  # of the first parts, one each
    config: ScoreConfig

    @property
    def known(self) -> dict[str, Statistics]:
        return dict(zip(PARTS, self.statistics, strict=False))

    @property
    def columns(self) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
        """Scores by part, video, frame."""
        video, frame, *values = np.array(self.cubes, np.float64).reshape(-1, 2 + len(self.statistics)).T
        scores = {part: of_part.astype(np.float32) for part, of_part in zip(self.known, values, strict=True)}
        return scores, video.astype(int), frame.astype(int)

    def fused(self) -> list[np.ndarray]:
        return frame_scores(*self.columns, self.frames, self.known, self.config)

    def under(self, weights: list[tuple[float, ...]], dtype: type = np.float64) -> np.ndarray:
        """All frames laid end to end, under many weights at once."""
        scores, video, frame = self.columns
        fuser = Fuser.of(video, frame, self.frames, self.config)
        assert fuser.lengths == tuple(max(count - self.config.skip_frames, 0) for count in self.frames)
        return fuser.scores(scores, self.known, weights, dtype)

    def expected(self) -> list[list[float]]:
        """The loop."""
        config, known = self.config, self.statistics

        def fused(values: list[float], weights: tuple[float, ...] = config.weights) -> float:
            terms = zip(values, map(self.scale, known), weights, strict=True)
            return sum(weight * (value - centre) / spread for value, (centre, spread), weight in terms if weight)

        zeros = [0.0] * len(known)
        nothing = {
            "zero-error": fused(zeros),
            "released": fused(zeros, (*zeros[1:], 1.0)),
            "lowest": fused([each.minimum for each in known]),
        }[config.empty_frame]
        best: dict[tuple[float, float], float] = {}
        for video, frame, *values in self.cubes:
            best[video, frame] = max(fused(values), best.get((video, frame), -math.inf))
        videos = [[best.get((v, f), nothing) for f in range(config.skip_frames, n)] for v, n in enumerate(self.frames)]
        return [reference.smoothed(video, config.median_frames, config.median_padding) for video in videos]

    def scale(self, known: Statistics) -> tuple[float, float]:
        """What is subtracted from a part and what it is divided by."""
        if self.config.standardise == "z-score":
            return known.mean, known.sd
        top = known.maximum if self.config.standardise == "min-max" else known.p999
        return known.minimum, top - known.minimum


HUNDREDTHS = st.integers(0, 200).map(lambda n: n / 100)
STATISTICS = st.builds(
    lambda mean, sd, below, above, beyond: Statistics(mean, sd, mean - below, mean + above, mean + above + beyond),
    st.floats(0, 500, width=32),
    st.floats(1 / 8, 200, width=32),
    st.floats(1 / 8, 500, width=32),
    st.floats(0, 500, width=32),
    st.floats(0, 500, width=32),
)


def configs(parts: int) -> st.SearchStrategy[ScoreConfig]:
    return st.builds(
        ScoreConfig,
        weights=st.tuples(*[HUNDREDTHS] * parts),
        standardise=st.sampled_from(["z-score", "min-max", "min-p99.9"]),
        skip_frames=st.integers(0, 6),
        median_frames=st.sampled_from([1, 3, 5, 17]),
        median_padding=st.sampled_from(["zero", "reflect", "nearest"]),
        empty_frame=st.sampled_from(["zero-error", "released", "lowest"]),
    )


@st.composite
def cases(draw: st.DrawFn, parts: tuple[int, ...] = (1, 2, 3)) -> Case:
    """Videos of 0 to 40 frames, most frames with no cube or several, rows in any order."""
    count = draw(st.sampled_from(parts))
    frames = draw(st.lists(st.integers(0, 40), min_size=1, max_size=4))
    places = [(video, frame) for video, number in enumerate(frames) for frame in range(number)]
    value = st.floats(0, 3000, width=32)
    cube = st.tuples(st.sampled_from(places), *[value] * count) if places else st.nothing()
    drawn = draw(st.lists(cube, max_size=60)) if places else []
    known = draw(st.lists(STATISTICS, min_size=count, max_size=count))
    return Case([(*place, *values) for place, *values in drawn], frames, known, draw(configs(count)))


def plain(mean: float = 0.0, sd: float = 1.0) -> Statistics:
    return Statistics(mean, sd, minimum=0.0, p999=1.0, maximum=1.0)


def simple(cubes: list[Cube], frames: list[int], **config: object) -> Case:
    """The second of two parts alone, not standardised, nothing skipped or smoothed: what is left is easy to see."""
    alone = ScoreConfig(weights=(0.0, 1.0), skip_frames=0, median_frames=1)
    return Case(cubes, frames, [plain(), plain()], replace(alone, **config))  # type: ignore[arg-type]


@unhurried
@given(cases())
def test_frame_scores_equal_the_loop(case: Case) -> None:
    fused = case.fused()
    assert [len(video) for video in fused] == [max(count - case.config.skip_frames, 0) for count in case.frames]
    for ours, expected in zip(fused, case.expected(), strict=True):
        assert ours.dtype == np.float64
        np.testing.assert_allclose(ours, expected, rtol=1e-9, atol=1e-9)


@unhurried
@given(cases((2,)), st.sampled_from(["zero-error", "released"]))
def test_the_reference_of_two_parts_equals_the_loop(case: Case, empty: str) -> None:
    """It is what `bench.speed` times, so it is held to the same cases."""
    config = replace(case.config, standardise="z-score", empty_frame=empty)
    expected = replace(case, config=config).expected()
    found = reference.frame_scores(
        case.cubes,  # type: ignore[arg-type]
        case.frames,
        *((known.mean, known.sd) for known in case.statistics),
        weight_f=config.weights[0],
        weight_p=config.weights[1],
        skip=config.skip_frames,
        median=config.median_frames,
        padding=config.median_padding,
        empty=config.empty_frame,
    )
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-9)


@unhurried
@given(cases(), st.data())
def test_many_weights_at_once_equal_one_after_the_other(case: Case, data: st.DataObject) -> None:
    weights = data.draw(st.lists(st.tuples(*[HUNDREDTHS] * len(case.statistics)), max_size=5))
    together = case.under(weights)
    assert together.shape == (len(weights), sum(max(count - case.config.skip_frames, 0) for count in case.frames))
    for row, tried in zip(together, weights, strict=True):
        alone = replace(case, config=replace(case.config, weights=tried))
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
@given(cases(), st.sampled_from([0.125, 0.5, 4.0, 1024.0]), st.sampled_from(["zero-error", "lowest"]))
def test_only_the_ratio_of_the_weights_matters(case: Case, factor: float, empty: str) -> None:
    """A power of two rounds nothing, so the scores are exactly scaled and their ranks, ties too, are kept."""
    config = replace(case.config, empty_frame=empty)
    scaled = replace(config, weights=tuple(factor * weight for weight in config.weights))
    scores = np.concatenate(replace(case, config=config).fused())
    again = np.concatenate(replace(case, config=scaled).fused())
    np.testing.assert_array_equal(again, factor * scores)


@unhurried
@given(cases())
def test_a_video_scores_the_same_alone_as_among_others(case: Case) -> None:
    for number, together in enumerate(case.fused()):
        cubes = [(0, *rest) for video, *rest in case.cubes if video == number]
        (alone,) = replace(case, cubes=cubes, frames=[case.frames[number]]).fused()
        np.testing.assert_array_equal(alone, together)


@unhurried
@given(cases((2, 3)))
def test_a_part_of_weight_zero_counts_as_if_it_were_not_there(case: Case) -> None:
    """But as released, where a frame without cubes has the score of the last part whatever its weight."""
    config = replace(case.config, weights=(*case.config.weights[:-1], 0.0), empty_frame="zero-error")
    fewer = Case(
        [cube[:-1] for cube in case.cubes],
        case.frames,
        case.statistics[:-1],
        replace(config, weights=config.weights[:-1]),
    )
    for ours, alone in zip(replace(case, config=config).fused(), fewer.fused(), strict=True):
        np.testing.assert_array_equal(ours, alone)


@unhurried
@given(st.lists(st.tuples(st.floats(0, 2, width=32), st.floats(0, 3000, width=32)), min_size=1, max_size=50))
def test_statistics_equal_the_loop(scores: list[tuple[float, float]]) -> None:
    columns = {
        part: np.array(column, np.float32) for part, column in zip(PARTS, zip(*scores, strict=True), strict=False)
    }
    found = statistics(columns)
    assert list(found) == ["first", "second"]
    for part, known in found.items():
        values = sorted(float(value) for value in columns[part])
        mean, sd = reference.mean_and_sd(values)
        assert known.mean == pytest.approx(mean, rel=1e-12, abs=1e-12)
        assert known.sd == pytest.approx(sd, rel=1e-9, abs=1e-9)
        assert (known.minimum, known.maximum) == (values[0], values[-1])
        below, beyond = divmod(0.999 * (len(values) - 1), 1)
        step = values[min(int(below) + 1, len(values) - 1)] - values[int(below)]
        assert known.p999 == pytest.approx(values[int(below)] + beyond * step, rel=1e-9, abs=1e-9)


def test_the_percentile_leaves_out_one_cube_in_a_thousand() -> None:
    found = statistics({"first": np.array([*range(1000), 1e6], np.float32)})["first"]
    assert (found.p999, found.maximum) == (pytest.approx(999), 1e6)


def test_statistics_of_many_cubes_are_not_summed_in_float32() -> None:
    same = np.full(2_000_000, 0.1, np.float32)
    found = statistics({"first": np.full_like(same, np.nan), "second": same})["second"]
    assert found.mean == pytest.approx(float(np.float32(0.1)), rel=1e-12)
    assert found.sd == pytest.approx(0, abs=1e-12)


def test_without_training_cubes_there_are_no_statistics() -> None:
    known = statistics({"first": np.empty(0, np.float32)})["first"]
    assert all(math.isnan(value) for value in vars(known).values())


def test_a_frame_scores_its_worst_cube() -> None:
    (scores,) = simple([(0, 1, 0, 3.0), (0, 1, 0, 7.0), (0, 0, 0, 2.0), (0, 1, 0, 5.0)], [2]).fused()
    assert scores.tolist() == [2, 7]


@pytest.mark.parametrize(
    ("standardise", "expected"), [("z-score", 0.25), ("min-max", (3 - 1) / (9 - 1)), ("min-p99.9", (3 - 1) / (5 - 1))]
)
def test_a_part_is_made_comparable_by_what_the_training_cubes_have(standardise: str, expected: float) -> None:
    known = Statistics(mean=2.5, sd=2.0, minimum=1.0, p999=5.0, maximum=9.0)
    (score,) = cube_scores({"first": np.array([3.0], np.float32)}, {"first": known}, (1.0,), standardise)
    assert score == pytest.approx(expected, rel=1e-12)


def test_the_parts_standardise_by_deviation_unless_told_otherwise() -> None:
    known = {"first": Statistics(mean=2.5, sd=2.0, minimum=1.0, p999=5.0, maximum=9.0)}
    assert ScoreConfig().standardise == "z-score"
    assert cube_scores({"first": np.array([3.0])}, known, (1.0,)).tolist() == [0.25]


@pytest.mark.parametrize(
    ("empty", "expected"),
    [
        ("zero-error", 0.5 * -0.4 / 0.1 + 2.0 * -30 / 10),
        ("released", -30 / 10),
        ("lowest", 0.5 * (0.2 - 0.4) / 0.1 + 2.0 * (12 - 30) / 10),
    ],
)
def test_a_frame_without_cubes(empty: str, expected: float) -> None:
    """Zero in all parts under the given weights; as released in the last alone; or the lowest of training."""
    case = simple([(0, 0, 9.0, 900.0)], [2], weights=(0.5, 2.0), empty_frame=empty)
    known = [Statistics(0.4, 0.1, 0.2, 0.6, 0.7), Statistics(30.0, 10.0, 12.0, 60.0, 70.0)]
    (scores,) = replace(case, statistics=known).fused()
    assert scores[1] == pytest.approx(expected, rel=1e-12)


@unhurried
@given(STATISTICS, STATISTICS, HUNDREDTHS, st.sampled_from(["min-max", "min-p99.9"]))
def test_what_is_lowest_scores_zero_where_the_minimum_is_subtracted(
    first: Statistics, second: Statistics, weight: float, standardise: str
) -> None:
    config = ScoreConfig(weights=(weight, 1.0), empty_frame="lowest", standardise=standardise)  # type: ignore[arg-type]
    assert empty_frame_score({"first": first, "second": second}, config) == 0


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


UNKNOWN = plain(np.nan, np.nan)


def test_an_unknown_part_of_weight_zero_is_not_looked_at() -> None:
    case = simple([(0, 0, np.nan, 4.0)], [2])
    (scores,) = replace(case, statistics=[UNKNOWN, plain(2.0)]).fused()
    assert scores.tolist() == [2, -2]


def test_among_many_weights_only_those_above_zero_look_at_a_part() -> None:
    case = replace(simple([(0, 0, np.nan, 4.0)], [2]), statistics=[UNKNOWN, plain(2.0)])
    assert case.under([(0.0, 1.0), (0.0, 0.5)]).tolist() == [[2, -2], [1, -1]]
    with error_naming(RunError, "'first'"):
        case.under([(0.0, 1.0), (0.1, 0.9)])
    other = replace(simple([(0, 0, 4.0, np.nan)], [2]), statistics=[plain(2.0), UNKNOWN])
    assert other.under([(1.0, 0.0)]).tolist() == [[2, -2]]


def test_a_single_score_that_is_not_finite_is_found_wherever_it_lies() -> None:
    """Below a larger one of its frame, or in a frame that gets no score."""
    for cubes in ([(0, 5, 0.0, 9.0), (0, 5, 0.0, -np.inf)], [(0, 0, 0.0, np.nan), (0, 5, 0.0, 1.0)]):
        with error_naming(RunError, "'second'"):
            simple(cubes, [6], skip_frames=4).fused()


@pytest.mark.parametrize(
    ("standardise", "flat"),
    [
        ("z-score", Statistics(2.0, 0.0, 2.0, 2.0, 2.0)),
        ("min-max", Statistics(2.0, 0.0, 2.0, 2.0, 2.0)),
        ("min-p99.9", Statistics(2.0, 0.1, 2.0, 2.0, 9.0)),
    ],
)
def test_a_part_without_spread_on_the_training_cubes_cannot_be_fused(standardise: str, flat: Statistics) -> None:
    case = replace(simple([(0, 0, 3.0, 4.0)], [1], standardise=standardise), statistics=[flat, plain()])
    assert case.under([(0.0, 1.0)]).tolist() == [[4]]
    with error_naming(RunError, "'first'", "0.0"):
        case.under([(1.0, 1.0)])


def test_weights_below_zero_take_the_largest_of_what_they_give() -> None:
    (scores,) = simple([(0, 0, 0.0, 3.0), (0, 0, 0.0, 7.0)], [1], weights=(0.0, -1.0)).fused()
    assert scores.tolist() == [-3]


@pytest.mark.parametrize("cube", [(0, 2, 0.0, 1.0), (0, -1, 0.0, 1.0)])
def test_a_cube_outside_its_video_is_an_error(cube: Cube) -> None:
    with pytest.raises(DataError, match="outside its video"):
        simple([cube], [2, 5]).fused()
