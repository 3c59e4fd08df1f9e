"""Training in this process: exact resumption, the guard against non-finite losses, and what is left on the disk."""

import errno
import json
import os
import pickle
from collections.abc import Iterator
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from amsrc.errors import BenchError, ConfigError, DataError, RunError
from amsrc.files import write_file
from amsrc.fuse import Statistics, statistics
from amsrc.store import CubeStore
from bench.experiment.config import Experiment, derive, load
from bench.methods.interface import Learner
from bench.methods.reader import Reader
from bench.records.run_folder import Epoch, HeldOut, forget_scores, history, is_trained, read_epochs, write_epoch
from bench.training import checkpoint, launch, loop
from bench.training.launch import fit, held_out_scores
from bench.training.scoring import Scorer, arithmetic, build, device_of
from tests.cubes_made import Killed, an_experiment, write_store

CPU = torch.device("cpu")
OF_THE_CLOCK = ("seconds", "score_seconds", "cubes_per_s", "peak_memory_gib", "hardware", "restarts")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Sums are made in one order, so that equal means equal in every bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def learners(monkeypatch: pytest.MonkeyPatch) -> list[Learner]:
    """Every learner that a training makes, so that a test can look into the one in memory."""
    made: list[Learner] = []

    def make(e: Experiment, device: torch.device) -> Learner:
        made.append(build(e, device))
        return made[-1]

    monkeypatch.setattr(loop, "build", make)
    return made


def killed(e: Experiment, store: CubeStore, home: Path, after: int, by: type[BaseException] = Killed) -> Path:
    """Train until the end of an epoch, then die. Returns the run's folder."""

    def report(line: Any) -> None:
        if line["epoch"] == after:
            raise by

    with pytest.raises(by):
        fit(e, store, home, report=report)
    (folder,) = (home / "runs").iterdir()
    assert not is_trained(folder)
    return folder


def log(folder: Path) -> list[dict[str, Any]]:
    """The log without what the clock and the machine put into it."""
    return [{name: value for name, value in line.items() if name not in OF_THE_CLOCK} for line in history(folder)]


def written(folder: Path) -> dict[str, bytes]:
    """Weights and scores of epochs, bit by bit."""
    return {
        str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.suffix in (".npz", ".safetensors")
    }


