"""Files put in place whole or not at all, and their digests."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from amsrc.errors import RunError


def write_file(path: Path, content: bytes) -> None:
    """Put a file in place: temporary name, fsync, rename. Whatever was there stays on failure.

    Raises:
        RunError: it cannot be written, e.g. because the disk is full.
    """
    with placing(path) as temporary, temporary.open("xb") as file:
        file.write(content)


@contextmanager
def placing(path: Path) -> Iterator[Path]:
    """The name of a file to write, which takes the place of `path` when the block ends well, after an fsync.

    Raises:
        RunError: it cannot be written; whatever was there stays, as it does when the block is left otherwise.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        advice = "Free some space or choose another folder." if full else "Choose another folder."
        raise RunError(f"{path}: cannot be written ({error.strerror}). {advice}") from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def as_json(data: object) -> bytes:
    """Plain data as JSON; NaN and infinity are refused with a ValueError."""
    return json.dumps(data, indent=1, allow_nan=False).encode()


def write_json(path: Path, data: object) -> None:
    """Put plain data in place as JSON; NaN and infinity are refused with a ValueError. Raises as `write_file`."""
    write_file(path, as_json(data))


def digest(content: Path | BinaryIO | bytes) -> str:
    """SHA-256, in hex, of a file, of an open one from its current position, or of bytes."""
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()
    if isinstance(content, Path):
        with content.open("rb") as file:
            return digest(file)
    return hashlib.file_digest(content, "sha256").hexdigest()  # type: ignore[arg-type]  # a file is readable


def digest_of_json(data: object) -> str:
    """The same of plain data, whatever the order of its keys."""
    return digest(json.dumps(data, sort_keys=True).encode())
