"""A SQLite database that belongs into an object store: brought to this node, used here, sent back after changes.

A driver on another machine resumes from what was sent last. Two drivers at a time are not seen; the one that finds
another's changes puts its own file aside.
"""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from pathlib import Path

from amsrc import files
from bench.storage.places import Remote, write_file


def bring(database: Path, kept: Remote) -> None:
    """Make this node's file what was sent last; unsent changes of this node to that very state stay.

    Where both have changed, this node's file is put aside under a name that is printed.

    Raises:
        RunError: it cannot be written here.
        OSError: the object store does not answer.
    """
    if not kept.is_file():
        return
    content = kept.read_bytes()
    if database.is_file():
        if _last(database) == files.digest(content):
            return
        aside = database.with_name(f"{database.name}.{time.strftime('%Y%m%d-%H%M%S')}")
        for part in ("-journal", "-wal", "-shm", ""):  # of a transaction that was cut off; they belong to this file
            if (own := database.with_name(database.name + part)).is_file():
                own.rename(aside.with_name(aside.name + part))
        print(f"{kept} was changed from another machine; what this one had is in {aside}", flush=True)
    files.write_file(database, content)
    files.write_file(_note(database), files.digest(content).encode())


def send(database: Path, kept: Remote) -> None:
    """Keep the database as it is now, if it changed since it was brought or sent.

    Raises:
        RunError: it cannot be written there.
    """
    with closing(sqlite3.connect(database, timeout=60)) as connection:
        content = connection.serialize()
    if _last(database) != files.digest(content):
        write_file(kept, content)
        files.write_file(_note(database), files.digest(content).encode())


def _note(database: Path) -> Path:
    """Holds the digest of what was brought or sent last."""
    return database.with_name(f"{database.name}.sent")


def _last(database: Path) -> str | None:
    note = _note(database)
    return note.read_text() if note.is_file() else None
