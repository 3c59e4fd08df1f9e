"""Selection rules: they choose the epoch and fusion weights of a run, and the setting of a search.

Reads scores of cubes and labels, writes nothing. A rule gets only the labels that it may use: under
`crossfit` the choice for a fold gets the labels of the other folds alone, under `label-free` no label.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt

from amsrc.config import ScoreConfig
from amsrc.errors import ConfigError, DataError
from amsrc.fuse import Floats, Fuser, cube_scores
from bench.evaluation.metrics import end_to_end, pooled_auroc
from bench.evaluation.roc import aurocs
from bench.experiment.rules import RULES
from bench.records.run_folder import Epoch

Values = npt.NDArray[np.float64]
Labels = Mapping[str, npt.NDArray[np.integer]]  # by video; 1 = abnormal

FOLDS = 5
SHARES = np.arange(1001) / 1000
"""Shares of the first of two parts in their weights, along the fusion curve."""
STEPS = {2: 100}
"""By number of parts: steps of the lattice of weights that are tried where epoch and weights are chosen together."""
MORE_STEPS = 10


@dataclass(frozen=True)
class Decision:
    """What the rules choose for one run."""

    rules: dict[str, dict[str, Any]]
    """`RunRecord.rules`; fractions, None where undefined."""
    crossfit: Mapping[str, npt.NDArray[np.float32]]
    """By video the ranks of its scored frames under rule `crossfit`: in (0, 1), higher = more abnormal."""


@dataclass(frozen=True)
class _Candidate:
    """One way to turn a run's cubes into frame scores."""

    epoch: Epoch
    weights: tuple[float, ...]
    """One a part."""
    distance: float
    """From the experiment's own weights."""

    @property
    def choice(self) -> dict[str, Any]:
        parts = zip(self.epoch.statistics, shares(self.weights), strict=True)
        return {"epoch": self.epoch.number, "weights": dict(parts)}


def shares(weights: Sequence[float]) -> tuple[float, ...]:
    """Weights scaled to a sum of 1."""
    return tuple(weight / sum(weights) for weight in weights)


def fusible(epoch: Epoch, part: str, config: ScoreConfig) -> bool:
    """Whether a part can be standardised: its scores are finite, and its spread over the training cubes is above 0."""
    spread = epoch.statistics[part].scale(config.standardise)[1]
    return bool(np.isfinite(epoch.scores[part]).all() and np.isfinite(spread) and spread > 0)


def lattice(parts: int) -> list[tuple[float, ...]]:
    """Weights that are tried: for two parts 101 ratios, for more a coarser lattice; each adds up to 1."""
    steps = STEPS.get(parts, MORE_STEPS)
    of_first = (each for each in product(range(steps + 1), repeat=parts - 1) if sum(each) <= steps)
    return [(*(number / steps for number in each), 1 - sum(each) / steps) for each in of_first]


def decide(fuser: Fuser, videos: Sequence[str], epochs: Sequence[Epoch], labels: Labels) -> Decision:
    """What each rule chooses among a run's epochs and shares, and the AUROC it reaches.

    Candidates are the experiment's own weights and those of `lattice`, in every epoch. Of equal ones the latest epoch
    is taken, then the weights closest to the experiment's own. A fold whose other folds lack a class takes the
    experiment's own weights in the last epoch; its `selected_auroc` is None.

    Args:
        fuser: of the test cubes; its `config` holds the experiment's own weights.
        videos: names of the test videos, in the fuser's order.
        epochs: one or more; the latest is that of the trained weights.
        labels: of the scored frames.

    Raises:
        DataError: the labels do not fit the scored frames.
        RunError: a score that counts cannot be fused (`cube_scores`).
    """
    truth, columns = _checked(fuser, videos, labels), _columns(fuser, videos)
    parts = folds(videos)
    views = [truth, *({video: truth[video] for video in videos if video not in part} for part in parts)]
    found: list[_Candidate] = []
    aurocs_by_epoch: list[Values] = []
    pseudo: list[dict[str, float]] = []
    for epoch in epochs:
        tried = _candidates(epoch, fuser.config, lattice(len(epoch.scores)))
        frames = _frames(fuser, epoch, tried)
        aurocs_by_epoch.append(np.stack([known_aurocs(frames, columns, view) for view in views]))
        pseudo += pseudo_aurocs(epoch, [candidate.weights for candidate in tried], fuser.config)
        found += tried
    on_all, *on_others = np.concatenate(aurocs_by_epoch, axis=1)

    own, best = _best(np.zeros(len(found)), found), _best(on_all, found)
    chosen = [_best(on_other, found) for on_other in on_others]
    ranks: dict[str, npt.NDArray[np.float32]] = {}
    for part, choice in zip(parts, chosen, strict=True):
        (frames,) = _frames(fuser, found[choice].epoch, [found[choice]])
        ranks |= {video: _ranks(frames)[columns[video]] for video in part}
    rules: dict[str, dict[str, Any]] = {
        "paper": {"auroc": _plain(on_all[own]), **found[own].choice},
        "oracle": {"auroc": _plain(on_all[best]), **found[best].choice},
        "crossfit": {
            "auroc": pooled_auroc(ranks, truth),
            "folds": [
                {"videos": part, "selected_auroc": _plain(on_other[choice]), **found[choice].choice}
                for part, on_other, choice in zip(parts, on_others, chosen, strict=True)
            ],
        },
        "label-free": _label_free_rule(found, pseudo, on_all),
    }
    return Decision(rules, ranks)


