"""Cube stores by their configuration: what they are made from, what they are called, which one an experiment reads.

    <home>/stores/<data set>-<cube key>/        one for each cube configuration (`bench.data.prepare` makes it)

An experiment's value names its store. Two things only are read off what is there, before any fingerprint is taken:
whether the copy of the data set is partial (`bench.sweeps.plan.cells_of`), and for a stage run by hand which boxes and
flow were prepared (`find_store`).
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from amsrc.config import CubeConfig
from amsrc.errors import ConfigError, DataError
from amsrc.files import digest
from amsrc.store import SPLITS, CubeStore, Sealed, Split
from bench.experiment.config import PROVIDERS, Experiment, cube_key, leaves, override
from bench.experiment.recipes import build
from bench.experiment.specs import is_toy
from bench.storage.node_cache import open_store
from bench.storage.places import Place, files_below


@dataclass(frozen=True)
class Sources:
    """Paths of the input; not part of an experiment's value, its content is (by digest)."""

    root: Path
    boxes: str | None = None
    """Detector file, or a boxes file with `{split}` in its name."""
    flow: Path | None = None
    """Folder of flows."""

    @classmethod
    def of(cls, root: Path, boxes: str | None, flow: str | None) -> Sources:
        """With the paths in `--boxes onnx:FILE|file:PATTERN` and `--flow file:DIR`."""
        paths = [text.partition(":")[2] if text else "" for text in (boxes, flow)]
        boxes_path, flow_path = (Path(path).expanduser().absolute() if path else None for path in paths)
        return cls(root, str(boxes_path) if boxes_path else None, flow_path)

    def boxes_file(self, split: Split) -> Path | None:
        return Path(self.boxes.replace("{split}", split)) if self.boxes else None

    def files(self, dataset: str) -> list[Path]:
        """What every node that cuts cubes must find; rendered data it makes itself."""
        own = [] if is_toy(dataset) else [self.root]
        boxes = [path for split in SPLITS if (path := self.boxes_file(split))]
        return [*own, *boxes, *([self.flow] if self.flow else [])]

    def digests(self) -> dict[str, str | None]:
        """SHA-256 of what boxes and flow are read from, both splits together; None for what is computed.

        Raises:
            ConfigError: a file or folder is missing.
        """
        boxes = [path for split in SPLITS if (path := self.boxes_file(split))]
        flows = sorted(self.flow.glob("*/*.npy")) if self.flow else []
        missing = [str(path) for path in boxes if not path.is_file()]
        if missing:
            raise ConfigError(f"--boxes: no such file: {', '.join(sorted(set(missing)))}")
        if self.flow and not flows:
            raise ConfigError(f"--flow: {self.flow} holds no <split>/<video>.npy")
        return {"boxes": _together(boxes), "flow": _together(flows)}


def _together(paths: list[Path]) -> str | None:
    """One digest of several files in their order."""
    return digest("".join(map(digest, paths)).encode()) if paths else None


def store_path(home: Place, experiment: Experiment) -> Place:
    return home / "stores" / f"{experiment.dataset}-{cube_key(experiment)}"


def find_store(home: Place, experiment: Experiment, named: Container[str]) -> tuple[CubeStore, Experiment]:
    """The store that `train`, `evaluate` and `figures` read, and the experiment with what was left to the store.

    A store fits whose cube settings are the experiment's. `--boxes` and `--flow` need not be repeated after `prepare`:
    a provider that the user did not name, and that the recipe leaves at its default, may be another one in the store
    and is then taken from there, if no store has the experiment's own. Sizes and numbers are never taken,
    or one recipe would run on the cubes of another. Whole stores go before partial ones.

    Args:
        named: fields that the user set, dotted.

    Raises:
        DataError: no store fits (names the fields), or several do, or the store lacks the label set.
    """
    ours, default = _cube_fields(experiment.cube), _cube_fields(CubeConfig())
    free = {name for name in PROVIDERS if name not in named and ours[name] == default[name]}
    stores = [Sealed(path.parent) for path in files_below(home / "stores", f"{experiment.dataset}-*/manifest.json")]
    found = [(store, _others(ours, store)) for store in stores]
    fitting = [(store, others) for store, others in found if others.keys() <= free]
    fitting = [(store, others) for store, others in fitting if not store.manifest["partial"]] or fitting
    fitting = [(store, others) for store, others in fitting if not others] or fitting
    if not fitting:
        usual = _cube_fields(build(experiment.recipe, experiment.dataset).cube)
        special = {name: value for name, value in ours.items() if value != usual[name]}
        raise DataError(
            f"no finished cube store of {experiment.dataset} under {home / 'stores'}{_reasons(found, ours)}. Run "
            f"`amsrc-bench prepare --dataset {experiment.dataset} --root DIR --home {home} --recipe {experiment.recipe}"
            f"{_options(special)}` first."
        )
    if len(fitting) > 1:
        kinds = "; ".join(f"{store.path.name}{_options(others)}" for store, others in fitting)
        raise DataError(f"{len(fitting)} cube stores of {experiment.dataset} fit: {kinds}. Name the one to use.")
    store, others = fitting[0]
    if store.labels_sha256(experiment.label_set) is None:
        raise DataError(
            f"{experiment.dataset} was prepared without the label set {experiment.label_set!r}; "
            f"it has {', '.join(store.manifest['labels'])}. Choose one of these with --labels."
        )
    return open_store(store.path), replace(override(experiment, others), partial=store.manifest["partial"])


def _cube_fields(cube: CubeConfig) -> dict[str, Any]:
    return dict(leaves({"cube": asdict(cube)}))


def _others(ours: Mapping[str, Any], store: Sealed) -> dict[str, Any]:
    """The settings in which a store's cubes differ from ours, with the store's values."""
    theirs = dict(leaves({"cube": store.manifest["cube"]}))
    return {name: theirs.get(name) for name in {**ours, **theirs} if theirs.get(name) != ours.get(name)}


def _reasons(found: Iterable[tuple[Sealed, Mapping[str, Any]]], ours: Mapping[str, Any]) -> str:
    """Why each of some stores does not fit."""
    by_store = {
        store.path.name: [f"{name} is {value}, not {ours.get(name)}" for name, value in others.items()]
        for store, others in found
    }
    return "".join(f"; in {name} {', '.join(differs)}" for name, differs in by_store.items())


def _options(values: Mapping[str, Any]) -> str:
    return "".join(f" --{name} {value}" for name, value in values.items())


def summary(store: Sealed) -> dict[str, int]:
    """Counts of a store: videos, frames and cubes of each split."""
    splits = {split: store.shards(split) for split in SPLITS}
    return {
        f"{split}_{what}": value
        for split, shards in splits.items()
        for what, value in (
            ("videos", len(shards)),
            ("frames", sum(s.video_frames for s in shards)),
            ("cubes", sum(s.cubes for s in shards)),
        )
    }
