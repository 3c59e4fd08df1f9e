"""The main job: plan cells or a search, run them as Ray Tune trials, keep records, tables and MLflow runs.

Reads videos; writes `<home>` (stores, runs, studies, MLflow) and `<results>` (records, scores, searches, tables).
The same command goes on after any end: finished cells are not run again, an interrupted one goes on from its
checkpoint, a failed one is recorded with its error while the others go on (exit code 1).
"""

from __future__ import annotations

import argparse
import os
import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from amsrc.errors import ConfigError
from bench.cli.options import home_of, named_fields, results_of
from bench.cli.progress import progress
from bench.cluster.connect import check_nodes, connect, shared
from bench.cluster.launcher_files import read_cluster
from bench.data import datasets
from bench.data.prepare import prepare
from bench.data.stores import Sources
from bench.data.toy import render
from bench.evaluation.evaluate import per_video
from bench.evaluation.selection import objective
from bench.experiment.config import fingerprint
from bench.experiment.rules import RULES
from bench.experiment.specs import TOYS, is_toy
from bench.figures import files as gallery
from bench.figures import scores, style
from bench.records import run_folder
from bench.records.names import percent, title
from bench.records.records import RunRecord, read_all, read_frame_scores, search_path, write_search
from bench.storage import sqlite_sync
from bench.storage.places import Place, Remote, beside, locked, writable
from bench.sweeps import grid, plan, search, study
from bench.sweeps.grid import Cell, Trial
from bench.sweeps.live_table import Board, clock
from bench.sweeps.search import Search
from bench.sweeps.trials import Job, finished, run_trials
from bench.tables import tables
from bench.tracking.runs import Evidence, open_tracker

if TYPE_CHECKING:
    from optuna import Study
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial
    from ray.tune.search import Searcher

DEFAULT_RECIPES = {"matrix": "amsrc,no-gate-add,baseline", "search": "amsrc"}
DEFAULT_RULE = "crossfit"
TRIALS = 20


@dataclass(frozen=True)
class Places:
    """Where this sweep reads and writes."""

    root: Path
    home: Place
    results: Place
    name: str

    @property
    def folder(self) -> Path:
        """What this sweep alone keeps on the driver's node: studies and Tune's scratch."""
        return beside(self.home) / "sweeps" / self.name

    @property
    def database(self) -> Path:
        """Where the studies are, unless `--storage` names another database."""
        return self.folder / "study.db"

    def kept(self, args: argparse.Namespace) -> Remote | None:
        """Where that file is sent after every trial, so that it outlives the driver's node."""
        return None if args.storage or isinstance(self.home, Path) else self.home / "sweeps" / self.name / "study.db"


def run(args: argparse.Namespace, changes: dict[str, str]) -> int:
    """Plan, say the plan, prepare, run and record what is missing, make the tables. Returns the exit code."""
    began = time.perf_counter()
    names, places = locate(args)
    recipes = (args.recipes or DEFAULT_RECIPES[args.mode]).split(",")
    fields, axes = named_fields(args, changes), grid.parse_axes(args.axis)
    experiments = grid.matrix(names, recipes, args.seeds, fields, axes)
    cells = plan.cells_of(experiments, places.root, places.home, args.partial)
    searches = searches_of(args, cells)  # refuses what cannot be searched before anything is prepared
    rendered = places.root == embedded(places.home)
    absent = [name for name in names if not rendered and not datasets.exists(name, places.root)]
    if args.dry_run:
        say(plan.described(args, places.results, cells, searches, plan.planned_machine(args)))
        partial = {cell.experiment.dataset: cell.experiment.partial for cell in cells}
        for name in absent:
            kind = "partial" if partial[name] else "whole"
            say(f"not known   {name}: no copy is under {places.root}; planned for a {kind} one")
        return 0
    for name in absent:
        datasets.find(name, places.root)  # says what it looked for
    for option, where in (("--home", places.home), ("--results", places.results)):
        if isinstance(where, Remote):  # folders are looked at from every node
            writable(where, option)
    writable(places.folder)
    check_cluster(args, places)
    with locked(places.folder):
        if kept := places.kept(args):
            sqlite_sync.bring(places.database, kept)
        storage = study.open_storage(database(args, places))
        if rendered:
            say(f"embedded data: {places.root}")
            render(places.root)
        sources = Sources.of(places.root, args.boxes, args.flow)
        for store, experiment in {cell.store: cell.experiment for cell in cells}.items():
            say(f"{store.name}: preparing cubes")
            prepare(experiment, sources, places.home, progress=progress())
        sweep = Sweep(args, places, storage)
        code = sweep.run(cells, searches)
    say(f"records: {places.results / 'records'}\ntables:  {places.results / 'tables'}")
    say(sweep.tracker.where(sweep.parent))
    say(f"finished in {clock(time.perf_counter() - began)}")
    return code


