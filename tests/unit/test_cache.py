"""This node's copies of stores: right, made once, limited, and never taken away from who reads them."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Timer
from typing import Any

import numpy as np
import pytest

from amsrc.errors import ConfigError, DataError, RunError
from amsrc.store import SPLITS, CubeStore
from bench.storage import node_cache
from bench.storage.node_cache import open_store, over_network, verify
from bench.storage.places import Place, Remote, upload, write_file
from tests.cubes_made import TEST, an_experiment, write_regions, write_store
from tests.object_store import Wire, remote, serving

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def server() -> Iterator[int]:
    with serving() as port:
        yield port


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This node's own folder."""
    monkeypatch.setenv("AMSRC_CACHE", str(tmp_path / "node"))
    monkeypatch.setattr(node_cache, "_held", {})
    return tmp_path / "node"


def put(store: CubeStore, target: Remote) -> Remote:
    """Upload a store as `prepare` does."""
    for split in SPLITS:
        for shard in store.shards(split):
            upload(store.path / split / shard.video, target / split / shard.video, last="shard.json")
    for name in (*store.beside_cubes(), "manifest.json"):
        write_file(target / name, (store.path / name).read_bytes())
    return target


@pytest.fixture
def store(tmp_path: Path) -> CubeStore:
    return write_store(tmp_path / "made", an_experiment())


@pytest.fixture
def far(store: CubeStore, server: int, tmp_path: Path) -> Remote:
    return put(store, remote(server, tmp_path.name))


def same(copy: CubeStore, store: CubeStore) -> bool:
    rows = np.arange(len(store.train))[::-3]
    arrays = [(copy.train.frames(rows), store.train.frames(rows)), (copy.train.flows(rows), store.train.flows(rows))]
    arrays += [(copy.labels("official")[video], label) for video, label in store.labels("official").items()]
    return copy.sha256 == store.sha256 and all(np.array_equal(a, b) for a, b in arrays)


def test_the_copy_is_the_store_and_is_made_once(far: Remote, store: CubeStore, node: Path) -> None:
    copy = open_store(far)
    assert node in copy.path.parents
    assert copy.origin == far
    assert same(copy, store)
    copy.verify()
    written = {path: path.stat().st_mtime_ns for path in copy.path.rglob("*.npy")}
    assert open_store(far).path == copy.path
    assert {path: path.stat().st_mtime_ns for path in copy.path.rglob("*.npy")} == written


def test_the_copy_has_the_regions_of_the_store(store: CubeStore, server: int, tmp_path: Path, node: Path) -> None:
    found = {video: np.arange(6, dtype=np.int32).reshape(1, 6) + number for number, video in enumerate(TEST)}
    write_regions(store.path, found)
    copy = open_store(put(CubeStore(store.path), remote(server, f"{tmp_path.name}-regions")))
    regions = copy.regions()
    assert regions is not None and node in copy.path.parents
    assert all((regions[video] == found[video]).all() for video in TEST)
    copy.verify()


def test_a_store_on_a_disk_of_this_node_is_read_where_it_lies(store: CubeStore, node: Path) -> None:
    assert open_store(store.path).path == store.path
    assert not node.exists()


def test_a_store_on_a_network_is_copied_too(store: CubeStore, node: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_cache, "over_network", lambda path: path != node)
    copy = open_store(store.path)
    assert node in copy.path.parents
    assert same(copy, store)


def test_what_is_over_a_network_is_told_by_the_mount_it_is_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = (
        "22 1 254:0 / / rw - ext4 /dev/vda rw\n"
        "36 22 0:31 / /shared rw shared:1 - nfs4 fs.example.org:/ rw,vers=4.1\n"
        "37 36 254:1 / /shared/local\\040disk rw - xfs /dev/vdb rw\n"
    )
    read_text = Path.read_text
    monkeypatch.setattr(
        Path, "read_text", lambda self, *a, **k: table if self.name == "mountinfo" else read_text(self, *a, **k)
    )
    assert over_network(Path("/shared"))
    assert over_network(Path("/shared/home/stores"))
    assert not over_network(Path("/shared/local disk/stores"))
    assert not over_network(Path("/sharedelse"))


