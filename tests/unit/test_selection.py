"""Selection rules: what a chooser may know, what it takes among equals, what is undefined, and how fast it is."""

import json
from dataclasses import dataclass, replace
from time import process_time
from typing import Any

import numpy as np
import pytest

from amsrc.config import ScoreConfig
from amsrc.errors import ConfigError, DataError, RunError
from amsrc.fuse import Fuser, Statistics, frame_scores, statistics
from bench.evaluation import selection
from bench.evaluation.metrics import pooled_auroc
from bench.evaluation.selection import (
    SHARES,
    Decision,
    across,
    decide,
    folds,
    fusion_curve,
    lattice,
    objective,
    pseudo_auroc,
    pseudo_aurocs,
    shares,
)
from bench.experiment.rules import RULES
from bench.records.run_folder import Epoch, HeldOut
from tests.messages import error_naming

KINDS = ("skip", "patch")
PARTS = ("first", "second", "third")
WEIGHTS = (0.37, 0.7, 0.21)
PLAIN = Statistics(mean=0.0, sd=1.0, minimum=0.0, p999=1.0, maximum=1.0)
Labels = dict[str, np.ndarray]


LATTICES = {parts: lattice(parts) for parts in range(1, 5)}
"""As they are; the tests below have fewer ratios of two parts."""