def check_cluster(args: argparse.Namespace, places: Places) -> None:
    """Whether a cell fits, and all nodes have this code and see the folders that this sweep works in.

    Raises:
        ConfigError: no cell ever would, or some nodes do not; said of each.
    """
    connect()
    plan.packing(args, plan.running_machine(args), 1)
    real = [] if places.root == embedded(places.home) else [places.root]
    with shared([places.home, places.results], real) as probe:
        check_nodes(probe)


def locate(args: argparse.Namespace) -> tuple[list[str], Places]:
    """The data sets to run on and where everything lies; the embedded data where no real data stands.

    Raises:
        ConfigError: a data set was named and there is no folder to look for it in.
    """
    home = home_of(args)
    given = args.root or os.environ.get("AMSRC_DATA")
    root = Path(given).expanduser().absolute() if given else embedded(home)
    named = args.datasets.split(",") if args.datasets else []
    if args.name and not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]*", args.name):
        raise ConfigError(f"--name {args.name!r}: letters, digits, '_', '-' and, but at its start, '.'.")
    if args.toy:
        if real := [name for name in named if not is_toy(name)]:
            raise ConfigError(f"--toy: {', '.join(real)} is no embedded data set; leave out --toy or --datasets.")
        names, root = named or TOYS, embedded(home)
    elif named and not given and not all(is_toy(name) for name in named):
        raise ConfigError("where the data lies is not known: pass --root DIR or set AMSRC_DATA.")
    else:
        names = named or ([name for name in datasets.present(root) if not is_toy(name)] if given else [])
        if not names:
            where = f"under {root}" if given else "(AMSRC_DATA is not set, no --root given)"
            say(f"*** NO REAL DATA SET FOUND {where}: RUNNING ON THE EMBEDDED TOY DATA. ***")
            names, root = TOYS, embedded(home)
    toy = all(is_toy(name) for name in names)
    if not toy and any(is_toy(name) for name in names):
        raise ConfigError("--datasets: toy and real data sets do not go into one sweep; run one for each kind.")
    return names, Places(root, home, results_of(args, toy), args.name or args.mode)


def embedded(home: Place) -> Path:
    """Where the embedded data sets are rendered."""
    return beside(home) / "toy"


def database(args: argparse.Namespace, places: Places) -> str:
    """Where the studies are."""
    return args.storage or f"sqlite:///{places.database}"


