"""`Experiment`: one run as a value; overriding, loading, dumping and fingerprinting it.

Same value -> same fingerprint -> same folder -> same record. Where things are stored (data root, home, results)
and what runs them (workers, GPUs) is not part of the value. Imports neither torch nor Ray.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from functools import cache
from typing import Any

from amsrc.config import AmsrcConfig, CubeConfig, ScoreConfig, TrainConfig
from amsrc.errors import ConfigError, unknown
from amsrc.files import digest_of_json
from bench.experiment.specs import LABEL_SETS
from bench.methods import catalogue
from bench.methods.interface import Method

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
    """A name of the catalogue (`bench.methods.catalogue`)."""
    label_set: str = "official"
    """`official` (avenue: its pixel masks) or `intervals`."""
    partial: bool = False
    """Made from a subset of the data set's videos."""
    cube: CubeConfig = field(default_factory=CubeConfig)
    """How cubes are cut."""
    settings: Any = field(default_factory=AmsrcConfig)
    """Of the method: an instance of its `Method.config`. Its groups are named without `settings.`: `model.width`."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """Optimiser and budget."""
    score: ScoreConfig = field(default_factory=ScoreConfig)
    """From scores of cubes to scores of frames."""

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the parts of the method's score, under these settings."""
        return catalogue.find(self.method).parts(self.settings)

    @property
    def learns(self) -> bool:
        """Whether there is anything to train or fit."""
        return catalogue.find(self.method).learns

    @property
    def learned_method(self) -> Method:
        """The method, which must be one that learns.

        Raises:
            ConfigError: there is nothing to train.
        """
        method = catalogue.find(self.method)
        if not method.learns:
            raise ConfigError(
                f"{self.recipe} trains nothing: it is a trivial baseline. `amsrc-bench evaluate` scores it as it is."
            )
        return method

    @property
    def epochs(self) -> int:
        """Of all phases of the method together; 0 where nothing is trained by epochs."""
        return catalogue.find(self.method).epochs(self.train)


def dump(value: Experiment) -> dict[str, Any]:
    """A configuration as plain nested dicts, ready for JSON."""
    plain: dict[str, Any] = json.loads(json.dumps(asdict(value)))
    return plain


def load(data: Mapping[str, Any]) -> Experiment:
    """The experiment that `dump` wrote.

    Raises:
        ConfigError: a field is unknown or has a value that is not allowed, or there is no such method.
    """
    from pydantic import ValidationError

    method = catalogue.find(str(data.get("method", "amsrc")))
    try:
        experiment: Experiment = strict(Experiment).validate_python(dict(data))
        settings = strict(method.config).validate_python(data.get("settings", {}))
    except ValidationError as error:
        places = [".".join(str(part) for part in e["loc"]) or "settings" for e in error.errors()]
        lines = [f"{at}: {e['msg']}, got {e['input']!r}" for at, e in zip(places, error.errors(), strict=True)]
        raise ConfigError("configuration: " + "; ".join(lines)) from None
    return replace(experiment, settings=settings)


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
    known = flatten(experiment)
    for name, text in changes.items():
        if name not in known:
            raise ConfigError(f"{experiment.recipe}: {unknown('field', name, known)}")
        *path, last = name.split(".")
        node = data["settings"] if path and path[0] in data["settings"] else data
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
    e, boxes = experiment, experiment.cube.boxes
    rules = [
        ("seed", e.seed, 0 <= e.seed < 2**63, "0 or more, below 2^63"),
        ("label_set", e.label_set, e.label_set in LABEL_SETS, " or ".join(LABEL_SETS)),
        ("cube.frames", e.cube.frames, 2 <= e.cube.frames <= 33, "2 to 33"),
        ("cube.size", e.cube.size, e.cube.size >= 8 and e.cube.size % 8 == 0, "a multiple of 8"),
        ("cube.boxes.confidence", boxes.confidence, 0 <= boxes.confidence < 1, "0 to below 1"),
        ("cube.boxes.overlap", boxes.overlap, 0 < boxes.overlap <= 1, "above 0, to 1"),
        ("cube.boxes.grow_px", boxes.grow_px, boxes.grow_px >= 0, "0 or more"),
        ("cube.boxes.min_side_px", boxes.min_side_px, boxes.min_side_px >= 0, "0 or more"),
        ("cube.boxes.max_aspect", boxes.max_aspect, boxes.max_aspect > 1, "above 1"),
        ("cube.boxes.motion_threshold", boxes.motion_threshold, 0 <= boxes.motion_threshold <= 254, "0 to 254"),
        ("train.epochs", e.train.epochs, e.train.epochs >= 1, "1 or more"),
        ("train.batch", e.train.batch, e.train.batch >= 2, "2 or more (BatchNorm)"),
        ("train.learning_rate", e.train.learning_rate, e.train.learning_rate > 0, "above 0"),
        ("train.decay", e.train.decay, 0 < e.train.decay <= 1, "above 0, to 1"),
        ("train.decay_epochs", e.train.decay_epochs, e.train.decay_epochs >= 1, "1 or more"),
        ("train.score_every", e.train.score_every, e.train.score_every >= 0, "0 or more"),
        ("train.held_out", e.train.held_out, 0 <= e.train.held_out < 1, "0 to below 1"),
        ("score.weights", list(e.score.weights), min(e.score.weights, default=-1) >= 0, "0 or more each"),
        ("score.skip_frames", e.score.skip_frames, e.score.skip_frames >= 0, "0 or more"),
        ("score.median_frames", e.score.median_frames, max(e.score.median_frames, 0) % 2 == 1, "odd"),
    ]
    wrong = [f"{name} is {value!r}; allowed: {allowed}" for name, value, good, allowed in rules if not good]
    wrong += catalogue.find(e.method).check(e.settings)
    weights, parts = e.score.weights, e.parts
    if len(weights) != len(parts):
        wrong.append(f"score.weights is {_listed(weights)}; allowed: one a part of the score, {', '.join(parts)}")
    elif weights and not any(weights):
        wrong.append(f"score.weights is {_listed(weights)}; at least one part must count")
    if wrong:
        raise ConfigError("configuration: " + "; ".join(wrong))