def processes(number: int, far: Remote, tmp_path: Path) -> list["subprocess.Popen[str]"]:
    """Processes that open a store, print where, and read it until their input ends."""
    code = (
        "import sys; from bench.storage.node_cache import open_store; from bench.storage.places import Remote\n"
        "store = open_store(Remote(*sys.argv[1:])); print(store.path, flush=True); sys.stdin.read()\n"
        "print(store.train.frames(__import__('numpy').arange(2)).shape)"
    )
    command = [sys.executable, "-c", code, far.key, far.options]
    pipe = subprocess.PIPE
    return [subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=ROOT) for _ in range(number)]


def ended(process: "subprocess.Popen[str]") -> str:
    output, _ = process.communicate("", timeout=60)
    assert process.returncode == 0
    return output


def opened(process: "subprocess.Popen[str]") -> list[str]:
    """What it prints until it has the store open."""
    assert process.stdout is not None
    giving_up = Timer(60, process.kill)
    giving_up.start()
    lines = [""]
    while not lines[-1].startswith("/"):
        lines.append(process.stdout.readline())
        assert lines[-1], "killed, or ended by itself"
    giving_up.cancel()
    return lines


def test_of_several_processes_one_fills_and_the_others_wait_for_that_alone(
    far: Remote, node: Path, tmp_path: Path
) -> None:
    """All have it open at the same time: none waits until another has done its work on the copy and ends."""
    at_work = processes(4, far, tmp_path)
    lines = [opened(process) for process in at_work]
    for process in at_work:
        ended(process)
    assert sum("copying s3://" in line for printed in lines for line in printed) == 1
    assert len({printed[-1] for printed in lines}) == 1


