"""This node's copies of cube stores that are elsewhere: verified, filled once, memory-mapped, limited in size.

    $AMSRC_CACHE/cubes/<digest of the manifest>/     a store as `amsrc.store` lays it out, its manifest written last
    $AMSRC_CACHE/cubes/<digest of the manifest>.lock held (shared) by every process that reads the copy

A store in an object store or on a network's file system is copied; one on a disk of this node is read in place.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from pathlib import Path
from typing import IO

from amsrc.errors import AwayError, ConfigError, DataError, RunError
from amsrc.files import digest, write_file
from amsrc.store import CubeStore, Sealed
from bench.storage.places import Place, Remote, locked, node_folder

NETWORKS = ("nfs", "cifs", "smb", "lustre", "ceph", "gpfs", "beegfs", "glusterfs", "fuse.", "9p", "afs", "orangefs")
PART_OF_DISK = 0.5  # that the copies may fill unless AMSRC_CACHE_GIB says otherwise
AT_ONCE = 4  # files on their way here
READ = 8 << 20

_held: dict[Path, IO[bytes]] = {}
"""Locks of the copies that this process reads, kept until it ends."""


def open_store(place: Place) -> CubeStore:
    """A sealed store whose cubes can be memory-mapped: the store itself, or this node's copy of it.

    Raises:
        DataError: it is not sealed, or gives other bytes than its manifest says.
        RunError: it does not fit into this node's cache, or does not answer.
    """
    if isinstance(place, Path) and (not over_network(place) or over_network(node_folder())):
        return CubeStore(place)  # no copy of this node's own would be nearer
    return CubeStore(_copy(place), origin=place)


def verify(place: Place) -> None:
    """Read every byte of a store in place and compare it with the manifest.

    Raises:
        DataError: names each file that is damaged or missing.
    """
    if isinstance(place, Path):
        CubeStore(place).verify()
        return
    bad = [name for name, sha in Sealed(place).files().items() if _digest(place / name) != sha]
    if bad:
        raise DataError(f"{place}: damaged or missing: {', '.join(bad)}. Delete them and run `amsrc-bench prepare`.")


def _digest(file: Remote) -> str | None:
    try:
        with file.open() as stream:
            found = hashlib.sha256()
            while content := stream.read(READ):
                found.update(content)
            return found.hexdigest()
    except FileNotFoundError:
        return None


def over_network(path: Path) -> bool:
    """Whether a folder is on another machine's disk, as the mounts of this node have it."""
    try:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:  # not Linux
        return False
    target, kind, longest = str(path.resolve()), "", -1
    for line in lines:
        fields, _, source = line.partition(" - ")
        mount = re.sub(r"\\(\d{3})", lambda code: chr(int(code[1], 8)), fields.split()[4])
        inside = target == mount or target.startswith(mount.rstrip("/") + "/")
        if inside and len(mount) >= longest:
            kind, longest = source.split()[0], len(mount)
    return kind.startswith(NETWORKS)


def _copy(place: Place) -> Path:
    """This node's copy, made or completed if it is not whole; the first process makes it, the others wait."""
    sealed = Sealed(place)
    manifest = sealed.text.encode()
    copy = node_folder() / "cubes" / digest(manifest)[:16]
    if copy in _held:
        return copy
    copy.parent.mkdir(parents=True, exist_ok=True)
    lock = copy.with_suffix(".lock").open("a+b")
    fcntl.flock(lock, fcntl.LOCK_SH)  # kept as long as this process lives: nobody deletes what is in use
    if not (copy / "manifest.json").is_file():
        with locked(copy.parent):  # one store at a time, or two would take the same space
            if not (copy / "manifest.json").is_file():
                copy.mkdir(exist_ok=True)
                _fill(copy, sealed)
                write_file(copy / "manifest.json", manifest)
    os.utime(copy)  # when it was used last
    _held[copy] = lock
    return copy