def full_disk(_descriptor: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


# -- resumption ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", ["amsrc", "baseline"])
def test_two_epochs_a_kill_and_two_more_are_four_epochs(tmp_path: Path, recipe: str) -> None:
    e = an_experiment(recipe, train={"decay_epochs": 1})
    store = write_store(tmp_path, e)
    straight = fit(e, store, tmp_path / "straight")
    interrupted = killed(e, store, tmp_path / "killed", after=2)
    assert [line["epoch"] for line in history(interrupted)] == [1, 2]
    seen: list[int] = []
    assert fit(e, store, tmp_path / "killed", report=lambda line: seen.append(line["epoch"])) == interrupted
    assert seen == [3, 4]
    assert sorted(written(straight)) == ["epochs/001.npz", "epochs/002.npz", "epochs/003.npz", "model.safetensors"]
    assert written(interrupted) == written(straight)
    assert log(interrupted) == log(straight)
    assert [line["restarts"] for line in history(interrupted)] == [0, 0, 1, 1]


def test_a_kill_after_every_epoch_changes_nothing(tmp_path: Path) -> None:
    e = an_experiment()
    store = write_store(tmp_path, e)
    straight = fit(e, store, tmp_path / "straight")
    for epoch in range(1, 5):
        folder = killed(e, store, tmp_path / "killed", after=epoch)
    assert (folder / "checkpoint.pt").is_file()
    assert fit(e, store, tmp_path / "killed") == folder
    assert not (folder / "checkpoint.pt").exists()
    assert (written(folder), log(folder)) == (written(straight), log(straight))


@pytest.mark.parametrize("by", [SystemExit, KeyboardInterrupt, RuntimeError])
def test_a_training_that_its_report_stops_goes_on_as_if_it_had_not(tmp_path: Path, by: type[BaseException]) -> None:
    """As a scheduler stops a trial: by an exit or an error out of `report`."""
    e = an_experiment()
    store = write_store(tmp_path, e)
    straight = fit(e, store, tmp_path / "straight")
    stopped = killed(e, store, tmp_path / "stopped", after=2, by=by)
    assert [line["epoch"] for line in history(stopped)] == [1, 2]
    assert torch.load(stopped / "checkpoint.pt", weights_only=True)["log"] == history(stopped)
    assert fit(e, store, tmp_path / "stopped") == stopped
    assert (written(stopped), log(stopped)) == (written(straight), log(straight))


def test_an_epoch_without_its_checkpoint_is_trained_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed after the scores of epoch 2 were written and before its checkpoint was."""
    e = an_experiment()
    store = write_store(tmp_path, e)
    straight = fit(e, store, tmp_path / "straight")
    save = loop.save

    def save_first(folder: Path, networks: Any, phase: str, turns: Any, lines: list[Any]) -> None:
        if len(lines) == 2:
            raise Killed
        save(folder, networks, phase, turns, lines)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(loop, "save", save_first)
        fit(e, store, tmp_path / "killed")
    folder = fit(e, store, tmp_path / "killed")
    assert (written(folder), log(folder)) == (written(straight), log(straight))


@pytest.mark.parametrize("epoch", [2, 4])
def test_a_kill_between_checkpoint_and_log_loses_no_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epoch: int
) -> None:
    e = an_experiment()
    store = write_store(tmp_path, e)

    def write_until(path: Path, content: bytes) -> None:
        if path.name == "log.jsonl" and content.count(b"\n") == epoch:
            raise Killed
        write_file(path, content)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(checkpoint, "write_file", write_until)
        fit(e, store, tmp_path)
    folder = fit(e, store, tmp_path)
    assert [line["epoch"] for line in history(folder)] == [1, 2, 3, 4]


def test_a_finished_run_is_not_trained_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    e = an_experiment(train={"epochs": 1})
    store = write_store(tmp_path, e)
    folder = fit(e, store, tmp_path)
    before = stamped(folder)
    monkeypatch.setattr(launch, "worker_loop", lambda *_: pytest.fail("trained again"))
    assert fit(e, store, tmp_path, report=lambda _: pytest.fail("reported again")) == folder
    assert fit(e, store, tmp_path, workers=2) == folder  # nor does it start Ray
    assert stamped(folder) == before


def stamped(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Content and time of each file but the lock."""
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"]
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in paths}


def test_a_worker_that_starts_after_the_end_leaves_all_as_it_is(tmp_path: Path) -> None:
    """Ray Train starts all workers anew when one dies between the last epoch and the end of all."""
    e = an_experiment()
    store = write_store(tmp_path, e)
    folder = fit(e, store, tmp_path)
    before = stamped(folder)
    loop.worker_loop(loop.Job(e, store.path, folder, "code"), device_of(), lambda line: pytest.fail("trained"))
    assert stamped(folder) == before


def test_what_does_not_touch_training_shares_a_run(tmp_path: Path) -> None:
    e = an_experiment(train={"epochs": 1})
    store = write_store(tmp_path, e)
    folder = fit(e, store, tmp_path)
    other = derive(replace(e, recipe="another-name"), score={"weights": (0.25, 0.75)})
    assert fit(other, store, tmp_path, report=lambda _: pytest.fail("trained again")) == folder


def test_the_seed_and_nothing_else_by_chance_decides(tmp_path: Path) -> None:
    e = an_experiment(train={"epochs": 1, "score_every": 0})
    store = write_store(tmp_path, e)
    weights = [written(fit(replace(e, seed=seed), store, tmp_path / home)) for seed, home in enumerate("ab")]
    torch.rand(7)  # another state of the process
    np.random.seed(3)  # noqa: NPY002
    again = written(fit(e, store, tmp_path / "again"))
    assert weights[0] == again != weights[1]


# -- the guard -----------------------------------------------------------------------------------------------


