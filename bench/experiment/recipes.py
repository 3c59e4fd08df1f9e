"""The rows of the tables as functions: `recipe(dataset, seed) -> Experiment`, each derived from another.

A recipe reads like the paper's experiment section; add a row by adding a function and naming it in
RECIPES. Toy data sets (`toy-...`) take the values of the set they imitate, shrunk to minutes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from amsrc.config import BoxConfig, CubeConfig, LossConfig, ModelConfig, ScoreConfig, TrainConfig
from amsrc.errors import ConfigError, unknown
from bench.experiment.config import Experiment, derive
from bench.experiment.specs import DATASETS, is_toy, original


@dataclass(frozen=True)
class Values:
    """What the paper and its released code set for one data set."""

    confidence: float
    min_side_px: float
    overlap: float
    motion_threshold: int
    flow_scale: tuple[float, float]  # flow network's input size over native size
    paper_consistency: float
    batch: int
    epochs: int
    weights: tuple[float, float]  # (w_f, w_p)


PAPER = {
    "ped2": Values(0.5, 10.0, 0.6, 18, (1024 / 360, 768 / 240), 1.0, 128, 60, (1.0, 0.01)),
    "avenue": Values(0.25, 40.0, 0.6, 18, (512 / 640, 384 / 360), 1.0, 128, 40, (0.2, 0.8)),
    "shanghaitech": Values(0.5, 40.0, 0.65, 15, (1024 / 856, 640 / 480), 10.0, 256, 40, (0.4, 0.6)),
}


def amsrc(dataset: str, seed: int = 0) -> Experiment:
    """AMSRC as released: Table 1's last row and Table 2's third."""
    v = PAPER[original(dataset)]
    boxes = BoxConfig(
        confidence=v.confidence,
        min_side_px=v.min_side_px,
        overlap=v.overlap,
        motion_threshold=v.motion_threshold,
    )
    experiment = Experiment(
        recipe="amsrc",
        dataset=dataset,
        seed=seed,
        cube=CubeConfig(boxes=boxes),
        model=ModelConfig(flow_scale=v.flow_scale),
        train=TrainConfig(batch=v.batch, epochs=v.epochs),
        score=ScoreConfig(weight_f=v.weights[0], weight_p=v.weights[1]),
    )
    return _toy(experiment) if is_toy(dataset) else experiment


def _toy(experiment: Experiment) -> Experiment:
    """Minutes on two cores: a narrow network, few epochs, figures of 10 pixels and more, equal weights."""
    return derive(
        experiment,
        cube={"boxes": replace(experiment.cube.boxes, min_side_px=8.0)},
        model={"width": 8, "flow_scale": (1.0, 1.0)},
        train={"epochs": 6, "batch": 32, "learning_rate": 1e-3, "score_every": 2},
        score={"weight_f": 0.5, "weight_p": 0.5},
    )


def amsrc_paper_loss(dataset: str, seed: int = 0) -> Experiment:
    """AMSRC with the losses as the paper prints them: sums, and the weight penalty applied."""
    v = PAPER[original(dataset)]
    loss = LossConfig(form="paper", consistency=v.paper_consistency, weight_penalty=1.0)
    return replace(amsrc(dataset, seed), recipe="amsrc-paper-loss", loss=loss)


def no_gate_add(dataset: str, seed: int = 0) -> Experiment:
    """Table 2, without gated fusion: the features are added (the row printed by default)."""
    return replace(derive(amsrc(dataset, seed), model={"fusion": "add"}), recipe="no-gate-add")


def no_gate_concat(dataset: str, seed: int = 0) -> Experiment:
    """Table 2, without gated fusion: the features are concatenated and mixed by a 1x1 convolution."""
    return replace(derive(amsrc(dataset, seed), model={"fusion": "concat"}), recipe="no-gate-concat")


def no_gate_appearance(dataset: str, seed: int = 0) -> Experiment:
    """Table 2, without gated fusion: the decoder sees the appearance feature alone."""
    return replace(derive(amsrc(dataset, seed), model={"fusion": "appearance"}), recipe="no-gate-appearance")


def baseline(dataset: str, seed: int = 0) -> Experiment:
    """Table 2, baseline: appearance stream and decoder, scored by the prediction error alone."""
    experiment = derive(
        amsrc(dataset, seed),
        model={"fusion": "none"},
        loss={"consistency": 0.0},
        score={"weight_f": 0.0, "weight_p": 1.0},
    )
    return replace(experiment, recipe="baseline")


def small(recipe: Callable[[str, int], Experiment]) -> Callable[[str, int], Experiment]:
    """The same recipe at a quarter of the width and a few epochs: half an hour on two cores for ped2."""

    def shrunk(dataset: str, seed: int = 0) -> Experiment:
        full = recipe(dataset, seed)
        experiment = derive(full, model={"width": 16}, train={"epochs": 8, "decay_epochs": 2})
        return replace(experiment, recipe=f"{full.recipe}-small")

    shrunk.__doc__ = f"{(recipe.__doc__ or '').rstrip('.')}; width 16, 8 epochs."
    return shrunk


def null(name: str, method: str, what: str) -> Callable[[str, int], Experiment]:
    """No training at all: a score of `bench.methods.trivial` in the place of S_p."""

    def untrained(dataset: str, seed: int = 0) -> Experiment:
        experiment = derive(amsrc(dataset, seed), score={"weight_f": 0.0, "weight_p": 1.0})
        return replace(experiment, recipe=name, method=method)

    untrained.__doc__ = f"No training at all: {what}."
    return untrained


RECIPES: dict[str, Callable[[str, int], Experiment]] = {
    "amsrc": amsrc,
    "no-gate-add": no_gate_add,
    "baseline": baseline,
    "no-gate-concat": no_gate_concat,
    "no-gate-appearance": no_gate_appearance,
    "amsrc-paper-loss": amsrc_paper_loss,
    "amsrc-small": small(amsrc),
    "no-gate-add-small": small(no_gate_add),
    "baseline-small": small(baseline),
    "null-constant": null("null-constant", "constant", "the same score for every frame"),
    "null-noise": null("null-noise", "noise", "uniform noise, drawn for every frame by the seed"),
    "null-frame-index": null("null-frame-index", "frame-index", "the number of the frame in its video"),
    "null-clip-centre": null("null-clip-centre", "clip-centre", "how near the frame is to the middle of its video"),
    "null-boxes": null("null-boxes", "box-count", "the number of boxes in the frame"),
    "null-area": null("null-area", "box-area", "the area of the largest box in the frame"),
    "null-flow": null("null-flow", "flow-magnitude", "the mean magnitude of a cube's flow"),
}


def build(recipe: str, dataset: str, seed: int = 0) -> Experiment:
    """The experiment of a named recipe on a named data set.

    Raises:
        ConfigError: an unknown name, with the nearest known ones.
    """
    if recipe not in RECIPES:
        raise ConfigError(unknown("recipe", recipe, RECIPES))
    if dataset not in DATASETS:
        raise ConfigError(unknown("data set", dataset, DATASETS))
    return RECIPES[recipe](dataset, seed)
