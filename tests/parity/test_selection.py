"""The selection rules against plain loops: every candidate, every fold, every pair of frames, counted exactly."""

from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from bench.evaluation import selection
from bench.evaluation.selection import decide, folds, fusion_curve, lattice
from bench.records.run_folder import Epoch
from tests.parity.test_fuse import Case
from tests.unit.test_selection import Made, made, ratio

STEPS = {1: 1, 2: 5}
SHARES = (0.0, 0.2, 0.5, 0.8, 1.0)
Weights = tuple[float, ...]  # one a part
Choice = tuple[int, Weights]  # epoch, weights


def slow_auroc(scores: np.ndarray, labels: np.ndarray) -> Fraction | None:
    """The share of (abnormal, normal) pairs in the right order, ties counting half, without rounding."""
    abnormal, normal = scores[labels == 1], scores[labels == 0]
    if not len(abnormal) or not len(normal):
        return None
    right = sum(int((a > normal).sum()) * 2 + int((a == normal).sum()) for a in abnormal)
    return Fraction(right, 2 * len(abnormal) * len(normal))


def slow_scores(cell: Made, epoch: Epoch, weights: Weights) -> dict[str, np.ndarray]:
    """Frame scores by video from the loop over cubes, in float32."""
    columns = (column.tolist() for column in (cell.video, cell.frame, *epoch.scores.values()))
    config = replace(cell.config, weights=weights)
    case = Case(list(zip(*columns, strict=True)), cell.frames, list(epoch.statistics.values()), config)
    return {video: np.array(scores, np.float32) for video, scores in zip(cell.videos, case.expected(), strict=True)}


def slow_lattice(parts: int) -> list[Weights]:
    """Weights of two parts in fifths, of three in tenths; one part has nothing to weigh."""
    if parts == 1:
        return []
    if parts == 2:
        return [(n / 5, 1 - n / 5) for n in range(6)]
    return [(n / 10, m / 10, 1 - (n + m) / 10) for n in range(11) for m in range(11 - n)]


def slow_rules(cell: Made) -> dict[str, Any]:
    """Rule by rule, what `decide` has to find."""
    own = cell.config.weights
    scores: dict[Choice, dict[str, np.ndarray]] = {}
    for epoch in cell.epochs:
        for weights in (own, *slow_lattice(len(own))):
            scores[epoch.number, weights] = slow_scores(cell, epoch, weights)

    def distance(choice: Choice) -> float:
        """Half of the differences of all shares; 0 of its own."""
        shares = [weight / sum(own) for weight in own]
        return 0.0 if choice[1] == own else sum(abs(a - b) for a, b in zip(choice[1][:-1], shares[:-1], strict=True))

    def on(choice: Choice, videos: list[str]) -> Fraction | None:
        frames = [np.concatenate([by[v] for v in videos]) for by in (scores[choice], cell.labels)] if videos else []
        return slow_auroc(*frames) if frames else None

    def best(worth: dict[Choice, Any]) -> Choice:
        if None in worth.values():
            return cell.epochs[-1].number, own
        equal = [choice for choice in worth if worth[choice] == max(worth.values())]
        latest = [choice for choice in equal if choice[0] == max(equal)[0]]
        return min(latest, key=distance)

    def told(choice: Choice) -> dict[str, Any]:
        return {"epoch": choice[0], "weights": ratio(*choice[1])}

    paper = cell.epochs[-1].number, own
    oracle = best({choice: on(choice, cell.videos) for choice in scores})
    ranks, parts = {}, []
    for part in folds(cell.videos):
        others = [video for video in cell.videos if video not in part]
        chosen = best({choice: on(choice, others) for choice in scores})
        parts.append({"videos": part, "selected_auroc": on(chosen, others), **told(chosen)})
        everything = np.concatenate(list(scores[chosen].values()))
        for video in part:
            ranks[video] = np.array(
                [(2 * (everything < s).sum() + (everything == s).sum()) for s in scores[chosen][video]], int
            )
    pooled = slow_auroc(*(np.concatenate([by[video] for video in cell.videos]) for by in (ranks, cell.labels)))
    return {
        "paper": {"auroc": on(paper, cell.videos), **told(paper)},
        "oracle": {"auroc": on(oracle, cell.videos), **told(oracle)},
        "crossfit": {"auroc": pooled, "folds": parts},
        "label-free": slow_label_free(cell, best, own) | {"of": on},
    }


