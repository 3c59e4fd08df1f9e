"""Places: a folder and an object store answer the same questions alike, and what is wrong with one is said at once."""

import pickle
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from moto import settings

from amsrc.errors import ConfigError, RunError
from bench.storage import places
from bench.storage.places import (
    Place,
    Remote,
    files_below,
    local_folder,
    locked,
    place,
    remove_tree,
    upload,
    writable,
    write_file,
)
from tests.messages import error_naming
from tests.object_store import Wire, options, remote, serving


@pytest.fixture(scope="module")
def server() -> Iterator[int]:
    with serving() as port:
        yield port


@pytest.fixture(params=["folder", "object store"])
def empty(request: pytest.FixtureRequest, server: int, tmp_path: Path) -> Place:
    return tmp_path / "home" if request.param == "folder" else remote(server, tmp_path.name)


# -- the same questions --------------------------------------------------------------------------------------


def test_a_folder_that_cannot_be_locked_is_named(tmp_path: Path) -> None:
    (tmp_path / ".lock").mkdir()
    with (
        pytest.raises(ConfigError, match=r"cannot write to .*: Is a directory\. Choose another --home"),
        locked(tmp_path),
    ):
        pass


def test_what_was_written_is_there_and_comes_back(empty: Place) -> None:
    path = empty / "records" / "amsrc" / "seed0.json"
    assert not path.exists()
    write_file(path, b"first")
    write_file(path, b"second \xc3\xa4")
    assert (path.read_bytes(), path.read_text(encoding="utf-8")) == (b"second \xc3\xa4", "second ä")
    with path.open("rb") as stream:
        assert stream.read(3) == b"sec"
    assert (path.exists(), path.is_file(), path.is_dir()) == (True, True, False)
    assert (path.parent.exists(), path.parent.is_file(), path.parent.is_dir()) == (True, False, True)
    assert (path.name, path.stem, path.parent.name) == ("seed0.json", "seed0", "amsrc")
    assert path.parent.parent / "amsrc" == path.parent


def test_what_is_not_there_is_no_file_and_raises_as_a_path_does(empty: Place) -> None:
    assert not (empty / "nothing").is_file()
    for call in ((empty / "nothing").read_bytes, (empty / "nothing").read_text, (empty / "nothing").unlink):
        with pytest.raises(FileNotFoundError):
            call()
    (empty / "nothing").unlink(missing_ok=True)


def test_files_are_found_by_the_parts_of_their_names(empty: Place) -> None:
    for name in ("a/01/x.json", "a/02/x.json", "b/01/x.json", "a/x.json", "a/01/y.npz"):
        write_file(empty / name, b"")

    for pattern, names in {
        "a/*/x.json": ["a/01/x.json", "a/02/x.json"],
        "*/01/*": ["a/01/x.json", "a/01/y.npz", "b/01/x.json"],
        "a/x.json": ["a/x.json"],
    }.items():
        assert files_below(empty, pattern) == [empty / name for name in names]
    assert files_below(empty / "absent", "*") == []


def test_files_and_folders_can_be_removed(empty: Place) -> None:
    write_file(empty / "epochs" / "001.npz", b"1")
    write_file(empty / "epochs" / "002.npz", b"2")
    write_file(empty / "log.jsonl", b"3")
    (empty / "epochs" / "001.npz").unlink()
    assert [path.name for path in files_below(empty / "epochs", "*")] == ["002.npz"]
    remove_tree(empty / "epochs")
    remove_tree(empty / "epochs")
    assert files_below(empty / "epochs", "*") == []
    assert (empty / "log.jsonl").read_bytes() == b"3"


def test_a_writable_place_is_left_as_it_was(empty: Place) -> None:
    writable(empty)
    assert files_below(empty, "*") == []


def test_places_travel_between_processes(empty: Place) -> None:
    write_file(empty / "x", b"1")
    assert (pickle.loads(pickle.dumps(empty)) / "x").read_bytes() == b"1"  # noqa: S301


