"""Where work is stored: a folder, local or shared, or `s3://bucket/prefix`. Only this module tells them apart.

`place` makes of a text a `pathlib.Path` or a `Remote`, which answers the few questions of a path that this project
asks. A file appears whole or not at all in both. What cannot be in an object store (databases, locks, scratch) is
in a folder of this node. Neither keys nor passwords are part of an address: they come from the environment, as
for any other program that uses S3.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any, Literal, TypeAlias
from urllib.parse import parse_qsl, urlsplit

from amsrc import files
from amsrc.errors import AwayError, ConfigError, RunError, unknown

if TYPE_CHECKING:
    from pyarrow import fs

OPTIONS = ("region", "endpoint_override", "scheme")
ATTEMPTS = 8  # of a request that fails on its way: waits add up to about a minute
FIRST_ATTEMPTS = 3  # of the first request: what is wrong with an address shows within seconds
CONNECT_S, ANSWER_S = 5, 30
CHECK = "Check its name and region, and the keys of your environment."


@dataclass(frozen=True, order=True)
class Remote:
    """A file or folder in an object store, with the part of `pathlib.Path`'s behaviour that is needed.

    Methods raise a `FileNotFoundError` where a path would, and a `RunError` when the store does not answer.
    """

    key: str
    """`bucket/prefix/name`."""
    options: str = ""
    """What follows the question mark of its address."""

    def __str__(self) -> str:
        return f"s3://{self.key}{'?' if self.options else ''}{self.options}"

    def __truediv__(self, name: str | PurePosixPath) -> Remote:
        return Remote(f"{self.key}/{name}", self.options)

    @property
    def parent(self) -> Remote:
        return Remote(self.key.rpartition("/")[0], self.options)

    @property
    def bucket(self) -> str:
        return self.key.partition("/")[0]

    @property
    def name(self) -> str:
        return PurePosixPath(self.key).name

    @property
    def stem(self) -> str:
        return PurePosixPath(self.key).stem

    def exists(self) -> bool:
        return self.is_file() or self.is_dir()

    def is_file(self) -> bool:
        return bool(self._info().is_file)

    def is_dir(self) -> bool:
        from pyarrow import fs

        return bool(self._info().type == fs.FileType.Directory)

    def size(self) -> int | None:
        """Bytes of a file; None where there is none."""
        found: int | None = self._info().size
        return found

    def open(self, mode: Literal["rb"] = "rb") -> IO[bytes]:
        with _asking(self):
            stream: IO[bytes] = self._system().open_input_stream(self.key)
        return stream

    def read_bytes(self) -> bytes:
        with _asking(self), self._system().open_input_file(self.key) as file:  # in one request, so of one version
            content: bytes = file.read()
        return content

    def read_text(self, encoding: str = "utf-8") -> str:
        return self.read_bytes().decode(encoding)

    def unlink(self, missing_ok: bool = False) -> None:
        try:
            with _asking(self, "deleted"):
                self._system().delete_file(self.key)
        except FileNotFoundError:
            if not missing_ok:
                raise

    def glob(self, pattern: str) -> Iterator[Remote]:
        """Files below here whose parts match those of the pattern, one by one; none where there is no such folder."""
        wanted = pattern.split("/")
        for info in self._below():
            parts = PurePosixPath(info.path).relative_to(self.key).parts
            if info.is_file and len(parts) == len(wanted) and all(map(fnmatchcase, parts, wanted)):
                yield Remote(info.path, self.options)

    def _below(self) -> list[Any]:
        from pyarrow import fs

        everything = fs.FileSelector(self.key, recursive=True, allow_not_found=True)
        with _asking(self):
            found: list[Any] = self._system().get_file_info(everything)
        return found

    def _info(self) -> Any:
        with _asking(self):
            return self._system().get_file_info(self.key)

    def _system(self, attempts: int | None = None) -> fs.S3FileSystem:
        return _system(self.options, self.bucket, attempts or ATTEMPTS)


Place: TypeAlias = Path | Remote


@contextmanager
def _asking(remote: Remote, what: str = "read") -> Iterator[None]:
    """Raises a store's errors as this program's own; a `FileNotFoundError` stays one."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise AwayError(
            f"{remote}: cannot be {what} ({_reason(error)}). Run the same command again to resume."
        ) from error


