"""Every method by name: what it is, and how its learner is built; neither torch nor NumPy is imported before that.

Adding a method: its settings (`settings`), its learner in a module of this package, an entry here, a recipe
(`bench.experiment.recipes`). `tests/unit/test_conformance.py` then runs on it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from amsrc.config import AmsrcConfig
from amsrc.errors import ConfigError, unknown
from amsrc.size import parameters
from bench.methods.interface import Learner, Method, Scores, Task
from bench.methods.settings import ConvAeConfig, VelocityGmmConfig

if TYPE_CHECKING:
    from amsrc.store import Cubes

ON_CUBES = "Works on cubes of 5 frames around foreground boxes, where the publication takes whole frames."


def _amsrc(task: Task) -> Learner:
    from bench.methods.amsrc import AmsrcLearner

    return AmsrcLearner(task)


def _velocity_gmm(task: Task) -> Learner:
    from bench.methods.density import VelocityGmm

    return VelocityGmm(task)


def _conv_ae(task: Task) -> Learner:
    from bench.methods.autoencoder import ConvAe

    return ConvAe(task)


def _wrong_amsrc(settings: AmsrcConfig) -> list[str]:
    model, loss = settings.model, settings.loss
    terms = {name: getattr(loss, name) for name in ("intensity", "gradient", "consistency", "weight_penalty")}
    rules = [
        ("model.width", model.width, 1 <= model.width <= 1024, "1 to 1024"),
        ("model.channels", model.channels, model.channels in (1, 3), "1 or 3"),
        ("model.flow_scale", model.flow_scale, min(model.flow_scale) > 0, "above 0"),
        *((f"loss.{name}", value, value >= 0, "0 or more") for name, value in terms.items()),
    ]
    return [f"{name} is {value!r}; allowed: {allowed}" for name, value, good, allowed in rules if not good]


def _effective_amsrc(settings: AmsrcConfig) -> AmsrcConfig:
    """Without a motion stream there is no consistency."""
    none = settings.model.fusion == "none"
    return replace(settings, loss=replace(settings.loss, consistency=0.0)) if none else settings


def _wrong_velocity(settings: VelocityGmmConfig) -> list[str]:
    found = {"model.directions": settings.model.directions, "model.components": settings.model.components}
    return [f"{name} is {value}; allowed: 1 to 64" for name, value in found.items() if not 1 <= value <= 64]


def _wrong_conv_ae(settings: ConvAeConfig) -> list[str]:
    model = settings.model
    rules = [
        ("model.width", model.width, 1 <= model.width <= 1024, "1 to 1024"),
        ("model.code", model.code, 1 <= model.code <= 4096, "1 to 4096"),
        ("model.channels", model.channels, model.channels in (1, 3), "1 or 3"),
        ("model.flow_scale", model.flow_scale, min(model.flow_scale) > 0, "above 0"),
    ]
    return [f"{name} is {value!r}; allowed: {allowed}" for name, value, good, allowed in rules if not good]


def _trivial(name: str, unit: Literal["cube", "frame"]) -> Method:
    """A baseline that learns nothing and has one part, of its own name."""

    def score(cubes: Cubes, seed: int) -> Scores:
        from bench.methods import trivial

        return {name: trivial.SCORES[name](cubes, seed)}

    return Method(name=name, parts=lambda _: (name,), unit=unit, score=score)


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method(
            name="amsrc",
            parts=lambda settings: settings.parts,
            config=AmsrcConfig,
            phases=("train",),
            space={
                "loss.intensity": (0.1, 10.0),  # paper: 1
                "loss.gradient": (0.1, 10.0),  # paper: 1
                "loss.consistency": (0.01, 100.0),  # paper: 1, 1 and 10; released: 1
                "loss.weight_penalty": (1e-8, 1e-2),  # paper: 1, times a sum over all weights; released: none
            },
            build=_amsrc,
            check=_wrong_amsrc,
            effective=_effective_amsrc,
            parameters=lambda settings, cube: parameters(settings.model, cube),
        ),
        _trivial("constant", "frame"),
        _trivial("noise", "frame"),
        _trivial("frame-index", "frame"),
        _trivial("clip-centre", "frame"),
        _trivial("box-count", "frame"),
        _trivial("box-area", "cube"),
        _trivial("flow-magnitude", "cube"),
        Method(
            name="velocity-gmm",
            parts=lambda _: ("velocity",),
            config=VelocityGmmConfig,
            fits=True,
            deviations=(
                "The velocity part of AI-VAD alone, without pose and deep features.",
                "DIS flow instead of FlowNet2.",
                "On ShanghaiTech the velocity is not divided by the height of the box.",
            ),
            build=_velocity_gmm,
            check=_wrong_velocity,
        ),
        Method(
            name="conv-ae",
            parts=lambda _: ("reconstruction",),
            config=ConvAeConfig,
            phases=("train",),
            deviations=(
                ON_CUBES,
                "5 frames instead of 10, of stride 1 alone.",
                "Adam and BatchNorm as in MemAE, on which the row's architecture is modelled.",
                "Batches of 128 cubes; frame scores without min-max within each video.",
            ),
            build=_conv_ae,
            check=_wrong_conv_ae,
        ),
    )
}


def find(name: str) -> Method:
    """The method of that name.

    Raises:
        ConfigError: there is none; names the nearest.
    """
    if name not in METHODS:
        raise ConfigError(unknown("method", name, METHODS))
    return METHODS[name]
