"""The Optuna study of a search: it proposes trials to Ray Tune and is the only state of the search.

The study is stored in a database under `<home>/sweeps/<name>`. A driver that was killed leaves trials running in it:
the next one fails them and queues their parameters again, so the same command resumes. What the four rules choose
among the trials is read from their records.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from amsrc.errors import ConfigError
from amsrc.store import Sealed
from bench.evaluation.evaluate import scored_labels
from bench.evaluation.selection import Decision, Labels, across
from bench.experiment.config import fingerprint
from bench.records import provenance
from bench.records.provenance import now
from bench.records.records import RunRecord, SearchRecord, read_crossfit
from bench.storage.node_cache import open_store
from bench.storage.places import Place
from bench.sweeps.grid import Cell, Trial
from bench.sweeps.search import Search, own_values
from bench.sweeps.trials import finished

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial
    from ray.tune.search import Searcher


def open_storage(url: str) -> optuna.storages.BaseStorage:
    """The database of a sweep's studies, made if there is none yet.

    Raises:
        ConfigError: it cannot be reached.
    """
    import optuna
    from sqlalchemy.exc import SQLAlchemyError

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    patient = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {}
    try:
        return optuna.storages.RDBStorage(url, engine_kwargs=patient)
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError, ImportError, RuntimeError) as error:
        raise ConfigError(f"--storage {shown(url)}: cannot be opened: {str(error).splitlines()[0]}") from None


def open_study(
    storage: optuna.storages.BaseStorage, search: Search, cubes: Mapping[str, str] | None = None
) -> optuna.Study:
    """The study of a search, made if there is none yet.

    Args:
        cubes: by data set, a digest of what its trials are measured on.

    Raises:
        ConfigError: its trials were measured on something else.
    """
    import optuna

    study = optuna.create_study(
        storage=storage,
        study_name=search.study,
        directions=["maximize"] * (2 if search.joint else 1),
        load_if_exists=True,
    )
    before = study.user_attrs.get("cubes", cubes)
    if before != cubes:
        raise ConfigError(
            f"{search.study}: its trials were measured on other cubes or labels. Choose another --home and --results "
            "for these."
        )
    study.sampler = _sampler(search.sampler, len(study.get_trials(deepcopy=False)))
    facts: dict[str, Any] = {"rule": search.rule, "sampler": described(study.sampler), "proposals": search.proposals}
    facts |= {"cubes": cubes} if cubes else {}
    facts |= {"space": search.space, "objective": "mean and worst AUROC of the data sets" if search.joint else "AUROC"}
    facts |= {} if "started" in study.user_attrs else {"started": now()}
    for name, value in facts.items():
        study.set_user_attr(name, value)
    if search.joint:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study.set_metric_names(["mean AUROC", "worst AUROC"])
    return study


def cubes_of(search: Search) -> dict[str, str]:
    """By data set, digests of the cubes and labels that a trial is measured on."""
    stores = {cell.experiment: Sealed(cell.store) for cell in search.bases}
    return {e.dataset: f"{store.sha256} {store.labels_sha256(e.label_set)}" for e, store in stores.items()}


def _sampler(kind: str, trials: int) -> optuna.samplers.BaseSampler:
    """A sampler; those that would begin the same sequence again after a restart are seeded by the trials so far."""
    from optuna import samplers
    from optuna.exceptions import ExperimentalWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        if kind == "qmc":  # keeps its place in the study, once a first trial has told it what is searched
            first = samplers.RandomSampler(seed=trials)
            return samplers.QMCSampler(
                seed=0, scramble=True, independent_sampler=first, warn_independent_sampling=False
            )
        return samplers.TPESampler(seed=trials) if kind == "tpe" else samplers.RandomSampler(seed=trials)


def described(sampler: optuna.samplers.BaseSampler) -> str:
    """Name and seed of a sampler, for the record."""
    seed = (
        "scrambled Sobol sequence, seed 0; at random until a first trial is complete"
        if type(sampler).__name__ == "QMCSampler"
        else "seed: trials so far"
    )
    return f"{type(sampler).__name__} ({seed})"


def shown(url: str) -> str:
    """A database's address without its password."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        return make_url(url).render_as_string(hide_password=True)
    except ArgumentError:
        return "(not an address of a database)"