def _listed(values: tuple[float, ...]) -> str:
    return ",".join(f"{value:g}" for value in values)


def leaves(data: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """The values of nested dicts by their dotted names."""
    found: list[tuple[str, Any]] = []
    for name, value in data.items():
        found += leaves(value, f"{prefix}{name}.") if isinstance(value, dict) else [(prefix + name, value)]
    return found


def flatten(experiment: Experiment) -> dict[str, Any]:
    """Every field by its dotted name."""
    return dotted(dump(experiment))


def dotted(experiment: Mapping[str, Any]) -> dict[str, Any]:
    """A dumped experiment by dotted names; those of the method's settings without `settings.`."""
    return dict(
        leaves({**{name: value for name, value in experiment.items() if name != "settings"}, **experiment["settings"]})
    )


def fingerprint(experiment: Experiment) -> str:
    """12 hex digits that name this value; the name of its record."""
    return digest_of_json(dump(experiment))[:12]


def run_key(experiment: Experiment) -> str:
    """12 hex digits of what training depends on; the name of its run folder.

    Recipe name, fusion weights, smoothing and labels are left out: changing them never retrains.
    """
    keep = ("dataset", "seed", "method", "partial", "cube", "settings", "train")
    return digest_of_json({name: dump(experiment)[name] for name in keep})[:12]


def training_key(experiment: Experiment) -> str:
    """12 hex digits that are equal where the same would be trained: `run_key` without what has no effect."""
    e, method = experiment, catalogue.find(experiment.method)
    train = e.train if method.phases else TrainConfig()
    if method.fits and not method.phases:  # nothing of what is counted in epochs
        train = TrainConfig(batch=e.train.batch, precision=e.train.precision, held_out=e.train.held_out)
    return run_key(replace(e, settings=method.effective(e.settings), train=train))


def cube_key(experiment: Experiment) -> str:
    """12 hex digits of what the cubes depend on; part of the name of the store's folder."""
    return digest_of_json({"partial": experiment.partial, "cube": dump(experiment)["cube"]})[:12]


def derive(experiment: Experiment, **groups: Mapping[str, Any]) -> Experiment:
    """A copy with fields of its groups replaced: `derive(e, model={"width": 16}, train={"epochs": 8})`."""
    own = {f.name for f in fields(experiment.settings)}
    settings = {name: new for name, new in groups.items() if name in own}
    changed = replace(experiment, settings=_replaced(experiment.settings, settings)) if settings else experiment
    return _replaced(changed, {name: new for name, new in groups.items() if name not in own})  # type: ignore[no-any-return]


def _replaced(value: Any, groups: Mapping[str, Mapping[str, Any]]) -> Any:
    return replace(value, **{name: replace(getattr(value, name), **new) for name, new in groups.items()})