def test_one_process_at_a_time_is_at_work_in_a_folder(
    empty: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import fcntl

    monkeypatch.setenv("AMSRC_CACHE", str(tmp_path / "node"))
    if isinstance(empty, Path):
        empty.mkdir()
    with locked(empty):
        (lock,) = [p for p in tmp_path.rglob("*") if p.is_file()]
        with lock.open("w") as other, pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with lock.open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


# -- addresses -----------------------------------------------------------------------------------------------


def test_an_address_is_read_and_shown_as_it_was_given() -> None:
    given = "s3://bucket/some/prefix?region=eu-west-1&endpoint_override=http://127.0.0.1:9000"
    found = place(given, "--home")
    assert found == Remote("bucket/some/prefix", "region=eu-west-1&endpoint_override=http://127.0.0.1:9000")
    assert str(found) == given
    assert str(place("s3://bucket", "--home") / "runs") == "s3://bucket/runs"
    assert place("relative", "--home") == Path("relative").absolute()
    assert place("~/work", "--home") == Path("~/work").expanduser()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gs://bucket/x", r"--home gs://\.\.\.: give a folder or s3://BUCKET/PREFIX"),
        ("s3:///x", "give a folder or s3://BUCKET/PREFIX"),
        ("s3://key:secret@bucket/x", "--home: keys do not belong into an address"),
        ("s3://bucket/x?regoin=a", "unknown part of an s3:// address 'regoin'; did you mean: region"),
        ("s3://bucket/a//b", "no names between slashes may be empty"),
        ("s3://bucket/x?endpoint_override=ftp://host", "endpoints speak http or https"),
        ("s3://bucket/x?endpoint_override=http://me:secret@host", "--home: keys do not belong into an address"),
        ("s3://bucket/x?access_key=a", "unknown part of an s3:// address 'access_key'"),
    ],
)
def test_an_address_that_makes_no_sense_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as refused:
        place(text, "--home")
    assert "secret" not in str(refused.value)


def test_what_cannot_lie_in_a_store_has_a_folder_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AMSRC_CACHE", str(tmp_path))
    one, other = local_folder(Remote("bucket/a")), local_folder(Remote("bucket/b"))
    assert one != other
    assert {one.parent, other.parent} == {tmp_path / "remote"}
    assert local_folder(Path("/home/me/work")) == Path("/home/me/work")


# -- what is wrong is said before anything starts ------------------------------------------------------------


def test_a_missing_bucket_is_said_at_once(server: int) -> None:
    with error_naming(ConfigError, "--home", "s3://nowhere/x", "bucket"):
        writable(Remote("nowhere/x", options(server)))


def test_a_store_that_does_not_answer_is_said_within_seconds() -> None:
    before = time.monotonic()
    with error_naming(ConfigError, "--results", "s3://bench/x", "answer"):
        writable(remote(1, "x"), "--results")
    assert time.monotonic() - before < 15


def test_keys_that_do_not_fit_are_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving() as port:
        monkeypatch.setattr(settings, "INITIAL_NO_AUTH_ACTION_COUNT", 0.0)  # from now on it looks at keys
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAUNKNOWN")
        places._system.cache_clear()  # keys are read when a connection is made
        with pytest.raises(ConfigError, match="access is denied to these keys"):
            writable(remote(port, "x"))
    places._system.cache_clear()


def test_a_store_that_is_lost_on_the_way_ends_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "ATTEMPTS", 2)
    with error_naming(RunError, "s3://bench/x", "answer"):
        write_file(remote(1, "x"), b"")


# -- dropped connections -------------------------------------------------------------------------------------

LARGE = bytes(range(256)) * 12_000  # 3 MB: more than a broken connection carries


def test_a_transfer_whose_connection_breaks_is_repeated(server: int, tmp_path: Path) -> None:
    with Wire(server) as wire:
        target = remote(wire.port, tmp_path.name) / "checkpoint.pt"
        wire.cuts = 2
        write_file(target, LARGE)
        assert wire.broken == 2
        wire.cuts, wire.broken = 2, 0
        assert target.read_bytes() == LARGE
        assert wire.broken == 2


# -- whole or not at all -------------------------------------------------------------------------------------


def test_of_a_folder_one_file_appears_after_all_others(
    server: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Uploads of a folder whose last file is there are whole; one of an earlier upload goes first."""
    for name in ("frames.npy", "a-shard.json", "boxes.npy"):
        (tmp_path / name).write_bytes(name.encode())
    target = remote(server, tmp_path.name)
    write_file(target / "a-shard.json", b"of an earlier upload")
    seen: list[tuple[str, bool]] = []
    copy = shutil.copyfileobj

    def copied(source: Any, stream: Any, length: int) -> None:
        seen.append((Path(source.name).name, (target / "a-shard.json").is_file()))
        copy(source, stream, length)

    monkeypatch.setattr(places.shutil, "copyfileobj", copied)
    upload(tmp_path, target, last="a-shard.json")
    assert seen == [("boxes.npy", False), ("frames.npy", False), ("a-shard.json", False)]
    assert (target / "frames.npy").read_bytes() == b"frames.npy"
    assert (target / "a-shard.json").read_bytes() == b"a-shard.json"


def test_an_upload_that_fails_does_not_say_that_it_is_whole(
    server: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "ATTEMPTS", 1)
    for name in ("boxes.npy", "flows.npy", "shard.json"):
        (tmp_path / name).write_bytes(LARGE)
    with Wire(server, cuts=1000) as wire:
        target = remote(wire.port, tmp_path.name)
        with pytest.raises(RunError, match="cannot be written"):
            upload(tmp_path, target, last="shard.json")
    assert not (remote(server, tmp_path.name) / "shard.json").is_file()