def searches_of(args: argparse.Namespace, cells: Sequence[Cell]) -> list[Search]:
    """The searches that were asked for: one a recipe and data set, or one a recipe over all data sets.

    Raises:
        ConfigError: options that do not go together, or belong to the other mode.
    """
    rule = args.rule or DEFAULT_RULE
    if args.mode == "matrix":
        options = ("joint", "asha", "over", "trials", "rule", "sampler")
        if wrong := [f"--{name}" for name in options if getattr(args, name)]:
            raise ConfigError(f"{', '.join(wrong)}: for a search. Say `amsrc-bench sweep search ...`.")
        return []
    if args.asha and args.workers.most > 1:
        raise ConfigError("--asha stops trials of one worker each: it does not go with --workers. Leave one out.")
    if args.axis:
        raise ConfigError("--axis: for the matrix. A search takes its fields from --over.")
    groups: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        group = cell.experiment.recipe, "" if args.joint else cell.experiment.dataset
        groups.setdefault(group, []).append(cell)
    found = []
    for bases in groups.values():
        space = search.space_of((args.over or search.OVER).split(","), bases[0].experiment)
        sampler = search.sampler_for(rule, args.sampler or "auto")
        wanted = Search(tuple(bases), space, rule, sampler, args.trials or TRIALS, args.joint, args.asha)
        search.check(wanted)
        found.append(wanted)
    return found


# -- running it ----------------------------------------------------------------------------------------------


