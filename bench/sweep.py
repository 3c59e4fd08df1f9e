"""The main job: recipes x data sets x seeds -> stores, trained cells, records, tables, MLflow runs.

    python bench/sweep.py                 the paper's job on the data sets under $AMSRC_DATA (or --root)
    python bench/sweep.py --toy           the same on the embedded data sets, in minutes

Reads videos; writes `<home>` (stores, runs, MLflow) and `<results>` (records, scores, tables). Cells are Ray
tasks; a cell whose record stands is not run again, an interrupted one goes on from its checkpoint, a failed
one is recorded with its error while the others go on (exit code 1).
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

if __name__ == "__main__":  # `ray submit` and `python bench/sweep.py` start here, before bench is on the path
    root = Path(__file__).resolve().parents[1]
    if (root / "bench" / "cli.py").is_file():
        sys.path.insert(0, str(root))
    from bench.cli import main

    raise SystemExit(main(["sweep", *sys.argv[1:]]))

from amsrc.errors import ConfigError, RunError
from amsrc.store import CubeStore
from bench import datasets, runs, tables
from bench.cli import home_of, progress, results_of
from bench.cluster import connect, resources
from bench.config import TOY, Experiment, fingerprint, override, run_key
from bench.evaluate import evaluate, failed, now, per_video
from bench.prepare import Sources, on_cubes_of, prepare, with_providers
from bench.recipes import DATASETS, build
from bench.records import RunRecord, frame_scores_path, read, read_frame_scores, record_path, write
from bench.runs import writable
from bench.toy import render
from bench.tracking import Tracker, open_tracker

LOOK_EVERY_S = 15.0
SHOWN = (("auroc", "AUROC"), ("auroc_f", "S_f alone"), ("auroc_p", "S_p alone"))


@dataclass(frozen=True)
class Cell:
    """One training and its evaluation: an experiment and the store it reads."""

    experiment: Experiment
    store: Path


@dataclass(frozen=True)
class Places:
    """Where this sweep reads and writes."""

    root: Path
    home: Path
    results: Path


def run(args: argparse.Namespace, changes: dict[str, str]) -> int:
    """Plan, prepare, run every cell that has no record yet, make the tables. Returns the exit code."""
    started = time.perf_counter()
    names, places = locate(args)
    if args.labels:
        changes = {**changes, "label_set": args.labels}
    experiments = plan(names, args.recipes.split(","), args.seeds, changes)
    writable(places.home)
    if places.root == embedded(places.home):
        say(f"embedded data: {places.root}")
        render(places.root)
    stores = {name: _prepared(name, places, args, changes) for name in names}
    cells = [Cell(on_cubes_of(e, stores[e.dataset]), stores[e.dataset].path) for e in experiments]
    cached = [record for cell in cells if (record := finished(cell, places.results))]
    done = {record.fingerprint for record in cached}
    todo = [cell for cell in cells if fingerprint(cell.experiment) not in done]
    say(f"{len(cells)} cells: {len(cached)} have their record, {len(todo)} to run")

    tracker = open_tracker(places.home, args.mlflow)
    parent = tracker.start_sweep(args.name, {"datasets": ",".join(names), "recipes": args.recipes, "seeds": args.seeds})
    by_fingerprint = {fingerprint(cell.experiment): cell for cell in cells}
    records = []
    for record in chain(cached, run_cells(todo, places, args.workers)):
        records.append(record)
        if record.fingerprint not in done:
            say(f"[{len(records)}/{len(cells)}] {outcome(record)}")
        log_cell(tracker, parent, record, by_fingerprint[record.fingerprint], places)
    broken = [record for record in records if record.status == "failed"]
    texts = {path.name: path.read_text() for path in tables.write(places.results)}
    tracker.finish_sweep(parent, "FAILED" if broken else "FINISHED", texts)
    print(f"\n{texts['table1.md']}\n{texts['table2.md']}")
    for record in broken:
        say(f"failed: {outcome(record)}")
    say(f"{len(records) - len(broken)} of {len(cells)} cells done in {time.perf_counter() - started:.0f} s")
    say(f"records: {places.results / 'records'}\ntables:  {places.results / 'tables'}\n{tracker.where(parent)}")
    return 1 if broken else 0


def locate(args: argparse.Namespace) -> tuple[list[str], Places]:
    """The data sets to run on and where everything lies; the embedded data where no real data stands.

    Raises:
        ConfigError: a data set was named and there is no folder to look for it in.
    """
    home = home_of(args)
    given = args.root or os.environ.get("AMSRC_DATA")
    root = Path(given).expanduser().absolute() if given else embedded(home)
    named = args.datasets.split(",") if args.datasets else []
    if args.toy:
        names, root = named or [name for name in DATASETS if name.startswith(TOY)], embedded(home)
    elif named and not given and not all(name.startswith(TOY) for name in named):
        raise ConfigError("where the data lies is not known: pass --root DIR or set AMSRC_DATA.")
    else:
        names = named or ([name for name in datasets.present(root) if not name.startswith(TOY)] if given else [])
        if not names:
            where = f"under {root}" if given else "(AMSRC_DATA is not set, no --root given)"
            say(f"*** NO REAL DATA SET FOUND {where}: RUNNING ON THE EMBEDDED TOY DATA. ***")
            names, root = [name for name in DATASETS if name.startswith(TOY)], embedded(home)
    toy = all(name.startswith(TOY) for name in names)
    if not toy and any(name.startswith(TOY) for name in names):
        raise ConfigError("--datasets: toy and real data sets do not go into one sweep; run one for each kind.")
    return names, Places(root, home, results_of(args, toy))


def embedded(home: Path) -> Path:
    """Where the embedded data sets are rendered."""
    return home / "toy"


def plan(names: Sequence[str], recipes: Sequence[str], seeds: int, changes: dict[str, str]) -> list[Experiment]:
    """Every cell's experiment, checked before anything starts."""
    found = [
        override(build(recipe, name, seed), changes) for name in names for recipe in recipes for seed in range(seeds)
    ]
    keys = [run_key(experiment) for experiment in found]
    twice = {f"{e.recipe} on {e.dataset}" for e, key in zip(found, keys, strict=True) if keys.count(key) > 1}
    if twice:
        raise ConfigError(f"one network would be trained twice: {', '.join(sorted(twice))}. Leave all but one out.")
    return found


