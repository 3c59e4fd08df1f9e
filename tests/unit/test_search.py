"""A search: what may be searched and proposed, what a dead driver leaves, and that no rule sees more than it may."""

import json
import re
import shutil
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState

from amsrc.errors import ConfigError
from bench.experiment.config import Experiment, derive, fingerprint, flatten
from bench.experiment.recipes import build
from bench.methods.catalogue import METHODS
from bench.records.records import RunRecord, SearchRecord, path_of, read_searches, write_search
from bench.sweeps.grid import Cell, Trial
from bench.sweeps.search import Search, check, sampler_for, space_of
from bench.sweeps.study import (
    as_rows,
    catch_up,
    conclude,
    counted,
    fusion_study,
    open_storage,
    open_study,
    scheduler,
    searcher,
    shown,
)
from bench.sweeps.trials import Job, finished, run_cell
from tests import cells_made
from tests.cubes_made import TEST, an_experiment, labels, write_labels
from tests.results_made import valued

STORES = {"toy-ped2": Path("ped2"), "toy-avenue": Path("avenue")}
TWO = {"loss.consistency": (0.1, 10.0), "train.learning_rate": (1e-4, 1e-2)}
OWN = {"loss.consistency": 1.0, "train.learning_rate": 1e-3}
FLOATS = {name: FloatDistribution(low, high, log=True) for name, (low, high) in TWO.items()}


def a_search(*bases: Experiment, **changes: Any) -> Search:
    """Four trials over two fields of a tiny experiment, whose own values lie inside."""
    cells = tuple(Cell(base, STORES[base.dataset]) for base in bases or (an_experiment(),))
    return replace(Search(cells, TWO, "crossfit", "qmc", 4), **changes)


def on(dataset: str, seed: int = 0) -> Experiment:
    return replace(an_experiment(seed=seed), dataset=dataset)


class Driver:
    """A sweep's hold of a study, from its start until it is killed; several may follow on one storage."""

    def __init__(self, storage: optuna.storages.BaseStorage, wanted: Search, *, rerun_failed: bool = False) -> None:
        self.study = open_study(storage, wanted)
        self.missing = catch_up(self.study, wanted, rerun_failed=rerun_failed)
        self.ended: dict[int, list[RunRecord]] = {}
        self.searcher = searcher(self.study, wanted, self.missing, lambda trial: self.ended[trial.number])

    def ask(self, name: str = "a") -> Trial:
        """The next trial, under Tune's name for it."""
        found: Trial = self.searcher.suggest(name)["trial"]
        return found

    def tell(self, name: str, trial: Trial, value: float | None = 0.7) -> None:
        """The trial came to its end with this value in each of its cells; None: they failed."""
        status = "failed" if value is None else "done"
        self.ended[trial.number] = [valued(cell.experiment, value, status) for cell in trial.cells]
        self.searcher.on_trial_complete(name, {"ended": True})

    def run(self, value: float | None = 0.7) -> Trial:
        """One trial from its proposal to its end."""
        trial = self.ask()
        self.tell("a", trial, value)
        return trial

    @property
    def states(self) -> list[str]:
        return [trial.state.name for trial in self.study.get_trials()]


@pytest.fixture
def storage() -> optuna.storages.BaseStorage:
    return optuna.storages.InMemoryStorage()


# What is searched


def test_fields_have_their_usual_ranges_unless_others_are_given() -> None:
    base = build("amsrc", "ped2")
    found = space_of(["loss.consistency", "train.learning_rate=1e-4:1e-3", "train.decay=0.5:0.9"], base)
    assert found == {"loss.consistency": (0.01, 100), "train.learning_rate": (1e-4, 1e-3), "train.decay": (0.5, 0.9)}


def test_without_fields_the_methods_own_space_is_searched_and_else_the_learning_rate() -> None:
    ranges = [(0.1, 10.0), (0.1, 10.0), (0.01, 100.0), (1e-8, 1e-2)]
    names = [f"loss.{term}" for term in ("intensity", "gradient", "consistency", "weight_penalty")]
    found = space_of(None, build("amsrc", "ped2"))
    assert list(found.items()) == list(zip(names, ranges, strict=True)), "in this order: names of studies depend on it"
    assert space_of([*names, "train.learning_rate"], build("amsrc", "ped2")) == {
        **found,
        "train.learning_rate": (5e-5, 2e-3),
    }
    assert space_of(None, build("conv-ae", "ped2")) == {"train.learning_rate": (5e-5, 2e-3)}


