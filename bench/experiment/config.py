"""`Experiment`: one run as a value; overriding, loading, dumping and fingerprinting it.

Same value -> same fingerprint -> same folder -> same record. Where things lie (data root, home, results)
and what runs them (workers, GPUs) is not part of the value. Imports neither torch nor Ray.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from functools import cache
from typing import Any

from amsrc.config import CubeConfig, LossConfig, ModelConfig, ScoreConfig, TrainConfig
from amsrc.errors import ConfigError, unknown
from amsrc.files import digest_of_json
from bench.experiment.specs import LABEL_SETS

PROVIDERS = ("cube.boxes.provider", "cube.flow.provider")
"""Fields of where boxes and flow come from: what `--boxes` and `--flow` set."""


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One run of the benchmark: a recipe on a data set with a seed, every number included."""

    recipe: str
    """Name of the table row."""
    dataset: str
    """Name of the data set."""
    seed: int = 0
    """Of the initial weights and the order of the cubes."""
    method: str = "amsrc"
    """`amsrc`, or the name of a score that needs no training (`bench.methods.trivial`)."""
    label_set: str = "official"
    """`official` (avenue: its pixel masks) or `intervals`."""
    partial: bool = False
    """Made from a subset of the data set's videos."""
    cube: CubeConfig = field(default_factory=CubeConfig)
    """How cubes are cut."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """The network."""
    loss: LossConfig = field(default_factory=LossConfig)
    """What it is trained to minimise."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """Optimiser and budget."""
    score: ScoreConfig = field(default_factory=ScoreConfig)
    """From errors of cubes to scores of frames."""


def dump(value: Experiment) -> dict[str, Any]:
    """A configuration as plain nested dicts, ready for JSON."""
    plain: dict[str, Any] = json.loads(json.dumps(asdict(value)))
    return plain


def load(data: Mapping[str, Any]) -> Experiment:
    """The experiment that `dump` wrote.

    Raises:
        ConfigError: a field is unknown or has a value that is not allowed.
    """
    from pydantic import ValidationError

    try:
        return strict(Experiment).validate_python(dict(data))  # type: ignore[no-any-return]
    except ValidationError as error:
        lines = [f"{'.'.join(str(part) for part in e['loc'])}: {e['msg']}, got {e['input']!r}" for e in error.errors()]
        raise ConfigError("configuration: " + "; ".join(lines)) from None


@cache
def strict(cls: type) -> Any:
    """What makes a dataclass of plain data: a `pydantic.TypeAdapter` that refuses unknown keys, NaN and infinity.

    They are refused in the dataclasses that its fields have by default, too.
    """
    from pydantic import ConfigDict, TypeAdapter, with_config

    def forbid(part: type) -> None:
        with_config(ConfigDict(extra="forbid", allow_inf_nan=False))(part)
        for f in fields(part):
            if is_dataclass(f.default_factory):
                forbid(f.default_factory)

    forbid(cls)
    return TypeAdapter(cls)


def override(experiment: Experiment, changes: Mapping[str, str]) -> Experiment:
    """A copy with dotted fields set from text: `{"loss.consistency": "10"}`.

    Raises:
        ConfigError: an unknown field (with the nearest names) or a value that is not allowed.
    """
    data = dump(experiment)
    known = dict(leaves(data))
    for name, text in changes.items():
        if name not in known:
            raise ConfigError(unknown("field", name, known))
        node = data
        *path, last = name.split(".")
        for part in path:
            node = node[part]
        node[last] = text.split(",") if isinstance(known[name], list) else text
    checked = load(data)
    check(checked)
    return checked


def provider_fields(boxes: str | None, flow: str | None) -> dict[str, str]:
    """The fields that `--boxes KIND[:PATH]` and `--flow KIND[:PATH]` set."""
    return {name: text.partition(":")[0] for name, text in zip(PROVIDERS, (boxes, flow), strict=True) if text}


def check(experiment: Experiment) -> None:
    """Refuse values that are well typed and still make no sense.

    Raises:
        ConfigError: names the field, its value and what is allowed.
    """
    e = experiment
    rules = [
        ("seed", e.seed, 0 <= e.seed < 2**63, "0 or more, below 2^63"),
        ("label_set", e.label_set, e.label_set in LABEL_SETS, " or ".join(LABEL_SETS)),
        ("cube.frames", e.cube.frames, 2 <= e.cube.frames <= 33, "2 to 33"),
        ("cube.size", e.cube.size, e.cube.size >= 8 and e.cube.size % 8 == 0, "a multiple of 8"),
        ("cube.boxes.confidence", e.cube.boxes.confidence, 0 <= e.cube.boxes.confidence < 1, "0 to below 1"),
        ("cube.boxes.overlap", e.cube.boxes.overlap, 0 < e.cube.boxes.overlap <= 1, "above 0, to 1"),
        ("model.width", e.model.width, 1 <= e.model.width <= 1024, "1 to 1024"),
        ("model.channels", e.model.channels, e.model.channels in (1, 3), "1 or 3"),
        ("train.epochs", e.train.epochs, e.train.epochs >= 1, "1 or more"),
        ("train.batch", e.train.batch, e.train.batch >= 2, "2 or more (BatchNorm)"),
        ("train.learning_rate", e.train.learning_rate, e.train.learning_rate > 0, "above 0"),
        ("train.decay", e.train.decay, 0 < e.train.decay <= 1, "above 0, to 1"),
        ("model.flow_scale", e.model.flow_scale, min(e.model.flow_scale) > 0, "above 0"),
        ("cube.boxes.grow_px", e.cube.boxes.grow_px, e.cube.boxes.grow_px >= 0, "0 or more"),
        ("cube.boxes.min_side_px", e.cube.boxes.min_side_px, e.cube.boxes.min_side_px >= 0, "0 or more"),
        ("cube.boxes.max_aspect", e.cube.boxes.max_aspect, e.cube.boxes.max_aspect > 1, "above 1"),
        (
            "cube.boxes.motion_threshold",
            e.cube.boxes.motion_threshold,
            0 <= e.cube.boxes.motion_threshold <= 254,
            "0 to 254",
        ),
        ("train.decay_epochs", e.train.decay_epochs, e.train.decay_epochs >= 1, "1 or more"),
        ("train.score_every", e.train.score_every, e.train.score_every >= 0, "0 or more"),
        ("train.held_out", e.train.held_out, 0 <= e.train.held_out < 1, "0 to below 1"),
        ("score.skip_frames", e.score.skip_frames, e.score.skip_frames >= 0, "0 or more"),
        ("score.median_frames", e.score.median_frames, max(e.score.median_frames, 0) % 2 == 1, "odd"),
        *((f"loss.{n}", v, v >= 0, "0 or more") for n, v in asdict(e.loss).items() if n != "form"),
        *((f"score.{n}", getattr(e.score, n), getattr(e.score, n) >= 0, "0 or more") for n in ("weight_f", "weight_p")),
    ]
    wrong = [f"{name} is {value!r}; allowed: {allowed}" for name, value, good, allowed in rules if not good]
    if e.model.fusion == "none" and e.score.weight_f:
        wrong.append("score.weight_f must be 0 with model.fusion none: without a motion stream there is no S_f")
    if e.score.weight_f == e.score.weight_p == 0:
        wrong.append("score.weight_f and score.weight_p are both 0; at least one must count")
    if wrong:
        raise ConfigError("configuration: " + "; ".join(wrong))


def leaves(data: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """The values of nested dicts by their dotted names."""
    found: list[tuple[str, Any]] = []
    for name, value in data.items():
        found += leaves(value, f"{prefix}{name}.") if isinstance(value, dict) else [(prefix + name, value)]
    return found


def flatten(experiment: Experiment) -> dict[str, Any]:
    """Every field by its dotted name."""
    return dict(leaves(dump(experiment)))


def fingerprint(experiment: Experiment) -> str:
    """12 hex digits that name this value; the name of its record."""
    return digest_of_json(dump(experiment))[:12]


def run_key(experiment: Experiment) -> str:
    """12 hex digits of what training depends on; the name of its run folder.

    Recipe name, fusion weights, smoothing and labels are left out: changing them never retrains.
    """
    keep = ("dataset", "seed", "method", "partial", "cube", "model", "loss", "train")
    return digest_of_json({name: dump(experiment)[name] for name in keep})[:12]


def cube_key(experiment: Experiment) -> str:
    """12 hex digits of what the cubes depend on; part of the name of the store's folder."""
    return digest_of_json({"partial": experiment.partial, "cube": dump(experiment)["cube"]})[:12]


def derive(experiment: Experiment, **parts: Mapping[str, Any]) -> Experiment:
    """A copy with fields of its parts replaced: `derive(e, model={"width": 16})`."""
    return replace(experiment, **{name: replace(getattr(experiment, name), **new) for name, new in parts.items()})