def place(text: str, option: str) -> Place:
    """The folder, made absolute (workers change theirs), or the address in an object store.

    Raises:
        ConfigError: an address of another kind, without a bucket, with unknown options, or with a password in it.
    """
    if "://" not in text:
        return Path(text).expanduser().absolute()
    parts = urlsplit(text)
    if parts.scheme != "s3" or not parts.netloc or parts.fragment:
        raise ConfigError(f"{option} {parts.scheme}://...: give a folder or s3://BUCKET/PREFIX?region=REGION.")
    known = dict(parse_qsl(parts.query, keep_blank_values=True))
    scheme, _, host = known.get("endpoint_override", "").rpartition("://")
    if "//" in parts.path or not {scheme, known.get("scheme", "")} <= {"", "http", "https"}:
        raise ConfigError(f"{option} {text}: no names between slashes may be empty, and endpoints speak http or https.")
    if "@" in parts.netloc + host:
        raise ConfigError(
            f"{option}: keys do not belong into an address, which is printed and kept. Set AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, a profile, or an instance's role."
        )
    for name in known:
        if name not in OPTIONS:
            raise ConfigError(f"{option}: {unknown('part of an s3:// address', name, list(OPTIONS))}")
    return Remote(f"{parts.netloc}/{parts.path.strip('/')}".rstrip("/"), parts.query)


@cache
def _system(options: str, bucket: str, attempts: int) -> fs.S3FileSystem:
    """The store behind addresses of these options; one a process, as it holds the connections."""
    from pyarrow import fs

    known: dict[str, Any] = dict(parse_qsl(options))
    endpoint = known.get("endpoint_override", "")
    if "://" in endpoint:
        known["scheme"], _, known["endpoint_override"] = endpoint.partition("://")
    if not endpoint and not known.get("region") and not (os.environ.keys() & {"AWS_REGION", "AWS_DEFAULT_REGION"}):
        with suppress(OSError):  # no such bucket, or no answer: the first request says so
            known["region"] = fs.resolve_s3_region(bucket)
    known |= {"retry_strategy": fs.AwsStandardS3RetryStrategy(max_attempts=attempts)}
    # Small files then take one request instead of three.
    known |= {"connect_timeout": CONNECT_S, "request_timeout": ANSWER_S, "allow_delayed_open": True}
    return fs.S3FileSystem(**known)


def files_below(folder: Place, pattern: str) -> list[Place]:
    """Files below a folder that match a pattern, part by part, in the order of their names."""
    return sorted(folder.glob(pattern), key=str)


# -- writing -------------------------------------------------------------------------------------------------


def write_file(target: Place, content: bytes) -> None:
    """Put a file in place, whole or not at all; whatever was there stays on failure.

    Raises:
        RunError: it cannot be written: a full disk, a store that does not answer or does not allow it.
    """
    if isinstance(target, Path):
        files.write_file(target, content)
        return
    with _asking(target, "written"):
        _put(target, content)


def write_json(target: Place, data: object) -> None:
    """Put plain data in place as JSON; NaN and infinity are refused with a ValueError. Raises as `write_file`."""
    write_file(target, files.as_json(data))


def _put(target: Remote, content: bytes, attempts: int | None = None) -> None:
    stream = target._system(attempts).open_output_stream(target.key)
    stream.write(content)
    stream.close()  # the object appears here


def upload(folder: Path, target: Remote, last: str) -> None:
    """Copy a folder's files, one of them after all the others: where it is, they are.

    Raises:
        RunError: one cannot be written.
    """
    names = sorted(path.name for path in folder.iterdir() if path.name != last)
    (target / last).unlink(missing_ok=True)  # of an earlier upload
    for name in [*names, last]:
        there = target / name
        with (
            (folder / name).open("rb") as source,
            _asking(there, "written"),
            there._system().open_output_stream(there.key) as stream,
        ):
            shutil.copyfileobj(source, stream, 8 << 20)