def test_any_number_among_a_methods_settings_is_searched_in_a_range_that_is_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    @dataclass(frozen=True)
    class Memory:
        shrink: float = 0.1
        slots: int = 10

    @dataclass(frozen=True)
    class Settings:
        memory: Memory = field(default_factory=Memory)

    monkeypatch.setitem(METHODS, "conv-ae", replace(METHODS["conv-ae"], config=Settings, check=lambda _: []))
    base = replace(build("conv-ae", "ped2"), settings=Settings())
    assert space_of(["memory.shrink=0.01:1"], base) == {"memory.shrink": (0.01, 1.0)}
    with pytest.raises(ConfigError, match=r"--over memory\.shrink: no usual range is known for it"):
        space_of(["memory.shrink"], base)
    with pytest.raises(
        ConfigError, match=r"--over memory\.slots: cannot be searched; .* train\.held_out, memory\.shrink"
    ):
        space_of(["memory.slots=1:2"], base)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["loss.consitency"], "unknown field 'loss.consitency'; did you mean: loss.consistency"),
        (["train.decay"], "--over train.decay: no usual range is known for it; give one: train.decay=LOW:HIGH."),
        (["loss.gradient=1"], "--over loss.gradient=1: a range is LOW:HIGH with 0 < LOW < HIGH"),
        (["loss.gradient=1:2:3"], "a range is LOW:HIGH"),
        (["loss.gradient="], "a range is LOW:HIGH"),
        (["loss.gradient=a:b"], "a range is LOW:HIGH"),
        (["loss.gradient=0:1"], "a range is LOW:HIGH"),
        (["loss.gradient=-1:1"], "a range is LOW:HIGH"),
        (["loss.gradient=2:1"], "a range is LOW:HIGH"),
        (["loss.gradient=1:1"], "a range is LOW:HIGH"),
        (["loss.gradient=nan:1"], "a range is LOW:HIGH"),
        (["loss.gradient=1:inf"], "loss.gradient: Input should be a finite number"),
        (["train.decay=0.5:2"], "train.decay is 2.0; allowed: above 0, to 1"),
        (["loss.gradient", "loss.gradient=1:2"], "--over: loss.gradient is named twice."),
        (
            ["train.epochs=2:8"],
            "--over train.epochs: cannot be searched; the fields that can are train.learning_rate, ",
        ),
        (["seed=1:3"], "--over seed: cannot be searched"),
        (["loss.form"], "--over loss.form: cannot be searched"),
        (["model.flow_scale=1:2"], "--over model.flow_scale: cannot be searched"),
        (["cube.boxes.overlap=0.5:0.9"], "--over cube.boxes.overlap: cannot be searched"),  # the cubes are cut once
        (["score.weights=0.1:1"], "--over score.weights: cannot be searched"),  # the rules choose them anyway
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_searched_is_refused(texts: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        space_of(texts, build("amsrc", "ped2"))


def test_what_the_recipes_cannot_be_searched_for_is_refused_with_their_names() -> None:
    with pytest.raises(ConfigError, match="--recipes null-flow: it trains nothing by epochs"):
        space_of(None, build("null-flow", "ped2"))
    with pytest.raises(ConfigError, match="--recipes velocity-gmm: it trains nothing by epochs"):
        space_of(["train.held_out=0.1:0.2"], build("velocity-gmm", "ped2"))
    with pytest.raises(ConfigError, match=r"conv-ae: unknown field 'loss\.consistency'"):
        space_of(["loss.consistency"], build("conv-ae", "ped2"))


@pytest.mark.parametrize(
    ("base", "changes", "message"),
    [
        (an_experiment(), {"rule": "best"}, "--rule: unknown rule 'best'; known: paper, oracle, crossfit, label-free"),
        (an_experiment("baseline"), {}, "--over loss.consistency: it has no effect in baseline."),
        (an_experiment(train={"held_out": 0.0}), {"rule": "label-free"}, "train.held_out is 0, set it above 0"),
        (an_experiment(train={"held_out": 0.0}), {"prune": True}, "--asha judges by held-out training videos"),
        (
            an_experiment(train={"score_every": 0}),
            {"prune": True, "rule": "paper"},
            "--asha judges by scored epochs: train.score_every is 0",
        ),
    ],
)
def test_a_search_that_could_not_be_judged_is_refused(base: Experiment, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        check(a_search(base, **changes))


@pytest.mark.parametrize("bases", [(on("toy-ped2"), on("toy-ped2", 1)), (on("toy-ped2"), on("toy-avenue"))])
def test_trials_of_several_trainings_are_not_pruned(bases: tuple[Experiment, ...]) -> None:
    with pytest.raises(ConfigError, match="neither with --joint nor with several seeds"):
        check(a_search(*bases, prune=True))
    check(a_search(*bases))


@pytest.mark.parametrize("rule", ["paper", "oracle", "crossfit"])
def test_rules_that_need_no_held_out_videos_are_accepted_without(rule: str) -> None:
    check(a_search(an_experiment(train={"held_out": 0.0}), rule=rule))
    check(a_search(rule=rule, prune=True))


# Who proposes, and what it sees


def test_by_itself_crossfit_has_a_sampler_that_reads_no_score_and_the_others_one_that_does() -> None:
    rules = ("paper", "oracle", "crossfit", "label-free")
    assert [sampler_for(rule, "auto") for rule in rules] == ["tpe", "tpe", "qmc", "tpe"]
    assert [sampler_for("crossfit", name) for name in ("qmc", "tpe", "random")] == ["qmc", "tpe", "random"]
    with pytest.raises(ConfigError, match="--sampler: unknown sampler 'grid'; known: auto, qmc, tpe, random"):
        sampler_for("crossfit", "grid")


def test_it_is_said_whether_the_sampler_sees_test_labels() -> None:
    assert a_search(sampler="qmc").proposals == "Proposals are quasi-random or random and never read a score."
    assert a_search(sampler="random", rule="oracle").proposals == a_search(sampler="qmc").proposals
    assert "never saw a test label" in a_search(sampler="tpe", rule="label-free").proposals
    for rule in ("paper", "oracle", "crossfit"):
        assert "measured on the labels of all folds" in a_search(sampler="tpe", rule=rule).proposals


@pytest.mark.parametrize("sampler", ["qmc", "random"])
def test_a_blind_samplers_proposals_do_not_depend_on_what_came_of_them(sampler: str) -> None:
    proposed = []
    for worth in ((0.1, 0.9, 0.2, 0.8), (0.9, 0.1, None, 0.3)):
        driver = Driver(optuna.storages.InMemoryStorage(), a_search(sampler=sampler))
        proposed.append([driver.run(value).params for value in worth])
    assert proposed[0] == proposed[1]
    assert len({params["loss.consistency"] for params in proposed[0]}) == 4


@pytest.mark.parametrize("sampler", ["qmc", "random", "tpe"])
def test_a_driver_that_follows_another_proposes_anew(sampler: str, storage: optuna.storages.BaseStorage) -> None:
    """Of failed trials, too, after which a quasi-random sampler does not know yet what is searched."""
    wanted = a_search(sampler=sampler, space=TWO | {"train.learning_rate": (1e-5, 1e-4)}, trials=9)
    proposed = [Driver(storage, wanted).run(None if n < 3 else 0.5).params["loss.consistency"] for n in range(9)]
    assert len(set(proposed)) == 9
    assert all(0.1 <= value <= 10 for value in proposed)


def test_a_quasi_random_search_goes_on_as_if_it_had_never_stopped(storage: optuna.storages.BaseStorage) -> None:
    whole = Driver(optuna.storages.InMemoryStorage(), a_search(trials=6))
    in_parts = [Driver(storage, a_search(trials=6)).run().params for _ in range(6)]
    assert in_parts == [whole.run().params for _ in range(6)]


# Its name


def test_equal_searches_have_one_study_however_many_trials_are_asked_for() -> None:
    name = a_search().study
    assert re.fullmatch(r"amsrc-toy-ped2-crossfit-[0-9a-f]{8}", name)
    assert a_search(trials=50).study == name
    assert a_search(space=dict(reversed(TWO.items()))).study == name
    joint = a_search(on("toy-ped2"), on("toy-avenue"), joint=True).study
    assert joint.startswith("amsrc-joint-crossfit-")


def test_whatever_else_differs_gives_another_study() -> None:
    searches = [
        a_search(),
        a_search(rule="oracle"),
        a_search(sampler="tpe"),
        a_search(prune=True),
        a_search(space={"loss.consistency": (0.1, 10.0)}),
        a_search(space=TWO | {"loss.consistency": (0.1, 9.0)}),
        a_search(on("toy-ped2", 1)),
        a_search(on("toy-ped2"), on("toy-ped2", 1)),
        a_search(on("toy-avenue")),
        a_search(on("toy-ped2"), on("toy-avenue"), joint=True),
        a_search(derive(an_experiment(), train={"epochs": 5})),
        a_search(derive(an_experiment(), score={"weights": (0.4, 0.5)})),
        a_search(replace(an_experiment(), partial=True)),
    ]
    assert len({wanted.study for wanted in searches}) == len(searches)


# A trial and its value


def test_a_trial_is_every_base_with_its_values_on_its_own_store() -> None:
    wanted = a_search(on("toy-ped2"), on("toy-ped2", 1), on("toy-avenue"), joint=True)
    params = {"loss.consistency": 0.1 + 0.2, "train.learning_rate": 1e-3}
    trial = wanted.trial(7, params)
    assert (trial.number, trial.params) == (7, params)
    for base, cell in zip(wanted.bases, trial.cells, strict=True):
        assert flatten(cell.experiment) == flatten(base.experiment) | params, "to the last digit"
        assert cell.store == base.store == STORES[base.experiment.dataset]


@pytest.mark.parametrize("rule", ["paper", "oracle", "crossfit", "label-free"])
def test_a_trial_is_worth_the_mean_over_its_seeds(rule: str) -> None:
    wanted = a_search(on("toy-ped2"), on("toy-ped2", 1), rule=rule)
    records = [valued(base.experiment, value) for base, value in zip(wanted.bases, (0.6, 0.9), strict=True)]
    assert wanted.values(records) == [pytest.approx(0.75)]


def test_a_joint_trial_is_worth_the_mean_and_the_worst_of_the_data_sets() -> None:
    """Two seeds of 0.5 and 0.7 on one, of 0.8 and 1.0 on the other."""
    wanted = a_search(*(on(d, seed) for d in ("toy-ped2", "toy-avenue") for seed in (0, 1)), joint=True)
    records = [valued(base.experiment, value) for base, value in zip(wanted.bases, (0.5, 0.7, 0.8, 1.0), strict=True)]
    assert wanted.values(records) == [pytest.approx(0.75), pytest.approx(0.6)]


def test_a_gap_leaves_a_trial_without_a_value() -> None:
    wanted = a_search(on("toy-ped2"), on("toy-ped2", 1))
    whole = [valued(base.experiment) for base in wanted.bases]
    for gap in (valued(wanted.bases[1].experiment, status="failed"), valued(wanted.bases[1].experiment, None)):
        assert wanted.values([whole[0], gap]) is None
    assert wanted.values(whole[:1]) is None
    assert wanted.values([]) is None


# What a dead driver leaves


def test_the_recipes_own_values_come_first_where_the_space_holds_them(storage: optuna.storages.BaseStorage) -> None:
    driver = Driver(storage, a_search())
    assert (driver.missing, driver.states) == (4, ["WAITING"])
    again = Driver(storage, a_search())
    assert (again.missing, again.states) == (4, ["WAITING"]), "queued once"
    first = again.ask()
    assert first.params == OWN
    assert first.cells[0].experiment == an_experiment()


def test_own_values_outside_the_space_are_not_tried(storage: optuna.storages.BaseStorage) -> None:
    wanted = a_search(space=TWO | {"loss.weight_penalty": (1e-8, 1e-2)})  # its own is 0
    driver = Driver(storage, wanted)
    assert (driver.missing, driver.states) == (4, [])
    assert driver.ask().params != OWN


def test_what_a_dead_driver_left_running_is_run_again_first(storage: optuna.storages.BaseStorage) -> None:
    dead = Driver(storage, a_search())
    left = [dead.run(), dead.ask("b"), dead.ask("c")][1:]
    driver = Driver(storage, a_search())
    assert driver.missing == 3
    assert driver.states == ["COMPLETE", "FAIL", "FAIL", "WAITING", "WAITING"]
    assert [driver.run().params for _ in left] == [trial.params for trial in left]
    assert driver.run().params not in [trial.params for trial in left]
    assert Driver(storage, a_search()).missing == 0


def test_dying_between_queueing_and_failing_queues_a_trial_once(
    storage: optuna.storages.BaseStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = Driver(storage, a_search())
    left = [dead.ask("a"), dead.ask("b")]

    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(optuna.Study, "tell", killed)
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                Driver(storage, a_search())
    driver = Driver(storage, a_search())
    assert driver.missing == 4
    assert driver.states == ["FAIL", "FAIL", "WAITING", "WAITING"]
    assert [driver.run().params, driver.run().params] == [trial.params for trial in left]
    assert driver.missing - 2 == Driver(storage, a_search()).missing


def test_a_queued_trial_whose_driver_died_while_asking_is_queued_again(storage: optuna.storages.BaseStorage) -> None:
    """Its first field was read from the queue, the second not."""
    dead = Driver(storage, a_search())
    dead.study.ask({"loss.consistency": FLOATS["loss.consistency"]})
    driver = Driver(storage, a_search())
    assert (driver.missing, driver.states) == (4, ["FAIL", "WAITING"])
    assert driver.run().params == OWN
    assert Driver(storage, a_search()).missing == 3


def test_a_proposal_that_was_never_whole_is_dropped(storage: optuna.storages.BaseStorage) -> None:
    dead = Driver(storage, a_search())
    dead.run()
    dead.study.ask({"loss.consistency": FLOATS["loss.consistency"]})
    driver = Driver(storage, a_search())
    assert (driver.missing, driver.states) == (3, ["COMPLETE", "FAIL"])
    assert [row["number"] for row in as_rows(driver.study, a_search())] == [0]


def test_trials_that_failed_by_themselves_count_and_are_repeated_only_when_asked_for(
    storage: optuna.storages.BaseStorage,
) -> None:
    first = Driver(storage, a_search())
    failed = first.run(None)
    first.run()
    assert Driver(storage, a_search()).missing == 2
    again = Driver(storage, a_search(), rerun_failed=True)
    assert (again.missing, again.states) == (3, ["FAIL", "COMPLETE", "WAITING"])
    assert Driver(storage, a_search(), rerun_failed=True).missing == 3, "queued once"
    assert Driver(storage, a_search()).missing == 3, "and stays queued"
    assert again.run(None).params == failed.params
    assert Driver(storage, a_search()).missing == 2, "failed again, which counts"
    twice = Driver(storage, a_search(), rerun_failed=True)
    assert twice.missing == 3
    assert twice.run(0.5).params == failed.params
    assert Driver(storage, a_search(), rerun_failed=True).missing == 2
    assert [trial.number for trial in counted(twice.study, a_search())] == [1, 3]


def test_more_trials_go_on_and_fewer_have_nothing_to_do(storage: optuna.storages.BaseStorage) -> None:
    driver = Driver(storage, a_search(trials=2))
    driver.run()
    driver.run()
    assert [Driver(storage, a_search(trials=n)).missing for n in (1, 2, 3, 10)] == [0, 0, 1, 8]


@pytest.mark.parametrize("seed", range(6))
def test_however_drivers_die_no_proposal_is_lost_or_counted_twice(
    seed: int, storage: optuna.storages.BaseStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    random, wanted, tell = np.random.default_rng(seed), a_search(trials=6, sampler="random"), optuna.Study.tell
    asked: list[float] = []

    def killed_now_and_then(study: optuna.Study, trial: Any, *args: Any, **options: Any) -> Any:
        if isinstance(trial, int) and random.random() < 0.3:  # `catch_up` names trials by their numbers
            raise KeyboardInterrupt
        return tell(study, trial, *args, **options)

    def params_of(trials: Sequence[optuna.trial.FrozenTrial]) -> list[float]:
        found = [{**trial.system_attrs.get("fixed_params", {}), **trial.params} for trial in trials]
        return [params["loss.consistency"] for params in found]

    monkeypatch.setattr(optuna.Study, "tell", killed_now_and_then)
    for _ in range(25):
        try:
            driver = Driver(storage, wanted, rerun_failed=random.random() < 0.3)
        except KeyboardInterrupt:
            continue
        ended = params_of(counted(driver.study, wanted))
        waiting = params_of(driver.study.get_trials(states=(TrialState.WAITING,)))
        assert driver.missing == 6 - len(ended)
        assert len({*ended, *waiting}) == len(ended) + len(waiting) <= 6
        assert {*asked} <= {*ended, *waiting}, "nothing that was proposed is lost"
        names = [name for name in "abc"[: int(random.integers(1, 4))] if driver.searcher.left]
        running = {name: driver.ask(name) for name in names[: driver.missing]}
        asked += [trial.params["loss.consistency"] for trial in running.values()]
        for name, trial in running.items():
            if random.random() < 0.6:
                driver.tell(name, trial, 0.5 if random.random() < 0.7 else None)
    monkeypatch.setattr(optuna.Study, "tell", tell)
    last = Driver(storage, wanted)
    for _ in range(last.missing):
        last.run()
    assert Driver(storage, wanted).missing == 0
    assert len(counted(last.study, wanted)) == len(set(params_of(counted(last.study, wanted)))) == 6


# The searcher that Tune asks


def test_it_proposes_what_is_missing_and_no_more(storage: optuna.storages.BaseStorage) -> None:
    driver = Driver(storage, a_search(trials=2))
    trials = [driver.ask("a"), driver.ask("b")]
    assert driver.searcher.suggest("c") == driver.searcher.FINISHED
    assert [trial.number for trial in trials] == [0, 1]
    for trial, frozen in zip(trials, driver.study.get_trials(), strict=True):
        assert frozen.params == trial.params
        assert frozen.user_attrs["fingerprints"] == [fingerprint(cell.experiment) for cell in trial.cells]
        assert all(TWO[name][0] <= value <= TWO[name][1] for name, value in trial.params.items())


def test_it_tells_done_failed_and_stopped_trials_apart(storage: optuna.storages.BaseStorage) -> None:
    driver = Driver(storage, a_search(trials=6, prune=True))
    driver.run(0.8)
    driver.run(None)
    for name in "bcde":
        trial = driver.ask(name)
        driver.ended[trial.number] = [valued(cell.experiment) for cell in trial.cells]
    driver.searcher.on_trial_complete("b", {"epoch": 2, "loss": 0.1, "validation_score": 0.6})
    driver.searcher.on_trial_complete("c", {"ended": True}, error=True)
    driver.searcher.on_trial_complete("d", None, error=True)  # its worker died
    driver.searcher.on_trial_complete("e", {"epoch": 4, "validation_score": 0.6}, error=True)  # on the way
    assert driver.states == ["COMPLETE", "FAIL", "PRUNED", "FAIL", "FAIL", "FAIL"]
    assert [row["values"] for row in as_rows(driver.study, a_search(prune=True))] == [[0.8], *[None] * 5]


def test_a_trial_without_all_its_records_failed(storage: optuna.storages.BaseStorage) -> None:
    driver = Driver(storage, a_search(on("toy-ped2"), on("toy-ped2", 1)))
    trial = driver.ask()
    driver.ended[0] = [valued(trial.cells[0].experiment)]
    driver.searcher.on_trial_complete("a", {"ended": True})
    assert driver.states == ["FAIL"]


def test_values_on_the_way_are_reported_by_epoch(storage: optuna.storages.BaseStorage) -> None:
    driver = Driver(storage, a_search(trials=2, prune=True))
    done, stopped = driver.ask("a"), driver.ask("b")
    for epoch, worth in ((1, 0.5), (2, None), (3, 0.7)):
        found = {"epoch": epoch, "loss": 0.1} | ({} if worth is None else {"validation_score": worth})
        driver.searcher.on_trial_result("a", found)
    driver.searcher.on_trial_result("a", {"epoch": 3, "validation_score": 0.9, "ended": True})
    driver.tell("a", done)
    driver.searcher.on_trial_result("b", {"epoch": 1, "validation_score": 0.4})
    driver.searcher.on_trial_complete("b", {"epoch": 2, "validation_score": 0.3})
    trials = driver.study.get_trials()
    assert [trial.intermediate_values for trial in trials] == [{1: 0.5, 3: 0.7}, {1: 0.4, 2: 0.3}]
    assert stopped.number == 1


def test_a_joint_search_has_two_values_to_raise(storage: optuna.storages.BaseStorage) -> None:
    wanted = a_search(on("toy-ped2"), on("toy-avenue"), joint=True, sampler="tpe")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing to read for who runs it
        driver = Driver(storage, wanted)
    trial = driver.ask()
    driver.ended[0] = [valued(cell.experiment, v) for cell, v in zip(trial.cells, (0.9, 0.5), strict=True)]
    driver.searcher.on_trial_complete("a", {"ended": True})
    driver.run(None)
    driver.run()
    assert driver.study.directions == [optuna.study.StudyDirection.MAXIMIZE] * 2
    assert driver.study.metric_names == ["mean AUROC", "worst AUROC"]
    rows = as_rows(driver.study, wanted)
    assert [row["values"] for row in rows] == [[pytest.approx(0.7), 0.5], None, [pytest.approx(0.7)] * 2]


def test_the_trials_are_told_as_they_came_to_their_end(storage: optuna.storages.BaseStorage) -> None:
    wanted = a_search(prune=True)
    dead = Driver(storage, wanted)
    dead.run(0.8)
    interrupted = dead.ask("b")
    driver = Driver(storage, wanted)
    again, failed, stopped = driver.ask("b"), driver.ask("c"), driver.ask("d")
    driver.tell("b", again, 0.6)
    driver.tell("c", failed, None)
    driver.searcher.on_trial_complete("d", {"epoch": 2, "validation_score": 0.6})
    assert as_rows(driver.study, wanted) == [
        {"number": n, "state": s, "params": t.params, "values": v, "fingerprints": [fingerprint(t.cells[0].experiment)]}
        for n, s, t, v in [
            (0, "done", wanted.trial(0, OWN), [0.8]),
            (2, "done", interrupted, [0.6]),
            (3, "failed", failed, None),
            (4, "pruned", stopped, None),
        ]
    ]


def test_trials_are_stopped_early_only_where_asked() -> None:
    from ray.tune.schedulers import ASHAScheduler

    assert scheduler(a_search()) is None
    found = scheduler(a_search(prune=True))
    assert isinstance(found, ASHAScheduler)
    assert found.metric == "validation_score"


# The database


def test_a_search_survives_in_its_database(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/a study.db"
    dead = Driver(open_storage(url), a_search())
    dead.run(0.8)
    left = dead.ask()
    driver = Driver(open_storage(url), a_search())
    assert (driver.missing, driver.ask().params) == (3, left.params)
    attrs = driver.study.user_attrs
    assert attrs["started"] == dead.study.user_attrs["started"]
    assert (attrs["rule"], attrs["proposals"]) == ("crossfit", a_search().proposals)
    assert (
        attrs["sampler"] == "QMCSampler (scrambled Sobol sequence, seed 0; at random until a first trial is complete)"
    )
    assert attrs["space"] == {name: list(ends) for name, ends in TWO.items()}


@pytest.mark.parametrize(
    "url", ["study.db", "sqlite:////nowhere/at/all/study.db", "nosuch://me:secret@host/x", "oracle://me:secret@host/x"]
)
def test_a_database_that_cannot_be_opened_is_named_without_its_password(url: str) -> None:
    with pytest.raises(ConfigError, match=r"^--storage .*: cannot be opened: ") as error:
        open_storage(url)
    assert "secret" not in str(error.value)
    assert "\n" not in str(error.value)


def test_a_databases_address_is_shown_without_its_password() -> None:
    assert shown("postgresql://me:secret@host:5432/studies") == "postgresql://me:***@host:5432/studies"
    assert shown("sqlite:////home/me/study.db") == "sqlite:////home/me/study.db"
    assert shown("secret") == "(not an address of a database)"


# The ratio of two parts as a study


def a_fused_record(undefined: bool = False) -> RunRecord:
    """A curve with its top at a share of 0.333; its own share is that of Ped2."""
    shares = [i / 1000 for i in range(1001)]
    aurocs = [None if undefined else 0.9 - abs(share - 0.333) / 2 for share in shares]
    best = None if undefined else 0.9
    ends = {"best_share": 0.333, "best_auroc": best, "own_share": 1 / 1.01, "own_auroc": aurocs[990]}
    return replace(valued(an_experiment()), fusion={"part": "first", "share": shares, "auroc": aurocs, **ends})


def fusion_trials(storage: optuna.storages.BaseStorage) -> dict[float, float]:
    """AUROC by share of the only study."""
    (name,) = optuna.get_all_study_names(storage)
    trials = optuna.load_study(study_name=name, storage=storage).get_trials()
    assert all(trial.state == TrialState.COMPLETE for trial in trials)
    found = {trial.params["weight of first"]: trial.value for trial in trials}
    assert len(found) == len(trials)
    return found


def test_the_fusion_curve_is_a_study_of_the_records_values(storage: optuna.storages.BaseStorage) -> None:
    record = a_fused_record()
    fusion_study(storage, record)
    assert optuna.get_all_study_names(storage) == [f"fusion amsrc toy-ped2 seed 0 {record.fingerprint}"]
    curve = dict(zip(record.fusion["share"], record.fusion["auroc"], strict=True))
    assert fusion_trials(storage) == {**curve, record.fusion["own_share"]: record.fusion["own_auroc"]}


def test_a_fusion_study_is_made_once_even_if_its_driver_died_over_it(
    storage: optuna.storages.BaseStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    record, add, added = a_fused_record(), optuna.Study.add_trial, []

    def killed(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        if len(added) == 12:
            raise KeyboardInterrupt
        added.append(trial)
        add(study, trial)

    whole = optuna.storages.InMemoryStorage()
    fusion_study(whole, record)
    with monkeypatch.context() as patch:
        patch.setattr(optuna.Study, "add_trial", killed)
        with pytest.raises(KeyboardInterrupt):
            fusion_study(storage, record)
    for _ in range(2):
        fusion_study(storage, record)
        assert fusion_trials(storage) == fusion_trials(whole)


def test_without_a_ratio_or_a_number_there_is_no_fusion_study(storage: optuna.storages.BaseStorage) -> None:
    fusion_study(storage, valued(an_experiment()))
    fusion_study(storage, a_fused_record(undefined=True))
    assert optuna.get_all_study_names(storage) == []


# Through the real evaluation: what is chosen, and by which labels


class Searched:
    """A search of one trained trial beside the trained recipe, and where everything of it lies."""

    def __init__(self, recipes_own: cells_made.Cell) -> None:
        self.home, self.base, self.store = recipes_own.home, recipes_own.experiment, recipes_own.store.path
        self.wanted = self.on(self.store)
        self.study = open_study(optuna.storages.InMemoryStorage(), self.wanted)
        self.study.enqueue_trial({"loss.consistency": 5.0})
        self.results = recipes_own.results
        self.measure(self.store, self.results)
        proposals = searcher(self.study, self.wanted, 2, self.records)
        proposals.suggest("a")
        proposals.suggest("b")
        proposals.on_trial_complete("a", {"ended": True})
        proposals.on_trial_complete("b", None, error=True)

    def on(self, store: Path) -> Search:
        """The search on the cubes and labels of a store."""
        wanted = a_search(self.base, space={"loss.consistency": (0.1, 10.0)}, trials=3)
        return replace(wanted, bases=(Cell(self.base, store),))

    def cells(self, store: Path) -> tuple[Cell, Cell]:
        """The recipe's own and the trial's."""
        (trial,) = self.on(store).trial(0, {"loss.consistency": 5.0}).cells
        return Cell(self.base, store), trial

    def measure(self, store: Path, results: Path) -> list[RunRecord]:
        """The records of both cells against a store's labels; networks are trained once."""
        places = (results, results / "searches" / self.wanted.study)
        found = [run_cell(cell, Job(self.home, place)) for cell, place in zip(self.cells(store), places, strict=True)]
        assert [record.status for record in found] == ["done", "done"]
        return found

    def records(self, trial: Trial) -> list[RunRecord]:
        found = [finished(cell, self.results / "searches" / self.wanted.study) for cell in trial.cells]
        return [record for record in found if record]

    def conclude(self, store: Path, results: Path) -> SearchRecord:
        return conclude(self.on(store), self.study, results)


@pytest.fixture(scope="module")
def searched(evaluated: cells_made.Cell, tmp_path_factory: pytest.TempPathFactory) -> Searched:
    """Read by many tests, changed by none."""
    return Searched(evaluated.copied(tmp_path_factory.mktemp("search")))


def relabelled(searched: Searched, folder: Path, changed: dict[str, np.ndarray]) -> Path:
    """The same cubes under other labels."""
    shutil.copytree(searched.store, folder / "store")
    manifest = json.loads((folder / "store" / "manifest.json").read_text())
    manifest["labels"]["official"] = write_labels(folder / "store", changed)
    (folder / "store" / "manifest.json").write_text(json.dumps(manifest))
    return folder / "store"


def test_a_search_is_concluded_from_its_records(searched: Searched, tmp_path: Path) -> None:
    found = searched.conclude(searched.store, searched.results)
    own, trial = searched.measure(searched.store, searched.results)
    assert (found.study, found.datasets, found.seeds, found.joint) == (searched.wanted.study, ["toy-ped2"], [0], False)
    assert found.reference == [own.fingerprint]
    assert [(row["state"], row["values"]) for row in found.trials] == [
        ("done", [trial.rules["crossfit"]["auroc"]]),
        ("failed", None),
    ]
    chosen = found.chosen["toy-ped2"]
    best = max((own, trial), key=lambda record: record.rules["oracle"]["auroc"])
    value = 5.0 if best is trial else 1.0
    assert chosen["oracle"] == best.rules["oracle"] | {
        "params": {"loss.consistency": value},
        "fingerprints": [best.fingerprint],
    }
    assert chosen["paper"] == own.rules["paper"] | {
        "params": {"loss.consistency": 1.0},
        "fingerprints": [own.fingerprint],
    }
    assert {fold["params"]["loss.consistency"] for fold in chosen["crossfit"]["folds"]} <= {1.0, 5.0}
    assert "setting" not in json.dumps(found.chosen)
    write_search(found, tmp_path)
    assert read_searches(tmp_path) == [found]


def test_a_trial_whose_record_is_gone_is_not_chosen(searched: Searched, tmp_path: Path) -> None:
    shutil.copytree(searched.results, tmp_path / "results")
    _, trial = searched.measure(searched.store, tmp_path / "results")
    path_of(tmp_path / "results" / "searches" / searched.wanted.study, trial).unlink()
    found = searched.conclude(searched.store, tmp_path / "results")
    assert {found.chosen["toy-ped2"][rule]["params"]["loss.consistency"] for rule in ("oracle", "label-free")} == {1.0}
    assert [row["state"] for row in found.trials] == ["done", "failed"]


def test_without_the_recipes_own_record_nothing_is_chosen(searched: Searched, tmp_path: Path) -> None:
    assert searched.conclude(searched.store, tmp_path).chosen == {}


def folds_of(rules: dict[str, Any]) -> list[dict[str, Any]]:
    return list(rules["crossfit"]["folds"])


CHANGES: list[Callable[[np.ndarray], np.ndarray]] = [lambda label: 1 - label, np.random.default_rng(1).permutation]


@pytest.mark.parametrize("change", CHANGES, ids=["flipped", "permuted"])
def test_no_label_of_its_own_fold_moves_a_crossfit_choice(
    searched: Searched, tmp_path: Path, change: Callable[[np.ndarray], np.ndarray]
) -> None:
    """Of epoch and share in each cell, and of the setting in the whole search."""
    before = searched.measure(searched.store, searched.results)
    found = searched.conclude(searched.store, searched.results).chosen["toy-ped2"]
    moved = 0
    for video in TEST:
        results = tmp_path / video / "results"
        changed = labels()
        changed[video] = change(changed[video] if changed[video].any() else labels()["03"])
        store = relabelled(searched, tmp_path / video, changed)
        after = searched.measure(store, results)
        now = searched.conclude(store, results).chosen["toy-ped2"]
        pairs = [(was.rules, is_.rules) for was, is_ in zip(before, after, strict=True)] + [(found, now)]
        for was, is_ in pairs:
            for old, new in zip(folds_of(was), folds_of(is_), strict=True):
                moved += old != new
                assert old == new or old["videos"] != [video]
    assert moved, "the other folds do look at these labels"


def test_no_test_label_moves_a_label_free_choice_or_objective(searched: Searched, tmp_path: Path) -> None:
    before = searched.measure(searched.store, searched.results)
    found = searched.conclude(searched.store, searched.results).chosen["toy-ped2"]
    blind = replace(searched.wanted, rule="label-free")
    for number, change in enumerate(CHANGES):  # flipped, which cell is better turns round, too
        store = relabelled(searched, tmp_path / str(number), {v: change(label) for v, label in labels().items()})
        after = searched.measure(store, tmp_path / str(number) / "results")
        now = searched.conclude(store, tmp_path / str(number) / "results").chosen["toy-ped2"]
        pairs = [(was.rules, is_.rules) for was, is_ in zip(before, after, strict=True)] + [(found, now)]
        for was, is_ in pairs:
            assert was["label-free"]["auroc"] != is_["label-free"]["auroc"], "it is measured on other labels"
            assert {**was["label-free"], "auroc": None} == {**is_["label-free"], "auroc": None}
        for was_, is_now in zip(before, after, strict=True):
            assert blind.values([was_]) == blind.values([is_now]) is not None
            assert was_.rules["oracle"]["auroc"] != is_now.rules["oracle"]["auroc"]


def test_labels_of_other_trials_are_not_mixed_with_these(searched: Searched, tmp_path: Path) -> None:
    """Records measured on other labels than the store holds now are not compared with those that are."""
    store = relabelled(searched, tmp_path, {video: 1 - label for video, label in labels().items()})
    assert searched.conclude(store, searched.results).chosen == {}


# Another store under the same name


def test_a_study_of_other_cubes_or_labels_is_refused() -> None:
    storage = optuna.storages.InMemoryStorage()
    open_study(storage, a_search(), {"toy-ped2": "aaa bbb"})
    open_study(storage, a_search(), {"toy-ped2": "aaa bbb"})
    with pytest.raises(ConfigError, match="measured on other cubes or labels"):
        open_study(storage, a_search(), {"toy-ped2": "aaa ccc"})


def test_a_complete_trial_without_its_records_is_queued_again_once(storage: optuna.storages.BaseStorage) -> None:
    """Elsewhere than where they were written, say; its training stands, so it costs an evaluation."""
    driver = Driver(storage, a_search())
    lost = driver.run()
    driver.run()

    def has_records(trial: optuna.trial.FrozenTrial) -> bool:
        return trial.number != lost.number

    for _ in range(2):
        assert catch_up(driver.study, a_search(), rerun_failed=False, has_records=has_records) == 3
    again = Driver(storage, a_search()).ask()
    assert again.params == lost.params
    assert lost.number not in [trial.number for trial in counted(driver.study, a_search())]