def catch_up(
    study: optuna.Study,
    search: Search,
    *,
    rerun_failed: bool,
    has_records: Callable[[FrozenTrial], bool] = lambda trial: True,
) -> int:
    """Fail what a dead driver left running and queue it again; returns how many trials are still to run.

    A trial with a successor was interrupted and does not count. The successor is queued before the trial is
    failed, so being killed between the two neither loses it nor queues it twice. The recipe's own values come first
    where the space holds them.

    Args:
        rerun_failed: also queue again what failed.
        has_records: whether a complete trial has its records; one that has none where they belong is queued again.
    """
    from optuna.trial import TrialState

    trials = study.get_trials(deepcopy=False)
    if not trials:
        own = own_values(search)
        if all(low <= own[name] <= high for name, (low, high) in search.space.items()):
            study.enqueue_trial(own, user_attrs={"why": "the recipe's own values"})
    succeeded = {trial.user_attrs.get("again") for trial in trials}
    for trial in trials:
        stale = trial.state == TrialState.RUNNING
        again = stale or (rerun_failed and trial.state == TrialState.FAIL)
        again = again or (trial.state == TrialState.COMPLETE and not has_records(trial))
        params = {**trial.system_attrs.get("fixed_params", {}), **trial.params}  # fixed: queued, and killed while asked
        if again and trial.number not in succeeded and len(params) == len(search.space):
            study.enqueue_trial(params, user_attrs={"again": trial.number})
        if stale:
            study.tell(trial.number, state=TrialState.FAIL)
    return max(0, search.trials - len(counted(study, search)))


def counted(study: optuna.Study, search: Search) -> list[FrozenTrial]:
    """The trials that came to an end: completed, pruned or failed by themselves, not the interrupted ones."""
    from optuna.trial import TrialState

    trials = study.get_trials(deepcopy=False)
    succeeded = {trial.user_attrs.get("again") for trial in trials}
    ended = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
    return [
        trial
        for trial in trials
        if trial.state in ended and trial.number not in succeeded and len(trial.params) == len(search.space)
    ]


def searcher(
    study: optuna.Study,
    search: Search,
    missing: int,
    records: Callable[[Trial], list[RunRecord]],
) -> Searcher:
    """Tune's view of the study.

    Written here because Tune's own `OptunaSearch` stores trials that a scheduler stopped, and runs that failed
    without dying, as complete.

    Args:
        missing: trials to propose.
        records: the records of a trial's runs.
    """
    from optuna.distributions import BaseDistribution, FloatDistribution
    from optuna.trial import TrialState
    from ray.tune.search import Searcher

    distributions: dict[str, BaseDistribution] = {
        name: FloatDistribution(low, high, log=True) for name, (low, high) in search.space.items()
    }

    class StudySearcher(Searcher):
        def __reduce__(self) -> tuple[Any, ...]:
            """Tune keeps pickles to restore itself from; the study is what a search is restored from."""
            return (object, ())

        def __init__(self) -> None:
            super().__init__()
            self.open: dict[str, tuple[optuna.Trial, Trial]] = {}
            self.left = missing

        def suggest(self, trial_id: str) -> Any:
            if not self.left:
                return Searcher.FINISHED
            self.left -= 1
            asked = study.ask(fixed_distributions=distributions)
            trial = search.trial(asked.number, asked.params)
            asked.set_user_attr("fingerprints", [fingerprint(cell.experiment) for cell in trial.cells])
            self.open[trial_id] = asked, trial
            return {"trial": trial}

        def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
            if result.get("validation_score") is not None and "ended" not in result:
                self.open[trial_id][0].report(result["validation_score"], result["epoch"])

        def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
            stopped_at = result if result and not error and "ended" not in result else None
            if stopped_at:
                self.on_trial_result(trial_id, stopped_at)  # which Tune has not passed on
            asked, trial = self.open.pop(trial_id)
            if stopped_at:
                study.tell(asked, state=TrialState.PRUNED)
                return
            values = None if error else search.values(records(trial))
            study.tell(asked, values) if values else study.tell(asked, state=TrialState.FAIL)

        def save(self, checkpoint_path: str) -> None:
            """Nothing to keep: the study has the state."""

        def restore(self, checkpoint_path: str) -> None:
            """Nothing was kept."""

    return StudySearcher()


