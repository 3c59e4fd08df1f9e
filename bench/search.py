"""A search over loss weights: an Optuna study that proposes trials to Ray Tune and is the only memory of the search.

The study lives in a database under `<home>/sweeps/<name>`. A driver that was killed leaves trials running in it:
the next one fails them and queues their parameters again, so the same command goes on. Trials' cells are
ordinary records; `bench.selection` reads the four rules' numbers from them.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amsrc.errors import ConfigError
from amsrc.store import CubeStore
from bench import provenance
from bench.cells import Trial, finished
from bench.config import Experiment, dump, fingerprint, flatten, override, unknown
from bench.evaluate import now, scored_labels
from bench.plan import Cell
from bench.records import RunRecord, SearchRecord, read_crossfit
from bench.selection import RULES, Decision, Labels, across, objective

if TYPE_CHECKING:
    import optuna
    from ray.tune.search import Searcher

Space = dict[str, tuple[float, float]]  # field -> (lowest, highest), searched on a logarithmic scale

SPACE: Space = {
    "loss.intensity": (0.1, 10.0),  # paper: 1
    "loss.gradient": (0.1, 10.0),  # paper: 1
    "loss.consistency": (0.01, 100.0),  # paper: 1, 1 and 10; released: 1
    "loss.weight_penalty": (1e-8, 1e-2),  # paper: 1, times a sum over all weights; released: none
    "train.learning_rate": (5e-5, 2e-3),  # paper: 2e-4
}
OVER = "loss.intensity,loss.gradient,loss.consistency,loss.weight_penalty"
SAMPLERS = ("auto", "qmc", "tpe", "random")
BLIND = "Proposals are quasi-random or random and never read a score."
GUIDED = {
    "label-free": "Proposals follow the label-free objective; the sampler never saw a test label.",
    "other": "Proposals follow an objective measured on the labels of all folds: the set of trials itself saw them.",
}


@dataclass(frozen=True)
class Search:
    """One search: what is varied, on which data sets together, judged how."""

    bases: tuple[Experiment, ...]
    """The recipe's own experiments: seeds of one data set, or of all of them when joint."""
    space: Space
    rule: str
    sampler: str
    trials: int
    joint: bool = False
    prune: bool = False

    @property
    def study(self) -> str:
        """Name of its study and of its folder in the results: equal for equal searches, whatever their length."""
        first = self.bases[0]
        what = [[dump(e) for e in self.bases], self.space, self.rule, self.sampler, self.prune]
        digest = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:8]
        return f"{first.recipe}-{'joint' if self.joint else first.dataset}-{self.rule}-{digest}"

    @property
    def datasets(self) -> list[str]:
        return list(dict.fromkeys(e.dataset for e in self.bases))

    @property
    def proposals(self) -> str:
        """Whether the sampler sees test labels, in a sentence."""
        return BLIND if self.sampler != "tpe" else GUIDED.get(self.rule, GUIDED["other"])

    @property
    def prune_by(self) -> str | None:
        """Rule by which trials are stopped early; None where they are not."""
        return self.rule if self.prune else None

    def trial(self, number: int, params: Mapping[str, float], stores: Mapping[str, Path]) -> Trial:
        """The cells of one proposal."""
        texts = {name: repr(float(value)) for name, value in params.items()}
        cells = tuple(Cell(override(base, texts), stores[base.dataset]) for base in self.bases)
        return Trial(number, cells, dict(params))

    def values(self, records: Sequence[RunRecord]) -> list[float] | None:
        """The objective of a trial under the rule: the mean over seeds; joint: mean and worst of the data sets.

        None when a cell gave no number.
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


def space_of(texts: Sequence[str], base: Experiment) -> Space:
    """`["loss.consistency", "train.learning_rate=1e-4:1e-3"]` as a space; ranges not given are those of SPACE.

    Raises:
        ConfigError: a field is unknown or cannot be searched, or a range is none.
    """
    found: Space = {}
    fields = flatten(base)
    can = [name for name, v in fields.items() if isinstance(v, float) and name.startswith(("loss.", "train."))]
    for text in texts:
        name, given, span = text.partition("=")
        if name not in fields:
            raise ConfigError(f"--over: {unknown('field', name, fields)}")
        if name not in can:
            raise ConfigError(f"--over {name}: cannot be searched; the fields that can are {', '.join(can)}.")
        if not given and name not in SPACE:
            raise ConfigError(f"--over {name}: no usual range is known for it; give one: {name}=LOW:HIGH.")
        try:
            low, high = (float(end) for end in span.split(":")) if given else SPACE[name]
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
    base = search.bases[0]
    if search.rule not in RULES:
        raise ConfigError(f"--rule: {unknown('rule', search.rule, list(RULES))}")
    if base.method != "amsrc":
        raise ConfigError(f"--recipes {base.recipe}: it trains nothing, so there is nothing to search.")
    if base.model.fusion == "none" and "loss.consistency" in search.space:
        raise ConfigError(
            f"--over loss.consistency: {base.recipe} has no motion stream, so nothing follows from it. Leave it out."
        )
    if search.rule == "label-free" and not base.train.held_out:
        raise ConfigError("--rule label-free needs held-out training videos: train.held_out is 0, set it above 0.")
    if search.prune and len(search.bases) > 1:
        raise ConfigError("--asha judges a trial by one training: it goes neither with --joint nor with several seeds.")
    if search.prune and search.rule in ("crossfit", "label-free") and not base.train.held_out:
        raise ConfigError(f"--asha under {search.rule} prunes by held-out training videos: set train.held_out above 0.")
    if search.prune and not base.train.score_every:
        raise ConfigError("--asha judges by scored epochs: train.score_every is 0, set it above 0.")


def sampler_for(rule: str, wanted: str) -> str:
    """`auto`: under crossfit one that reads no score, so that no fold's labels shape the trials; else TPE."""
    if wanted not in SAMPLERS:
        raise ConfigError(f"--sampler: {unknown('sampler', wanted, list(SAMPLERS))}")
    return ("qmc" if rule == "crossfit" else "tpe") if wanted == "auto" else wanted


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
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError, ImportError) as error:
        raise ConfigError(f"--storage {shown(url)}: cannot be opened: {str(error).splitlines()[0]}") from None


