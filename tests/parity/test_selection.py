"""The selection rules against plain loops: every candidate, every fold, every pair of frames, counted exactly."""

from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from bench.evaluation import selection
from bench.evaluation.selection import decide, folds, fusion_curve
from bench.records.run_folder import Epoch
from bench.speed import reference
from tests.unit.test_selection import Made, made

SHARES = (0.0, 0.2, 0.5, 0.8, 1.0)
Choice = tuple[int, tuple[float, float]]  # epoch, weights


def slow_auroc(scores: np.ndarray, labels: np.ndarray) -> Fraction | None:
    """The share of (abnormal, normal) pairs in the right order, ties counting half, without rounding."""
    abnormal, normal = scores[labels == 1], scores[labels == 0]
    if not len(abnormal) or not len(normal):
        return None
    right = sum(int((a > normal).sum()) * 2 + int((a == normal).sum()) for a in abnormal)
    return Fraction(right, 2 * len(abnormal) * len(normal))


def slow_scores(cell: Made, epoch: Epoch, weights: tuple[float, float]) -> dict[str, np.ndarray]:
    """Frame scores by video from the reference's loops, in float32."""
    known, config = epoch.statistics, cell.config
    by_video = reference.frame_scores(
        zip(cell.video.tolist(), cell.frame.tolist(), epoch.s_f.tolist(), epoch.s_p.tolist(), strict=True),
        cell.frames,
        (known.mean_f, known.sd_f),
        (known.mean_p, known.sd_p),
        weight_f=weights[0],
        weight_p=weights[1],
        skip=config.skip_frames,
        median=config.median_frames,
        padding=config.median_padding,
        empty=config.empty_frame,
    )
    return {video: np.array(scores, np.float32) for video, scores in zip(cell.videos, by_video, strict=True)}


def slow_rules(cell: Made) -> dict[str, Any]:
    """Rule by rule, what `decide` has to find."""
    own = cell.config.weight_f, cell.config.weight_p
    own_share = own[0] / sum(own)
    scores: dict[Choice, dict[str, np.ndarray]] = {}
    for epoch in cell.epochs:
        for weights in (own, *((share, 1 - share) for share in SHARES)):
            scores[epoch.number, weights] = slow_scores(cell, epoch, weights)

    def share_of(choice: Choice) -> float:
        return own_share if choice[1] == own else choice[1][0]

    def on(choice: Choice, videos: list[str]) -> Fraction | None:
        frames = [np.concatenate([by[v] for v in videos]) for by in (scores[choice], cell.labels)] if videos else []
        return slow_auroc(*frames) if frames else None

    def best(worth: dict[Choice, Any]) -> Choice:
        if None in worth.values():
            return cell.epochs[-1].number, own
        equal = [choice for choice in worth if worth[choice] == max(worth.values())]
        latest = [choice for choice in equal if choice[0] == max(equal)[0]]
        return min(latest, key=lambda choice: abs(share_of(choice) - own_share))

    def told(choice: Choice) -> dict[str, Any]:
        return {"epoch": choice[0], "share_f": share_of(choice)}

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


def slow_label_free(cell: Made, best: Any, own: tuple[float, float]) -> dict[str, Any]:
    """Each epoch's held-out cubes, fused one by one."""
    by_kind: dict[Choice, dict[str, Fraction]] = {}
    for epoch in cell.epochs:
        known, held = epoch.statistics, epoch.held_out
        assert held is not None
        for weights in (own, *((share, 1 - share) for share in SHARES)):

            def fused(s_f: np.ndarray, s_p: np.ndarray, known: Any = known, weights: Any = weights) -> np.ndarray:
                f, p = s_f.astype(float), s_p.astype(float)
                z_f, z_p = weights[0] * (f - known.mean_f) / known.sd_f, weights[1] * (p - known.mean_p) / known.sd_p
                return (z_f + z_p).astype(np.float32)

            normal = fused(held.normal_f, held.normal_p)
            found = {}
            for kind in held.pseudo_f:
                pseudo = fused(held.pseudo_f[kind], held.pseudo_p[kind])
                truth = np.array([0] * len(normal) + [1] * len(pseudo))
                found[kind] = slow_auroc(np.concatenate([normal, pseudo]), truth)
            by_kind[epoch.number, weights] = found  # type: ignore[assignment]
    chosen = best({choice: sum(found.values()) for choice, found in by_kind.items()})
    return {"chosen": chosen, "by_kind": by_kind[chosen]}