def known_aurocs(frames: npt.NDArray[np.float32], columns: Mapping[str, slice], labels: Labels) -> Values:
    """Pooled AUROC of each candidate over the videos whose labels are given; it gets no other labels.

    Args:
        frames: (R, N), all scored frames under each candidate.
        columns: of each video's frames in `frames`.

    Returns:
        (R,), NaN when only one class is present.
    """
    parts = [frames[:, columns[video]] for video in labels]
    return aurocs(np.concatenate([frames[:, :0], *parts], axis=1), end_to_end(labels.values(), np.int64))


def pseudo_aurocs(epoch: Epoch, weights: Sequence[Sequence[float]], config: ScoreConfig) -> list[dict[str, float]]:
    """How well each set of weights tells held-out normal cubes from pseudo-anomalies: AUROC over cubes, by kind.

    Neither a test cube nor a label is looked at. The dicts are empty without held-out cubes.
    """
    held_out = epoch.held_out
    if held_out is None or not held_out.cubes:
        return [{} for _ in weights]
    by_kind: dict[str, Values] = {}
    for kind, pseudo in held_out.pseudo.items():
        both = {part: np.concatenate([normal, pseudo[part]]) for part, normal in held_out.normal.items()}
        fused = np.stack([cube_scores(both, epoch.statistics, each, config.standardise) for each in weights])
        labels = np.repeat([0, 1], [held_out.cubes, fused.shape[1] - held_out.cubes])
        by_kind[kind] = aurocs(fused.astype(np.float32), labels)
    return [{kind: float(values[i]) for kind, values in by_kind.items()} for i in range(len(weights))]


def pseudo_auroc(epoch: Epoch, config: ScoreConfig) -> float | None:
    """The validation score of one epoch under `label-free`: the best mean AUROC over kinds that any weights reach."""
    candidates = _candidates(epoch, config, lattice(len(epoch.scores)))
    tried = pseudo_aurocs(epoch, [candidate.weights for candidate in candidates], config)
    return max((float(np.mean(list(by_kind.values()))) for by_kind in tried if by_kind), default=None)


def _label_free(found: Sequence[_Candidate], pseudo: Sequence[Mapping[str, float]]) -> int | None:
    """Position of the candidate with the best mean over kinds of pseudo-anomalies; None without any."""
    means = np.array([np.mean(list(by_kind.values())) if by_kind else np.nan for by_kind in pseudo])
    return None if np.isnan(means).all() else _best(means, found)


def _label_free_rule(
    found: Sequence[_Candidate], pseudo: Sequence[Mapping[str, float]], on_all: Values
) -> dict[str, Any]:
    """The choice made without labels, and the AUROC that it reaches on the test videos."""
    best = _label_free(found, pseudo)
    if best is None:
        return {"auroc": None, "epoch": None, "weights": None, "pseudo_auroc": None, "pseudo_auroc_by_kind": {}}
    return {
        "auroc": _plain(on_all[best]),
        **found[best].choice,
        "pseudo_auroc": float(np.mean(list(pseudo[best].values()))),
        "pseudo_auroc_by_kind": dict(pseudo[best]),
    }


def fusion_curve(fuser: Fuser, videos: Sequence[str], epoch: Epoch, labels: Labels) -> dict[str, Any]:
    """AUROC over the ratio of two parts in one epoch; arguments and errors as for `decide`.

    The experiment's own weights are one more candidate for the best; of equal ones the share closest to the
    experiment's is taken.

    Returns:
        `part` (the first, whose share is varied), `share` and `auroc` (SHARES and their fractions), `best_share`,
        `best_auroc`, `own_share`, `own_auroc`; nothing where there are not two parts to weigh.
    """
    truth = _checked(fuser, videos, labels)
    if len(epoch.scores) != 2:
        return {}
    tried = _candidates(epoch, fuser.config, [(share, 1 - share) for share in SHARES.tolist()])
    if len(tried) == 1:
        return {}
    values = aurocs(_frames(fuser, epoch, tried), end_to_end(truth.values(), np.int64))
    best = _best(values, tried)
    return {
        "part": next(iter(epoch.scores)),
        "share": SHARES.tolist(),
        "auroc": [_plain(value) for value in values[1:]],
        "best_share": shares(tried[best].weights)[0],
        "best_auroc": _plain(values[best]),
        "own_share": shares(tried[0].weights)[0],
        "own_auroc": _plain(values[0]),
    }


