"""The rows of the tables as functions: `build(dataset, seed) -> Experiment`, each derived from another.

A recipe reads like the paper's experiment section; add a row by adding a function and naming it in RECIPES. Toy data
sets (`toy-...`) take the values of the set they imitate, shrunk to minutes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, TypeAlias

from amsrc.config import AmsrcConfig, BoxConfig, CubeConfig, LossConfig, ModelConfig, ScoreConfig, TrainConfig
from amsrc.errors import ConfigError, unknown
from bench.experiment.config import Experiment, derive
from bench.experiment.specs import DATASETS, is_toy, original
from bench.methods.interface import NoSettings
from bench.methods.settings import ConvAeConfig, ConvAeModel, VelocityGmmConfig, VelocityModel

Build: TypeAlias = Callable[[str, int], Experiment]


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
    weights: tuple[float, float]  # of consistency and prediction


PAPER = {
    "ped2": Values(0.5, 10.0, 0.6, 18, (1024 / 360, 768 / 240), 1.0, 128, 60, (1.0, 0.01)),
    "avenue": Values(0.25, 40.0, 0.6, 18, (512 / 640, 384 / 360), 1.0, 128, 40, (0.2, 0.8)),
    "shanghaitech": Values(0.5, 40.0, 0.65, 15, (1024 / 856, 640 / 480), 10.0, 256, 40, (0.4, 0.6)),
}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A row of the tables: how its experiment is made, and what the tables say of it."""

    build: Build
    title: str
    """Its name in tables and figures."""
    kind: Literal["method", "ablation", "trivial"] = "method"
    of: str | None = None
    """The recipe that this is an ablation of."""
    small: bool = False
    """Of a smaller budget than the publication's."""
    quoted_as: str | None = None
    """The method of `paper.csv` that it answers to; None: no distance to a publication is printed."""
    content_free: bool = False
    """Whether its score looks at no picture at all."""
    undefined: bool = False
    """Whether the publication does not define it, so that it is this project's reading."""
    yardstick: bool = False
    """Whether methods are compared with it in pairs."""

    @property
    def about(self) -> str:
        """One line."""
        return (self.build.__doc__ or "").partition("\n")[0]


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
        settings=AmsrcConfig(model=ModelConfig(flow_scale=v.flow_scale)),
        train=TrainConfig(batch=v.batch, epochs=v.epochs),
        score=ScoreConfig(weights=v.weights),
    )
    return _toy(experiment) if is_toy(dataset) else experiment


def _toy(experiment: Experiment) -> Experiment:
    """Minutes on two cores: a narrow network, few epochs, figures of 10 pixels and more, equal weights."""
    return derive(
        experiment,
        cube={"boxes": replace(experiment.cube.boxes, min_side_px=8.0)},
        model={"width": 8, "flow_scale": (1.0, 1.0)},
        train={"epochs": 6, "batch": 32, "learning_rate": 1e-3, "score_every": 2},
        score={"weights": (0.5, 0.5)},
    )


def amsrc_paper_loss(dataset: str, seed: int = 0) -> Experiment:
    """AMSRC with the losses as the paper prints them: sums, and the weight penalty applied."""
    v = PAPER[original(dataset)]
    base = amsrc(dataset, seed)
    loss = LossConfig(form="paper", consistency=v.paper_consistency, weight_penalty=1.0)
    return replace(base, recipe="amsrc-paper-loss", settings=replace(base.settings, loss=loss))


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
        score={"weights": (1.0,)},
    )
    return replace(experiment, recipe="baseline")


def velocity_gmm(dataset: str, seed: int = 0) -> Experiment:
    """Velocity part of AI-VAD: a mixture of Gaussians over a cube's velocity by direction; no training by epochs."""
    ped2 = original(dataset) == "ped2"
    model = VelocityModel(directions=1, components=2) if ped2 else VelocityModel()
    base = derive(amsrc(dataset, seed), score={"weights": (1.0,), "empty_frame": "lowest"}, train={"held_out": 0.0})
    return replace(base, recipe="velocity-gmm", method="velocity-gmm", settings=VelocityGmmConfig(model=model))


def conv_ae(dataset: str, seed: int = 0) -> Experiment:
    """ConvAE on cubes: the five frames of a cube through a narrow code and back, scored by the squared error."""
    base = derive(
        amsrc(dataset, seed),
        train={"epochs": 100, "batch": 128, "learning_rate": 1e-4, "decay": 1.0, "score_every": 20, "held_out": 0.0},
        score={"weights": (1.0,)},
    )
    experiment = replace(base, recipe="conv-ae", method="conv-ae", settings=ConvAeConfig())
    if not is_toy(dataset):
        return experiment
    return derive(
        experiment,
        model={"width": 8, "code": 16},
        train={"epochs": 6, "batch": 32, "learning_rate": 1e-3, "score_every": 2},
    )


