"""The program installed into an environment of its own, far from the checkout: what it needs must come with it."""

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from bench import ROOT
from bench.records.records import read_all

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

PARTS = ("amsrc", "bench", "pyproject.toml", "README.md", "LICENSE")
BUILD = "import sys; from setuptools import build_meta; print(build_meta.build_wheel(sys.argv[1]))"


def call(*words: str | Path, cwd: Path, **more: str) -> str:
    """Run a command with nothing of the user's or the checkout's around it; gives what it printed."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}
    words = tuple(map(str, words))
    done = subprocess.run(words, cwd=cwd, env=kept | more, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, f"{' '.join(words)} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The commands of a fresh environment: the wheel of this checkout over the packages that are installed here."""
    pytest.importorskip("setuptools", reason="needs setuptools to build a wheel")
    folder = tmp_path_factory.mktemp("elsewhere")
    for name in PARTS:  # a copy: building leaves files next to the sources, and takes stale ones that are there
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / "source" / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, folder / "source" / name)
    wheel = call(sys.executable, "-c", BUILD, folder, cwd=folder / "source").splitlines()[-1]
    shutil.rmtree(folder / "source")
    venv.create(folder / "venv", with_pip=True)
    python = folder / "venv" / "bin" / "python"
    call(python, "-m", "pip", "install", "--no-deps", "--no-index", "--no-cache-dir", folder / wheel, cwd=folder)
    (site,) = (folder / "venv" / "lib").glob("python3*/site-packages")
    present = [entry for entry in sys.path if entry.endswith("-packages")]
    (site / "present.pth").write_text("\n".join(present))  # behind its own, and what is editable there is not followed
    where = call(python, "-c", "import amsrc, bench; print(amsrc.__file__, bench.__file__)", cwd=folder)
    assert [Path(file).parents[1] for file in where.split()] == [site, site]
    return python.parent


def test_an_installed_program_sweeps_and_makes_tables_far_from_the_checkout(programs: Path, tmp_path: Path) -> None:
    program, home = programs / "amsrc-bench", tmp_path / "home"
    where = {"AMSRC_HOME": str(home), "AMSRC_CACHE": str(tmp_path / "node"), "RAY_ADDRESS": "local"}
    words = ("--toy", "--recipes", "null-flow", "--datasets", "toy-ped2")
    planned = call(program, "sweep", *words, "--dry-run", cwd=tmp_path, **where)
    assert "not measured on this kind of machine" in planned, "speeds are no part of the program"
    call(program, "sweep", *words, cwd=tmp_path, **where)
    (record,) = read_all(home / "toy-results")
    assert (record.recipe, record.status) == ("null-flow", "done")

    call(program, "tables", "--results", home / "toy-results", cwd=tmp_path)
    assert "null-flow" in (home / "toy-results" / "tables" / "table3.md").read_text()
    (tmp_path / "results").mkdir()
    call(program, "tables", cwd=tmp_path)
    quoted = (tmp_path / "results" / "tables" / "table1.md").read_text()
    assert "| AMSRC" in quoted, "the published figures came along"
    page = call(program, "report", "--results", home / "toy-results", "--out", tmp_path / "page", cwd=tmp_path, **where)
    assert page and list((tmp_path / "page").glob("*.html"))
