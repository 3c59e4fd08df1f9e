"""What a node must see and have, and how long nodes are waited for; Ray itself is in the integration tests."""

import errno
import os
import socket
from pathlib import Path

import pytest

from amsrc.errors import ConfigError, RunError
from bench.cluster import connect as cluster
from bench.cluster.connect import Patience, connect, same_code, shared, unseen
from bench.records.provenance import differences, identity


def test_where_the_folders_are_shared_nothing_is_wrong_and_nothing_is_left(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    with shared([home, tmp_path / "results" / "later"], [tmp_path]) as probe:
        assert len(list(home.iterdir())) == 1
        assert len(list(tmp_path.iterdir())) == 2
        assert probe() == ""
    assert list(tmp_path.rglob("*")) == [home]


def test_a_node_with_a_folder_of_its_own_says_which(tmp_path: Path) -> None:
    mark = tmp_path / "results" / ".mark"
    assert unseen([mark], [tmp_path / "data"]) == (
        f"{tmp_path}/data is not there, {tmp_path}/results is not the same folder"
    )


def test_a_folder_that_a_node_cannot_write_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".mark").touch()
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert unseen([tmp_path / ".mark"], []) == f"{tmp_path} cannot be written"


def test_a_folder_that_cannot_be_written_here_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(path: Path, *_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", opened)
    with pytest.raises(ConfigError, match=r"cannot be written \(Permission denied\)"), shared([tmp_path]):
        pytest.fail("it must not come so far")


def test_other_packages_and_other_code_are_told_apart() -> None:
    ours = identity()
    assert list(ours) == ["python", "torch", "numpy", "ray", "amsrc and bench"]
    assert None not in ours.values()
    assert differences(ours, ours) == ""
    theirs = {**ours, "torch": "1.0", "amsrc and bench": None}
    assert differences(theirs, ours) == (
        f"torch 1.0 instead of {ours['torch']}, amsrc and bench is missing instead of {ours['amsrc and bench']}"
    )


def test_a_process_with_other_code_refuses_to_work() -> None:
    same_code(identity())
    with pytest.raises(ConfigError, match=rf"{socket.gethostname()} has numpy .* instead of 1\.0, unlike the machine"):
        same_code({**identity(), "numpy": "1.0"})


def test_patience_ends_when_nothing_has_run_for_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "resources", lambda: {"CPU": 4.0, "GPU": 0.0})
    patience = Patience("a run asks for 1 GPUs", 120)
    for running, now in [(False, 0), (False, 119), (True, 130), (False, 140), (False, 259)]:
        patience.look(running, now)
    with pytest.raises(RunError) as caught:
        patience.look(False, 261)
    assert str(caught.value).startswith(
        "waited 2 minutes for nodes: a run asks for 1 GPUs; the cluster has 4 CPUs and 0 GPUs."
    )


def test_an_address_where_nobody_answers_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray")
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
        monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(
            ConfigError, match=f"RAY_ADDRESS {address}: no Ray cluster answers there .Connection refused"
        ):
            connect()
