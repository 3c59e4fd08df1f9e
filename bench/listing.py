"""What there is to look at: records, searches, recipes, stores, this machine. Text for a terminal; changes nothing."""

from __future__ import annotations

import importlib.util
import os
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from amsrc.errors import BenchError, ConfigError
from amsrc.store import SPLITS, Sealed
from bench import provenance
from bench.config import Experiment, flatten
from bench.metrics import percent
from bench.recipes import RECIPES
from bench.records import RunRecord, SearchRecord, read_all, read_searches
from bench.selection import RULES
from bench.storage import Place, beside, files_below, writable

NEEDED = ("torch", "ray", "optuna", "mlflow", "numpy", "scipy", "pandas", "pyarrow", "scikit-learn", "matplotlib")
OPTIONAL = {"onnxruntime": "--boxes onnx:FILE", "torchvision": "--boxes torchvision and --flow raft", "av": "watch"}


def records(results: Place, home: Place) -> str:
    """One line a record, and how to see them in MLflow."""
    found = read_all(results)
    if not found:
        return f"no records under {results}. `amsrc-bench sweep --toy` makes some in minutes."
    head = ["recipe", "data set", "seed", "AUROC", "S_f", "S_p", "epochs", "width", "status", "fingerprint"]
    return f"{grid(head, [_record_row(record) for record in found])}\n\n{_in_mlflow(home)}"


def searches(results: Place, home: Place) -> str:
    """One line a search and data set with what each rule takes from it, and how to see its trials in MLflow."""
    found = read_searches(results)
    if not found:
        return f"no searches under {results}. `amsrc-bench sweep search` makes one."
    head = ["search", "data set", *RULES, "objective", "done", "pruned", "failed"]
    rows = [_search_row(search, dataset) for search in found for dataset in search.datasets]
    return f"{grid(head, rows)}\n\n{_in_mlflow(home)}"


def _in_mlflow(home: Place) -> str:
    from bench.tracking import open_tracker

    tracker = open_tracker(beside(home))
    return tracker.where() if tracker.stands() else f"MLflow: nothing is logged under {home} yet."


def grid(head: list[str], rows: list[list[str]]) -> str:
    from tabulate import tabulate

    return tabulate(rows, headers=head, disable_numparse=True)


def _record_row(record: RunRecord) -> list[str]:
    percents = [record.metric(name) for name in ("auroc", "auroc_f", "auroc_p")]
    return [
        record.recipe,
        record.dataset + (" (partial)" if record.partial else ""),
        str(record.seed),
        *map(percent, percents),
        str(record.experiment["train"]["epochs"]) if record.learns else "-",
        str(record.experiment["model"]["width"]) if record.learns else "-",
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
    """All recipes, and every field of one on one data set, as they are written on the command line."""
    rows = [[name, (function.__doc__ or "").splitlines()[0]] for name, function in RECIPES.items()]
    fields = [[f"--{name}", _plain(value)] for name, value in flatten(experiment).items() if "." in name]
    of = f"{experiment.recipe} on {experiment.dataset}"
    return f"{grid(['recipe', 'what it is'], rows)}\n\n{grid(['field', of], fields)}"


def _plain(value: object) -> str:
    return ",".join(map(repr, value)) if isinstance(value, list) else str(value)


def stores(home: Place) -> str:
    """One line a sealed cube store."""
    rows = []
    for path in files_below(home / "stores", "*/manifest.json"):
        store = Sealed(path.parent)
        about, cubes = store.manifest, [sum(shard.cubes for shard in store.shards(split)) for split in SPLITS]
        boxes, flow = about["cube"]["boxes"]["provider"], about["cube"]["flow"]["provider"]
        partial = "partial" if about["partial"] else "whole"
        rows.append([path.parent.name, *(f"{n:,}" for n in cubes), boxes, flow, partial, about["sha256"][:12]])
    head = ["store", "train cubes", "test cubes", "boxes", "flow", "videos", "sha256"]
    return grid(head, rows) if rows else f"no finished stores under {home / 'stores'}. Run `amsrc-bench prepare`."


def doctor(home: Place, root: str | None) -> tuple[str, bool]:
    """This machine in lines, and whether everything that is needed is there."""
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
        lines.append(f"optional {name}: {'there' if there else f'absent, needed for {use}'}")
    writable, note = _home_note(home)
    lines.append(f"home     {home}: {note}")
    data_fine = _data_lines(root, lines)
    fine = not missing and writable and data_fine
    return "\n".join([*lines, "all is well" if fine else "something needs attention, see above"]), fine


def _gpus(names: object) -> str:
    return ", ".join(map(str, names)) if isinstance(names, list) and names else "none: training runs on the CPU"


def _home_note(home: Place) -> tuple[bool, str]:
    if not isinstance(home, Path):
        try:
            writable(home)
        except ConfigError as error:
            return False, str(error)
        return True, "takes and gives files"
    standing = next(folder for folder in (home, *home.parents) if folder.exists())
    if not standing.is_dir():
        return False, f"not writable ({standing} is not a folder); choose another --home"
    if not os.access(standing, os.W_OK):
        return False, f"not writable ({standing}); choose another --home"
    return True, f"writable, {shutil.disk_usage(standing).free / 2**30:.0f} GiB free"


def _data_lines(root: str | None, lines: list[str]) -> bool:
    from bench import datasets

    if root is None:
        lines.append("data     AMSRC_DATA is not set: the sweep runs on the embedded toy data")
        return True
    try:
        found = datasets.present(Path(root).expanduser())
    except BenchError as error:
        lines.append(f"data     {error}")
        return False
    lines.append(f"data     {root}: {', '.join(found) or 'none of ped2, avenue, shanghaitech'}")
    return bool(found)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