def _prepared(name: str, places: Places, args: argparse.Namespace, changes: dict[str, str]) -> CubeStore:
    wanted = override(
        build("amsrc", name), {field: text for field, text in changes.items() if field.startswith("cube.")}
    )
    experiment, sources = with_providers(wanted, Sources(places.root), args.boxes, args.flow)
    say(f"{name}: preparing cubes")
    return prepare(experiment, sources, places.home, partial=args.partial, progress=progress())


def finished(cell: Cell, results: Path) -> RunRecord | None:
    """The record of a cell that was done on these very cubes, if there is one."""
    e = cell.experiment
    path = record_path(results, e.recipe, e.dataset, e.seed, fingerprint(e))
    record = read(path) if path.is_file() else None
    store = CubeStore(cell.store)
    if record is None or record.status != "done" or record.store != store.sha256:
        return None
    if not frame_scores_path(results, record).is_file():
        return None
    return record if record.labels in (None, store.labels_sha256(e.label_set)) else None  # None: an older record


def run_cells(cells: Sequence[Cell], places: Places, workers: int) -> Iterator[RunRecord]:
    """Run cells, several at a time where they need one worker each; yields each record as it is written."""
    if not cells:
        return
    connect()
    if workers > 1:  # Ray Train places the workers itself, one cell after the other
        yield from (run_cell(cell, places, workers) for cell in cells)
        return
    import ray

    have = resources()
    cpus = max(1, int(have["CPU"] // min(len(cells), have["CPU"])))
    task = ray.remote(num_cpus=cpus, num_gpus=min(1, have["GPU"]), max_retries=2)(run_cell)
    waiting = {task.remote(cell, places, 1): cell for cell in cells}
    seen: dict[str, int] = {}
    while waiting:
        ready, _ = ray.wait(list(waiting), num_returns=1, timeout=LOOK_EVERY_S)
        if not ready:
            _show_epochs(waiting.values(), places.home, seen)
            continue
        cell = waiting.pop(ready[0])
        try:
            yield ray.get(ready[0])
        except ray.exceptions.RayError as error:  # the worker died more often than it may
            record = failed(cell.experiment, None, RunError(f"its worker died: {error}"), now())
            write(record, places.results)
            yield record


def _show_epochs(cells: Iterable[Cell], home: Path, seen: dict[str, int]) -> None:
    """A line for each running cell that finished an epoch since the last look."""
    for cell in cells:
        e = cell.experiment
        lines = runs.history(runs.folder_of(e, home))
        if len(lines) > seen.get(fingerprint(e), 0):
            seen[fingerprint(e)] = len(lines)
            last, speed = lines[-1], f"{lines[-1]['cubes_per_s']:.0f} cubes/s"
            say(f"    {title(e)}: epoch {last['epoch']} of {e.train.epochs}, loss {last['loss']:.5f}, {speed}")


def run_cell(cell: Cell, places: Places, workers: int) -> RunRecord:
    """Train and evaluate one cell. The boundary at which an error becomes a record instead of an end."""
    started, store = now(), None
    try:
        store = CubeStore(cell.store)
        if cell.experiment.method == "amsrc":
            from bench.train import fit

            fit(cell.experiment, store, places.home, workers=workers)
        return evaluate(cell.experiment, store, places.home, places.results, started=started)
    except Exception as error:  # noqa: BLE001
        record = failed(cell.experiment, store, error, started)
        write(record, places.results)
        return record


def log_cell(tracker: Tracker, parent: str | None, record: RunRecord, cell: Cell, places: Places) -> None:
    """One child run: the record, and for a trained cell its network, weights and per-video scores."""
    folder = runs.folder_of(cell.experiment, places.home)
    if record.status == "failed" or not runs.is_trained(folder):  # a null, or a record whose run folder is elsewhere
        tracker.log_cell(parent, record)
        return
    import torch

    from bench.train import load_model

    e, cube = cell.experiment, cell.experiment.cube
    history = cube.frames - 1
    example = (
        torch.rand(2, history * e.model.channels, cube.size, cube.size),
        torch.rand(2, history * 2, cube.size, cube.size),
    )
    scores, labels = read_frame_scores(places.results, record)
    tracker.log_cell(
        parent,
        record,
        model=load_model(e, folder, torch.device("cpu")),
        example=example,
        weights=runs.weights(folder),
        scores_table=per_video(scores, labels),
        artifacts=[folder / "cubes.parquet"],
    )


def title(cell: Experiment | RunRecord) -> str:
    return f"{cell.recipe} on {cell.dataset}, seed {cell.seed}"


def outcome(record: RunRecord) -> str:
    """A cell's result in a line."""
    name = title(record)
    if record.status == "failed":
        return f"{name}: FAILED: {record.error}"
    parts = [f"{label} {record.metrics[key]:.4f}" for key, label in SHOWN if record.metrics.get(key) is not None]
    return f"{name}: {', '.join(parts)} ({sum(filter(None, record.timings_s.values())):.0f} s)"


def say(text: str) -> None:
    print(text, flush=True)