def slow_label_free(cell: Made, best: Any, own: Weights) -> dict[str, Any]:
    """Each epoch's held-out cubes, fused one by one: frames of one cube, of a video of their own."""
    by_kind: dict[Choice, dict[str, Fraction | None]] = {}
    for epoch in cell.epochs:
        held = epoch.held_out
        assert held is not None
        for weights in (own, *slow_lattice(len(own))):

            def fused(scores: Any, epoch: Epoch = epoch, weights: Weights = weights) -> np.ndarray:
                config = replace(cell.config, weights=weights, skip_frames=0, median_frames=1)
                rows = list(zip(*(values.tolist() for values in scores.values()), strict=True))
                cubes = [(0, frame, *values) for frame, values in enumerate(rows)]
                (found,) = Case(cubes, [len(rows)], list(epoch.statistics.values()), config).expected()
                return np.array(found, np.float32)

            normal = fused(held.normal)
            found = {}
            for kind, scores in held.pseudo.items():
                pseudo = fused(scores)
                truth = np.array([0] * len(normal) + [1] * len(pseudo))
                found[kind] = slow_auroc(np.concatenate([normal, pseudo]), truth)
            by_kind[epoch.number, weights] = found
    chosen = best({choice: sum(filter(None, found.values())) for choice, found in by_kind.items()})
    return {"chosen": chosen, "by_kind": by_kind[chosen]}


CELLS = [
    {},
    {"grid": 1},
    {"grid": 1, "epochs": 1, "median_frames": 1},
    {"videos": 3, "empty_frame": "released", "grid": 2},
    {"videos": 2, "frames": 8, "grid": 1, "median_padding": "zero"},
    {"videos": 1},
    {"weights": (0.0, 1.0), "grid": 2},
    {"weights": (1.0, 0.01)},
    {"parts": 1, "grid": 1},
    {"parts": 3, "videos": 4, "epochs": 2, "grid": 1, "empty_frame": "lowest"},
    {"standardise": "min-max", "grid": 2},
    {"parts": 3, "videos": 3, "epochs": 1, "standardise": "min-p99.9"},
]


@pytest.mark.parametrize("about", CELLS, ids=str)
@pytest.mark.parametrize("seed", range(2))
def test_every_rule_equals_the_loop(seed: int, about: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "STEPS", STEPS)
    cell = made(seed, **{"frames": 16, **about})
    decision, expected = cell.decide(), slow_rules(cell)
    for rule in ("paper", "oracle"):
        assert decision.rules[rule] == floats(expected[rule])
    found = decision.rules["crossfit"]
    assert found["folds"] == [floats(fold) for fold in expected["crossfit"]["folds"]]
    assert found["auroc"] == floats(expected["crossfit"])["auroc"]
    label_free = decision.rules["label-free"]
    epoch, weights = expected["label-free"]["chosen"]
    assert (label_free["epoch"], label_free["weights"]) == (epoch, ratio(*weights))
    assert label_free["pseudo_auroc_by_kind"] == floats(expected["label-free"]["by_kind"])
    assert (
        label_free["auroc"] == floats({"auroc": expected["label-free"]["of"]((epoch, weights), cell.videos)})["auroc"]
    )


def floats(told: dict[str, Any]) -> dict[str, Any]:
    return {name: float(value) if isinstance(value, Fraction) else value for name, value in told.items()}


@pytest.mark.parametrize("parts", [1, 2, 3])
def test_the_lattice_equals_the_loop(parts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "STEPS", STEPS)
    assert lattice(parts) == (slow_lattice(parts) or [(1.0,)])


@pytest.mark.parametrize("grid", [None, 1])
def test_the_curve_equals_the_loop(grid: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "SHARES", np.array(SHARES))
    cell = made(2, videos=4, epochs=1, grid=grid, weights=(0.3, 0.1))
    truth = np.concatenate(list(cell.labels.values()))

    def slow(*weights: float) -> float:
        frames = slow_scores(cell, cell.epochs[0], weights)
        return float(slow_auroc(np.concatenate(list(frames.values())), truth) or 0)

    curve = fusion_curve(cell.fuser, cell.videos, cell.epochs[0], cell.labels)
    assert curve["auroc"] == [slow(share, 1 - share) for share in SHARES]
    assert curve["own_auroc"] == slow(0.3, 0.1)
    assert curve["best_auroc"] == max(*curve["auroc"], curve["own_auroc"])


def test_what_is_searched_is_what_is_measured() -> None:
    """The same float32 scores, video by video, from `frame_scores` and from the search."""
    cell = made(4, epochs=1, videos=3)
    (epoch,) = cell.epochs
    curve = cell.curve()
    for i in range(0, 1001, 100):
        share = i / 1000
        measured = cell.measured(epoch, share, 1 - share)
        assert curve["auroc"][i] == pytest.approx(measured, abs=1e-12)
    own = replace(cell.config, weights=(0.9, 0.3))
    paper = decide(replace(cell, config=own).fuser, cell.videos, [epoch], cell.labels).rules["paper"]
    assert paper["auroc"] == pytest.approx(cell.measured(epoch, 0.9, 0.3), abs=1e-12)
