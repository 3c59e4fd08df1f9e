"""The main job: plan runs or a search, run them as Ray Tune trials, keep records, tables and MLflow runs.

Reads videos; writes `<home>` (stores, runs, studies, MLflow) and `<results>` (records, scores, searches, tables).
The same command resumes after any end: finished runs are not repeated, an interrupted one resumes from its
checkpoint, a failed one is recorded with its error while the others continue (exit code 1).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from bench.cluster.connect import check_nodes, connect, shared
from bench.data import datasets
from bench.data.prepare import Progress, prepare
from bench.data.toy import render
from bench.evaluation.evaluate import per_video
from bench.evaluation.selection import objective
from bench.experiment.config import fingerprint
from bench.experiment.rules import RULES
from bench.figures import files as gallery
from bench.figures import scores, style
from bench.records import run_folder
from bench.records.names import by_part, percent, title
from bench.records.records import RunRecord, read_all, read_frame_scores, search_path, write_search
from bench.storage import sqlite_sync
from bench.storage.places import Place, Remote, local_folder, locked, writable
from bench.sweeps import plan, study
from bench.sweeps.grid import Cell, Trial
from bench.sweeps.live_table import Board, clock
from bench.sweeps.options import Places, SweepOptions
from bench.sweeps.plan import Plan
from bench.sweeps.search import Search
from bench.sweeps.trials import Job, Proposals, finished, run_trials
from bench.tables import tables
from bench.tracking.runs import Evidence, open_tracker

if TYPE_CHECKING:
    from optuna import Study
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial


def run(options: SweepOptions, progress: Callable[[], Progress]) -> int:
    """Plan, print the plan, prepare, run and record what is missing, make the tables.

    Args:
        progress: makes the progress display for preparing a store.

    Returns:
        The exit code.
    """
    began = time.perf_counter()
    planned = plan.planned(options)  # refuses what cannot be searched before anything is prepared
    places, root = options.places, options.sources.root
    absent = [name for name in options.datasets if not options.rendered and not datasets.exists(name, root)]
    if options.dry_run:
        _say_plan(planned, absent)
        return 0
    for name in absent:
        datasets.find(name, root)  # says what it looked for
    check_places(places)
    check_cluster(planned)
    with locked(places.folder):
        if places.kept:
            sqlite_sync.bring(places.database, places.kept)
        storage = study.open_storage(places.studies)
        if options.rendered:
            say(f"embedded data: {root}")
            render(root)
        for store, experiment in {cell.store: cell.experiment for cell in planned.cells}.items():
            say(f"{store.name}: preparing cubes")
            prepare(experiment, options.sources, places.home, progress=progress())
        sweep = Sweep(planned, storage)
        code = sweep.run()
    say(f"records: {places.results / 'records'}\ntables:  {places.results / 'tables'}")
    say(sweep.tracker.where(sweep.parent))
    say(f"finished in {clock(time.perf_counter() - began)}")
    return code


def _say_plan(planned: Plan, absent: Sequence[str]) -> None:
    """A dry run.

    Args:
        absent: data sets of which there is no copy.
    """
    say(plan.described(planned, planned.cached(), plan.planned_machine(planned.options)))
    partial = {cell.experiment.dataset: cell.experiment.partial for cell in planned.cells}
    for name in absent:
        kind = "partial" if partial[name] else "whole"
        say(f"not known   {name}: no copy is under {planned.options.sources.root}; planned for a {kind} one")


def check_places(places: Places) -> None:
    """Whether this process can write where the sweep does.

    Raises:
        ConfigError: it cannot.
    """
    for option, where in (("--home", places.home), ("--results", places.results)):
        if isinstance(where, Remote):  # folders are looked at from every node
            writable(where, option)
    writable(places.folder)


def check_cluster(planned: Plan) -> None:
    """Check that a run fits, and that all nodes have this code and see the folders that this sweep works in.

    Raises:
        ConfigError: no run fits, or some nodes differ; names each with what is wrong.
    """
    options = planned.options
    connect()
    planned.packing(plan.running_machine(options), 1)
    real = [] if options.rendered else [options.sources.root]
    with shared([options.places.home, options.places.results], real) as probe:
        check_nodes(probe)


# -- running it ----------------------------------------------------------------------------------------------


class Sweep:
    """One execution of the command: its runs and searches, their results, where they are shown and logged."""

    def __init__(self, planned: Plan, storage: BaseStorage) -> None:
        self.plan, self.options, self.storage = planned, planned.options, storage
        self.places = places = planned.options.places
        self.board = Board(self.options.search.rule if self.options.search else "paper")
        self.tracker = open_tracker(local_folder(places.home), self.options.mlflow)
        self.parent: str | None = None
        self.job = Job(places.home, places.results, self.options.workers, machine=self.options.promised)
        self.records: dict[str, RunRecord] = {}
        """Of every run that came to an end, by fingerprint."""
        self.picked: dict[tuple[str, str], RunRecord] = {}
        """By data set and rule: the run that the rule takes."""
        self._logging = ThreadPoolExecutor(1)  # MLflow takes seconds a run; the next run does not wait for it
        self._logged: list[Future[Any]] = []

    def run(self) -> int:
        """Run everything that has no record yet. Returns the exit code."""
        status: Literal["FINISHED", "FAILED", "KILLED"] = "KILLED"
        broken: list[RunRecord] = []
        texts: dict[str, str] = {}
        written: list[RunRecord] | None = None
        searches = self.plan.searches
        memories = [(wanted, study.open_study(self.storage, wanted, study.cubes_of(wanted))) for wanted in searches]
        try:
            self._open()
            cached = self.plan.cached()
            self._say_plan(cached)
            self._matrix(cached)
            for wanted, memory in memories:
                self._search(wanted, memory)
            for logged in self._logged:
                logged.result()
            for (_, rule), picked in self.picked.items():
                self.tracker.register(rule, picked)
            written = read_all(self.places.results)
            self._log_roc(written)
            broken = [record for record in self.records.values() if record.status == "failed"]
            status = "FAILED" if broken else "FINISHED"
        finally:
            self._logging.shutdown(cancel_futures=True)
            try:
                self._send()
                texts = {path.name: path.read_text() for path in tables.write(self.places.results, records=written)}
            finally:
                self.tracker.finish_sweep(self.parent, status, texts)
        say("\n" + "\n".join(text for name, text in texts.items() if name.endswith(".md")))
        for record in broken:
            say(f"failed: {title(record)}: {record.error}")
        if broken:
            say("Run the same command with --rerun failed to try these again.")
        by_status = Counter(record.status for record in self.records.values())
        say(f"{len(self.records)} runs: " + ", ".join(f"{number} {name}" for name, number in by_status.items()))
        return 1 if broken else 0

    def _open(self) -> None:
        """The parent run in MLflow, and Ray."""
        options = self.options
        params = {"mode": options.mode, "recipes": ",".join(options.recipes), "seeds": options.seeds}
        params |= {"rule": self.board.rule, "datasets": ",".join(options.datasets)}
        self.parent = self.tracker.start_sweep(self.places.name, params)
        connect()

    def _say_plan(self, cached: Mapping[Cell, RunRecord]) -> None:
        text = plan.described(self.plan, cached, plan.running_machine(self.options))
        say(text)
        self.tracker.log_files(self.parent, {"plan.txt": text})

    def _matrix(self, cached: Mapping[Cell, RunRecord]) -> None:
        """The runs that are known beforehand; of a search, the recipe's own."""
        for cell, record in cached.items():
            self.board.count(record)
            self._keep(cell, record)
        todo = [Trial(number, (cell,)) for number, cell in enumerate(c for c in self.plan.cells if c not in cached)]
        self._trials(todo, Counter(cell.experiment.dataset for trial in todo for cell in trial.cells))
        self._pick(self.plan.cells)

    def _pick(self, cells: Sequence[Cell]) -> None:
        """Choose by each rule among the runs of the first recipe and seed: one, or one for each value of an axis.

        Crossfit chooses none of several runs: comparing their numbers would choose on the labels that they report on.
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

        def has_records(ended: FrozenTrial) -> bool:
            cells = wanted.trial(ended.number, ended.params).cells
            return all(finished(cell, results) for cell in cells)

        missing = study.catch_up(memory, wanted, rerun_failed=self.options.rerun_failed, has_records=has_records)
        say(f"{wanted.study}: {wanted.trials - missing} of {wanted.trials} trials done, {missing} to run")
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
        say(f"    browse the study: optuna-dashboard {study.shown(self.places.studies)}")

    def _trials(self, trials: Proposals, todo: Counter[str], scheduler: Any = None) -> None:
        """Run trials with the table on; `todo`: how many by data set."""
        number = sum(todo.values())
        if number < 1:
            return
        packing = self.plan.packing(plan.running_machine(self.options), number)
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
        """Send the studies to the home if it is in an object store."""
        if self.places.kept:
            sqlite_sync.send(self.places.database, self.places.kept)

    def _keep(self, cell: Cell, record: RunRecord) -> None:
        """Remember a record, and log the run and its fusion study in the background."""
        logged = self.records.get(record.fingerprint)
        self.records[record.fingerprint] = record
        if logged is None or logged.status != "done":
            self._logged.append(self._logging.submit(self._log, cell, record, self.job.results))

    def _log_roc(self, records: Sequence[RunRecord]) -> None:
        """Log the ROC curves of each data set next to the tables."""
        results = self.places.results
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
    """The artifacts of a run next to its record: curves; of a trained one also the learner, its weights and scores."""
    e = cell.experiment
    folder = run_folder.folder_of(e, home)
    scored = gallery.scored(results, record)
    videos = scored and scores.videos(scored, gallery.chosen_videos(scored))
    drawn = {"videos.png": style.render(videos, "png")} if videos else {}
    if record.status != "done" or not run_folder.is_trained(
        folder
    ):  # a trivial baseline, or the run folder is elsewhere
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
    """A run's result in a line: its AUROC under each rule and of each of several parts alone, in percent."""
    if record.status != "done":
        return f"{record.status.upper()}: {record.error}"
    by_rule = [f"{rule} {percent(record.rules[rule]['auroc'])}" for rule in RULES if rule in record.rules]
    took = clock(sum(filter(None, record.timings_s.values())))
    return f"{', '.join(by_rule)} ({'; '.join(filter(None, (by_part(record.parts, percent), took)))})"


def _shown(params: Mapping[str, float]) -> str:
    return "".join(f", {name.partition('.')[2]} {value:.3g}" for name, value in params.items())


def say(text: str) -> None:
    print(text, flush=True)