def poison(store: CubeStore, value: float, video: str = "*") -> None:
    """Spoil one flow of every training cube, behind the store's back."""
    for path in (store.path / "train").glob(f"{video}/flows.npy"):
        flows = np.load(path, "r+")
        flows[:, 0, 0, 0, 0] = value
        flows.flush()


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize(
    ("fusion", "terms"), [("appearance", "consistency"), ("gate", "intensity, gradient, consistency")]
)
def test_a_loss_that_is_not_finite_ends_training_before_the_weights_change(
    tmp_path: Path, learners: list[Learner], value: float, fusion: str, terms: str
) -> None:
    e = an_experiment(model={"fusion": fusion})
    store = write_store(tmp_path, e)
    folder = killed(e, store, tmp_path, after=2)
    checkpoint, lines = (folder / "checkpoint.pt").read_bytes(), history(folder)
    poison(store, value)
    with pytest.raises(RunError, match=rf"amsrc on toy-ped2, seed 0: {terms} .*epoch 3.*train\.learning_rate.*0\.001"):
        fit(e, CubeStore(store.path), tmp_path)
    kept = torch.load(folder / "checkpoint.pt", weights_only=True)["networks"]
    for name, parameter in learners[-1].networks.named_parameters():
        torch.testing.assert_close(parameter.detach(), kept[name], rtol=0, atol=0)
    assert (folder / "checkpoint.pt").read_bytes() == checkpoint
    assert history(folder) == lines
    assert not is_trained(folder)
    poison(store, 0.5)
    assert is_trained(fit(e, CubeStore(store.path), tmp_path))


def test_a_weight_that_overflows_the_sum_is_named(tmp_path: Path) -> None:
    e = an_experiment(loss={"intensity": 1e300})
    with pytest.raises(RunError, match=r"weighted sum .*epoch 1"):
        fit(e, write_store(tmp_path, e), tmp_path)


# -- what is wrong before it starts ---------------------------------------------------------------------------


def test_a_run_is_bound_to_its_cubes(tmp_path: Path) -> None:
    e = an_experiment(train={"epochs": 2})
    one, other = write_store(tmp_path / "one", e), write_store(tmp_path / "other", e, content=1)
    killed(e, one, tmp_path, after=1)
    message = rf"{one.sha256[:12]}.*{other.sha256[:12]}.*--home"
    with pytest.raises(ConfigError, match=message):
        fit(e, other, tmp_path, report=lambda _: pytest.fail("trained"))
    fit(e, one, tmp_path)
    with pytest.raises(ConfigError, match=message):
        fit(e, other, tmp_path)


def test_the_same_cubes_elsewhere_are_the_same(tmp_path: Path) -> None:
    e = an_experiment(train={"epochs": 2})
    one, copy = write_store(tmp_path / "one", e), write_store(tmp_path / "copy", e)
    killed(e, one, tmp_path, after=1)
    assert is_trained(fit(e, copy, tmp_path))


def test_a_home_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    e = an_experiment()
    store = write_store(tmp_path, e)
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(ConfigError, match=r"--home: .*file/"):
        fit(e, store, tmp_path / "file")


def test_held_out_videos_that_leave_too_few_cubes_are_named(tmp_path: Path) -> None:
    e = an_experiment(train={"epochs": 1})
    store = write_store(tmp_path, e, train_cubes=1)
    with pytest.raises(DataError, match=r" 1 training cubes .* 2 in all.* 2 .*train\.held_out is 0\.1"):
        fit(e, store, tmp_path)
    assert not (tmp_path / "runs").exists()
    assert is_trained(fit(derive(e, train={"held_out": 0.0}), store, tmp_path))


@pytest.mark.parametrize("cubes", [0, 1])
def test_too_few_cubes_to_train_on_are_refused(tmp_path: Path, cubes: int) -> None:
    e = an_experiment()
    store = write_store(tmp_path, e, train_cubes=cubes)
    if cubes:  # one in all
        store.manifest["splits"]["train"] = store.manifest["splits"]["train"][:1]
        (store.path / "manifest.json").write_text(json.dumps(store.manifest))
    with pytest.raises(BenchError, match="cubes"):
        fit(e, CubeStore(store.path), tmp_path)