def folds(videos: Iterable[str]) -> list[list[str]]:
    """The folds of rule `crossfit`: videos dealt out in the order of their names' SHA-256. No label is looked at."""
    order = sorted(videos, key=lambda video: sha256(video.encode()).digest())
    count = min(FOLDS, len(order))
    return [order[start::count] for start in range(count)]


def objective(rules: Mapping[str, Any], rule: str) -> float | None:
    """The objective of a trial of a search under a rule; under `label-free` its validation score, not a test AUROC.

    Args:
        rules: of the trial's record.

    Raises:
        ConfigError: there is no such rule.
    """
    if rule not in RULES:
        raise ConfigError(f"there is no rule {rule!r}; choose one of {', '.join(RULES)}.")
    value: float | None = rules.get(rule, {}).get("pseudo_auroc" if rule == "label-free" else "auroc")
    return value


def across(
    settings: Mapping[str, Mapping[str, Sequence[Decision]]], labels: Mapping[str, Labels], reference: str
) -> dict[str, dict[str, dict[str, Any]]]:
    """What each rule takes from several settings, on each data set, and the AUROC it then reaches there.

    One setting is taken for all data sets together: it is judged by the mean over them of the mean over its seeds of
    `objective`, under `crossfit` fold by fold of `selected_auroc`; one that lacks it anywhere is out. Of equal ones the
    reference is taken, then the first.

    Args:
        settings: name -> data set -> what was decided for its runs, one a seed, seeds in the same order everywhere.
        labels: data set -> labels of the scored frames.
        reference: name of the recipe's own setting: what `paper` takes.

    Returns:
        Data set -> rule -> `auroc` (mean over the seeds), `setting`, and `epoch` and `weights` where the seeds agree,
        else None; `label-free` adds `pseudo_auroc`. `crossfit`: `auroc` and `folds`, which have `videos`,
        `selected_auroc` and the rest. A rule that can judge no setting has None everywhere; such a fold takes the
        reference.

    Raises:
        DataError: the settings differ in their data sets, seeds or test videos.
    """
    names = [reference, *(name for name in settings if name != reference)]
    dealt = {dataset: _dealt(settings, dataset) for dataset in labels}

    def judged(value: Callable[[Decision, str], float | None]) -> list[float | None]:
        """Each setting's value: the mean over data sets of the mean over seeds."""
        return [_mean(_mean(value(cell, d) for cell in settings[name][d]) for d in dealt) for name in names]

    chosen: dict[str, dict[str, dict[str, Any]]] = {dataset: {} for dataset in dealt}
    for rule in ("paper", "oracle", "label-free"):
        values = judged(lambda cell, _, rule=rule: objective(cell.rules, rule))  # type: ignore[misc]
        best = 0 if rule == "paper" else _largest(values)
        for dataset, of_rule in chosen.items():
            taken = [] if best is None else [cell.rules[rule] for cell in settings[names[best]][dataset]]
            name = None if best is None else names[best]
            of_rule[rule] = {"auroc": _mean(cell["auroc"] for cell in taken), "setting": name, **_agreed(taken)}
            if rule == "label-free":
                of_rule[rule]["pseudo_auroc"] = _mean(cell["pseudo_auroc"] for cell in taken)

    told: dict[str, list[dict[str, Any]]] = {dataset: [] for dataset in dealt}
    ranks: dict[str, list[dict[str, Floats]]] = {d: [{} for _ in settings[reference][d]] for d in dealt}
    for number in range(max(map(len, dealt.values()))):

        def fold(cell: Decision, dataset: str, number: int = number) -> dict[str, Any]:
            """A data set with fewer folds is judged by one of them again, and not reported on."""
            found: dict[str, Any] = cell.rules["crossfit"]["folds"][number % len(dealt[dataset])]
            return found

        best = _largest(judged(lambda cell, d, fold=fold: fold(cell, d)["selected_auroc"])) or 0  # type: ignore[misc]
        for dataset in (d for d in dealt if number < len(dealt[d])):
            cells = settings[names[best]][dataset]
            of_fold, videos = [fold(cell, dataset) for cell in cells], dealt[dataset][number]
            selected = _mean(each["selected_auroc"] for each in of_fold)
            about = {"videos": videos, "selected_auroc": selected, "setting": names[best]}
            told[dataset].append({**about, **_agreed(of_fold)})
            for of_seed, cell in zip(ranks[dataset], cells, strict=True):
                of_seed |= {video: cell.crossfit[video] for video in videos}
    for dataset, of_rule in chosen.items():
        auroc = _mean(pooled_auroc(of_seed, labels[dataset]) for of_seed in ranks[dataset])
        of_rule["crossfit"] = {"auroc": auroc, "folds": told[dataset]}
    return {dataset: {rule: of_rule[rule] for rule in RULES} for dataset, of_rule in chosen.items()}


