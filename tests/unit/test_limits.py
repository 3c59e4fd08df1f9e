"""What ends a training of several workers."""

import json
from pathlib import Path

import pytest
from ray.exceptions import ActorDiedError
from ray.train.v2._internal.exceptions import UserExceptionWithTraceback
from ray.train.v2.api.exceptions import ControllerError

from amsrc.errors import BenchError, DataError, RunError
from bench.cluster.connect import Patience
from bench.training.limits import DEATHS, Deaths, Waiting, own

DIED = {1: ActorDiedError()}


def write_epochs(folder: Path, number: int) -> None:
    (folder / "log.jsonl").write_text("".join(json.dumps({"epoch": n + 1}) + "\n" for n in range(number)))


def test_workers_may_die_as_often_as_epochs_get_done(tmp_path: Path) -> None:
    deaths = Deaths(tmp_path)
    for epoch in range(1, 20):
        write_epochs(tmp_path, epoch)
        for _ in range(DEATHS):
            deaths.after_exception(None, DIED)


def test_deaths_without_an_epoch_in_between_end_the_run(tmp_path: Path) -> None:
    deaths = Deaths(tmp_path)
    write_epochs(tmp_path, 3)
    for _ in range(DEATHS):
        deaths.after_exception(None, DIED)
    with pytest.raises(RunError, match=r"workers died 4 times in a row without finishing an epoch; the last one: .*"):
        deaths.after_exception(None, DIED)


@pytest.mark.parametrize("error", [RunError("not finite"), DataError("damaged")])
def test_an_error_that_would_come_again_ends_the_run_at_once(tmp_path: Path, error: BenchError) -> None:
    """Also where the other workers died of it."""
    with pytest.raises(type(error), match=str(error)):
        Deaths(tmp_path).after_exception(None, {**DIED, 0: UserExceptionWithTraceback(error, "traceback")})


def test_an_error_is_found_inside_rays_own() -> None:
    error = RunError("not finite")
    assert own(error) is error
    assert own(UserExceptionWithTraceback(error, "traceback")) is error
    assert own(ControllerError(UserExceptionWithTraceback(error, "traceback"))) is error


def test_waiting_ends_and_work_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    class RestartingState: ...

    class RunningState: ...

    monkeypatch.setattr("bench.cluster.connect.resources", lambda: {"CPU": 1.0, "GPU": 0.0})
    waiting = Waiting(Patience("--workers 2 needs 2 CPUs", 0.25))
    for state in [RestartingState(), RestartingState(), RunningState()] * 5:
        waiting.after_controller_state_update(None, state)
    with pytest.raises(RunError, match="--workers 2 needs 2 CPUs; the cluster has 1 CPUs and 0 GPUs"):
        for _ in range(20):
            waiting.after_controller_state_update(None, RestartingState())