def open_study(storage: optuna.storages.BaseStorage, search: Search) -> optuna.Study:
    """The study of a search, made if there is none yet."""
    import optuna

    study = optuna.create_study(
        storage=storage,
        study_name=search.study,
        directions=["maximize"] * (2 if search.joint else 1),
        load_if_exists=True,
    )
    study.sampler = _sampler(search.sampler, len(study.get_trials(deepcopy=False)))
    facts: dict[str, Any] = {"rule": search.rule, "sampler": described(study.sampler), "proposals": search.proposals}
    facts |= {"space": search.space, "objective": "mean and worst AUROC of the data sets" if search.joint else "AUROC"}
    facts |= {} if "started" in study.user_attrs else {"started": now()}
    for name, value in facts.items():
        study.set_user_attr(name, value)
    if search.joint:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study.set_metric_names(["mean AUROC", "worst AUROC"])
    return study


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
    seed = "scrambled Sobol sequence, seed 0" if type(sampler).__name__ == "QMCSampler" else "seed: trials so far"
    return f"{type(sampler).__name__} ({seed})"


def shown(url: str) -> str:
    """A database's address without its password."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        return make_url(url).render_as_string(hide_password=True)
    except ArgumentError:
        return "(not an address of a database)"


def catch_up(study: optuna.Study, search: Search, *, rerun_failed: bool) -> int:
    """Fail what a dead driver left running and queue it again; returns how many trials are still to run.

    A trial with a successor was interrupted and does not count. The successor is queued before the trial is
    failed, so being killed between the two neither loses it nor queues it twice. The recipe's own values come first
    where the space holds them.
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
        params = {**trial.system_attrs.get("fixed_params", {}), **trial.params}  # fixed: queued, and killed while asked
        if again and trial.number not in succeeded and len(params) == len(search.space):
            study.enqueue_trial(params, user_attrs={"again": trial.number})
        if stale:
            study.tell(trial.number, state=TrialState.FAIL)
    return max(0, search.trials - len(counted(study, search)))


