"""A study's database in an object store: a driver on another machine finds it as it was sent last."""

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from bench.storage.places import Remote
from bench.storage.sqlite_sync import bring, send
from tests.object_store import remote, serving


@pytest.fixture(scope="module")
def server() -> Iterator[int]:
    with serving() as port:
        yield port


@pytest.fixture
def kept(server: int, tmp_path: Path) -> Remote:
    return remote(server, tmp_path.name) / "study.db"


def note(database: Path, *texts: str) -> None:
    database.parent.mkdir(exist_ok=True)
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("create table if not exists notes (text)")
        connection.executemany("insert into notes values (?)", [(text,) for text in texts])


def notes(database: Path) -> list[str]:
    with closing(sqlite3.connect(database)) as connection:
        return [text for (text,) in connection.execute("select text from notes order by rowid")]


def test_another_machine_goes_on_from_what_was_sent(kept: Remote, tmp_path: Path) -> None:
    here, there = tmp_path / "here" / "study.db", tmp_path / "there" / "study.db"
    bring(here, kept)
    assert not here.exists(), "nothing was sent yet"
    note(here, "first")
    send(here, kept)
    went_on(there, kept, "second")
    bring(here, kept)
    assert notes(here) == ["first", "second"]


def test_what_was_not_sent_is_kept_where_nobody_else_went_on(kept: Remote, tmp_path: Path) -> None:
    here = tmp_path / "here" / "study.db"
    note(here, "sent")
    send(here, kept)
    note(here, "killed before it was sent")
    bring(here, kept)
    assert notes(here) == ["sent", "killed before it was sent"]


def went_on(there: Path, kept: Remote, *texts: str) -> None:
    """Another machine brings the database, adds notes and sends it."""
    there.parent.mkdir()
    bring(there, kept)
    note(there, *texts)
    send(there, kept)


def test_what_was_not_sent_is_put_aside_where_somebody_did(
    kept: Remote, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here, there = tmp_path / "here" / "study.db", tmp_path / "there" / "study.db"
    note(here, "first")
    send(here, kept)
    note(here, "unsent")
    went_on(there, kept, "second")
    bring(here, kept)
    assert notes(here) == ["first", "second"]
    (aside,) = [path for path in here.parent.glob("study.db.*") if path.suffix != ".sent"]
    assert notes(aside) == ["first", "unsent"]
    assert str(aside) in capsys.readouterr().out


def test_an_unchanged_database_is_not_sent_again(kept: Remote, tmp_path: Path) -> None:
    here = tmp_path / "here" / "study.db"
    note(here, "first")
    send(here, kept)
    kept.unlink()
    send(here, kept)
    assert not kept.is_file()


def test_a_transaction_that_was_cut_off_does_not_reach_what_is_brought(kept: Remote, tmp_path: Path) -> None:
    """Its journal belongs to the file that is put aside: SQLite would roll it back into the new one."""
    here, there = tmp_path / "here" / "study.db", tmp_path / "there" / "study.db"
    note(here, "first")
    send(here, kept)
    went_on(there, kept, *map(str, range(2000)))
    cut_off = (
        "import os, sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('pragma cache_size = 1')\n"
        "c.execute('begin'); c.executemany('insert into notes values (?)', [('x' * 500,)] * 500)\n"
        "os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", cut_off, str(here)], check=False).returncode == -9
    assert here.with_name("study.db-journal").is_file()
    bring(here, kept)
    assert notes(here) == ["first", *map(str, range(2000))]
    (aside,) = [path for path in here.parent.glob("study.db.2*") if not path.name.endswith("-journal")]
    assert notes(aside) == ["first"]