def _dealt(settings: Mapping[str, Mapping[str, Sequence[Decision]]], dataset: str) -> list[list[str]]:
    """The folds of a data set, the same in all settings and seeds."""
    cells = [by_dataset.get(dataset, []) for by_dataset in settings.values()]
    dealt = [[fold["videos"] for fold in cell.rules["crossfit"]["folds"]] for seeds in cells for cell in seeds]
    if len({len(seeds) for seeds in cells}) > 1 or not dealt or any(parts != dealt[0] for parts in dealt):
        raise DataError(
            f"{dataset}: the settings differ in their seeds or test videos: compare those measured on the same ones."
        )
    return dealt[0]


def _candidates(epoch: Epoch, config: ScoreConfig, weights: Sequence[tuple[float, ...]]) -> list[_Candidate]:
    """The experiment's own weights, and these where there are several parts and all can be fused."""
    own = shares(config.weights)
    found = [_Candidate(epoch, config.weights, 0.0)]
    if len(epoch.scores) > 1 and all(fusible(epoch, part, config) for part in epoch.scores):
        # the last share follows from the others
        distances = (sum(abs(a - b) for a, b in zip(each[:-1], own[:-1], strict=True)) for each in weights)
        found += [_Candidate(epoch, each, distance) for each, distance in zip(weights, distances, strict=True)]
    return found


def _frames(fuser: Fuser, epoch: Epoch, candidates: Sequence[_Candidate]) -> npt.NDArray[np.float32]:
    """(R, N) frame scores in float32, as they are kept and measured."""
    weights = [candidate.weights for candidate in candidates]
    frames = fuser.scores(epoch.scores, epoch.statistics, weights, np.float32)
    return frames.astype(np.float32, copy=False)


def _best(values: Values, candidates: Sequence[_Candidate]) -> int:
    """Position of the largest value. Of equal ones, all undefined among them: the latest epoch, the closest share."""
    known = np.nan_to_num(values, nan=-1.0)
    equal = np.flatnonzero(known == known.max()).tolist()
    return max(equal, key=lambda i: (candidates[i].epoch.number, -candidates[i].distance))


def _ranks(scores: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Share of all scores below each one, those equal to it counting half."""
    _, place, equal = np.unique(scores, return_inverse=True, return_counts=True)
    below = np.cumsum(equal) - equal
    return ((below + equal / 2) / len(scores)).astype(np.float32)[place]


def _checked(fuser: Fuser, videos: Sequence[str], labels: Labels) -> Labels:
    """The labels in the order of the videos, one for each scored frame."""
    lengths = dict(zip(videos, fuser.lengths, strict=True))
    found = {video: len(label) for video, label in labels.items()}
    if wrong := sorted(video for video in {*lengths, *found} if lengths.get(video) != found.get(video)):
        raise DataError(f"scored frames and labels differ in: {', '.join(wrong)}. Each scored frame needs one label.")
    return {video: labels[video] for video in videos}


def _columns(fuser: Fuser, videos: Sequence[str]) -> dict[str, slice]:
    """Positions of each video's frames when all videos are concatenated."""
    ends = np.cumsum(fuser.lengths).tolist()
    return {v: slice(end - n, end) for v, end, n in zip(videos, ends, fuser.lengths, strict=True)}


def _plain(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _mean(values: Iterable[float | None]) -> float | None:
    """The mean; None where there is nothing or a gap."""
    known = list(values)
    return float(np.mean([v for v in known if v is not None])) if known and None not in known else None


def _largest(values: Sequence[float | None]) -> int | None:
    """Position of the first of the largest; None where all are."""
    known = [value for value in values if value is not None]
    return values.index(max(known)) if known else None


def _agreed(choices: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """`epoch` and `weights` that all seeds chose, None where they differ."""
    first = choices[0] if choices else {}
    names = ("epoch", "weights")
    return {name: first.get(name) if all(c[name] == first[name] for c in choices) else None for name in names}