class Sweep:
    """One run of the command: its cells and searches, what became of them, where it is shown and logged."""

    def __init__(self, args: argparse.Namespace, places: Places, storage: BaseStorage) -> None:
        self.args, self.places, self.storage = args, places, storage
        self.board = Board(args.rule or DEFAULT_RULE if args.mode == "search" else "paper")
        self.tracker = open_tracker(beside(places.home), args.mlflow)
        self.parent: str | None = None
        promised = read_cluster(args.cluster) if args.cluster else None
        self.job = Job(places.home, places.results, args.workers, machine=promised)
        self.records: dict[str, RunRecord] = {}
        """Of every cell that came to an end, by fingerprint."""
        self.picked: dict[tuple[str, str], RunRecord] = {}
        """By data set and rule: the cell that the rule takes."""
        self._logging = ThreadPoolExecutor(1)  # MLflow takes seconds a cell; the next cell does not wait for it
        self._logged: list[Future[Any]] = []

    def run(self, cells: Sequence[Cell], searches: Sequence[Search]) -> int:
        """Everything that is not there yet. Returns the exit code."""
        status: Literal["FINISHED", "FAILED", "KILLED"] = "KILLED"
        broken: list[RunRecord] = []
        texts: dict[str, str] = {}
        memories = [(wanted, study.open_study(self.storage, wanted, study.cubes_of(wanted))) for wanted in searches]
        try:
            self._open(cells, searches)
            self._matrix(cells)
            for wanted, memory in memories:
                self._search(wanted, memory)
            for logged in self._logged:
                logged.result()
            for (_, rule), picked in self.picked.items():
                self.tracker.register(rule, picked)
            self._log_roc()
            broken = [record for record in self.records.values() if record.status == "failed"]
            status = "FAILED" if broken else "FINISHED"
        finally:
            self._logging.shutdown(cancel_futures=True)
            try:
                self._send()
                texts = {path.name: path.read_text() for path in tables.write(self.places.results)}
            finally:
                self.tracker.finish_sweep(self.parent, status, texts)
        say("\n" + "\n".join(text for name, text in texts.items() if name.endswith(".md")))
        for record in broken:
            say(f"failed: {title(record)}: {record.error}")
        if broken:
            say("Run the same command with --rerun failed to try these again.")
        by_status = Counter(record.status for record in self.records.values())
        say(f"{len(self.records)} cells: " + ", ".join(f"{number} {name}" for name, number in by_status.items()))
        return 1 if broken else 0

    def _open(self, cells: Sequence[Cell], searches: Sequence[Search]) -> None:
        args = self.args
        params = {"mode": args.mode, "recipes": args.recipes or DEFAULT_RECIPES[args.mode], "seeds": args.seeds}
        params |= {"rule": self.board.rule, "datasets": ",".join(dict.fromkeys(c.experiment.dataset for c in cells))}
        self.parent = self.tracker.start_sweep(self.places.name, params)
        connect()
        text = plan.described(args, self.places.results, cells, searches, plan.running_machine(args))
        say(text)
        self.tracker.log_files(self.parent, {"plan.txt": text})

    def _matrix(self, cells: Sequence[Cell]) -> None:
        """The cells that are known beforehand; of a search, the recipe's own."""
        passed = plan.kept(self.args)
        cached = {cell: record for cell in cells if (record := finished(cell, self.places.results, passed))}
        for cell, record in cached.items():
            self.board.count(record)
            self._keep(cell, record)
        todo = [Trial(number, (cell,)) for number, cell in enumerate(c for c in cells if c not in cached)]
        self._trials(todo, Counter(cell.experiment.dataset for trial in todo for cell in trial.cells))
        self._pick(cells)

    def _pick(self, cells: Sequence[Cell]) -> None:
        """What the rules take among the cells of the first recipe and seed: one, or one for each value of an axis.

        Several cells have no one that crossfit takes: comparing their numbers would choose on what they report.
        """
        for dataset in dict.fromkeys(cell.experiment.dataset for cell in cells):
            here = [cell.experiment for cell in cells if cell.experiment.dataset == dataset]
            same = [e for e in here if (e.recipe, e.seed) == (here[0].recipe, here[0].seed) and e.learns]
            records = [record for e in same if (record := self.records.get(fingerprint(e))) and record.status == "done"]
            for rule in RULES if records else ():
                values = [objective(record.rules, rule) or 0.0 for record in records]
                if rule == "paper" or len(records) == 1:
                    self.picked[dataset, rule] = records[0]
                elif rule != "crossfit":
                    self.picked[dataset, rule] = records[values.index(max(values))]

    def _search(self, wanted: Search, memory: Study) -> None:
        """The trials that a study proposes, and what the rules choose among them."""
        results = self.places.results / "searches" / wanted.study
        self.job = replace(self.job, results=results, judged=wanted.prune)

        def stands(ended: FrozenTrial) -> bool:
            cells = wanted.trial(ended.number, ended.params).cells
            return all(finished(cell, results) for cell in cells)

        missing = study.catch_up(memory, wanted, rerun_failed=self.args.rerun == "failed", stands=stands)
        say(f"{wanted.study}: {wanted.trials - missing} of {wanted.trials} trials stand, {missing} to run")
        for ended in study.counted(memory, wanted):
            for cell in wanted.trial(ended.number, ended.params).cells:
                if record := finished(cell, results, ("failed", "pruned")):
                    self.board.count(record)
                    self._keep(cell, record)

        def records_of(trial: Trial) -> list[RunRecord]:
            return [record for cell in trial.cells if (record := finished(cell, results, ("failed",)))]

        proposals = study.searcher(memory, wanted, missing, records_of)
        self._trials(proposals, Counter({"+".join(wanted.datasets): missing}), study.scheduler(wanted))
        found = study.conclude(wanted, memory, self.places.results)
        say(f"search: {write_search(found, self.places.results)}")
        for dataset, chosen in found.chosen.items():
            aurocs = (f"{rule} {percent(chosen[rule]['auroc'])}" for rule in RULES)
            say(f"    {dataset}: {', '.join(aurocs)}")
            for rule, choice in chosen.items():
                names = {name for part in choice.get("folds", [choice]) for name in part.get("fingerprints", [])[:1]}
                if len(names) == 1 and (record := self.records.get(names.pop())):  # crossfit: the folds agree
                    self.picked[dataset, rule] = record
        drawn = {"importances": style.importances(found), "landscape": style.landscape(found)}
        files: dict[str, str | bytes] = {
            f"{name}.png": style.render(figure, "png") for name, figure in drawn.items() if figure
        }
        files |= {"search.json": search_path(self.places.results, found.study).read_text()}
        self.tracker.log_files(self.parent, {f"searches/{found.study}/{name}": file for name, file in files.items()})
        say(f"    browse the study: optuna-dashboard {study.shown(database(self.args, self.places))}")

    def _trials(self, trials: Sequence[Trial] | Searcher, todo: Counter[str], scheduler: Any = None) -> None:
        """Run trials with the table on; `todo`: how many by data set."""
        number = sum(todo.values())
        if number < 1:
            return
        packing = plan.packing(self.args, plan.running_machine(self.args), number)
        with self.board.showing(todo):
            run_trials(trials, number, self.job, packing, self, folder=self.places.folder, scheduler=scheduler)

    # -- what happens to trials (`bench.sweeps.trials.Watch`) ---------------------------------------------------------

    def started(self, trial: Trial) -> None:
        self.board.started(trial)

    def epoch(self, trial: Trial, line: Mapping[str, Any]) -> None:
        self.board.epoch(trial, line)

    def ended(self, trial: Trial, records: Sequence[RunRecord]) -> None:
        about = f"{trial.title}{_shown(trial.params)}"
        self.board.over(trial, records, f"{about}: {'; '.join(map(outcome, records))}")
        for cell, record in zip(trial.cells, records, strict=True):
            self._keep(cell, record)
        self._send()

    def _send(self) -> None:
        """Let the studies outlive this node, where the home does."""
        if kept := self.places.kept(self.args):
            sqlite_sync.send(self.places.database, kept)

    def _keep(self, cell: Cell, record: RunRecord) -> None:
        """Remember a record, and log the cell and its fusion study beside the other work."""
        logged = self.records.get(record.fingerprint)
        self.records[record.fingerprint] = record
        if logged is None or logged.status != "done":
            self._logged.append(self._logging.submit(self._log, cell, record, self.job.results))

    def _log_roc(self) -> None:
        """The ROC curves of each data set, beside the tables."""
        results = self.places.results
        records = read_all(results)
        drawn = {name: gallery.roc(results, records, name) for name in sorted({r.dataset for r in records})}
        files: dict[str, str | bytes] = {
            f"figures/roc-{name}.png": style.render(figure, "png") for name, figure in drawn.items() if figure
        }
        self.tracker.log_files(self.parent, files)

    def _log(self, cell: Cell, record: RunRecord, results: Place) -> None:
        self.tracker.log_cell(self.parent, record, lambda: evidence(cell, record, self.places.home, results))
        if record.status == "done":
            study.fusion_study(self.storage, record)