def scheduler(search: Search) -> Any:
    """ASHA over epochs by the rule's running value, where asked; a trial has a third of its epochs for sure."""
    if not search.prune:
        return None
    from ray.tune.schedulers import ASHAScheduler

    epochs = search.base.epochs
    return ASHAScheduler(
        time_attr="epoch",
        metric="validation_score",
        mode="max",
        max_t=epochs,
        grace_period=max(1, epochs // 3),
        reduction_factor=2,
    )


STATES = {"COMPLETE": "done", "PRUNED": "pruned", "FAIL": "failed"}


def as_rows(study: optuna.Study, search: Search) -> list[dict[str, Any]]:
    """The trials that came to an end as `SearchRecord.trials` has them."""
    return [
        {
            "number": trial.number,
            "state": STATES[trial.state.name],
            "params": dict(trial.params),
            "values": list(trial.values) if trial.state.name == "COMPLETE" else None,
            "fingerprints": trial.user_attrs.get("fingerprints", []),
        }
        for trial in counted(study, search)
    ]


def fusion_study(storage: optuna.storages.BaseStorage, record: RunRecord) -> None:
    """The fusion curve of one run as a study to browse: finished trials with the record's AUROCs. Nothing is searched.

    All of its 1,001 shares and the experiment's own, which takes a database a few seconds. What is there already is not
    added again.
    """
    import optuna

    curve = record.fusion
    if curve.get("best_auroc") is None:  # no ratio, or labels of one class
        return
    values = dict(zip(curve["share"], curve["auroc"], strict=True))
    values |= {curve[f"{name}_share"]: curve[f"{name}_auroc"] for name in ("own", "best")}
    name = f"fusion {record.recipe} {record.dataset} seed {record.seed} {record.fingerprint}"
    study = optuna.create_study(storage=storage, study_name=name, direction="maximize", load_if_exists=True)
    weight = f"weight of {curve['part']}"
    there = {trial.params[weight] for trial in study.get_trials(deepcopy=False)}
    ends: dict[str, optuna.distributions.BaseDistribution] = {weight: optuna.distributions.FloatDistribution(0, 1)}
    study.add_trials(
        optuna.trial.create_trial(params={weight: share}, distributions=ends, value=auroc)
        for share, auroc in sorted(values.items())
        if share not in there
    )


def conclude(search: Search, study: optuna.Study, results: Place) -> SearchRecord:
    """The record of a search as it is now: its trials, and what each rule chooses among them.

    Args:
        results: where the recipe's own runs have their records; the trials' are under `searches/<study>` there.
    """
    done = {"reference": (Trial(-1, search.bases), results)}
    rows = as_rows(study, search)
    for row in rows:
        if row["state"] == "done":
            trial = search.trial(row["number"], row["params"])
            done[str(row["number"])] = trial, results / "searches" / search.study
    settings: dict[str, dict[str, list[Decision]]] = {}
    named: dict[str, dict[str, list[str]]] = {}
    for name, (trial, where) in done.items():
        records = [record for cell in trial.cells if (record := finished(cell, where))]
        if len(records) < len(trial.cells):  # the recipe's own run failed, or records were removed since
            continue
        for record in records:
            decision = Decision(record.rules, read_crossfit(where, record))
            settings.setdefault(name, {}).setdefault(record.dataset, []).append(decision)
            named.setdefault(name, {}).setdefault(record.dataset, []).append(record.fingerprint)
    labels = {cell.experiment.dataset: _labels(cell) for cell in search.bases}
    params = {"reference": None} | {str(row["number"]): row["params"] for row in rows}
    chosen = across(settings, labels, "reference") if "reference" in settings else {}
    for dataset, by_rule in chosen.items():
        for entry in (e for found in by_rule.values() for e in (found, *found.get("folds", []))):
            if setting := entry.pop("setting", None):
                entry |= {"params": params[setting] or own_values(search), "fingerprints": named[setting][dataset]}
    return SearchRecord(
        study=search.study,
        recipe=search.base.recipe,
        datasets=search.datasets,
        seeds=sorted({cell.experiment.seed for cell in search.bases}),
        joint=search.joint,
        rule=search.rule,
        space={name: list(ends) for name, ends in search.space.items()},
        sampler=described(study.sampler),
        proposals=search.proposals,
        pruning=search.prune,
        reference=[fingerprint(cell.experiment) for cell in search.bases],
        trials=rows,
        chosen=chosen,
        started=study.user_attrs["started"],
        finished=now(),
        git=provenance.git(),
        hardware=provenance.hardware(),
        versions=provenance.versions(),
    )


def _labels(cell: Cell) -> Labels:
    e = cell.experiment
    return scored_labels(open_store(cell.store).labels(e.label_set), e.score.skip_frames)
