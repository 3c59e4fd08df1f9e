"""A search over settings of a method as a value: its fields, data sets and rule; checked before it starts.

`bench.sweeps.study` runs it: its Optuna study proposes the trials. The runs of its trials have ordinary records.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from amsrc.errors import ConfigError, unknown
from amsrc.files import digest_of_json
from bench.evaluation.selection import objective
from bench.experiment.config import Experiment, dump, flatten, override, training_key
from bench.experiment.rules import RULES
from bench.methods import catalogue
from bench.records.records import RunRecord
from bench.sweeps.grid import Cell, Trial

Space = dict[str, tuple[float, float]]  # field -> (lowest, highest), searched on a logarithmic scale

TRAINING: Space = {"train.learning_rate": (5e-5, 2e-3)}
"""Ranges of what every method that is trained by epochs has; those of its own are in its `Method.space`."""
SAMPLERS = ("auto", "qmc", "tpe", "random")
BLIND = "Proposals are quasi-random or random and never read a score."
GUIDED = {
    "label-free": "Proposals follow the label-free objective; the sampler never saw a test label.",
    "other": "Proposals follow an objective measured on the labels of all folds: the set of trials itself saw them.",
}


@dataclass(frozen=True)
class Search:
    """One search: the fields that it varies, its data sets and the rule that scores a trial."""

    bases: tuple[Cell, ...]
    """The recipe's own runs: seeds of one data set, or of all of them when joint."""
    space: Space
    rule: str
    sampler: str
    trials: int
    joint: bool = False
    prune: bool = False
    """Whether trials that fall behind by pseudo-anomalies are stopped early."""

    @property
    def base(self) -> Experiment:
        """The experiment of the first of them."""
        return self.bases[0].experiment

    @property
    def study(self) -> str:
        """Name of its study and of its folder in the results: equal for equal searches, whatever their length."""
        first = self.base
        what = [[dump(cell.experiment) for cell in self.bases], self.space, self.rule, self.sampler, self.prune]
        return f"{first.recipe}-{'joint' if self.joint else first.dataset}-{self.rule}-{digest_of_json(what)[:8]}"

    @property
    def datasets(self) -> list[str]:
        return list(dict.fromkeys(cell.experiment.dataset for cell in self.bases))

    @property
    def proposals(self) -> str:
        """Whether the sampler sees test labels, in a sentence."""
        return BLIND if self.sampler != "tpe" else GUIDED.get(self.rule, GUIDED["other"])

    def trial(self, number: int, params: Mapping[str, float]) -> Trial:
        """The runs of one proposal, on the cubes of its bases."""
        texts = {name: repr(float(value)) for name, value in params.items()}
        cells = tuple(Cell(override(base.experiment, texts), base.store) for base in self.bases)
        return Trial(number, cells, dict(params))

    def values(self, records: Sequence[RunRecord]) -> list[float] | None:
        """The objective of a trial under the rule: the mean over seeds; joint: mean and worst of the data sets.

        None when a run gave no number.
        """
        if len(records) < len(self.bases):
            return None
        by_dataset: dict[str, list[float]] = {}
        for record in records:
            value = objective(record.rules, self.rule) if record.status == "done" else None
            if value is None:
                return None
            by_dataset.setdefault(record.dataset, []).append(value)
        means = [sum(values) / len(values) for values in by_dataset.values()]
        return [sum(means) / len(means), min(means)] if self.joint else means


def space_of(texts: Sequence[str] | None, base: Experiment) -> Space:
    """`["train.learning_rate", "train.decay=0.5:0.9"]` as a space; ranges not given are the usual ones.

    Args:
        texts: None: all of the method's own space, or the learning rate where it has none.

    Raises:
        ConfigError: nothing is trained by epochs, a field is unknown or cannot be searched, or a range is none.
    """
    method = catalogue.find(base.method)
    if not method.phases:
        raise ConfigError(f"--recipes {base.recipe}: it trains nothing by epochs, so there is nothing to search.")
    found: Space = {}
    usual, fields = {**TRAINING, **method.space}, flatten(base)
    groups = ("train.", *(f"{group}." for group in dump(base)["settings"]))
    can = [name for name, value in fields.items() if isinstance(value, float) and name.startswith(groups)]
    for text in list(method.space or TRAINING) if texts is None else texts:
        name, given, span = text.partition("=")
        if name not in fields:
            raise ConfigError(f"--over: {base.recipe}: {unknown('field', name, can)}")
        if name not in can:
            raise ConfigError(f"--over {name}: cannot be searched; the fields that can are {', '.join(can)}.")
        if not given and name not in usual:
            raise ConfigError(f"--over {name}: no usual range is known for it; give one: {name}=LOW:HIGH.")
        try:
            low, high = (float(end) for end in span.split(":")) if given else usual[name]
            if not 0 < low < high:
                raise ValueError
        except ValueError:
            raise ConfigError(f"--over {text}: a range is LOW:HIGH with 0 < LOW < HIGH, e.g. {name}=0.1:10.") from None
        for end in (low, high):
            override(base, {name: repr(end)})  # refuses what the field does not take
        if name in found:
            raise ConfigError(f"--over: {name} is named twice.")
        found[name] = (low, high)
    return found


def check(search: Search) -> None:
    """Refuse a search that could not be judged.

    Raises:
        ConfigError: says which options do not go together.
    """
    base = search.base
    if search.rule not in RULES:
        raise ConfigError(f"--rule: {unknown('rule', search.rule, list(RULES))}")
    for name, ends in search.space.items():
        low, high = (training_key(override(base, {name: repr(end)})) for end in ends)
        if low == high:
            raise ConfigError(f"--over {name}: it has no effect in {base.recipe}. Leave it out.")
    if search.rule == "label-free" and not base.train.held_out:
        raise ConfigError("--rule label-free needs held-out training videos: train.held_out is 0, set it above 0.")
    if search.prune and len(search.bases) > 1:
        raise ConfigError("--asha judges a trial by one training: it goes neither with --joint nor with several seeds.")
    if search.prune and not base.train.held_out:
        raise ConfigError("--asha judges by held-out training videos: train.held_out is 0, set it above 0.")
    if search.prune and not base.train.score_every:
        raise ConfigError("--asha judges by scored epochs: train.score_every is 0, set it above 0.")


def sampler_for(rule: str, wanted: str) -> str:
    """`auto`: under crossfit one that reads no score, so that no fold's labels shape the trials; else TPE."""
    if wanted not in SAMPLERS:
        raise ConfigError(f"--sampler: {unknown('sampler', wanted, list(SAMPLERS))}")
    return ("qmc" if rule == "crossfit" else "tpe") if wanted == "auto" else wanted


def own_values(search: Search) -> dict[str, float]:
    """The recipe's own values of the fields that are searched."""
    fields = flatten(search.base)
    return {name: float(fields[name]) for name in search.space}