def evidence(cell: Cell, record: RunRecord, home: Place, results: Place) -> Evidence:
    """What a cell leaves beside its record: curves; of a trained one also the learner, its weights and scores."""
    e = cell.experiment
    folder = run_folder.folder_of(e, home)
    scored = gallery.scored(results, record)
    videos = scored and scores.videos(scored, gallery.chosen_videos(scored))
    drawn = {"videos.png": style.render(videos, "png")} if videos else {}
    if record.status != "done" or not run_folder.is_trained(folder):  # a null, or the run folder is elsewhere
        return Evidence(figures=drawn)
    import torch

    from bench.training.checkpoint import load

    return Evidence(
        load(e, folder, torch.device("cpu")),
        run_folder.weights(folder),
        per_video(*read_frame_scores(results, record)),
        drawn,
        [folder / "cubes.parquet"],
    )


def outcome(record: RunRecord) -> str:
    """A cell's result in a line: its AUROC under each rule and, of several parts of its score, of each, in percent."""
    if record.status != "done":
        return f"{record.status.upper()}: {record.error}"
    by_rule = [f"{rule} {percent(record.rules[rule]['auroc'])}" for rule in RULES if rule in record.rules]
    parts = ", ".join(f"{part} {percent(auroc)}" for part, auroc in record.parts.items() if len(record.parts) > 1)
    took = clock(sum(filter(None, record.timings_s.values())))
    return f"{', '.join(by_rule)} ({'; '.join(filter(None, (parts, took)))})"


def _shown(params: Mapping[str, float]) -> str:
    return "".join(f", {name.partition('.')[2]} {value:.3g}" for name, value in params.items())


def say(text: str) -> None:
    print(text, flush=True)
