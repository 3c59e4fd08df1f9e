"""Lists records, searches, recipes and stores, and checks this machine. Text for a terminal; changes nothing."""

from __future__ import annotations

import importlib.util
import os
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from amsrc.errors import BenchError, ConfigError
from amsrc.store import SPLITS, Sealed
from bench.experiment.config import Experiment, flatten
from bench.experiment.recipes import RECIPES
from bench.experiment.rules import RULES
from bench.experiment.specs import SPECS
from bench.records import provenance
from bench.records.names import by_part, percent
from bench.records.records import RunRecord, SearchRecord, read_all, read_searches
from bench.storage.places import Place, files_below, local_folder, writable

NEEDED = ("torch", "ray", "optuna", "mlflow", "numpy", "scipy", "pandas", "pyarrow", "scikit-learn", "matplotlib")
OPTIONAL = {"onnxruntime": "--boxes onnx:FILE", "torchvision": "--boxes torchvision and --flow raft", "av": "watch"}


def records(results: Place, home: Place) -> str:
    """One line a record, and how to open them in MLflow."""
    found = read_all(results)
    if not found:
        return f"no records in {results}. `amsrc-bench sweep --toy` makes some in minutes."
    head = ["recipe", "data set", "seed", "AUROC", "parts alone", "epochs", "status", "fingerprint"]
    return f"{grid(head, [_record_row(record) for record in found])}\n\n{_in_mlflow(home)}"


def searches(results: Place, home: Place) -> str:
    """One line a search and data set with its AUROC under each rule, and how to open its trials in MLflow."""
    found = read_searches(results)
    if not found:
        return f"no searches in {results}. `amsrc-bench sweep search` makes one."
    head = ["search", "data set", *RULES, "objective", "done", "pruned", "failed"]
    rows = [_search_row(search, dataset) for search in found for dataset in search.datasets]
    return f"{grid(head, rows)}\n\n{_in_mlflow(home)}"


def _in_mlflow(home: Place) -> str:
    from bench.tracking.runs import open_tracker

    tracker = open_tracker(local_folder(home))
    return tracker.where() if tracker.exists() else f"MLflow: nothing is logged in {home} yet."


def grid(head: list[str], rows: list[list[str]]) -> str:
    from tabulate import tabulate

    return tabulate(rows, headers=head, disable_numparse=True)


def _record_row(record: RunRecord) -> list[str]:
    return [
        record.recipe,
        record.dataset + (" (partial)" if record.partial else ""),
        str(record.seed),
        percent(record.metric("auroc")),
        by_part(record.parts, percent) or "-",
        str(record.epochs[-1]["epoch"]) if record.epochs else "-",
        record.status,
        record.fingerprint,
    ]


def _search_row(search: SearchRecord, dataset: str) -> list[str]:
    chosen = search.chosen.get(dataset, {})
    states = [trial["state"] for trial in search.trials]
    return [
        search.study,
        dataset,
        *(percent(chosen.get(rule, {}).get("auroc")) for rule in RULES),
        search.rule,
        *(str(states.count(state)) for state in ("done", "pruned", "failed")),
    ]


def recipes(experiment: Experiment) -> str:
    """All recipes, and every field of one on one data set, as written on the command line."""
    rows = [[name, recipe.about] for name, recipe in RECIPES.items()]
    fields = [[f"--{name}", _plain(value)] for name, value in flatten(experiment).items() if "." in name]
    of = f"{experiment.recipe} on {experiment.dataset}"
    return f"{grid(['recipe', 'description'], rows)}\n\n{grid(['field', of], fields)}"


def _plain(value: object) -> str:
    return ",".join(map(repr, value)) if isinstance(value, list) else str(value)


def stores(home: Place) -> str:
    """One line a sealed cube store."""
    rows = []
    for path in files_below(home / "stores", "*/manifest.json"):
        store = Sealed(path.parent)
        about, cubes = store.manifest, [sum(shard.cubes for shard in store.shards(split)) for split in SPLITS]
        boxes, flow = about["cube"]["boxes"]["provider"], about["cube"]["flow"]["provider"]
        partial = "partial" if about["partial"] else "complete"
        rows.append([path.parent.name, *(f"{n:,}" for n in cubes), boxes, flow, partial, about["sha256"][:12]])
    head = ["store", "train cubes", "test cubes", "boxes", "flow", "videos", "sha256"]
    return grid(head, rows) if rows else f"no finished stores in {home / 'stores'}. Run `amsrc-bench prepare`."


def doctor(home: Place, root: str | None) -> tuple[str, bool]:
    """This machine in lines, and whether everything that is needed is installed and writable."""
    there = _version("torch") is not None
    if there:
        import torch  # noqa: F401  so that `hardware` sees the GPUs

    machine = provenance.hardware()
    lines = [
        f"cpu      {machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB",
        f"gpu      {_gpus(machine['gpus'])}",
    ]
    missing = [name for name in NEEDED if _version(name) is None]
    lines.append("packages " + ", ".join(f"{name} {_version(name)}" for name in NEEDED if name not in missing))
    lines += [f"missing  {name}: run `make` or `pip install -r requirements.lock`" for name in missing]
    for name, use in OPTIONAL.items():
        there = importlib.util.find_spec(name) is not None
        lines.append(f"optional {name}: {'installed' if there else f'not installed, needed for {use}'}")
    writable, note = _home_note(home)
    lines.append(f"home     {home}: {note}")
    data_fine = _data_lines(root, lines)
    fine = not missing and writable and data_fine
    return "\n".join([*lines, "OK" if fine else "something needs attention, see above"]), fine


def _gpus(names: object) -> str:
    return ", ".join(map(str, names)) if isinstance(names, list) and names else "none: training runs on the CPU"


def _home_note(home: Place) -> tuple[bool, str]:
    if not isinstance(home, Path):
        try:
            writable(home)
        except ConfigError as error:
            return False, str(error)
        return True, "readable and writable"
    nearest = next(folder for folder in (home, *home.parents) if folder.exists())
    if not nearest.is_dir():
        return False, f"not writable ({nearest} is not a folder); choose another --home"
    if not os.access(nearest, os.W_OK):
        return False, f"not writable ({nearest}); choose another --home"
    return True, f"writable, {shutil.disk_usage(nearest).free / 2**30:.0f} GiB free"


def _data_lines(root: str | None, lines: list[str]) -> bool:
    from bench.data import datasets

    if root is None:
        lines.append("data     AMSRC_DATA is not set: a sweep uses the embedded synthetic data")
        return True
    try:
        found = datasets.present(Path(root).expanduser())
    except BenchError as error:
        lines.append(f"data     {error}")
        return False
    lines.append(f"data     {root}: {', '.join(found) or 'none of ' + ', '.join(SPECS)}")
    return bool(found)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