# -- held-out videos -----------------------------------------------------------------------------------------


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The rows of every batch; without scoring they are those that are trained on."""
    batches: list[list[int]] = []
    batch = Reader.batch

    def noted(self: Reader, rows: Any) -> Any:
        batches.append(rows.tolist())
        return batch(self, rows)

    monkeypatch.setattr(Reader, "batch", noted)
    return batches


def test_no_batch_shows_a_held_out_cube(tmp_path: Path, shown: list[list[int]]) -> None:
    e = an_experiment(train={"epochs": 3, "score_every": 0})
    fit(e, write_store(tmp_path, e), tmp_path)
    epochs = [[*one, *two, *three] for one, two, three in zip(*[iter(shown)] * 3, strict=True)]
    assert [sorted(rows) for rows in epochs] == [list(range(40))] * 3  # video 01 whole, nothing of 02
    assert len({tuple(rows) for rows in epochs}) == 3


def test_without_held_out_videos_the_batches_are_those_of_all_cubes(tmp_path: Path, shown: list[list[int]]) -> None:
    e = an_experiment(seed=3, train={"epochs": 2, "score_every": 0, "held_out": 0.0})
    fit(e, write_store(tmp_path, e), tmp_path)
    orders = [np.random.default_rng([3, epoch]).permutation(80).tolist() for epoch in (1, 2)]
    assert shown == [order[first : first + 16] for order in orders for first in range(0, 80, 16)]


def test_what_held_out_cubes_show_never_reaches_the_weights(tmp_path: Path) -> None:
    e = an_experiment(train={"epochs": 2, "score_every": 0})
    store = write_store(tmp_path, e)
    before = written(fit(e, store, tmp_path / "before"))
    poison(store, np.nan, video="02")
    assert written(fit(e, CubeStore(store.path), tmp_path / "after")) == before


def assert_same(one: HeldOut | None, other: HeldOut | None) -> None:
    assert one is not None
    assert other is not None
    assert list(one.pseudo) == list(other.pseudo) == ["flow-swap", "skip", "shuffle", "reverse", "patch"]
    for mine, theirs in [(one.normal, other.normal), *((one.pseudo[kind], other.pseudo[kind]) for kind in one.pseudo)]:
        assert list(mine) == list(theirs) == ["consistency", "prediction"]
        for part in mine:
            np.testing.assert_array_equal(mine[part], theirs[part])


def test_the_held_out_scores_of_an_epoch_are_those_of_its_network(tmp_path: Path, learners: list[Learner]) -> None:
    e = an_experiment(train={"epochs": 4})
    store = write_store(tmp_path, e)
    found: list[HeldOut | None] = []

    def look(line: Any) -> None:
        found.append(Scorer(e, learners[-1], CPU).held_out(store.train))

    folder = fit(e, store, tmp_path, report=look)
    epochs = read_epochs(folder)
    assert [epoch.number for epoch in epochs] == [1, 2, 3]
    for epoch, expected in zip(epochs, found[:3], strict=True):
        assert_same(epoch.held_out, expected)
        assert list(epoch.scores) == list(epoch.statistics) == ["consistency", "prediction"]
        assert {len(scores) for scores in epoch.scores.values()} == {len(store.test)}
    assert_same(held_out_scores(e, store, folder), found[3])


def test_the_held_out_scores_of_the_last_epoch_are_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    e = an_experiment(train={"epochs": 1})
    store = write_store(tmp_path, e)
    folder = fit(e, store, tmp_path)
    made = held_out_scores(e, store, folder)
    assert (folder / "held_out.npz").is_file()
    with monkeypatch.context() as patch:
        patch.setattr(launch, "load", lambda *_: pytest.fail("scored again"))
        assert_same(held_out_scores(e, store, folder), made)
    forget_scores(folder)
    assert not (folder / "held_out.npz").exists()
    assert_same(held_out_scores(e, store, folder), made)


def test_without_held_out_videos_there_are_no_scores_of_them(tmp_path: Path) -> None:
    e = an_experiment(train={"epochs": 2, "held_out": 0.0})
    store = write_store(tmp_path, e)
    folder = fit(e, store, tmp_path)
    assert [epoch.held_out for epoch in read_epochs(folder)] == [None]
    assert held_out_scores(e, store, folder) is None
    assert not (folder / "held_out.npz").exists()


def test_what_is_not_trained_has_no_held_out_scores(tmp_path: Path) -> None:
    e = an_experiment()
    store = write_store(tmp_path, e)
    assert held_out_scores(an_experiment("null-flow"), store, tmp_path) is None
    with pytest.raises(RunError, match=r"amsrc on toy-ped2, seed 0 is not trained .*`amsrc-bench train`"):
        held_out_scores(e, store, tmp_path)


def an_epoch(number: int, *parts: str) -> Epoch:
    """Every array of it another one, of any number of parts."""
    count = iter(range(100))
    scores = lambda: {part: np.arange(3, dtype=np.float32) + next(count) for part in parts}  # noqa: E731
    held_out = HeldOut(scores(), {"skip": scores(), "flow-swap": scores()})
    return Epoch(number, scores(), {part: Statistics(*range(i, i + 5)) for i, part in enumerate(parts)}, held_out)


@pytest.mark.parametrize("parts", [("one",), ("one", "two"), ("one", "two", "a.third")])
def test_epochs_are_read_as_they_were_written_and_in_order(tmp_path: Path, parts: tuple[str, ...]) -> None:
    for number in (1000, 20, 3):
        write_epoch(tmp_path, an_epoch(number, *parts))
    found = read_epochs(tmp_path)
    assert [epoch.number for epoch in found] == [3, 20, 1000]
    expected, kept = an_epoch(20, *parts), found[1].held_out
    assert found[1].statistics == expected.statistics
    assert kept is not None
    assert expected.held_out is not None
    assert list(kept.pseudo) == ["skip", "flow-swap"]
    for mine, theirs in (
        (found[1].scores, expected.scores),
        (kept.normal, expected.held_out.normal),
        *((kept.pseudo[kind], expected.held_out.pseudo[kind]) for kind in kept.pseudo),
    ):
        assert {part: values.tolist() for part, values in mine.items()} == {
            part: values.tolist() for part, values in theirs.items()
        }
        assert list(mine) == list(parts)
    assert read_epochs(tmp_path / "nothing") == []


def test_a_damaged_file_of_scores_is_named(tmp_path: Path) -> None:
    e = an_experiment(train={"epochs": 2})
    store = write_store(tmp_path, e)
    folder = fit(e, store, tmp_path)
    held_out_scores(e, store, folder)
    for path, read in (
        (folder / "epochs" / "001.npz", lambda: read_epochs(folder)),
        (folder / "held_out.npz", lambda: held_out_scores(e, store, folder)),
    ):
        whole = path.read_bytes()
        with np.load(path, allow_pickle=False) as archive:
            spoilt = bytearray(whole)
            spoilt[whole.index(archive["pseudo.skip.prediction"].tobytes())] ^= 255
        for content in (b"", b"no archive", whole[: len(whole) // 2], bytes(spoilt)):
            path.write_bytes(content)
            with pytest.raises(RunError, match=rf"{path.name} is damaged \(.*\)\. Delete it and evaluate again"):
                read()
    np.savez(folder / "epochs" / "001.npz", allow_pickle=False, **{"score.prediction": np.zeros(3)})
    with pytest.raises(RunError, match=r"001\.npz is damaged .*'statistics\.prediction'"):
        read_epochs(folder)


@pytest.mark.parametrize("text", ["{", "3\n", '{"epoch": 1}\n{"epo'])
def test_a_damaged_log_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "log.jsonl").write_text(text)
    with pytest.raises(RunError, match=r"log\.jsonl is damaged .* Delete it"):
        history(tmp_path)


def test_a_checkpoint_of_something_else_is_named_without_advice_to_load_it(tmp_path: Path) -> None:
    networks = build(an_experiment(), CPU).networks
    path = tmp_path / "checkpoint.pt"
    state = {"networks": networks.state_dict(), "phase": "train", "optimisers": {}}
    for content in ({"something": torch.zeros(1)}, {**state, "networks": {}, "log": []}, [1], {**state, "log": [{}]}):
        torch.save(content, path)
        with pytest.raises(RunError, match=r"checkpoint\.pt is damaged .*first epoch"):
            checkpoint.resume(tmp_path, networks, CPU)
    path.write_bytes(b"x")
    with pytest.raises(RunError, match=r"checkpoint\.pt is damaged") as caught:
        checkpoint.resume(tmp_path, networks, CPU)
    assert "weights_only" not in str(caught.value)


def test_a_trained_run_is_found_trained_where_nothing_may_be_written(tmp_path: Path) -> None:
    e = an_experiment(train={"epochs": 1})
    store = write_store(tmp_path, e)
    folder = fit(e, store, tmp_path)
    (folder / ".lock").unlink()
    (folder / ".lock").mkdir()  # nobody can open it for writing
    assert fit(e, store, tmp_path) == folder


# -- settings ------------------------------------------------------------------------------------------------


def test_the_learning_rate_follows_its_formula(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    e = an_experiment(train={"epochs": 7, "learning_rate": 0.01, "decay": 0.5, "decay_epochs": 3, "score_every": 0})
    steps: list[float] = []
    step = torch.optim.Adam.step

    def counted(self: torch.optim.Adam, *args: Any) -> Any:
        steps.append(self.param_groups[0]["lr"])
        return step(self, *args)

    monkeypatch.setattr(torch.optim.Adam, "step", counted)
    folder = fit(e, write_store(tmp_path, e), tmp_path)
    rates = [0.01, 0.01, 0.01, 0.005, 0.005, 0.005, 0.0025]
    assert [line["learning_rate"] for line in history(folder)] == pytest.approx(rates, rel=1e-12)
    assert steps == pytest.approx(np.repeat(rates, 3), rel=1e-12)  # 40 cubes are 3 batches of 16


def test_the_log_holds_the_mean_of_each_term(tmp_path: Path) -> None:
    e = an_experiment(train={"epochs": 3}, loss={"intensity": 2.0, "gradient": 3.0, "consistency": 0.5})
    lines = history(fit(e, write_store(tmp_path, e), tmp_path))
    for line in lines:
        total = 2 * line["intensity"] + 3 * line["gradient"] + 0.5 * line["consistency"]
        assert line["loss"] == pytest.approx(total, rel=1e-5)
        assert line["workers"] == 1
        assert line["precision"] == arithmetic("auto", device_of())[0]
        assert line["cubes_per_s"] == pytest.approx(40 / line["seconds"])  # of two videos one is held out
    assert lines[-1]["loss"] < lines[0]["loss"]


@pytest.mark.parametrize(("every", "epochs"), [(0, []), (1, [1, 2, 3]), (2, [2]), (9, [])])
def test_epochs_are_scored_when_asked_and_training_does_not_notice(
    tmp_path: Path, every: int, epochs: list[int]
) -> None:
    e = an_experiment(train={"score_every": 0})
    store = write_store(tmp_path, e)
    plain = fit(e, store, tmp_path)
    scored = fit(derive(e, train={"score_every": every}), store, tmp_path)
    assert sorted(p.name for p in scored.glob("epochs/*.npz")) == [f"{epoch:03d}.npz" for epoch in epochs]
    assert (scored / "model.safetensors").read_bytes() == (plain / "model.safetensors").read_bytes()


def test_the_scores_of_an_epoch_are_those_of_its_network(tmp_path: Path, learners: list[Learner]) -> None:
    e = an_experiment(train={"epochs": 3})
    store = write_store(tmp_path, e)
    found: dict[str, Any] = {}

    def look(line: Any) -> None:
        if line["epoch"] == 2:
            scorer = Scorer(e, learners[-1], CPU)
            found.update({split: scorer(Reader(getattr(store, split), CPU)) for split in ("train", "test")})

    folder = fit(e, store, tmp_path, report=look)
    kept = read_epochs(folder)[1]
    for part, expected in statistics(found["train"]).items():
        np.testing.assert_allclose(kept.scores[part], found["test"][part], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(astuple(kept.statistics[part]), astuple(expected), rtol=1e-4)


def test_training_reads_no_label(tmp_path: Path) -> None:
    e = an_experiment(train={"epochs": 2})
    store = write_store(tmp_path, e)
    for path in store.path.glob("labels-*.npz"):
        path.unlink()
    assert is_trained(fit(e, store, tmp_path))


# -- files ---------------------------------------------------------------------------------------------------


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    e = an_experiment()
    store = write_store(tmp_path, e)
    straight = fit(e, store, tmp_path / "straight")
    with monkeypatch.context() as patch:
        fill = lambda line: patch.setattr(os, "fsync", full_disk) if line["epoch"] == 2 else None  # noqa: E731
        with pytest.raises(RunError, match=r"cannot be written .*No space left on device"):
            fit(e, store, tmp_path / "full", report=fill)
    (folder,) = (tmp_path / "full" / "runs").iterdir()
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert files - {".lock"} == {"checkpoint.pt", "epochs/001.npz", "epochs/002.npz", "log.jsonl", "run.json"}
    state = torch.load(folder / "checkpoint.pt", weights_only=True)
    assert [line["epoch"] for line in state["log"]] == [1, 2]
    fit(e, store, tmp_path / "full")
    assert (written(folder), log(folder)) == (written(straight), log(straight))


def test_a_full_disk_at_the_end_does_not_look_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    e = an_experiment()
    store = write_store(tmp_path, e)
    with monkeypatch.context() as patch:
        fill = lambda line: patch.setattr(os, "fsync", full_disk) if line["epoch"] == 4 else None  # noqa: E731
        with pytest.raises(RunError, match=r"model\.safetensors: .*No space left on device"):
            fit(e, store, tmp_path, report=fill)
    (folder,) = (tmp_path / "runs").iterdir()
    assert not is_trained(folder)
    assert is_trained(fit(e, store, tmp_path, report=lambda _: pytest.fail("an epoch was trained again")))


def test_a_checkpoint_holds_no_foreign_objects(tmp_path: Path) -> None:
    """What is not tensors, numbers and text in it is refused, and not run."""
    e = an_experiment()
    store = write_store(tmp_path, e)
    folder = killed(e, store, tmp_path, after=1)
    state = torch.load(folder / "checkpoint.pt", weights_only=True)
    assert set(state) == {"networks", "phase", "optimisers", "log"}
    trap = tmp_path / "run"
    torch.save({**state, "log": Trap(trap)}, folder / "checkpoint.pt")
    with pytest.raises((pickle.UnpicklingError, BenchError)):
        fit(e, store, tmp_path)
    assert not trap.exists()


class Trap:
    """Unpickled, it would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("recipe", ["amsrc", "no-gate-concat", "baseline", "velocity-gmm", "conv-ae"])
def test_the_weights_kept_score_as_the_networks_in_memory(tmp_path: Path, learners: list[Learner], recipe: str) -> None:
    e = an_experiment(recipe, train={"epochs": 2})
    store = write_store(tmp_path, e)
    folder = fit(e, store, tmp_path)
    test = Reader(store.test, CPU)
    loaded = checkpoint.load(e, folder, CPU)
    assert not loaded.networks.training
    kept, held = Scorer(e, loaded, CPU)(test), Scorer(e, learners[0], CPU)(test)
    assert list(kept) == list(held) == list(e.parts)
    for part in kept:
        np.testing.assert_array_equal(kept[part], held[part])
    names = set(load_file(folder / "model.safetensors"))
    assert names == set(learners[0].networks.state_dict())
    if e.epochs:
        assert any(name.endswith("running_var") for name in names)  # what BatchNorm learned belongs to it


def test_the_folder_says_what_was_trained(tmp_path: Path) -> None:
    e = an_experiment(train={"epochs": 1})
    store = write_store(tmp_path, e)
    noted = json.loads((fit(e, store, tmp_path) / "run.json").read_text())
    assert noted["store"] == store.sha256
    assert load(noted["experiment"]) == e