def conv_ae_flow(dataset: str, seed: int = 0) -> Experiment:
    """The same of a cube's four flows, in native pixels per frame."""
    base = conv_ae(dataset, seed)
    flows = ConvAeModel(input="flows", width=base.settings.model.width, code=base.settings.model.code)
    return replace(base, recipe="conv-ae-flow", settings=ConvAeConfig(model=flows))


def small(recipe: Recipe) -> Recipe:
    """The same recipe at a quarter of the width and a few epochs: half an hour on two cores for ped2."""

    def shrunk(dataset: str, seed: int = 0) -> Experiment:
        full = recipe.build(dataset, seed)
        experiment = derive(full, model={"width": 16}, train={"epochs": 8, "decay_epochs": 2})
        return replace(experiment, recipe=f"{full.recipe}-small")

    shrunk.__doc__ = f"{recipe.about.rstrip('.')}; width 16, 8 epochs."
    return replace(recipe, build=shrunk, small=True, of=f"{recipe.of}-small" if recipe.of else None)


def trivial(
    name: str, method: str, title: str, what: str, *, content_free: bool = False, yardstick: bool = False
) -> Recipe:
    """No training at all: a score of `bench.methods.trivial`."""

    def untrained(dataset: str, seed: int = 0) -> Experiment:
        experiment = derive(amsrc(dataset, seed), score={"weights": (1.0,)})
        return replace(experiment, recipe=name, method=method, settings=NoSettings())

    untrained.__doc__ = f"Trivial baseline, no training: {what}."
    return Recipe(build=untrained, title=title, kind="trivial", content_free=content_free, yardstick=yardstick)


NO_GATE = "AMSRC without gated fusion"
_amsrc = Recipe(build=amsrc, title="AMSRC", quoted_as="AMSRC")
_add = Recipe(
    build=no_gate_add,
    title="No gate, features added",
    kind="ablation",
    of="amsrc",
    quoted_as=NO_GATE,
    undefined=True,
)
_baseline = Recipe(build=baseline, title="Baseline", kind="ablation", of="amsrc", quoted_as="Baseline")
RECIPES: dict[str, Recipe] = {
    "baseline": _baseline,
    "no-gate-add": _add,
    "no-gate-concat": replace(_add, build=no_gate_concat, title="No gate, features concatenated"),
    "no-gate-appearance": replace(_add, build=no_gate_appearance, title="No gate, appearance alone"),
    "amsrc": _amsrc,
    "amsrc-paper-loss": replace(_amsrc, build=amsrc_paper_loss, title="AMSRC, losses as printed"),
    "baseline-small": small(_baseline),
    "no-gate-add-small": small(_add),
    "amsrc-small": small(_amsrc),
    "velocity-gmm": Recipe(build=velocity_gmm, title="AI-VAD, velocity part"),
    "conv-ae": Recipe(build=conv_ae, title="ConvAE on cubes"),
    "conv-ae-flow": Recipe(build=conv_ae_flow, title="ConvAE on cubes, of flow"),
    "null-constant": trivial(
        "null-constant", "constant", "Constant", "the same score for every frame", content_free=True
    ),
    "null-noise": trivial(
        "null-noise", "noise", "Uniform noise", "uniform noise, drawn for every frame by the seed", content_free=True
    ),
    "null-frame-index": trivial(
        "null-frame-index", "frame-index", "Frame index", "the number of the frame in its video", content_free=True
    ),
    "null-clip-centre": trivial(
        "null-clip-centre",
        "clip-centre",
        "Nearness to the clip's centre",
        "how near the frame is to the middle of its video",
        content_free=True,
    ),
    "null-boxes": trivial("null-boxes", "box-count", "Number of boxes", "the number of boxes in the frame"),
    "null-area": trivial("null-area", "box-area", "Largest box area", "the area of the largest box in the frame"),
    "null-flow": trivial(
        "null-flow", "flow-magnitude", "Mean flow magnitude", "the mean magnitude of a cube's flow", yardstick=True
    ),
}
"""In the order of the tables' rows."""


def recipe_of(name: str) -> Recipe:
    """The recipe of that name; of one that this program does not know, a plain method without a quoted figure."""
    return RECIPES.get(name) or Recipe(build=partial(build, name), title=name)


def build(recipe: str, dataset: str, seed: int = 0) -> Experiment:
    """The experiment of a named recipe on a named data set.

    Raises:
        ConfigError: an unknown name, with the nearest known ones.
    """
    if recipe not in RECIPES:
        raise ConfigError(unknown("recipe", recipe, RECIPES))
    if dataset not in DATASETS:
        raise ConfigError(unknown("data set", dataset, DATASETS))
    return RECIPES[recipe].build(dataset, seed)