def test_after_a_failure_what_waits_is_not_copied_first(
    far: Remote, node: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def failing(place: Remote, name: str, copy: Path, sha: str) -> None:
        asked.append(name)
        raise DataError(f"{name} is damaged")

    monkeypatch.setattr(node_cache, "_fetch", failing)
    monkeypatch.setattr(node_cache, "AT_ONCE", 1)
    with pytest.raises(DataError, match="is damaged"):
        open_store(far)
    assert len(asked) < 5, "of more than twenty files"


def test_a_copy_that_was_interrupted_is_gone_on_with(far: Remote, store: CubeStore, node: Path) -> None:
    copy = open_store(far)
    whole, kept = copy.path, copy.path / "train" / "01" / "flows.npy"
    node_cache._held.clear()
    (whole / "manifest.json").unlink()  # written last
    (whole / "test" / "03" / "boxes.npy").unlink()
    damaged = whole / "train" / "02" / "frames.npy"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    before = kept.stat().st_mtime_ns
    assert same(open_store(far), store)
    assert kept.stat().st_mtime_ns == before
    open_store(far).verify()


def test_a_transfer_whose_connection_breaks_is_repeated(
    far: Remote, store: CubeStore, node: Path, tmp_path: Path, server: int
) -> None:
    with Wire(server, cuts=3, carry=20_000) as wire:
        assert same(open_store(remote(wire.port, tmp_path.name)), store)
        assert wire.broken == 3


def test_where_the_nodes_own_folder_is_on_a_network_too_nothing_is_copied(
    store: CubeStore, node: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_cache, "over_network", lambda path: True)
    assert open_store(store.path).path == store.path


def test_the_store_itself_is_verified_and_not_its_copy(far: Remote, node: Path) -> None:
    open_store(far)
    verify(far)
    write_file(far / "test" / "04" / "frames.npy", b"other")
    (far / "train" / "01" / "boxes.npy").unlink()
    with pytest.raises(DataError, match=r"damaged or missing: train/01/boxes\.npy, test/04/frames\.npy"):
        verify(far)


def test_copies_make_room_on_a_full_disk_as_well(
    far: Remote, server: int, node: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = open_store(far).path
    for held in node_cache._held.values():
        held.close()
    node_cache._held.clear()
    usage = shutil.disk_usage

    def nearly_full(path: Path) -> Any:
        return usage(path)._replace(free=0 if first.is_dir() else 10**9)

    monkeypatch.setattr(node_cache.shutil, "disk_usage", nearly_full)
    second = open_store(another(server, tmp_path, 1)).path
    assert second.is_dir()
    assert not first.exists()


# -- damage --------------------------------------------------------------------------------------------------


def test_bytes_that_are_not_the_manifests_are_refused(far: Remote, node: Path) -> None:
    bad = far / "train" / "01" / "flows.npy"
    content = bytearray(bad.read_bytes())
    content[-1] ^= 1
    write_file(bad, bytes(content))
    with pytest.raises(DataError, match=r"flows\.npy\S* is not what its store's manifest says\. Delete it and run"):
        open_store(far)
    assert not list(node.rglob("manifest.json"))
    assert not list(node.rglob("*.part"))


def test_a_missing_file_is_named(far: Remote, node: Path) -> None:
    (far / "test" / "04" / "frames.npy").unlink()
    with pytest.raises(DataError, match=r"test/04/frames\.npy\S* is missing\. Run `amsrc-bench prepare` again"):
        open_store(far)


def test_a_store_that_is_not_sealed_is_none(far: Remote, node: Path) -> None:
    (far / "manifest.json").unlink()
    with pytest.raises(DataError, match="is not a finished cube store"):
        open_store(far)


# -- room ----------------------------------------------------------------------------------------------------


def stored(place: Place) -> float:
    """GiB of a store's copy."""
    return node_cache._bytes(open_store(place).path) / 2**30


def another(server: int, tmp_path: Path, content: int) -> Remote:
    made = write_store(tmp_path / f"made{content}", an_experiment(), content=content)
    return put(made, remote(server, f"{tmp_path.name}-{content}"))


def test_copies_used_longest_ago_make_room_unless_they_are_read(
    far: Remote, server: int, node: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gib = stored(far)
    first = open_store(far).path
    second = open_store(another(server, tmp_path, 1)).path
    (reader,) = processes(1, far, tmp_path)  # another process still reads the first
    assert reader.stdout is not None
    assert reader.stdout.readline().strip() == str(first)
    for held in node_cache._held.values():
        held.close()
    node_cache._held.clear()
    os.utime(first, (1, 1))
    os.utime(second, (2, 2))
    monkeypatch.setenv("AMSRC_CACHE_GIB", str(2.5 * gib))
    third = open_store(another(server, tmp_path, 2)).path
    assert first.is_dir(), "it is read"
    assert not second.exists()
    assert third.is_dir()
    assert "(2," in ended(reader)


def test_a_store_larger_than_the_limit_is_said_with_what_to_do(
    far: Remote, node: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AMSRC_CACHE_GIB", "0.0001")
    with pytest.raises(RunError, match=r"needs 0\.0\d GiB in this node's cache .* Set AMSRC_CACHE_GIB higher"):
        open_store(far)


@pytest.mark.parametrize("given", ["much", "0", "-1"])
def test_a_limit_that_is_none_is_refused(far: Remote, node: Path, monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setenv("AMSRC_CACHE_GIB", given)
    with pytest.raises(ConfigError, match=f"AMSRC_CACHE_GIB is '{given}'; give a number of GiB above 0"):
        open_store(far)


def test_a_copy_knows_what_its_manifest_says(far: Remote, node: Path) -> None:
    """The name of a copy is its manifest's digest: another content, another copy."""
    manifest = json.loads((far / "manifest.json").read_text())
    first = open_store(far).path
    write_file(far / "manifest.json", json.dumps({**manifest, "cube_key": "other"}).encode())
    assert open_store(far).path != first
