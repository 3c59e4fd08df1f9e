"""The runs of a sweep, made and checked before anything starts.

Values in, values out. How runs share a machine is in `bench.cluster.machine`, hours and cost are in
`bench.sweeps.estimate`. Imports neither torch nor Ray.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product

from amsrc.errors import ConfigError, unknown
from bench.experiment.config import Experiment, flatten, override, training_key
from bench.experiment.recipes import build
from bench.methods.catalogue import METHODS
from bench.records.names import title
from bench.storage.places import Place


@dataclass(frozen=True)
class Cell:
    """One training and its evaluation: an experiment and the store it reads."""

    experiment: Experiment
    store: Place


@dataclass(frozen=True)
class Trial:
    """Runs made one after the other and judged together: one in a matrix; all seeds and data sets in a search."""

    number: int
    cells: tuple[Cell, ...]
    params: Mapping[str, float] = field(default_factory=dict)
    """The values that a search chose for them, by field."""

    @property
    def title(self) -> str:
        e = self.cells[0].experiment
        if not self.params:
            return title(e)
        where = ", ".join(dict.fromkeys(cell.experiment.dataset for cell in self.cells))
        return f"trial {self.number} on {where}"


def matrix(
    names: Sequence[str],
    recipes: Sequence[str],
    seeds: int,
    changes: Mapping[str, str],
    axes: Mapping[str, Sequence[str]],
) -> list[Experiment]:
    """Every run's experiment, checked before anything starts: data sets x recipes x axes x seeds.

    Args:
        changes: fields set in all runs that have them: methods have different settings.
        axes: fields with the values that each takes (`parse_axes`), likewise; the last one changes fastest.

    Raises:
        ConfigError: a wrong name or value, a field both set and an axis, or a network that would be trained twice.
    """
    both = [field for field in axes if field in changes]
    if both:
        raise ConfigError(f"{', '.join(both)}: set to one value and an axis at the same time. Leave one of them out.")
    bases = [build(recipe, name) for name in names for recipe in recipes]
    known = frozenset().union(*map(flatten, bases))
    found = []
    for base in bases:
        strange = known - flatten(base).keys()  # settings of other recipes' methods
        fixed = {field: text for field, text in changes.items() if field not in strange}
        varied = {field: values for field, values in axes.items() if field not in strange}
        for values in product(*varied.values()):
            changed = override(base, {**fixed, **dict(zip(varied, values, strict=True))})
            found += [replace(changed, seed=seed) for seed in range(seeds)]
    keys = Counter(map(training_key, found))
    twice = dict.fromkeys(f"{e.recipe} on {e.dataset}" for e in found if keys[training_key(e)] > 1)
    if twice:
        raise ConfigError(
            f"one network would be trained twice: {', '.join(twice)}. Leave all but one out"
            f"{', and what the axes do not change' if axes else ''}."
        )
    return found


def parse_axes(texts: Sequence[str]) -> dict[str, list[str]]:
    """`["train.batch=64,128"]` as {"train.batch": ["64", "128"]}.

    Raises:
        ConfigError: not of that form, a field that is unknown or cannot be an axis, an empty or repeated value.
    """
    known: dict[str, object] = {}
    for method in METHODS.values():
        known |= flatten(Experiment(recipe="", dataset="", method=method.name, settings=method.config()))
    known = {name: value for name, value in known.items() if "." in name}
    axes: dict[str, list[str]] = {}
    for text in texts:
        name, equals, values = text.partition("=")
        if not equals or not name:
            raise ConfigError(f"--axis {text}: write a field and its values, as in train.batch=64,128.")
        if name not in known:
            raise ConfigError(unknown("field", name, known))
        if isinstance(known[name], list):
            raise ConfigError(
                f"--axis {name}: its value is a list itself. Run a sweep for each with --{name} {values}."
            )
        if name.startswith("score."):
            raise ConfigError(
                f"--axis {name}: fields of score train no other network, so they cannot be axes. Run a sweep for each "
                f"value with --{name} VALUE."
            )
        if name in axes:
            raise ConfigError(f"--axis {name} is given twice. Put all its values into one: {name}=A,B.")
        axes[name] = values.split(",")
        if "" in axes[name]:
            raise ConfigError(f"--axis {text}: a value is empty.")
        again = [value for value, times in Counter(axes[name]).items() if times > 1]
        if again:
            raise ConfigError(f"--axis {text}: {', '.join(again)} is repeated.")
    return axes