def _fill(copy: Path, sealed: Sealed) -> None:
    place, wanted = sealed.path, sealed.files()
    missing = [name for name, sha in wanted.items() if not _is(copy / name, sha)]
    sizes = {name: _size(place, name) for name in missing}
    _make_room(copy, sum(sizes.values()), place)
    print(f"copying {place}: {sum(sizes.values()) / 2**30:.2f} GiB to {copy}", flush=True)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        try:
            for done in as_completed([pool.submit(_fetch, place, name, copy, wanted[name]) for name in missing]):
                done.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)  # else all that wait are copied first
            raise


def _is(path: Path, sha: str) -> bool:
    return path.is_file() and digest(path) == sha


def _size(place: Place, name: str) -> int:
    source = place / name
    found = source.size() if isinstance(source, Remote) else source.stat().st_size if source.is_file() else None
    if found is None:
        raise DataError(f"{source} is missing. Run `amsrc-bench prepare` again; it makes what is not there.")
    return found


def _fetch(place: Place, name: str, copy: Path, sha: str) -> None:
    """Bring one file here; what does not have its digest is fetched once more, and then refused."""
    source, target = place / name, copy / name
    target.parent.mkdir(parents=True, exist_ok=True)
    partly, failed = target.with_suffix(".part"), None
    for _ in range(2):
        try:
            with source.open("rb") as stream, partly.open("wb") as file:
                shutil.copyfileobj(stream, file, READ)
        except OSError as error:
            failed = error
            continue
        failed = None
        if digest(partly) == sha:
            partly.replace(target)
            return
    partly.unlink(missing_ok=True)
    if failed:
        raise AwayError(f"{source}: cannot be copied to {copy} ({failed}). Run the same command again.") from failed
    raise DataError(f"{source} is not what its store's manifest says. Delete it and run `amsrc-bench prepare` again.")


# -- space ---------------------------------------------------------------------------------------------------


def limit_bytes(folder: Path) -> int:
    """How much the copies may take together: $AMSRC_CACHE_GIB, else half of the disk.

    Raises:
        ConfigError: it is no number above 0.
    """
    given = os.environ.get("AMSRC_CACHE_GIB")
    if not given:
        return int(PART_OF_DISK * shutil.disk_usage(folder).total)
    try:
        gib = float(given)
    except ValueError:
        gib = 0.0
    if not gib > 0:
        raise ConfigError(f"AMSRC_CACHE_GIB is {given!r}; give a number of GiB above 0.")
    return int(gib * 2**30)


def _make_room(copy: Path, needed: int, place: Place) -> None:
    """Delete copies that no process reads, those used longest ago first, until this one fits.

    Raises:
        RunError: it does not fit next to those that are read, or into the limit at all.
    """
    limit = limit_bytes(copy)
    others = sorted((path for path in copy.parent.iterdir() if path.is_dir() and path != copy), key=_last_use)
    used = _bytes(copy) + sum(map(_bytes, others))
    for other in others:
        if used + needed <= limit and needed <= shutil.disk_usage(copy).free:
            break
        used -= _delete_unread(other)
    free = shutil.disk_usage(copy).free
    if used + needed > limit or needed > free:
        raise RunError(
            f"{place} needs {needed / 2**30:.2f} GiB in this node's cache {copy.parent}, where {used / 2**30:.2f} of "
            f"{limit / 2**30:.2f} GiB are in use; the disk has {free / 2**30:.2f} free. "
            "Set AMSRC_CACHE_GIB higher, or AMSRC_CACHE to a folder on a larger disk."
        )


def _delete_unread(other: Path) -> int:
    """Delete a copy unless a process reads or fills it; returns the bytes gained."""
    with other.with_suffix(".lock").open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return 0
        gained = _bytes(other)
        (other / "manifest.json").unlink(missing_ok=True)  # first: what is left is not taken for whole
        shutil.rmtree(other, ignore_errors=True)
        return gained


def _last_use(copy: Path) -> float:
    with suppress(OSError):
        return copy.stat().st_mtime
    return 0.0


def _bytes(copy: Path) -> int:
    total = 0
    for path in copy.rglob("*"):
        with suppress(FileNotFoundError):  # another process deletes or fills it
            total += path.stat().st_size
    return total