def counted(study: optuna.Study, search: Search) -> list[optuna.trial.FrozenTrial]:
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
    stores: Mapping[str, Path],
    missing: int,
    records: Callable[[Trial], list[RunRecord]],
) -> Searcher:
    """Tune's view of the study.

    Written here because Tune's own `OptunaSearch` stores trials that a scheduler stopped, and cells that failed
    without dying, as complete.

    Args:
        missing: trials to propose.
        records: the records of a trial's cells.
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
            trial = search.trial(asked.number, asked.params, stores)
            asked.set_user_attr("fingerprints", [fingerprint(cell.experiment) for cell in trial.cells])
            self.open[trial_id] = asked, trial
            return {"trial": trial}

        def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
            if result.get("worth") is not None and "ended" not in result:
                self.open[trial_id][0].report(result["worth"], result["epoch"])

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
            """Nothing to keep: the study is the memory."""

        def restore(self, checkpoint_path: str) -> None:
            """Nothing was kept."""

    return StudySearcher()


def scheduler(search: Search) -> Any:
    """ASHA over epochs by the rule's running value, where asked; a trial has a third of its epochs for sure."""
    if not search.prune:
        return None
    from ray.tune.schedulers import ASHAScheduler

    epochs = search.bases[0].train.epochs
    return ASHAScheduler(
        time_attr="epoch",
        metric="worth",
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


def fusion_study(storage: optuna.storages.BaseStorage, record: RunRecord, trials: int = 40) -> None:
    """The fusion share of one cell as a study to browse: TPE over the curve that the record holds, no score is made.

    Not made again where it stands.
    """
    import optuna

    if record.fusion.get("best_auroc") is None:  # no ratio, or labels of one class
        return
    name = f"fusion {record.recipe} {record.dataset} seed {record.seed} {record.fingerprint}"
    study = optuna.create_study(storage=storage, study_name=name, direction="maximize", load_if_exists=True)
    shares, aurocs = record.fusion["share_f"], record.fusion["auroc"]
    there = len(study.get_trials(deepcopy=False))
    if there >= trials:
        return
    memory = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=0))
    step = 1 / (len(shares) - 1)
    memory.enqueue_trial({"share_f": round(record.fusion["paper_share"] / step) * step})
    memory.optimize(
        lambda trial: aurocs[round(trial.suggest_float("share_f", 0, 1, step=step) / step)], n_trials=trials
    )
    study.add_trials(memory.get_trials(deepcopy=False)[there:])  # some are there if a driver died here


def conclude(search: Search, study: optuna.Study, stores: Mapping[str, Path], results: Path) -> SearchRecord:
    """The record of a search as it stands: its trials, and what each rule takes from them.

    Args:
        results: where the recipe's own cells have their records; the trials' lie under `searches/<study>` there.
    """
    own = Trial(-1, tuple(Cell(base, stores[base.dataset]) for base in search.bases))
    done = {"reference": (own, results)}
    rows = as_rows(study, search)
    for row in rows:
        if row["state"] == "done":
            trial = search.trial(row["number"], row["params"], stores)
            done[str(row["number"])] = trial, results / "searches" / search.study
    settings: dict[str, dict[str, list[Decision]]] = {}
    named: dict[str, dict[str, list[str]]] = {}
    for name, (trial, where) in done.items():
        records = [record for cell in trial.cells if (record := finished(cell, where))]
        if len(records) < len(trial.cells):  # the recipe's own cell failed, or records were removed since
            continue
        for record in records:
            decision = Decision(record.rules, read_crossfit(where, record))
            settings.setdefault(name, {}).setdefault(record.dataset, []).append(decision)
            named.setdefault(name, {}).setdefault(record.dataset, []).append(record.fingerprint)
    labels = {e.dataset: _labels(stores[e.dataset], e) for e in search.bases}
    params = {"reference": None} | {str(row["number"]): row["params"] for row in rows}
    chosen = across(settings, labels, "reference") if "reference" in settings else {}
    for dataset, by_rule in chosen.items():
        for entry in (e for found in by_rule.values() for e in (found, *found.get("folds", []))):
            if setting := entry.pop("setting", None):
                entry |= {"params": params[setting] or own_values(search), "fingerprints": named[setting][dataset]}
    return SearchRecord(
        study=search.study,
        recipe=search.bases[0].recipe,
        datasets=search.datasets,
        seeds=sorted({base.seed for base in search.bases}),
        joint=search.joint,
        rule=search.rule,
        space={name: list(ends) for name, ends in search.space.items()},
        sampler=described(study.sampler),
        proposals=search.proposals,
        reference=[fingerprint(base) for base in search.bases],
        trials=rows,
        chosen=chosen,
        started=study.user_attrs["started"],
        finished=now(),
        git=provenance.git(),
        hardware=provenance.hardware(),
        versions=provenance.versions(),
    )


def own_values(search: Search) -> dict[str, float]:
    """The recipe's own values of the fields that are searched."""
    fields = flatten(search.bases[0])
    return {name: float(fields[name]) for name in search.space}


def _labels(store: Path, e: Experiment) -> Labels:
    return scored_labels(CubeStore(store).labels(e.label_set), e.score.skip_frames)