@pytest.fixture(autouse=True)
def few_ratios(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fifth of the ratios of two parts is enough to choose from."""
    monkeypatch.setitem(selection.STEPS, 2, 20)


@dataclass(frozen=True)
class Made:
    """A made-up cell: the test cubes of some videos, scored after some epochs."""

    videos: list[str]
    video: np.ndarray
    frame: np.ndarray
    frames: list[int]
    epochs: list[Epoch]
    labels: Labels
    config: ScoreConfig

    @property
    def fuser(self) -> Fuser:
        return Fuser.of(self.video, self.frame, self.frames, self.config)

    def decide(self, labels: Labels | None = None) -> Decision:
        return decide(self.fuser, self.videos, self.epochs, labels or self.labels)

    def curve(self) -> dict[str, Any]:
        return fusion_curve(self.fuser, self.videos, self.epochs[-1], self.labels)

    def measured(self, epoch: Epoch, *weights: float) -> float | None:
        """The AUROC as the evaluation measures it."""
        config = replace(self.config, weights=weights)
        scores = frame_scores(epoch.scores, self.video, self.frame, self.frames, epoch.statistics, config)
        kept = [score.astype(np.float32) for score in scores]
        return pooled_auroc(dict(zip(self.videos, kept, strict=True)), self.labels)


def made(
    seed: int,
    videos: int = 7,
    frames: int = 24,
    epochs: int = 3,
    *,
    parts: int = 2,
    grid: int | None = None,
    **config: Any,
) -> Made:
    """Random cubes, most frames with a few, a little higher where abnormal; `grid`: few values, so many ties."""
    random = np.random.default_rng(seed)
    names = [f"{i:02d}" for i in range(1, videos + 1)]
    score = ScoreConfig(**{"weights": WEIGHTS[:parts], "skip_frames": 2, "median_frames": 3, **config})
    counts = random.integers(frames // 2, frames + 1, videos).tolist()
    video, frame = (np.array(x) for x in zip(*[(v, f) for v, n in enumerate(counts) for f in range(n)], strict=True))
    cubes = np.sort(random.integers(0, len(video), 3 * len(video)))
    truth = [np.arange(n) % 12 >= random.integers(5, 12) for n in counts]
    abnormal = np.concatenate(truth)[cubes]

    def scores(n: int | np.ndarray, scale: float) -> np.ndarray:
        found = random.gamma(2.0, 1.0, len(n)) + scale * n
        return (np.round(found * grid) / grid if grid else found).astype(np.float32)

    def an_epoch(number: int) -> Epoch:
        named = PARTS[:parts]
        test = {part: scores(abnormal, random.uniform(-0.5, 1)) for part in named}
        none, some = np.zeros(30), np.ones(30)
        pseudo = {part: {kind: scores(some, random.uniform(-0.5, 1)) for kind in KINDS} for part in named}
        by_kind = {kind: {part: pseudo[part][kind] for part in named} for kind in KINDS}
        return Epoch(number, test, statistics(test), HeldOut({part: scores(none, 0) for part in named}, by_kind))

    labels = {name: label[2:].astype(np.uint8) for name, label in zip(names, truth, strict=True)}
    return Made(names, video[cubes], frame[cubes], counts, [an_epoch(i + 1) for i in range(epochs)], labels, score)


def simple(second: list[list[float]], labels: list[list[int]], first: list[list[float]] | None = None) -> Made:
    """One cube a frame, one epoch, nothing skipped or smoothed: two parts of equal weights, or one."""
    counts = [len(video) for video in second]
    names = [f"v{i}" for i in range(len(second))]
    given = {"second": second} if first is None else {"first": first, "second": second}
    scores = {part: np.concatenate([*map(np.float32, videos)]) for part, videos in given.items()}
    return Made(
        names,
        np.repeat(np.arange(len(counts)), counts),
        np.concatenate([np.arange(n) for n in counts]),
        counts,
        [Epoch(1, scores, dict.fromkeys(scores, PLAIN), None)],
        {name: np.array(label, np.uint8) for name, label in zip(names, labels, strict=True)},
        ScoreConfig(weights=tuple(1 / len(scores) for _ in scores), skip_frames=0, median_frames=1),
    )


def ratio(*weights: float) -> dict[str, float]:
    """Weights as a choice tells them."""
    return dict(zip(PARTS, shares(weights), strict=False))


def across_one(settings: dict[str, list[Decision]], labels: Labels, reference: str) -> dict[str, dict[str, Any]]:
    """`across` on a single data set."""
    found = across({name: {"ped2": cells} for name, cells in settings.items()}, {"ped2": labels}, reference)
    assert list(found) == ["ped2"]
    return found["ped2"]


def fold_choices(decision: Decision) -> list[dict[str, Any]]:
    return list(decision.rules["crossfit"]["folds"])


# What a chooser may know


@pytest.mark.parametrize("seed", range(4))
def test_no_label_of_the_left_out_videos_moves_their_folds_choice(seed: int) -> None:
    cell, random = made(seed), np.random.default_rng(seed)
    before = fold_choices(cell.decide())
    changed = 0
    for number, fold in enumerate(before):
        for how in (random.permutation, np.zeros_like, np.ones_like, lambda label: 1 - label):
            labels = cell.labels | {video: how(cell.labels[video]) for video in fold["videos"]}
            after = fold_choices(cell.decide(labels))
            assert after[number] == fold
            changed += after != before
    assert changed  # the other folds do look at these labels


@pytest.mark.parametrize("seed", range(4))
def test_no_test_label_moves_the_label_free_choice(seed: int) -> None:
    cell, random = made(seed), np.random.default_rng(seed)
    before = cell.decide()
    for how in (random.permutation, np.zeros_like, np.ones_like, lambda label: 1 - label):
        after = cell.decide({video: how(label) for video, label in cell.labels.items()})
        told = {**before.rules["label-free"], "auroc": None}
        assert {**after.rules["label-free"], "auroc": None} == told
        assert objective(after.rules, "label-free") == objective(before.rules, "label-free")


def test_no_test_score_moves_the_label_free_choice() -> None:
    cell, other = made(0), made(1, epochs=3)
    mixed = [
        replace(
            e,
            scores={"first": e.scores["first"][::-1], "second": o.scores["second"].mean() - e.scores["second"]},
        )
        for e, o in zip(cell.epochs, other.epochs, strict=True)
    ]
    before, after = cell.decide().rules["label-free"], replace(cell, epochs=mixed).decide().rules["label-free"]
    assert {**after, "auroc": None} == {**before, "auroc": None} and after["auroc"] != before["auroc"]


@pytest.mark.parametrize("seed", range(3))
def test_no_label_of_the_left_out_videos_moves_the_setting_a_search_takes_there(seed: int) -> None:
    settings = dict(zip("abc", same_test(seed, 3), strict=True))

    def chosen(labels: Labels) -> list[dict[str, Any]]:
        return across_one({name: [cell.decide(labels)] for name, cell in settings.items()}, labels, "a")["crossfit"][
            "folds"
        ]

    labels = settings["a"].labels
    before = chosen(labels)
    for number, fold in enumerate(before):
        for how in (np.zeros_like, lambda label: 1 - label):
            assert chosen(labels | {video: how(labels[video]) for video in fold["videos"]})[number] == fold


def same_test(seed: int, count: int, **parts: Any) -> list[Made]:
    """Cells on the same test videos, each with scores of its own."""
    first, random = made(seed, **parts), np.random.default_rng(seed)

    def again(epoch: Epoch) -> Epoch:
        scores = {part: s + random.gamma(2.0, 0.5, len(s)).astype(np.float32) for part, s in epoch.scores.items()}
        return replace(epoch, scores=scores, statistics=statistics(scores))

    return [first, *(replace(first, epochs=[again(epoch) for epoch in first.epochs]) for _ in range(count - 1))]


# What the rules are worth


@pytest.mark.parametrize("seed", range(4))
def test_paper_is_the_last_epoch_under_the_experiments_own_weights(seed: int) -> None:
    cell = made(seed)
    paper = cell.decide().rules["paper"]
    assert paper["auroc"] == pytest.approx(cell.measured(cell.epochs[-1], 0.37, 0.7), abs=1e-12)
    assert (paper["epoch"], paper["weights"]) == (3, ratio(0.37, 0.7))


@pytest.mark.parametrize(("seed", "parts"), [(0, 2), (1, 2), (2, 2), (3, 2), (0, 1), (0, 3)])
def test_no_candidate_beats_the_oracle(seed: int, parts: int) -> None:
    cell = made(seed, epochs=2, parts=parts)
    oracle, own = cell.decide().rules["oracle"], WEIGHTS[:parts]
    tried = [own, *lattice(parts)]
    assert all(cell.measured(epoch, *weights) <= oracle["auroc"] + 1e-12 for epoch in cell.epochs for weights in tried)
    weights = own if oracle["weights"] == ratio(*own) else tuple(oracle["weights"].values())
    assert cell.measured(cell.epochs[oracle["epoch"] - 1], *weights) == pytest.approx(oracle["auroc"], abs=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_crossfit_of_a_single_candidate_is_its_pooled_auroc(seed: int) -> None:
    cell = made(seed, epochs=1, weights=(0.0, 1.0))
    (epoch,) = cell.epochs
    unknown = {**epoch.scores, "first": np.full_like(epoch.scores["first"], np.nan)}
    alone = replace(cell, epochs=[replace(epoch, scores=unknown, held_out=None)])
    rules = alone.decide().rules
    assert rules["crossfit"]["auroc"] == rules["paper"]["auroc"] == rules["oracle"]["auroc"]
    assert rules["paper"]["auroc"] == pytest.approx(alone.measured(epoch, 0.0, 1.0), abs=1e-12)


def test_crossfit_is_the_pooled_auroc_where_all_folds_choose_alike() -> None:
    """The last epoch is all noise, the one before almost perfect: no fold can miss it."""
    cell = made(0, epochs=2, parts=1, weights=(1.0,))
    noise, last = cell.epochs[0].scores["first"], cell.epochs[1]
    abnormal = [np.concatenate([np.zeros(2), label]) for label in cell.labels.values()]
    good = np.array([abnormal[v][f] for v, f in zip(cell.video, cell.frame, strict=True)]) + 1e-3 * noise
    first = replace(cell.epochs[0], scores={"first": good})
    epochs = [replace(epoch, statistics={"first": PLAIN}) for epoch in (first, last)]
    decision = replace(cell, epochs=epochs).decide()
    assert {fold["epoch"] for fold in fold_choices(decision)} == {1}
    assert decision.rules["crossfit"]["auroc"] == decision.rules["oracle"]["auroc"] > decision.rules["paper"]["auroc"]


def test_crossfit_ranks_stand_for_the_number() -> None:
    cell = made(3)
    decision = cell.decide()
    assert decision.rules["crossfit"]["auroc"] == pytest.approx(pooled_auroc(decision.crossfit, cell.labels), abs=1e-12)
    for video, ranks in decision.crossfit.items():
        assert ranks.dtype == np.float32 and len(ranks) == len(cell.labels[video])
        assert (ranks > 0).all() and (ranks < 1).all()


def test_crossfit_ranks_count_the_scores_below_and_half_of_the_equal_ones() -> None:
    cell = simple([[1.0, 5.0, 5.0], [7.0, -0.0, 0.0]], [[0, 1, 0], [1, 0, 0]])
    ranks = cell.decide().crossfit
    assert ranks["v0"] == pytest.approx([2.5 / 6, 4 / 6, 4 / 6]) and ranks["v1"] == pytest.approx(
        [5.5 / 6, 1 / 6, 1 / 6]
    )


@pytest.mark.parametrize("empty", ["zero-error", "released"])
def test_the_curve_has_every_share_as_it_is_measured(empty: str) -> None:
    cell = made(5, epochs=1, empty_frame=empty)
    curve = cell.curve()
    assert curve["part"] == "first", "the one whose share is varied"
    assert curve["share"] == SHARES.tolist() and len(curve["auroc"]) == 1001
    for i in (0, 1, 250, 999, 1000):
        share = curve["share"][i]
        assert curve["auroc"][i] == pytest.approx(cell.measured(cell.epochs[0], share, 1 - share), abs=1e-12)
    assert curve["own_share"] == 0.37 / (0.37 + 0.7)
    assert curve["own_auroc"] == pytest.approx(cell.measured(cell.epochs[0], 0.37, 0.7), abs=1e-12)
    assert curve["best_auroc"] == max(*curve["auroc"], curve["own_auroc"])
    assert curve["best_share"] in (*curve["share"], curve["own_share"])


@pytest.mark.parametrize("parts", [1, 3])
def test_only_two_parts_have_a_curve(parts: int) -> None:
    assert made(0, epochs=1, parts=parts).curve() == {}


def test_pseudo_auroc_is_the_mean_over_kinds_of_cubes_told_apart() -> None:
    held_out = HeldOut(
        {"first": np.array([0.0, 1.0]), "second": np.array([0.0, 2.0])},
        {
            "skip": {"first": np.array([1.0, 3.0]), "second": np.array([2.0, 2.0])},
            "patch": {"first": np.array([0.0, 0.0]), "second": np.array([-1.0, 2.0])},
        },
    )
    epoch = Epoch(1, dict.fromkeys(PARTS[:2], np.zeros(1)), dict.fromkeys(PARTS[:2], PLAIN), held_out)
    only_first, both = pseudo_aurocs(epoch, [(1.0, 0.0), (1.0, 1.0)], ScoreConfig())
    assert only_first == {"skip": 3.5 / 4, "patch": 1 / 4}  # 1, 3 and 0, 0 against 0, 1
    assert both == {"skip": 3.5 / 4, "patch": 1 / 4}  # 3, 5 and -1, 2 against 0, 3

    cell = made(0)
    found = cell.decide().rules["label-free"]
    assert set(found["pseudo_auroc_by_kind"]) == set(KINDS)
    assert found["pseudo_auroc"] == pytest.approx(np.mean(list(found["pseudo_auroc_by_kind"].values())))
    worth = cell.measured(cell.epochs[found["epoch"] - 1], *found["weights"].values())
    assert found["auroc"] == pytest.approx(worth, abs=1e-12)


# Equal candidates, and what is undefined


def test_of_equal_candidates_the_latest_epoch_and_the_closest_weights_win() -> None:
    """The parts are equal, so every ratio gives the same scores; the epochs are equal, too."""
    values = [[1.0, 4.0, 2.0], [3.0, 0.0, 2.0], [2.0, 5.0, 1.0]]
    cell = simple(values, [[0, 1, 1], [1, 0, 0], [0, 1, 0]], values)
    (epoch,) = cell.epochs
    held_out = HeldOut(dict.fromkeys(epoch.scores, np.zeros(2)), {"skip": dict.fromkeys(epoch.scores, np.ones(2))})
    epochs = [replace(epoch, number=number, held_out=held_out) for number in (2, 4, 7)]
    rules = replace(cell, epochs=epochs, config=replace(cell.config, weights=(0.25, 0.5))).decide().rules
    choices = [rules["oracle"], rules["label-free"], *rules["crossfit"]["folds"]]
    assert all((choice["epoch"], choice["weights"]) == (7, ratio(0.25, 0.5)) for choice in choices)


def test_worse_weights_of_its_own_give_way_to_the_closest_of_the_equally_good() -> None:
    """The second part ranks perfectly, the first perfectly wrong: all shares of the first below a half are perfect."""
    cell = simple([[0.0, 1.0], [0.0, 1.0]], [[0, 1], [0, 1]], [[1.0, 0.0], [1.0, 0.0]])
    oracle = replace(cell, config=replace(cell.config, weights=(0.9, 0.1))).decide().rules["oracle"]
    assert oracle == {"auroc": 1.0, "epoch": 1, "weights": {"first": 0.45, "second": pytest.approx(0.55)}}


def test_a_fold_whose_other_folds_have_one_class_takes_the_experiments_own() -> None:
    cell = simple([[1.0, 2.0], [3.0, 1.0]], [[0, 0], [1, 0]], [[1.0, 2.0], [1.0, 3.0]])
    by_video = {fold["videos"][0]: fold for fold in fold_choices(cell.decide())}
    assert by_video["v1"] == {"videos": ["v1"], "selected_auroc": None, "epoch": 1, "weights": ratio(1, 1)}
    assert by_video["v0"]["selected_auroc"] == 1.0


def test_a_single_test_video_has_nothing_to_choose_on() -> None:
    cell = simple([[1.0, 2.0, 0.0]], [[0, 1, 1]], [[1.0, 2.0, 5.0]])
    rules = cell.decide().rules
    assert rules["crossfit"]["folds"] == [
        {"videos": ["v0"], "selected_auroc": None, "epoch": 1, "weights": ratio(1, 1)}
    ]
    assert rules["crossfit"]["auroc"] == rules["paper"]["auroc"]


@pytest.mark.parametrize("label", [0, 1])
def test_labels_of_one_class_leave_numbers_undefined_never_nan(label: int) -> None:
    cell = made(0)
    labels = {video: np.full_like(known, label) for video, known in cell.labels.items()}
    rules = cell.decide(labels).rules
    assert [rules[rule]["auroc"] for rule in RULES] == [None] * 4
    assert rules["oracle"] == rules["paper"]
    assert rules["label-free"]["pseudo_auroc"] is not None
    curve = replace(cell, labels=labels).curve()
    assert set(curve["auroc"]) == {None} == {curve["best_auroc"], curve["own_auroc"]}
    json.dumps([rules, curve], allow_nan=False)


def test_what_is_decided_can_be_written_as_json() -> None:
    cell = made(1)
    assert json.loads(json.dumps(cell.decide().rules, allow_nan=False)) == cell.decide().rules
    assert json.loads(json.dumps(cell.curve(), allow_nan=False)) == cell.curve()


def test_of_one_part_there_are_no_weights_to_choose() -> None:
    cell = made(0, parts=1, weights=(0.7,))
    rules = cell.decide().rules
    choices = [*rules["crossfit"]["folds"], *map(rules.get, ("paper", "oracle", "label-free"))]
    assert all(choice["weights"] == {"first": 1.0} for choice in choices)
    assert rules["oracle"]["auroc"] == pytest.approx(max(cell.measured(e, 1.0) for e in cell.epochs), abs=1e-12)


def test_without_held_out_videos_label_free_is_undefined() -> None:
    cell = made(0)
    rules = replace(cell, epochs=[replace(epoch, held_out=None) for epoch in cell.epochs]).decide().rules
    assert rules["label-free"] == {
        "auroc": None, "epoch": None, "weights": None, "pseudo_auroc": None, "pseudo_auroc_by_kind": {},
    }  # fmt: skip
    assert objective(rules, "label-free") is None


def test_a_part_that_does_not_vary_leaves_the_experiments_own_weights() -> None:
    cell = made(0, weights=(0.0, 1.0))
    scores = {**cell.epochs[-1].scores, "first": np.ones_like(cell.epochs[-1].scores["first"])}
    flat = replace(cell.epochs[-1], scores=scores, statistics=statistics(scores), held_out=None)
    rules = replace(cell, epochs=[flat]).decide().rules
    assert rules["oracle"] == rules["paper"] and rules["paper"]["weights"] == ratio(0, 1)
    assert replace(cell, epochs=[flat]).curve() == {}


def test_own_weights_that_cannot_be_fused_are_an_error() -> None:
    cell = made(0)
    unknown = {**cell.epochs[0].scores, "first": np.full_like(cell.epochs[0].scores["first"], np.nan)}
    with error_naming(RunError, "'first'"):
        replace(cell, epochs=[replace(cell.epochs[0], scores=unknown)]).decide()


@pytest.mark.parametrize("standardise", ["min-max", "min-p99.9"])
def test_the_rules_and_the_curve_standardise_as_the_experiment_does(standardise: str) -> None:
    """Parts of other ranges than deviations: under equal weights the AUROC is another."""
    cell, (epoch,) = made(0, epochs=1), made(0, epochs=1).epochs
    far = {**epoch.scores, "first": epoch.scores["first"] ** 3}
    cell = replace(cell, epochs=[replace(epoch, scores=far, statistics=statistics(far))])
    other = replace(cell, config=replace(cell.config, standardise=standardise))
    own = other.measured(other.epochs[0], *WEIGHTS[:2])
    assert own != cell.measured(cell.epochs[0], *WEIGHTS[:2])
    assert other.decide().rules["paper"]["auroc"] == pytest.approx(own, abs=1e-12)
    assert other.curve()["own_auroc"] == pytest.approx(own, abs=1e-12)
    by_kind = [pseudo_aurocs(each.epochs[0], [WEIGHTS[:2]], each.config) for each in (cell, other)]
    assert by_kind[0] != by_kind[1]


def test_labels_that_do_not_fit_are_named() -> None:
    cell = made(0)
    wrong = cell.labels | {"03": cell.labels["03"][1:], "99": np.zeros(3, np.uint8)}
    with pytest.raises(DataError, match="differ in: 03, 99"):
        cell.decide(wrong)
    with pytest.raises(DataError, match="differ in: 05"):
        cell.decide({video: label for video, label in cell.labels.items() if video != "05"})


# Folds


@pytest.mark.parametrize("count", [1, 2, 4, 5, 12, 107])
def test_folds_hold_every_video_once_and_are_equally_large(count: int) -> None:
    videos = [f"{i:02d}" for i in range(count)]
    parts = folds(videos)
    assert len(parts) == min(5, count)
    assert sorted(video for part in parts for video in part) == sorted(videos)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert folds(videos[::-1]) == parts


def test_folds_stay_as_they_are() -> None:
    """Another deal would be another benchmark."""
    assert folds([f"Test{i:03d}" for i in range(1, 13)]) == [
        ["Test005", "Test003", "Test004"],
        ["Test012", "Test010", "Test009"],
        ["Test002", "Test011"],
        ["Test001", "Test008"],
        ["Test007", "Test006"],
    ]


# Weights


def test_shares_are_round_numbers() -> None:
    assert SHARES.tolist() == [i / 1000 for i in range(1001)]
    assert [first for first, _ in LATTICES[2]] == [i / 100 for i in range(101)]


@pytest.mark.parametrize(("parts", "count"), [(1, 1), (2, 101), (3, 66), (4, 286)])
def test_the_lattice_has_all_weights_of_its_steps_once(parts: int, count: int) -> None:
    """For three parts of tenths: 12 over 2."""
    found = LATTICES[parts]
    assert len(found) == len(set(found)) == count
    assert all(len(weights) == parts and min(weights) >= 0 for weights in found)
    assert [sum(weights) for weights in found] == pytest.approx([1.0] * count, abs=1e-12)
    corners = {tuple(float(part == other) for other in range(parts)) for part in range(parts)}
    assert corners <= set(found), "each part alone is among them"


def test_weights_as_told_add_up_to_one() -> None:
    assert shares((1.0, 0.01)) == (1 / 1.01, 0.01 / 1.01)
    assert shares((2.0,)) == (1.0,)
    assert shares((1.0, 1.0, 2.0)) == (0.25, 0.25, 0.5)


def test_of_three_parts_the_one_that_knows_is_weighed_alone() -> None:
    cell = made(1, parts=3, epochs=1)
    abnormal = [np.concatenate([np.zeros(2), label]) for label in cell.labels.values()]
    truth = np.array([abnormal[v][f] for v, f in zip(cell.video, cell.frame, strict=True)], np.float32)
    scores = {**cell.epochs[0].scores, "third": truth}
    best = replace(cell, epochs=[replace(cell.epochs[0], scores=scores, statistics=statistics(scores))])
    oracle = best.decide().rules["oracle"]
    assert oracle["weights"]["third"] > 0.5 and list(oracle["weights"]) == list(PARTS)
    assert oracle["auroc"] >= best.measured(best.epochs[0], 0.0, 0.0, 1.0)


# Searches


def test_a_trial_is_worth_its_auroc_but_its_pseudo_auroc_where_no_label_may_guide() -> None:
    rules = {
        "paper": {"auroc": 0.5},
        "oracle": {"auroc": 0.9},
        "crossfit": {"auroc": 0.7},
        "label-free": {"auroc": 0.8, "pseudo_auroc": 0.6},
    }
    assert [objective(rules, rule) for rule in RULES] == [0.5, 0.9, 0.7, 0.6]
    assert objective({}, "crossfit") is None and objective({"label-free": {"auroc": None}}, "label-free") is None
    with pytest.raises(ConfigError, match=r"no rule 'best'; choose one of paper, oracle"):
        objective(rules, "best")


EQUAL = {"first": 0.5, "second": 0.5}
LABELS = {"v0": np.array([0, 1], np.uint8), "v1": np.array([0, 1], np.uint8)}


def told(
    paper: float, oracle: float, pseudo: float | None, selected: tuple[float | None, ...], ranks: list[list[float]],
    epoch: int = 1,
) -> Decision:  # fmt: skip
    """A decision with these numbers; the videos' folds are v0, then v1."""
    choice = {"epoch": epoch, "weights": EQUAL}
    of_folds = zip(("v0", "v1"), selected, strict=True)
    rules = {
        "paper": {"auroc": paper, **choice},
        "oracle": {"auroc": oracle, **choice},
        "crossfit": {"auroc": 0.1, "folds": [{"videos": [v], "selected_auroc": s, **choice} for v, s in of_folds]},
        "label-free": {"auroc": oracle - 0.1, **choice, "pseudo_auroc": pseudo},
    }
    return Decision(rules, {video: np.float32(rank) for video, rank in zip(("v0", "v1"), ranks, strict=True)})


def test_each_rule_takes_its_own_setting() -> None:
    settings = {
        "a": [told(0.6, 0.7, 0.5, (0.8, 0.4), [[0.1, 0.9], [0.2, 0.3]])],
        "own": [told(0.5, 0.8, 0.6, (0.7, 0.6), [[0.9, 0.2], [0.9, 0.8]], epoch=2)],
        "b": [told(0.4, 0.6, 0.9, (0.1, 0.5), [[0.5, 0.5], [0.5, 0.5]])],
    }
    found = across_one(settings, LABELS, "own")
    assert found["paper"] == {"auroc": 0.5, "setting": "own", "epoch": 2, "weights": EQUAL}
    assert found["oracle"] == {"auroc": 0.8, "setting": "own", "epoch": 2, "weights": EQUAL}
    assert found["label-free"] == {"auroc": 0.5, "setting": "b", "epoch": 1, "weights": EQUAL, "pseudo_auroc": 0.9}
    assert found["crossfit"]["folds"] == [
        {"videos": ["v0"], "selected_auroc": 0.8, "setting": "a", "epoch": 1, "weights": EQUAL},
        {"videos": ["v1"], "selected_auroc": 0.6, "setting": "own", "epoch": 2, "weights": EQUAL},
    ]
    assert found["crossfit"]["auroc"] == 2.5 / 4  # normal 0.1, 0.9; abnormal 0.9, 0.8
    assert list(found) == list(RULES)


def test_a_setting_is_judged_by_all_of_its_seeds() -> None:
    right, wrong = [[0.1, 0.9], [0.1, 0.9]], [[0.9, 0.1], [0.9, 0.1]]
    settings = {
        "own": [told(0.5, 0.6, 0.6, (0.6, 0.6), right), told(0.7, 0.6, 0.6, (0.6, 0.6), wrong, epoch=3)],
        "one good seed": [told(0.9, 0.9, 0.9, (0.9, 0.9), right), told(0.1, 0.1, 0.1, (0.1, 0.1), right)],
        "a gap": [told(0.9, 0.9, 0.9, (0.9, 0.9), right), told(0.9, 0.9, None, (None, None), right)],
    }
    found = across_one(settings, LABELS, "own")
    assert found["paper"] == {"auroc": 0.6, "setting": "own", "epoch": None, "weights": EQUAL}
    assert (found["oracle"]["setting"], found["oracle"]["auroc"]) == ("a gap", 0.9)
    assert (found["label-free"]["setting"], found["label-free"]["auroc"]) == ("own", 0.5)
    assert found["label-free"]["pseudo_auroc"] == 0.6
    assert [fold["setting"] for fold in found["crossfit"]["folds"]] == ["own", "own"]
    assert found["crossfit"]["auroc"] == 0.5  # 1 in the first seed, 0 in the second


def test_equal_settings_leave_the_reference_in_place_and_undefined_ones_choose_nothing() -> None:
    same = [told(0.5, 0.6, None, (None, 0.6), [[0.1, 0.9], [0.1, 0.9]])]
    found = across_one({"a": same, "own": same}, LABELS, "own")
    assert found["oracle"]["setting"] == "own"
    nothing = {"auroc": None, "setting": None, "epoch": None, "weights": None, "pseudo_auroc": None}
    assert found["label-free"] == nothing
    assert [(fold["setting"], fold["selected_auroc"]) for fold in found["crossfit"]["folds"]] == [
        ("own", None),
        ("own", 0.6),
    ]


def test_one_setting_is_taken_for_all_data_sets_together() -> None:
    """Each is best on one of them; by the mean over both, `a` wins the first fold and loses the second."""
    right, wrong = [[0.1, 0.9], [0.1, 0.9]], [[0.9, 0.1], [0.9, 0.1]]
    settings = {
        "own": {"ped2": [told(0.5, 0.9, 0.9, (0.6, 0.9), right)], "avenue": [told(0.4, 0.5, 0.2, (0.5, 0.6), wrong)]},
        "a": {"ped2": [told(0.9, 0.8, 0.6, (0.7, 0.5), wrong)], "avenue": [told(0.9, 0.7, 0.6, (0.6, 0.9), right)]},
    }
    found = across(settings, {"avenue": LABELS, "ped2": LABELS}, "own")
    assert list(found) == ["avenue", "ped2"]
    for dataset, oracle, pseudo in (("ped2", 0.8, 0.6), ("avenue", 0.7, 0.6)):
        assert found[dataset]["paper"]["setting"] == "own"
        assert (found[dataset]["oracle"]["setting"], found[dataset]["oracle"]["auroc"]) == ("a", oracle)
        assert (found[dataset]["label-free"]["setting"], found[dataset]["label-free"]["pseudo_auroc"]) == ("a", pseudo)
        assert [fold["setting"] for fold in found[dataset]["crossfit"]["folds"]] == ["a", "own"]
    assert [fold["selected_auroc"] for fold in found["ped2"]["crossfit"]["folds"]] == [0.7, 0.9]
    assert found["ped2"]["crossfit"]["auroc"] == 2 / 4  # normal 0.9, 0.1; abnormal 0.1, 0.9


def test_a_setting_without_a_number_on_one_data_set_is_out_on_all() -> None:
    right = [[0.1, 0.9], [0.1, 0.9]]
    good, gap = told(0.9, 0.9, 0.9, (0.9, 0.9), right), told(0.9, 0.9, None, (None, 0.9), right)
    own = told(0.5, 0.5, 0.5, (0.5, 0.5), right)
    settings = {"own": {"ped2": [own], "avenue": [own]}, "a gap": {"ped2": [good], "avenue": [gap]}}
    for found in across(settings, {"ped2": LABELS, "avenue": LABELS}, "own").values():
        assert (found["oracle"]["setting"], found["label-free"]["setting"]) == ("a gap", "own")
        assert [fold["setting"] for fold in found["crossfit"]["folds"]] == ["own", "a gap"]


def test_each_data_set_counts_once_however_many_seeds_it_has() -> None:
    """`a` is better on three seeds of one, `own` by more on the single seed of the other."""
    right = [[0.1, 0.9], [0.1, 0.9]]

    def worth(value: float) -> Decision:
        return told(value, value, value, (value, value), right)

    settings = {
        "own": {"ped2": [worth(0.6)] * 3, "avenue": [worth(0.9)]},
        "a": {"ped2": [worth(0.8)] * 3, "avenue": [worth(0.6)]},
    }
    for found in across(settings, {"ped2": LABELS, "avenue": LABELS}, "own").values():
        assert (found["oracle"]["setting"], found["label-free"]["setting"]) == ("own", "own")
        assert [fold["setting"] for fold in found["crossfit"]["folds"]] == ["own", "own"]


def test_settings_on_other_data_sets_are_refused() -> None:
    cell = told(0.5, 0.6, 0.5, (0.5, 0.6), [[0.1, 0.9], [0.1, 0.9]])
    settings = {"own": {"ped2": [cell], "avenue": [cell]}, "a": {"ped2": [cell]}}
    with pytest.raises(DataError, match=r"^avenue: the settings differ"):
        across(settings, {"ped2": LABELS, "avenue": LABELS}, "own")


def test_a_data_set_with_fewer_folds_is_reported_once() -> None:
    choice = {"epoch": 1, "weights": EQUAL}
    small = told(0.5, 0.6, 0.5, (0.6, 0.9), [[0.1, 0.9], [0.1, 0.9]])
    rules = small.rules | {"crossfit": {"auroc": 0.1, "folds": [{"videos": ["v0"], "selected_auroc": None, **choice}]}}
    single = Decision(rules, {"v0": np.float32([0.1, 0.9])})
    found = across({"own": {"one": [single], "two": [small]}}, {"one": {"v0": LABELS["v0"]}, "two": LABELS}, "own")
    assert [fold["videos"] for fold in found["one"]["crossfit"]["folds"]] == [["v0"]]
    assert [fold["videos"] for fold in found["two"]["crossfit"]["folds"]] == [["v0"], ["v1"]]
    assert found["one"]["crossfit"]["auroc"] == found["two"]["crossfit"]["auroc"] == 1


@pytest.mark.parametrize("seed", range(2))
def test_no_label_of_the_left_out_videos_moves_what_is_taken_for_several_data_sets(seed: int) -> None:
    by_dataset = {"small": same_test(seed, 3, videos=3), "large": same_test(9, 3)}

    def chosen(labels: dict[str, Labels]) -> dict[str, list[dict[str, Any]]]:
        settings = {
            name: {d: [cells[i].decide(labels[d])] for d, cells in by_dataset.items()} for i, name in enumerate("abc")
        }
        return {d: found["crossfit"]["folds"] for d, found in across(settings, labels, "a").items()}

    labels = {d: cells[0].labels for d, cells in by_dataset.items()}
    before = chosen(labels)
    for number, fold in enumerate(before["small"]):
        hidden = labels["small"] | {video: 1 - labels["small"][video] for video in fold["videos"]}
        assert chosen(labels | {"small": hidden})["small"][number] == fold


def test_the_validation_score_is_what_the_label_free_choice_within_one_epoch_reaches() -> None:
    cell = made(0, epochs=1)
    (epoch,) = cell.epochs
    assert pseudo_auroc(epoch, cell.config) == pytest.approx(cell.decide().rules["label-free"]["pseudo_auroc"])
    assert pseudo_auroc(replace(epoch, held_out=None), cell.config) is None


@pytest.mark.parametrize("seed", range(3))
def test_a_single_setting_keeps_its_own_numbers(seed: int) -> None:
    cell = made(seed)
    decision = cell.decide()
    found = across_one({"own": [decision]}, cell.labels, "own")
    for rule in RULES:
        assert found[rule]["auroc"] == decision.rules[rule]["auroc"]
    assert [{k: v for k, v in fold.items() if k != "setting"} for fold in found["crossfit"]["folds"]] == fold_choices(
        decision
    )


def test_settings_on_other_videos_or_seeds_are_refused() -> None:
    here = told(0.5, 0.6, 0.5, (0.5, 0.6), [[0.1, 0.9], [0.1, 0.9]])
    elsewhere = made(0).decide()
    for others in ([elsewhere], [here, here]):
        with pytest.raises(DataError, match="differ in their seeds or test videos"):
            across_one({"own": [here], "other": others}, LABELS, "own")


# Speed


@pytest.mark.parametrize(
    ("cubes", "videos", "frames", "every", "limit_s"),
    [(34_715, 12, 2_010, 1, 2.0), (232_000, 107, 40_791, 10, 1.5)],
    ids=["ped2", "shanghaitech"],
)
def test_a_thousand_shares_take_seconds(
    cubes: int, videos: int, frames: int, every: int, limit_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At most 2 s and 15 s (a tenth of the shares in a tenth of it), in seconds of the processor."""
    random = np.random.default_rng(0)
    counts = np.diff(np.linspace(0, frames, videos + 1).astype(int)).tolist()
    place = np.sort(random.integers(0, frames, cubes))
    starts = np.concatenate([[0], np.cumsum(counts)])
    video = np.searchsorted(starts, place, side="right") - 1
    scores = {part: random.gamma(2.0, 1.0, cubes).astype(np.float32) for part in PARTS[:2]}
    names = [f"{i:03d}" for i in range(videos)]
    labels = {name: (np.arange(n - 4) % 50 > 30).astype(np.uint8) for name, n in zip(names, counts, strict=True)}
    monkeypatch.setattr(selection, "SHARES", SHARES[::every])
    started = process_time()
    fuser = Fuser.of(video, place - starts[video], counts, ScoreConfig(weights=(1.0, 0.01)))
    curve = fusion_curve(fuser, names, Epoch(1, scores, statistics(scores), None), labels)
    assert process_time() - started < limit_s
    assert len(curve["auroc"]) == 1000 // every + 1