def remove_tree(folder: Place) -> None:
    """Remove a folder with all that is in it, if it is there."""
    if isinstance(folder, Path):
        shutil.rmtree(folder, ignore_errors=True)
        return
    for info in folder._below():
        if info.is_file:  # one by one: not every store that speaks S3 deletes many at once
            Remote(info.path, folder.options).unlink(missing_ok=True)


def writable(folder: Place, option: str = "--home") -> None:
    """Make a folder, or say that one cannot; an object store is asked to take, give and forget a few bytes.

    Raises:
        ConfigError: it cannot be made or not be written.
    """
    if isinstance(folder, Path):
        reason = _not_writable(folder)
        advice = "Choose a folder you may write to."
    else:
        reason, advice = _not_reachable(folder), CHECK
    if reason:
        raise ConfigError(f"{option}: cannot write to {folder}: {reason}. {advice}")


def _not_writable(folder: Path) -> str | None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return None if os.access(folder, os.W_OK) else "no permission"
    except OSError as error:
        return error.strerror


def _not_reachable(folder: Remote) -> str | None:
    if reason := _unanswered(folder.options, folder.bucket):
        return reason
    probe, content = folder / f".probe-{uuid.uuid4().hex}", b"may be deleted"
    try:
        _put(probe, content, FIRST_ATTEMPTS)
        same = probe.read_bytes() == content
        probe.unlink()
    except OSError as error:
        return _reason(error)
    except RunError as error:
        return str(error)
    return None if same else "it gives other bytes than it took"


def answering(found: Place, option: str) -> Place:
    """The place; of an object store that does not answer, said here and not after a minute of trying.

    Raises:
        ConfigError: it does not.
    """
    if isinstance(found, Remote) and (reason := _unanswered(found.options, found.bucket)):
        raise ConfigError(f"{option} {found}: {reason}. {CHECK}")
    return found


@cache
def _unanswered(options: str, bucket: str) -> str | None:
    """Why a bucket cannot be used, found within seconds; None where it can, as far as reading goes."""
    from pyarrow import fs

    try:
        found = _system(options, bucket, FIRST_ATTEMPTS).get_file_info(bucket)
    except OSError as error:
        return _reason(error)
    return REASONS["NO_SUCH_BUCKET"] if found.type == fs.FileType.NotFound else None


REASONS = {
    "NO_SUCH_BUCKET": "there is no such bucket",
    "ACCESS_DENIED": "access is denied to these keys",
    "INVALID_ACCESS_KEY_ID": "the access key is not known there",
    "SIGNATURE_DOES_NOT_MATCH": "the secret key is wrong",
    "INVALID_CLIENT_TOKEN_ID": "the access key is not known there",
    "NETWORK_CONNECTION": "it does not answer",
}


def _reason(error: OSError) -> str:
    """What an object store's error says, in a few words where it is a known one."""
    text = str(error)
    return next((said for name, said in REASONS.items() if name in text), text.splitlines()[0][:300])


# -- what belongs to this node -------------------------------------------------------------------------------


def node_folder() -> Path:
    """Where this node keeps what is its own: $AMSRC_CACHE, or ~/.cache/amsrc-bench."""
    return Path(os.environ.get("AMSRC_CACHE") or "~/.cache/amsrc-bench").expanduser().absolute()


def local_folder(home: Place) -> Path:
    """The local folder for what cannot be in an object store: the home itself, or one of this node."""
    return home if isinstance(home, Path) else node_folder() / "remote" / _folder_name(home)


@contextmanager
def locked(folder: Place) -> Iterator[None]:
    """Be the only process at work in a folder; waits for another one, whose death frees it too.

    An object store has no locks: there it is the only process of this node.

    Raises:
        ConfigError: the folder cannot be written.
    """
    if isinstance(folder, Path):
        lock = folder / ".lock"
    else:
        lock = node_folder() / "locks" / _folder_name(folder)
        lock.parent.mkdir(parents=True, exist_ok=True)
    try:
        file = lock.open("w")
    except OSError as error:
        raise ConfigError(f"cannot write to {folder}: {error.strerror}. Choose another --home.") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting for another process at work in {folder}", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _folder_name(remote: Remote) -> str:
    """12 hex digits that name what belongs to a place in an object store."""
    return files.digest(str(remote).encode())[:12]