CELLS = [
    {},
    {"grid": 1},
    {"grid": 1, "epochs": 1, "median_frames": 1},
    {"videos": 3, "empty_frame": "released", "grid": 2},
    {"videos": 2, "frames": 8, "grid": 1, "median_padding": "zero"},
    {"videos": 1},
    {"weight_f": 0.0, "weight_p": 1.0, "grid": 2},
    {"weight_f": 1.0, "weight_p": 0.01},
]


@pytest.mark.parametrize("parts", CELLS, ids=str)
@pytest.mark.parametrize("seed", range(2))
def test_every_rule_equals_the_loop(seed: int, parts: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "CHOICES", np.array(SHARES))
    cell = made(seed, **{"frames": 16, **parts})
    decision, expected = cell.decide(), slow_rules(cell)
    for rule in ("paper", "oracle"):
        assert decision.rules[rule] == floats(expected[rule])
    found = decision.rules["crossfit"]
    assert found["folds"] == [floats(fold) for fold in expected["crossfit"]["folds"]]
    assert found["auroc"] == floats(expected["crossfit"])["auroc"]
    label_free = decision.rules["label-free"]
    epoch, weights = expected["label-free"]["chosen"]
    assert label_free["epoch"] == epoch and label_free["share_f"] == pytest.approx(weights[0] / sum(weights))
    assert label_free["pseudo_auroc_by_kind"] == floats(expected["label-free"]["by_kind"])
    assert (
        label_free["auroc"] == floats({"auroc": expected["label-free"]["of"]((epoch, weights), cell.videos)})["auroc"]
    )


def floats(told: dict[str, Any]) -> dict[str, Any]:
    return {name: float(value) if isinstance(value, Fraction) else value for name, value in told.items()}


@pytest.mark.parametrize("grid", [None, 1])
def test_the_curve_equals_the_loop(grid: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "SHARES", np.array(SHARES))
    cell = made(2, videos=4, epochs=1, grid=grid, weight_f=0.3, weight_p=0.1)
    truth = np.concatenate(list(cell.labels.values()))

    def slow(*weights: float) -> float:
        frames = slow_scores(cell, cell.epochs[0], weights)  # type: ignore[arg-type]
        return float(slow_auroc(np.concatenate(list(frames.values())), truth) or 0)

    curve = fusion_curve(cell.fuser, cell.videos, cell.epochs[0], cell.labels)
    assert curve["auroc"] == [slow(share, 1 - share) for share in SHARES]
    assert curve["paper_auroc"] == slow(0.3, 0.1)
    assert curve["best_auroc"] == max(*curve["auroc"], curve["paper_auroc"])


def test_what_is_searched_is_what_is_measured() -> None:
    """The same float32 scores, video by video, from `frame_scores` and from the search."""
    cell = made(4, epochs=1, videos=3)
    (epoch,) = cell.epochs
    curve = cell.curve()
    for i in range(0, 1001, 100):
        share = i / 1000
        measured = cell.measured(epoch, share, 1 - share)
        assert curve["auroc"][i] == pytest.approx(measured, abs=1e-12)
    own = replace(cell.config, weight_f=0.9, weight_p=0.3)
    paper = decide(replace(cell, config=own).fuser, cell.videos, [epoch], cell.labels).rules["paper"]
    assert paper["auroc"] == pytest.approx(cell.measured(epoch, 0.9, 0.3), abs=1e-12)
